"""How long does a user wait for the first answer? Commands on one photograph, each in a process of its own.

Protocol: the bundled photograph, warm disk, kernels compiled; one thread. In every round each command runs once, in a
fresh process. A time is the median of its processor seconds (user), which a busy machine changes little; a ratio is the
median of the ratios to `import torch` in the same round. With `--against` another checkout, such as an older version,
takes turns with this one.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "gmae_tools" / "assets" / "demo.jpg"
UNIT = "import torch"
IMPORTS = (UNIT, "import gmae_tools.model")
COMMANDS = ("layers", "segment", "edges", "view", "density", "export", "reconstruct")
COLUMNS = {"checkout": None, "what": None, "seconds": 2, "ratio": 2}


@click.command()
@click.option("--against", type=click.Path(exists=True, file_okay=False), help="Root of another checkout.")
@click.option("--command", "commands", multiple=True, default=COMMANDS, help="Commands to time.  [default: all]")
@click.option("--rounds", default=3, show_default=True, help="Calls of each.")
@click.option("-o", "--out", default=str(ROOT / "evals" / "results" / "start_speed.csv"), show_default=True)
def main(against: str | None, commands: tuple[str, ...], rounds: int, out: str) -> None:
    """Time commands on one photograph from a cold process to their files."""
    checkouts = {"this": ROOT} | ({"other": Path(against).resolve()} if against else {})
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-1, rounds):  # the first round fills caches, and does not count
            for what in (*IMPORTS, *commands):
                for name, root in checkouts.items():
                    click.echo(f"round {number + 1} of {rounds}: {what} ({name})", err=True)
                    seconds = time_once(what, root, Path(folder) / f"{what}-{name}")
                    if number >= 0:
                        times.setdefault((name, what), []).append(seconds)
    rows = [row(name, what, seconds, times[name, UNIT]) for (name, what), seconds in times.items()]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        temporary.write_text(format_rows(rows, COLUMNS, "csv"))
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


def row(checkout: str, what: str, seconds: list[float], unit: list[float]) -> Row:
    """A line of the table, from the times of a command and those of the unit in the same rounds."""
    ratio = statistics.median(a / b for a, b in zip(seconds, unit, strict=True))
    return {"checkout": checkout, "what": what, "seconds": statistics.median(seconds), "ratio": ratio}


def time_once(what: str, root: Path, out: Path) -> float:
    """Processor seconds (user) of a statement, or of a command on the photograph, in a process of its own."""
    arguments = ["-c", what] if what in IMPORTS else ["-m", "gmae_tools", what, str(PHOTO), "-o", str(out)]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, *arguments], env=environment, cwd=out.parent, capture_output=True, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


if __name__ == "__main__":
    main()
