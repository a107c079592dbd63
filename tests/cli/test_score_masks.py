"""`gmae-tools score masks` on small folders: every format in and out, and what may be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scipy import ndimage

from gmae_tools.benchmarks import regions as region_benchmark
from gmae_tools.benchmarks.regions import fit, pair_maps, read_map, score_pairs, summarize
from gmae_tools.cli import main
from gmae_tools.metrics.regions import RegionProtocol, RegionScores

SHAPE = (30, 44)
KEYS = ["max_f_beta", "mean_f_beta", "mae", "s_measure", "e_measure", "iou", "accuracy", "images", "protocol"]


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An 8-bit map and its mask, both uint8."""
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=SHAPE), 5) > 0.01
    soft = 0.2 + 0.4 * truth + 0.2 * rng.random(SHAPE)
    return np.round(soft * 255).astype(np.uint8), truth.astype(np.uint8) * 255


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    predictions, truths = tmp_path / "predictions", tmp_path / "masks"
    predictions.mkdir()
    truths.mkdir()
    for index in range(4):
        soft, truth = picture(index)
        Image.fromarray(soft).save(predictions / f"{index}.png")
        Image.fromarray(truth).save(truths / f"{index}.png")
    (predictions / "notes.txt").write_text("not a map")
    return predictions, truths


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["score", "masks", *map(str, arguments)])


