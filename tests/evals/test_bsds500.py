"""The scripts that tabulate edges on BSDS500 and study their choices, on a data set of two pictures."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from scipy.io import savemat

from gmae_tools.metrics.boundaries import BoundaryProtocol, BoundaryResult, BoundaryScores

SHAPE = (40, 56)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("evals.benchmarks.bsds500")


def column(place: int) -> np.ndarray:
    lines = np.zeros(SHAPE, bool)
    lines[:, place] = True
    return lines


def scored(*strengths: float) -> BoundaryResult:
    """An image for each strength: its line found that strongly, and a false one found at 0.5."""
    scores = BoundaryScores(BoundaryProtocol(9))
    for number, strength in enumerate(strengths):
        scores.update(str(number), np.maximum(strength * column(10), 0.5 * column(40)), [column(10)])
    return scores.compute()


def test_bootstrap_compares_the_same_images(script: ModuleType) -> None:
    better, worse = scored(0.9, 0.9, 0.9, 0.9), scored(0.9, 0.9, 0.3, 0.3)
    assert script.compare(better, better) == (0, 0)
    difference, deviation = script.compare(better, worse)
    assert difference == pytest.approx(better.ods - worse.ods)
    assert 0.01 < deviation < difference
    assert script.compare(worse, better) == (-difference, pytest.approx(deviation))


def test_bootstrap_of_one_sample_that_is_the_set_itself_is_its_ods(script: ModuleType) -> None:
    result = scored(0.9, 0.3, 0.7)
    names = list(result.counts)
    assert script.resampled_ods(result, names, np.ones((1, 3), int)) == pytest.approx([result.ods])
    only_first = script.resampled_ods(result, names, np.array([[1, 0, 0]]))
    assert only_first == pytest.approx([scored(0.9).ods])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of two colours, and two annotators who agree on the line between them."""
    folder = tmp_path_factory.mktemp("data")
    for kind in ("images", "groundTruth"):
        (folder / "bsds500" / kind / "val").mkdir(parents=True)
    for name, place in (("12", 20), ("34", 33)):
        picture = np.where(np.arange(SHAPE[1])[None, :, None] > place, [220, 210, 90], [30, 60, 90]).astype(np.uint8)
        path = folder / "bsds500" / "images" / "val" / f"{name}.jpg"
        Image.fromarray(np.repeat(picture, SHAPE[0], 0)).save(path, quality=95)
        cells = np.empty((1, 2), object)
        cells[0, 0] = cells[0, 1] = {"Boundaries": (column(place) | column(place + 1)).astype(np.uint8)}
        savemat(folder / "bsds500" / "groundTruth" / "val" / f"{name}.mat", {"groundTruth": cells})
    return folder


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The scripts choose a number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)  # type: ignore[arg-type]


def test_writes_tables_and_curves(script: ModuleType, root: Path, pieces: Path, tmp_path: Path) -> None:
    arguments = ["--root", root, "--splits", "val", "--thresholds", 5, "--jobs", 1, "--out", tmp_path / "maps"]
    first = run(script.main, *arguments, "--results", tmp_path / "results", "--checkpoint", pieces)
    assert first.exit_code == 0
    table = pd.read_csv(tmp_path / "results" / "bsds500-val.csv")
    assert list(table.columns) == list(script.COLUMNS)
    assert list(table["layers"].dropna())[:5] == ["32", "16", "8", "4", "32,16,8,4"]
    assert {"soft-canny", "human", "combined", "render-gradient"} <= set(table["readout"])
    assert table.set_index("readout").loc["soft-canny", "ods"] > 0.6  # of a line two pixels wide
    assert table.loc[table["readout"] == "layers", "difference"].notna().all()
    page = (tmp_path / "results" / "bsds500-val.md").read_text()
    assert "beat the render's own gradient" in page
    assert page.count("\n| ") == len(table) + 1
    assert (tmp_path / "results" / "bsds500-val.png").stat().st_size > 10_000


def test_studies_every_choice(script: ModuleType, root: Path, checkpoint: Path, tmp_path: Path) -> None:
    """`script` makes the folder of the scripts importable."""
    study = importlib.import_module("evals.studies.edge_choices")
    arguments = ["--root", root, "--every", 1, "--thresholds", 5, "--results", tmp_path, "--checkpoint", checkpoint]
    assert run(study.main, *arguments).exit_code == 0
    table = pd.read_csv(tmp_path / "edge-choices.csv")
    assert list(table.columns) == list(study.COLUMNS)
    assert not table.duplicated(["group", "choice"]).any()
    assert table["ods"].between(0, 1).all()
    by_group = table.groupby("group")["ods"]
    assert (by_group.count() >= 2).all()
    assert by_group.nunique().max() > 4
    # The same default, reached in different groups.
    default = table.groupby("group").first()["ods"]
    assert default["looks, combined"] == default["thinning, combined"] == pytest.approx(default["mixture"], abs=1e-6)
