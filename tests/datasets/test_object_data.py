"""PASCAL VOC and COCO in small folders of the official layouts, and the boxes that `segment` finds on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from gmae_tools.benchmarks.boxes import FoundBoxes, box_scores, find_in_map
from gmae_tools.cli import main
from gmae_tools.datasets.boxed import BoxedPhoto
from gmae_tools.datasets.coco import COCO
from gmae_tools.datasets.named import BOXED, SEGMENTED, open_dataset
from gmae_tools.datasets.voc import VOC, read_boxes, read_labels
from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.detection import Detections

# Light squares on dark: (x0, y0, x1, y1) half-open, on pictures of 64 x 48 px.
SQUARES = {"000005": [(20, 12, 44, 36)], "000007": [(4, 4, 20, 20), (40, 24, 60, 44)], "000008": []}
SHAPE = (48, 64)


def picture(boxes: list[tuple[int, int, int, int]]) -> Image.Image:
    pixels = np.full((*SHAPE, 3), (30, 60, 90), np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = (220, 210, 90)
    return Image.fromarray(pixels)


def annotation(boxes: list[tuple[int, int, int, int]]) -> str:
    """As VOC has it: the first pixel is 1, and the last one is in the box."""
    objects = "".join(
        f"<object><name>cat</name><difficult>{number % 2}</difficult><bndbox><xmin>{x0 + 1}</xmin>"
        f"<ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}.0</ymax></bndbox>"
        f"<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for number, (x0, y0, x1, y1) in enumerate(boxes)
    )
    return f"<annotation><size><width>64</width><height>48</height></size>{objects}</annotation>"


def segmentation(boxes: list[tuple[int, int, int, int]]) -> Image.Image:
    """Class 8 inside, a pixel without label around it, colours of the official palette."""
    labels = np.zeros(SHAPE, np.uint8)
    for x0, y0, x1, y1 in boxes:
        labels[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] = 255
        labels[y0:y1, x0:x1] = 8
    image = Image.fromarray(labels).convert("P")
    image.putpalette([0, 0, 0] + [64, 0, 0] * 254 + [224, 224, 192])
    return image


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    for part in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for name, boxes in SQUARES.items():
        picture(boxes).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        (folder / "Annotations" / f"{name}.xml").write_text(annotation(boxes))
        segmentation(boxes).save(folder / "SegmentationClass" / f"{name}.png")
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{name}\n" for name in SQUARES))
    (folder / "ImageSets" / "Main" / "cat_trainval.txt").write_text("000005  1\n000007 -1\n")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("000005\n000007\n")
    return tmp_path


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    for year, where in (("val2017", folder / "val2017"), ("train2014", folder / "images" / "train2014")):
        where.mkdir(parents=True)
        images, annotations = [], []
        for number, (name, boxes) in enumerate(SQUARES.items(), 30):
            picture(boxes).save(where / f"{name}.jpg", quality=95)
            images.append({"id": number, "file_name": f"{name}.jpg", "width": 64, "height": 48})
            annotations += [
                {"image_id": number, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0, "category_id": 17, "id": 1}
                for x0, y0, x1, y1 in boxes
            ]
        annotations.append({"image_id": 30, "bbox": [0, 0, 64, 48], "iscrowd": 1, "category_id": 1, "id": 2})
        text = json.dumps({"images": images, "annotations": annotations, "categories": []})
        (folder / "annotations" / f"instances_{year}.json").write_text(text)
    (folder / "annotations" / "coco_20k_filenames.txt").write_text("train2014/000007.jpg\n")
    return tmp_path


def boxes_of(photos: list[BoxedPhoto]) -> dict[str, list[tuple[float, ...]]]:
    return {photo.name: [tuple(box) for box in photo.boxes.tolist()] for photo in photos}


# --- reading -------------------------------------------------------------------------------------------------


def test_boxes_of_voc_count_from_zero_and_are_half_open(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = VOC("2007", voc).boxed()
    assert boxes_of(photos) == SQUARES  # difficult ones too, parts of objects not
    assert all(photo.photo.is_file() for photo in photos)
    monkeypatch.setenv("GMAE_TOOLS_DATA", str(voc / "VOCdevkit"))
    assert VOC("2007").names("cat_trainval") == ["000005", "000007"]


def test_segmentations_of_voc_are_figure_without_the_unlabelled(voc: Path) -> None:
    first, second = VOC("2007", voc).pairs()
    (x0, y0, x1, y1) = SQUARES["000005"][0]
    assert first.truth().sum() == (x1 - x0) * (y1 - y0) and first.truth()[y0:y1, x0:x1].all()
    assert np.unique(read_labels(first.mask)).tolist() == [0, 8, 255]
    assert second.truth().sum() == 16 * 16 + 20 * 20


def test_boxes_of_coco_are_of_objects_and_not_of_crowds(coco: Path) -> None:
    assert boxes_of(COCO(coco).boxed("val2017")) == SQUARES
    assert boxes_of(COCO(coco / "coco").boxed("coco20k")) == {"000007": SQUARES["000007"]}
    (photo,) = COCO(coco).boxed("coco20k")
    assert photo.photo == coco / "coco" / "images" / "train2014" / "000007.jpg" and photo.photo.is_file()


def test_names_and_splits(voc: Path, coco: Path) -> None:
    assert open_dataset("voc07", voc).name == "voc07:trainval" and open_dataset("coco", coco).name == "coco:val2017"
    assert [each.name for each in open_dataset("voc07:trainval", voc).pairs("odd")] == ["000005", "000007"]
    assert [each.name for each in open_dataset("voc07-seg", voc).pairs()] == ["000005", "000007"]
    assert not {*BOXED} & {*SEGMENTED}


@pytest.mark.parametrize(
    ("break_it", "ask", "message"),
    [
        (None, lambda root: VOC("2012", root), "VOC2012 not found under .*VOCdevkit/VOC2012/JPEGImages"),
        (None, lambda root: VOC("2007", root).boxed("test"), "splits that are there: trainval"),
        (None, lambda root: COCO(root), "COCO not found under .*coco/annotations"),
        (None, lambda root: open_dataset("ecssd:val", root), "only voc07, voc12, coco, coco20k, voc07-seg"),
        (("Annotations/000005.xml", "<annotation>"), lambda root: VOC("2007", root).boxed(), "000005.xml: not an"),
        (("Annotations/000005.xml", None), lambda root: VOC("2007", root).boxed(), "000005.xml: missing"),
        (("Annotations/000005.xml", annotation([(5, 5, 5, 9)])), lambda root: VOC("2007", root).boxed(), "empty box"),
        (("ImageSets/Main/trainval.txt", "\n"), lambda root: VOC("2007", root).boxed(), "names no photographs"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_voc_is_told(
    voc: Path, monkeypatch: pytest.MonkeyPatch, break_it: tuple[str, str | None] | None, ask: Any, message: str
) -> None:
    monkeypatch.delenv("GMAE_TOOLS_DATA", raising=False)
    if break_it:
        path = voc / "VOCdevkit" / "VOC2007" / break_it[0]
        path.unlink()
        if break_it[1] is not None:
            path.write_text(break_it[1])
    with pytest.raises(GmaeToolsError, match=message):
        ask(voc)


def test_what_is_wrong_with_coco_is_told(coco: Path) -> None:
    with pytest.raises(GmaeToolsError, match="splits that are there: train2014, val2017"):
        COCO(coco).boxed("val2014")
    folder = coco / "coco" / "annotations"
    (folder / "coco_20k_filenames.txt").write_text("train2014/000099.jpg\n")
    with pytest.raises(GmaeToolsError, match=r"000099.jpg is not in instances_train2014.json"):
        COCO(coco).boxed("coco20k")
    (folder / "instances_val2017.json").write_text('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{}]}')
    with pytest.raises(GmaeToolsError, match="not the annotations of COCO"):
        COCO(coco).boxed("val2017")
    with pytest.raises(GmaeToolsError, match="holds colours"):
        read_labels(coco / "coco" / "val2017" / "000005.jpg")
    with pytest.raises(GmaeToolsError, match="missing; unpack"):
        read_boxes(coco / "nowhere.xml")


# --- scoring -------------------------------------------------------------------------------------------------


def test_corloc_counts_photographs_with_objects() -> None:
    square, far = np.array([[0, 0, 10, 10]]), np.array([[40, 40, 50, 50]])
    wide, wider = np.array([[0, 0, 19, 10]]), np.array([[0, 0, 21, 10]])

    def found(name: str, boxes: np.ndarray, wanted: np.ndarray) -> FoundBoxes:
        return FoundBoxes(name, Detections(boxes, np.ones(len(boxes))), wanted.astype(float))

    none = np.empty((0, 4))
    scores = box_scores(
        [found("hit", square, np.concatenate([far, wide])),  # IoU 10 / 19
         found("near", square, wider),  # IoU 10 / 21
         found("second", np.concatenate([far, square]), square),  # only the first box counts
         found("nothing", none, square), found("no object", square, none)],
        detection=False,
    )  # fmt: skip
    assert scores == {"corloc": 0.25, "images": 5, "images_with_objects": 4, "objects": 5}
    with pytest.raises(GmaeToolsError, match="no photograph has an object"):
        box_scores([found("no object", square, none)])


def test_the_box_is_that_of_the_largest_piece(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    soft = np.zeros(SHAPE)
    soft[4:20, 4:20], soft[24:44, 40:60] = 0.9, 0.6
    Image.fromarray((soft * 255).astype(np.uint8)).save(tmp_path / "maps" / "a.png")
    found = find_in_map(BoxedPhoto("a", tmp_path / "a.jpg", np.array(SQUARES["000007"], float)), tmp_path, 0.5)
    assert found.found.boxes.tolist() == [[40, 24, 60, 44], [4, 4, 20, 20]] and found.iou == 1
    assert found.found.scores.tolist() == pytest.approx([0.6, 0.9], abs=0.01)


def segment(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["segment", *map(str, arguments)])


@pytest.mark.parametrize("dataset", ["voc07", "coco"])
def test_segment_finds_objects(dataset: str, voc: Path, coco: Path, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval: pip install 'gmae-tools[detection]'")
    arguments = ["--dataset", dataset, "--root", tmp_path, "--method", "otsu", "-o", tmp_path / "out", "--jobs", 1]
    result = segment(*arguments, "--ap", "--format", "json")
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    assert scores == json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (scores["corloc"], scores["images"], scores["images_with_objects"], scores["objects"]) == (1, 3, 2, 3)
    assert scores["ap50"] > 0.9 and scores["dataset"].startswith(dataset) and scores["method"] == "otsu"
    table = segment(*arguments)
    assert "corloc       1.0000  share of the images whose one box" in table.stdout and "ap50" not in table.stdout


def test_segment_scores_segmentations(voc: Path, tmp_path: Path) -> None:
    arguments = ["--dataset", "voc07-seg", "--root", voc, "--method", "otsu", "-o", tmp_path / "out"]
    result = segment(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    assert scores["iou"] > 0.9 and scores["images"] == 2 and scores["corloc"] == 1
