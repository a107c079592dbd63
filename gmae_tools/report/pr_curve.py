"""The precision-recall figure of the boundary benchmark, with lines of equal F and the human point."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import numpy as np

from gmae_tools.report.figures import COLUMN, PALETTE, add_caption, save_figure, style, verbatim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_RECALL = 0.01  # points below it are omitted, as in the official plot; almost nothing is predicted there
_COLORS = PALETTE[:6]  # the others are too light for lines, or used for annotators
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))  # of the first, second and third use of each colour
_EQUAL_F = "0.72"  # a grey
_HUMAN = PALETTE[-1]
_LEGEND: dict[str, Any] = {
    "fontsize": 6, "title_fontsize": 6, "labelspacing": 0.2, "handlelength": 1.6, "borderpad": 0.2,
    "frameon": True, "facecolor": "white", "edgecolor": "none", "framealpha": 0.9,
}  # fmt: skip


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """The curve of a detector: recall and precision `[T]` in [0, 1], and its best point (recall, precision)."""

    name: str
    recall: np.ndarray
    precision: np.ndarray
    best: tuple[float, float]


def plot_pr_curves(
    path: str | os.PathLike[str] | None,
    curves: Sequence[PrecisionRecallCurve],
    human: tuple[float, float] | None = None,
    caption: str = "",
) -> Figure:
    """Plot precision over recall, as wide as a column of a paper.

    Args:
        path: File to write, in the format of its suffix (.png, .pdf, .svg); None to write none.
        curves: Curves of detectors.
        human: Recall and precision of the annotators; None to omit them.
        caption: Line below the figure.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(COLUMN, COLUMN), layout="compressed")
        axes = figure.add_subplot()
        _plot_equal_f(axes)
        if human:
            axes.plot(*human, "o", color=_HUMAN, markersize=4.5, label=f"{_f(*human):.3f}  human", zorder=3)
        looks = cycle(product(_DASHES, _COLORS))
        for curve, (dashes, color) in zip(sorted(curves, key=lambda curve: -_f(*curve.best)), looks, strict=False):
            shown, label = curve.recall >= LEAST_RECALL, f"{_f(*curve.best):.3f}  {verbatim(curve.name)}"
            axes.plot(curve.recall[shown], curve.precision[shown], ls=dashes, color=color, linewidth=1.2, label=label)
            axes.plot(*curve.best, "o", color=color, markersize=3)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision", aspect="equal")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_yticks(np.linspace(0, 1, 6))
        legend = axes.legend(loc="lower left", title="best F", alignment="left", **_LEGEND)
        legend.set_zorder(1)  # above the lines of equal F, below the curves
        add_caption(figure, caption)
        if path is not None:
            save_figure(figure, path)
    return figure


def _plot_equal_f(axes: Axes) -> None:
    """Plot a line for each F of 0.1, 0.2, ..., 0.9, with its value at the right end."""
    for f in np.arange(1, 10) / 10:
        recall = np.linspace(f / (2 - f), 1, 100)  # where precision falls from 1 to f / (2 - f)
        axes.plot(recall, f * recall / (2 * recall - f), color=_EQUAL_F, linewidth=0.4, zorder=0)
        place, apart = (1, f / (2 - f)), (2, 0)
        axes.annotate(f"{f:.1f}", place, apart, textcoords="offset points", va="center", color="0.45", fontsize=6)


def _f(recall: float, precision: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
