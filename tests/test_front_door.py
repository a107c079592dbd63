"""`import gmae_tools as gt`: names that load what they need, and photographs in whatever form a caller has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gmae_tools as gt
from gmae_tools import prediction
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import read_image
from gmae_tools.model import GMAE
from gmae_tools.photographs import photograph
from gmae_tools.zeroshot.views import Looks, look

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 44, 3)).astype(np.uint8)
TENSOR = torch.from_numpy(PIXELS).movedim(-1, 0)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> GMAE:
    return gt.load(checkpoint)


def difference(scene: gt.Scene, other: gt.Scene) -> float:
    return (scene.gaussians.pack() - other.gaussians.pack()).abs().max().item()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = """
import sys
import gmae_tools as gt
assert gt.__version__ and {"load", "predict", "read", "Scene", "evaluate_edges", "__version__"} <= set(dir(gt))
assert not {"torch", "numpy", "PIL", "pandas"} & set(sys.modules)
import gmae_tools.prediction, gmae_tools.formats, gmae_tools.scene  # modules do not take the place of names
assert all(callable(getattr(gt, name)) for name in gt.__all__ if name != "__version__")
assert not hasattr(gt, "nothing")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_module_has_a_name_of_the_front_door(repository: Path) -> None:
    taken = {path.stem for path in (repository / "gmae_tools").iterdir()}
    assert not taken & set(gt.__all__)


