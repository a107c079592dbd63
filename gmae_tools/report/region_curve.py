"""The figure of the benchmark of foreground maps: F-beta over the threshold of the mask."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gmae_tools.report.figures import COLUMN, add_caption, save_figure, style, verbatim

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def plot_f_beta(path: str | os.PathLike[str] | None, curves: Mapping[str, pd.DataFrame], caption: str = "") -> Figure:
    """Plot F-beta over the threshold, as wide as a column of a paper; the legend has the highest F-beta of each method.

    Args:
        path: File to write, in the format of its suffix (.png, .pdf, .svg); None to write none.
        curves: Tables with the columns `threshold` and `f_beta`, both in [0, 1], by the names of the methods.
        caption: Line below the figure.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(COLUMN, 0.8 * COLUMN), layout="compressed")
        axes = figure.add_subplot()
        for name, curve in sorted(curves.items(), key=lambda item: -item[1]["f_beta"].max()):
            label = f"{curve['f_beta'].max():.3f}  {verbatim(name)}"
            axes.plot(curve["threshold"], curve["f_beta"], linewidth=1.2, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="threshold", ylabel="F-beta")
        axes.legend(title="highest", alignment="left", fontsize=6, title_fontsize=6, labelspacing=0.2)
        add_caption(figure, caption)
        if path is not None:
            save_figure(figure, path)
    return figure
