"""Options that several commands share, and what they mean."""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import click
from tqdm import tqdm

from gmae_tools import checkpoint_names
from gmae_tools.cli import INTERRUPTED, print_error
from gmae_tools.datasets.photo_cache import ENVIRONMENT as CACHE
from gmae_tools.errors import CannotWriteError, GmaeToolsError
from gmae_tools.system.files import check_writable, remove_leftovers, sole_run
from gmae_tools.system.processes import is_first_of_launch

_DEVICES = re.compile(r"auto|(cpu|cuda|mps|xpu)(:[0-9]+)?")  # what this torch has of them, only torch can tell


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """`32,16,8` as a tuple of different numbers of 1 or more."""

    name = "numbers"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        entries = [entry.strip() for entry in value.split(",")]
        if not all(entry.isascii() and entry.isdigit() and int(entry) > 0 for entry in entries):
            self.fail(f"{value!r} is not a list of numbers of 1 or more, such as 16,8", param, ctx)
        return tuple(dict.fromkeys(map(int, entries)))


def check_device(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """The name of a device, refused where that takes no torch, which needs seconds to load; callback of an option.

    Raises:
        GmaeToolsError: it is none, or this torch is built without CUDA.
    """
    refused = f"--device {value}: device {value!r} is not available here"
    if not _DEVICES.fullmatch(value):
        raise GmaeToolsError(f"{refused}: use auto, cpu or cuda")
    if value.startswith("cuda") and importlib.metadata.version("torch").endswith("+cpu"):
        raise GmaeToolsError(f"{refused}: this torch is built without CUDA; use auto or cpu")
    return value


def check_checkpoints(
    ctx: click.Context, parameter: click.Parameter, value: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    """One name of a checkpoint or several, refused without torch where there is none; callback of an option.

    Raises:
        GmaeToolsError: there is nothing of that name.
    """
    for name in (value,) if isinstance(value, str) else value:
        checkpoint_names.check(name)
    return value


def check_layers(layers: int, count: int | None) -> None:
    """Refuse numbers of layers that `count` Gaussians cannot be divided into; None stands for a number not yet known.

    Raises:
        GmaeToolsError: it is below 1, or above the number of Gaussians.
    """
    if layers < 1 or (count is not None and layers > count):
        most = "the number of Gaussians" if count is None else f"{count}, the number of Gaussians"
        raise GmaeToolsError(f"--layers {layers}: use 1 to {most}")


_checkpoint_option = partial(
    click.option, "--checkpoint", default="gmae-tiny", show_default=True, metavar="NAME|PATH|hf://ORG/NAME[@REV]",
    help="The model: an embedded one, a folder, a file of the authors' code (.ckpt), or one from the Hugging Face hub.",
)  # fmt: skip
checkpoint_option = _checkpoint_option(callback=check_checkpoints)
unchecked_checkpoint_option = _checkpoint_option()  # of commands that may do without a model
checkpoints_option = click.option(
    "--checkpoint", "checkpoints", multiple=True, default=("gmae-tiny",), show_default=True, metavar="NAME|PATH|...",
    callback=check_checkpoints,
    help="A model, as for other commands, or random:CHECKPOINT, its architecture untrained; may be repeated.",
)  # fmt: skip
device_option = click.option(
    "--device", default="auto", show_default=True, callback=check_device,
    help="auto, cpu or cuda; auto takes a GPU if there is one.",
)  # fmt: skip
backend_option = click.option(
    "--backend", type=click.Choice(["auto", "cpu", "gsplat", "dense"]), default="auto", show_default=True,
    help="Draws the Gaussians; auto takes gsplat on a GPU if it is usable there. See gmae-tools doctor.",
)  # fmt: skip
cache_option = click.option(
    "--cache", envvar=CACHE, show_envvar=True, metavar="DIR",
    help="Folder of decoded photographs, which all runs share.  [default: ~/.cache/gmae-tools/photographs]",
)  # fmt: skip
refine_option = click.option(
    "--refine", type=click.IntRange(0), default=0, metavar="STEPS",
    help="Fit the Gaussians to the photograph by so many steps of gradient descent; 50 make them sharp.",
)  # fmt: skip
fov_option = click.option(
    "--fov", type=click.FloatRange(5, 80), default=50.0, show_default=True, metavar="DEGREES",
    help="Of the perspective camera that sees the picture: its field of view along the longer side.",
)  # fmt: skip
max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(1), default=89_478_485, show_default=True, metavar="N",
    help="Refuse larger pictures, such as decompression bombs; reading one takes 8 bytes a pixel, of WebP 16.",
)  # fmt: skip
format_option = click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True,
    help="Of the table on stdout.",
)  # fmt: skip


def output_folder(path: str | Path, *parts: str, launched: bool = False) -> Path:
    """A folder for this run alone: made, known to be writable before any work is done, and cleared.

    Other runs are kept out until the command ends. What killed runs had begun to write is removed.

    Args:
        parts: globs of the folders inside in which files are written.
        launched: whether processes of one launch may share the work; only the first of them keeps others out.

    Raises:
        GmaeToolsError: it is a file, there is no permission, the disk is full, or another run is in there.
    """
    when_interrupted(f"the same command goes on with what {path} holds")
    folder = writable_folder(path)
    if not launched or is_first_of_launch():
        click.get_current_context().with_resource(sole_run(folder))
        remove_leftovers([folder, *(inner for part in parts for inner in folder.glob(f"{part}/"))])
    return folder


def writable_folder(path: str | Path, option: str = "--out") -> Path:
    """Make the folder that `option` names, and make sure that files can be written in it.

    Raises:
        GmaeToolsError: it is a file, there is no permission, or the disk is full.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        problem = f"{option} {path}: cannot write there ({error.strerror}); choose another folder"
        raise GmaeToolsError(problem) from None
    except GmaeToolsError as error:
        raise GmaeToolsError(f"{option} {error}") from None
    return folder


def print_failure(path: Path, error: Exception) -> None:
    """Say that a picture could not be done; an error that others would meet, too, is raised instead."""
    if isinstance(error, CannotWriteError):
        raise error
    with tqdm.external_write_mode():  # on a line of its own, not on that of a progress bar
        print_error(error if str(path) in str(error) else f"{path}: {error}")


def when_interrupted(text: str) -> None:
    """Have Ctrl-C from now on say what is done, and how to go on."""
    click.get_current_context().meta[INTERRUPTED] = f"interrupted: {text}"


def folder_names(paths: Iterable[Path]) -> list[str]:
    """A folder name for each picture, all different even where case does not count.

    The stem; the whole name (`a_jpg`) where stems meet; with a number (`a_jpg_2`) where these meet too.
    """
    paths = list(paths)
    stems = [path.stem.casefold() for path in paths]
    uses = Counter(stems)
    taken: set[str] = {stem for stem in stems if uses[stem] == 1}
    numbers: Counter[str] = Counter()
    names = []
    for path, stem in zip(paths, stems, strict=True):
        name = path.stem
        if uses[stem] > 1:
            name = base = path.name.replace(".", "_")
            while name.casefold() in taken:
                numbers[base.casefold()] += 1
                name = f"{base}_{numbers[base.casefold()] + 1}"
            taken.add(name.casefold())
        names.append(name)
    return names
