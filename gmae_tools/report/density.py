"""Figures of the positions and scales of Gaussians, as wide as a column of a paper."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from gmae_tools.report.figures import COLUMN, PALETTE, add_caption, style
from gmae_tools.system.files import atomic_path
from gmae_tools.zeroshot.density import QUANTILES, Points, ScaleByDepth

SUFFIXES = (".png", ".pdf", ".svg")
_INNER = 2.8  # largest width of the axes in inches
_AROUND = 0.7  # inches above and below the axes
_PHOTO_SHARE = 0.35  # share of the photograph in the background, the rest is white
_DOT = 5.0  # area of a dot in square points
MOST_DOTS = 5_000  # in a figure; more would hide each other, and make a PDF that viewers cannot open
_COLORMAP = "cividis"  # perceptually uniform, made for colour-blind readers; not that of depth


@style()
def plot_centres(points: Points, photo: np.ndarray, caption: str) -> Figure:
    """Plot the centres of Gaussians, as opaque as these, over their faded photograph, uint8 `[H, W, 3]`."""
    height, width = photo.shape[:2]
    points, caption = _thinned(points, caption)
    figure, axes = _figure(caption, float(np.clip(_INNER * height / width, 0.5, 2 * COLUMN)))
    faded = 255 - _PHOTO_SHARE * (255 - photo.mean(2))
    axes.imshow(faded, cmap="gray", vmin=0, vmax=255, extent=(-1, 1, 1, -1), aspect=height / width)
    axes.scatter(points.x, points.y, _DOT, PALETTE[0], alpha=np.clip(points.opacity, 0, 1), linewidths=0)
    axes.set(xlim=(-1, 1), ylim=(1, -1), xlabel="x", ylabel="y", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    return figure


@style()
def plot_density(density: np.ndarray, caption: str) -> Figure:
    """Plot the density of centres over many pictures, `[cells, cells]`; 1 is the density of evenly spread centres."""
    figure, axes = _figure(caption, 2.2)
    picture = axes.imshow(density, cmap=_COLORMAP, vmin=0, extent=(-1, 1, 1, -1), interpolation="nearest")
    axes.set(xlabel="x", ylabel="y", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    bar = figure.colorbar(picture, ax=axes, fraction=0.05, label="opacity (even spread: 1)")
    bar.outline.set_visible(False)
    return figure


@style()
def plot_scales(points: Points, scales: ScaleByDepth, caption: str, *, dots: bool) -> Figure:
    """Plot scale over depth: median and quantiles of groups of depth, and each Gaussian as a dot if `dots` is True."""
    if dots:
        points, caption = _thinned(points, caption)
    figure, axes = _figure(caption, 2.2)
    if dots:
        opacity = np.clip(points.opacity, 0, 1)
        axes.scatter(points.z, points.scale, _DOT, PALETTE[0], alpha=0.5 * opacity, linewidths=0)
    low, quarter, median, three_quarters, high = scales.quantiles.T
    bands = ((low, high, 0.15, QUANTILES[0]), (quarter, three_quarters, 0.3, QUANTILES[1]))
    for bottom, top, alpha, share in bands:
        label = f"{100 * share:.0f} to {100 * (1 - share):.0f} %"
        axes.fill_between(scales.depth, bottom, top, color=PALETTE[1], alpha=alpha, linewidth=0, label=label)
    axes.plot(scales.depth, median, color=PALETTE[1], linewidth=1.5, label="median")
    axes.set(xlabel="depth z (nearer to farther)", ylabel="scale", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
    return figure


@style()
def write_figure(figure: Figure, folder: str | os.PathLike[str], name: str) -> None:
    """Write `<name>.png` (300 dots per inch), `.pdf` and `.svg`; the same figure gives the same bytes."""
    for suffix in SUFFIXES:
        undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
        with atomic_path(Path(folder) / f"{name}{suffix}") as temporary:
            figure.savefig(temporary, metadata=undated)


def _thinned(points: Points, caption: str) -> tuple[Points, str]:
    """Sample the points that are shown as dots if there are too many, and add that to the caption."""
    count = len(points.x)
    return points.some(MOST_DOTS), caption + f"; {MOST_DOTS:,} of them as dots" * (count > MOST_DOTS)


def _figure(caption: str, height: float) -> tuple[Figure, Axes]:
    """A figure with a caption, as wide as a column, with axes about `height` inches high."""
    figure = Figure(figsize=(COLUMN, height + _AROUND), layout="compressed")
    add_caption(figure, caption)
    return figure, figure.add_subplot()
