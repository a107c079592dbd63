"""`evals/studies/density_gradient.py`: cells against brute force, Gaussians that follow detail, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from evals.studies import density_gradient
from evals.studies.density_gradient import cell_means, correlations, gradient, grid_points, rows_of
from gmae_tools import checkpoints
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.zeroshot.density import Points
from tests.evals.toy_data import add_example


def spread(x: np.ndarray, y: np.ndarray, opacity: np.ndarray | None = None) -> Points:
    return Points(x, y, np.zeros_like(x), np.ones_like(x), np.ones_like(x) if opacity is None else opacity)


def random_details(count: int, cells: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).random((count, cells, cells)))


def points_in_cells(counts: np.ndarray) -> Points:
    """So many points in the middle of each cell `[cells, cells]`."""
    rows, columns = np.repeat(np.indices(counts.shape).reshape(2, -1), counts.ravel(), 1)
    x, y = (2 * (place + 0.5) / len(counts) - 1 for place in (columns, rows))
    return spread(x, y)


@pytest.mark.parametrize(("side", "cells"), [(24, 8), (20, 8), (15, 4)])
def test_means_of_cells_are_those_of_their_pixels(side: int, cells: int) -> None:
    values = np.random.default_rng(0).random((side, side))
    found = cell_means(values, cells)
    inside: dict[tuple[int, int], list[float]] = {}
    for y in range(side):
        for x in range(side):
            inside.setdefault((int((y + 0.5) * cells / side), int((x + 0.5) * cells / side)), []).append(values[y, x])
    for place in np.ndindex(cells, cells):
        assert found[place] == pytest.approx(np.mean(inside[place]))


def test_gaussians_that_follow_detail_correlate_and_those_that_avoid_it_do_the_opposite() -> None:
    details = random_details(30, 6)  # so many that the mean of the others is nearly even
    counts = [(9 * each).astype(int) for each in details]
    found = correlations([points_in_cells(each) for each in counts], details, 6)
    for name in ("count", "weight", "rest"):
        assert found[name].min() > 0.9, name
    assert abs(found["frame"].mean()) < 0.3  # the other pictures know nothing of this one
    reverse = correlations([points_in_cells(9 - each) for each in counts], details, 6)
    assert reverse["weight"].max() < -0.9 and reverse["rest"].max() < -0.9


def test_opacity_counts_for_the_weight_alone() -> None:
    details = random_details(3, 6)
    points = []
    for detail in details:
        one = points_in_cells(np.ones((6, 6), int))
        points.append(spread(one.x, one.y, detail.ravel()))
    found = correlations(points, details, 6)
    assert np.isnan(found["count"]).all()
    assert found["weight"] == pytest.approx(1)


def test_what_all_pictures_share_is_the_frame_and_leaves_no_rest() -> None:
    counts = np.random.default_rng(1).integers(0, 9, (6, 6))
    found = correlations([points_in_cells(counts)] * 4, [counts.astype(float)] * 4, 6)
    assert found["frame"] == pytest.approx(1) and np.isnan(found["rest"]).all()


def test_a_regular_grid_has_nothing_to_say_about_its_own_cells() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    eight, fine = rows_of("grid", [grid_points(64)] * 3, [gradient(photo, 48)] * 3)
    assert eight["cells"] == 8 and eight["weight"] is None and fine["weight"] is not None
    assert fine["count"] == fine["weight"] and fine["rest"] is None


def test_the_gradient_is_that_of_luminance_across_an_edge() -> None:
    photo = np.zeros((40, 80, 3), np.uint8)
    photo[:, 40:] = 255
    found = gradient(photo, 32)
    assert found.shape == (32, 32)
    assert set(found.argmax(1)) <= {15, 16} and found[:, :8].max() < 1e-6


def test_the_command_has_a_row_for_each_model_and_random_weights_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        picture = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
        add_example(tmp_path, f"{number}", picture, np.eye(32, 48) > 0, np.eye(32, 48) > 0)
    config = GMAEConfig.preset("nano", image_size=32)
    for name in ("first", "second"):
        checkpoints.save(GMAE(config), tmp_path / name)
    given = [option for name in ("first", "second") for option in ("--checkpoint", f"{name}={tmp_path / name}")]
    result = CliRunner().invoke(
        density_gradient.main, ["--root", str(tmp_path), "-o", str(tmp_path / "out"), *given], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "density_gradient.csv")
    assert table.model.tolist()[::2] == ["regular grid of 16", "random weights, as first", "first", "second"]
    assert table.cells.tolist() == [8, 24] * 4 and set(table.photographs) == {3}
    known = table.dropna()
    assert len(known) >= 4 and known.weight.between(known.weight_low, known.weight_high).all()
