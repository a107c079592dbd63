"""The board of candidates: what it says, and that it measures nothing twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from evals.benchmarks import scoreboard
from evals.common import RESULTS
from gmae_tools import checkpoints
from gmae_tools.datasets.photos import PhotoStore, held_out_split
from gmae_tools.pretrain.held_out import HeldOut
from tests.evals.toy_data import add_example

SHAPE = (40, 56)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of a light square: some to train on, some with its outline, some with its area as ground truth."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        top, left = int(rng.integers(2, 20)), int(rng.integers(2, 38))
        inside = np.zeros(SHAPE, bool)
        inside[top : top + 16, left : left + 16] = True
        light, dark = rng.integers(150, 250, 3), rng.integers(0, 120, 3)
        picture = np.where(inside[..., None], light, dark).astype(np.uint8)
        Image.fromarray(picture).save(folder / "photos" / f"{number:04}.jpg", quality=95)
        if number < 4:
            figure = inside.copy()
            figure[top] = number % 2  # the halves of ECSSD differ, however well squares are found
            figure &= inside
            add_example(folder, f"{number:04}", picture, inside ^ np.roll(inside, 1, 1), figure)
    return folder


@pytest.fixture(scope="module")
def other(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of other weights."""
    model = checkpoints.load(checkpoint)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.decoder.head.weight, std=0.3)
    folder = tmp_path_factory.mktemp("other") / "nano-other"
    checkpoints.save(model, folder)
    return folder


def run(root: Path, folder: Path, *arguments: object) -> Result:
    """The script on the data, with `runs`, `results` and the cache in a folder."""
    data = ["--data", root / "photos", "--root", root, "--ecssd", root / "ecssd-dev", "--scales", "1"]
    places = ["--cache", folder / "cache", "--out", folder / "runs"]
    return CliRunner().invoke(scoreboard.main, list(map(str, [*data, *places, *arguments])))


