"""`gmae-tools segment`: figure and ground of photographs, and their scores on a data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gmae_tools.benchmarks.names import MASKS, WHOLE
from gmae_tools.cli._models import (
    BenchmarkOptions,
    LooksOptions,
    ModelOptions,
    looks_options,
    optional_model_options,
    run_options,
)
from gmae_tools.cli._options import DataOptions, OutputOptions, data_options, gathered, output_options
from gmae_tools.cli._progress import loading
from gmae_tools.cli._scenes import ONE_LOOK, SceneInputs, Scenes, scene_options
from gmae_tools.cli._scores import mask_threshold, min_max_option, render_beside, render_regions
from gmae_tools.cli._work import Work
from gmae_tools.system.files import write_json
from gmae_tools.zeroshot.names import FOREGROUND_METHODS

if TYPE_CHECKING:
    from gmae_tools.benchmarks.figure_methods import RegionMethod
    from gmae_tools.metrics.regions import Threshold
    from gmae_tools.report.segment import ForegroundRow

SHEET, RECORD = "sheet.png", "segment.json"
COLUMNS = {"image": None, "method": None, "x0": 0, "y0": 0, "x1": 0, "y1": 0, "area": 0, "share": 3}


@dataclass(frozen=True)
class MaskOptions:
    """How probabilities become masks, and how masks are scored; see `benchmarks.regions.MaskRules`."""

    threshold: Threshold | None
    min_max: bool
    ap: bool


@click.command()
@scene_options(required=False)
@data_options(
    click.option(
        "--dataset",
        metavar="NAME|DIR",
        help="Data set that is scored, in place of IMG. With masks: ecssd, pascal-s, duts-te, voc07-seg, voc12-seg, or"
        " a folder with images/ and masks/. With boxes: voc07, voc12, coco, coco20k. For PASCAL VOC and COCO the name"
        " can have a split, such as voc12:val.",
    ),
    click.option(
        "--split",
        type=click.Choice(["odd", "even", "all"]),
        default="all",
        help="Photographs of the data set to use: those with odd numbers (to develop on), with even numbers (to"
        " report), or all.",
    ),
)
@click.option(
    "--method",
    type=click.Choice(MASKS),
    help="Method that tells the foreground from the background."
    f"  [default: {FOREGROUND_METHODS[0]}, with {FOREGROUND_METHODS[1]} for comparison]",
)
@gathered(
    "masks",
    MaskOptions,
    click.option(
        "--threshold",
        type=mask_threshold,
        metavar="otsu|FLOAT",
        help="Threshold that turns the probability of foreground into a mask.  [default: that of the method]",
    ),
    min_max_option,
    click.option(
        "--ap", is_flag=True, help="With --dataset, also score all boxes as detections (needs faster-coco-eval)."
    ),
)
@looks_options("1")
@run_options
@output_options("segment")
@optional_model_options
def command(
    inputs: SceneInputs,
    data: DataOptions,
    method: str | None,
    masks: MaskOptions,
    looks: LooksOptions,
    run: BenchmarkOptions,
    output: OutputOptions,
    model: ModelOptions,
) -> None:
    """Tell foreground from background (figure and ground) without training for it.

    With IMG (pictures, files of Gaussians, folders, globs, or - for a pipe) DIR/<name>/ receives probability.png,
    mask.png, cutout.png (the foreground on a transparent background), overlay.png (the foreground outlined, the
    background faded, and the box) and segment.json (box and area in pixels). DIR/sheet.png has a row for each of the
    first 50 pictures. The box is that of the mask's largest region. Boxes and areas also go to stdout. Unless --method
    is given, all these files come from grouped, and the results of depth are added for comparison: in
    probability-depth.png, on the sheet and in the table.

    With --dataset DIR/maps/ receives the probability of foreground of each photograph, and DIR the scores, the curves
    over thresholds, a table of the images and the settings; DIR/depth receives the same for depth. The scores also go
    to stdout. For a data set with boxes the score is CorLoc, the share of the photographs whose one box has an IoU of
    0.5 or more with an object, and with --ap also AP without classes. An interrupted run continues where it stopped.
    Maps of other settings are refused without --overwrite; with another --threshold or with --min-max existing maps are
    scored again. Several processes can share the photographs:
    torchrun --nproc-per-node N -m gmae_tools segment --dataset ...

    Methods on the Gaussians are grouped (into foreground and background, by colour and place) and depth (what is near
    is foreground). Files of Gaussians (.ply, .splat, .npz) are always read in one look. Methods on the photograph are
    centre-prior (a fixed blob), everything, otsu (the bright side), otsu-border (the side with less of the picture's
    border), spectral-residual and grabcut (from a centred box).
    """
    if bool(inputs.images) == bool(data.dataset):
        raise click.UsageError("give pictures, or --dataset")
    names = (method,) if method else FOREGROUND_METHODS
    if names[0] in FOREGROUND_METHODS:
        model.check()
    if data.dataset:
        inputs.refuse_views("is for files of Gaussians, not for --dataset")
        benchmark(data, names, masks, looks, run, output, model)
        return
    paths, failures = inputs.find(output.out)
    inputs.check(paths, model.refine)
    with loading("torch"):
        from gmae_tools.benchmarks.figure_methods import RegionMethod
    uses_gaussians = names[0] in FOREGROUND_METHODS
    scenes = inputs.open(paths, model, needed=uses_gaussians)
    methods = [RegionMethod.named(name, scenes.source, looks.looks(model.refine, WHOLE)) for name in names]
    about = names[0]
    if scenes.source:
        about += f" from K = {scenes.source.k} Gaussians by {model.name}{model.refined}"
    if uses_gaussians and scenes.any_file(paths):
        looks.warn_of_one_look()
        about += f"; {ONE_LOOK}{model.refined}"
    folder = output.folder("*")
    work = Work(paths, folder, run.jobs, failures)
    records = write_pictures(
        work, lambda path, name: segment_one(path, methods, masks.threshold, folder / name, scenes), about, folder
    )
    if records:
        click.echo(render(records, output.form))
    if work.failures:
        raise SystemExit(1)


def write_pictures(
    work: Work, segment: Callable[[Path, str], tuple[ForegroundRow, list[dict[str, Any]]]], about: str, folder: Path
) -> list[dict[str, Any]]:
    """Write the pictures and a contact sheet, and return a record of each picture and method."""
    from gmae_tools.images import write_image
    from gmae_tools.report.contact_sheet import MOST_ROWS, of_all
    from gmae_tools.report.segment import foreground_sheet

    rows: list[ForegroundRow] = []
    records: list[dict[str, Any]] = []
    for _, (row, found) in work.each(segment):
        records += found
        if work.done <= MOST_ROWS:
            rows.append(row)
    if rows:
        write_image(folder / SHEET, foreground_sheet("Figure and ground", about + of_all(rows, work.done), rows))
    return records


def segment_one(
    path: Path, methods: Sequence[RegionMethod], threshold: Threshold | None, folder: Path, scenes: Scenes
) -> tuple[ForegroundRow, list[dict[str, Any]]]:
    """Segment one picture, write the results to `folder`, and return its row of the sheet and a record of each method.

    The pictures and the JSON file are those of the first method; for the other methods only the probability is written.
    """
    import numpy as np

    from gmae_tools.images import write_image
    from gmae_tools.metrics.regions import binarize
    from gmae_tools.report.segment import cutout, foreground_row, overlay
    from gmae_tools.zeroshot.boxes import largest_box

    photo, rendered, maps = scenes.maps(path, methods)
    pictures: dict[str, np.ndarray] = {}
    shown = {"rendered" if rendered else "photograph": photo}
    records: list[dict[str, Any]] = []
    for method, probability in zip(methods, maps, strict=True):
        level = method.threshold if threshold is None else threshold
        mask = binarize(probability, level)
        box, grey = largest_box(mask), np.rint(probability * 255).astype(np.uint8)
        if not records:
            pictures = {"probability": grey, "mask": mask, "cutout": cutout(photo, mask)}
            pictures["overlay"] = overlay(photo, mask, box)
            shown |= {"probability of figure": grey, "figure and box": pictures["overlay"]}
            shown["cut-out"] = pictures["cutout"]
        else:
            pictures[f"probability-{method.name}"] = grey
            shown[f"by {method.name}"] = overlay(photo, mask, box)
        size = {"width": photo.shape[1], "height": photo.shape[0]}
        found = {"box": None if box is None else box.tolist(), "area": int(mask.sum())}
        about = {"image": str(path), **size, "method": method.name, "threshold": level}
        records.append({**about, **found, "share": round(float(mask.mean()), 6)})
    for name, picture in pictures.items():
        write_image(folder / f"{name}.png", picture)
    write_json(folder / RECORD, records[0])
    return foreground_row(path.name, shown), records


def render(records: list[dict[str, Any]], form: str) -> str:
    """Format the records as text; a picture without any foreground has no box."""
    from gmae_tools.report.tables import format_rows

    if form == "json":
        return json.dumps(records, indent=2)
    corners = ("x0", "y0", "x1", "y1")
    rows = [{**record, **dict(zip(corners, record["box"] or [None] * 4, strict=True))} for record in records]
    return format_rows(rows, COLUMNS, form).rstrip("\n")


def benchmark(
    data: DataOptions,
    names: Sequence[str],
    masks: MaskOptions,
    looks: LooksOptions,
    run: BenchmarkOptions,
    output: OutputOptions,
    model: ModelOptions,
) -> None:
    """Run both stages for the first method in DIR and for another one in DIR/<method>, and print the scores."""
    from gmae_tools.datasets.named import ListedSet, open_dataset

    photos = open_dataset(str(data.dataset), data.root)
    photos.pairs(data.split)  # reports missing files before torch is loaded
    with loading("torch"):
        from gmae_tools.benchmarks import boxes, regions
        from gmae_tools.benchmarks.figure_methods import RegionMethod
        from gmae_tools.benchmarks.predictions import MAPS
        from gmae_tools.system import processes

    processes.join()
    source = model.open() if names[0] in FOREGROUND_METHODS else None
    views = looks.looks(model.refine, WHOLE)
    methods = {name if number else "": RegionMethod.named(name, source, views) for number, name in enumerate(names)}
    rules = regions.MaskRules(masks.threshold, masks.min_max, masks.ap)
    folder, options = output.folder(MAPS, f"*/{MAPS}", launched=True), run.of(model)
    if isinstance(photos, ListedSet) and photos.boxed:
        scores = boxes.run(photos, data.split, methods, folder, rules=rules, options=options).scores
    else:
        scores = regions.run(photos, data.split, methods, folder, rules=rules, options=options).scores
    if processes.is_main():
        click.echo(render_beside(list(scores.values()), output.form, render_regions))
