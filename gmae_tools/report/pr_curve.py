"""The precision-recall figure of the boundary benchmark, with lines of equal F and the human point."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmae_tools.files import atomic_path

GREEN = "#2a9d3a"
LEAST_RECALL = 0.01  # points below are not drawn (as in the official plot): nearly nothing is predicted there


@dataclass(frozen=True)
class Curve:
    """One detector: recall [T] and precision [T] in [0, 1], and its best point (recall, precision)."""

    name: str
    recall: np.ndarray
    precision: np.ndarray
    best: tuple[float, float]


def plot_pr_curves(
    path: str | os.PathLike[str], curves: Sequence[Curve], human: tuple[float, float] | None = None
) -> None:
    """Write a figure of the curves and, if given, the human (recall, precision).

    The suffix of `path` says in which format (.png, .pdf, .svg).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 5.4), layout="constrained")
    axes = figure.add_subplot()
    _draw_equal_f(axes)
    if human:
        axes.plot(*human, "o", color=GREEN, markersize=8, label=f"F {_f(*human):.3f}  Human", zorder=3)
    for curve in sorted(curves, key=lambda curve: -_f(*curve.best)):
        drawn = curve.recall >= LEAST_RECALL
        label = f"F {_f(*curve.best):.3f}  {curve.name}"
        (line,) = axes.plot(curve.recall[drawn], curve.precision[drawn], linewidth=2, label=label)
        axes.plot(*curve.best, "o", color=line.get_color(), markersize=5)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Recall", ylabel="Precision", aspect="equal")
    axes.set_xticks(np.linspace(0, 1, 11))
    axes.set_yticks(np.linspace(0, 1, 11))
    axes.grid(color="0.92")
    axes.legend(loc="lower left", frameon=True, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _draw_equal_f(axes: object) -> None:
    """A line for each F of 0.1, 0.2, ..., 0.9, named at its right end."""
    for f in np.arange(1, 10) / 10:
        recall = np.linspace(f / (2 - f), 1, 100)  # where precision falls from 1 to f / (2 - f)
        precision = f * recall / (2 * recall - f)
        axes.plot(recall, precision, color=GREEN, linewidth=0.6, alpha=0.6)  # type: ignore[attr-defined]
        axes.annotate(  # type: ignore[attr-defined]
            f"{f:.1f}",
            (1, f / (2 - f)),
            (3, 0),
            textcoords="offset points",
            va="center",
            color=GREEN,
            fontsize=8,
        )


def _f(recall: float, precision: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
