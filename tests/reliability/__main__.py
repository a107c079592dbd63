"""Does anything that a user, a crash or a hostile file does lose work or run code?

Protocol: seven parts, each in its share of the time box; what one leaves over goes to those that follow. A part does
its tries until they are done or its time is, and says how many there were, so a short box means fewer tries. What is
tried is drawn from the seed. A failure is a broken guarantee, in a line with which it can be repeated. What each part
tries, and what it asks for, stands below the table.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from gmae_tools import __version__
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path
from tests.reliability.outcome import Outcome, TimeBox

ROOT = Path(__file__).resolve().parents[2]

# Parts (modules of `tests.reliability`) in their order, and their shares of the time.
PARTS = {"checkpoints": 2, "pictures": 8, "renderer": 5, "downloads": 3, "crashes": 9, "pages": 2, "supply": 3}
COLUMNS = {"part": None, "tried": None, "times": 0, "failures": 0, "note": None}


@click.command()
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=40.0, show_default=True, help="For all.")
@click.option(
    "--part", "parts", type=click.Choice(list(PARTS)), multiple=True, help="This part alone; may be repeated."
)
@click.option("--seed", default=0, show_default=True, help="Of everything that is drawn.")
@click.option(
    "--data-root", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DATA",
    help="Folder of data sets, for more photographs to begin with.",
)  # fmt: skip
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path),
    help="Folder for reliability.md and .csv.  [default: evals/results; nothing is written with --part]",
)  # fmt: skip
def main(minutes: float, parts: tuple[str, ...], seed: int, data_root: Path | None, out: Path | None) -> None:
    """Try to break the guarantees of the package; the exit code is 1 if one broke."""
    chosen = [part for part in PARTS if part in parts or not parts]
    start = time.monotonic()
    outcomes = []
    for outcome in run_parts(chosen, TimeBox(60 * minutes), seed, data_root):
        click.echo(line(outcome), err=True)
        outcomes.append(outcome)
    took = (time.monotonic() - start) / 60
    setting = f"Version {__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, seed {seed}, "
    setting += f"a box of {minutes:g} minutes, of which {took:.1f} were used."
    page = report(outcomes, setting, chosen)
    if out or not parts:
        write(page, outcomes, out or ROOT / "evals" / "results")
    click.echo(page)
    if any(outcome.failures for outcome in outcomes):
        raise SystemExit(1)


def run_parts(parts: Sequence[str], box: TimeBox, seed: int, data: Path | None) -> Iterator[Outcome]:
    """What the parts have found, when they find it; one that breaks has failed and does not stop the others."""
    for number, part in enumerate(parts):
        share = PARTS[part] / sum(PARTS[each] for each in parts[number:])
        tried = False
        try:
            for outcome in importlib.import_module(f"tests.reliability.{part}").campaign(box.share(share), seed, data):
                tried = True
                yield outcome
        except Exception as error:
            traceback.print_exc()
            yield Outcome(part, "the rest of the part", 0, (f"{type(error).__name__}: {error}",))
            continue
        if not tried:
            yield Outcome(part, "the part", 0, ("tried nothing: too little time?",))


def line(outcome: Outcome) -> str:
    """An outcome in a line, with its failures in further ones."""
    verdict = f"{len(outcome.failures)} FAILED" if outcome.failures else "ok"
    text = f"{outcome.part}: {outcome.tried}, {outcome.times} times: {verdict}"
    return "\n".join([text + (f" ({outcome.note})" if outcome.note else ""), *map("  {}".format, outcome.failures)])


def table(outcomes: Sequence[Outcome]) -> list[Row]:
    """Rows of `COLUMNS`."""
    return [{**vars(outcome), "failures": len(outcome.failures)} for outcome in outcomes]


def report(outcomes: Sequence[Outcome], setting: str, parts: Sequence[str]) -> str:
    """The page: protocol, table, failures, and what the parts do."""
    failures = [f"- {outcome.part}, {outcome.tried}: {failure}" for outcome in outcomes for failure in outcome.failures]
    sections = [
        "# Reliability",
        (__doc__ or "").strip(),
        setting,
        f"```\n{format_rows(table(outcomes), COLUMNS, 'table')}```",
        "\n".join(["## Failures", "", *failures]) if failures else "Nothing failed.",
    ]
    for part in parts:
        module = sys.modules.get(f"tests.reliability.{part}")
        sections += [f"## {part}", ((module and module.__doc__) or "Could not be loaded.").strip()]
    return "\n\n".join(sections) + "\n"


def write(page: str, outcomes: Sequence[Outcome], folder: Path) -> None:
    """The page and the table, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in {"md": page, "csv": format_rows(table(outcomes), COLUMNS, "csv")}.items():
        with atomic_path(folder / f"reliability.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
