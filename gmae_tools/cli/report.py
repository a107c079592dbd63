"""`gmae-tools report`: run the benchmarks, and make one page of what they found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._options import (
    OutputOptions,
    checkpoint_option,
    gathered,
    output_options,
    when_interrupted,
    writable_folder,
)
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from gmae_tools.suite.config import Part
    from gmae_tools.suite.page import Card
    from gmae_tools.suite.runs import Outcome

ALL = Path("evals") / "report.toml"  # in a clone
COLUMNS = {"part": None, "status": None, "seconds": 1, "reason": None}


class Place(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """`NAME=PATH` as a pair."""

    name = "place"

    def convert(
        self, value: str | tuple[str, Path], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        name, equals, path = value.partition("=")
        if not name or not equals or not path:
            self.fail(f"{value!r} is not NAME=PATH, such as bsds500=data/bsds500", param, ctx)
        return name, Path(path).expanduser()


@dataclass(frozen=True)
class DataPlaces:
    """Where the data sets are: the folder of all of them, and those that lie elsewhere by their names."""

    data_root: Path | None
    data: tuple[tuple[str, Path], ...]


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="All benchmarks of evals/, in a clone of the repository.")
@click.option("--only", metavar="PART", multiple=True, help="Run this part alone; may be repeated.")
@click.option("--quick", is_flag=True, help="Few pictures and rounds, to see that everything works.")
@gathered(
    "data",
    DataPlaces,
    click.option(
        "--data-root", envvar="GMAE_TOOLS_DATA", show_envvar=True, metavar="DIR", help="Folder of the data sets.",
        type=click.Path(path_type=Path),
    ),
    click.option(
        "--data", type=Place(), multiple=True, metavar="NAME=PATH",
        help="A data set that lies elsewhere; may be repeated.",
    ),
)  # fmt: skip
@click.option("--again", is_flag=True, help="Run finished parts again.")
@output_options("report")
@checkpoint_option
def command(
    config: Path | None,
    everything: bool,
    only: tuple[str, ...],
    quick: bool,
    data: DataPlaces,
    again: bool,
    output: OutputOptions,
    checkpoint: str,
) -> None:
    """Run scripted benchmarks, and write one page of what they found.

    CONFIG is a TOML file that names scripts with their arguments and the files they write; evals/report.toml, which
    --all takes, explains itself. DIR receives report.html (a page that needs nothing but itself), report.json, tables/
    (CSV), figures/ (PNG, SVG) and parts/ (each run, with what it printed). The page is brought up to date whenever a
    part is done.

    Finished parts are used again as long as script, arguments, data, checkpoint and version are the same. After an
    interruption the same command goes on. A part that fails is named, the others are run, and the exit code is 1. Parts
    whose data are missing are skipped, unless they were asked for with --only. What became of the parts goes to stdout.
    """
    if (config is None) != everything:
        raise click.UsageError("give CONFIG, or --all")

    from gmae_tools.suite.config import read_config

    chosen = read_config(config or find_all())  # before torch is loaded, in case something is wrong
    chosen.check_names(only)
    found, missing = chosen.find_data(data.data_root, dict(data.data))
    for part in chosen.parts:
        for name in part.uses & missing.keys() if part.name in only else ():
            raise GmaeToolsError(f"part {part.name} {missing[name]}")

    from gmae_tools.benchmarks.predictions import weights_of
    from gmae_tools.suite.page import Report, write_report
    from gmae_tools.suite.runs import RUNS, Request, run_parts
    from gmae_tools.system.files import remove_leftovers, sole_run

    weights = weights_of(checkpoint)
    card = card_of(checkpoint, weights)
    folder = writable_folder(output.out)
    request = Request(folder, checkpoint, weights, quick, only, again, found, missing)
    machine = machine_name()
    outcomes: list[Outcome] = []
    with sole_run(folder) as lock:
        remove_leftovers([folder, *folder.glob("*/"), *folder.glob(f"{RUNS}/*/")])
        when_interrupted(f"the same command goes on, and {folder} holds what is done")
        for outcomes in run_parts(chosen, request, lock, announce):
            page = write_report(Report(chosen.title, card, machine, quick, outcomes), folder)
    output.print_rows([row(outcome) for outcome in outcomes], COLUMNS)
    click.echo(f"{page}", err=True)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise SystemExit(1)


def find_all() -> Path:
    """The configuration of all benchmarks, which comes with a clone: here, or where this package lies.

    Raises:
        GmaeToolsError: there is none.
    """
    for folder in (Path(), Path(__file__).resolve().parents[2]):
        if (folder / ALL).is_file():
            return folder / ALL
    raise GmaeToolsError(f"--all: there is no {ALL} here; run it in a clone of the repository, or give CONFIG")


def card_of(checkpoint: str, weights: str) -> Card:
    """What the report says about a checkpoint."""
    from gmae_tools import checkpoints
    from gmae_tools.suite.page import Card

    model = checkpoints.load(checkpoint)
    shape = model.config
    return Card(
        name=Path(checkpoint).name,
        weights=weights,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        k=shape.k,
        queries=shape.queries,
        gaussians_per_query=shape.gaussians_per_query,
        image_size=shape.image_size,
        patch_size=shape.patch_size,
        training=checkpoints.training_of(checkpoint),
    )


def machine_name() -> str:
    """Processors and GPUs, in words."""
    from gmae_tools.diagnosis import devices

    return "; ".join(device.description for device in devices())


def announce(part: Part) -> None:
    """Say which part is run, before its own messages."""
    click.echo(f"{part.name}: {part.question}", err=True)


def row(outcome: Outcome) -> dict[str, str | float | None]:
    """A row of `COLUMNS`."""
    status = "done before" if outcome.reused else outcome.status
    return {"part": outcome.part.name, "status": status, "seconds": outcome.seconds, "reason": outcome.reason or None}
