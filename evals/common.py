"""What the scripts share: paths, help, options, tables, bars, timing. They import this, and never one another."""

from __future__ import annotations

import csv
import inspect
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from gmae_tools.datasets.photo_cache import ENVIRONMENT as CACHE
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path
from gmae_tools.system.processes import cores, is_main

if TYPE_CHECKING:
    from gmae_tools.benchmarks.pipeline import RunOptions

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., object])

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUNS = ROOT / "evals" / "results", ROOT / "runs"
PHOTO = ROOT / "gmae_tools" / "assets" / "demo.jpg"
FIRST_KS = (32, 64, 128, 256, 512)  # the numbers of nearest Gaussians that `gmae-tools layers` shows, beside all
CALL_SECONDS = 0.05  # a turn ends when its calls have taken so long, ...
MAX_CALLS = 5  # ... or after so many of them


# --- help and options --------------------------------------------------------------------------------


def script(*, takes: str, needs: str) -> Callable[[Callable[..., None]], click.Command]:
    """`click.command` for a script whose `--help` says what it measures, how long that takes, and what it needs.

    Args:
        takes: the time on two cores that do nothing else, as in the table of `evals/README.md`.
        needs: data sets and other programs.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        question = (sys.modules[function.__module__].__doc__ or "").partition("\n")[0]
        text = f"{question}\n\n{inspect.getdoc(function)} The head of the script states the protocol.\n\n"
        return click.command(help=f"{text}Takes {takes}. Needs {needs}.")(function)

    return decorate


def whole_numbers(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parse `3,4` into a tuple, None where the option is not given; callback of an option."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers, such as 3,4") from None


cache_option = click.option(
    "--cache", envvar=CACHE, show_envvar=True, metavar="DIR",
    help="Folder of decoded photographs.  [default: ~/.cache/gmae-tools/photographs]",
)  # fmt: skip
checkpoint_option = click.option("--checkpoint", default="gmae-tiny", show_default=True, help="The model.")
every_option = click.option(
    "--every", type=click.IntRange(1), default=1, show_default=True, help="Only every Nth photograph."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Remove what was made with other settings.")
jobs_option = click.option("--jobs", type=click.IntRange(1), help="Photographs at a time.  [default: one a core]")
ecssd_option = click.option(
    "--ecssd", required=True, metavar="NAME|DIR", help="ecssd, or a folder with images/ and masks/."
)
root_option = click.option("--root", envvar="GMAE_TOOLS_DATA", show_envvar=True, help="Folder of the data sets.")


def results_option(*names: str) -> Callable[[Command], Command]:
    """The folder of the tables, by default `evals/results`."""
    folder = click.Path(path_type=Path)
    return click.option(*names, type=folder, default=RESULTS, show_default="evals/results", help="For the results.")


def work_option(name: str) -> Callable[[Command], Command]:
    """The folder, by default one of this name below `runs/`, of what a script needs to go on after an interruption."""
    folder = click.Path(path_type=Path)
    return click.option("--out", type=folder, default=RUNS / name, show_default=f"runs/{name}", help="Kept to go on.")


def benchmark_options(name: str) -> Callable[[Command], Command]:
    """The options of a script that runs a benchmark of the package: what it measures, and where and how it goes on."""
    options = [root_option, every_option, checkpoint_option, work_option(name), results_option("--results")]

    def decorate(function: Command) -> Command:
        for option in reversed([*options, overwrite_option, jobs_option]):
            function = option(function)
        return function

    return decorate


# --- running -----------------------------------------------------------------------------------------


def run_options(jobs: int | None, every: int, overwrite: bool) -> RunOptions:
    """How a benchmark of the package is run: with bars, and as many photographs at a time as there are cores."""
    from gmae_tools.benchmarks.pipeline import RunOptions

    return RunOptions(jobs or cores(), every, overwrite, progress=progress)


def run_gmae_tools(*arguments: object) -> None:
    """Run `gmae-tools ARGUMENTS` in this process.

    Raises:
        SystemExit: the command failed.
    """
    from gmae_tools.cli import main

    if status := main(list(map(str, arguments)), standalone_mode=False):
        raise SystemExit(status)


def progress(items: Iterable[T], length: int, label: str, unit: str = "image") -> Iterator[T]:
    """Pass the items on, with a bar on stderr in the first process of a launch."""
    from tqdm import tqdm

    yield from tqdm(items, total=length, desc=label, unit=unit, mininterval=1.0, disable=not is_main())


def features_bar(name: str) -> Callable[[Iterable[int], int], Iterable[int]]:
    """A bar over chunks of photographs while the features of the encoder called `name` are computed."""
    return lambda chunks, count: progress(chunks, count, f"features of {name}", "chunk")


def first_ks(count: int) -> dict[str, int]:
    """The numbers of nearest Gaussians that `gmae-tools layers` shows of a scene of `count`, by name."""
    return {str(k): k for k in FIRST_KS if k <= count} | {"all": count}


def take_turn(call: Callable[[], None]) -> float:
    """Median milliseconds of a few calls."""
    times: list[float] = []
    while len(times) < MAX_CALLS and sum(times) < CALL_SECONDS * 1e3:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> str:
    """Processor and versions, in one line."""
    import numba
    import torch

    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numba {numba.__version__}"
    return f"{processor()}, {os.cpu_count()} logical cores; {versions}."


def images_per_second(log: Path) -> float:
    """The median rate in the log of a pretraining run."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return statistics.median(line["images_per_second"] for line in lines if "images_per_second" in line)


# --- tables ------------------------------------------------------------------------------------------


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write texts by the names of their files into a folder, which is made, each of them whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text)


def write_table(path: Path, rows: Sequence[Row], columns: Mapping[str, int | None]) -> None:
    """Write rows as a CSV file, in a folder that is made."""
    write_files(path.parent, {path.name: format_rows(rows, columns, "csv")})


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file, numbers as numbers and empty fields as None."""
    with path.open(newline="") as file:
        return [{key: parse(value) for key, value in row.items()} for row in csv.DictReader(file)]


def parse(text: str) -> str | int | float | None:
    """The value of a field of a CSV file: a number where it is one, None where it is empty."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text or None


def as_markdown(rows: Sequence[Row], columns: Mapping[str, int | None]) -> str:
    """Rows as a Markdown table; `columns` says how many decimals each number has, as for `format_rows`."""

    def cell(value: str | int | float | None, decimals: int | None) -> str:
        if value is None:
            return ""
        return f"{value:.{decimals}f}" if isinstance(value, float) and decimals is not None else str(value)

    lines = [list(columns), *([cell(row[name], decimals) for name, decimals in columns.items()] for row in rows)]
    header, *body = (f"| {' | '.join(line)} |\n" for line in lines)
    return "".join([header, "|" + "---|" * len(columns) + "\n", *body])
