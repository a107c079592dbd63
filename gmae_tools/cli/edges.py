"""`gmae-tools edges`: edge maps of photographs, and their scores on a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

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
from gmae_tools.cli._scores import progress, render, write
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from gmae_tools.benchmarks.edge_methods import Detector, GaussianEdges
    from gmae_tools.report.edges import EdgeRow
    from gmae_tools.splatting import Backend

GAUSSIAN = ("layers", "expected-depth", "regions", "combined", "render-gradient", "closed-regions")
CLASSICAL = ("sobel", "sobel-nms", "canny", "soft-canny")
HIERARCHY, SINGLE = (32, 16, 8, 4), (16,)  # layers of the pictures, and of the benchmark
SHEET = "sheet.png"
FOLDERS = ("maps", "counts", "human")  # of the benchmark


@click.command()
@images_argument(required=False)
@recursive_option
@click.option(
    "--dataset", type=click.Choice(["bsds500"]), help="Score the maps of a data set instead of drawing pictures."
)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="val", show_default=True)
@click.option("--root", envvar="GMAE_TOOLS_DATA", show_envvar=True, metavar="DIR", help="Folder of the data sets.")
@click.option(
    "--readout", "readouts", type=click.Choice([*GAUSSIAN, *CLASSICAL]), multiple=True,
    help="How edges are read out; for pictures, more than once for several.  [default: layers]",
)  # fmt: skip
@click.option(
    "--layers", type=Numbers(), metavar="N,N,...",
    help="Numbers of depth groups. With --dataset several make one map of what persists."
    "  [default: 32,16,8,4; with --dataset 16]",
)  # fmt: skip
@click.option(
    "--scales", type=Numbers(), metavar="S,S,...", default="3,4", show_default=True,
    help="Look at S x S overlapping tiles of the photograph, and average over several S; 1 is the whole.",
)  # fmt: skip
@click.option("--flip", is_flag=True, help="Look at everything mirrored too, and average.")
@click.option(
    "--thresholds", type=click.IntRange(1), default=99, show_default=True, help="Number of thresholds of the benchmark."
)
@click.option("--jobs", type=click.IntRange(1), help="Images scored at a time.  [default: one a core]")
@click.option("--overwrite", is_flag=True, help="Remove the results of other settings from DIR.")
@click.option("-o", "--out", metavar="DIR", default="edges", show_default=True, help="For the results.")
@unchecked_checkpoint_option
@device_option
@backend_option
@refine_option
@max_pixels_option
@format_option
def command(
    images: tuple[str, ...], recursive: bool, dataset: str | None, split: str, root: str | None,
    readouts: tuple[str, ...], layers: tuple[int, ...] | None, scales: tuple[int, ...], flip: bool, thresholds: int,
    jobs: int | None, overwrite: bool, out: str, checkpoint: str, device: str, backend: Backend, refine: int,
    max_pixels: int, form: str,
) -> None:  # fmt: skip
    """Find edges without training for it.

    With IMG (pictures, folders, globs, or - for a pipe) DIR/<name>/ receives a soft map for each readout and number of
    layers (white is strong), and DIR/sheet.png a row for each of the first 50: photograph, ground truth if the picture
    lies in a copy of BSDS500, maps.

    With --dataset DIR/maps/ receives the map of each photograph, DIR/counts/ what the benchmark counts in it, and DIR
    the scores, the precision-recall curve, a table of the images and the settings. An interrupted run goes on where it
    stopped; other settings are refused without --overwrite. The scores also go to stdout. Several processes share the
    photographs: torchrun --nproc-per-node N -m gmae_tools edges --dataset ...

    Readouts of the Gaussians: layers (l@N), expected-depth, regions (of the strongest Gaussian, merged step by step),
    render-gradient (the baseline without depth), combined (the last two), closed-regions (regions, weaker where they
    do not close around anything). On the photograph: sobel, sobel-nms, canny, soft-canny.
    """
    if bool(images) == bool(dataset):
        raise click.UsageError("give pictures, or --dataset")
    if not set(readouts or ("layers",)).isdisjoint(GAUSSIAN):
        checkpoint_names.check(checkpoint)
    if dataset:
        if len(readouts) > 1:
            raise click.UsageError("--dataset scores one --readout at a time")
        benchmark(
            readouts[0] if readouts else "layers", split, root, layers or SINGLE, scales, flip, thresholds, jobs,
            overwrite, out, checkpoint, device, backend, refine, max_pixels, form,
        )  # fmt: skip
    else:
        paths, failures = find_inputs(images, recursive=recursive, out=out)
        failures += draw(
            paths, readouts or ("layers",), layers or HIERARCHY, scales, flip, output_folder(out, "*"), checkpoint,
            device, backend, refine, max_pixels,
        )  # fmt: skip
        if failures:
            raise SystemExit(1)


def draw(
    paths: list[Path], readouts: tuple[str, ...], layers: tuple[int, ...], scales: tuple[int, ...], flip: bool,
    folder: Path, checkpoint: str, device: str, backend: Backend, refine: int, max_pixels: int,
) -> int:  # fmt: skip
    """Maps and a contact sheet; returns how many pictures could not be read, each of which is reported."""
    with busy("loading torch"):
        from gmae_tools.images import write_image
        from gmae_tools.report.contact_sheet import MOST_ROWS, of_all
        from gmae_tools.report.edges import edge_sheet

    gaussian = set(readouts) & set(GAUSSIAN)
    source = open_model(checkpoint, device, backend, scales, flip, refine) if gaussian else None
    with busy("loading torch"):
        detectors = captioned(readouts, layers, source)
    rows, done, failures = [], 0, 0
    for path, name in progress_over(list(zip(paths, folder_names(paths), strict=True)), folder):
        try:
            row = find_edges(path, detectors, folder / name, max_pixels)
        except (GmaeToolsError, OSError) as error:
            print_failure(path, error)
            failures += 1
            continue
        done += 1
        if done <= MOST_ROWS:
            rows.append(row)
    if rows:
        looks = f"scales {', '.join(map(str, scales))}" + (" and mirrored" if flip else "")
        looks += f", refined in {refine} steps" if refine else ""
        subtitle = "on the photographs"
        if source:
            subtitle = f"read from K = {source.model.config.k} Gaussians a look by {Path(checkpoint).name}, {looks}"
        write_image(folder / SHEET, edge_sheet("Edges", subtitle + of_all(rows, done), rows))
        click.echo(str(folder / SHEET))
    return failures


def find_edges(path: Path, detectors: Mapping[str, Detector], folder: Path, max_pixels: int) -> EdgeRow:
    """The maps of one picture, written to `folder`, as a row of the sheet."""
    import numpy as np

    from gmae_tools.datasets.bsds500 import read_boundaries
    from gmae_tools.images import read_image, write_image
    from gmae_tools.report.edges import edge_row

    photo = read_image(path, max_pixels=max_pixels)
    maps = {}
    truth = truth_beside(path)
    if truth is not None:
        maps["ground truth"] = np.mean(read_boundaries(truth), axis=0)
    for caption, detect in detectors.items():
        maps[caption] = detect(photo)
        write_image(folder / f"{caption.replace('@', '_')}.png", maps[caption])
    return edge_row(path.name, photo, maps)


def truth_beside(path: Path) -> Path | None:
    """The ground truth of a photograph in the layout of BSDS500: `groundTruth/<split>/<id>.mat`, if it is there."""
    place = path.resolve()
    truth = (
        place.parents[2] / "groundTruth" / place.parent.name / f"{place.stem}.mat" if len(place.parents) > 2 else None
    )
    return truth if truth and truth.is_file() else None


def captioned(readouts: tuple[str, ...], layers: tuple[int, ...], source: GaussianEdges | None) -> dict[str, Detector]:
    """The detectors by their names on the sheet: `edge@32` for layers, the readout's own name for the others."""
    from gmae_tools.benchmarks import edge_methods

    found: dict[str, Detector] = {}
    for readout in readouts:
        if readout in edge_methods.CLASSICAL:
            found[readout] = edge_methods.CLASSICAL[readout]
            continue
        assert source is not None
        if readout == "layers":
            found |= {f"edge@{count}": source.detector(readout, (count,)) for count in layers}
        else:
            found[readout] = source.detector(readout, layers)
    return found


