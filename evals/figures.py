"""Figures and sheets that only the scripts here make."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmae_tools.encoder.invariance import InvarianceCurve
from gmae_tools.images import resize
from gmae_tools.report.contact_sheet import Panel, Section, common_box, contact_sheet, in_box, panel_size
from gmae_tools.report.figures import save_figure, style, verbatim
from gmae_tools.report.invariance import KINDS, TOKENS, plot_curves
from gmae_tools.report.segment import overlay

_COMPARED = 180  # longest side in px of a picture on the sheet of comparisons


def plot_kinds(path: str | os.PathLike[str], curves: Sequence[InvarianceCurve], title: str) -> None:
    """Plot all curves at one ratio: a column for each kind of occlusion, a row for each kind of tokens.

    Args:
        path: File to write, in the format of its suffix.
        curves: Curves of one ratio, and of halves.
        title: Title of the figure.
    """
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(curve.model for curve in curves))
    depth = max(len(curve.cka) for curve in curves) - 2
    ratio = next((curve.ratio for curve in curves if curve.kind != "halves"), 0.5)
    with style():
        figure = Figure(figsize=(9.0, 7.6), layout="constrained")
        panels = figure.subplots(len(TOKENS), len(KINDS), sharex=True, sharey="row")
        for row, (tokens, name) in zip(panels, TOKENS.items(), strict=True):
            row[0].set_ylabel(f"{name.replace(' that', chr(10) + 'that')}\nlinear CKA")
            for axes, kind in zip(row, KINDS, strict=True):
                shown = [each for each in curves if (each.tokens, each.kind) == (tokens, kind)]
                plot_curves(axes, shown, models, depth + 1)
                if not shown:  # halves share no patch
                    axes.axis("off")
        for axes, (kind, name) in zip(panels[0], KINDS.items(), strict=True):
            axes.set_title(name if kind == "halves" else f"{name}, {100 * ratio:.3g} % hidden")
        for axes in panels[-1]:
            axes.set_xlabel("block")
        panels[0][0].set_xticks([*range(0, depth + 1, max(1, depth // 4)), depth + 1])
        panels[0][0].set_xticklabels([*range(0, depth + 1, max(1, depth // 4)), "norm"])
        handles, labels = panels[0][0].get_legend_handles_labels()
        panels[1][-1].legend(handles, labels, loc="center")
        figure.suptitle(verbatim(title))
        save_figure(figure, path)


@dataclass(frozen=True)
class Comparison:
    """A photograph uint8 RGB `[H, W, 3]`, its true mask and the one found, bool `[H, W]` each, and a note."""

    name: str
    photo: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    note: str


def comparison_sheet(title: str, subtitle: str, items: Sequence[Comparison]) -> np.ndarray:
    """Lay out a sheet, uint8 RGB `[H, W, 3]`: two photographs a row, each with the true mask and the one found."""
    cells = []
    for item in items:
        size = panel_size(*item.photo.shape[:2], side=_COMPARED)
        cells += [
            (resize(item.photo, *size), item.name, "photograph"),
            (resize(overlay(item.photo, item.truth), *size), "true figure", ""),
            (resize(overlay(item.photo, item.found), *size), "found", item.note),
        ]
    box = common_box(picture for picture, _, _ in cells)
    panels = [Panel(in_box(picture, box), caption, note) for picture, caption, note in cells]
    return contact_sheet(title, subtitle, [Section(f"{len(items)} photographs", panels)], columns=6)
