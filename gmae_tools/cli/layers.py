"""`gmae-tools layers`: the depth layers of photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from tqdm import tqdm

from gmae_tools.cli import print_error
from gmae_tools.cli._options import (
    backend_option,
    checkpoint_option,
    device_option,
    folder_names,
    format_option,
    max_pixels_option,
    output_folder,
    print_failure,
    refine_option,
    when_interrupted,
)
from gmae_tools.errors import GmaeToolsError
from gmae_tools.files import atomic_path, still_there

if TYPE_CHECKING:
    import numpy as np

    from gmae_tools.gaussians import Gaussians
    from gmae_tools.model import GMAE
    from gmae_tools.report.layers import LayersRequest, Strips
    from gmae_tools.report.page import PageRequest
    from gmae_tools.report.tables import Row
    from gmae_tools.splatting import Backend

T = TypeVar("T")

DEFAULT_KS = "32,64,128,256,512,all"
LARGE = 1 << 22  # pixels from which a single picture gets a progress bar of its own
LONG = 1 << 24  # pixels times steps from which a refinement does: a few seconds
TABLE = "layers.csv"


@click.command()
@click.argument("images", metavar="IMG...", nargs=-1, required=True)
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
def command(images: tuple[str, ...], ks: str | None, layers: int, out: str, checkpoint: str, device: str, backend: Backend, refine: int, html: bool, background: str, max_pixels: int, form: str) -> None:  # fmt: skip  # noqa: E501
    """Take photographs apart into depth layers.

    IMG is a picture, a folder of pictures or a glob. For each picture, DIR/<name>/ receives first_<K>.png
    (the nearest K Gaussians), layer_<n>.png (each of N equal depth groups alone, 1 is the nearest), depth.png
    (near is bright), sheet.png (all of these on one page) and gaussians.npz; with --html also view.html,
    the page that gmae-tools view writes. The table (for each K: PSNR and SSIM against the photograph, and coverage)
    goes to stdout and to DIR/layers.csv; with --refine it also has the PSNR of the prediction (psnr_before).
    Refinement leaves the order of depths as it is.

    A picture that cannot be read is reported on stderr, the others are done, and the exit code is 1.
    """
    wanted = parse_ks(DEFAULT_KS if ks is None else ks)
    paths, failures = find_inputs(images)

    from gmae_tools import checkpoints
    from gmae_tools.predict import resolve_device
    from gmae_tools.report.layers import LayersRequest
    from gmae_tools.report.tables import format_rows
    from gmae_tools.splatting import choose_backend

    where = resolve_device(device)
    choose_backend(backend, where)  # one that cannot draw is refused before any work
    model = checkpoints.load(checkpoint, device=where)
    chosen = fit_ks(wanted, model.config.k, exact=ks is not None)
    if not 1 <= layers <= model.config.k:
        raise GmaeToolsError(f"--layers {layers}: use 1 to {model.config.k}, the number of Gaussians")
    folder = output_folder(out, "*")
    request = LayersRequest(chosen, layers, background, Path(checkpoint).name, backend, refine, html)
    rows: list[Row] = []
    try:
        for path, name in progress_over(list(zip(paths, folder_names(paths), strict=True)), folder):
            try:
                rows += take_apart(model, path, request, folder / name, max_pixels)
            except (GmaeToolsError, OSError) as error:
                with tqdm.external_write_mode():  # on a line of its own
                    print_failure(path, error)
                failures += 1
    finally:  # an interrupted run keeps the table of what it has finished
        if rows:
            with atomic_path(folder / TABLE) as temporary:
                temporary.write_text(format_rows(rows, request.columns, "csv"), encoding="utf-8")
    click.echo(format_rows(rows, request.columns, form), nl=False)
    if failures:
        raise SystemExit(1)


def take_apart(model: GMAE, path: Path, request: LayersRequest, folder: Path, max_pixels: int) -> list[Row]:
    """Everything about one picture: read, predict, refine, draw, write; returns its rows of the table."""
    from gmae_tools.images import read_image
    from gmae_tools.predict import predict
    from gmae_tools.report.layers import BACKGROUNDS, write_layers

    photo = read_image(path, max_pixels=max_pixels)
    gaussians, before = predict(model, photo), None
    if request.refine:
        background = BACKGROUNDS[request.background]
        before, gaussians = gaussians, fit(gaussians, photo, model, request, path.name, background)
    progress = strip_progress(photo, path.name)
    return write_layers(photo, gaussians, model.camera, request, folder, str(path), progress, before)


def fit(
    gaussians: Gaussians, photo: np.ndarray, model: GMAE, request: LayersRequest | PageRequest, name: str,
    background: float = 1.0,
) -> Gaussians:  # fmt: skip
    """Refine a prediction on a grey level, with a progress bar on a terminal if it takes long."""
    from gmae_tools.refine import MAX_PIXELS, refine_photo

    work = min(photo.shape[0] * photo.shape[1], MAX_PIXELS) * request.refine
    with tqdm(total=request.refine, unit="step", desc=name, leave=False, disable=None if work >= LONG else True) as bar:

        def progress(_: int, psnr: float) -> None:
            bar.set_postfix_str(f"{psnr:.2f} dB", refresh=False)
            bar.update()

        return refine_photo(
            gaussians, photo, model.camera, request.refine,
            background=background, backend=request.backend, progress=progress,
        ).gaussians  # fmt: skip


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


def find_inputs(inputs: tuple[str, ...]) -> tuple[list[Path], int]:
    """The pictures that `inputs` name, each once, and how many inputs name none (reported on stderr).

    Raises:
        GmaeToolsError: there is no picture at all.
    """
    from gmae_tools.images import find_images

    paths: dict[Path, None] = {}
    failures = 0
    for text in inputs:
        try:
            paths.update(dict.fromkeys(find_images([text])))
        except GmaeToolsError as error:
            print_error(error)
            failures += 1
    if not paths:
        raise SystemExit(1)
    return list(paths), failures


def progress_over(items: list[T], folder: Path) -> Iterator[T]:
    """`items`, with a progress bar on a terminal if there are several; Ctrl-C says at which one it came.

    Raises:
        CannotWriteError: nothing can be written into the folder any more.
    """
    check = still_there(folder)
    bar = tqdm(items, unit="picture", disable=None if len(items) > 1 else True)
    for number, item in enumerate(bar, start=1):
        path = item[0] if isinstance(item, tuple) else item
        done = "those before it are done; " if number > 1 else ""
        check()
        when_interrupted(f"at picture {number} of {len(items)}, {path}; {done}give this one and those after it again")
        yield item
    check()
    when_interrupted("all pictures are done, what sums them up is not; give them again")


def look_progress(refine: int) -> Callable[[Sequence[T]], Iterable[T]]:
    """A progress bar on a terminal over the looks at a photograph, if they are refined: that takes a while."""
    return lambda places: tqdm(places, unit="look", leave=False, disable=None if refine else True)


def strip_progress(photo: np.ndarray, name: str) -> Callable[[Strips], Strips]:
    """Wraps the strips of rows of `photo` in a progress bar, on a terminal and if the picture is large."""
    height, width = photo.shape[:2]
    disable = None if height * width >= LARGE else True  # None: where stderr is not a terminal

    def wrap(strips: Strips) -> Strips:
        with tqdm(total=height, unit="row", desc=name, leave=False, disable=disable) as bar:
            for rows, pictures in strips:
                yield rows, pictures
                bar.update(rows.stop - rows.start)

    return wrap
