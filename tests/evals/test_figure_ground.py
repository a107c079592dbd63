"""The script that tabulates figure and ground, on a data set of eight pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from evals.benchmarks import figure_ground
from evals.bootstrap import SAMPLES, resampled_regions
from evals.studies import grouping_choices
from gmae_tools.benchmarks.pipeline import ModelSource
from gmae_tools.images import read_image
from gmae_tools.metrics.regions import RegionResult, RegionScores, Threshold, binarize
from gmae_tools.prediction import predict_scene
from gmae_tools.report.segment import overlay
from gmae_tools.zeroshot.figure_ground import foreground_probability
from gmae_tools.zeroshot.names import FOREGROUND_METHODS

SHAPE = (40, 56)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for number in range(1, 9):
        mask = np.zeros(SHAPE, bool)
        mask[8:30, 3 * number : 3 * number + 20] = True
        photo = np.where(mask[..., None], [220, 200, 90], [40, 70, 90]) + rng.integers(-9, 10, (*SHAPE, 3))
        Image.fromarray(photo.astype(np.uint8)).save(tmp_path / "data" / "images" / f"{number}.jpg", quality=95)
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "data" / "masks" / f"{number}.png")
    return tmp_path / "data"


def scored(*shares: float) -> RegionResult:
    """An image for each share: so much of its figure is found, and nothing else."""
    scores = RegionScores()
    truth = np.zeros((10, 20), bool)
    truth[:, :10] = True
    for number, share in enumerate(shares):
        soft = np.zeros(truth.shape)
        soft[: round(10 * share), :10] = 0.8
        scores.update(str(number), soft, truth)
    return scores.compute()


def test_bootstrap_draws_images_with_replacement() -> None:
    result = scored(1.0, 0.8, 0.2, 0.4)
    max_f, iou = resampled_regions(result)
    assert len(iou) == SAMPLES
    # The standard deviation of a mean of four.
    assert iou.std() == pytest.approx(np.std([1.0, 0.8, 0.2, 0.4]) / 2, rel=0.08)
    assert iou.mean() == pytest.approx(result.iou, abs=0.02)
    assert max_f.max() == pytest.approx(1) and max_f.min() < result.max_f_beta < max_f.max()


def test_differences_are_paired() -> None:
    better, worse = scored(0.9, 0.7, 0.5, 0.3), scored(0.8, 0.6, 0.4, 0.2)
    assert figure_ground.compare(better, worse).endswith("IoU +0.100 (0.000)")
    assert figure_ground.compare(worse, worse) == "max F-beta +0.000 (standard deviation 0.000), IoU +0.000 (0.000)"


@pytest.mark.slow
def test_writes_table_sheets_and_times_and_goes_on(
    data: Path, pieces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2", reason="GrabCut needs OpenCV: pip install opencv-python-headless")
    monkeypatch.setattr(figure_ground, "TIMED", 2)
    out, results = tmp_path / "runs", tmp_path / "results"
    arguments = ["--data", data, "--checkpoint", pieces, "--out", out, "--results", results, "--jobs", 1]
    run = CliRunner().invoke(figure_ground.main, list(map(str, arguments)))
    assert run.exit_code == 0, run.output
    assert {path.name for path in results.iterdir()} == {
        "figure_ground.csv", "figure_ground.md", "figure_ground_speed.csv", "figure-ground-successes.png",
        "figure-ground-failures.png",
    }  # fmt: skip
    table = pd.read_csv(results / "figure_ground.csv").set_index(["method", "looks"])
    assert len(table) == len(figure_ground.all_methods("nano")) == 12
    scores = table.loc["otsu"].iloc[0]
    assert scores["iou"] > 0.9 and scores["corloc"] == 1 and scores["iou_sd"] < 0.05
    assert table.loc["everything"].iloc[0]["iou"] == pytest.approx(22 * 20 / (40 * 56), abs=1e-5)
    page = (results / "figure_ground.md").read_text()
    assert "4 photographs of data, even numbers" in page and "- grouped against centre-prior: max F-beta" in page
    assert list(pd.read_csv(results / "figure_ground_speed.csv")["photographs"]) == [2, 2]
    sheet = read_image(results / "figure-ground-failures.png")
    assert sheet.shape[1] > 6 * 180 and len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100
    settings = json.loads((out / "even" / "grouped-1-flip" / "settings.json").read_text())
    assert (settings["method"], settings["scales"], settings["flip"], settings["split"]) == (
        "grouped",
        [1],
        True,
        "even",
    )
    (out / "even" / "otsu" / "maps" / "4.png").unlink()
    kept = (out / "even" / "otsu" / "maps" / "2.png").stat().st_mtime_ns
    again = CliRunner().invoke(figure_ground.main, list(map(str, [*arguments, "--no-speed"])))
    assert again.exit_code == 0, again.output
    pd.testing.assert_frame_equal(pd.read_csv(results / "figure_ground.csv").set_index(["method", "looks"]), table)
    assert (out / "even" / "otsu" / "maps" / "2.png").stat().st_mtime_ns == kept


def test_times_are_means_of_a_bare_model_and_of_masks_in_turn(
    data: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by 2 s in every run of the bare model and by 3 s more in every mask."""
    now = [0.0]
    model = ModelSource(str(checkpoint)).model
    model.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 2.0))
    monkeypatch.setattr(ModelSource, "model", model)
    monkeypatch.setattr(figure_ground.time, "perf_counter", lambda: now[0])

    def slowly(soft: np.ndarray, threshold: Threshold) -> np.ndarray:
        now[0] += 3.0
        return binarize(soft, threshold)

    monkeypatch.setattr(figure_ground, "binarize", slowly)
    rows = figure_ground.time_masks(sorted((data / "images").iterdir())[:2], str(checkpoint))
    times = {"photographs": 2, "forward_ms": 2000.0, "masks_ms": 5000.0, "ratio": 2.5}
    assert rows == [{"method": method, **times} for method in FOREGROUND_METHODS]


