"""The report of all benchmarks: one self-contained page, its tables and figures as files, and JSON.

The page runs no script and fetches nothing, which its content security policy enforces. Jinja2 escapes names, tables
and the output of scripts.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2
from PIL import Image

from gmae_tools import __version__
from gmae_tools.report.web import asset, data_uri, encodable, policy
from gmae_tools.suite.config import Figure, Table
from gmae_tools.suite.csv_tables import ReadableTable, read_csv, readable_table
from gmae_tools.suite.runs import Outcome
from gmae_tools.system.files import atomic_path, write_json, write_text

PAGE, RECORD, TABLES, FIGURES = "report.html", "report.json", "tables", "figures"
_MEDIA = {".png": "image/png", ".svg": "image/svg+xml"}
_SCREEN = 165  # px of the page per inch of paper; type on screens is larger than on paper
_MOST_ROWS = 200  # of a table on the page
_LAST_LINES = 80  # of the output of a script


@dataclass(frozen=True)
class Card:
    """The description of the checkpoint on the page."""

    name: str
    weights: str  # SHA-256
    parameters: int
    k: int  # Gaussians of a picture, `queries` times `gaussians_per_query`
    queries: int
    gaussians_per_query: int
    image_size: int  # px
    patch_size: int  # px
    training: Mapping[str, object]  # the record of its training that is stored beside the weights

    @property
    def caption(self) -> str:
        return f"{self.name}, K = {self.k}"


@dataclass(frozen=True)
class Report:
    """The content of a report: title, checkpoint, the machine in words, and the outcomes known so far."""

    title: str
    card: Card
    machine: str
    quick: bool
    outcomes: Sequence[Outcome]


@dataclass(frozen=True)
class Block:
    """A paragraph (`p`) of a protocol or a list (`ul`, `ol`): texts whose pieces are in turn plain and code."""

    kind: str
    items: Sequence[Sequence[str]]


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.html`, `report.json`, `tables/` and `figures/`; returns the path of the page.

    Files that an earlier report in the folder recorded are removed, unless this one writes them.
    """
    written = _copy_results(report, folder)
    record, page = _record(report, written), render_report(report)
    earlier = _read_files(folder / RECORD)
    write_json(folder / RECORD, record)
    write_text(folder / PAGE, page)
    for name in set(earlier) - {name for names in written.values() for name in names}:
        (folder / name).unlink(missing_ok=True)
    return folder / PAGE


def render_report(report: Report) -> str:
    """The page as HTML."""
    style = asset("theme.css") + asset("report.css", __package__)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["duration"] = duration
    page = environment.from_string(asset("report.html", __package__)).render(
        report=report,
        card=report.card,
        sections=[_section(outcome, report) for outcome in report.outcomes],
        counts=Counter(outcome.status for outcome in report.outcomes),
        version=__version__,
        policy=policy(style),
        style=style,
    )
    return encodable(page)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def protocol_of(script: Path) -> str:
    """The docstring of a script; empty if there is none, or if the script is no Python."""
    try:
        return ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, ValueError):
        return ""


def blocks(text: str) -> list[Block]:
    """The paragraphs and lists of a docstring, without indented commands, which the report shows in full."""
    found = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.strip("\n").splitlines()
        if not lines or lines[0].startswith("    "):
            continue
        kind = "ul" if lines[0].startswith("- ") else "ol" if lines[0].startswith("1. ") else "p"
        items: list[str] = []
        for line in lines:
            if not items or (kind != "p" and not line.startswith(" ")):
                items.append(line if kind == "p" else line.partition(" ")[2])
            else:
                items[-1] += f" {line.strip()}"
        found.append(Block(kind, [item.split("`") for item in items]))
    return found


# --- sections ----------------------------------------------------------------------------------------


def _section(outcome: Outcome, report: Report) -> dict[str, object]:
    """The variables of a part in the template."""
    part, done = outcome.part, outcome.status == "done"
    return {
        "outcome": outcome,
        "part": part,
        "source": report.card.caption if outcome.weights else "",
        "protocol": blocks(protocol_of(part.script)),
        "tables": [_shown_table(table, outcome) for table in part.tables if done],
        "figures": [_shown_figure(figure, outcome) for figure in part.figures if done],
        "printed": "\n".join(outcome.printed.splitlines()[-_LAST_LINES:]),
    }


def _shown_table(table: Table, outcome: Outcome) -> dict[str, object]:
    """The variables of a table; `more` is the number of rows that are not shown."""
    content = readable_table(table, outcome.result(table.file))
    shown = ReadableTable(content.columns, content.rows[:_MOST_ROWS])
    more = max(0, len(content.rows) - _MOST_ROWS)
    return {"item": table, "name": outcome.part.public_name(table.file), "content": shown, "more": more}


def _shown_figure(figure: Figure, outcome: Outcome) -> dict[str, object]:
    """The variables of a figure; `width` is in px, None (the browser decides) unless a PNG states its dots per inch."""
    path, width = outcome.result(figure.file), None
    source, name = data_uri(path.read_bytes(), _MEDIA[path.suffix]), outcome.part.public_name(figure.file)
    with suppress(OSError), Image.open(path) as image:  # OSError: an SVG, or no picture at all
        if dots := image.info.get("dpi", (0, 0))[0]:
            width = round(_SCREEN * image.width / dots)
    return {"item": figure, "name": name, "source": source, "width": width}


# --- files -------------------------------------------------------------------------------------------


def _copy_results(report: Report, folder: Path) -> dict[str, list[str]]:
    """Copy the files of all finished parts; returns their paths in the folder by part."""
    written: dict[str, list[str]] = {}
    for outcome in report.outcomes:
        for file in outcome.part.files if outcome.status == "done" else []:
            place = TABLES if file.endswith(".csv") else FIGURES
            target = folder / place / outcome.part.public_name(file)
            target.parent.mkdir(exist_ok=True)
            with atomic_path(target) as temporary:
                shutil.copyfile(outcome.result(file), temporary)
            written.setdefault(outcome.part.name, []).append(f"{place}/{target.name}")
    return written


def _record(report: Report, written: Mapping[str, list[str]]) -> dict[str, object]:
    """The content of `report.json`."""
    return {
        "title": report.title,
        "version": __version__,
        "machine": report.machine,
        "quick": report.quick,
        "checkpoint": asdict(report.card),
        "parts": [
            {
                "name": outcome.part.name,
                "question": outcome.part.question,
                "status": outcome.status,
                "reason": outcome.reason or None,
                "command": outcome.shown_command or None,
                "weights": outcome.weights,
                "protocol": protocol_of(outcome.part.script),
                "seconds": outcome.seconds,
                "runs": outcome.runs,
                "finished": outcome.finished or None,
                "files": written.get(outcome.part.name, []),
                "tables": [_table_record(table, outcome) for table in outcome.part.tables if outcome.status == "done"],
            }
            for outcome in report.outcomes
        ],
    }


def _table_record(table: Table, outcome: Outcome) -> dict[str, object]:
    names, rows = read_csv(outcome.result(table.file))
    return {
        "file": f"{TABLES}/{outcome.part.public_name(table.file)}",
        "caption": table.caption,
        "columns": names,
        "rows": rows,
    }


def _read_files(path: Path) -> list[str]:
    """The files that an earlier report recorded, if they are in the folders of reports."""
    noted: list[str] = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        noted = [str(name) for part in json.loads(path.read_text(encoding="utf-8"))["parts"] for name in part["files"]]
    return [name for name in noted if name.startswith((f"{TABLES}/", f"{FIGURES}/")) and ".." not in name]
