"""Saliency data sets: where they lie, which mask belongs to which photograph, and masks of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmae_tools.datasets.saliency import KNOWN, NAMES, Saliency, number, read_mask
from gmae_tools.errors import GmaeToolsError

MASK = np.zeros((20, 30), np.uint8)
MASK[5:15, 8:22] = 255


def make_data(images: Path, masks: Path, names: tuple[str, ...] = ("0001", "0002", "0003")) -> None:
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "Thumbs.db").write_bytes(b"left behind")
        (folder / "._0001.png").write_bytes(b"left behind too")
    for name in names:
        Image.new("RGB", (30, 20), "teal").save(images / f"{name}.jpg")
        Image.fromarray(MASK).save(masks / f"{name}.png")


@pytest.fixture(autouse=True)
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GMAE_TOOLS_DATA", raising=False)


@pytest.mark.parametrize(("name", "layout"), [(name, each) for name in NAMES for each in KNOWN[name].layouts])
def test_layouts(tmp_path: Path, name: str, layout: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_data(tmp_path / layout[0], tmp_path / layout[1])
    data = Saliency(name, tmp_path)
    assert [pair.name for pair in data.pairs()] == ["0001", "0002", "0003"]
    assert data.pairs()[1].photo == tmp_path / layout[0] / "0002.jpg"
    assert data.pairs()[1].mask == tmp_path / layout[1] / "0002.png"
    assert data.official_size == KNOWN[name].images
    monkeypatch.setenv("GMAE_TOOLS_DATA", str(tmp_path))
    assert Saliency(name).pairs() == data.pairs()


def test_a_folder_and_its_halves(tmp_path: Path) -> None:
    make_data(tmp_path / "images", tmp_path / "masks")
    data = Saliency(tmp_path)
    assert data.name == str(tmp_path.resolve()) and data.official_size is None
    assert [pair.name for pair in data.pairs("odd")] == ["0001", "0003"]
    assert [pair.name for pair in data.pairs("even")] == ["0002"]
    assert [number(name) for name in ("0012", "ILSVRC2012_test_00000003", "7b")] == [12, 3, 7]
    make_data(tmp_path / "images", tmp_path / "masks", ("cat",))
    assert len(data.pairs()) == 4
    with pytest.raises(GmaeToolsError, match=r"cat has no number.*--split all"):
        data.pairs("odd")


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match="name the folder of the data sets with --root"):
        Saliency("ecssd")
    make_data(tmp_path / "mine" / "images", tmp_path / "mine" / "masks", ("1",))
    with pytest.raises(GmaeToolsError, match=r"ECSSD/images and ECSSD/ground_truth_mask.*such as .*mine$"):
        Saliency("ecssd", tmp_path)
    with pytest.raises(GmaeToolsError, match=r"neither a data set .*nor a folder"):
        Saliency(tmp_path / "nowhere")
    with pytest.raises(GmaeToolsError, match="has no folder images/"):
        Saliency(tmp_path)
    data = Saliency(tmp_path / "mine")
    with pytest.raises(GmaeToolsError, match="no photographs with even ids"):
        data.pairs("even")
    (data.masks / "1.png").unlink()
    with pytest.raises(GmaeToolsError, match="no masks here"):
        data.pairs()


def test_names_what_is_alone(tmp_path: Path) -> None:
    names = tuple(f"{index:04}" for index in range(9))
    make_data(tmp_path / "images", tmp_path / "masks", names)
    data = Saliency(tmp_path)
    (data.images / "0004.jpg").unlink()
    with pytest.raises(GmaeToolsError, match=r"has no photograph for 0004$"):
        data.pairs()
    make_data(data.images, data.masks, ("0004",))
    for name in names[1:]:
        (data.masks / f"{name}.png").unlink()
    with pytest.raises(GmaeToolsError, match="has no mask for 0001, 0002, 0003, 0004, 0005 and 3 more"):
        data.pairs()
    Image.fromarray(MASK).save(data.masks / "0000.bmp")
    with pytest.raises(GmaeToolsError, match="two files for one mask"):
        data.pairs()


# --- masks -------------------------------------------------------------------------------------------


def saved(path: Path, mask: np.ndarray | Image.Image, **options: object) -> Path:
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(path, **options)
    return path


def test_graded_masks_are_cut_at_one_half(tmp_path: Path) -> None:
    graded = np.array([[0, 64, 127, 128, 191, 255]], np.uint8)
    assert read_mask(saved(tmp_path / "a.png", graded)).tolist() == [[False, False, False, True, True, True]]
    deep = (graded.astype(np.uint16) * 257).astype(np.uint16)
    assert read_mask(saved(tmp_path / "b.png", deep)).tolist() == [[False, False, False, True, True, True]]


def test_noisy_jpeg_masks(tmp_path: Path) -> None:
    for name, mask in (("grey", Image.fromarray(MASK)), ("rgb", Image.fromarray(MASK).convert("RGB"))):
        path = saved(tmp_path / f"{name}.jpg", mask, quality=30)
        assert len(np.unique(np.asarray(Image.open(path)))) > 2  # noisy indeed
        found = read_mask(path)
        assert found.shape == MASK.shape
        assert (found != (MASK > 0)).mean() < 0.02


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "LA", "P"])
def test_modes_of_masks(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "mask.png", Image.fromarray(MASK).convert(mode))
    np.testing.assert_array_equal(read_mask(path), MASK > 0)


def test_labels_of_0_and_1_and_empty_masks(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "labels.png", MASK // 255)), MASK > 0)
    empty = read_mask(saved(tmp_path / "empty.png", MASK * 0))
    assert empty.shape == MASK.shape and not empty.any()
    assert read_mask(saved(tmp_path / "full.png", MASK * 0 + 255)).all()


def test_masks_that_could_mean_anything_are_refused(tmp_path: Path) -> None:
    palette = Image.fromarray(MASK // 255)
    palette.putpalette([0, 0, 0, 128, 0, 0])
    with pytest.raises(GmaeToolsError, match=r"a\.png is a colour picture"):
        read_mask(saved(tmp_path / "a.png", palette))
    cutout = np.dstack([np.full((20, 30, 3), 255, np.uint8), MASK])
    with pytest.raises(GmaeToolsError, match=r"b\.png is partly transparent"):
        read_mask(saved(tmp_path / "b.png", cutout))
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(GmaeToolsError, match=r"c\.png"):
        read_mask(tmp_path / "c.png")


def test_ecssd_as_it_is(shared_data: Path) -> None:
    data = Saliency(shared_data / "ecssd-dev")
    odd, even = data.pairs("odd"), data.pairs("even")
    assert (len(odd), len(even)) == (100, 100)
    mask = read_mask(even[0].mask)
    with Image.open(even[0].photo) as photo:
        assert mask.shape == (photo.height, photo.width)
    assert 0.02 < mask.mean() < 0.9
