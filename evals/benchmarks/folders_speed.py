"""How many photographs a second do commands take apart, once they have started?

Protocol: copies of the bundled photograph at 500 x 375 px, some mirrored, each of another brightness, so that no two
are alike; threads as the commands choose them. In every round each command runs on one photograph and on all of them,
with one job and with several, in turns. The seconds of one photograph are its start; `per_second` is the median over
the rounds of (photographs - 1) / (seconds of all - seconds of one), by the clock, and means something on a quiet
machine alone; `cpu` the median processor seconds that another photograph takes; `speedup` the median ratio of the
seconds after the start with one job to those with several, in the same round. `goal` is for two quiet cores. With
`--against` another checkout, such as an older version, takes turns with this one, with its own number of jobs, and
`ratio` is the median of the ratios of its seconds after the start to those here, in the same round.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageEnhance

from evals.common import PHOTO, ROOT
from evals.costs import Cost, cost_of
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path
from gmae_tools.system.processes import cores

COMMANDS = ("layers", "segment", "export")
GOALS = {"layers": 10.0, "segment": 14.0}  # photographs a second
SIZE = (500, 375)
COLUMNS = {
    "checkout": None, "what": None, "jobs": 0, "per_second": 2, "goal": 0, "cpu": 3, "speedup": 2, "ratio": 2,
    "megabytes": 0,
}  # fmt: skip
Pair = tuple[Cost, Cost]  # of one photograph, and of all in the same round


@click.command()
@click.option("--against", type=click.Path(exists=True, file_okay=False), help="Root of another checkout.")
@click.option("--command", "commands", multiple=True, default=COMMANDS, help="Commands to time.  [default: all]")
@click.option("--photographs", default=40, show_default=True)
@click.option("--jobs", default=cores(), show_default=True, help="Beside one.")
@click.option("--rounds", default=3, show_default=True)
@click.option("-o", "--out", default=str(ROOT / "evals" / "results" / "folders_speed.csv"), show_default=True)
def main(against: str | None, commands: tuple[str, ...], photographs: int, jobs: int, rounds: int, out: str) -> None:
    """Time commands on a folder of photographs, with one job and with several."""
    runs: list[tuple[str, Path, int | None]] = [("this", ROOT, count) for count in dict.fromkeys((1, jobs))]
    if against:
        runs.append(("other", Path(against).resolve(), None))  # an older version may not know --jobs
    costs: dict[tuple[str, str, int | None], list[Pair]] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_photographs(folder / "photographs", photographs)
        for number in range(-1, rounds):  # the first round fills caches, and does not count
            for what, (name, root, count) in itertools.product(commands, runs):
                click.echo(f"round {number + 1} of {rounds}: {what} ({name}, jobs {count or 'by default'})", err=True)
                one = run(what, folder / "photographs" / "000.jpg", count, folder, root)
                if number >= 0:
                    pair = one, run(what, folder / "photographs", count, folder, root)
                    costs.setdefault((name, what, count), []).append(pair)
    rows = []
    for (name, what, count), pairs in costs.items():
        other = costs.get(("other", what, None)) if name == "this" else None
        rows.append({"checkout": name, **row(what, count, pairs, costs["this", what, 1], other, photographs)})
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        temporary.write_text(format_rows(rows, COLUMNS, "csv"))
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


def write_photographs(folder: Path, count: int) -> None:
    """Different photographs of the same size, `000.jpg` and so on."""
    folder.mkdir()
    original = Image.open(PHOTO).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    for number, brightness in enumerate(np.linspace(0.6, 1.3, count)):
        mirrored = original.transpose(Image.Transpose(number % 2)) if number % 3 else original
        ImageEnhance.Brightness(mirrored).enhance(float(brightness)).save(folder / f"{number:03}.jpg", quality=92)


def run(what: str, photographs: Path, jobs: int | None, folder: Path, root: Path) -> Cost:
    """The cost of a command of a checkout on a photograph, or on a folder of them."""
    chosen = ["--jobs", str(jobs)] if jobs else []
    arguments = ["-m", "gmae_tools", what, str(photographs), *chosen, "-o", str(folder / what)]
    return cost_of(arguments, root, folder, one_thread=False)


def row(
    what: str, jobs: int | None, pairs: list[Pair], alone: list[Pair], other: list[Pair] | None, photographs: int
) -> Row:
    """A line of the table, from the costs in each round: of this line, with one job, and of another checkout."""
    seconds, before = after_start(pairs), after_start(alone)
    versus = zip(after_start(other), seconds, strict=True) if other else ()
    return {
        "what": what,
        "jobs": jobs,
        "per_second": statistics.median((photographs - 1) / each for each in seconds),
        "goal": GOALS.get(what),
        "cpu": statistics.median((everything.cpu - one.cpu) / (photographs - 1) for one, everything in pairs),
        "speedup": statistics.median(a / b for a, b in zip(before, seconds, strict=True)) if jobs else None,
        "ratio": statistics.median(a / b for a, b in versus) if other else None,
        "megabytes": max(everything.megabytes for _, everything in pairs),
    }


def after_start(pairs: list[Pair]) -> list[float]:
    return [everything.seconds - one.seconds for one, everything in pairs]


if __name__ == "__main__":
    main()
