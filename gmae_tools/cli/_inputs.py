"""Find the picture files that a command is given, each once, and report on stderr what is skipped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli import print_error
from gmae_tools.cli._options import Decorator, gathered
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from gmae_tools.datasets.labelled import LabelledPhotos, Labelling

STDIN = Path("/dev/stdin")  # what `-` stands for; a file of that name is ./-


@dataclass(frozen=True)
class Inputs:
    """The pictures that a command is given: files, folders, globs or `-`; and whether subfolders are entered."""

    images: tuple[str, ...]
    recursive: bool

    def find(self, out: str | None = None) -> tuple[list[Path], int]:
        """Return the pictures, and how many inputs name none; see `find_inputs`."""
        return find_inputs(self.images, recursive=self.recursive, out=out)


def image_options(*, required: bool = True) -> tuple[Decorator, Decorator]:
    """The argument IMG and the option --recursive."""
    return (
        click.argument("images", metavar="IMG..." if required else "[IMG]...", nargs=-1, required=required),
        click.option("-r", "--recursive", is_flag=True, help="Also take the pictures in the subfolders of folders."),
    )


def input_options(*, required: bool = True) -> Decorator:
    """The argument IMG and the option --recursive as one argument `inputs`, an `Inputs`."""
    return gathered("inputs", Inputs, *image_options(required=required))


@dataclass(frozen=True)
class LabelledInputs:
    """Photographs with labels: where they are, what their labels are, and how many of them to use."""

    data: tuple[str, ...]
    labelling: Labelling
    limit: int | None

    def describe(self) -> dict[str, object]:
        """Name the photographs and the kind of their labels in the protocol of a result."""
        return {"data": [Path(each).name for each in self.data], "labels": self.labelling}

    def find(self) -> LabelledPhotos:
        """Return the photographs with their labels; see `find_labelled`."""
        from gmae_tools.datasets.labelled import find_labelled

        return find_labelled(self.data, self.labelling, self.limit)


labelled_options = gathered(
    "labelled",
    LabelledInputs,
    click.argument("data", nargs=-1, required=True),
    click.option(
        "--labels", "labelling", type=click.Choice(["folder", "prefix"]), default="folder", show_default=True,
        help="What a photograph's label is: the folder that it lies in, or its name up to the last dash.",
    ),
    click.option(
        "--limit", type=click.IntRange(1), metavar="N", help="Use N photographs, chosen by their names' digests."
    ),
)  # fmt: skip


def input_path(text: str) -> Path:
    """The file that an argument names; `-` stands for what comes through a pipe."""
    return STDIN if text == "-" else Path(text).expanduser()


def find_inputs(
    inputs: tuple[str, ...], *, recursive: bool = False, out: str | None = None, others: tuple[str, ...] = ()
) -> tuple[list[Path], int]:
    """The pictures that `inputs` name, each once, and how many inputs name none (reported on stderr).

    Args:
        inputs: files, folders, globs, or `-`.
        recursive: whether the subfolders of folders are searched, too.
        out: the folder of the results, which is never searched.
        others: suffixes of other files that are taken like pictures.

    Raises:
        SystemExit: there is no picture at all.
    """
    from gmae_tools.finding import find_images

    paths: dict[str, Path] = {}
    failures = 0
    without = Path(out).expanduser() if out else None
    for text in inputs:
        try:
            for path in find_images([input_path(text)], recursive=recursive, without=without, others=others):
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