def open_model(
    checkpoint: str, device: str, backend: Backend, scales: tuple[int, ...], flip: bool, refine: int
) -> GaussianEdges:
    """The detectors of a checkpoint."""
    model = open_gmae(checkpoint, device, backend)

    from gmae_tools.benchmarks.edge_methods import GaussianEdges
    from gmae_tools.zeroshot.views import Looks

    return GaussianEdges(model, Looks(scales, flip, refine), backend, look_progress(refine))


def benchmark(
    readout: str, split: str, root: str | None, layers: tuple[int, ...], scales: tuple[int, ...], flip: bool,
    thresholds: int, jobs: int | None, overwrite: bool, out: str, checkpoint: str, device: str, backend: Backend,
    refine: int, max_pixels: int, form: str,
) -> None:  # fmt: skip
    """Both stages for one readout; prints the scores."""
    from gmae_tools.datasets.bsds500 import BSDS500

    data = BSDS500(root)  # before torch is loaded, in case it is not there
    photos, truths = data.images(split), data.ground_truth_folder(split)
    folder = output_folder(out, *FOLDERS, launched=True)

    with busy("loading torch"):
        from gmae_tools.benchmarks import edge_methods
        from gmae_tools.benchmarks import edges as edge_benchmark
        from gmae_tools.system import processes
    from gmae_tools.benchmarks.predictions import predict_maps, weights_of

    processes.join()
    gaussian = readout in GAUSSIAN
    settings = edge_benchmark.Settings(
        dataset="bsds500",
        split=split,
        readout=readout,
        layers=layers if readout == "layers" else None,
        checkpoint=Path(checkpoint).name if gaussian else None,
        weights=weights_of(checkpoint) if gaussian else None,
        scales=scales if gaussian else None,
        flip=flip if gaussian else None,
        thresholds=thresholds,
        refine=refine or None if gaussian else None,
    )
    source = open_model(checkpoint, device, backend, scales, flip, refine) if gaussian else None
    edge_benchmark.claim(folder, settings, overwrite=overwrite)
    detect = source.detector(readout, layers) if source else edge_methods.CLASSICAL[readout]
    for _ in progress(predict_maps(photos, {folder: detect}, max_pixels), len(photos), "maps"):
        pass
    result = edge_benchmark.score_maps(folder, truths, thresholds, jobs=jobs, progress=progress)
    human = edge_benchmark.score_annotators(folder, truths, folder / "human", jobs=jobs, progress=progress)
    if not processes.is_main():
        return
    result.protocol["non_maximum_suppression"] = edge_methods.SUPPRESSION[readout]
    caption = f"BSDS500 {split}: {result.images} images, {thresholds} thresholds"
    caption += f"; {settings.checkpoint}, K = {source.model.config.k}" if source else ""
    write(folder, readout, result, human, caption)
    scores = result.to_dict() | {"readout": readout, "layers": settings.layers, "checkpoint": settings.checkpoint}
    click.echo(render(scores, form))
