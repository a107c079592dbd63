"""Readouts tried with depth that has a side: one changed at a time, on development photographs.

Protocol. Edges: every 6th photograph of BSDS500 val, 15 thresholds, exact matching; differences of ODS to the first row
of a group, with their standard deviation when the photographs are drawn anew in pairs. Figure and ground: photographs
of ECSSD with odd numbers at about 112 x 112 px, seen once, or also mirrored; differences of IoU, with their standard
error over photographs. Otherwise the settings of the package are kept. `grouped` is made of Gaussians alone here;
`grouping_choices.py` studies what the photograph adds, and only the row of the package has it.

    python -m evals.studies.readout_choices --root DATA --ecssd ECSSD --checkpoint gmae-tiny-depth
    python -m evals.studies.readout_choices --root DATA --every 1 --thresholds 33 --group "one look"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np
from PIL import Image
from scipy import ndimage

from evals.bootstrap import ods_difference
from evals.common import RESULTS, write_table
from gmae_tools import checkpoints
from gmae_tools.benchmarks.figure_methods import centre_prior
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.datasets.saliency import Saliency, read_mask
from gmae_tools.images import read_image
from gmae_tools.metrics.boundaries import BoundaryProtocol, BoundaryResult, BoundaryScores, count_boundaries
from gmae_tools.metrics.regions import RegionScores
from gmae_tools.model import GMAE
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.scene import Scene
from gmae_tools.zeroshot import contours, figure_ground
from gmae_tools.zeroshot.edges import READOUTS, RENDER_HALF, RENDER_SIGMA, close, finish, region_edges
from gmae_tools.zeroshot.figure_ground import (
    NEAR_SIGMA,
    NEAR_WEIGHT,
    balance_colors,
    build_graph,
    calibrate,
    composite,
    foreground_probability,
    group_scores,
    near_and_central,
    render_owners,
)
from gmae_tools.zeroshot.views import Looks, Readout, Views, look

COLUMNS = {
    "group": None, "choice": None, "ods": 4, "ois": 4, "ap": 4, "iou": 4, "max_f": 4, "difference": 4, "deviation": 4,
}  # fmt: skip
Array = np.ndarray
EdgeChoice = Callable[[Views], Array]
FigureChoice = Callable[[Scene], Array]


# --- edges -------------------------------------------------------------------------------------------


def seen(*readouts: Readout, scales: tuple[int, ...], end: Callable[[Array], Array] = finish, flip: bool = False) -> (
    EdgeChoice
):  # fmt: skip
    """The mean of readouts, joined over views of these scales."""

    def detect(views: Views) -> Array:
        chosen = views.only(scales, (False, True)[: 1 + flip])
        return end(np.mean([chosen.read(readout, readout) for readout in readouts], 0))

    return detect


def layers(*counts: int) -> Readout:
    return partial(READOUTS["layers"], layers=counts)


def color_gradient(scene: Scene, *, suppressed: bool) -> Array:
    """Gradient of the rendered colours in CIELAB / 100, with or without suppression of what is no maximum."""
    from skimage.color import rgb2lab

    slope = contours.gradient(rgb2lab(scene.render()[0].movedim(0, -1).clamp(0, 1).numpy()) / 100, RENDER_SIGMA)
    strength = contours.suppress_nonmaxima(slope) if suppressed else slope.magnitude
    return (strength / (strength + RENDER_HALF)).astype(np.float32)


def one_look() -> Iterator[tuple[str, EdgeChoice]]:
    once = partial(seen, scales=(1,))
    yield "l@16", once(layers(16))
    for count in (32, 8, 4):
        yield f"l@{count}", once(layers(count))
    for name in ("layer-changes", "render-gradient"):
        yield name, once(READOUTS[name])
    yield "render-gradient in CIELAB", once(partial(color_gradient, suppressed=True))


def tiles() -> Iterator[tuple[str, EdgeChoice]]:
    tiled = partial(seen, scales=(3,))
    yield "l@16", tiled(layers(16))
    for counts in ((8,), (4,), (16, 8, 4)):
        yield f"l@{','.join(map(str, counts))}", tiled(layers(*counts))
    yield "layer-changes", tiled(READOUTS["layer-changes"])


def closed() -> Iterator[tuple[str, EdgeChoice]]:
    regions, damped = READOUTS["closed-regions"], partial(region_edges, damping=0.05)
    slope = partial(color_gradient, suppressed=False)
    for scales in ((3, 4), (3,), (4,), (2, 3, 4), (1, 2, 3, 4)):
        yield f"looks {','.join(map(str, scales))}", seen(regions, scales=scales, end=close)
    yield "looks 3,4 mirrored", seen(regions, scales=(3, 4), end=close, flip=True)
    for scales in ((3,), (3, 4), (1, 2, 3, 4)):
        text = ",".join(map(str, scales))
        yield f"looks {text}, and damping 0.05", seen(regions, damped, scales=scales, end=close)
        yield f"looks {text}, and gradient in CIELAB", seen(regions, slope, scales=scales, end=close)
        yield f"looks {text}, and both", seen(regions, damped, slope, scales=scales, end=close)


EDGE_GROUPS = {"one look": one_look, "tiles": tiles, "closed": closed}


def edge_rows(model: GMAE, data: BSDS500, groups: list[str], every: int, thresholds: int) -> Iterator[Row]:
    protocol = BoundaryProtocol(thresholds)
    choices = [(group, name, choice) for group in groups for name, choice in EDGE_GROUPS[group]()]
    scores = [BoundaryScores(protocol) for _ in choices]
    looks = Looks((1,)) if groups == ["one look"] else Looks((1, 2, 3, 4), flip="closed" in groups)
    for path in data.images("val")[::every]:
        views, truths = look(model, read_image(path), looks), data.boundaries(path.stem)
        for (_, _, detect), score in zip(choices, scores, strict=True):
            levels = np.rint(detect(views).clip(0, 1) * 255) / 255  # as they are written
            score.add(path.stem, count_boundaries(levels, truths, protocol))
        click.echo(path.stem, err=True)
    first: dict[str, BoundaryResult] = {}
    for (group, name, _), score in zip(choices, scores, strict=True):
        result = score.compute()
        difference, deviation = ods_difference(result, first.setdefault(group, result))
        figures = {"ods": result.ods, "ois": result.ois, "ap": result.ap}
        yield blank(group, name) | figures | {"difference": difference, "deviation": deviation}


# --- figure and ground -------------------------------------------------------------------------------


def nearness(scene: Scene) -> Array:
    return composite(scene, -scene.gaussians.means[0, :, 2].double().numpy())


def blurred(scene: Scene, sigma: float) -> Array:
    smooth = ndimage.gaussian_filter(nearness(scene), sigma * np.sqrt(scene.height * scene.width), mode="nearest")
    return calibrate((smooth - smooth.min()) / max(1e-6, float(np.ptp(smooth))))


def tilted(scene: Scene, *, weight: float, sigma: float) -> Array:
    return calibrate(near_and_central(nearness(scene), weight=weight, sigma=sigma))


def depth_alone() -> Iterator[tuple[str, FigureChoice]]:
    yield "centre prior", lambda scene: centre_prior(np.zeros((scene.height, scene.width, 3), np.uint8))
    for sigma in (0.0, 0.02, 0.04, 0.08):
        yield f"nearness alone, blur {sigma:g}", partial(blurred, sigma=sigma)
    for weight, sigma in (
        (NEAR_WEIGHT, NEAR_SIGMA), (0.15, NEAR_SIGMA), (0.25, NEAR_SIGMA), (0.5, NEAR_SIGMA), (1.0, NEAR_SIGMA),
        (NEAR_WEIGHT, 0.0), (NEAR_WEIGHT, 0.02), (NEAR_WEIGHT, 0.06),
    ):  # fmt: skip
        yield f"the middle times exp({weight:g} nearness), blur {sigma:g}", partial(tilted, weight=weight, sigma=sigma)


def grouped(scene: Scene, *, rounds: int, sigma: float = figure_ground.MODEL_SIGMA, tilt: float = 0.0) -> Array:
    """`grouped` with more or fewer rounds of colours, and scores times exp(tilt x standard score of nearness)."""
    owner, color = render_owners(scene)
    graph = build_graph(scene.k, owner, color)
    z = scene.gaussians.means[0, :, 2].double().numpy()
    scores = group_scores(graph) * np.exp(tilt * (z.mean() - z) / z.std())
    if not rounds:
        return calibrate(composite(scene, scores))
    small = replace(scene, height=owner.shape[0], width=owner.shape[1], photo=None)
    first = graph.means(calibrate(composite(small, scores)))
    nodes = graph.groups(np.arange(graph.n))
    return calibrate(composite(scene, graph.spread(balance_colors(nodes, first, rounds=rounds, model_sigma=sigma))))


def grouping() -> Iterator[tuple[str, FigureChoice]]:
    yield "without the colours of either side", partial(grouped, rounds=0)
    yield "with them", partial(grouped, rounds=figure_ground.ROUNDS)
    yield "the package", foreground_probability
    for rounds in (1, 10):
        yield f"{rounds} rounds", partial(grouped, rounds=rounds)
    for sigma in (3.0, 4.0, 8.0, 15.0):
        yield f"colours alike within {sigma:g}", partial(grouped, rounds=figure_ground.ROUNDS, sigma=sigma)
    for tilt in (0.15, 0.35):
        yield f"without, scores times exp({tilt:g} nearness)", partial(grouped, rounds=0, tilt=tilt)


FIGURE_GROUPS = {"depth alone": depth_alone, "grouped": grouping}


def figure_rows(model: GMAE, data: Saliency, groups: list[str], every: int) -> Iterator[Row]:
    choices = [
        (group, name + text, choice, flip)
        for group in groups
        for name, choice in FIGURE_GROUPS[group]()
        for text, flip in (("", False), (", mirrored", True))
        if not flip or name in ("with them", "the package")
    ]
    scores = [RegionScores() for _ in choices]
    for pair in data.pairs("odd")[::every]:
        truth, views = read_mask(pair.mask), look(model, read_image(pair.photo), Looks((1,), flip=True))
        shrink = np.sqrt(figure_ground.GRAPH_PIXELS / truth.size)
        height, width = (round(side * shrink) for side in truth.shape)
        box = Image.fromarray(truth.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
        plain, mirrored = (view.scene.resized(height, width) for view in views)
        for (_, _, choose, flip), score in zip(choices, scores, strict=True):
            soft = (choose(plain) + choose(mirrored)[:, ::-1]) / 2 if flip else choose(plain)
            score.update(pair.name, soft, np.asarray(box) > 0.5)
        click.echo(pair.name, err=True)
    first: dict[str, Array] = {}
    for (group, name, _, _), score in zip(choices, scores, strict=True):
        result = score.compute()
        overlaps = np.array([each.iou for each in result.metrics.values()])
        gain = overlaps - first.setdefault(group, overlaps)
        figures = {"iou": result.iou, "max_f": result.max_f_beta}
        within = float(gain.std() / np.sqrt(len(gain)))
        yield blank(group, name) | figures | {"difference": float(gain.mean()), "deviation": within}


def blank(group: str, name: str) -> dict[str, str | int | float | None]:
    return {**dict.fromkeys(COLUMNS), "group": group, "choice": name}


@click.command()
@click.option("--root", envvar="GMAE_TOOLS_DATA", show_envvar=True, help="Folder of the data sets.")
@click.option("--ecssd", default="ecssd", show_default=True, metavar="NAME|DIR", help="Or a folder of images/, masks/.")
@click.option("--every", type=click.IntRange(1), default=6, show_default=True, help="Only every Nth of BSDS500 val.")
@click.option("--ecssd-every", type=click.IntRange(1), default=1, show_default=True, help="Only every Nth of ECSSD.")
@click.option("--thresholds", type=click.IntRange(2), default=15, show_default=True, help="Of edges.")
@click.option(
    "--group", "groups", type=click.Choice([*EDGE_GROUPS, *FIGURE_GROUPS]), multiple=True,
    help="Only these.  [default: all]",
)  # fmt: skip
@click.option("--checkpoint", default="gmae-tiny", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="For the table.")
def main(
    root: str | None, ecssd: str, every: int, ecssd_every: int, thresholds: int, groups: tuple[str, ...],
    checkpoint: str, results: Path,
) -> None:  # fmt: skip
    """Write `readout_choices.csv` into the folder of results, and print it."""
    model, rows = checkpoints.load(checkpoint), list[Row]()
    wanted = groups or (*EDGE_GROUPS, *FIGURE_GROUPS)
    if of_edges := [group for group in wanted if group in EDGE_GROUPS]:
        rows += edge_rows(model, BSDS500(root), of_edges, every, thresholds)
    if of_figures := [group for group in wanted if group in FIGURE_GROUPS]:
        rows += figure_rows(model, Saliency(ecssd, root), of_figures, ecssd_every)
    write_table(results / "readout_choices.csv", rows, COLUMNS)
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


if __name__ == "__main__":
    main()
