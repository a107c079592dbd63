"""The picture files that commands are given: found, each once, and what is passed over named on stderr."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gmae_tools.cli import print_error
from gmae_tools.errors import GmaeToolsError

STDIN = Path("/dev/stdin")  # what `-` stands for; a file of that name is ./-

recursive_option = click.option(
    "-r", "--recursive", is_flag=True, help="Also take the pictures in the subfolders of folders."
)


def images_argument(*, required: bool = True) -> Callable[[Any], Any]:
    """The argument IMG of a command that takes pictures, folders and globs."""
    return click.argument("images", metavar="IMG..." if required else "[IMG]...", nargs=-1, required=required)


def input_path(text: str) -> Path:
    """The file that an argument names, `-` being what comes through a pipe."""
    return STDIN if text == "-" else Path(text).expanduser()


def find_inputs(inputs: tuple[str, ...], *, recursive: bool = False, out: str | None = None) -> tuple[list[Path], int]:
    """The pictures that `inputs` name, each once, and how many inputs name none (reported on stderr).

    Args:
        inputs: files, folders, globs, or `-`.
        recursive: whether the subfolders of folders are entered.
        out: the folder of the results, which is not.

    Raises:
        SystemExit: there is no picture at all.
    """
    from gmae_tools.finding import find_images

    paths: dict[str, Path] = {}
    failures = 0
    without = Path(out).expanduser() if out else None
    for text in inputs:
        try:
            for path in find_images([input_path(text)], recursive=recursive, without=without):
                paths.setdefault(os.path.realpath(path), path)
        except GmaeToolsError as error:
            print_error(error)
            failures += 1
    if not paths:
        raise SystemExit(1)
    return list(paths.values()), failures


def check_sources(inputs: tuple[str, ...]) -> None:
    """Make sure that every folder, photograph, shard or glob of a data set is there, before anything is loaded.

    Raises:
        GmaeToolsError: one is not.
    """
    from gmae_tools.datasets.photos import expand

    for text in inputs:
        expand(text)
