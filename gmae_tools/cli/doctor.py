"""`gmae-tools doctor`: report what works on this machine, and what is missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._progress import busy
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from gmae_tools.diagnosis import Diagnosis


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
    from gmae_tools.report.tables import Row, format_rows

    backends: list[Row] = [
        {"backend": status.name, "usable": "yes" if status.usable else "no", "reason": status.reason}
        for status in diagnosis.backends
    ]
    trials: list[Row] = [
        {"self test": trial.backend, "on": trial.device, "largest difference": f"{trial.picture:.1e}",
         "of gradients": f"{trial.gradient:.1e}", "first s": trial.first_seconds, "then ms": trial.milliseconds,
         "result": trial.problem or ("the reference" if trial.backend == "dense" else "as the reference")}
        for trial in diagnosis.trials
    ]  # fmt: skip
    folders: list[Row] = [
        {"folder of": folder.purpose, "writable": "yes" if folder.writable else "no", "path": folder.path}
        for folder in diagnosis.folders
    ]
    sections = [
        format_rows([{"what": name, "version": text} for name, text in diagnosis.versions.items()],
                    {"what": None, "version": None}, "table"),
        format_rows([{"device": device.name, "is": device.description} for device in diagnosis.devices],
                    {"device": None, "is": None}, "table"),
        format_rows(backends, dict.fromkeys(("backend", "usable", "reason")), "table"),
        format_rows(trials, {"self test": None, "on": None, "largest difference": None, "of gradients": None,
                             "first s": 2, "then ms": 1, "result": None}, "table"),
        format_rows(folders, dict.fromkeys(("folder of", "writable", "path")), "table"),
        f"checkpoints: {', '.join(diagnosis.checkpoints) or 'none came along'}\n",
        f"by default: {diagnosis.default}: {diagnosis.problem or 'works'}\n",
    ]  # fmt: skip
    return "\n".join(sections)
