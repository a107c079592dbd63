"""Figures and tables of occlusion invariance: CKA over the depth in the encoder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gmae_tools.checkpoint_names import RANDOM_PREFIX
from gmae_tools.encoder.invariance import InvarianceCurve
from gmae_tools.report.figures import PALETTE, save_figure, style, verbatim
from gmae_tools.report.tables import Row, format_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = {"random": "scattered patches", "block": "one block", "halves": "one half against the other"}
TOKENS = {
    "mean": "mean of the patches that each version has",
    "shared": "mean of the patches that both have",
    "class": "class token",
}
COLUMNS = {"model": None, "tokens": None, "occlusion": None, "ratio": 2, "block": None, "cka": 4, "error": 4}


def curve_rows(curves: Iterable[InvarianceCurve]) -> list[Row]:
    """Rows of `COLUMNS`, one for each stage of the encoder; block 0 is the input of the first block."""
    return [
        dict(zip(COLUMNS, (curve.model, curve.tokens, curve.kind, curve.ratio, *stage), strict=True))
        for curve in curves
        for stage in zip(curve.stages, curve.cka, curve.error, strict=True)
    ]


def wide_table(curves: Sequence[InvarianceCurve]) -> str:
    """CKA as an aligned table with a row for each curve and a column for each stage of the encoder."""
    stages = max((curve.stages for curve in curves), key=len)
    names = ("model", "tokens", "occlusion", "ratio")
    rows: list[Row] = []
    for curve in curves:
        row: Row = dict(zip(names, (curve.model, curve.tokens, curve.kind, curve.ratio), strict=True))
        rows.append({**row, **dict.fromkeys(stages), **dict(zip(curve.stages, curve.cka, strict=True))})
    return format_rows(rows, {name: COLUMNS[name] for name in names} | dict.fromkeys(stages, 3), "table")


def plot_invariance(path: str | os.PathLike[str], curves: Sequence[InvarianceCurve], title: str) -> None:
    """Plot a panel for each occlusion of one kind of tokens, in it a line for each model and a dot for its output.

    Lines of random weights are dashed. Bands and bars are standard errors.
    """
    from matplotlib.figure import Figure

    ratios = sorted({curve.ratio for curve in curves if curve.kind != "halves"})
    models = list(dict.fromkeys(curve.model for curve in curves))
    depth = max(len(curve.cka) for curve in curves) - 2
    halves = any(curve.kind == "halves" for curve in curves)
    with style():
        columns = len(ratios) + 1
        figure = Figure(figsize=(2.0 * columns + 0.6, 4.9), layout="constrained")
        panels = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
        for row, kind in zip(panels, ("random", "block"), strict=True):
            row[0].set_ylabel(f"{KINDS[kind]}\nlinear CKA")
            for axes, ratio in zip(row, ratios, strict=False):
                shown = [each for each in curves if (each.kind, each.ratio) == (kind, ratio)]
                plot_curves(axes, shown, models, depth + 1)
                axes.set_title(f"{100 * ratio:.3g} % hidden")
        if halves:
            plot_curves(panels[0][-1], [each for each in curves if each.kind == "halves"], models, depth + 1)
            panels[0][-1].set_title(KINDS["halves"].replace(" against", "\nagainst"))
        else:
            panels[0][-1].axis("off")
        panels[1][-1].axis("off")
        handles, labels = panels[0][0].get_legend_handles_labels()
        panels[1][-1].legend(handles, labels, loc="center")
        for axes in [*panels[1][:-1], *([panels[0][-1]] if halves else [])]:
            axes.set_xlabel("block")
            axes.tick_params(labelbottom=True)
        lowest = min(value for curve in curves for value in curve.cka if value == value)  # NaN is not plotted
        bottom = 0.0 if lowest < 0.5 else lowest
        # All panels have the same axes.
        panels[0][0].set_ylim(min(bottom, lowest) - 0.03 * (1 - bottom), 1 + 0.03 * (1 - bottom))
        panels[0][0].set_xticks([*range(0, depth + 1, max(1, depth // 4)), depth + 1])
        panels[0][0].set_xticklabels([*range(0, depth + 1, max(1, depth // 4)), "norm"])
        figure.suptitle(verbatim(title), wrap=True)
        save_figure(figure, path)


def plot_curves(axes: Axes, curves: Sequence[InvarianceCurve], models: Sequence[str], norm: int) -> None:
    """Plot the lines of one occlusion, and dots at `norm`. A model has the same colour in all panels."""
    for curve in curves:
        blocks = range(len(curve.cka) - 1)
        color = PALETTE[models.index(curve.model) % len(PALETTE)]
        dashes = "--" if curve.model.startswith(RANDOM_PREFIX) else "-"
        low, high = ([c + sign * e for c, e in zip(curve.cka, curve.error, strict=True)] for sign in (-1, 1))
        axes.plot(blocks, curve.cka[:-1], dashes, color=color, linewidth=1.8, label=verbatim(curve.model))
        axes.fill_between(blocks, low[:-1], high[:-1], color=color, alpha=0.2, linewidth=0)
        axes.errorbar(norm, curve.cka[-1], curve.error[-1], fmt="o", color=color, markersize=4)
    axes.grid(color="0.92")
