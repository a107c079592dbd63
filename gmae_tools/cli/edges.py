"""`gmae-tools edges`: edge maps of photographs, and their scores on a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gmae_tools.benchmarks.names import EDGES, FIRST_EDGES, THRESHOLDS, scales_of
from gmae_tools.cli._models import (
    BenchmarkOptions,
    LooksOptions,
    ModelOptions,
    looks_options,
    optional_model_options,
    run_options,
)
from gmae_tools.cli._options import DataOptions, OutputOptions, data_options, numbers, output_options
from gmae_tools.cli._progress import loading
from gmae_tools.cli._scenes import ONE_LOOK, SceneInputs, Scenes, scene_options
from gmae_tools.cli._scores import render, render_beside
from gmae_tools.cli._work import Work
from gmae_tools.zeroshot.names import EDGE_READOUTS, EDGE_SCALES, HIERARCHY, LAYERS

if TYPE_CHECKING:
    from gmae_tools.benchmarks.edge_methods import EdgeMethod
    from gmae_tools.benchmarks.edges import EdgeResults
    from gmae_tools.report.edges import EdgeRow

SHEET = "sheet.png"
TILES = "tiles"  # folder of the results of l@N from tiles, within that of l@N from the whole photograph


@click.command()
@scene_options(required=False)
@data_options(
    click.option(
        "--dataset", type=click.Choice(["bsds500"]), help="Data set whose edge maps are scored, in place of IMG."
    ),
    click.option("--split", type=click.Choice(["train", "val", "test"]), default="val"),
)
@click.option(
    "--readout",
    "readouts",
    type=click.Choice(EDGES),
    multiple=True,
    help="Readout or detector of the edges; give the option several times for several maps of each picture."
    f"  [default: {' and '.join(FIRST_EDGES)}; with --dataset {FIRST_EDGES[0]}]",
)
@click.option(
    "--layers",
    type=numbers,
    metavar="N,N,...",
    help="Numbers N of depth groups for l@N. With --dataset the maps of several numbers are averaged."
    f"  [default: {','.join(map(str, HIERARCHY))}; with --dataset {LAYERS}]",
)
@looks_options(f"1 for layers, for other readouts {','.join(map(str, EDGE_SCALES))}")
@click.option("--thresholds", type=click.IntRange(1), default=THRESHOLDS, help="Number of thresholds of the benchmark.")
@run_options
@output_options("edges")
@optional_model_options
def command(
    inputs: SceneInputs,
    data: DataOptions,
    readouts: tuple[str, ...],
    layers: tuple[int, ...] | None,
    looks: LooksOptions,
    thresholds: int,
    run: BenchmarkOptions,
    output: OutputOptions,
    model: ModelOptions,
) -> None:
    """Find edges without training for edges.

    With IMG (pictures, files of Gaussians, folders, globs, or - for a pipe) DIR/<name>/ receives a soft map for each
    readout and number of layers, in which strong edges are white. DIR/sheet.png has a row for each of the first 50
    pictures: the photograph, the ground truth if the picture lies in a copy of BSDS500, and the maps. l@N is read from
    one look at the whole photograph, as published; with --scales 1,2,3,4 also from tiles, as the other readouts are.
    Files of Gaussians (.ply, .splat, .npz) are always read in one look.

    With --dataset DIR/maps/ receives the map of each photograph, DIR/counts/ the counts of matched pixels, and DIR the
    scores, the precision-recall curve, a table of the images and the settings. The scores also go to stdout. l@N is
    scored as published, from one look; unless --scales is given, it is also scored from tiles, with maps in DIR/tiles.
    An interrupted run continues where it stopped. Maps of other settings are refused without --overwrite; with another
    --thresholds existing maps are scored again. Several processes can share the photographs:
    torchrun --nproc-per-node N -m gmae_tools edges --dataset ...

    Readouts of the Gaussians are layers (l@N), layer-changes (where depth groups begin to change the picture),
    expected-depth (the gradient of the expected depth), regions (regions of the strongest Gaussian, merged step by
    step), render-gradient (the gradient of the rendered picture, without depth), combined (the mean of the last two),
    closed-regions (regions, of which small ones are merged earlier) and regions-and-photo (closed-regions averaged
    with histograms). Detectors on the photograph are sobel, sobel-nms, canny, soft-canny and histograms (how colours
    and texture differ on two sides of a pixel).
    """
    if bool(inputs.images) == bool(data.dataset):
        raise click.UsageError("give pictures, or --dataset")
    names = readouts or (FIRST_EDGES[:1] if data.dataset else FIRST_EDGES)
    if data.dataset and len(names) > 1:
        raise click.UsageError("--dataset scores one --readout at a time")
    if not set(names).isdisjoint(EDGE_READOUTS):
        model.check()
    if data.dataset:
        inputs.refuse_views("is for files of Gaussians, not for --dataset")
        benchmark(data, names[0], layers or (LAYERS,), looks, thresholds, run, output, model)
        return
    paths, failures = inputs.find(output.out)
    inputs.check(paths, model.refine)
    with loading("torch"):
        from gmae_tools.benchmarks.edge_methods import EdgeMethod
    uses_gaussians = not set(names).isdisjoint(EDGE_READOUTS)
    scenes = inputs.open(paths, model, needed=uses_gaussians)
    methods = [
        EdgeMethod.named(name, scenes.source, looks.looks(model.refine, scales_of(name)), groups)
        for name in names
        for groups in ([(count,) for count in layers or HIERARCHY] if name == "layers" else [()])
    ]
    about = []
    if scenes.source:
        about.append(f"K = {scenes.source.k} Gaussians a look by {model.name}; {in_words(methods)}{model.refined}")
    if uses_gaussians and scenes.any_file(paths):
        looks.warn_of_one_look()
        about.append(f"{ONE_LOOK}{model.refined}")
    subtitle = "; ".join(about) or "on the photographs"
    folder = output.folder("*")
    work = Work(paths, folder, run.jobs, failures)
    write_pictures(work, methods, subtitle, folder, scenes)
    if work.failures:
        raise SystemExit(1)


def in_words(methods: Sequence[EdgeMethod]) -> str:
    """Describe which views the methods use, such as `l@N: one look, regions: tiles 3 x 3 and 4 x 4`."""
    words = {}
    for method in methods:
        if method.looks:
            tiles = ", ".join(f"{scale} x {scale}" for scale in method.looks.scales if scale > 1)
            listed = " and ".join(tiles.rsplit(", ", 1))
            parts = ["one look"] * (1 in method.looks.scales) + ([f"tiles {listed}"] if tiles else [])
            words["l@N" if method.layers else method.name] = " and ".join(parts + ["mirrored"] * method.looks.flip)
    return ", ".join(f"{name}: {looks}" for name, looks in words.items())


def write_pictures(work: Work, methods: Sequence[EdgeMethod], about: str, folder: Path, scenes: Scenes) -> None:
    """Write the maps of all pictures and a contact sheet."""
    from gmae_tools.images import write_image
    from gmae_tools.report.contact_sheet import MOST_ROWS, of_all
    from gmae_tools.report.edges import edge_sheet

    found = work.each(lambda path, name: find_edges(path, methods, folder / name, scenes))
    rows = [row for _, row in found if work.done <= MOST_ROWS]
    if rows:
        write_image(folder / SHEET, edge_sheet("Edges", about + of_all(rows, work.done), rows))
        click.echo(str(folder / SHEET))


def find_edges(path: Path, methods: Sequence[EdgeMethod], folder: Path, scenes: Scenes) -> EdgeRow:
    """Write the maps of one picture to `folder` (l@16 as `l16.png`), and return its row of the sheet."""
    import numpy as np

    from gmae_tools.datasets.bsds500 import read_boundaries
    from gmae_tools.images import write_image
    from gmae_tools.report.edges import edge_row

    photo, rendered, maps = scenes.maps(path, methods)
    shown = {}
    place = path.resolve()  # in a copy of BSDS500: images/<split>/<id>.jpg, and groundTruth/<split>/<id>.mat
    truth = place.parent.parent.parent / "groundTruth" / place.parent.name / f"{place.stem}.mat"
    if truth.is_file():
        shown["ground truth"] = np.mean(read_boundaries(truth), axis=0)
    for method, strength in zip(methods, maps, strict=True):
        shown[method.label] = strength
        write_image(folder / f"{method.label.replace('@', '')}.png", strength)
    return edge_row(path.name, photo, shown, rendered=rendered)


def benchmark(
    data: DataOptions,
    name: str,
    layers: tuple[int, ...],
    looks: LooksOptions,
    thresholds: int,
    run: BenchmarkOptions,
    output: OutputOptions,
    model: ModelOptions,
) -> None:
    """Run both stages for one readout in DIR, and for l@N from tiles in DIR/tiles, and print the scores."""
    from gmae_tools.datasets.bsds500 import BSDS500

    photos = BSDS500(data.root)
    photos.images(data.split)  # reports missing photographs before torch is loaded
    with loading("torch"):
        from gmae_tools.benchmarks import edges
        from gmae_tools.benchmarks.edge_methods import EdgeMethod
        from gmae_tools.benchmarks.predictions import MAPS
        from gmae_tools.system import processes

    processes.join()
    source = model.open() if name in EDGE_READOUTS else None
    scales = {"": scales_of(name)}
    if name == "layers" and looks.scales is None:
        scales[TILES] = EDGE_SCALES
    methods = {
        part: EdgeMethod.named(name, source, looks.looks(model.refine, own), layers) for part, own in scales.items()
    }
    folder = output.folder(MAPS, edges.COUNTS, edges.HUMAN, f"*/{MAPS}", launched=True)
    found = edges.run(photos, data.split, methods, folder, thresholds=thresholds, options=run.of(model))
    if processes.is_main():
        click.echo(render_beside([scores_of(found, part) for part in methods], output.form, render))


def scores_of(found: EdgeResults, part: str) -> dict[str, Any]:
    """Return the scores of the method in this part of the folder, with its views in the protocol."""
    method, scores = found.methods[part], found.results[part].to_dict()
    if method.looks:
        scores["protocol"] |= {"looks": in_words([method])}
    return scores | {"readout": method.name, "layers": method.layers, "checkpoint": method.checkpoint}
