"""`gmae-tools view3d`: walk around the Gaussians of a photograph, in a browser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._options import (
    backend_option,
    checkpoint_option,
    device_option,
    max_pixels_option,
    refine_option,
)
from gmae_tools.cli.export import fov_option

if TYPE_CHECKING:
    from gmae_tools.splatting import Backend


@click.command()
@click.argument("image", metavar="IMG", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="To listen on.")
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="Whose visitors are served; 0.0.0.0 lets in other machines.",
)  # fmt: skip
@fov_option
@checkpoint_option
@device_option
@backend_option
@refine_option
@max_pixels_option
def command(
    image: Path, port: int, host: str, fov: float, checkpoint: str, device: str, backend: Backend, refine: int,
    max_pixels: int,
) -> None:  # fmt: skip
    """Show the Gaussians of a photograph in 3-D, in a browser at the address that is printed.

    The first view is the picture; drag to turn the scene, scroll to come nearer, move the slider to see the nearest
    Gaussians alone. Ctrl-C ends it. Needs viser: pip install 'gmae-tools[view3d]'.
    """
    from gmae_tools import checkpoints
    from gmae_tools.images import read_image
    from gmae_tools.perspective import Viewer, in_perspective
    from gmae_tools.predict import predict, resolve_device
    from gmae_tools.refine import refine_photo
    from gmae_tools.report.view3d import require_viser, serve

    require_viser()
    photo = read_image(image, max_pixels=max_pixels)
    model = checkpoints.load(checkpoint, device=resolve_device(device))
    gaussians = predict(model, photo)
    if refine:
        gaussians = refine_photo(gaussians, photo, model.camera, refine, backend=backend).gaussians
    height, width = photo.shape[:2]
    viewer = Viewer(height, width, fov)
    source = f"{gaussians.k} by {Path(checkpoint).name}" + (f", refined in {refine} steps" if refine else "")
    moved = in_perspective(gaussians, model.camera, viewer)
    with serve(moved, viewer, host=host, port=port, title=image.name, source=source):
        click.echo(f"http://{host}:{port}")
        while True:
            time.sleep(1)
