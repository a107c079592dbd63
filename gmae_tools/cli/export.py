"""`gmae-tools export`: Gaussians of photographs as files for other programs."""

from __future__ import annotations

from pathlib import Path

import click
from tqdm import tqdm

from gmae_tools.cli._models import ModelOptions, model_options
from gmae_tools.cli._options import fov_option, jobs_option, out_option, output_folder
from gmae_tools.cli._scenes import SceneInputs, Scenes, scene_options
from gmae_tools.cli._work import Work
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import is_gaussians_name
from gmae_tools.system.files import write_json

FORMATS = ("ply", "splat", "npz", "svg")


@click.command()
@scene_options()
@click.option(
    "--format",
    "forms",
    type=click.Choice(FORMATS),
    multiple=True,
    default=("ply",),
    help="Format of the files; give the option several times for several formats.",
)
@fov_option
@jobs_option
@out_option("export", "Folder of the files.")
@model_options
def command(
    inputs: SceneInputs, forms: tuple[str, ...], fov: float, jobs: int | None, out: str, model: ModelOptions
) -> None:
    """Write the Gaussians of photographs, or of other files, for other programs.

    For each picture or file of Gaussians (.ply, .splat, .npz; a folder, a glob, or - for a pipe) DIR/<name>.<format> is
    written, and DIR/<name>.json with the camera and the settings. The paths go to stdout. The formats are

    \b
    ply    3-D Gaussian splatting, binary, for most viewers of Gaussians
    splat  32 bytes for each Gaussian, for antimatter15/splat and programs that read its files
    npz    NumPy arrays of the Gaussians as predicted, for gmae_tools.read
    svg    the splats as ellipses with gradients, for browsers and Inkscape

    The camera of the models is not a perspective camera. In ply and splat files the Gaussians are moved and reshaped so
    that a perspective camera sees the same picture. It stands at (0, 0, -1 / tan(fov / 2)) and looks along +z at the
    origin, with x to the right and y downwards; the JSON file describes it. From other places the Gaussians are seen
    from the side. Gaussians from files whose camera is a pinhole are written unchanged.
    """
    paths, failures = inputs.find(out)
    scenes = inputs.open(paths, model)
    folder = output_folder(out)
    work = Work(paths, folder, jobs, failures)
    for _, written in work.each(lambda path, name: write_one(scenes, path, folder / name, forms, fov)):
        with tqdm.external_write_mode():
            click.echo("\n".join(map(str, written)))
    if work.failures:
        raise SystemExit(1)


def write_one(scenes: Scenes, path: Path, target: Path, forms: tuple[str, ...], fov: float) -> list[Path]:
    """Write one input's files, `target` with a suffix for each format and `.json`; returns their paths."""
    import dataclasses

    from gmae_tools import __version__, formats
    from gmae_tools.formats.perspective import describe_view

    from_file = is_gaussians_name(path.name)
    if from_file and path.resolve().parent == target.parent.resolve():
        raise GmaeToolsError(f"{path}: lies in the folder of the results; choose another one with --out")
    scene = scenes.scene(path)
    title = f"{path.name}: {scene.k} Gaussians" + ("" if from_file else f" by {scenes.options.name}")
    files = [target.with_name(f"{target.name}.{form}") for form in dict.fromkeys(forms)]
    for file in files:
        formats.write(file, scene, fov=fov, title=title)
    record = {
        "image": str(path),
        "checkpoint": None if from_file else scenes.options.name,
        "k": scene.k,
        "refine": scenes.options.refine,
        "background": [1.0, 1.0, 1.0],
        "files": [file.name for file in files],
        "viewer": describe_view(scene, fov),
        "camera": dataclasses.asdict(scene.camera),
        "gmae_tools": __version__,
    }
    sidecar = target.with_name(f"{target.name}.json")
    write_json(sidecar, record)
    return [*files, sidecar]
