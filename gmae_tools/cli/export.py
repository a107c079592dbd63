"""`gmae-tools export`: Gaussians of photographs as files for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from gmae_tools.cli._inputs import find_inputs, images_argument, recursive_option
from gmae_tools.cli._models import open_gmae
from gmae_tools.cli._options import (
    backend_option,
    checkpoint_option,
    device_option,
    folder_names,
    fov_option,
    max_pixels_option,
    output_folder,
    print_failure,
    refine_option,
)
from gmae_tools.cli._progress import progress_over, refine_with_progress
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path

if TYPE_CHECKING:
    from gmae_tools.model import GMAE
    from gmae_tools.splatting import Backend

FORMATS = ("ply", "splat", "npz", "svg")


@click.command()
@images_argument()
@recursive_option
@click.option(
    "--format", "forms", type=click.Choice(FORMATS), multiple=True, default=("ply",), show_default=True,
    help="Of the files; more than once for several.",
)  # fmt: skip
@fov_option
@click.option("-o", "--out", metavar="DIR", default="export", show_default=True, help="For the files.")
@checkpoint_option
@device_option
@backend_option
@refine_option
@max_pixels_option
def command(
    images: tuple[str, ...], recursive: bool, forms: tuple[str, ...], fov: float, out: str, checkpoint: str,
    device: str, backend: Backend, refine: int, max_pixels: int,
) -> None:  # fmt: skip
    """Write the Gaussians of photographs for other programs.

    For each picture (file, folder, glob, or - for a pipe) DIR/<name>.<format> is written, and DIR/<name>.json, which
    says how. The paths go to stdout. Formats:

    \b
    ply    3-D Gaussian splatting, binary, as most viewers of Gaussians read it
    splat  32 bytes a Gaussian: antimatter15/splat, and what reads its files
    npz    NumPy arrays of the Gaussians as predicted: gmae_tools.gaussians.Gaussians.load
    svg    the splats as ellipses with gradients: browsers, Inkscape

    The model's own camera is not a perspective one. In ply and splat files the Gaussians are moved and reshaped so that
    a perspective camera sees the same picture: at (0, 0, -1 / tan(fov / 2)), looking along +z at the origin, x to the
    right and y downwards. The JSON file gives it in full. From elsewhere, one looks into the picture from the side.
    """
    paths, failures = find_inputs(images, recursive=recursive, out=out)
    model = open_gmae(checkpoint, device, backend)
    folder = output_folder(out)
    for path, name in progress_over(list(zip(paths, folder_names(paths), strict=True)), folder):
        try:
            written = export(model, path, folder / name, forms, fov, Path(checkpoint).name, backend, refine, max_pixels)
        except (GmaeToolsError, OSError) as error:
            print_failure(path, error)
            failures += 1
            continue
        with tqdm.external_write_mode():
            click.echo("\n".join(map(str, written)))
    if failures:
        raise SystemExit(1)


def export(
    model: GMAE, path: Path, target: Path, forms: tuple[str, ...], fov: float, checkpoint: str, backend: Backend,
    refine: int, max_pixels: int,
) -> list[Path]:  # fmt: skip
    """Write one picture's files, `target` with a suffix for each format and `.json`; returns their paths."""
    import dataclasses

    from gmae_tools import __version__, formats
    from gmae_tools.formats.perspective import PerspectiveView
    from gmae_tools.images import read_image
    from gmae_tools.predict import predict_scene

    scene = predict_scene(model, read_image(path, max_pixels=max_pixels))
    if refine:
        scene = refine_with_progress(scene, refine, name=path.name, backend=backend)
    title = f"{path.name}: {scene.k} Gaussians by {checkpoint}"
    files = [target.with_name(f"{target.name}.{form}") for form in dict.fromkeys(forms)]
    for file in files:
        formats.write(file, scene, fov=fov, title=title)
    record = {
        "image": str(path),
        "checkpoint": checkpoint,
        "k": scene.k,
        "refine": refine,
        "background": [1.0, 1.0, 1.0],
        "files": [file.name for file in files],
        "viewer": PerspectiveView(scene.height, scene.width, fov).to_dict(),
        "camera": dataclasses.asdict(model.camera),
        "gmae_tools": __version__,
    }
    sidecar = target.with_name(f"{target.name}.json")
    with atomic_path(sidecar) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return [*files, sidecar]