FORMS: dict[str, Any] = {
    "PIL": Image.fromarray(PIXELS),
    "uint8": PIXELS,
    "float32": PIXELS.astype(np.float32) / 255,
    "float64": PIXELS / 255,
    "mirrored twice, a view": np.ascontiguousarray(PIXELS[:, ::-1])[:, ::-1],
    "RGBA": np.dstack([PIXELS, np.full((30, 44), 255, np.uint8)]),
    "tensor": TENSOR,
    "float tensor": (TENSOR / 255).requires_grad_(),
    "float64 tensor": TENSOR.double().div(255),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_scene(model: GMAE, form: Any, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    expected = model.predict(tmp_path / "photo.png")
    assert (expected.height, expected.width) == (30, 44)
    found = model.predict(form)
    assert difference(found, expected) < 1e-6
    np.testing.assert_array_equal(found.photo, PIXELS)


@pytest.mark.parametrize("shape", [(30, 44), (30, 44, 1)])
def test_grey(shape: tuple[int, ...]) -> None:
    grey = PIXELS[..., 0].reshape(shape)
    expected = np.repeat(PIXELS[..., :1], 3, 2)
    for form in (grey, torch.from_numpy(PIXELS[..., 0]), torch.from_numpy(PIXELS[..., 0])[None]):
        np.testing.assert_array_equal(photograph(form), expected)


def test_transparency_is_white() -> None:
    clear = np.dstack([PIXELS, np.zeros((30, 44), np.uint8)])
    for form in (clear, clear / 255, torch.from_numpy(clear).movedim(-1, 0), Image.fromarray(clear)):
        assert photograph(form).min() == 255


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_pil_picture_is_turned_upright_and_left_as_it_is(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / f"turned.{suffix}", exif=exif)
    with Image.open(tmp_path / f"turned.{suffix}") as opened:
        found = photograph(opened)
        assert found.shape == (44, 30, 3)
    np.testing.assert_array_equal(found, read_image(tmp_path / f"turned.{suffix}"))
    memory = Image.fromarray(PIXELS)
    memory.info["exif"] = exif.tobytes()
    assert photograph(memory).shape == (44, 30, 3) and memory.size == (44, 30)


def test_a_photograph_is_a_copy() -> None:
    mine = PIXELS.copy()
    found = photograph(mine)
    mine[:] = 0
    np.testing.assert_array_equal(found, PIXELS)


def test_a_list_of_mixed_forms_and_sizes_equals_single_predictions(
    model: GMAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "_BATCH", 2)
    Image.fromarray(PIXELS[:20]).save(tmp_path / "photo.png")
    given = [str(tmp_path / "photo.png"), PIXELS, TENSOR[:, :, :17], Image.fromarray(PIXELS[5:]), PIXELS[..., 1]]
    found = model.predict(given)
    assert [(scene.height, scene.width) for scene in found] == [(20, 44), (30, 44), (30, 17), (25, 44), (30, 44)]
    for scene, single in zip(found, given, strict=True):
        assert difference(scene, model.predict(single)) < 1e-5
    assert difference(found[0], found[1]) > 1e-3
    assert model.predict([]) == [] and len(model.predict((PIXELS,))) == 1


def test_batches_of_arrays_and_tensors(model: GMAE) -> None:
    pair = np.stack([PIXELS, 255 - PIXELS])
    for form in (pair, torch.from_numpy(pair).movedim(-1, 1), torch.from_numpy(pair).movedim(-1, 1) / 255):
        found = model.predict(form)
        assert len(found) == 2 and difference(found[1], model.predict(255 - PIXELS)) < 1e-5
    assert isinstance(model.predict(TENSOR[None]), list)


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (None, r"NoneType is no photograph: give a path, a PIL picture, an array \[H, W, 3\], a tensor"),
    "bytes": (b"\xff\xd8", "^bytes is no photograph"),
    "missing": ("no/such.jpg", "^no/such.jpg: no such file$"),
    "channels first": (PIXELS.transpose(2, 0, 1), r"not \[3, 30, 44\]; array.transpose\(1, 2, 0\)"),
    "channels last": (TENSOR.movedim(0, -1), r"not \[30, 44, 3\]; tensor.movedim\(-1, 0\)"),
    "no pixels": (PIXELS[:0], r"not \[0, 44, 3\]"),
    "one dimension": (PIXELS[0, :, 0], r"not \[44\]"),
    "levels as floats": (PIXELS.astype(np.float32), r"lies in \[0, 1\], this one in \[0, 255\]: scale it"),
    "normalised": ((TENSOR / 255 - 0.45) / 0.22, r"lies in \[0, 1\], this one in \[-2.04"),
    "NaN": (np.full((4, 4), np.nan), "nan"),
    "int64": (PIXELS.astype(np.int64), "not int64: convert it"),
    "complex": (PIXELS.astype(complex), "not complex128"),
    "in a list": ([PIXELS, 3], "^photograph 2 of 2: int is no photograph"),
    "list in a list": ([[PIXELS]], "list is no photograph"),
}


ARGUMENTS: dict[str, tuple[Callable[[GMAE, gt.Scene], object], str]] = {
    "no name": (lambda model, scene: gt.load(None), "^NoneType is no path: give that of a checkpoint, or its name$"),
    "an empty name": (lambda model, scene: gt.load(""), "^the path is empty"),
    "no device": (lambda model, scene: gt.load("gmae-tiny", "gpu"), "^device 'gpu' is not available here: "),
    "no model": (lambda model, scene: gt.predict(PIXELS, 3), "^int is no path: give that of a checkpoint"),
    "one size": (lambda model, scene: model.predict(PIXELS, size=64), r"^size is 64: give height and width"),
    "three sizes": (lambda model, scene: model.predict(PIXELS, size=(64, 64, 3)), "give height and width"),
    "size 0": (lambda model, scene: model.predict(PIXELS, size=(0, 64)), r"^size is \(0, 64\): give height and width"),
    "a size too large": (lambda model, scene: model.predict(PIXELS, size=(1 << 20, 1 << 20)), "pixels at most"),
    "scales": (lambda model, scene: model.look(PIXELS, scales=0.5), "^scales is 0.5: use a whole number of 1 or more"),
    "nothing to read": (lambda model, scene: gt.read(None), "^NoneType is no path: give that of a .ply, .splat or"),
    "a file handle": (lambda model, scene: gt.read(0), "^int is no path"),
    "size as text": (lambda model, scene: gt.read("a.ply", size="640x480"), "^size is '640x480': give height"),
    "focal as text": (lambda model, scene: gt.read("a.ply", focal="50"), "^the focal length is '50': use a number"),
    "k as text": (lambda model, scene: scene.layers(k="32"), "^k is '32': use a whole number of 1 or more$"),
    "k of half": (lambda model, scene: scene.layers(k=1.5), "^k is 1.5"),
    "k beyond K": (lambda model, scene: scene.layers(k=65), "cannot render the nearest 65 of 64 Gaussians"),
    "n as text": (lambda model, scene: scene.layers(n="2"), "^n is '2'"),
    "n of half": (lambda model, scene: scene.layers(n=2.5), "^n is 2.5"),
    "layers as text": (lambda model, scene: scene.edges(layers="16"), "^layers is '16'"),
    "layers of half": (lambda model, scene: scene.edges(layers=[4, 1.5]), "^layers is 1.5"),
    "no readout": (lambda model, scene: scene.edges(16), "^there is no edge readout 16: use layers, "),
    "no method": (lambda model, scene: scene.mask("otsu"), "^there is no method 'otsu' of figure and ground"),
    "steps as text": (lambda model, scene: scene.refine("50"), "^steps is '50': use a whole number of 0 or more$"),
    "background": (lambda model, scene: scene.render(background="white"), "^background is 'white': give red, green"),
    "render 0": (lambda model, scene: scene.render(0, 10), r"^size is \(0, 10\)"),
    "resized by half": (lambda model, scene: scene.resized(10.5, 10), r"^size is \(10.5, 10\)"),
    "nowhere to write": (lambda model, scene: scene.write(None), "^NoneType is no path: give that of the file"),
    "no scene": (lambda model, scene: gt.Scene(1, 2, 3, 4), "^a scene is made of Gaussians and a Camera, not of int"),
    "no detector": (lambda model, scene: gt.evaluate_edges("canny"), "^the detector is str: give a function from a"),
    "no segmenter": (lambda model, scene: gt.evaluate_masks(None), "^the segmenter is NoneType: give a function"),
    "no set of edges": (lambda model, scene: gt.evaluate_edges(photograph, "coco"), "no data set 'coco'; use bsds500"),
    "no set of masks": (lambda model, scene: gt.evaluate_masks(photograph, 3), "^int is no path: give that of a"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_wrong_argument_gets_one_sentence(
    model: GMAE, call: Callable[[GMAE, gt.Scene], object], message: str
) -> None:
    with pytest.raises(GmaeToolsError, match=message) as caught:
        call(model, model.predict(PIXELS))
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers(model: GMAE) -> None:
    scene = model.predict(PIXELS)
    assert scene.layers(k=np.array([4, 8]), n=np.int64(2)).ks == (4, 8)
    np.testing.assert_array_equal(scene.edges(layers=np.int64(4)), scene.edges(layers=4))
    assert scene.resized(np.int32(10), np.int64(12)).height == 10


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_gets_one_sentence(model: GMAE, given: Any, message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message) as caught:
        model.predict(given)
    assert "\n" not in str(caught.value)


def test_a_pil_picture_that_is_too_large_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmae_tools.images.MAX_PIXELS", 1000)
    with pytest.raises(GmaeToolsError, match="44 x 30 is more than 1,000 pixels"):
        photograph(Image.fromarray(PIXELS))
    monkeypatch.undo()
    Image.fromarray(PIXELS).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:900])
    with Image.open(tmp_path / "cut.png") as opened, pytest.raises(GmaeToolsError, match="damaged picture"):
        photograph(opened)


def test_predict_takes_a_model_or_its_name(model: GMAE, checkpoint: Path) -> None:
    assert difference(gt.predict(PIXELS, checkpoint), gt.predict(PIXELS, model)) == 0
    assert gt.predict(PIXELS, model, size=(32, 96)).gaussians.k == model.config.k


def test_looks_are_those_of_the_command(model: GMAE) -> None:
    expected = look(model, PIXELS, Looks((1, 2))).edges("regions")
    np.testing.assert_array_equal(model.look(TENSOR, scales=(1, 2)).edges("regions"), expected)


def test_models_and_gaussians_say_what_they_are(model: GMAE) -> None:
    assert repr(model).startswith("GMAE(\n  input: 64 x 64 px") and "output: 64 Gaussians" in repr(model)
    assert "<td>64 Gaussians: 16 queries x 4</td>" in model._repr_html_()
    assert repr(model.predict(PIXELS).gaussians) == "Gaussians(1 x 64, float32 on cpu)"


def test_the_example_of_the_documentation(repository: Path, tmp_path: Path) -> None:
    scene = gt.predict(repository / "gmae_tools" / "assets" / "demo.jpg")
    scene.layers(k=[32, 64], n=8).sheet().save(tmp_path / "layers.png")
    assert Image.open(tmp_path / "layers.png").width > 1000
    assert scene.edges(layers=16).strength.shape == (scene.height, scene.width)
    assert (scene.edges("closed-regions").strength > 0.4).sum() > 1000  # long strong lines
    assert 0 < scene.mask().mask.mean() < 1 and len(scene.boxes()) > 0
    assert all(np.isfinite(value) for value in scene.density().summary.values())
    scene.write(tmp_path / "someone.ply")
    other = gt.read(tmp_path / "someone.ply")
    assert other.edges(layers=16).strength.shape == (scene.height, scene.width)
    assert scene.refine(2).k == scene.k
