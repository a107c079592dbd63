"""`gmae-tools layers`: the depth layers of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.checkpoint_names import number_of_gaussians
from gmae_tools.cli._inputs import Inputs, input_options
from gmae_tools.cli._models import ModelOptions, OpenModel, model_options
from gmae_tools.cli._options import OutputOptions, check_layers, folder_names, output_options, print_failure
from gmae_tools.cli._progress import progress_over, strip_progress
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path

if TYPE_CHECKING:
    from gmae_tools.report.layers import LayersRequest
    from gmae_tools.report.tables import Row

DEFAULT_KS = "32,64,128,256,512,all"
TABLE = "layers.csv"


@click.command()
@input_options()
@click.option("--k", "ks", metavar="K,K,...", help=f"How many nearest Gaussians to show.  [default: {DEFAULT_KS}]")
@click.option("--layers", metavar="N", type=int, default=8, show_default=True, help="How many depth groups to show.")
@click.option("--html", is_flag=True, help="Also write view.html, a page to take the photograph apart by hand.")
@click.option(
    "--background", type=click.Choice(["white", "black", "transparent"]), default="white", show_default=True,
    help="Behind the Gaussians.",
)  # fmt: skip
@output_options("layers")
@model_options
def command(
    inputs: Inputs,
    ks: str | None,
    layers: int,
    html: bool,
    background: str,
    output: OutputOptions,
    model: ModelOptions,
) -> None:
    """Take photographs apart into depth layers.

    IMG is a picture, a folder of pictures, a glob, or - for a picture that comes through a pipe. For each picture,
    DIR/<name>/ receives first_<K>.png (the nearest K Gaussians), layer_<n>.png (each of N equal depth groups alone, 1
    is the nearest), depth.png (near is bright), sheet.png (all of these on one page) and gaussians.npz; with --html
    also view.html, the page that gmae-tools view writes. The table (for each K: PSNR and SSIM against the photograph,
    and coverage) goes to stdout and to DIR/layers.csv; with --refine it also has the PSNR of the prediction
    (psnr_before). Refinement leaves the order of depths as it is.

    A picture that cannot be read is reported on stderr, the others are done, and the exit code is 1.
    """
    wanted = parse_ks(DEFAULT_KS if ks is None else ks)
    count = number_of_gaussians(model.checkpoint)
    check_layers(layers, count)  # before torch and the model are loaded
    if count is not None:
        fit_ks(wanted, count, exact=ks is not None)
    paths, failures = inputs.find(output.out)
    opened = model.open()
    chosen = fit_ks(wanted, opened.k, exact=ks is not None)
    check_layers(layers, opened.k)

    from gmae_tools.report.layers import LayersRequest
    from gmae_tools.report.tables import format_rows

    folder = output.folder("*")
    request = LayersRequest(chosen, layers, background, model.name, model.backend, model.refine, html)
    rows: list[Row] = []
    try:
        for path, name in progress_over(list(zip(paths, folder_names(paths), strict=True)), folder):
            try:
                rows += write_one(opened, path, request, folder / name)
            except (GmaeToolsError, OSError) as error:
                print_failure(path, error)
                failures += 1
    finally:  # an interrupted run keeps the table of what it has finished
        if rows:
            with atomic_path(folder / TABLE) as temporary:
                temporary.write_text(format_rows(rows, request.columns, "csv"), encoding="utf-8")
    if rows:
        output.print_rows(rows, request.columns)
    if failures:
        raise SystemExit(1)


def write_one(opened: OpenModel, path: Path, request: LayersRequest, folder: Path) -> list[Row]:
    """Everything about one picture: read, predict, refine, render, write; returns its rows of the table."""
    from gmae_tools.report.layers import BACKGROUNDS, write_layers

    before = opened.predict(path)
    scene = opened.refine(before, path.name, background=BACKGROUNDS[request.background])
    progress = strip_progress(scene.height, scene.width, path.name)
    return write_layers(scene, request, folder, str(path), progress=progress, before=before if request.refine else None)


def parse_ks(text: str) -> dict[str, int | None]:
    """`32,all` as numbers by name, None for `all`, in rising order, each once.

    Raises:
        GmaeToolsError: an entry is neither a number of 1 or more nor `all`.
    """
    ks: set[int | None] = set()
    for entry in text.split(","):
        entry = entry.strip()
        if entry != "all" and not (entry.isascii() and entry.isdigit() and int(entry) > 0):
            raise GmaeToolsError(f"--k {text}: {entry!r} is not a number of 1 or more, nor 'all'")
        ks.add(None if entry == "all" else int(entry))
    return {str(k or "all"): k for k in sorted(ks, key=lambda k: (k is None, k))}


def fit_ks(ks: dict[str, int | None], count: int, *, exact: bool) -> dict[str, int]:
    """Numbers by name for a checkpoint of `count` Gaussians.

    Args:
        exact: refuse numbers beyond `count`; they are left out if False.

    Raises:
        GmaeToolsError: a number is beyond `count`.
    """
    beyond = [name for name, k in ks.items() if k is not None and k > count]
    if beyond and exact:
        raise GmaeToolsError(f"--k {beyond[0]}: there are {count} Gaussians; use 1 to {count}, or all")
    return {name: k or count for name, k in ks.items() if name not in beyond}
