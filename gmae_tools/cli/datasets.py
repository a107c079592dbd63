"""`gmae-tools datasets`: fetch and check data sets, pack photographs, manage the cache of decoded ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._options import cache_option, format_option, output_folder, when_interrupted, writable_folder
from gmae_tools.cli._progress import progress
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import sole_run

if TYPE_CHECKING:
    from gmae_tools.datasets.bsds500 import BSDS500
    from gmae_tools.datasets.download import Progress
    from gmae_tools.datasets.pack import Kind
    from gmae_tools.report.tables import Row

COLUMNS = {"key": None, "mb": 1, "photographs": None, "used": None, "data": None}
NAMES = click.Choice(["bsds500"])
ROOT = click.option(
    "--root",
    envvar="GMAE_TOOLS_DATA",
    show_envvar=True,
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the data sets.",
)


@click.group()
def command() -> None:
    """Fetch and check data sets; pack photographs; manage the cache of decoded ones."""


@command.command()
@click.argument("name", type=NAMES)
@ROOT
@click.option("--url", help="Another source of the same archive.  [default: the official one]")
@click.option("--keep-archive", is_flag=True, help="Keep the archive beside the data.")
def fetch(name: str, root: Path, url: str | None, keep_archive: bool) -> None:
    """Download the data set NAME, compare its checksum and unpack it in the root folder.

    An interrupted download continues where it stopped. Data that exist already are only checked.
    """
    from gmae_tools.datasets import bsds500

    try:
        data = bsds500.BSDS500(root)  # the folder may be read-only
    except GmaeToolsError:
        when_interrupted("the same command continues after the received bytes")
        with sole_run(writable_folder(root, "--root")), download_bar(name) as progress:
            data = bsds500.fetch(root, url=url, keep_archive=keep_archive, progress=progress)
    report(data)


@command.command()
@click.argument("name", type=NAMES)
@ROOT
def check(name: str, root: Path) -> None:
    """Count and read all files of the data set NAME."""
    from gmae_tools.datasets.bsds500 import BSDS500

    report(BSDS500(root))


@command.command()
@click.argument("photographs", nargs=-1, required=True)
@click.option("-o", "--out", required=True, metavar="SHARDS", help="Folder of the shards.")
@click.option("--shard-mb", default=30.0, metavar="MB", help="Largest size of a shard.")
@click.option("--max-side", default=192, metavar="PX", help="Longest side of a photograph; larger ones are downscaled.")
@click.option("--format", "kind", type=click.Choice(["webp", "jpeg"]), default="webp")
@click.option("--quality", default=80, help="Quality of the encoder, 1..100.")
def pack(photographs: tuple[str, ...], out: str, shard_mb: float, max_side: int, kind: Kind, quality: int) -> None:
    """Downscale PHOTOGRAPHS (folder trees, files, globs) and pack them into tar shards for `pretrain --data`.

    After an interruption the same command continues after the last complete shard.
    """
    from gmae_tools.datasets.pack import pack as pack_photographs

    packed = pack_photographs(
        photographs, output_folder(out), shard_mb=shard_mb, max_side=max_side, kind=kind, quality=quality
    )
    if packed.skipped:
        example = f" (one: {': '.join(packed.example)})" if packed.example else ""
        click.echo(f"{packed.skipped} skipped as unreadable{example}", err=True)
    shards = "photos-00000.tar" if packed.shards == 1 else f"photos-{{00000..{packed.shards - 1:05}}}.tar"
    click.echo(f"{packed.photographs} photographs in {Path(out) / shards}")


@command.command()
@cache_option
@click.option(
    "--remove", multiple=True, metavar="KEY|all", help="Delete the cache with this key, or all; may be repeated."
)
@format_option
def cache(cache: str | None, remove: tuple[str, ...], form: str) -> None:
    """List the caches of decoded photographs that pretraining has made, with their sizes.

    A cache belongs to a set of photographs, in any folder, and all runs on this set share it. A removed cache is made
    again when it is needed. For --remove, the first characters of a key are enough.
    """
    from gmae_tools.datasets.photo_cache import PhotoCache, cache_folder
    from gmae_tools.report.tables import format_rows

    caches = PhotoCache(cache_folder(cache))
    if remove:
        removed = caches.remove(remove)
        click.echo(f"{len(removed)} removed, {megabytes(sum(entry.size for entry in removed))} MB", err=True)
    entries, unfinished = caches.entries(), caches.unfinished_size()
    rows: list[Row] = []
    for entry in entries:
        used = f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}"
        values = entry.key, entry.size / 1e6, entry.photographs, used, entry.data
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    click.echo(format_rows(rows, COLUMNS, form), nl=False)
    total = f"{megabytes(sum(entry.size for entry in entries))} MB in {caches.folder}"
    more = f", and {megabytes(unfinished)} MB unfinished (`--remove all` deletes those of killed runs)"
    click.echo(total + (more if unfinished else ""), err=True)


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def report(data: BSDS500) -> None:
    """Check a data set, and print the number of images of each split."""
    from gmae_tools.datasets.bsds500 import SPLITS

    found = data.check(lambda names, count: progress(names, count, "image", "checking"))
    click.echo(f"BSDS500 in {data.folder}")
    for split in SPLITS:
        click.echo(f"{split:<6}{found[split]} images" if split in found else f"{split:<6}not there")


@contextmanager
def download_bar(label: str) -> Iterator[Progress]:
    """A bar on stderr, as a function that takes the received bytes and the bytes in all."""
    from tqdm import tqdm

    bar: tqdm | None = None  # made by the first update, because a resumed download does not begin at 0

    def update(there: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=label, total=total, initial=there, unit="B", unit_scale=True, unit_divisor=1024)
        bar.update(there - bar.n)

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()
