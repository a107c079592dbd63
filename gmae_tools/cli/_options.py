"""Options that several commands share.

Options that belong together are gathered into one frozen object, which a command receives as one argument:

    @click.command()
    @output_options("layers")
    def command(output: OutputOptions) -> None: ...
"""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from gmae_tools import checkpoint_names
from gmae_tools.cli import INTERRUPTED, print_error
from gmae_tools.datasets.photo_cache import ENVIRONMENT as CACHE
from gmae_tools.errors import CannotWriteError, GmaeToolsError
from gmae_tools.images import MAX_PIXELS
from gmae_tools.report.tables import FORMATS, Row, format_rows
from gmae_tools.system.files import check_writable, remove_leftovers, sole_run
from gmae_tools.system.processes import is_first_of_launch

BACKENDS = ("auto", "cpu", "gsplat", "dense")
PRECISIONS = ("float32", "bf16")

_DEVICES = re.compile(r"auto|(cpu|cuda|mps|xpu)(:[0-9]+)?")  # only torch knows which of them exist here

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def gathered(name: str, kind: Callable[..., Any], *options: Decorator) -> Decorator:
    """Pass several options to a command as one argument, which `kind` makes from their values, passed by name."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        names: list[str] = []

        @wraps(command)
        def gather(**arguments: Any) -> Any:
            values = {each: arguments.pop(each) for each in names}
            return command(**arguments, **{name: kind(**values)})

        for option in reversed(options):
            option(gather)
            names.append(gather.__click_params__[-1].name)  # type: ignore[attr-defined]  # where click keeps them
        return gather

    return decorate


def numbers(text: str) -> tuple[int, ...]:
    """`32,16,8` as a tuple of different whole numbers >= 1; type of an option."""
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entry.isascii() and entry.isdigit() and int(entry) > 0 for entry in entries):
        raise click.BadParameter(f"{text!r} is not a list of numbers of 1 or more, such as 16,8")
    return tuple(dict.fromkeys(map(int, entries)))


def check_device(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse what is no device, or a GPU for a torch without CUDA, without loading torch; callback of an option."""
    refused = f"--device {value}: device {value!r} is not available here"
    if not _DEVICES.fullmatch(value):
        raise GmaeToolsError(f"{refused}: use auto, cpu or cuda")
    if value.startswith("cuda") and importlib.metadata.version("torch").endswith("+cpu"):
        raise GmaeToolsError(f"{refused}: this torch is built without CUDA; use auto or cpu")
    return value


def check_checkpoints(
    ctx: click.Context, parameter: click.Parameter, value: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    """Refuse checkpoints that do not exist, without loading torch; callback of an option."""
    for name in (value,) if isinstance(value, str) else value:
        checkpoint_names.check(name)
    return value


def check_layers(layers: int, count: int | None) -> None:
    """Refuse a number of layers below 1, or above the `count` of Gaussians (None if that is not known yet)."""
    if layers < 1 or (count is not None and layers > count):
        most = "the number of Gaussians" if count is None else f"{count}, the number of Gaussians"
        raise GmaeToolsError(f"--layers {layers}: use 1 to {most}")


_checkpoint_option = partial(
    click.option,
    "--checkpoint",
    default=checkpoint_names.DEFAULT,
    metavar="NAME|PATH|hf://ORG/NAME[@REV]",
    help="The model: the name of an embedded one, a folder, a .ckpt of the authors' code, or a repository on the hub.",
)
checkpoint_option = _checkpoint_option(callback=check_checkpoints)
unchecked_checkpoint_option = _checkpoint_option()  # for commands that may not need a model
checkpoints_option = click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    default=(checkpoint_names.DEFAULT,),
    metavar="NAME|PATH|...",
    callback=check_checkpoints,
    help="A model, as for other commands; random:CHECKPOINT is its architecture with random weights; may be repeated.",
)
device_option = click.option(
    "--device", default="auto", callback=check_device, help="auto, cpu or cuda; auto is a GPU if there is one."
)
backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    help="Renderer of the Gaussians; auto is gsplat on a GPU where it is usable. See gmae-tools doctor.",
)
cache_option = click.option(
    "--cache",
    envvar=CACHE,
    show_envvar=True,
    metavar="DIR",
    help="Folder of decoded photographs that all runs share.  [default: ~/.cache/gmae-tools/photographs]",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=PRECISIONS[0],
    help="Arithmetic of the model; bf16 is faster on hardware that has it (see gmae-tools doctor), and less exact.",
)
refine_option = click.option(
    "--refine",
    type=click.IntRange(0),
    default=0,
    metavar="STEPS",
    help="Fit the Gaussians to the photograph by this number of steps of gradient descent; 50 make them sharp.",
)
fov_option = click.option(
    "--fov",
    type=click.FloatRange(5, 80),
    default=50.0,
    metavar="DEGREES",
    help="Field of view of the perspective camera along the longer side of the picture.",
)
max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=MAX_PIXELS,
    metavar="N",
    help="Refuse pictures with more pixels, such as decompression bombs. Reading takes 8 bytes per pixel, 16 for WebP.",
)
format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], help="Format of the table on stdout."
)


