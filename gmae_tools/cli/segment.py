"""`gmae-tools segment`: figure and ground of photographs, and their scores on a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gmae_tools import checkpoint_names
from gmae_tools.cli._inputs import find_inputs, images_argument, recursive_option
from gmae_tools.cli._models import open_gmae
from gmae_tools.cli._options import (
    Numbers,
    backend_option,
    device_option,
    folder_names,
    format_option,
    max_pixels_option,
    output_folder,
    print_failure,
    refine_option,
    unchecked_checkpoint_option,
)
from gmae_tools.cli._progress import busy, look_progress, progress_over
from gmae_tools.cli._scores import MaskThreshold, min_max_option, progress, render_regions, write_regions
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path

if TYPE_CHECKING:
    from gmae_tools.benchmarks.figure_methods import GaussianFigure, Segmenter
    from gmae_tools.metrics.regions import Threshold
    from gmae_tools.report.segment import ForegroundRow
    from gmae_tools.splatting import Backend

GAUSSIAN = ("grouped", "depth")
CLASSICAL = ("centre-prior", "everything", "otsu", "otsu-border", "spectral-residual", "grabcut")
SHEET, RECORD = "sheet.png", "segment.json"
COLUMNS = {"image": None, "x0": 0, "y0": 0, "x1": 0, "y1": 0, "area": 0, "share": 3}
RESULTS = ("maps", "scores.json", "images.csv", "curve.csv")


@click.command()
@images_argument(required=False)
@recursive_option
@click.option(
    "--dataset", metavar="NAME|DIR",
    help="Score the maps of a data set instead of drawing pictures: ecssd, pascal-s, duts-te, voc07-seg, voc12-seg, or"
    " a folder with images/ and masks/; or their boxes: voc07, voc12, coco, coco20k. Those of PASCAL VOC and COCO have"
    " splits: voc12:val.",
)  # fmt: skip
@click.option(
    "--split", type=click.Choice(["odd", "even", "all"]), default="all", show_default=True,
    help="Of the data set: photographs with odd numbers (to develop on), with even ones (to report), or all.",
)  # fmt: skip
@click.option("--root", envvar="GMAE_TOOLS_DATA", show_envvar=True, metavar="DIR", help="Folder of the data sets.")
@click.option(
    "--method", type=click.Choice([*GAUSSIAN, *CLASSICAL]), default=GAUSSIAN[0], show_default=True,
    help="How figure is told from ground.",
)  # fmt: skip
@click.option(
    "--threshold", type=MaskThreshold(), metavar="otsu|FLOAT",
    help="Makes the probability of figure a mask.  [default: the method's own]",
)  # fmt: skip
@click.option(
    "--scales", type=Numbers(), metavar="S,S,...", default="1", show_default=True,
    help="Look at S x S overlapping tiles of the photograph, and average over several S; 1 is the whole.",
)  # fmt: skip
@click.option("--flip", is_flag=True, help="Look at everything mirrored too, and average.")
@min_max_option
@click.option("--ap", is_flag=True, help="With --dataset, score all boxes as detections too (needs faster-coco-eval).")
@click.option("--jobs", type=click.IntRange(1), help="Processes that score.  [default: one a core]")
@click.option("--overwrite", is_flag=True, help="Remove the results of other settings from DIR.")
@click.option("-o", "--out", metavar="DIR", default="segment", show_default=True, help="For the results.")
@unchecked_checkpoint_option
@device_option
@backend_option
@refine_option
@max_pixels_option
@format_option
def command(
    images: tuple[str, ...], recursive: bool, dataset: str | None, split: str, root: str | None, method: str,
    threshold: Threshold | None, scales: tuple[int, ...], flip: bool, min_max: bool, ap: bool, jobs: int | None,
    overwrite: bool, out: str, checkpoint: str, device: str, backend: Backend, refine: int, max_pixels: int,
    form: str,
) -> None:  # fmt: skip
    """Tell figure from ground without training for it.

    With IMG (pictures, folders, globs, or - for a pipe) DIR/<name>/ receives probability.png, mask.png, cutout.png (the
    figure on transparent ground), overlay.png (figure outlined, ground faded, box) and segment.json (box and area in
    pixels), and DIR/sheet.png a row for each of the first 50. The box is that of the mask's largest region. Boxes and
    areas also go to stdout.

    With --dataset DIR/maps/ receives the probability of figure of each photograph, and DIR the scores, the curves over
    thresholds, a table of the images and the settings. Where a data set has boxes the score is CorLoc, the share of the
    photographs whose one box finds an object (IoU of 0.5 or more), with --ap also AP without classes. An interrupted
    run goes on where it stopped; other settings are refused without --overwrite. The scores also go to stdout. Several
    processes share the photographs: torchrun --nproc-per-node N -m gmae_tools segment --dataset ...

    Methods on the Gaussians: grouped (into a figure and a ground), depth (the plain readout). On the photograph:
    centre-prior (a fixed blob), everything, otsu (the bright side), otsu-border (the side with less of the border),
    spectral-residual, grabcut (from a centred box).
    """
    if bool(images) == bool(dataset):
        raise click.UsageError("give pictures, or --dataset")
    if method in GAUSSIAN:
        checkpoint_names.check(checkpoint)
    if dataset:
        benchmark(
            dataset, split, root, method, threshold, scales, flip, min_max, ap, jobs, overwrite, out, checkpoint,
            device, backend, refine, max_pixels, form,
        )  # fmt: skip
    else:
        paths, failures = find_inputs(images, recursive=recursive, out=out)
        failures += draw(
            paths, method, threshold, scales, flip, out, checkpoint, device, backend, refine, max_pixels, form
        )
        if failures:
            raise SystemExit(1)


def open_model(
    checkpoint: str, device: str, backend: Backend, scales: tuple[int, ...], flip: bool, refine: int
) -> GaussianFigure:
    """The segmenters of a checkpoint."""
    model = open_gmae(checkpoint, device, backend)

    from gmae_tools.benchmarks.figure_methods import GaussianFigure
    from gmae_tools.zeroshot.views import Looks

    return GaussianFigure(model, Looks(scales, flip, refine), backend, look_progress(refine))


def draw(
    paths: list[Path], method: str, threshold: Threshold | None, scales: tuple[int, ...], flip: bool, out: str,
    checkpoint: str, device: str, backend: Backend, refine: int, max_pixels: int, form: str,
) -> int:  # fmt: skip
    """Pictures, boxes and a contact sheet; returns how many pictures could not be read, each of which is reported."""
    with busy("loading torch"):
        from gmae_tools.benchmarks import figure_methods
        from gmae_tools.images import write_image
        from gmae_tools.report.contact_sheet import MOST_ROWS, of_all
        from gmae_tools.report.segment import foreground_sheet

    threshold = figure_methods.THRESHOLDS[method] if threshold is None else threshold
    source = open_model(checkpoint, device, backend, scales, flip, refine) if method in GAUSSIAN else None
    segment = source.segmenter(method) if source else figure_methods.CLASSICAL[method]
    folder = output_folder(out, "*")
    rows, records, failures = [], [], 0
    for path, name in progress_over(list(zip(paths, folder_names(paths), strict=True)), folder):
        try:
            row, record = take_out(path, segment, method, threshold, folder / name, max_pixels)
        except (GmaeToolsError, OSError) as error:
            print_failure(path, error)
            failures += 1
            continue
        records.append(record)
        if len(records) <= MOST_ROWS:
            rows.append(row)
    if rows:
        refined = f", refined in {refine} steps" if refine else ""
        maker = f" from K = {source.model.config.k} Gaussians by {Path(checkpoint).name}{refined}" if source else ""
        write_image(
            folder / SHEET, foreground_sheet("Figure and ground", f"{method}{maker}{of_all(rows, len(records))}", rows)
        )
    if records:
        click.echo(render(records, form))
    return failures


def take_out(
    path: Path, segment: Segmenter, method: str, threshold: Threshold, folder: Path, max_pixels: int
) -> tuple[ForegroundRow, dict[str, Any]]:
    """Everything about one picture, written to `folder`; its row of the sheet, and what stands in its JSON file."""
    import numpy as np

    from gmae_tools.images import read_image, write_image
    from gmae_tools.metrics.regions import binarize
    from gmae_tools.report.segment import cutout, foreground_row, overlay
    from gmae_tools.zeroshot.boxes import largest_box

    photo = read_image(path, max_pixels=max_pixels)
    probability = segment(photo)
    mask = binarize(probability, threshold)
    box = largest_box(mask)
    pictures = {
        "probability": np.rint(probability * 255).astype(np.uint8),
        "mask": mask,
        "cutout": cutout(photo, mask),
        "overlay": overlay(photo, mask, box),
    }
    for name, picture in pictures.items():
        write_image(folder / f"{name}.png", picture)
    record = {
        "image": str(path),
        "width": photo.shape[1],
        "height": photo.shape[0],
        "method": method,
        "threshold": threshold,
        "box": None if box is None else [int(side) for side in box],
        "area": int(mask.sum()),
        "share": round(float(mask.mean()), 6),
    }
    with atomic_path(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shown = {
        "photograph": photo,
        "probability of figure": pictures["probability"],
        "figure and box": pictures["overlay"],
        "cut-out": pictures["cutout"],
    }
    return foreground_row(path.name, shown), record


def render(records: list[dict[str, Any]], form: str) -> str:
    """What was found in the pictures, as text; a picture without figure has no box."""
    from gmae_tools.report.tables import format_rows

    if form == "json":
        return json.dumps(records, indent=2)
    corners = ("x0", "y0", "x1", "y1")
    rows = [{**record, **dict(zip(corners, record["box"] or [None] * 4, strict=True))} for record in records]
    return format_rows(rows, COLUMNS, form).rstrip("\n")


def benchmark(
    dataset: str, split: Any, root: str | None, method: str, threshold: Threshold | None, scales: tuple[int, ...],
    flip: bool, min_max: bool, ap: bool, jobs: int | None, overwrite: bool, out: str, checkpoint: str, device: str,
    backend: Backend, refine: int, max_pixels: int, form: str,
) -> None:  # fmt: skip
    """Both stages for one method; prints the scores."""
    from dataclasses import asdict

    from gmae_tools.datasets.named import ListedSet, open_dataset

    data = open_dataset(dataset, root)  # before torch is loaded, in case it is not there
    pairs: list[Any] = data.pairs(split)

    with busy("loading torch"):
        from gmae_tools.benchmarks import figure_methods
        from gmae_tools.benchmarks import regions as region_benchmark
        from gmae_tools.system import processes
    from gmae_tools.benchmarks.predictions import MAPS, claim, predict_maps, weights_of
    from gmae_tools.metrics.regions import RegionProtocol

    processes.join()
    threshold = figure_methods.THRESHOLDS[method] if threshold is None else threshold
    if ap:
        region_benchmark.detection([])  # says now, not at the end, if something has to be installed
    gaussian = method in GAUSSIAN
    settings = region_benchmark.Settings(
        dataset=data.name,
        split=split,
        method=method,
        threshold=threshold,
        min_max=min_max,
        checkpoint=Path(checkpoint).name if gaussian else None,
        weights=weights_of(checkpoint) if gaussian else None,
        scales=scales if gaussian else None,
        flip=flip if gaussian else None,
        refine=refine or None if gaussian else None,
    )
    source = open_model(checkpoint, device, backend, scales, flip, refine) if gaussian else None
    segment = source.segmenter(method) if source else figure_methods.CLASSICAL[method]
    folder = output_folder(out, MAPS, launched=True)
    claim(folder, asdict(settings), parts=RESULTS, overwrite=overwrite)
    photos = [pair.photo for pair in pairs]
    for _ in progress(predict_maps(photos, {folder: segment}, max_pixels), len(photos), "maps"):
        pass
    if isinstance(data, ListedSet) and data.boxed:
        about = {"dataset": data.name, "split": split, "method": method, "checkpoint": settings.checkpoint}
        score_boxes(pairs, folder, threshold, min_max, ap, jobs, form, about)
        return
    own, protocol = processes.share(region_benchmark.maps_of(folder, pairs)), RegionProtocol(min_max, threshold)
    scored = processes.gather(list(progress(region_benchmark.score_pairs(own, protocol, jobs), len(own), "scoring")))
    if not processes.is_main():
        return
    result = region_benchmark.summarize(scored, protocol)
    scores = result.to_dict()
    scores |= {"dataset": dataset, "split": split, "method": method, "checkpoint": settings.checkpoint}
    if data.official_size and split == "all" and data.official_size != len(pairs):
        scores["protocol"]["deviation"] = f"{len(pairs)} of the {data.official_size} photographs of {data.name}"
    if ap:
        scores |= region_benchmark.detection(scored)
    write_regions(folder, result, scores)
    click.echo(render_regions(scores, form))


def score_boxes(
    photos: list[Any], folder: Path, threshold: Threshold, min_max: bool, ap: bool, jobs: int | None, form: str,
    about: dict[str, Any],
) -> None:  # fmt: skip
    """The second stage on a data set that has boxes and no masks; writes and prints the scores."""
    from gmae_tools.benchmarks.boxes import box_scores, find_boxes
    from gmae_tools.cli._scores import render_boxes, serialize
    from gmae_tools.system import processes

    own = processes.share(photos)
    found = list(progress(find_boxes(own, folder, threshold, min_max, jobs), len(own), "boxes"))
    found = processes.gather(found)
    if not processes.is_main():
        return
    protocol = {"threshold": threshold, "min_max": min_max, "box": "of the mask's largest piece", "hit": "IoU >= 0.5"}
    scores = {**box_scores(found, detection=ap), **about, "protocol": protocol}
    with atomic_path(folder / "scores.json") as temporary:
        temporary.write_text(serialize(scores, "json") + "\n")
    click.echo(render_boxes(scores, form))
