"""Find the picture files that a command is given, each once, and report on stderr what is skipped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gmae_tools.cli import print_error
from gmae_tools.cli._options import Decorator, gathered
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from gmae_tools.datasets.labelled import LabelledPhotos, Labelling

STDIN = Path("/dev/stdin")  # what `-` stands for; a file of that name is ./-


@dataclass(frozen=True)
class Inputs:
    """The inputs of a command: files, folders (with `recursive` also their subfolders), globs, or `-` for a pipe."""

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


# The argument IMG and the option --recursive as one argument `inputs`, an `Inputs`.
input_options = gathered("inputs", Inputs, *image_options())


@dataclass(frozen=True)
class LabelledInputs:
    """Photographs (files, folders or globs), where their labels come from, and how many to use (None for all)."""

    data: tuple[str, ...]
    labelling: Labelling
    limit: int | None

    def describe(self, photos: LabelledPhotos) -> dict[str, Any]:
        """Return what was found, and in what, for the protocol of a result."""
        validation = int(photos.is_validation.sum())
        return {
            "data": [Path(each).name for each in self.data], "labels": self.labelling,
            "classes": len(photos.classes), "split": photos.split, "to_learn_from": len(photos.photos) - validation,
            "validation": validation, "largest_class": round(photos.largest_class, 6),
        }  # fmt: skip

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
    """Find the pictures that inputs name, each once, and the number of inputs without any, reported on stderr.

    The folder `out` of the results is never searched. Files with the suffixes `others` count as pictures.

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
    """Refuse folders, photographs, shards or globs of a data set that do not exist, before anything is loaded."""
    from gmae_tools.datasets.photos import expand

    for text in inputs:
        expand(text)
