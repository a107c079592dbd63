"""The scripts that tabulate edges on BSDS500 and study their choices, on a data set of two pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from evals import bootstrap
from evals.benchmarks import bsds500
from evals.studies import edge_choices
from gmae_tools.metrics.boundaries import BoundaryProtocol, BoundaryResult, BoundaryScores
from tests.evals.toy_data import add_example

SHAPE = (40, 56)


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


def test_bootstrap_compares_the_same_images() -> None:
    better, worse = scored(0.9, 0.9, 0.9, 0.9), scored(0.9, 0.9, 0.3, 0.3)
    assert bootstrap.ods_difference(better, better) == (0, 0)
    difference, deviation = bootstrap.ods_difference(better, worse)
    assert difference == pytest.approx(better.ods - worse.ods)
    assert 0.01 < deviation < difference
    assert bootstrap.ods_difference(worse, better) == (-difference, pytest.approx(deviation))


def test_bootstrap_of_one_sample_that_is_the_set_itself_is_its_ods() -> None:
    result = scored(0.9, 0.3, 0.7)
    names = list(result.counts)
    assert bootstrap.resampled_ods(result, names, np.ones((1, 3), int)) == pytest.approx([result.ods])
    only_first = bootstrap.resampled_ods(result, names, np.array([[1, 0, 0]]))
    assert only_first == pytest.approx([scored(0.9).ods])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of two colours, and an annotator who drew the line between them."""
    folder = tmp_path_factory.mktemp("data")
    for name, place in (("12", 20), ("34", 33)):
        right = np.broadcast_to(np.arange(SHAPE[1]) > place, SHAPE)
        picture = np.where(right[..., None], [220, 210, 90], [30, 60, 90]).astype(np.uint8)
        add_example(folder, name, picture, column(place) | column(place + 1), right)
    return folder


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)  # type: ignore[arg-type]


@pytest.mark.slow
def test_writes_tables_and_curves(root: Path, pieces: Path, tmp_path: Path) -> None:
    arguments = ["--root", root, "--splits", "val", "--thresholds", 5, "--jobs", 1, "--out", tmp_path / "maps"]
    first = run(bsds500.main, *arguments, "--results", tmp_path / "results", "--checkpoint", pieces)
    assert first.exit_code == 0
    table = pd.read_csv(tmp_path / "results" / "bsds500-val.csv")
    assert list(table.columns) == list(bsds500.COLUMNS)
    assert list(table["layers"].dropna())[:5] == ["32", "16", "8", "4", "32,16,8,4"]
    assert {"soft-canny", "human", "combined", "render-gradient"} <= set(table["readout"])
    assert table.set_index("readout").loc["soft-canny", "ods"] > 0.6  # of a line two pixels wide
    assert table.loc[table["readout"] == "layers", "difference"].notna().all()
    page = (tmp_path / "results" / "bsds500-val.md").read_text()
    assert "beat the render's own gradient" in page
    assert page.count("\n| ") == len(table) + 1
    assert (tmp_path / "results" / "bsds500-val.png").stat().st_size > 10_000


@pytest.mark.slow
def test_studies_every_choice(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["--root", root, "--every", 1, "--thresholds", 5, "--results", tmp_path, "--checkpoint", checkpoint]
    assert run(edge_choices.main, *arguments).exit_code == 0
    table = pd.read_csv(tmp_path / "edge-choices.csv")
    assert list(table.columns) == list(edge_choices.COLUMNS)
    assert not table.duplicated(["group", "choice"]).any()
    assert table["ods"].between(0, 1).all()
    by_group = table.groupby("group")["ods"]
    assert (by_group.count() >= 2).all()
    assert by_group.nunique().max() > 4
    # The same default, reached in different groups.
    default = table.groupby("group").first()["ods"]
    assert default["looks, combined"] == default["thinning, combined"] == pytest.approx(default["mixture"], abs=1e-6)
