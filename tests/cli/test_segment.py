"""`gmae-tools segment` from the command line, with a small model of random weights and a data set of three pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from gmae_tools import checkpoints
from gmae_tools.benchmarks.figure_methods import CLASSICAL, centre_prior
from gmae_tools.benchmarks.names import MASK_THRESHOLDS
from gmae_tools.cli import main
from gmae_tools.images import read_image
from gmae_tools.metrics.regions import binarize, score_regions
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.report import contact_sheet
from gmae_tools.zeroshot.boxes import largest_box

SHAPE = (48, 64)
SCORES = ["max_f_beta", "mean_f_beta", "mae", "s_measure", "e_measure", "iou", "accuracy"]
RESULTS = {"maps", "settings.json", "scores.json", "images.csv", "curve.csv"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures with a light square each; the masks have half their size, and one is empty."""
    folder = tmp_path / "data"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name, left in (("0001", 20), ("0002", 26), ("0003", 30)):
        inside = np.zeros(SHAPE, bool)
        inside[12:36, left : left + 24] = True
        picture = np.where(inside[..., None], [220, 210, 90], [30, 60, 90]).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{name}.jpg", quality=95)
        mask = inside[::2, ::2] & (name != "0003")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{name}.png")
    return folder


def segment(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["segment", *map(str, arguments)])


