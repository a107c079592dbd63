"""`gmae-tools view`: pages on which people take photographs apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.checkpoint_names import number_of_gaussians
from gmae_tools.cli._inputs import find_inputs, images_argument, recursive_option
from gmae_tools.cli._models import open_gmae
from gmae_tools.cli._options import (
    backend_option,
    check_layers,
    checkpoint_option,
    device_option,
    folder_names,
    format_option,
    max_pixels_option,
    output_folder,
    print_failure,
    refine_option,
)
from gmae_tools.cli._progress import progress_over, refine_with_progress
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from gmae_tools.model import GMAE
    from gmae_tools.report.page import PageRequest
    from gmae_tools.report.tables import Row
    from gmae_tools.splatting import Backend

COLUMNS = {"image": None, "k": 0, "kilobytes": 0, "page": None}


@click.command()
@images_argument()
@recursive_option
@click.option(
    "--layers", metavar="N", type=click.IntRange(1), default=8, show_default=True,
    help="How many depth groups to begin with; the page can change it.",
)  # fmt: skip
@click.option(
    "--side", metavar="PX", type=click.IntRange(16, 1000), default=800, show_default=True,
    help="Longest side of the pictures; smaller photographs keep their size.",
)  # fmt: skip
@click.option("-o", "--out", metavar="DIR", default="view", show_default=True, help="For the pages.")
@checkpoint_option
@device_option
@backend_option
@refine_option
@max_pixels_option
@format_option
def command(images: tuple[str, ...], recursive: bool, layers: int, side: int, out: str, checkpoint: str, device: str, backend: Backend, refine: int, max_pixels: int, form: str) -> None:  # fmt: skip  # noqa: E501
    """Write pages on which photographs can be taken apart by hand.

    IMG is a picture, a folder of pictures, a glob, or - for a pipe. DIR/<name>.html is a page that needs nothing but a
    browser: choose the nearest K Gaussians, a slab of depths or one of N layers, see render, photograph or expected
    depth, lay edges (l@N), figure and ground or the Gaussians' centres on top, and point at a pixel to learn which
    Gaussian it belongs to. The names of the pages go to stdout.

    A picture that cannot be read is reported on stderr, the others are done, and the exit code is 1.
    """
    check_layers(layers, number_of_gaussians(checkpoint))  # before torch and the model are loaded
    paths, failures = find_inputs(images, recursive=recursive, out=out)
    model = open_gmae(checkpoint, device, backend)
    check_layers(layers, model.config.k)

    from gmae_tools.report.page import PageRequest
    from gmae_tools.report.tables import format_rows

    folder = output_folder(out)
    request = PageRequest(Path(checkpoint).name, layers, refine, backend, side)
    rows: list[Row] = []
    for path, name in progress_over(list(zip(paths, folder_names(paths), strict=True)), folder):
        try:
            rows.append(show(model, path, request, folder / f"{name}.html", max_pixels))
        except (GmaeToolsError, OSError) as error:
            print_failure(path, error)
            failures += 1
    if rows:
        click.echo(format_rows(rows, COLUMNS, form), nl=False)
    if failures:
        raise SystemExit(1)


def show(model: GMAE, path: Path, request: PageRequest, page: Path, max_pixels: int) -> Row:
    """Everything about one picture: read, predict, refine, write; returns its row of the table."""
    from gmae_tools.images import read_image
    from gmae_tools.predict import predict_scene
    from gmae_tools.report.page import write_page

    scene = predict_scene(model, read_image(path, max_pixels=max_pixels))
    if request.refine:
        scene = refine_with_progress(scene, request.refine, name=path.name, backend=request.backend)
    size = write_page(scene, request, page, path.name)
    return {"image": str(path), "k": scene.k, "kilobytes": round(size / 1000), "page": str(page)}
