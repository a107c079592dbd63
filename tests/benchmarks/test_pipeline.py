"""Maps of photographs by several methods: they go on where they stopped, and what is no map is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmae_tools import checkpoints
from gmae_tools.benchmarks.edge_methods import EdgeMethod
from gmae_tools.benchmarks.map_files import read_soft_map
from gmae_tools.benchmarks.pipeline import ModelSource, Predictor, RunOptions, maps, predict
from gmae_tools.benchmarks.predictions import MAPS, weights_of
from gmae_tools.errors import CannotWriteError, GmaeToolsError
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.system.files import file_sha256
from gmae_tools.zeroshot.views import Looks


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three grey pictures, each darker than the one before."""
    paths = [tmp_path / "photos" / f"{name}.png" for name in ("a", "b", "c")]
    paths[0].parent.mkdir()
    for path, level in zip(paths, (200, 100, 50), strict=True):
        Image.fromarray(np.full((4, 6, 3), level, np.uint8)).save(path)
    return paths


def brightness(photo: np.ndarray) -> np.ndarray:
    return (photo[..., 0] / 255).astype(np.float32)


def test_weights_in_pieces_have_a_digest_too(checkpoint: Path, tmp_path: Path) -> None:
    assert weights_of(str(checkpoint)) == file_sha256(checkpoint / "model.safetensors")
    digests = set()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        checkpoints.save(GMAE(GMAEConfig.preset("nano")), tmp_path / "pieces", max_shard_mb=0.2)
        digests.add(weights_of(str(tmp_path / "pieces")))
    assert len(digests) == 2
    piece = min((tmp_path / "pieces").glob("model-*"))
    piece.unlink()
    with pytest.raises(GmaeToolsError, match=f"{piece.name}: missing"):
        weights_of(str(tmp_path / "pieces"))


# --- predicting --------------------------------------------------------------------------------------


def mapped(photos: list[Path], **functions: Predictor) -> None:
    """Predict into folders beside the photographs' own, by the names of the functions."""
    folders = {photos[0].parents[1] / name: EdgeMethod(name, function=each) for name, each in functions.items()}
    predict(folders, photos, RunOptions(jobs=1))


def test_every_method_maps_every_photograph(photos: list[Path], tmp_path: Path) -> None:
    for name in ("bright", "dark"):
        (tmp_path / name).mkdir()
    mapped(photos, bright=brightness, dark=lambda photo: 1 - brightness(photo))
    for name, level in (("a", 200), ("b", 100), ("c", 50)):
        bright, dark = (read_soft_map(tmp_path / folder / MAPS / f"{name}.png") for folder in ("bright", "dark"))
        np.testing.assert_array_equal(bright, np.full((4, 6), level / 255))
        np.testing.assert_array_equal(dark, np.full((4, 6), (255 - level) / 255))


def test_any_number_of_jobs_makes_the_same_maps(photos: list[Path], tmp_path: Path) -> None:
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        folder.mkdir()
        predict({folder: EdgeMethod("sobel")}, photos, RunOptions(jobs=jobs))
    for photo in photos:
        one, two = (tmp_path / name / MAPS / photo.name for name in ("1", "2"))
        assert one.read_bytes() == two.read_bytes()