def test_overlays_keep_the_figure_and_fade_the_ground() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    mask = np.zeros((50, 70), bool)
    mask[10:40, 20:50] = True
    picture = overlay(photo, mask)
    np.testing.assert_array_equal(picture[mask], photo[mask])
    ground = picture[:5]
    assert (np.ptp(ground, axis=2) == 0).all() and ground.min() >= 0.6 * 255 - 1
    assert (picture[9, 20:50] == [230, 159, 0]).all()  # the outline is outside
    boxed = overlay(photo, mask, np.array([15, 5, 60, 45]))
    assert (boxed[5, 15:60] == [86, 180, 233]).all() and (boxed[44, 15:60] == [86, 180, 233]).all()
    assert (boxed[5:45, 59] == [86, 180, 233]).all() and not (boxed[5:45, 60] == [86, 180, 233]).all()
    assert (overlay(photo, np.zeros_like(mask)) == overlay(photo, np.zeros_like(mask))[..., :1]).all()


@pytest.mark.slow
def test_the_study_of_grouping_puts_the_package_together_anew(data: Path, pieces: Path, tmp_path: Path) -> None:
    scene = predict_scene(ModelSource(str(pieces)).model, read_image(data / "images" / "1.jpg"))
    case = grouping_choices.Case(scene)
    expected = foreground_probability(scene)
    np.testing.assert_allclose(grouping_choices.Grouped()(case), expected, atol=1e-5)
    assert np.abs(grouping_choices.Grouped(by=("Gaussians",))(case) - expected).max() > 0.01

    arguments = ["--data", str(data), "--checkpoint", str(pieces), "--results", str(tmp_path), "--every", "3"]
    run = CliRunner().invoke(grouping_choices.main, arguments)
    assert run.exit_code == 0, run.output
    table = pd.read_csv(tmp_path / "grouping_choices.csv").set_index("choice")
    names = [name for name, _ in grouping_choices.choices()]
    assert set(table.index) == {*names, *(f"{name}, mirrored" for name in grouping_choices.MIRRORED)}
    assert table.gain.iloc[0] == 0 and (table.gain - (table.iou - table.iou.iloc[0])).abs().max() < 0.002