def good(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_says_what_the_other_scripts_say_and_measures_nothing_twice(
    root: Path, checkpoint: Path, other: Path, tmp_path: Path
) -> None:
    results = ["--results", tmp_path / "results"]
    output = good(run(root, tmp_path, checkpoint, f"wider={other}", *results))
    assert "Against the first row" in output
    table = pd.read_csv(tmp_path / "results" / "scoreboard.csv").set_index("candidate")
    assert list(table.index) == ["nano-random", "wider"]
    assert (table["readout"] == "regions, looks 1").all() and (table["k"] == 64).all()
    assert table.notna().all().all() and (table["ms"] > 0).all()
    photos = PhotoStore.open([root / "photos"], tmp_path / "cache")
    model = checkpoints.load(checkpoint)
    wanted = HeldOut(photos, held_out_split(photos.names)[1], 200).psnr(model, model.config.image_size)
    first = table.loc["nano-random"]
    assert first["psnr"] == pytest.approx(wanted["psnr"], abs=1e-3)
    assert first["psnr_masked"] == pytest.approx(wanted["psnr_masked"], abs=1e-3)
    assert first["parameters_m"] == pytest.approx(sum(each.numel() for each in model.parameters()) / 1e6, abs=1e-5)
    of_depth = pd.read_csv(tmp_path / "results" / "scoreboard-depth.csv").set_index("candidate")
    assert list(of_depth.index) == ["nano-random", "wider"]
    known = of_depth.drop(columns=["common", "common_se"] + [f"auc_mean{kind}" for kind in ("", "_se")])
    assert known.notna().all().all() and (of_depth["l16_ods"] == table["l16_ods"]).all()
    page = (tmp_path / "results" / "scoreboard.md").read_text()
    assert "Protocol, for each candidate" in page and "ECSSD: odd numbers" in page

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*.json")}
    assert len(kept) == 2 * 8
    lost = next(path for path in kept if path.name.startswith("figure"))
    lost.unlink()
    candidates = [checkpoint, f"again={checkpoint}", f"wider={other}"]  # two of them the same
    output = good(run(root, tmp_path, *candidates, *results))
    assert output.count(": figure\n") == 1 and not any(f": {name}\n" in output for name in ("edges", "depth"))
    again = pd.read_csv(tmp_path / "results" / "scoreboard.csv").set_index("candidate")
    unchanged = [name for name in table.columns if name != "ms"]
    np.testing.assert_array_equal(again.loc[table.index, unchanged], table[unchanged])
    np.testing.assert_array_equal(again.loc["again", unchanged], table.loc["nano-random", unchanged])
    assert {path for path, time in kept.items() if path.stat().st_mtime_ns != time} == {lost}


@pytest.mark.slow
def test_readouts_are_rows(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    readouts = ["--readout", "regions", "--readout", "render-gradient"]
    good(run(root, tmp_path, f"nano={checkpoint}", *readouts, "--results", tmp_path))
    table = pd.read_csv(tmp_path / "scoreboard.csv")
    assert list(table["readout"]) == ["regions, looks 1", "render-gradient, looks 1"]
    assert table["ods"].nunique() == 2 and table["psnr"].nunique() == table["l16_ods"].nunique() == 1


@pytest.mark.slow
def test_the_reporting_half_is_apart(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    good(run(root, tmp_path, checkpoint, "--results", tmp_path))
    output = good(run(root, tmp_path, checkpoint, "--results", tmp_path, "--reporting-half"))
    assert "ECSSD: even numbers" in output
    odd, even = (pd.read_csv(tmp_path / f"{name}.csv").iloc[0] for name in ("scoreboard", "scoreboard-reported"))
    assert odd["iou"] != even["iou"] and odd["ods"] == even["ods"]
    maps = (tmp_path / "runs").glob("*/figure-*/maps/*.png")
    assert sorted(path.stem for path in maps) == ["0000", "0001", "0002", "0003"]


@pytest.mark.slow
def test_quick_leaves_the_results_alone(root: Path, pieces: Path, tmp_path: Path) -> None:
    before = sorted(RESULTS.iterdir())
    output = good(run(root, tmp_path, pieces, "--quick"))
    assert "5 thresholds, every 25. image" in output
    assert sorted(RESULTS.iterdir()) == before


def test_a_changed_checkpoint_is_another_candidate(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    ours, theirs = (scoreboard.Candidate.parse(str(path)) for path in (checkpoint, copy))
    assert ours.folder(tmp_path) == theirs.folder(tmp_path)
    config = json.loads((copy / "config.json").read_text())
    config["model"]["camera"]["focal"] = 1.5
    (copy / "config.json").write_text(json.dumps(config))
    assert ours.folder(tmp_path) != theirs.folder(tmp_path)


def test_two_candidates_need_two_names(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = run(root, tmp_path, checkpoint, checkpoint)
    assert result.exit_code == 2 and "LABEL=CHECKPOINT" in result.output
    assert scoreboard.Candidate.parse("a=hf://org/name") == scoreboard.Candidate("a", "hf://org/name")


def test_differences_are_paired() -> None:
    def measured(shift: float) -> dict[str, object]:
        values = [shift + value for value in (1.0, 5.0, 9.0)]
        samples = {name: list(values) for name in scoreboard.COMPARED}
        samples["iou"] = [2 * value for value in values]
        counts = {str(n): [[4, 6 + n], [8, 12], [4, 5], [9, 12]] for n in range(3)}
        return {"all": scoreboard.Measured({}, samples), "edges": scoreboard.Measured({}, counts=counts)}

    row = scoreboard.difference_of(measured(0.5), measured(0.0), 2)
    assert set(row) | {"candidate", "readout"} == set(scoreboard.DIFFERENCES)
    assert (row["psnr"], row["iou"], row["ods"]) == pytest.approx((0.5, 1.0, 0.0))
    assert (row["psnr_sd"], row["iou_sd"], row["ods_sd"]) == pytest.approx((0, 0, 0), abs=1e-12)
    assert scoreboard.error(np.array([1.0, 2.0, 6.0, np.nan])) == pytest.approx(np.std([1, 2, 6], ddof=1) / 3**0.5)
    assert np.isnan(scoreboard.known_mean(np.array([np.nan])))
