"""`gmae-tools checkpoints`: list, import, average, export and upload models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._options import check_checkpoints, format_option, output_folder
from gmae_tools.cli._progress import busy, progress
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import file_sha256

if TYPE_CHECKING:
    from gmae_tools.report.tables import Row

COLUMNS = {"name": None, "model": None, "image_size": None, "encoder": None, "parameters": None, "samples": None}


@click.group()
def command() -> None:
    """List, import, average, export and upload models."""


@command.command("list")
@click.argument("checkpoints", nargs=-1, callback=check_checkpoints)
@format_option
def list_command(checkpoints: tuple[str, ...], form: str) -> None:
    """List models and sizes of CHECKPOINTS, by default of those that come with the package."""
    from gmae_tools.checkpoint_names import embedded
    from gmae_tools.report.tables import format_rows

    names = checkpoints or embedded()
    rows = [describe(name) for name in progress(names, len(names), "checkpoint")]
    click.echo(format_rows(rows, COLUMNS, form), nl=False)


def describe(name: str) -> Row:
    """Return the row of a checkpoint in the table."""
    from gmae_tools.checkpoints import load_any, training_of

    model = load_any(name)
    config = model.config
    samples = training_of(name).get("samples")
    return {
        "name": name,
        "model": type(model).__name__,
        "image_size": config.image_size,
        "encoder": f"{config.depth} x {config.width}, patch {config.patch_size}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "samples": samples if isinstance(samples, int) else None,
    }


@command.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--half", is_flag=True, help="Store weights as float16.")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder of the new checkpoint.")
def import_command(file: str, half: bool, out: str) -> None:
    """Convert FILE, a checkpoint of another program, to a checkpoint folder of gmae-tools.

    FILE comes from the code of GMAE's authors (a .ckpt of Lightning, or the bare state dict of their image model as
    .pth), or is an official MAE checkpoint (.pth). No code in it is run. Every --checkpoint option also takes FILE
    itself; the folder is smaller, because it lacks the state of the optimizer, and can be pushed to the hub.
    """
    from gmae_tools.checkpoint_names import FILE_SUFFIXES
    from gmae_tools.checkpoints import file_of_others, load_file, save

    if file_of_others(file) is None:
        raise GmaeToolsError(f"{file}: expected a file named {', '.join('*' + suffix for suffix in FILE_SUFFIXES)}")
    model = load_file(file)
    save(model, output_folder(out), half=half, training={"imported_from": Path(file).name, "sha256": file_sha256(file)})
    click.echo(out)


@command.command()
@click.argument("checkpoints", nargs=-1, required=True, callback=check_checkpoints)
@click.option("--half", is_flag=True, help="Store weights as float16.")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder of the new checkpoint.")
def average(checkpoints: tuple[str, ...], half: bool, out: str) -> None:
    """Average the weights of CHECKPOINTS, of training runs from the same initial weights (a model soup).

    The average is often a little better than each of them, and costs the same to use. It does not work if the training
    runs began from different weights.
    """
    from gmae_tools.checkpoints import load_any, save, training_of
    from gmae_tools.pretrain.soup import average as mean_of

    model = mean_of([load_any(name) for name in progress(checkpoints, len(checkpoints), "checkpoint")])
    recipes = [training_of(name) for name in checkpoints]
    save(model, output_folder(out), half=half, training={"average_of": recipes})
    click.echo(out)


@command.command()
@click.argument("checkpoint", callback=check_checkpoints)
@click.option(
    "--timm", is_flag=True, required=True, help="Write a plain vision transformer of timm or of the official MAE."
)
@click.option(
    "--image-size", type=click.IntRange(1), metavar="PX", help="Side of its square pictures.  [default: as in training]"
)
@click.option(
    "-o", "--out", required=True, metavar="FILE", help="New file: .safetensors, or .pth as in the official MAE."
)
def export(checkpoint: str, timm: bool, image_size: int | None, out: str) -> None:
    """Write the encoder of CHECKPOINT for other programs, and print a Python program that loads it.

    Its features are those of `encode` if pictures are normalised by the mean and standard deviation in that program;
    the models of gmae-tools normalise pictures themselves. See docs/using-the-encoder.md.
    """
    from gmae_tools.checkpoints import load_any
    from gmae_tools.formats.timm import export_timm, loading_code

    model = load_any(checkpoint)
    export_timm(model, out, image_size)
    click.echo(loading_code(model, out, image_size))


@command.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.argument("repository", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make the repository private if it is new.")
def push(folder: str, repository: str, private: bool) -> None:
    """Upload the checkpoint in FOLDER to the Hugging Face hub, and print the name that loads it.

    Log in first with hf auth login. The weights, the configuration and README.md are uploaded.
    """
    with busy(f"uploading {folder}"):
        from gmae_tools.checkpoints import push as push_folder

        address = push_folder(folder, repository, private=private)
    click.echo(address)
