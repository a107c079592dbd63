"""`gmae-tools density` from the command line: figures of the width of a column, and the numbers behind them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from gmae_tools import checkpoints
from gmae_tools.cli import main
from gmae_tools.images import read_image
from gmae_tools.model import GMAEConfig
from gmae_tools.prediction import predict_gaussians

K = GMAEConfig.preset("nano").k
FILES = {f"{name}.{suffix}" for name in ("centres", "scales") for suffix in ("png", "pdf", "svg")} | {
    "gaussians.csv",
    "density.csv",
    "scales.csv",
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    y, x = np.mgrid[:60, :90]
    for name, shift in (("one.png", 0), ("t$wo_$.png", 90)):
        rgb = np.stack([x * 2, y * 4, (x + y + shift) % 256], -1).astype(np.uint8)
        Image.fromarray(rgb).save(folder / name)
    return folder


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time."""
    monkeypatch.setattr("gmae_tools.cli.density.write_figures", lambda *_: None)


def density(checkpoint: Path, *arguments: str | Path) -> Result:
    command = ["density", "--checkpoint", str(checkpoint), *map(str, arguments)]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("what", "count"), [("t$wo_$.png", 1), (".", 2)])
def test_figures_and_numbers(checkpoint: Path, photos: Path, tmp_path: Path, what: str, count: int) -> None:
    result = density(checkpoint, photos / what, "-o", tmp_path / "out", "--format", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    for name in ("centres", "scales"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert (picture.width, round(picture.info["dpi"][0])) == (990, 300)  # 3.3 inches
            assert np.asarray(picture.convert("RGB")).std() > 10
        drawing = ElementTree.parse(tmp_path / "out" / f"{name}.svg").getroot()
        assert drawing.attrib["width"] == f"{3.3 * 72:g}pt"
        assert (tmp_path / "out" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    table = json.loads(result.stdout)
    assert [row["k"] for row in table] == ([K] if count == 1 else [K, K, 2 * K])
    gaussians = rows(tmp_path / "out" / "gaussians.csv")
    assert len(gaussians) == count * K
    assert table[-1]["opacity"] == pytest.approx(np.mean([float(row["opacity"]) for row in gaussians]), abs=1e-5)
    cells = [float(row["density"]) for row in rows(tmp_path / "out" / "density.csv")]
    assert len(cells) == 24**2 and np.mean(cells) == pytest.approx(1, abs=1e-5)
    scales = rows(tmp_path / "out" / "scales.csv")
    assert list(scales[0]) == ["depth", "gaussians", *(f"scale_{share}%" for share in (5, 25, 50, 75, 95))]
    assert sum(int(row["gaussians"]) for row in scales) == count * K


@pytest.mark.usefixtures("without_figures")
def test_numbers_are_those_of_the_prediction(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    assert density(checkpoint, photos / "one.png", "-o", tmp_path).exit_code == 0
    gaussians = predict_gaussians(checkpoints.load(str(checkpoint)), read_image(photos / "one.png"))
    written = rows(tmp_path / "gaussians.csv")
    for axis, name in enumerate("xyz"):
        expected = gaussians.means[0, :, axis].tolist()
        assert [float(row[name]) for row in written] == pytest.approx(expected, abs=1e-6)


def test_the_same_pictures_give_the_same_files(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    for run in ("a", "b"):
        assert density(checkpoint, photos, "-o", tmp_path / run).exit_code == 0
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.usefixtures("without_figures")
def test_one_bad_picture_does_not_stop_the_others(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_text("not a picture")
    result = density(checkpoint, photos, "-o", tmp_path / "out", "--format", "csv")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and "broken.png" in result.stderr
    assert [line.split(",")[1] for line in result.stdout.splitlines()] == ["k", str(K), str(K), str(2 * K)]


def test_no_readable_picture_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("not a picture")
    result = density(checkpoint, tmp_path / "broken.png", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("without_figures")
def test_refined_gaussians_are_others(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    tables = [
        density(checkpoint, photos / "one.png", "-o", tmp_path / steps, "--refine", steps).stdout
        for steps in ("0", "3")
    ]
    assert tables[0] != tables[1]
