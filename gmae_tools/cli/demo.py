"""`gmae-tools demo`: serve a page that takes the photographs of its visitors apart."""

from __future__ import annotations

import time
from contextlib import ExitStack

import click

from gmae_tools.cli._models import ModelOptions, model_options
from gmae_tools.cli._options import host_option
from gmae_tools.cli._progress import busy
from gmae_tools.demo.gradio_there import require_gradio
from gmae_tools.system.ports import check_free


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=7860, help="Port of the page.")
@host_option
@model_options
def command(port: int, host: str, model: ModelOptions) -> None:
    """Serve a page in the browser that takes a photograph apart when it is dropped there.

    The address of the page is printed. The page shows the nearest K Gaussians of a photograph, its depth, layers and
    edges, and its foreground; the Gaussians (.ply) and the page of gmae-tools view can be downloaded. Photographs stay
    in memory, visitors only see their own, and nothing is loaded from other servers. Ctrl-C ends the command. It needs
    gradio: pip install 'gmae-tools[demo]'.
    """
    require_gradio()
    check_free(host, port)
    source = model.open()
    with ExitStack() as stack:
        with busy("starting the page"):
            from gmae_tools.demo.exhibit import Workshop
            from gmae_tools.demo.server import serve

            workshop = Workshop(source.model, model.name, model.refine, model.backend, model.max_pixels)
            address = stack.enter_context(serve(workshop, host=host, port=port))
        click.echo(address)
        while True:
            time.sleep(1)
