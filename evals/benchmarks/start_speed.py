"""How long does a user wait for the first answer? Commands on one photograph, each in a process of its own.

Protocol: the bundled photograph, warm disk, kernels compiled; one thread. In every round each command runs once, in a
fresh process. `seconds` is the median of its wall clock, and means something on a quiet machine alone; `cpu` that of
its processor seconds (user and system), which a busy machine changes little; `megabytes` the most that one round held;
`ratio` the median of the ratios of `cpu` to that of `import torch` in the same round. `goal` is for two quiet cores.
With `--against` another checkout, such as an older version, takes turns with this one.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import click

from evals.common import PHOTO, ROOT
from evals.costs import Cost, cost_of
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path

UNIT = "import torch"
IMPORTS = (UNIT, "import gmae_tools.model")
COMMANDS = ("layers", "segment", "edges", "view", "density", "export", "reconstruct")
GOALS = {"layers": 2.6, "segment": 2.4, "edges": 4.0, "view": 3.0}  # seconds
COLUMNS = {"checkout": None, "what": None, "seconds": 2, "goal": 1, "cpu": 2, "megabytes": 0, "ratio": 2}


@click.command()
@click.option("--against", type=click.Path(exists=True, file_okay=False), help="Root of another checkout.")
@click.option("--command", "commands", multiple=True, default=COMMANDS, help="Commands to time.  [default: all]")
@click.option("--rounds", default=3, show_default=True, help="Calls of each.")
@click.option("-o", "--out", default=str(ROOT / "evals" / "results" / "start_speed.csv"), show_default=True)
def main(against: str | None, commands: tuple[str, ...], rounds: int, out: str) -> None:
    """Time commands on one photograph from a cold process to their files."""
    checkouts = {"this": ROOT} | ({"other": Path(against).resolve()} if against else {})
    costs: dict[tuple[str, str], list[Cost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-1, rounds):  # the first round fills caches, and does not count
            for what in (*IMPORTS, *commands):
                for name, root in checkouts.items():
                    click.echo(f"round {number + 1} of {rounds}: {what} ({name})", err=True)
                    cost = run_once(what, root, Path(folder) / f"{what}-{name}")
                    if number >= 0:
                        costs.setdefault((name, what), []).append(cost)
    rows = [row(name, what, each, costs[name, UNIT]) for (name, what), each in costs.items()]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        temporary.write_text(format_rows(rows, COLUMNS, "csv"))
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


def row(checkout: str, what: str, costs: list[Cost], unit: list[Cost]) -> Row:
    """A line of the table, from the costs of a command and those of the unit in the same rounds."""
    return {
        "checkout": checkout,
        "what": what,
        "seconds": statistics.median(cost.seconds for cost in costs),
        "goal": GOALS.get(what),
        "cpu": statistics.median(cost.cpu for cost in costs),
        "megabytes": max(cost.megabytes for cost in costs),
        "ratio": statistics.median(a.cpu / b.cpu for a, b in zip(costs, unit, strict=True)),
    }


def run_once(what: str, root: Path, out: Path) -> Cost:
    """The cost of a statement, or of a command on the photograph, in a process of its own."""
    arguments = ["-c", what] if what in IMPORTS else ["-m", "gmae_tools", what, str(PHOTO), "-o", str(out)]
    return cost_of(arguments, root, out.parent)


if __name__ == "__main__":
    main()
