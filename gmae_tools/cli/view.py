"""`gmae-tools view`: pages on which people take photographs apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from gmae_tools.checkpoint_names import number_of_gaussians
from gmae_tools.cli._models import ModelOptions, model_options
from gmae_tools.cli._options import OutputOptions, check_layers, jobs_option, output_options
from gmae_tools.cli._scenes import SceneInputs, Scenes, scene_options
from gmae_tools.cli._work import Work
from gmae_tools.formats import is_gaussians_name

if TYPE_CHECKING:
    from gmae_tools.report.page import PageRequest
    from gmae_tools.report.tables import Row

COLUMNS = {"image": None, "k": 0, "kilobytes": 0, "page": None}


@click.command()
@scene_options()
@click.option(
    "--layers", metavar="N", type=click.IntRange(1), default=8, show_default=True,
    help="How many depth groups to begin with; the page can change it.",
)  # fmt: skip
@click.option(
    "--side", metavar="PX", type=click.IntRange(16, 1000), default=800, show_default=True,
    help="Longest side of the pictures; smaller photographs keep their size.",
)  # fmt: skip
@jobs_option
@output_options("view", "Folder of the pages.")
@model_options
def command(
    inputs: SceneInputs, layers: int, side: int, jobs: int | None, output: OutputOptions, model: ModelOptions
) -> None:
    """Write pages on which photographs, or anyone's Gaussians, can be taken apart by hand.

    IMG is a picture, a file of Gaussians (.ply, .splat, .npz), a folder of them, a glob, or - for a pipe.
    DIR/<name>.html is a page that needs nothing but a browser: choose the nearest K Gaussians, a slab of depths or one
    of N layers, see render, photograph or expected depth, lay edges (l@N), figure and ground or the Gaussians' centres
    on top, and point at a pixel to learn which Gaussian it belongs to. A page holds 20,000 Gaussians at most; of a
    larger set it shows fewer that look about the same, and says so. The names of the pages go to stdout.

    An input that cannot be read is reported on stderr, the others are done, and the exit code is 1.
    """
    paths, failures = inputs.find(output.out)
    if not all(is_gaussians_name(path.name) for path in paths):
        check_layers(layers, number_of_gaussians(model.checkpoint))  # before torch and the model are loaded
    scenes = inputs.open(paths, model)
    if scenes.opened:
        check_layers(layers, scenes.opened.k)

    from gmae_tools.report.page import PageRequest

    folder = output.folder()
    request = PageRequest("", layers, model.refine, model.backend, side)
    work = Work(paths, folder, jobs, failures)
    rows = [row for _, row in work.each(lambda path, name: write_one(scenes, path, request, folder / f"{name}.html"))]
    if rows:
        output.print_rows(rows, COLUMNS)
    if work.failures:
        raise SystemExit(1)


def write_one(scenes: Scenes, path: Path, request: PageRequest, page: Path) -> Row:
    """Everything about one input: read, predict, refine, write; returns its row of the table."""
    from gmae_tools.report.page import MOST_SPLATS, write_page

    scene = scenes.scene(path)
    check_layers(request.layers, scene.k)
    if scene.k > MOST_SPLATS:
        with tqdm.external_write_mode():
            click.echo(
                f"{path}: of {scene.k:,} Gaussians the page shows up to {MOST_SPLATS:,} that look alike", err=True
            )
    size = write_page(scene, replace(request, checkpoint=scenes.maker(path)), page, path.name)
    return {"image": str(path), "k": scene.k, "kilobytes": round(size / 1000), "page": str(page)}