def scores_of(*arguments: object) -> dict[str, float]:
    result = run(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("options", [(), ("--min-max",), ("--threshold", "otsu"), ("--thresholds", "256")])
def test_scores_as_json(folders: tuple[Path, Path], options: tuple[str, ...]) -> None:
    scores = scores_of(*folders, *options)
    assert list(scores) == KEYS
    protocol = RegionProtocol(
        min_max="--min-max" in options,
        threshold="otsu" if "otsu" in options else 0.5,
        thresholds=256 if "256" in options else 255,
    )
    expected = RegionScores(protocol)
    for index in range(4):
        soft, truth = picture(index)
        expected.update(str(index), soft / 255, truth > 0)
    result = expected.compute().to_dict()
    assert {key: scores[key] for key in KEYS[:-1]} == pytest.approx({key: result[key] for key in KEYS[:-1]})
    assert scores["protocol"] == {**result["protocol"], "resized": "none", "empty_masks": 0}
    assert ("min-max" in scores["protocol"]["normalisation"]) == protocol.min_max


def test_agrees_with_pysodmetrics_from_files(folders: tuple[Path, Path]) -> None:
    sod = pytest.importorskip("py_sod_metrics", reason="needs pysodmetrics: pip install --no-deps pysodmetrics==1.5.1")
    metrics = {"f": sod.Fmeasure(), "mae": sod.MAE(), "s": sod.Smeasure(), "e": sod.Emeasure()}
    for index in range(4):
        for metric in metrics.values():
            metric.step(*picture(index))
    found = {key: metric.get_results() for key, metric in metrics.items()}
    scores = scores_of(*folders, "--min-max", "--thresholds", 256)
    expected = {
        "max_f_beta": found["f"]["fm"]["curve"].max(),
        "mean_f_beta": found["f"]["fm"]["curve"].mean(),
        "mae": found["mae"]["mae"],
        "s_measure": found["s"]["sm"],
        "e_measure": found["e"]["em"]["curve"].mean(),
    }
    assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_scores_as_csv_and_table_and_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    table = run(*folders, "-o", out)
    assert "max_f_beta" in table.stdout and "normalisation: none" in table.stdout and "images: 4" in table.stdout
    assert "scoring" in table.stderr
    rows = run(*folders, "--format", "csv").stdout.splitlines()
    assert len(rows) == 2 and rows[0].split(",") == KEYS
    assert {path.name for path in out.iterdir()} == {"scores.json", "images.csv", "curve.csv"}
    everything = json.loads((out / "scores.json").read_text())
    assert {"mean_iou", "e_measure_max", "e_measure_adaptive", "corloc"} < set(everything)
    images = pd.read_csv(out / "images.csv")
    assert images["iou"].mean() == pytest.approx(everything["iou"])
    assert pd.read_csv(out / "curve.csv")["f_beta"].max() == pytest.approx(everything["max_f_beta"])


def test_formats_of_maps(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    before = scores_of(predictions, truths)
    soft, truth = picture(0)
    (predictions / "0.png").unlink()
    np.save(predictions / "0.npy", soft / 255)
    Image.fromarray(picture(1)[0]).convert("RGB").save(predictions / "1.png")
    Image.fromarray(picture(2)[0].astype(np.uint16) * 257).save(predictions / "2.png")
    after = scores_of(predictions, truths)
    assert {key: after[key] for key in KEYS[:-1]} == pytest.approx({key: before[key] for key in KEYS[:-1]})
    (predictions / "3.png").unlink()
    Image.fromarray(picture(3)[0]).save(predictions / "3.jpg", quality=95)
    assert scores_of(predictions, truths)["mae"] == pytest.approx(before["mae"], abs=0.01)
    np.save(predictions / "0.npy", truth)  # integers are scaled by the range of their type
    assert read_map(predictions / "0.npy").max() == 1


def test_maps_of_another_size_are_resized_to_their_masks(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    before = scores_of(predictions, truths)
    Image.fromarray(np.kron(picture(0)[0], np.ones((2, 2), np.uint8))).save(predictions / "0.png")
    after = scores_of(predictions, truths)
    assert after["protocol"]["resized"] == "1 maps, bilinear, to their masks' size"
    assert after["iou"] == pytest.approx(before["iou"], abs=0.02)
    assert before["mae"] != after["mae"] == pytest.approx(before["mae"], abs=0.02)
    ramp = np.tile(np.linspace(0, 1, 21), (5, 1))
    np.testing.assert_allclose(fit(ramp, 5, 41)[:, 1:-1:2], (ramp[:, 1:] + ramp[:, :-1])[:, :20] / 2, atol=0.02)
    assert fit(ramp, 5, 21) is ramp


def test_empty_masks_and_graded_ones(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(truths / "0.png")
    scores = scores_of(predictions, truths)
    assert scores["protocol"]["empty_masks"] == 1
    assert all(np.isfinite(scores[key]) for key in KEYS[:-1])
    Image.fromarray(np.full(SHAPE, 100, np.uint8)).save(truths / "0.png")  # graded, but below one half
    assert scores_of(predictions, truths) == scores


def test_processes_give_the_same_scores(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_benchmark, "_CHUNK", 2)
    pairs, protocol = pair_maps(*folders), RegionProtocol()
    alone, shared = (summarize(list(score_pairs(pairs, protocol, jobs)), protocol) for jobs in (1, 2))
    assert alone.to_dict() == shared.to_dict()
    assert list(shared.metrics) == ["0", "1", "2", "3"]


# --- what may be wrong -------------------------------------------------------------------------------


def refused(message: str, *arguments: object) -> None:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert result.stdout == ""


def test_missing_pairs_are_named(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    for name in ("1", "3"):
        (predictions / f"{name}.png").unlink()
    refused("has no map for 1, 3", predictions, truths)
    (truths / "0.png").unlink()
    (truths / "1.png").unlink()
    (truths / "3.png").unlink()
    refused("has no mask for 0", predictions, truths)


def test_bad_files_are_named(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    cases: list[tuple[str, np.ndarray]] = [
        ("in [255, 255]: scale it", np.full(SHAPE, 255.0)),
        ("not finite", np.full(SHAPE, np.nan)),
        ("shape [height, width]", np.zeros((*SHAPE, 3))),
    ]
    (predictions / "2.png").unlink()
    for message, values in cases:
        np.save(predictions / "2.npy", values)
        refused(message, predictions, truths)
        assert "2.npy" in run(predictions, truths).stderr
    (predictions / "2.npy").unlink()
    Image.fromarray(np.dstack([picture(2)[0], picture(2)[1], picture(1)[0]])).save(predictions / "2.png")
    refused("2.png is a colour picture", predictions, truths)
    (predictions / "2.png").write_bytes(b"")
    refused("2.png: the file is empty", predictions, truths)


def test_maps_of_0_and_1_are_refused(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    for index in range(4):
        Image.fromarray(picture(index)[1] // 255).save(predictions / f"{index}.png")
    refused("save them as 0 and 255", predictions, truths)


def test_folders_without_pictures(folders: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("no maps here", empty, folders[1])
    assert run(tmp_path / "nowhere", folders[1]).exit_code == 2
