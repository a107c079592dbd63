"""How well does a checkpoint rebuild photographs it has never seen? Against two trivial baselines.

Protocol: the photographs that pretraining holds out (the 500 whose base names have the smallest SHA-256 digests, see
`gmae_tools.datasets.photos.held_out_split`), largest central square, resized to the model's size (antialiased bicubic).
PSNR and SSIM on RGB in [0, 1] over all pixels, per photograph, then averaged; with whole pictures and with 75 % of the
patches hidden (which ones follows from the photograph's number). Gaussians are rendered on white. Baselines: each
photograph's mean colour, and its 14 x 14 thumbnail (antialiased bicubic down, bicubic up).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from tqdm import tqdm

from evals.common import RESULTS, cache_option, checkpoint_option, script, write_table
from evals.measurements import Rebuilt, rebuilt_by
from gmae_tools import checkpoints
from gmae_tools.datasets.photos import PhotoStore, held_out_split
from gmae_tools.images import resize
from gmae_tools.metrics.pictures import psnr, ssim
from gmae_tools.pretrain.held_out import HeldOut
from gmae_tools.report.tables import Row, format_rows

COLUMNS = {"method": None, "masked": 2, "psnr": 2, "ssim": 4, "photographs": None}
THUMBNAIL = 14  # as many pixels as the encoder has patches at 224 px


@script(takes="a minute", needs="the photographs of the pretraining run")
@click.option("--data", multiple=True, required=True, metavar="PATH", help="Photographs of the pretraining run.")
@checkpoint_option
@cache_option
@click.option("--count", default=500, show_default=True, help="Held-out photographs to use.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS / "reconstruction.csv", help="The table.")
def main(data: tuple[str, ...], checkpoint: str, cache: str | None, count: int, out: Path) -> None:
    """Measure reconstruction of held-out photographs."""
    model = checkpoints.load(checkpoint)
    photos = PhotoStore.open(data, cache)
    held_out = HeldOut(photos, held_out_split(photos.names)[1], count)
    size = model.config.image_size
    methods: dict[tuple[str, float], Callable[[], Rebuilt]] = {
        (Path(checkpoint).name, 0.0): lambda: rebuilt_by(model, held_out, size, 0.0),
        (Path(checkpoint).name, 0.75): lambda: rebuilt_by(model, held_out, size, 0.75),
        ("mean colour", 0.0): lambda: shrunk_to(1, held_out, size),
        (f"{THUMBNAIL} x {THUMBNAIL} thumbnail", 0.0): lambda: shrunk_to(THUMBNAIL, held_out, size),
    }
    rows: list[Row] = []
    for (name, masked), pictures in methods.items():
        figures = [(psnr(a, b), ssim(a, b)) for a, b in tqdm(pictures(), desc=name, total=len(held_out.indices))]
        means = np.mean(figures, axis=0)
        rows.append({"method": name, "masked": masked, "psnr": float(means[0]), "ssim": float(means[1]),
                     "photographs": len(figures)})  # fmt: skip
    write_table(out, rows, COLUMNS)
    click.echo(__doc__)
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


def shrunk_to(side: int, held_out: HeldOut, size: int) -> Rebuilt:
    """Photographs shrunk to `side` x `side` px and enlarged again; side 1 gives their mean colour."""
    for number in range(len(held_out.indices)):
        image = held_out.pictures(np.array([number]), size)
        pixels = (image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        small = pixels.mean((0, 1), keepdims=True).round().astype(np.uint8) if side == 1 else resize(pixels, side, side)
        yield resize(small, size, size).astype(np.float32) / 255, pixels.astype(np.float32) / 255


if __name__ == "__main__":
    main()
