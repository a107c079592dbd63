"""`gmae-tools view3d`: walk around the Gaussians of a photograph, in a browser."""

from __future__ import annotations

import time

import click

from gmae_tools.cli._inputs import input_path
from gmae_tools.cli._models import ModelOptions, model_options
from gmae_tools.cli._options import fov_option
from gmae_tools.images import read_image
from gmae_tools.report.viser_there import require_viser


@click.command()
@click.argument("image", metavar="IMG")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="To listen on.")
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="Whose visitors are served; 0.0.0.0 lets in other machines.",
)  # fmt: skip
@fov_option
@model_options
def command(image: str, port: int, host: str, fov: float, model: ModelOptions) -> None:
    """Show the Gaussians of a photograph (- for a pipe) in 3-D, in a browser at the address that is printed.

    The first view is the picture; drag to turn the scene, scroll to come nearer, move the slider to see the nearest
    Gaussians alone. Ctrl-C ends it. Needs viser: pip install 'gmae-tools[view3d]'.
    """
    require_viser()
    path = input_path(image)
    photo = read_image(path, max_pixels=model.max_pixels)  # before torch and the model are loaded

    from gmae_tools.formats.perspective import for_viewers
    from gmae_tools.report.view3d import serve

    scene = model.open().scene(photo, path.name)
    source = f"{scene.k} by {model.name}{model.refined}"
    moved, view = for_viewers(scene, fov)
    with serve(moved, view, host=host, port=port, title=path.name, source=source):
        click.echo(f"http://{host}:{port}")
        while True:
            time.sleep(1)
