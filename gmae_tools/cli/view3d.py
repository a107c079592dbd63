"""`gmae-tools view3d`: walk around the Gaussians of a photograph, in a browser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._inputs import input_path
from gmae_tools.cli._models import open_gmae
from gmae_tools.cli._options import (
    backend_option,
    checkpoint_option,
    device_option,
    fov_option,
    max_pixels_option,
    refine_option,
)
from gmae_tools.cli._progress import busy
from gmae_tools.report.viser_there import require_viser

if TYPE_CHECKING:
    from gmae_tools.splatting import Backend


@click.command()
@click.argument("image", metavar="IMG")
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
    image: str, port: int, host: str, fov: float, checkpoint: str, device: str, backend: Backend, refine: int,
    max_pixels: int,
) -> None:  # fmt: skip
    """Show the Gaussians of a photograph (- for a pipe) in 3-D, in a browser at the address that is printed.

    The first view is the picture; drag to turn the scene, scroll to come nearer, move the slider to see the nearest
    Gaussians alone. Ctrl-C ends it. Needs viser: pip install 'gmae-tools[view3d]'.
    """
    require_viser()

    from gmae_tools.images import read_image

    path = input_path(image)
    photo = read_image(path, max_pixels=max_pixels)

    from gmae_tools.formats.perspective import for_viewers
    from gmae_tools.predict import predict_scene
    from gmae_tools.refine import RefineOptions, refine_scene
    from gmae_tools.report.view3d import serve

    model = open_gmae(checkpoint, device, backend)
    scene = predict_scene(model, photo)
    if refine:
        with busy(f"refining in {refine} steps"):
            scene = refine_scene(scene, refine, RefineOptions(backend=backend))
    source = f"{scene.k} by {Path(checkpoint).name}" + (f", refined in {refine} steps" if refine else "")
    with serve(*for_viewers(scene, fov), host=host, port=port, title=path.name, source=source):
        click.echo(f"http://{host}:{port}")
        while True:
            time.sleep(1)
