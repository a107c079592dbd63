"""BSDS500 in both layouts, fetched from a local archive, checked, and missing."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.io import savemat

from gmae_tools.cli import main
from gmae_tools.datasets import bsds500
from gmae_tools.datasets.bsds500 import BSDS500, read_boundaries, read_mat
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import file_sha256

SIZES = {"train": 2, "val": 1, "test": 2}
SHAPE = (20, 30)


def write_truth(path: Path, maps: list[np.ndarray]) -> None:
    """A ground-truth file as in the data set: a cell array of structures with segments and boundaries."""
    cells = np.empty((1, len(maps)), object)
    for index, boundaries in enumerate(maps):
        cells[0, index] = {
            "Segmentation": np.ones(SHAPE, np.uint16),
            "Boundaries": boundaries.astype(np.uint8),
        }
    savemat(path, {"groundTruth": cells})


def make_data(folder: Path) -> None:
    for split, count in SIZES.items():
        (folder / "images" / split).mkdir(parents=True)
        (folder / "groundTruth" / split).mkdir(parents=True)
        (folder / "images" / split / "Thumbs.db").write_bytes(b"left behind, as in the official archive")
        for index in range(count):
            name = f"{split}{index}"
            Image.new("RGB", SHAPE[::-1], "teal").save(folder / "images" / split / f"{name}.jpg")
            maps = [np.eye(*SHAPE, k=k, dtype=bool) for k in range(index + 1)]
            write_truth(folder / "groundTruth" / split / f"{name}.mat", maps)


@pytest.fixture(autouse=True)
def small_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bsds500, "SPLITS", SIZES)
    monkeypatch.delenv("GMAE_TOOLS_DATA", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_data(tmp_path / "BSR" / "BSDS500" / "data")
    return tmp_path


@pytest.mark.parametrize("layout", ["BSR/BSDS500/data", "bsds500", "."])
def test_layouts(tmp_path: Path, layout: str) -> None:
    make_data(tmp_path / layout)
    data = BSDS500(tmp_path)
    assert [path.name for path in data.images("test")] == ["test0.jpg", "test1.jpg"]
    assert [path.name for path in data.ground_truth("val")] == ["val0.mat"]
    assert data.ground_truth_folder("val") == tmp_path / layout / "groundTruth" / "val"
    assert data.check() == SIZES
    maps = data.boundaries("test1")
    assert [each.dtype for each in maps] == [bool, bool]
    np.testing.assert_array_equal(maps[1], np.eye(*SHAPE, k=1, dtype=bool))


def test_root_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMAE_TOOLS_DATA", str(root))
    assert BSDS500().check() == SIZES


def test_missing_data_say_what_to_run(tmp_path: Path) -> None:
    for root in (None, tmp_path):
        with pytest.raises(GmaeToolsError, match="gmae-tools datasets fetch bsds500 --root"):
            BSDS500(root)


def test_a_missing_split_or_image_is_said(root: Path) -> None:
    data = BSDS500(root)
    with pytest.raises(GmaeToolsError, match="'dev'"):
        data.images("dev")
    with pytest.raises(GmaeToolsError, match="no ground truth for image 7"):
        data.boundaries("7")


def test_check_finds_what_is_wrong(root: Path) -> None:
    data = BSDS500(root)
    truth = data.ground_truth("test")[0]
    content = truth.read_bytes()
    write_truth(truth, [np.zeros((3, 3), bool)])
    with pytest.raises(GmaeToolsError, match=r"test0.mat is not of the size"):
        data.check()
    truth.write_bytes(content[:300])
    with pytest.raises(GmaeToolsError, match=r"test0.mat cannot be read"):
        data.check()
    truth.unlink()
    with pytest.raises(GmaeToolsError, match="test0 lacks"):
        data.check()
    data.images("test")[0].unlink()
    with pytest.raises(GmaeToolsError, match="1 images instead of 2"):
        data.check()
    data.images("val")[0].write_bytes(b"no picture")
    with pytest.raises(GmaeToolsError, match=r"val0.jpg: "):
        data.check()


def test_files_that_are_no_ground_truth(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    with pytest.raises(GmaeToolsError, match="No such file"):
        read_boundaries(path)
    savemat(path, {"ucm2": np.zeros((3, 3))})
    with pytest.raises(GmaeToolsError, match="no `groundTruth`"):
        read_boundaries(path)
    savemat(path, {"groundTruth": np.zeros((3, 3))})
    with pytest.raises(GmaeToolsError, match="no `Boundaries`"):
        read_boundaries(path)
    savemat(path, {"groundTruth": np.empty((1, 0), object)})
    with pytest.raises(GmaeToolsError, match="no annotation"):
        read_boundaries(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF" + bytes(600))
    with pytest.raises(GmaeToolsError, match="-v7"):
        read_mat(path)


def test_fetch_and_check_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data(tmp_path / "source" / "BSDS500" / "data")
    archive = tmp_path / "BSR_bsds500.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "source", "BSR")
    root = tmp_path / "root"
    arguments = ["datasets", "fetch", "bsds500", "--root", str(root), "--url", archive.as_uri()]

    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "checksum" in refused.stderr

    monkeypatch.setattr(bsds500, "SHA256", file_sha256(archive))
    fetched = CliRunner().invoke(main, arguments)
    assert fetched.exit_code == 0, fetched.output
    assert "train 2 images\nval   1 images\ntest  2 images\n" in fetched.stdout
    assert [path.name for path in root.iterdir()] == ["BSR"]

    archive.unlink()  # not needed any more
    assert CliRunner().invoke(main, arguments).stdout == fetched.stdout
    checked = CliRunner().invoke(main, ["datasets", "check", "bsds500"], env={"GMAE_TOOLS_DATA": str(root)})
    assert checked.stdout == fetched.stdout


def test_the_real_data(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = BSDS500(shared_data)
    assert len(data.images("val")) == len(data.ground_truth("val")) == 100
    assert [boundaries.shape for boundaries in data.boundaries("3096")] == [(321, 481)] * 5
