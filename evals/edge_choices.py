"""The choices behind `gmae-tools edges`, one changed at a time, on every 4th image of BSDS500 val.

Protocol: as `bsds500.py` (33 thresholds); the first row of each group is the default. `layers` means l@16. The groups
`significance` and `depth` look at the whole photograph, the others at 3 x 3 and 4 x 4 tiles.

    python evals/edge_choices.py --root DATA
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from skimage.color import rgb2lab

from gmae_tools import checkpoints
from gmae_tools.camera import Camera, project
from gmae_tools.datasets.bsds500 import BSDS500, read_boundaries
from gmae_tools.detectors import RIDGE_SIGMA, finish
from gmae_tools.files import atomic_path
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import read_image
from gmae_tools.metrics.boundaries import BoundaryScores, Protocol, count_boundaries
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.splatting import rasterize
from gmae_tools.views import DEFAULT_SCALES, Looks, Readout, View, join, look
from gmae_tools.zeroshot import contours, edges
from gmae_tools.zeroshot.edges import READOUTS, Measure, Order, Significance

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = {"group": None, "choice": None, "ods": 3, "ois": 3, "ap": 3, "recall": 3, "precision": 3}
WHOLE, TILES = (1,), DEFAULT_SCALES
COLOR_LEVELS = Significance().thresholds
ALPHA_LEVELS = tuple(step / 10 for step in range(1, 10))

Choice = Callable[[list[View], int, int], np.ndarray]  # all views of a photograph, its height and width -> soft map


def named(name: str, camera: Camera) -> Readout:
    """A readout as `gmae-tools edges` has it, l@16 for layers."""
    return lambda gaussians, height, width: READOUTS[name](gaussians, camera, height, width, (16,))


def seen(readout: Readout, scales: tuple[int, ...], *, flip: bool = False, sigma: float | None = RIDGE_SIGMA) -> Choice:
    """Join the views of these scales and thin them; without thinning if `sigma` is None."""

    def detect(views: list[View], height: int, width: int) -> np.ndarray:
        wanted = [view for view in views if view.scale in scales and (flip or not view.mirrored)]
        joined = join(wanted, readout, height, width)
        return finish(joined, sigma) if sigma else joined

    return detect


def significances(camera: Camera) -> Iterator[tuple[str, str, Choice]]:
    """What a significant change is, for l@16."""

    def readout(measure: Measure, order: Order, thresholds: tuple[float, ...]) -> Readout:
        chosen = Significance(measure, thresholds, order)
        return lambda gaussians, height, width: edges.layer_edges(gaussians, camera, height, width, (16,), chosen)

    orders: tuple[Order, Order] = ("back-to-front", "front-to-back")
    measures: tuple[tuple[Measure, tuple[float, ...]], ...] = (
        ("color", COLOR_LEVELS), ("alpha", ALPHA_LEVELS), ("share", COLOR_LEVELS),
    )  # fmt: skip
    for measure, levels in measures:
        for order in orders:
            yield "significance", f"{measure} {order}, persistence", seen(readout(measure, order, levels), WHOLE)
    singles: tuple[tuple[Measure, float], ...] = (
        ("color", 0.05), ("color", 0.1), ("color", 0.2), ("alpha", 0.1), ("alpha", 0.4), ("alpha", 0.7),
    )  # fmt: skip
    for measure, level in singles:
        plain = readout(measure, "back-to-front", (level,))
        yield "significance", f"{measure} back-to-front > {level}, not thinned", seen(plain, WHOLE, sigma=None)


def depths(camera: Camera) -> Iterator[tuple[str, str, Choice]]:
    """Which depth, for expected-depth."""

    def read(gaussians: Gaussians, height: int, width: int) -> np.ndarray:
        splats = project(gaussians.sort_by_depth(), camera, height, width)
        rank = torch.linspace(0, 1, gaussians.k)[None, :, None]
        raster = rasterize(replace(splats, colors=rank), height, width)
        depth = (raster.image / raster.alpha.clamp_min(1e-10))[0, 0].numpy()
        slope = contours.suppress_nonmaxima(contours.gradient(depth, edges.DEPTH_SIGMA))
        return slope / (slope + 0.02)

    yield "depth", "z", seen(named("expected-depth", camera), WHOLE)
    yield "depth", "place in the depth order", seen(read, WHOLE)


def looks(camera: Camera) -> Iterator[tuple[str, str, Choice]]:
    """How the photograph is shown to the model."""
    for name in ("combined", "render-gradient"):
        for scales in (TILES, (1,), (2,), (3,), (4,), (2, 4), (2, 3, 4), (1, 2, 4)):
            yield f"looks, {name}", ",".join(map(str, scales)), seen(named(name, camera), scales)
        yield f"looks, {name}", "3,4 and mirrored", seen(named(name, camera), TILES, flip=True)


def thinnings(camera: Camera) -> Iterator[tuple[str, str, Choice]]:
    """How the joined views are thinned."""
    for name in ("combined", "render-gradient", "layers"):
        for sigma in (RIDGE_SIGMA, None, 1.0, 2.0):
            text = f"crests, sigma {sigma:g} px" if sigma else "none"
            yield f"thinning, {name}", text, seen(named(name, camera), TILES, sigma=sigma)


def mergings(camera: Camera) -> Iterator[tuple[str, str, Choice]]:
    """What makes regions alike: the damping of small ones, and whether depth has a say."""

    def readout(damping: float, depth_weight: float) -> Readout:
        def read(gaussians: Gaussians, height: int, width: int) -> np.ndarray:
            raster = rasterize(
                project(gaussians, camera, height, width), height, width,
                background=gaussians.means.new_ones(3), owners=True, depth=True,
            )  # fmt: skip
            assert raster.owner is not None and raster.depth is not None
            color = rgb2lab(raster.image[0].permute(1, 2, 0).clamp(0, 1).numpy()) / 100
            features = np.concatenate([color, depth_weight * raster.depth[0].permute(1, 2, 0).numpy()], -1)
            levels = contours.merge_regions(raster.owner[0].numpy(), features, damping=damping * height * width)
            return levels / (levels + edges.REGION_HALF)

        return read

    for damping in (edges.DAMPING, 0.0, 0.0003, 0.003, 0.01):
        yield "merging, regions", f"damping {damping:g} of the picture", seen(readout(damping, 0), TILES)
    for weight in (0.2, 0.5):
        yield "merging, regions", f"depth as a feature, times {weight:g}", seen(readout(edges.DAMPING, weight), TILES)


def mixtures(camera: Camera) -> Iterator[tuple[str, str, Choice]]:
    """What depth adds to `combined`."""

    def mean(*names: str) -> Readout:
        parts = [named(name, camera) for name in names]
        return lambda gaussians, height, width: np.mean([part(gaussians, height, width) for part in parts], 0)

    both = ("regions", "render-gradient")
    for names in (both, (*both, "layers"), (*both, "expected-depth"), ("render-gradient", "layers"), both[:1]):
        yield "mixture", " + ".join(names), seen(mean(*names), TILES)


GROUPS = (significances, depths, looks, thinnings, mergings, mixtures)


@click.command()
@click.option("--root", envvar="GMAE_TOOLS_DATA", show_envvar=True, help="Folder of the data sets.")
@click.option("--every", type=click.IntRange(1), default=4, show_default=True, help="Only every Nth image.")
@click.option("--thresholds", type=click.IntRange(1), default=33, show_default=True)
@click.option("--checkpoint", default="gmae-tiny", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "evals" / "results", help="For the table.")
def main(root: str | None, every: int, thresholds: int, checkpoint: str, results: Path) -> None:
    """Write `edge-choices.csv` into the folder of results, and print it."""
    data, model, protocol = BSDS500(root), checkpoints.load(checkpoint), Protocol(thresholds)
    choices = [choice for group in GROUPS for choice in group(model.camera)]
    scores = [BoundaryScores(protocol) for _ in choices]

    def count(path: Path) -> None:
        photo = read_image(path)
        truths = read_boundaries(data.ground_truth_folder("val") / f"{path.stem}.mat")
        views = look(model, photo, Looks((1, 2, 3, 4), flip=True))
        for (_, _, detect), score in zip(choices, scores, strict=True):
            score.add(path.stem, count_boundaries(detect(views, *photo.shape[:2]), truths, protocol))

    with ThreadPoolExecutor(2) as pool:
        for number, _ in enumerate(pool.map(count, data.images("val")[::every]), 1):
            click.echo(f"{number} images", err=True)
    rows: list[Row] = []
    for (group, choice, _), score in zip(choices, scores, strict=True):
        result = score.compute()
        figures = {"ods": result.ods, "ois": result.ois, "ap": result.ap}
        points = {"recall": result.ods_recall, "precision": result.ods_precision}
        rows.append({"group": group, "choice": choice, **figures, **points})
    results.mkdir(parents=True, exist_ok=True)
    with atomic_path(results / "edge-choices.csv") as temporary:
        temporary.write_text(format_rows(rows, COLUMNS, "csv"))
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


if __name__ == "__main__":
    main()
