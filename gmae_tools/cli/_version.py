"""`gmae-tools --version`: all versions on which results depend, determined without loading torch."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from gmae_tools import __version__, checkpoint_names
from gmae_tools.system.files import file_sha256


def describe_versions() -> list[str]:
    """Lines with the versions of this package, torch and Python, and the SHA-256 of each embedded checkpoint."""
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = "not installed"
    lines = [f"gmae-tools, version {__version__}", f"torch {torch}, Python {platform.python_version()}"]
    for name in checkpoint_names.embedded():
        for weights in sorted(checkpoint_names.local_path(name).glob("*.safetensors")):
            lines.append(f"checkpoint {name}, SHA-256 {file_sha256(weights)}")
    return lines


def print_versions(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print the versions and end the command; callback of `--version`."""
    if value and not ctx.resilient_parsing:
        click.echo("\n".join(describe_versions()))
        ctx.exit()
