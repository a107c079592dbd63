"""`gmae-tools density`: where the Gaussians of photographs lie, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._models import ModelOptions, model_options
from gmae_tools.cli._options import OutputOptions, jobs_option, output_options
from gmae_tools.cli._scenes import SceneInputs, scene_options
from gmae_tools.cli._work import Work
from gmae_tools.system.files import atomic_path, write_text

if TYPE_CHECKING:
    import numpy as np

    from gmae_tools.report.tables import Row
    from gmae_tools.zeroshot.density import Points

COLUMNS = {"image": None, "k": None, "opacity": 3, "scale": 3, "depth": 3, "scale_depth": 3}


@click.command()
@scene_options()
@jobs_option
@output_options("density")
@model_options
def command(inputs: SceneInputs, jobs: int | None, output: OutputOptions, model: ModelOptions) -> None:
    """Show where a model puts its Gaussians, and how large it makes them at which depth.

    IMG is a picture, a file of Gaussians (.ply, .splat, .npz), a folder of them, a glob, or - for a pipe. Several
    inputs are analysed together. DIR receives two plots, as PNG, PDF and SVG: centres (each Gaussian of a single
    picture with its opacity, or the density of opacity of several pictures) and scales (against depth: medians and
    bands weighted by opacity). It also receives their numbers: gaussians.csv (a line for each Gaussian), density.csv
    and scales.csv.

    The table on stdout has a row for each picture: the mean opacity, the median scale and depth weighted by opacity,
    and Spearman's rank correlation of scale and depth (scale_depth), which is positive if large Gaussians lie behind.
    """
    paths, failures = inputs.find(output.out)
    scenes = inputs.open(paths, model)

    from gmae_tools.zeroshot.density import Points, summary

    folder = output.folder()
    work = Work(paths, folder, jobs, failures)
    found: dict[str, Points] = {}
    done: list[Path] = []
    for path, scene in work.each(lambda path, _: scenes.scene(path)):
        found[str(path)], last = Points.of(scene), scene
        done.append(path)
    if found:
        everything = Points.join(list(found.values()))
        what = done[0].name if len(done) == 1 else f"N = {len(found):,} pictures"
        ks = sorted({len(points.x) for points in found.values()})
        k = f"K = {ks[0]:,}" + (f" to {ks[-1]:,}" if len(ks) > 1 else "")
        caption = f"{what}, {scenes.makers(done)}, {k}{model.refined}"
        picture = last.picture(backend=model.backend) if len(done) == 1 else None
        write_figures(everything, picture, caption, folder)
        write_numbers(found, everything, folder)
        parts = found | ({"all": everything} if len(found) > 1 else {})
        rows: list[Row] = [{"image": name, "k": len(points.x), **summary(points)} for name, points in parts.items()]
        output.print_rows(rows, COLUMNS)
    if work.failures:
        raise SystemExit(1)


def write_figures(points: Points, photo: np.ndarray | None, caption: str, folder: Path) -> None:
    """Write both plots; for a single picture the first one shows its Gaussians on the photograph."""
    from gmae_tools.report.density import plot_centres, plot_density, plot_scales, write_figure
    from gmae_tools.zeroshot.density import density_map, scale_by_depth

    centres = plot_density(density_map(points), caption) if photo is None else plot_centres(points, photo, caption)
    write_figure(centres, folder, "centres")
    write_figure(plot_scales(points, scale_by_depth(points), caption, dots=photo is not None), folder, "scales")


def write_numbers(found: Mapping[str, Points], everything: Points, folder: Path) -> None:
    """Write the numbers of the plots as CSV files."""
    import numpy as np

    from gmae_tools.report.tables import format_rows, write_csv, write_csv_columns
    from gmae_tools.zeroshot.density import QUANTILES, density_map, scale_by_depth

    with atomic_path(folder / "gaussians.csv") as temporary, temporary.open("w", encoding="utf-8") as file:
        write_csv(file, [], ["image", *vars(everything)])
        for image, points in found.items():
            write_csv_columns(file, image, list(vars(points).values()))
    density = density_map(everything)
    middles = ((np.arange(len(density)) + 0.5) * (2 / len(density)) - 1).tolist()
    cells: list[Row] = [
        {"x": x, "y": y, "density": float(density[row, column])}
        for row, y in enumerate(middles)
        for column, x in enumerate(middles)
    ]
    write_text(folder / "density.csv", format_rows(cells, dict.fromkeys(("x", "y", "density")), "csv"))
    scales = scale_by_depth(everything)
    names = [f"scale_{100 * quantile:.0f}%" for quantile in QUANTILES]
    groups: list[Row] = [
        {"depth": float(depth), "gaussians": int(count), **dict(zip(names, map(float, quantiles), strict=True))}
        for depth, count, quantiles in zip(scales.depth, scales.count, scales.quantiles, strict=True)
    ]
    write_text(folder / "scales.csv", format_rows(groups, dict.fromkeys(("depth", "gaussians", *names)), "csv"))
