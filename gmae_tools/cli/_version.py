"""What `gmae-tools --version` says: every version that results depend on, found out without loading torch."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from gmae_tools import __version__, checkpoint_names
from gmae_tools.system.files import file_sha256


def describe_versions() -> list[str]:
    """Lines that name this package, torch, Python, and the weights of each embedded checkpoint by their SHA-256."""
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