def test_only_missing_maps_are_predicted_and_only_their_photographs_read(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mapped(photos, out=brightness)
    kept = (tmp_path / "out" / MAPS / "a.png").stat().st_mtime_ns
    (tmp_path / "out" / MAPS / "b.png").unlink()
    photos[0].write_bytes(b"no picture")
    calls: list[int] = []

    def counted(photo: np.ndarray) -> np.ndarray:
        calls.append(int(photo[0, 0, 0]))
        return brightness(photo)

    mapped(photos, out=counted)
    assert calls == [100]
    assert (tmp_path / "out" / MAPS / "a.png").stat().st_mtime_ns == kept


def test_photographs_of_too_many_pixels_are_refused(photos: list[Path], tmp_path: Path) -> None:
    """They have 24."""
    (tmp_path / "out").mkdir()
    methods = {tmp_path / "out": EdgeMethod("sobel")}
    predict(methods, photos[:1], RunOptions(max_pixels=24))
    with pytest.raises(GmaeToolsError, match="pixels"):
        predict(methods, photos[1:], RunOptions(max_pixels=23))


def test_a_folder_that_vanishes_is_not_made_again(photos: list[Path], tmp_path: Path) -> None:
    """It would lack the maps that lay there."""
    out = tmp_path / "out"
    out.mkdir()

    def lose_the_folder(photo: np.ndarray) -> np.ndarray:
        if photo[0, 0, 0] == 100:
            out.rename(tmp_path / "gone")
        return brightness(photo)

    with pytest.raises(CannotWriteError, match=r"out/maps: cannot write there \(No such file or directory\)"):
        mapped(photos, out=lose_the_folder)
    assert [path.name for path in (tmp_path / "gone" / MAPS).iterdir()] == ["a.png"]
    with pytest.raises(FileNotFoundError):
        mapped(photos, out=brightness)
    assert not out.exists()


def test_methods_share_what_the_model_sees(checkpoint: Path) -> None:
    """Every tile is looked at once, and the maps are those of a look for each method."""
    source, photo = ModelSource(str(checkpoint)), np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    looks = (Looks((1,)), Looks((2,), flip=True), Looks((1, 2)), Looks((1,), refine=1))
    methods = [EdgeMethod.named("regions", source, each) for each in looks]
    tiles: list[bytes] = []
    source.model.register_forward_hook(lambda _, inputs, __: tiles.extend(each.numpy().tobytes() for each in inputs[0]))
    together = list(maps([*methods, EdgeMethod("sobel")], photo))
    assert len(tiles) == 11 and len(set(tiles)) == 10, "1 + 2 x 2 tiles, mirrored too; the whole again to be refined"
    np.testing.assert_array_equal(together.pop(), EdgeMethod("sobel").of_photo(photo))
    for method, shared in zip(methods, together, strict=True):
        np.testing.assert_array_equal(shared, next(maps([method], photo)))
    assert len({each.tobytes() for each in together}) == len(methods)


@pytest.mark.parametrize("threads", [2, 5])
def test_spare_threads_make_the_same_maps(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Tiles are predicted and read out side by side; each is still looked at once."""
    source, photo = ModelSource(str(checkpoint)), np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    looks = (Looks((1,)), Looks((2,)), Looks((1, 3, 2)))
    methods = [EdgeMethod("sobel"), *(EdgeMethod.named("closed-regions", source, each) for each in looks)]
    found = []
    for spare in (1, threads):
        tiles: list[bytes] = []
        hook = source.model.register_forward_hook(
            lambda _, inputs, __, tiles=tiles: tiles.extend(each.numpy().tobytes() for each in inputs[0])
        )
        for module in ("benchmarks.pipeline", "zeroshot.views"):
            monkeypatch.setattr(f"gmae_tools.{module}.spare", lambda spare=spare: spare)
        found.append(np.stack(list(maps(methods, photo))))
        assert len(tiles) == len(set(tiles)) == 1 + 4 + 9
        hook.remove()
    np.testing.assert_array_equal(*found)
    assert len({each.tobytes() for each in found[0]}) == len(methods)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda photo: photo, r"mine makes an array \[4, 6, 3\], not a map \[4, 6\] of the photograph"),
        (lambda photo: photo[..., 0], r"mine: .* lies in \[0, 1\], this one in \[200, 200\]"),
        (lambda photo: np.full(photo.shape[:2], np.nan), r"mine: .* not finite"),
    ],
)
def test_what_is_no_map_is_refused(photos: list[Path], tmp_path: Path, function: Predictor, message: str) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(GmaeToolsError, match=message):
        mapped(photos, mine=function)
