"""`gmae-tools view`: interactive pages that take photographs apart."""

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
    "--layers",
    metavar="N",
    type=click.IntRange(1),
    default=8,
    help="Number of depth groups when the page is opened; it can be changed on the page.",
)
@click.option(
    "--side",
    metavar="PX",
    type=click.IntRange(16, 1000),
    default=800,
    help="Longest side of the pictures in pixels; smaller photographs keep their size.",
)
@jobs_option
@output_options("view", "Folder of the pages.")
@model_options
def command(
    inputs: SceneInputs, layers: int, side: int, jobs: int | None, output: OutputOptions, model: ModelOptions
) -> None:
    """Write interactive pages that take photographs, or Gaussians from any program, apart.

    IMG is a picture, a file of Gaussians (.ply, .splat, .npz), a folder of them, a glob, or - for a pipe.
    DIR/<name>.html is a page that only needs a browser. It shows the nearest K Gaussians, a range of depths or one of N
    layers, as the rendered picture, the photograph or the expected depth, with edges (l@N), the foreground or the
    centres of the Gaussians on top, and names the Gaussian of the pixel under the pointer. A page has at most 20,000
    Gaussians; a larger set is joined to fewer Gaussians that look about the same, which is reported. The names of the
    pages go to stdout.

    An input that cannot be read is reported on stderr, the other inputs are processed, and the exit code is 1.
    """
    paths, failures = inputs.find(output.out)
    if not all(is_gaussians_name(path.name) for path in paths):
        check_layers(layers, number_of_gaussians(model.checkpoint))  # before torch and the model are loaded
    scenes = inputs.open(paths, model)
    if scenes.source:
        check_layers(layers, scenes.source.k)

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
    """Read, predict, refine and write one input, and return its row of the table."""
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
