r"""Do Gaussians gather where a photograph has detail? Rank correlation of their density with the gradient there.

Protocol: photographs of BSDS500 val are squeezed into the model's square, as `gmae-tools predict` does, and the square
is cut into 8 x 8 and into 24 x 24 cells. For each photograph, Spearman's rank correlation over the cells between the
mean gradient magnitude of its luminance (derivatives of a Gaussian, sigma 1 px of the model's input) and

- `count`: the number of Gaussians whose centres lie in the cell, however faint they are; those outside of the picture
  count for the cells at its border, as in `gmae-tools density`;
- `weight`: the sum of their opacities;
- `rest`: `weight` in ranks, less the mean of the other photographs' ranks. A model may put the same Gaussians into
  every picture, and photographs may have their detail in the middle: `frame` is the correlation of that mean map alone,
  which knows nothing of the photograph.

Each figure is the mean over photographs with its 95 % bootstrap interval. Above 0: denser where there is more detail.
`regular grid` has one Gaussian for each query at the places from which queries on a grid start, in all pictures alike;
in cells that hold one each there is nothing to correlate, and the table is empty. `random weights` are those of the
same architecture before training.

    python -m evals.studies.density_gradient --root DATA --checkpoint gmae-tiny --checkpoint new=runs/new/model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from scipy.ndimage import gaussian_gradient_magnitude
from skimage.color import rgb2gray

from evals.bootstrap import bootstrap_interval
from evals.common import every_option, progress, results_option, root_option, script, write_table
from evals.depth_ranks import mean_of_others, rank_correlation, standard_ranks
from evals.measurements import Candidate, parse_candidates
from gmae_tools import checkpoints
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.encoder.features import random_like
from gmae_tools.images import read_image, resize
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.prediction import predict_scene
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.vit import query_places
from gmae_tools.zeroshot.density import Points, density_map

CELLS = (8, 24)  # along each side: those of gmae-tiny's queries, and those of `gmae-tools density`
SIGMA = 1.0  # px
FIGURES = ("count", "weight", "frame", "rest")
COLUMNS: dict[str, int | None] = {"model": None, "cells": None} | {
    f"{name}{end}": 3 for name in FIGURES for end in ("", "_low", "_high")
} | {"photographs": None}  # fmt: skip


@script(takes="half a minute", needs="BSDS500")
@click.option(
    "--checkpoint", "candidates", multiple=True, default=("gmae-tiny",), show_default=True,
    metavar="[LABEL=]CHECKPOINT", callback=parse_candidates, help="May be repeated.",
)  # fmt: skip
@root_option
@every_option
@results_option("-o", "--out")
def main(candidates: list[Candidate], root: str | None, every: int, out: Path) -> None:
    """Measure, print the table and write density_gradient.csv."""
    photos = [read_image(path) for path in BSDS500(root).images("val")[::every]]
    rows: list[Row] = []
    known: set[GMAEConfig] = set()
    for candidate in candidates:
        model = checkpoints.load(candidate.checkpoint)
        config, label = model.config, candidate.label
        details = [gradient(photo, config.image_size) for photo in photos]
        if config not in known:  # checkpoints of one architecture share what they are compared with
            rows += rows_of(f"regular grid of {config.queries}", [grid_points(config.queries)] * len(photos), details)
            untrained = random_like(model)
            assert isinstance(untrained, GMAE)
            rows += rows_of(f"random weights, as {label}", points_of(untrained, photos), details)
            known.add(config)
        rows += rows_of(label, points_of(model, photos), details)
    write_table(out / "density_gradient.csv", rows, COLUMNS)
    click.echo(f"{__doc__}\n{format_rows(rows, COLUMNS, 'table')}", nl=False)


def points_of(model: GMAE, photos: Sequence[np.ndarray]) -> list[Points]:
    """The Gaussians of each photograph, uint8 RGB `[H, W, 3]`."""
    return [Points.of(predict_scene(model, photo)) for photo in progress(photos, len(photos), "photographs")]


def grid_points(queries: int) -> Points:
    """A Gaussian for each query, where queries on a grid start."""
    x, y = query_places(queries).double().numpy().T
    return Points(x, y, np.zeros(queries), np.ones(queries), np.ones(queries))


def gradient(photo: np.ndarray, side: int) -> np.ndarray:
    """The gradient magnitude `[side, side]` of the luminance of a photograph, squeezed into a square of `side` px."""
    found: np.ndarray = gaussian_gradient_magnitude(rgb2gray(resize(photo, side, side)), SIGMA)
    return found


def cell_means(values: np.ndarray, cells: int) -> np.ndarray:
    """Means `[cells, cells]` of the pixels `[H, W]` whose centres lie in each cell of the picture."""
    rows, columns = (np.minimum((np.arange(side) + 0.5) * cells / side, cells - 1).astype(int) for side in values.shape)
    place = rows[:, None] * cells + columns
    sums, counts = np.bincount(place.ravel(), values.ravel(), cells**2), np.bincount(place.ravel(), minlength=cells**2)
    means: np.ndarray = (sums / counts).reshape(cells, cells)
    return means


def rows_of(label: str, points: Sequence[Points], details: Sequence[np.ndarray]) -> list[Row]:
    """A row of `COLUMNS` for each number of cells, from the Gaussians and the gradients of the photographs."""
    rows: list[Row] = []
    for cells in CELLS:
        row: dict[str, str | int | float | None] = dict.fromkeys(COLUMNS)
        row |= {"model": label, "cells": cells, "photographs": len(points)}
        for name, values in correlations(points, [cell_means(each, cells) for each in details], cells).items():
            if np.isfinite(values).all():
                low, high = bootstrap_interval(values[None])
                row |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return rows


def correlations(points: Sequence[Points], details: Sequence[np.ndarray], cells: int) -> dict[str, np.ndarray]:
    """The figures of each of n photographs, `[n]` by their names; NaN where there is nothing to compare.

    Args:
        points: the Gaussians of each photograph.
        details: its mean gradient in each cell `[cells, cells]`.
    """
    weights = np.stack([density_map(each, cells) for each in points])
    counts = np.stack([density_map(replace(each, opacity=np.ones_like(each.x)), cells) for each in points])
    ranks = np.stack([standard_ranks(each) for each in weights])
    frame = mean_of_others(ranks)
    rest = np.round(ranks - frame, 9)  # equal maps differ by rounding errors, which have an order, too
    maps = dict(zip(FIGURES, (counts, weights, frame, rest), strict=True))
    return {
        name: np.array([rank_correlation(one, detail) for one, detail in zip(found, details, strict=True)])
        for name, found in maps.items()
    }


if __name__ == "__main__":
    main()
