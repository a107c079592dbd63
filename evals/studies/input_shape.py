"""How should a photograph that is not square enter the model? Squeezed into a square, or as patches of its own shape.

Protocol: photographs of a folder, rendered at their own size on white, all Gaussians; PSNR over all pixels, per
photograph, then averaged. `square` squeezes the photograph into the model's own square; `own shape` resizes it to the
grid of patches nearest to its aspect ratio with about as many patches as the square has.
"""

from __future__ import annotations

import math
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from evals.common import RESULTS, checkpoint_option, script, write_table
from gmae_tools import checkpoints
from gmae_tools.finding import find_images
from gmae_tools.images import read_image
from gmae_tools.metrics.pictures import psnr
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.prediction import predict_scene
from gmae_tools.report.tables import Row, format_rows

COLUMNS = {"input": None, "psnr": 2, "better": None, "photographs": None}


@script(takes="half a minute", needs="photographs, for the table in the results those of BSDS500 val")
@click.argument("photographs", nargs=-1, required=True)
@checkpoint_option
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS / "input_shape.csv", help="The table.")
def main(photographs: tuple[str, ...], checkpoint: str, out: Path) -> None:
    """Measure reconstruction of PHOTOGRAPHS (files, folders or globs) for both ways in."""
    model = checkpoints.load(checkpoint)
    figures = np.array([both_ways(model, read_image(path)) for path in tqdm(find_images(photographs))])
    rows: list[Row] = [
        {"input": name, "psnr": float(figures[:, way].mean()), "better": better, "photographs": len(figures)}
        for way, (name, better) in enumerate(zip(("square", "own shape"), wins(figures), strict=True))
    ]
    write_table(out, rows, COLUMNS)
    click.echo(__doc__)
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


def both_ways(model: GMAE, photo: np.ndarray) -> tuple[float, float]:
    """PSNR in dB of a photograph, squeezed into the square and in its own shape."""
    height, width = photo.shape[:2]
    own_shape = nearest_grid(model.config, height, width)
    return rebuilt(model, photo, None), rebuilt(model, photo, own_shape)


def rebuilt(model: GMAE, photo: np.ndarray, size: tuple[int, int] | None) -> float:
    """PSNR in dB of a photograph seen at `size`."""
    picture = predict_scene(model, photo, size).render()[0]
    return psnr(picture.permute(1, 2, 0).clamp(0, 1).numpy(), photo.astype(np.float32) / 255)


def nearest_grid(config: GMAEConfig, height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels, multiples of the patch size, near the photograph's aspect ratio."""
    patches = config.image_size / config.patch_size
    stretch = math.sqrt(height / width)
    rows, columns = (max(1, round(patches * factor)) for factor in (stretch, 1 / stretch))
    return rows * config.patch_size, columns * config.patch_size


def wins(figures: np.ndarray) -> tuple[int, int]:
    """For how many photographs each way is the better one."""
    return int((figures[:, 0] > figures[:, 1]).sum()), int((figures[:, 1] > figures[:, 0]).sum())


if __name__ == "__main__":
    main()
