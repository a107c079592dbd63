"""`gmae-tools doctor`: report what works on this machine, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._progress import busy
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from gmae_tools.diagnosis import Diagnosis, Trial


@click.command()
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="Format of the report.")
def command(form: str) -> None:
    """Report what works on this machine, what is missing, and what to install.

    The report lists versions, devices, backends and why each of them is usable or not, the embedded checkpoints, and
    the folders of compiled kernels and downloads. Every usable backend renders a small scene, which is compared with
    the dense reference. On a CUDA GPU the first call may compile the kernels of gsplat, which takes minutes.

    The exit code is 0 if commands work with their default options, else 1.
    """
    try:
        with busy("examining this machine, and rendering with every backend"):
            from gmae_tools.diagnosis import diagnose

            diagnosis = diagnose()
    except ImportError as error:
        raise GmaeToolsError(f"a part of gmae-tools is missing ({error}): install it again with pip") from None
    click.echo(json.dumps(diagnosis.to_dict(), indent=2) if form == "json" else as_text(diagnosis), nl=form == "json")
    if diagnosis.problem:
        raise SystemExit(1)


def as_text(diagnosis: Diagnosis) -> str:
    """The report as text."""
    sections = [
        _table(("what", "version"), diagnosis.versions.items()),
        _table(("device", "is"), [(device.name, device.description) for device in diagnosis.devices]),
        _table(
            ("backend", "usable", "reason"),
            [(backend.name, _yes(backend.usable), backend.reason) for backend in diagnosis.backends],
        ),
        _table(
            ("self test", "on", "largest difference", "of gradients", "first s", "then ms", "result"),
            map(_trial, diagnosis.trials),
            {"first s": 2, "then ms": 1},
        ),
        _table(
            ("folder of", "writable", "path"),
            [(folder.purpose, _yes(folder.writable), folder.path) for folder in diagnosis.folders],
        ),
        f"checkpoints: {', '.join(diagnosis.checkpoints) or 'none are embedded'}\n",
        f"by default: {diagnosis.default}: {diagnosis.problem or 'works'}\n",
    ]
    return "\n".join(sections)


def _trial(trial: Trial) -> tuple[str | float, ...]:
    """The row of a self test."""
    result = trial.problem or ("the reference" if trial.backend == "dense" else "as the reference")
    differences = f"{trial.picture:.1e}", f"{trial.gradient:.1e}"
    return (trial.backend, trial.device, *differences, trial.first_seconds, trial.milliseconds, result)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _table(
    columns: Sequence[str], rows: Iterable[Sequence[str | float]], decimals: Mapping[str, int] | None = None
) -> str:
    from gmae_tools.report.tables import format_rows

    shown = dict.fromkeys(columns) | dict(decimals or {})
    return format_rows([dict(zip(columns, row, strict=True)) for row in rows], shown, "table")
