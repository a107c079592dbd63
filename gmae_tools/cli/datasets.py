"""`gmae-tools datasets`: fetch the data sets of the evaluations, and check them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gmae_tools.datasets.bsds500 import BSDS500
    from gmae_tools.datasets.download import Progress

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
    """Fetch and check data sets."""


@command.command()
@click.argument("name", type=NAMES)
@ROOT
@click.option("--url", help="Another source of the same archive.  [default: the official one]")
@click.option("--keep-archive", is_flag=True, help="Leave the archive beside the data.")
def fetch(name: str, root: Path, url: str | None, keep_archive: bool) -> None:
    """Download NAME, compare its checksum and unpack it under the root.

    An interrupted download goes on where it stopped. Data that are already there are only checked.
    """
    from gmae_tools.datasets import bsds500

    with download_bar(name) as progress:
        data = bsds500.fetch(root, url=url, keep_archive=keep_archive, progress=progress)
    report(data)


@command.command()
@click.argument("name", type=NAMES)
@ROOT
def check(name: str, root: Path) -> None:
    """Count and read every file of NAME."""
    from gmae_tools.datasets.bsds500 import BSDS500

    report(BSDS500(root))


def report(data: BSDS500) -> None:
    """Check a data set and print what is there."""
    from gmae_tools.datasets.bsds500 import SPLITS

    found = data.check()
    click.echo(f"BSDS500 in {data.folder}")
    for split in SPLITS:
        click.echo(f"{split:<6}{found[split]} images" if split in found else f"{split:<6}not there")


@contextmanager
def download_bar(label: str) -> Iterator[Progress]:
    """A bar on stderr, as a function to call with the bytes there and the bytes in all."""
    from tqdm import tqdm

    bar: tqdm | None = None  # a resumed download begins with what is there

    def update(there: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=label, total=total, initial=there, unit="B", unit_scale=True, unit_divisor=1024)
        bar.update(there - bar.n)

    yield update
    if bar is not None:
        bar.close()
