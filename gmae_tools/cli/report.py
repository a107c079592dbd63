"""`gmae-tools report`: run scripted benchmarks, and write their results on one page."""

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
    from gmae_tools.suite.page import Card
    from gmae_tools.suite.runs import Outcome

ALL = Path("evals") / "report.toml"  # in a clone
COLUMNS = {"part": None, "status": None, "seconds": 1, "reason": None}


def place(text: str) -> tuple[str, Path]:
    """`NAME=PATH` as a pair; type of an option."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise click.BadParameter(f"{text!r} is not NAME=PATH, such as bsds500=data/bsds500")
    return name, Path(path).expanduser()


@dataclass(frozen=True)
class DataPlaces:
    """The folder of all data sets, and the paths of those that are elsewhere, by name."""

    data_root: Path | None
    data: tuple[tuple[str, Path], ...]


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="All benchmarks of evals/, in a clone of the repository.")
@click.option("--only", metavar="PART", multiple=True, help="Run only this part; may be repeated.")
@click.option("--quick", is_flag=True, help="Use few pictures and rounds, to test that everything works.")
@gathered(
    "data",
    DataPlaces,
    click.option(
        "--data-root",
        envvar="GMAE_TOOLS_DATA",
        show_envvar=True,
        metavar="DIR",
        help="Folder of the data sets.",
        type=click.Path(path_type=Path),
    ),
    click.option(
        "--data",
        type=place,
        multiple=True,
        metavar="NAME=PATH",
        help="Path of a data set that is elsewhere; may be repeated.",
    ),
)
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
    """Run scripted benchmarks, and write their results on one page.

    CONFIG is a TOML file that names scripts, their arguments and the files that they write. evals/report.toml, which
    --all uses, explains the format. DIR receives report.html (a self-contained page), report.json, tables/ (CSV),
    figures/ (PNG, SVG) and parts/ (each run, with its output). The page is updated after each part.

    Finished parts are not run again if script, arguments, data, checkpoint and version are the same. After an
    interruption the same command continues. If a part fails, the others are run, and the exit code is 1. Parts whose
    data are missing are skipped, unless --only names them. The status of each part is printed on stdout.
    """
    if (config is None) != everything:
        raise click.UsageError("give CONFIG, or --all")

    from gmae_tools.suite.config import read_config

    chosen = read_config(config or find_all())  # before torch is loaded, so that mistakes are reported at once
    chosen.check_names(only)
    found, missing = chosen.find_data(data.data_root, dict(data.data))
    for part in chosen.parts:
        for name in part.uses & missing.keys() if part.name in only else ():
            raise GmaeToolsError(f"part {part.name} {missing[name]}")

    from gmae_tools.benchmarks.predictions import weights_of
    from gmae_tools.diagnosis import devices
    from gmae_tools.suite.page import Report, write_report
    from gmae_tools.suite.runs import RUNS, Request, run_parts
    from gmae_tools.system.files import remove_leftovers, sole_run

    weights = weights_of(checkpoint)
    card = card_of(checkpoint, weights)
    folder = writable_folder(output.out)
    request = Request(folder, checkpoint, weights, quick, only, again, found, missing)
    machine = "; ".join(device.description for device in devices())
    outcomes: list[Outcome] = []
    with sole_run(folder) as lock:
        remove_leftovers([folder, *folder.glob("*/"), *folder.glob(f"{RUNS}/*/")])
        when_interrupted(f"the same command continues, and {folder} contains the finished parts")
        for outcomes in run_parts(
            chosen, request, lock, lambda part: click.echo(f"{part.name}: {part.question}", err=True)
        ):
            page = write_report(Report(chosen.title, card, machine, quick, outcomes), folder)
    output.print_rows([row(outcome) for outcome in outcomes], COLUMNS)
    click.echo(f"{page}", err=True)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise SystemExit(1)


def find_all() -> Path:
    """The configuration of all benchmarks, in the current folder or in the clone that contains this package."""
    for folder in (Path(), Path(__file__).resolve().parents[2]):
        if (folder / ALL).is_file():
            return folder / ALL
    raise GmaeToolsError(f"--all: there is no {ALL} here; run it in a clone of the repository, or give CONFIG")


def card_of(checkpoint: str, weights: str) -> Card:
    """The description of a checkpoint in the report."""
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


def row(outcome: Outcome) -> dict[str, str | float | None]:
    """A row of `COLUMNS`."""
    status = "done before" if outcome.reused else outcome.status
    return {"part": outcome.part.name, "status": status, "seconds": outcome.seconds, "reason": outcome.reason or None}
