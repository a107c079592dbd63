"""`gmae-tools edges` from the command line, with a small model of random weights and a data set of two pictures."""

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
from scipy.io import savemat

from gmae_tools import checkpoints, splatting
from gmae_tools.benchmarks import pipeline
from gmae_tools.benchmarks.edge_methods import CLASSICAL
from gmae_tools.benchmarks.edges import COUNTS, SCORES
from gmae_tools.benchmarks.map_files import read_soft_map
from gmae_tools.benchmarks.predictions import MAPS
from gmae_tools.cli import main
from gmae_tools.images import read_image
from gmae_tools.report import contact_sheet
from gmae_tools.report.edges import ink
from gmae_tools.splatting import Renderer, choose_backend
from gmae_tools.zeroshot.names import EDGE_READOUTS
from tests.launches import launch

SHAPE = (48, 64)
KEYS = ["ods", "ods_threshold", "ods_precision", "ods_recall", "ois", "ois_precision", "ois_recall", "ap", "r50"]
KEYS += ["images", "thresholds", "protocol", "readout", "layers", "checkpoint"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pictures with a light square each, and two annotators who agree on its outline."""
    data = tmp_path / "data" / "bsds500"
    for kind in ("images", "groundTruth"):
        (data / kind / "val").mkdir(parents=True)
    for name, left in (("12", 20), ("34", 40)):
        inside = np.zeros(SHAPE, bool)
        inside[12:36, left : left + 16] = True
        picture = np.where(inside[..., None], [220, 210, 90], [30, 60, 90]).astype(np.uint8)
        Image.fromarray(picture).save(data / "images" / "val" / f"{name}.jpg", quality=95)
        outline = inside & ~np.pad(inside, 1)[2:, 1:-1] | inside & ~np.pad(inside, 1)[:-2, 1:-1]
        outline |= inside & ~np.pad(inside, 1)[1:-1, 2:] | inside & ~np.pad(inside, 1)[1:-1, :-2]
        cells = np.empty((1, 2), object)
        cells[0, 0] = cells[0, 1] = {"Boundaries": outline.astype(np.uint8)}
        savemat(data / "groundTruth" / "val" / f"{name}.mat", {"groundTruth": cells})
    return tmp_path / "data"


def edges(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["edges", *map(str, arguments)])


def on_dataset(root: Path, out: Path, checkpoint: Path | str, *arguments: object) -> Result:
    common = ["--dataset", "bsds500", "--root", root, "-o", out, "--checkpoint", checkpoint]
    return edges(*common, "--scales", "1", "--thresholds", 9, *arguments)


# --- pictures ----------------------------------------------------------------------------------------


def test_writes_maps_and_a_sheet(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    photos = root / "bsds500" / "images" / "val"
    result = edges(photos, "-o", tmp_path / "out", "--checkpoint", checkpoint, "--layers", "8,2", "--scales", "1,2")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'out' / 'sheet.png'}\n"
    for name in ("12", "34"):
        maps = {path.name: read_soft_map(path) for path in sorted((tmp_path / "out" / name).iterdir())}
        assert list(maps) == ["closed-regions.png", "l2.png", "l8.png", "regions-and-photo.png"]
        assert all(strength.shape == SHAPE and strength.max() > 0.1 for strength in maps.values())
        assert not np.array_equal(maps["l2.png"], maps["l8.png"])
    sheet = read_image(tmp_path / "out" / "sheet.png")
    # Two rows of photograph, ground truth, and four maps.
    assert sheet.shape[0] > 2 * 264 * SHAPE[0] / SHAPE[1]
    assert sheet.shape[1] > 6 * 264


def test_without_ground_truth_and_with_several_readouts(checkpoint: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)).save(photo)
    arguments = ["--readout", "combined", "--readout", "soft-canny", "-o", tmp_path / "out", "--checkpoint", checkpoint]
    assert edges(photo, *arguments).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out" / "photo").iterdir()) == ["combined.png", "soft-canny.png"]


def test_layers_are_of_one_look_and_closed_regions_of_tiles(checkpoint: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)).save(photo)

    def run(folder: str, *options: str) -> dict[str, bytes]:
        out = tmp_path / folder
        common = (photo, "-o", out, "--layers", "8", "--checkpoint", checkpoint)
        assert edges(*common, *options).exit_code == 0
        return {path.name: path.read_bytes() for path in (out / "photo").iterdir()}

    found = run("both")
    assert sorted(found) == ["closed-regions.png", "l8.png", "regions-and-photo.png"]
    layers, regions = ("--readout", "layers", "--scales"), ("--readout", "closed-regions", "--scales")
    assert found["l8.png"] == run("layers", *layers, "1")["l8.png"] != run("tiled", *layers, "2")["l8.png"]
    expected, other = run("regions", *regions, "1,2,3,4"), run("whole", *regions, "1")
    assert found["closed-regions.png"] == expected["closed-regions.png"] != other["closed-regions.png"]


@pytest.mark.parametrize("readout", EDGE_READOUTS)
def test_every_readout_is_drawn_by_the_backend_asked_for(
    readout: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []

    def choose(backend: Renderer, device: object) -> Renderer:
        chosen.append(backend)
        return choose_backend(backend, device)

    for module in (splatting, pipeline):
        monkeypatch.setattr(module, "choose_backend", choose)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)).save(photo)
    arguments = ["--readout", readout, "--layers", "4", "--scales", "1", "-o", tmp_path / "out", "--backend", "dense"]
    assert edges(photo, *arguments, "--checkpoint", checkpoint).exit_code == 0
    assert len(chosen) > 1 and set(chosen) == {"dense"}


def test_a_backend_that_cannot_draw_is_refused_unless_nothing_is_drawn(
    checkpoint: Path, root: Path, tmp_path: Path
) -> None:
    photo = root / "bsds500" / "images" / "val" / "12.jpg"
    common = [photo, "-o", tmp_path / "out", "--device", "cpu", "--backend", "gsplat", "--checkpoint", checkpoint]
    refused = edges(*common, "--readout", "regions")
    assert refused.exit_code == 1 and "gsplat renders on a CUDA GPU, not on cpu" in refused.stderr
    assert edges(*common, "--readout", "sobel").exit_code == 0


def test_classical_detectors_need_no_model(root: Path, tmp_path: Path) -> None:
    photos = root / "bsds500" / "images" / "val"
    result = edges(photos / "12.jpg", "--readout", "sobel", "-o", tmp_path / "out", "--checkpoint", tmp_path / "none")
    assert result.exit_code == 0, result.output
    written = read_soft_map(tmp_path / "out" / "12" / "sobel.png")
    np.testing.assert_allclose(written, CLASSICAL["sobel"](read_image(photos / "12.jpg")), atol=0.5 / 255 + 1e-6)


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    photo = root / "bsds500" / "images" / "val" / "12.jpg"
    result = edges(broken, photo, "--readout", "sobel", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.count("error:") == 1
    assert "broken.png" in result.stderr
    assert (tmp_path / "out" / "12" / "sobel.png").is_file()
    assert (tmp_path / "out" / "sheet.png").is_file()


def test_a_sheet_shows_the_first_of_many(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, maps = root / "bsds500" / "images" / "val", ("--readout", "sobel", "-o", tmp_path / "out")
    edges(photos / "12.jpg", *maps)
    one = read_image(tmp_path / "out" / "sheet.png")
    monkeypatch.setattr(contact_sheet, "MOST_ROWS", 1)
    edges(photos, *maps)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"12", "34", "sheet.png"}
    assert read_image(tmp_path / "out" / "sheet.png").shape == one.shape


def test_ink_is_dark_where_edges_are_strong_and_thin_lines_survive_shrinking() -> None:
    strength = np.zeros((90, 120), np.float32)
    strength[:, 31] = 0.4
    strength[17, :] = 0.1
    small = ink(strength, 30, 40)
    assert small.shape == (30, 40, 3)
    assert (small[:, 10] == 0).all()
    assert (small[5, 20:] == round(255 * (1 - 0.25**3))).all()
    assert (small[20:, 20:] == 255).all()
    assert (ink(np.zeros((9, 9)), 3, 3) == 255).all()


# --- benchmark ---------------------------------------------------------------------------------------


def test_scores_a_readout_and_writes_everything(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = on_dataset(root, out, checkpoint, "--layers", "8", "--readout", "layers", "--format", "json")
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    assert list(scores) == KEYS
    assert (scores["readout"], scores["layers"], scores["checkpoint"]) == ("layers", [8], "nano-random")
    assert (scores["images"], scores["thresholds"]) == (2, 9)
    assert scores["protocol"]["non_maximum_suppression"].startswith("surround suppressed, crests")
    assert 0 < scores["ods"] < 1
    files = {path.name for path in out.iterdir()}
    assert files == {
        "counts", "curve.csv", "curve.png", "human", "human.json", "images.csv", "maps", "scores.json", "settings.json",
    }  # fmt: skip
    assert files - {"settings.json", "human"} == {MAPS, COUNTS, *SCORES}  # so that none outlives its settings
    assert list(pd.read_csv(out / "images.csv")["image"]) == [12, 34]
    assert len(pd.read_csv(out / "curve.csv")) == 9
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["readout"], settings["layers"], settings["scales"], settings["flip"]) == (
        "layers",
        [8],
        [1],
        False,
    )
    assert len(settings["weights"]) == 64
    assert json.loads((out / "human.json").read_text())["f"] > 0.95  # held out maps are thinned, the others not


def test_layers_of_tiles_are_scored_beside_those_of_one_look(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--dataset", "bsds500", "--root", root, "-o", out, "--checkpoint", checkpoint, "--thresholds", 5,
                 "--layers", "4"]  # fmt: skip
    result = edges(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    (beside,) = scores.pop("beside")
    assert list(scores) == list(beside) == KEYS
    assert (scores["protocol"]["looks"], beside["protocol"]["looks"]) == (
        "l@N: one look", "l@N: one look and tiles 2 x 2, 3 x 3 and 4 x 4",
    )  # fmt: skip
    kept = [json.loads((folder / "scores.json").read_text())["ods"] for folder in (out, out / "tiles")]
    assert kept == [scores["ods"], beside["ods"]] and kept[0] != kept[1]
    assert not (out / "tiles" / "human").exists()
    table = edges(*arguments).stdout
    assert table.count("ODS") == 2
    assert table.index("looks: l@N: one look\n") < table.index("looks: l@N: one look and tiles 2 x 2")
    csv = edges(*arguments, "--format", "csv").stdout.splitlines()
    assert len(csv) == 3 and csv[0].startswith("ods,")


def test_a_baseline_finds_the_square_and_reports_itself(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = on_dataset(root, tmp_path / "out", checkpoint, "--readout", "soft-canny", "--format", "json")
    scores = json.loads(result.stdout)
    assert scores["ods"] > 0.8  # within 0.6 px
    assert (scores["readout"], scores["layers"], scores["checkpoint"]) == ("soft-canny", None, None)
    assert "ODS" in on_dataset(root, tmp_path / "out", checkpoint, "--readout", "soft-canny").stdout


def test_goes_on_where_it_stopped(
    root: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = (root, out, checkpoint, "--readout", "sobel", "--format", "json")
    first = on_dataset(*arguments)
    (out / "maps" / "34.png").unlink()
    kept = (out / "maps" / "12.png").stat().st_mtime_ns
    calls = []
    sobel = CLASSICAL["sobel"]
    monkeypatch.setitem(CLASSICAL, "sobel", lambda photo: calls.append(1) or sobel(photo))
    second = on_dataset(*arguments)
    assert len(calls) == 1
    assert (out / "maps" / "12.png").stat().st_mtime_ns == kept
    assert second.stdout == first.stdout


def test_refuses_other_settings_without_overwrite(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert on_dataset(root, out, checkpoint, "--layers", "8").exit_code == 0
    before = read_soft_map(out / "maps" / "12.png")
    refused = on_dataset(root, out, checkpoint, "--layers", "4")
    assert refused.exit_code == 1
    assert "holds results of layers [8], not [4]; use --overwrite" in refused.stderr
    assert np.array_equal(read_soft_map(out / "maps" / "12.png"), before)
    refused = on_dataset(root, out, checkpoint, "--layers", "8", "--precision", "bf16")
    assert (refused.exit_code, "holds results of precision" in refused.stderr) == (1, True)
    assert on_dataset(root, out, checkpoint, "--layers", "4", "--overwrite").exit_code == 0
    assert not np.array_equal(read_soft_map(out / "maps" / "12.png"), before)


def test_other_thresholds_score_the_maps_that_are_there(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert on_dataset(root, out, checkpoint, "--readout", "sobel").exit_code == 0
    kept = {path: path.stat().st_mtime_ns for path in (out / "maps").iterdir()}
    for overwrite in ((), ("--overwrite",)):
        again = on_dataset(
            root, out, checkpoint, "--readout", "sobel", "--thresholds", 5, "--format", "json", *overwrite
        )
        assert json.loads(again.stdout)["thresholds"] == 5
        assert {path: path.stat().st_mtime_ns for path in (out / "maps").iterdir()} == kept
    assert json.loads((out / "settings.json").read_text())["thresholds"] == 5
    assert len(pd.read_csv(out / "curve.csv")) == 5


def test_a_folder_of_before_there_was_refinement_goes_on(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert on_dataset(root, out, checkpoint, "--layers", "8").exit_code == 0
    noted = json.loads((out / "settings.json").read_text())
    del noted["refine"]
    (out / "settings.json").write_text(json.dumps(noted))
    assert on_dataset(root, out, checkpoint, "--layers", "8").exit_code == 0
    refused = on_dataset(root, out, checkpoint, "--layers", "8", "--refine", 5)
    assert refused.exit_code == 1 and "holds results of refine None, not 5" in refused.stderr


def test_refuses_a_checkpoint_whose_weights_have_changed(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / "models" / "nano-random"
    shutil.copytree(checkpoint, own)
    assert on_dataset(root, tmp_path / "out", own, "--layers", "8").exit_code == 0
    model = checkpoints.load(own)
    torch.nn.init.normal_(model.decoder.head.weight, std=0.3)
    checkpoints.save(model, own)
    refused = on_dataset(root, tmp_path / "out", own, "--layers", "8")
    assert refused.exit_code == 1
    assert "holds results of weights" in refused.stderr


# --- several processes -------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outcome(root: Path, out: Path, checkpoint: Path | str, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    result = on_dataset(root, out, checkpoint, *arguments)
    return result.exit_code, result.stdout, result.stderr


def test_two_processes_write_and_say_what_one_does(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    options = (checkpoint, "--readout", "combined", "--device", "cpu")
    one = outcome(root, tmp_path / "one", *options)
    main_, other = launch(2, outcome, root, tmp_path / "two", *options)
    assert main_ and main_[:2] == one[:2] and one[0] == 0
    assert other == (0, "", "")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_an_error_of_one_process_ends_both(root: Path, tmp_path: Path) -> None:
    broken = root / "bsds500" / "images" / "val" / "34.jpg"  # the second picture: the second process's
    broken.write_bytes(b"no picture")
    main_, other = launch(2, outcome, root, tmp_path / "out", "none", "--readout", "sobel")
    assert main_ and main_[0] == 1 and "error:" not in main_[2]
    assert other == (1, "", f"error: {broken}: not a picture in a known format\n")
    assert not (tmp_path / "out" / "scores.json").exists()


# --- wrong usage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give pictures, or --dataset"),
        (["photo.jpg", "--dataset", "bsds500"], "give pictures, or --dataset"),
        (["--dataset", "bsds500", "--readout", "sobel", "--readout", "canny"], "one --readout at a time"),
        (["photo.jpg", "--layers", "8,x"], "is not a list of numbers"),
        (["photo.jpg", "--scales", "0"], "is not a list of numbers"),
        (["photo.jpg", "--readout", "magic"], "is not one of"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    result = edges(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_says_what_to_do_without_the_data_set(checkpoint: Path, tmp_path: Path) -> None:
    result = on_dataset(tmp_path, tmp_path / "out", checkpoint)
    assert result.exit_code == 1
    assert "gmae-tools datasets fetch bsds500" in result.stderr


def test_refuses_more_layers_than_gaussians(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = on_dataset(root, tmp_path / "out", checkpoint, "--layers", "65")
    assert result.exit_code == 1
    assert "cannot cut 64 Gaussians into 65 layers" in result.stderr
