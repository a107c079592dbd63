"""Both stages of the benchmarks from Python, with anyone's functions, on two photographs of a light square."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.io import savemat

from gmae_tools.benchmarks import edges, regions
from gmae_tools.benchmarks.edge_methods import EdgeMethod, soft_canny
from gmae_tools.benchmarks.evaluate import evaluate_edges, evaluate_masks
from gmae_tools.benchmarks.figure_methods import RegionMethod
from gmae_tools.benchmarks.pipeline import RunOptions
from gmae_tools.benchmarks.regions import MaskRules
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.datasets.saliency import Saliency
from gmae_tools.errors import GmaeToolsError

SHAPE = (48, 64)
NAMES = ("0012", "0034")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layouts of BSDS500 and of ECSSD below one folder."""
    root = tmp_path / "data"
    bsds, ecssd = root / "bsds500", root / "ECSSD"
    places = {kind: bsds / kind / "val" for kind in ("images", "groundTruth")}
    for place in (*places.values(), ecssd / "images", ecssd / "ground_truth_mask"):
        place.mkdir(parents=True)
    for name, left in zip(NAMES, (20, 36), strict=True):
        inside = np.zeros(SHAPE, bool)
        inside[12:36, left : left + 16] = True
        picture = Image.fromarray(np.where(inside[..., None], [220, 210, 90], [30, 60, 90]).astype(np.uint8))
        for place in (places["images"], ecssd / "images"):
            picture.save(place / f"{name}.jpg", quality=95)
        Image.fromarray(inside.astype(np.uint8) * 255).save(ecssd / "ground_truth_mask" / f"{name}.png")
        cells = np.empty((1, 2), object)
        cells[0, 0] = cells[0, 1] = {"Boundaries": (inside & ~ndimage.binary_erosion(inside)).astype(np.uint8)}
        savemat(places["groundTruth"] / f"{name}.mat", {"groundTruth": cells})
    return root


class Counting:
    """A function that counts how often it is called."""

    def __init__(self, function: object) -> None:
        self.function, self.calls = function, 0

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        self.calls += 1
        return self.function(photo)  # type: ignore[operator]


def light(photo: np.ndarray) -> np.ndarray:
    return photo[..., 0] / 255


def nothing(photo: np.ndarray) -> np.ndarray:
    return np.zeros(photo.shape[:2])


# --- runs --------------------------------------------------------------------------------------------


def test_several_detectors_in_one_run(root: Path, tmp_path: Path) -> None:
    methods = {
        "canny-like": EdgeMethod("soft-canny"),
        "none": EdgeMethod("none", function=lambda photo: 0 * light(photo)),
    }
    found = edges.run(BSDS500(root), "val", methods, tmp_path / "out", thresholds=9)
    assert found.results["canny-like"].ods > 0.6 and found.results["none"].ods == 0
    assert found.human is not None and found.human.ods > 0.95
    table = found.to_pandas()
    assert list(table["method"]) == ["canny-like", "none"] and (table["images"] == 2).all()
    assert "protocol" not in table
    assert found.results["canny-like"].protocol["non_maximum_suppression"] == "along the gradient"
    assert found.results["none"].protocol["non_maximum_suppression"].startswith("none")
    found.plot(tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size[0] > 500
    files = {path.name for path in (tmp_path / "out" / "none").iterdir()}
    assert files == {"maps", "counts", "settings.json", *edges.SCORES}


def test_fewer_photographs_are_scored_though_all_have_maps(root: Path, tmp_path: Path) -> None:
    methods = {"": EdgeMethod("sobel")}
    whole = edges.run(BSDS500(root), "val", methods, tmp_path, thresholds=5, human=False)
    half = edges.run(BSDS500(root), "val", methods, tmp_path, thresholds=5, options=RunOptions(every=2))
    assert whole.human is None and half.human is not None
    assert list(whole.results[""].counts) == list(NAMES) and list(half.results[""].counts) == [NAMES[0]]
    assert half.human.images == 1


def test_several_segmenters_in_one_run(root: Path, tmp_path: Path) -> None:
    methods = {"otsu": RegionMethod("otsu"), "dark": RegionMethod("dark", function=lambda photo: 1 - light(photo))}
    found = regions.run(Saliency("ecssd", root), "all", methods, tmp_path / "out")
    assert found.results["otsu"].iou > 0.95 and found.results["dark"].iou < 0.1
    table = found.to_pandas().set_index("method")
    assert list(table.index) == ["otsu", "dark"] and table.loc["otsu", "dataset"] == "ecssd"
    assert json.loads((tmp_path / "out" / "otsu" / "scores.json").read_text()) == found.scores["otsu"]
    assert found.scores["otsu"]["protocol"]["deviation"] == "2 of the 1000 photographs of ecssd"
    found.plot(tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size[0] > 500
    # The rules are those of the call, or of each method.
    loose = regions.run(Saliency("ecssd", root), "all", methods, tmp_path / "out", rules=MaskRules(threshold=0.05))
    assert loose.results["dark"].iou == pytest.approx(24 * 16 / np.prod(SHAPE))


# --- anyone's functions ------------------------------------------------------------------------------


def test_anyones_detector_is_scored_and_its_maps_are_used_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    detector = Counting(soft_canny)
    found = evaluate_edges(detector, "bsds500", split="val", root=root, thresholds=9)
    wanted = edges.run(BSDS500(root), "val", {"": EdgeMethod("soft-canny")}, tmp_path / "own", thresholds=9)
    assert found.to_pandas().loc[0, "ods"] == wanted.to_pandas().loc[0, "ods"] > 0.6
    assert (tmp_path / "evaluations" / "bsds500-val" / "Counting" / "maps" / "0012.png").is_file()
    assert detector.calls == 2 and not caplog.records
    again = evaluate_edges(detector, split="val", root=root, thresholds=9)
    assert detector.calls == 2 and "are used again" in caplog.text
    assert again.to_pandas().equals(found.to_pandas())
    evaluate_edges(detector, split="val", root=root, thresholds=9, options=RunOptions(overwrite=True))
    assert detector.calls == 4


def test_anyones_segmenter_is_scored_against_masks_and_boxes(root: Path, tmp_path: Path) -> None:
    found = evaluate_masks(light, "ecssd", root=root, out=tmp_path / "out")
    assert found.to_pandas().loc[0, "iou"] > 0.95
    assert found.to_pandas().loc[0, "method"] == "light"
    assert (tmp_path / "out" / "maps" / "0034.png").is_file()


def test_what_cannot_be_evaluated_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match="<lambda>: give it a name"):
        evaluate_edges(lambda photo: light(photo), root=root, out=tmp_path / "out")
    with pytest.raises(GmaeToolsError, match="no data set 'nyu'; use bsds500"):
        evaluate_edges(light, "nyu", root=root)
    with pytest.raises(GmaeToolsError, match=r"light makes an array \[48, 64, 3\]"):
        evaluate_edges(lambda photo: photo, name="light", root=root, out=tmp_path / "out")