jobs_option = click.option(
    "--jobs", type=click.IntRange(1), help="Number of pictures that are worked on at a time.  [default: one per core]"
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Remove results of other settings from DIR.")
root_option = click.option(
    "--root", envvar="GMAE_TOOLS_DATA", show_envvar=True, metavar="DIR", help="Folder of the data sets."
)


host_option = click.option(
    "--host", default="127.0.0.1", help="Address on which the page is served; 0.0.0.0 lets other machines connect."
)


def out_option(default: str | None, help_: str = "Folder of the results.") -> Decorator:
    """The option --out of a command that writes its results into a folder."""
    return click.option("-o", "--out", metavar="DIR", default=default, help=help_)


@dataclass(frozen=True)
class OutputOptions:
    """The folder `out` for files, and the format `form` of the table on stdout."""

    out: str
    form: str

    def folder(self, *parts: str, launched: bool = False) -> Path:
        """Make the folder and lock it for this run; see `output_folder`."""
        return output_folder(self.out, *parts, launched=launched)

    def print_rows(self, rows: Sequence[Row], columns: Mapping[str, int | None]) -> None:
        """Print a table on stdout; see `format_rows`."""
        click.echo(format_rows(rows, columns, self.form), nl=False)


def output_options(default: str, help_: str = "Folder of the results.") -> Decorator:
    """--out and --format as one argument `output`, an `OutputOptions`; `default` is that of --out."""
    return gathered("output", OutputOptions, out_option(default, help_), format_option)


@dataclass(frozen=True)
class DataOptions:
    """The data set of a benchmark (or None), its split, and the folder of the data sets."""

    dataset: str | None
    split: Any
    root: str | None


def data_options(dataset: Decorator, split: Decorator) -> Decorator:
    """--dataset, --split and --root as one argument `data`, a `DataOptions`."""
    return gathered("data", DataOptions, dataset, split, root_option)


def output_folder(path: str | Path, *parts: str, launched: bool = False) -> Path:
    """Make a folder, lock it until the command ends, and make sure before any work that files can be written in it.

    Files that killed runs left unfinished are removed, also from folders inside (the globs `parts`). With `launched`
    the processes of one launch may share the folder; the first of them holds the lock.

    Raises:
        GmaeToolsError: The path is a file, there is no permission, the disk is full, or another run holds the lock.
    """
    when_interrupted(f"the same command continues with the results in {path}")
    folder = writable_folder(path)
    if not launched or is_first_of_launch():
        click.get_current_context().with_resource(sole_run(folder))
        remove_leftovers([folder, *(inner for part in parts for inner in folder.glob(f"{part}/"))])
    return folder


def writable_folder(path: str | Path, option: str = "--out") -> Path:
    """Make the folder that `option` names, and make sure that files can be written in it."""
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
    """Report a picture that could not be processed. An error that concerns all pictures is raised again."""
    if isinstance(error, CannotWriteError):
        raise error
    with tqdm.external_write_mode():  # on a line of its own, not on that of a progress bar
        print_error(error if str(path) in str(error) else f"{path}: {error}")


def when_interrupted(text: str) -> None:
    """Set the message after Ctrl-C from now on: what is finished, and how to continue."""
    click.get_current_context().meta[INTERRUPTED] = f"interrupted: {text}"


def folder_names(paths: Iterable[Path]) -> list[str]:
    """A folder name for each picture. All names differ, even if case is ignored.

    A name is the stem of the file; its whole name (`a_jpg`) if stems are equal; with a number (`a_jpg_2`) if whole
    names are equal, too.
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
