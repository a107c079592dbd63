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
    """The inputs of a command.

    Attributes:
        images: files, folders, globs, or `-` for a pipe.
        recursive: whether the subfolders of folders are searched, too.
    """

    images: tuple[str, ...]
    recursive: bool

    def find(self, out: str | None = None) -> tuple[list[Path], int]:
        """Return the pictures, and the number of inputs without any picture; see `find_inputs`."""
        return find_inputs(self.images, recursive=self.recursive, out=out)


def image_options(*, required: bool = True) -> tuple[Decorator, Decorator]:
    """Make the argument IMG and the option --recursive."""
    return (
        click.argument("images", metavar="IMG..." if required else "[IMG]...", nargs=-1, required=required),
        click.option("-r", "--recursive", is_flag=True, help="Also use the pictures in the subfolders of folders."),
    )


def input_options(*, required: bool = True) -> Decorator:
    """Make the argument IMG and the option --recursive one argument `inputs`, an `Inputs`."""
    return gathered("inputs", Inputs, *image_options(required=required))


@dataclass(frozen=True)
class LabelledInputs:
    """Photographs with labels.

    Attributes:
        data: files, folders or globs of photographs.
        labelling: where the label of a photograph comes from.
        limit: how many photographs to use; None for all.
    """

    data: tuple[str, ...]
    labelling: Labelling
    limit: int | None

    def describe(self) -> dict[str, object]:
        """Return the names of the inputs and the kind of the labels, for the protocol of a result."""
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
        "--labels",
        "labelling",
        type=click.Choice(["folder", "prefix"]),
        default="folder",
        help="Where the label of a photograph comes from: its folder, or its file name up to the last dash.",
    ),
    click.option(
        "--limit", type=click.IntRange(1), metavar="N", help="Use only N photographs, chosen by digests of their names."
    ),
)


def input_path(text: str) -> Path:
    """Return the path of the file that an argument names; `-` is what comes through a pipe."""
    if not text:  # which Path takes for the current folder; an unset variable of a shell, as a rule
        raise GmaeToolsError("an empty name was given in the place of a file or folder; name one")
    return STDIN if text == "-" else Path(text).expanduser()


def find_inputs(
    inputs: tuple[str, ...], *, recursive: bool = False, out: str | None = None, others: tuple[str, ...] = ()
) -> tuple[list[Path], int]:
    """Find the pictures that inputs name, each once. Inputs without any picture are reported on stderr.

    Args:
        inputs: files, folders, globs, or `-`.
        recursive: whether the subfolders of folders are searched, too.
        out: the folder of the results, which is never searched.
        others: suffixes of other files that count as pictures.

    Returns:
        The paths of the pictures, and the number of inputs without any picture.

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
    """Make sure that every folder, photograph, shard or glob of a data set exists, before anything is loaded.

    Raises:
        GmaeToolsError: one of them does not exist.
    """
    from gmae_tools.datasets.photos import expand

    for text in inputs:
        expand(text)