# --- pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grouped", "otsu"])
def test_writes_everything_about_a_picture(data: Path, checkpoint: Path, tmp_path: Path, method: str) -> None:
    photos, out = data / "images", tmp_path / "out"
    result = segment(photos, "-o", out, "--checkpoint", checkpoint, "--method", method, "--format", "json")
    assert result.exit_code == 0, result.output
    records = json.loads(result.stdout)
    assert [Path(record["image"]).name for record in records] == ["0001.jpg", "0002.jpg", "0003.jpg"]
    assert {path.name for path in out.iterdir()} == {"0001", "0002", "0003", "sheet.png"}
    folder = out / "0001"
    assert {path.name for path in folder.iterdir()} == {
        "probability.png", "mask.png", "cutout.png", "overlay.png", "segment.json",
    }  # fmt: skip
    record = json.loads((folder / "segment.json").read_text())
    assert record == records[0]
    photo, mask = read_image(photos / "0001.jpg"), read_image(folder / "mask.png")[..., 0] == 255
    assert 0.02 < mask.mean() < 0.98
    assert (record["width"], record["height"]) == SHAPE[::-1]
    assert record["area"] == mask.sum() and record["share"] == pytest.approx(mask.mean(), abs=1e-6)
    assert record["box"] == largest_box(mask).tolist()
    with Image.open(folder / "cutout.png") as image:
        cutout = np.asarray(image)
    assert cutout.shape == (*SHAPE, 4)
    np.testing.assert_array_equal(cutout[..., 3], mask * 255)
    np.testing.assert_array_equal(cutout[mask][:, :3], photo[mask])
    overlay = read_image(folder / "overlay.png")
    x0, y0, x1, y1 = record["box"]
    inner = np.zeros(SHAPE, bool)
    inner[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = True
    np.testing.assert_array_equal(overlay[mask & inner], photo[mask & inner])
    assert not np.array_equal(overlay[~mask], photo[~mask])
    assert np.asarray(Image.open(folder / "probability.png")).std() > 5


def test_depth_stands_beside_the_default(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    photo, common = data / "images" / "0001.jpg", ("--checkpoint", checkpoint, "--format", "json")
    both = json.loads(segment(photo, "-o", tmp_path / "both", *common).stdout)
    assert [record["method"] for record in both] == ["grouped", "depth"]
    for record in both:
        out = tmp_path / record["method"]
        assert json.loads(segment(photo, "-o", out, "--method", record["method"], *common).stdout) == [record]
    alone = (tmp_path / "depth" / "0001" / "probability.png").read_bytes()
    assert (tmp_path / "both" / "0001" / "probability-depth.png").read_bytes() == alone
    assert json.loads((tmp_path / "both" / "0001" / "segment.json").read_text()) == both[0]
    one, two = (read_image(tmp_path / name / "sheet.png") for name in ("grouped", "both"))
    assert two.shape[1] > one.shape[1]


def test_otsu_finds_the_square_and_its_box(data: Path, tmp_path: Path) -> None:
    result = segment(data / "images" / "0001.jpg", "-o", tmp_path / "out", "--method", "otsu", "--checkpoint", "none")
    assert result.exit_code == 0, result.output  # no model is needed
    record = json.loads((tmp_path / "out" / "0001" / "segment.json").read_text())
    np.testing.assert_allclose(record["box"], [20, 12, 44, 36], atol=1)
    cells = result.stdout.splitlines()[2].split()
    assert cells[2:7] == [*map(str, record["box"]), str(record["area"])]


def test_a_threshold_of_ones_own_and_a_picture_without_figure(data: Path, tmp_path: Path) -> None:
    photo, out = data / "images" / "0001.jpg", tmp_path / "out"
    arguments = (photo, "-o", out, "--method", "centre-prior")
    wide, narrow = (json.loads(segment(*arguments, "--threshold", t, "--format", "json").stdout) for t in (0.2, 0.8))
    assert wide[0]["area"] > 3 * narrow[0]["area"] > 0
    assert segment(*arguments, "--threshold", "otsu").exit_code == 0
    nothing = segment(*arguments, "--threshold", 1, "--format", "csv")
    assert nothing.exit_code == 0, nothing.output
    assert nothing.stdout.splitlines()[1].endswith(",,,,,0,0.0")
    record = json.loads((out / "0001" / "segment.json").read_text())
    assert record["box"] is None and record["area"] == 0
    assert not np.asarray(Image.open(out / "0001" / "cutout.png"))[..., 3].any()


def test_a_sheet_shows_the_first_of_many(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ("--method", "otsu", "-o", tmp_path / "out", "--format", "json")
    segment(data / "images" / "0001.jpg", *method)
    one = read_image(tmp_path / "out" / "sheet.png")
    monkeypatch.setattr(contact_sheet, "MOST_ROWS", 1)
    assert len(json.loads(segment(data / "images", *method).stdout)) == 3
    assert read_image(tmp_path / "out" / "sheet.png").shape == one.shape


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    arguments = [
        broken,
        tmp_path / "none.jpg",
        data / "images" / "0002.jpg",
        "--method",
        "otsu",
        "-o",
        tmp_path / "out",
    ]
    result = segment(*arguments)
    assert result.exit_code == 1
    assert result.stderr.count("error:") == 2
    assert "broken.png" in result.stderr and "none.jpg" in result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0002", "sheet.png"}


# --- benchmark ---------------------------------------------------------------------------------------


def test_scores_a_data_set_and_writes_everything(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = segment("--dataset", data, "-o", out, "--checkpoint", checkpoint, "--format", "json")
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    assert set(SCORES) < set(scores)
    assert (scores["images"], scores["method"], scores["checkpoint"]) == (3, "grouped", "nano-random")
    assert scores["protocol"]["resized"] == "3 maps, bilinear, to their masks' size"
    assert scores["protocol"]["empty_masks"] == 1
    assert 0 < scores["max_f_beta"] < 1 and scores["corloc"] in (0, 0.5, 1)
    assert {path.name for path in out.iterdir()} == RESULTS | {"depth"}
    (beside,) = scores.pop("beside")
    assert json.loads((out / "scores.json").read_text()) == scores
    assert beside["method"] == "depth" and beside["iou"] != scores["iou"]
    assert {path.name for path in (out / "depth").iterdir()} == RESULTS
    assert json.loads((out / "depth" / "scores.json").read_text()) == beside
    images = pd.read_csv(out / "images.csv")
    assert list(images["image"]) == [1, 2, 3]
    assert images["hit"].isna().tolist() == [False, False, True]
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["method"], settings["threshold"], settings["scales"], len(settings["weights"])) == (
        "grouped", MASK_THRESHOLDS["grouped"], [1], 64,
    )  # fmt: skip


def test_a_baseline_through_the_same_path(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--dataset", data, "-o", out, "--method", "centre-prior", "--split", "odd")
    table = segment(*arguments)
    assert table.exit_code == 0, table.output
    assert "iou" in table.stdout and "images: 2" in table.stdout and "corloc: " in table.stdout
    scores = json.loads(segment(*arguments, "--format", "json").stdout)
    mask = read_image(data / "masks" / "0001.png")[..., 0] > 0
    soft = centre_prior(np.zeros((*mask.shape, 3)))
    expected = score_regions(soft, mask).iou / 2  # the other mask is empty
    assert scores["iou"] == pytest.approx(expected, abs=0.02)
    assert scores["corloc"] == binarize(soft, 0.5).any()
    assert "iou" in segment(*arguments, "--format", "csv").stdout.splitlines()[0].split(",")


def test_boxes_as_detections(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval")
    arguments = ("--dataset", data, "-o", tmp_path, "--method", "otsu", "--split", "even", "--ap", "--format", "json")
    scores = json.loads(segment(*arguments).stdout)
    assert scores["ap50"] == 1 and 0.7 <= scores["ap"] <= 1 and scores["ar100"] >= scores["ap"] - 1e-9


def test_goes_on_where_it_stopped(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--dataset", data, "-o", tmp_path / "out", "--method", "otsu", "--format", "json")
    first = segment(*arguments)
    (tmp_path / "out" / "maps" / "0002.png").unlink()
    calls = []
    otsu = CLASSICAL["otsu"]
    monkeypatch.setitem(CLASSICAL, "otsu", lambda photo: calls.append(1) or otsu(photo))
    second = segment(*arguments)
    assert len(calls) == 1
    assert second.stdout == first.stdout


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--method", "everything"), "holds results of method otsu, not everything"),
        (("--split", "odd"), "holds results of split all, not odd"),
    ],
)
def test_refuses_other_settings_without_overwrite(
    data: Path, tmp_path: Path, changed: tuple[str, ...], message: str
) -> None:
    arguments = ("--dataset", data, "-o", tmp_path / "out", "--method", "otsu")
    assert segment(*arguments).exit_code == 0
    before = (tmp_path / "out" / "scores.json").read_text()
    refused = segment(*arguments, *changed)
    assert refused.exit_code == 1 and message in refused.stderr
    assert (tmp_path / "out" / "scores.json").read_text() == before
    assert segment(*arguments, *changed, "--overwrite").exit_code == 0
    assert (tmp_path / "out" / "scores.json").read_text() != before


@pytest.mark.parametrize("changed", [("--threshold", "0.3"), ("--min-max",)])
def test_other_rules_score_the_maps_that_are_there(data: Path, tmp_path: Path, changed: tuple[str, ...]) -> None:
    arguments = ("--dataset", data, "-o", tmp_path / "out", "--method", "centre-prior", "--format", "json")
    first = json.loads(segment(*arguments).stdout)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "maps").iterdir()}
    second = json.loads(segment(*arguments, *changed).stdout)
    assert second["iou"] != first["iou"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "maps").iterdir()} == kept
    assert json.loads(segment(*arguments).stdout) == first


# --- wrong usage and bad data ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give pictures, or --dataset"),
        (["photo.jpg", "--dataset", "ecssd"], "give pictures, or --dataset"),
        (["photo.jpg", "--method", "magic"], "is not one of"),
        (["photo.jpg", "--threshold", "half"], "is neither otsu nor a number from 0 to 1"),
        (["photo.jpg", "--threshold", "1.5"], "is neither otsu nor a number from 0 to 1"),
        (["photo.jpg", "--threshold", "nan"], "is neither otsu nor a number from 0 to 1"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = segment(*arguments, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_bad_data_leave_nothing_behind(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (data / "masks" / "0002.png").unlink()
    lonely = segment("--dataset", data, "-o", out, "--method", "otsu")
    assert lonely.exit_code == 1 and "has no mask for 0002" in lonely.stderr
    unknown = segment("--dataset", tmp_path / "nowhere", "-o", out, "--method", "otsu")
    assert unknown.exit_code == 1 and "neither a data set" in unknown.stderr
    assert segment("--dataset", "duts-te", "--root", tmp_path, "-o", out).exit_code == 1
    assert segment(data / "images", "--checkpoint", tmp_path / "none", "-o", out).exit_code == 1
    assert not out.exists()
    shutil.copy(data / "images" / "0002.jpg", data / "masks" / "0002.jpg")
    colour = segment("--dataset", data, "-o", out, "--method", "otsu")
    assert colour.exit_code == 1 and "0002.jpg is a colour picture" in colour.stderr
    assert not (out / "scores.json").exists()


def test_a_checkpoint_in_pieces_is_one_too(data: Path, tmp_path: Path) -> None:
    checkpoints.save(GMAE(GMAEConfig.preset("nano")), tmp_path / "pieces", max_shard_mb=0.2)
    result = segment("--dataset", data, "--checkpoint", tmp_path / "pieces", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert len(json.loads((tmp_path / "out" / "settings.json").read_text())["weights"]) == 64
