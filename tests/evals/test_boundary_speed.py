"""The speed comparison runs from end to end on a data set of two small pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import CliRunner
from PIL import Image
from scipy.io import savemat

from evals.benchmarks import boundary_speed


def test_it_runs(tmp_path: Path) -> None:
    for kind in ("images", "groundTruth"):
        (tmp_path / "bsds500" / kind / "val").mkdir(parents=True)
    disc = np.hypot(*np.mgrid[-20:20, -25:25]) < 12
    outline = disc & ~np.roll(disc, 1, axis=1)
    cells = np.empty((1, 1), object)
    cells[0, 0] = {"Boundaries": outline.astype(np.uint8)}
    for name in "ab":
        Image.fromarray(disc.astype(np.uint8) * 200).save(tmp_path / "bsds500" / "images" / "val" / f"{name}.jpg")
        savemat(tmp_path / "bsds500" / "groundTruth" / "val" / f"{name}.mat", {"groundTruth": cells})

    arguments = ["--root", str(tmp_path), "--split", "val", "--thresholds", "9", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(boundary_speed.main, arguments, catch_exceptions=False)

    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "boundary_speed.csv")
    assert table["detector"].tolist() == ["sobel", "gradient"]
    assert (table[["seconds", "ours_ms", "scratch_ms", "scipy_ms"]] > 0).all(axis=None)
    assert "scipy_ratio" in (tmp_path / "out" / "boundary_speed.md").read_text()
