"""`gmae-tools layers`: the depth layers of photographs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.checkpoint_names import number_of_gaussians
from gmae_tools.cli._models import ModelOptions, model_options
from gmae_tools.cli._options import OutputOptions, check_layers, jobs_option, output_options
from gmae_tools.cli._progress import strip_progress
from gmae_tools.cli._scenes import SceneInputs, Scenes, scene_options
from gmae_tools.cli._work import Work
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import is_gaussians_name
from gmae_tools.system.files import write_text
from gmae_tools.zeroshot.names import MANY, PREFIX_SHARES, PREFIXES

if TYPE_CHECKING:
    from gmae_tools.report.layers import LayersRequest
    from gmae_tools.report.tables import Row

DEFAULT_KS = ",".join([*map(str, PREFIXES), "all"])
DEFAULT_SHARES = ",".join([*(f"{share}%" for share in PREFIX_SHARES), "all"])  # for more than `MANY` Gaussians
TABLE = "layers.csv"
_SHARE = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?%")


@click.command()
@scene_options()
@click.option(
    "--k",
    "ks",
    metavar="K|P%,...",
    help="Numbers or shares of the nearest Gaussians to render together."
    f"  [default: {DEFAULT_KS}; for more than {MANY:,} Gaussians {DEFAULT_SHARES}]",
)
@click.option("--layers", metavar="N", type=int, default=8, help="Number of depth groups.")
@click.option("--html", is_flag=True, help="Also write view.html, the interactive page of gmae-tools view.")
@click.option(
    "--background",
    type=click.Choice(["white", "black", "transparent"]),
    default="white",
    help="Background behind the Gaussians.",
)
@jobs_option
@output_options("layers")
@model_options
def command(
    inputs: SceneInputs,
    ks: str | None,
    layers: int,
    html: bool,
    background: str,
    jobs: int | None,
    output: OutputOptions,
    model: ModelOptions,
) -> None:
    """Take photographs, or Gaussians from any program, apart into depth layers.

    IMG is a picture, a file of Gaussians (.ply, .splat, .npz), a folder of them, a glob, or - for a picture that comes
    through a pipe. For each input, DIR/<name>/ receives first_<K>.png (the nearest K Gaussians), layer_<n>.png (each of
    N equal depth groups alone, 1 is the nearest), depth.png (near is bright), sheet.png (all of these on one page) and
    gaussians.npz, and with --html also view.html, the page that gmae-tools view writes.

    A table goes to stdout and to DIR/layers.csv. For each K it has the coverage, and the PSNR and the SSIM against the
    photograph, which files of Gaussians only have with --photo. With --refine it also has the PSNR before refinement
    (psnr_before). Refinement does not change the order of depths.

    An input that cannot be read is reported on stderr, the other inputs are processed, and the exit code is 1.
    """
    wanted = parse_ks(ks) if ks is not None else None
    if layers < 1:
        check_layers(layers, number_of_gaussians(model.checkpoint))
    paths, failures = inputs.find(output.out)
    inputs.check(paths, model.refine)
    count = number_of_gaussians(model.checkpoint)
    if count is not None and not all(is_gaussians_name(path.name) for path in paths):
        check_layers(layers, count)  # before torch and the model are loaded
        fit_ks(wanted, count)
    scenes = inputs.open(paths, model)
    if scenes.source:
        check_layers(layers, scenes.source.k)
        fit_ks(wanted, scenes.source.k)

    from gmae_tools.report.layers import LayersRequest
    from gmae_tools.report.tables import format_rows

    folder = output.folder("*")
    request = LayersRequest({}, layers, background, "", model.backend, model.refine, html)
    work = Work(paths, folder, jobs, failures)
    rows: list[Row] = []
    try:
        for _, found in work.each(lambda path, name: write_one(scenes, path, wanted, request, folder / name)):
            rows += found
    finally:  # an interrupted run keeps the table of what it has finished
        if rows:
            write_text(folder / TABLE, format_rows(rows, request.columns, "csv"))
    if rows:
        output.print_rows(rows, request.columns)
    if work.failures:
        raise SystemExit(1)


def write_one(
    scenes: Scenes, path: Path, wanted: tuple[str, ...] | None, request: LayersRequest, folder: Path
) -> list[Row]:
    """Read, predict, refine, render and write one input, and return its rows of the table."""
    from gmae_tools.report.layers import BACKGROUNDS, write_layers

    before = scenes.initial(path)
    check_layers(request.layers, before.k)
    request = replace(request, ks=fit_ks(wanted, before.k), checkpoint=scenes.maker(path))
    scene = scenes.refine(before, path.name, background=BACKGROUNDS[request.background])
    progress = strip_progress(scene.height, scene.width, path.name)
    return write_layers(scene, request, folder, str(path), progress=progress, before=before if request.refine else None)


def parse_ks(text: str) -> tuple[str, ...]:
    """Split `32,10%,all` into names of numbers of Gaussians, each once; anything else is refused."""
    names = []
    for entry in (entry.strip() for entry in text.split(",")):
        if entry.isascii() and entry.isdigit() and int(entry) > 0:
            names.append(str(int(entry)))
        elif entry == "all" or (_SHARE.fullmatch(entry) and 0 < float(entry[:-1]) <= 100):
            names.append(entry)
        else:
            raise GmaeToolsError(f"--k {text}: {entry!r} is not a number of 1 or more, a share such as 10%, nor 'all'")
    return tuple(dict.fromkeys(names))


def fit_ks(names: tuple[str, ...] | None, count: int) -> dict[str, int]:
    """Turn names as `parse_ks` returns them into numbers of Gaussians, in rising order.

    Numbers above `count`, that of all Gaussians, are refused; those of the default (`names` is None) are left out.
    """
    default = parse_ks(DEFAULT_SHARES if count > MANY else DEFAULT_KS)
    ks = {}
    for name in default if names is None else names:
        share = float(name[:-1]) / 100 if name.endswith("%") else 1.0
        k = int(name) if name.isdigit() else max(1, round(share * count))
        if k <= count:
            ks[name] = k
        elif names is not None:
            raise GmaeToolsError(f"--k {name}: there are {count} Gaussians; use 1 to {count}, or all")
    return dict(sorted(ks.items(), key=lambda item: (item[1], item[0] == "all")))
