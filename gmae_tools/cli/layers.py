"""`gmae-tools layers`: the depth layers of photographs."""

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
from gmae_tools.cli._progress import progress_over, refine_with_progress, strip_progress
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path

if TYPE_CHECKING:
    from gmae_tools.model import GMAE
    from gmae_tools.report.layers import LayersRequest
    from gmae_tools.report.tables import Row
    from gmae_tools.splatting import Backend

DEFAULT_KS = "32,64,128,256,512,all"
TABLE = "layers.csv"


@click.command()
@images_argument()
@recursive_option
@click.option("--k", "ks", metavar="K,K,...", help=f"How many nearest Gaussians to draw.  [default: {DEFAULT_KS}]")
@click.option(
    "--layers",
    metavar="N",
    type=int,
    default=8,
    show_default=True,
    help="How many depth groups to draw.",
)
@click.option("-o", "--out", metavar="DIR", default="layers", show_default=True, help="For the results.")
@checkpoint_option
@device_option
@backend_option
@refine_option
@click.option("--html", is_flag=True, help="Also write view.html, a page to take the photograph apart by hand.")
@click.option(
    "--background", type=click.Choice(["white", "black", "transparent"]), default="white", show_default=True,
    help="Behind the Gaussians.",
)  # fmt: skip
@max_pixels_option
@format_option
def command(images: tuple[str, ...], recursive: bool, ks: str | None, layers: int, out: str, checkpoint: str, device: str, backend: Backend, refine: int, html: bool, background: str, max_pixels: int, form: str) -> None:  # fmt: skip  # noqa: E501
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
    count = number_of_gaussians(checkpoint)
    check_layers(layers, count)  # before torch and the model are loaded
    if count is not None:
        fit_ks(wanted, count, exact=ks is not None)
    paths, failures = find_inputs(images, recursive=recursive, out=out)
    model = open_gmae(checkpoint, device, backend)
    chosen = fit_ks(wanted, model.config.k, exact=ks is not None)
    check_layers(layers, model.config.k)

    from gmae_tools.report.layers import LayersRequest
    from gmae_tools.report.tables import format_rows

    folder = output_folder(out, "*")
    request = LayersRequest(chosen, layers, background, Path(checkpoint).name, backend, refine, html)
    rows: list[Row] = []
    try:
        for path, name in progress_over(list(zip(paths, folder_names(paths), strict=True)), folder):
            try:
                rows += take_apart(model, path, request, folder / name, max_pixels)
            except (GmaeToolsError, OSError) as error:
                print_failure(path, error)
                failures += 1
    finally:  # an interrupted run keeps the table of what it has finished
        if rows:
            with atomic_path(folder / TABLE) as temporary:
                temporary.write_text(format_rows(rows, request.columns, "csv"), encoding="utf-8")
    if rows:
        click.echo(format_rows(rows, request.columns, form), nl=False)
    if failures:
        raise SystemExit(1)


def take_apart(model: GMAE, path: Path, request: LayersRequest, folder: Path, max_pixels: int) -> list[Row]:
    """Everything about one picture: read, predict, refine, draw, write; returns its rows of the table."""
    from gmae_tools.images import read_image
    from gmae_tools.predict import predict_scene
    from gmae_tools.report.layers import BACKGROUNDS, write_layers

    photo = read_image(path, max_pixels=max_pixels)
    scene, before = predict_scene(model, photo), None
    if request.refine:
        background = BACKGROUNDS[request.background]
        before = scene
        scene = refine_with_progress(
            scene, request.refine, name=path.name, background=background, backend=request.backend
        )
    progress = strip_progress(photo, path.name)
    return write_layers(scene, request, folder, str(path), progress=progress, before=before)


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
