"""`gmae-tools view3d`: walk around the Gaussians of a photograph, in a browser."""

from __future__ import annotations

import time

import click

from gmae_tools.cli._inputs import input_path
from gmae_tools.cli._models import ModelOptions, model_options
from gmae_tools.cli._options import fov_option, host_option
from gmae_tools.cli._scenes import SceneInputs, one_scene_options
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import is_gaussians_name
from gmae_tools.images import read_image
from gmae_tools.report.viser_there import MOST_SPLATS, require_viser


@click.command()
@one_scene_options
@click.option("--port", type=click.IntRange(1, 65535), default=8080, help="Port of the page.")
@host_option
@fov_option
@model_options
def command(inputs: SceneInputs, port: int, host: str, fov: float, model: ModelOptions) -> None:
    """Show the Gaussians of a photograph, or of a .ply, .splat or .npz file, in 3-D in a browser.

    IMG is a file, or - for a pipe. The address of the page is printed. The first view is the picture: drag to turn the
    scene, scroll to come nearer, and move the slider to see only the nearest Gaussians. More than 200,000 Gaussians are
    joined to fewer that look about the same from the first view, which is reported. Ctrl-C ends the command. It needs
    viser: pip install 'gmae-tools[view3d]'.
    """
    require_viser()
    path = input_path(inputs.images[0])
    photo = None
    if not is_gaussians_name(path.name):
        photo = read_image(path, max_pixels=model.max_pixels)  # before torch and the model are loaded
    elif not path.is_file():
        raise GmaeToolsError(f"{path}: no such file")
    scenes = inputs.open([path], model)

    from gmae_tools.formats.perspective import for_viewers
    from gmae_tools.report.view3d import serve
    from gmae_tools.simplify import simplify

    scene = scenes.scene(path, photo)
    shown = simplify(scene, MOST_SPLATS, backend=model.backend)
    source = f"{scene.k:,}, {scenes.maker(path)}{model.refined}"
    if shown.k < scene.k:
        source += f", joined to {shown.k:,}"
        click.echo(f"{path}: {scene.k:,} Gaussians are joined to {shown.k:,} that look about the same", err=True)
    moved, view = for_viewers(shown, fov)
    with serve(moved, view, host=host, port=port, title=path.name, source=source):
        click.echo(f"http://{host}:{port}")
        while True:
            time.sleep(1)
