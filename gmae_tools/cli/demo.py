"""`gmae-tools demo`: a page on which visitors take their own photographs apart."""

from __future__ import annotations

import time
from contextlib import ExitStack

import click

from gmae_tools.cli._models import ModelOptions, model_options
from gmae_tools.cli._progress import busy
from gmae_tools.demo.gradio_there import require_gradio
from gmae_tools.system.ports import check_free


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="To listen on.")
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="Whose visitors are served; 0.0.0.0 lets in other machines.",
)  # fmt: skip
@model_options
def command(port: int, host: str, model: ModelOptions) -> None:
    """Serve a page on which photographs can be dropped and taken apart, in a browser.

    The address is printed. The page shows the nearest K Gaussians of a photograph, its depth, its layers, its edges,
    figure and ground, and hands out the Gaussians (.ply) and the page that gmae-tools view writes. Photographs stay in
    memory, each visitor's own, and nothing is fetched from elsewhere. Ctrl-C ends it. Needs gradio: pip install
    'gmae-tools[demo]'.
    """
    require_gradio()
    check_free(host, port)
    opened = model.open()
    with ExitStack() as stack:
        with busy("starting the page"):
            from gmae_tools.demo.exhibit import Workshop
            from gmae_tools.demo.server import serve

            workshop = Workshop(opened.model, model.name, model.refine, model.backend, model.max_pixels)
            address = stack.enter_context(serve(workshop, host=host, port=port))
        click.echo(address)
        while True:
            time.sleep(1)
