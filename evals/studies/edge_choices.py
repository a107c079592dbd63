"""The choices behind `gmae-tools edges`, one changed at a time, on every 4th image of BSDS500 val.

Protocol: as `bsds500.py` (33 thresholds); the first row of each group is the default. `layers` means l@16. The groups
`significance` and `depth` look at the whole photograph, `outlines` and `picture` at the default looks, the others at
3 x 3 and 4 x 4 tiles, with the lines thinned (closed for closed-regions) as before there were outlines. `difference` is
that to the first row of the group, and `deviation` its standard deviation when the images are drawn anew, 1,000 times.

    python -m evals.studies.edge_choices --root DATA
    python -m evals.studies.edge_choices --root DATA --group closing --group agreement
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path

import click
import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import eigsh
from skimage.color import rgb2lab
from skimage.segmentation import watershed

from evals.bootstrap import ods_difference
from evals.common import checkpoint_option, results_option, root_option, script, write_table
from gmae_tools import checkpoints
from gmae_tools.camera import Splats, project
from gmae_tools.datasets.bsds500 import BSDS500, read_boundaries
from gmae_tools.images import read_image
from gmae_tools.metrics.boundaries import BoundaryProtocol, BoundaryResult, BoundaryScores, count_boundaries
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize
from gmae_tools.zeroshot import contours, edges
from gmae_tools.zeroshot.edges import READOUTS, RIDGE_SIGMA, Measure, Order, Significance, close, finish, outline
from gmae_tools.zeroshot.histograms import histogram_gradient
from gmae_tools.zeroshot.names import EDGE_SCALES, LAYERS
from gmae_tools.zeroshot.views import Looks, Readout, Views, look

COLUMNS = {
    "group": None, "choice": None, "ods": 3, "ois": 3, "ap": 3, "recall": 3, "precision": 3, "difference": 4,
    "deviation": 4,
}  # fmt: skip
WHOLE, TILES, SCALES = (1,), (3, 4), (1, 2, 3, 4, 5)
COLOR_LEVELS = Significance().thresholds
ALPHA_LEVELS = tuple(step / 10 for step in range(1, 10))

Array = np.ndarray
Finish = Callable[[Array], Array]  # joined views -> soft map of thin lines


class Seen:
    """All views of a photograph, and itself; what was read from the views of a scale is kept."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self.picture = views.picture()
        self._maps: dict[tuple[Readout, int, bool], Array] = {}

    @cached_property
    def own(self) -> Array:
        """What `regions-and-photo` adds of the photograph."""
        return histogram_gradient(self.picture)

    def scale(self, readout: Readout, scale: int, mirrored: bool = False) -> Array:
        """The views of one scale, mirrored or not, joined."""
        key = (readout, scale, mirrored)
        if key not in self._maps:
            self._maps[key] = self.views.only((scale,), (mirrored,)).join(readout)
        return self._maps[key]

    def joined(self, readout: Readout, scales: tuple[int, ...], flip: bool = False) -> Array:
        """The mean over scales, and over what was mirrored and what not."""
        turns = (False, True)[: 1 + flip]
        return np.mean([self.scale(readout, scale, mirrored) for scale in scales for mirrored in turns], axis=0)


Choice = Callable[[Seen], Array]


@cache
def named(name: str) -> Readout:
    """A readout as `gmae-tools edges` has it, l@16 for layers."""
    return lambda scene: READOUTS[name](scene, (LAYERS,))


def seen(readout: Readout, scales: tuple[int, ...], *, flip: bool = False, end: Finish = finish) -> Choice:
    """Join the views of these scales and thin them."""
    return lambda photo: end(photo.joined(readout, scales, flip))


def as_it_is(joined: Array) -> Array:
    """Not thinned."""
    return joined


def significances() -> Iterator[tuple[str, str, Choice]]:
    """What a significant change is, for l@16."""

    def readout(measure: Measure, order: Order, thresholds: tuple[float, ...]) -> Readout:
        chosen = Significance(measure, thresholds, order)
        return lambda scene: edges.layer_edges(scene, (LAYERS,), significance=chosen)

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
        yield "significance", f"{measure} back-to-front > {level}, not thinned", seen(plain, WHOLE, end=as_it_is)


def depths() -> Iterator[tuple[str, str, Choice]]:
    """Which depth, for expected-depth."""

    def read(scene: Scene) -> np.ndarray:
        splats = project(scene.gaussians.sort_by_depth(), scene.camera, scene.height, scene.width)
        rank = torch.linspace(0, 1, scene.k)[None, :, None]
        raster = rasterize(replace(splats, colors=rank), scene.height, scene.width)
        depth = (raster.image / raster.alpha.clamp_min(1e-10))[0, 0].numpy()
        slope = contours.suppress_nonmaxima(contours.gradient(depth, edges.DEPTH_SIGMA))
        return slope / (slope + 0.02)

    yield "depth", "z", seen(named("expected-depth"), WHOLE)
    yield "depth", "place in the depth order", seen(read, WHOLE)


def looks() -> Iterator[tuple[str, str, Choice]]:
    """How the photograph is shown to the model."""
    several = (TILES, (1,), (2,), (3,), (4,), (2, 4), (2, 3, 4), (1, 2, 4), (3, 4, 5), SCALES)
    mirrored = (TILES, (3, 4, 5), SCALES)
    for name in ("combined", "render-gradient", "regions", "closed-regions"):
        readout, end = named(name), close if name == "closed-regions" else finish
        for scales in several:
            yield f"looks, {name}", ",".join(map(str, scales)), seen(readout, scales, end=end)
        for scales in mirrored:
            text = f"{','.join(map(str, scales))} and mirrored"
            yield f"looks, {name}", text, seen(readout, scales, flip=True, end=end)


def thinnings() -> Iterator[tuple[str, str, Choice]]:
    """How the joined views are thinned."""
    for name in ("combined", "render-gradient", "layers"):
        for sigma in (RIDGE_SIGMA, None, 1.0, 2.0):
            text = f"crests, sigma {sigma:g} px" if sigma else "none"
            end = partial(finish, sigma=sigma) if sigma else as_it_is
            yield f"thinning, {name}", text, seen(named(name), TILES, end=end)


def mergings() -> Iterator[tuple[str, str, Choice]]:
    """What makes regions alike: the damping of small ones, colours, and what else Gaussians know of a border."""
    yield "merging, regions", "colour", seen(merging(), TILES)
    for damping in (0.0, 0.0003, 0.003, 0.01, 0.03, 0.1):
        yield "merging, regions", f"damping {damping:g} of the picture", seen(merging(damping), TILES)
    for weight in (0.2, 0.5):
        yield "merging, regions", f"depth as a feature, times {weight:g}", seen(merging(depth=weight), TILES)
    barriers: dict[str, tuple[Barrier, float]] = {
        "gradient of the render along the border": (border_gradient, 1.0),
        "step of the owners' depths at the border": (border_depth, 0.05),
        "how little the owners at the border overlap": (border_overlap, 0.05),
    }
    for text, (barrier, weight) in barriers.items():
        also = merging(barrier=barrier, weight=weight)
        yield "merging, regions", f"colour, and {text}, times {weight:g}", seen(also, TILES)
    alone = merging(barrier=border_gradient, weight=2.0, color=0.0)
    yield "merging, regions", "gradient of the render along the border alone", seen(alone, TILES)


@dataclass(frozen=True)
class Rendered:
    """A view: colours in CIELAB / 100 `[H, W, 3]`, the strongest Gaussian `[H, W]` (-1: none), and the splats."""

    color: Array
    owner: Array
    splats: Splats


Barrier = Callable[[Rendered], Array]  # a view -> what is to be overcome at its borders [H, W]


def merging(
    damping: float = edges.DAMPING, *, color: float = 1.0, depth: float = 0.0,
    barrier: Barrier | None = None, weight: float = 0.0,
) -> Readout:  # fmt: skip
    """`regions` by any mixture of colour, expected depth and what a barrier says of the borders."""

    def read(scene: Scene) -> Array:
        splats, white = scene.splats(), scene.gaussians.means.new_ones(3)
        raster = rasterize(splats, scene.height, scene.width, background=white, owners=True, depth=True)
        assert raster.owner is not None and raster.depth is not None
        lab = rgb2lab(raster.image[0].permute(1, 2, 0).clamp(0, 1).numpy()) / 100
        owner = raster.owner[0].numpy()
        features = np.concatenate([color * lab, depth * raster.depth[0].permute(1, 2, 0).numpy()], -1)
        walls = None if barrier is None else weight * barrier(Rendered(lab, owner, splats))
        levels = contours.merge_regions(owner, features, barrier=walls, damping=damping * owner.size)
        return levels / (levels + edges.REGION_HALF)

    return read


def border_gradient(view: Rendered) -> Array:
    """Of the colours, CIELAB / 100 a px."""
    return contours.gradient(view.color, edges.RENDER_SIGMA).magnitude


def border_depth(view: Rendered) -> Array:
    """Difference of the depths of the owners on both sides, scene units."""
    depths = view.splats.depths[0].numpy()
    return contours.jumps(np.append(depths, depths.max())[view.owner])  # what nobody owns is behind all


def border_overlap(view: Rendered) -> Array:
    """1 less the Bhattacharyya coefficient of the splats that own both sides."""
    barrier = np.zeros(view.owner.shape)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        apart = 1 - overlap(view.splats, view.owner[here], view.owner[there])
        np.maximum(barrier[here], apart, out=barrier[here])
    return barrier


def overlap(splats: Splats, first: Array, second: Array) -> Array:
    """Bhattacharyya coefficients of splats by their numbers, in the shape of these; 1 for a splat and itself, 0 for one
    and none (-1).
    """
    conics, means = (tensor[0].double().numpy() for tensor in (splats.conics, splats.means))
    a, b, c = conics.T
    covariances = np.stack([c, -b, a], -1) / (a * c - b * b)[:, None]  # xx, xy, yy
    mean = (covariances[first] + covariances[second]) / 2
    dx, dy = np.moveaxis(means[first] - means[second], -1, 0)
    distance = (mean[..., 2] * dx * dx - 2 * mean[..., 1] * dx * dy + mean[..., 0] * dy * dy) / area(mean)
    found = np.exp(-distance / 8) * (area(covariances[first]) * area(covariances[second])) ** 0.25 / area(mean) ** 0.5
    return np.where(np.minimum(first, second) < 0, first == second, found)


def area(covariances: Array) -> Array:
    """Determinants of (xx, xy, yy) `[..., 3]`."""
    return covariances[..., 0] * covariances[..., 2] - covariances[..., 1] ** 2


def mixtures() -> Iterator[tuple[str, str, Choice]]:
    """What depth adds to `combined`."""

    def mean(*names: str) -> Readout:
        parts = [named(name) for name in names]
        return lambda scene: np.mean([part(scene) for part in parts], 0)

    both = ("regions", "render-gradient")
    for names in (both, (*both, "layers"), (*both, "expected-depth"), ("render-gradient", "layers"), both[:1]):
        yield "mixture", " + ".join(names), seen(mean(*names), TILES)


def closings() -> Iterator[tuple[str, str, Choice]]:
    """What it helps to ask which regions the joined edges close around, and how to ask."""
    by_cuts = partial(closed, cuts=0.3)
    for name, flip in product(("regions", "closed-regions"), (False, True)):
        group, readout = f"closing, {name}" + (" and mirrored" if flip else ""), named(name)
        yield group, "none", seen(readout, TILES, flip=flip)
        yield group, "crests weakened where they close around little", seen(readout, TILES, flip=flip, end=close)
        yield group, "the contours themselves", seen(readout, TILES, flip=flip, end=hierarchy)
        yield group, "contours also by normalised cuts", seen(readout, TILES, flip=flip, end=by_cuts)
    readout = named("closed-regions")
    yield "closing, constants", "1.5 px, 0.001 of the picture", seen(readout, TILES, end=close)
    for sigma in (1.0, 2.0):
        yield "closing, constants", f"sigma {sigma:g} px", seen(readout, TILES, end=partial(closed, sigma=sigma))
    for damping in (0.0, 0.0003, 0.003):
        text = f"damping {damping:g} of the picture"
        yield "closing, constants", text, seen(readout, TILES, end=partial(closed, damping=damping))
    for name in ("combined", "render-gradient"):
        yield f"closing, {name}", "none", seen(named(name), TILES)
        yield f"closing, {name}", "closed", seen(named(name), TILES, end=close)


def hierarchy(joined: Array, sigma: float = RIDGE_SIGMA, damping: float = edges.DAMPING, cuts: float = 0.0) -> Array:
    """The ultrametric contours of the joined views, stretched as crests are; with `cuts`, as much of `normalized_cuts`
    is added to what separates the basins.
    """
    if not cuts:
        return stretch(contours.close_contours(joined, sigma, damping=damping * joined.size))
    smooth = ndimage.gaussian_filter(joined.astype(np.float32), sigma)
    basins = watershed(smooth) - 1
    barrier = smooth + cuts * normalized_cuts(basins, smooth)
    unseen = np.zeros((*smooth.shape, 0))
    found = contours.merge_regions(basins, unseen, barrier=barrier, damping=damping * joined.size)
    return np.minimum(stretch(found), 1)


def closed(joined: Array, sigma: float = RIDGE_SIGMA, damping: float = edges.DAMPING, cuts: float = 0.0) -> Array:
    """`zeroshot.edges.close` with other contours."""
    crests, around = finish(joined), ndimage.maximum_filter(hierarchy(joined, sigma, damping, cuts), 5)
    return np.where(crests > 0, (crests + around) / 2, 0)


def normalized_cuts(regions: Array, barrier: Array, sigma: float = 0.1, count: int = 16) -> Array:
    """How far the first eigenvectors of a graph of regions jump at each pixel, over the square roots of their values.

    After the spectral part of gPb (Arbelaez et al., TPAMI 2011), on regions instead of pixels. Neighbours are bound by
    exp(-b / sigma), b the mean of the barrier along their border.
    """
    size = int(regions.max()) + 1
    first, second = (np.concatenate([a.ravel(), b.ravel()]) for a, b in (
        (regions[:, :-1], regions[:-1]), (regions[:, 1:], regions[1:])
    ))  # fmt: skip
    height = np.concatenate([np.maximum(a, b).ravel() for a, b in (
        (barrier[:, :-1], barrier[:, 1:]), (barrier[:-1], barrier[1:])
    )])  # fmt: skip
    apart = first != second
    pairs = (np.append(first[apart], second[apart]), np.append(second[apart], first[apart]))
    steps, heights = (
        coo_array((np.tile(values, 2), pairs), (size, size)).tocsr()
        for values in (np.ones(apart.sum()), height[apart].astype(float))
    )
    bonds = steps.copy()
    bonds.data = np.exp(-heights.data / steps.data / sigma)
    degrees = bonds.sum(1)
    scale = diags_array(degrees**-0.5)
    values, vectors = eigsh(scale @ bonds @ scale, min(count + 1, size - 2), which="LA", v0=degrees**0.5, tol=1e-4)
    jumps = np.zeros(regions.shape)
    for value, vector in zip(values[:-1], vectors.T[:-1], strict=True):  # the last, of value 1, is constant
        member = (vector * degrees**-0.5 * degrees.sum() ** 0.5)[regions]
        jumps += contours.jumps(member) / max(1 - value, 1e-6) ** 0.5
    return jumps / 100


def agreements() -> Iterator[tuple[str, str, Choice]]:
    """How views of different scales are asked what they agree on, with `closed-regions`, also mirrored."""
    readout = named("closed-regions")
    fine, coarse = (3, 4, 5), (1, 2)
    yield "agreement", "mean of 3,4,5", seen(readout, fine, flip=True, end=close)
    yield "agreement", "geometric mean of 3,4,5", lambda photo: close(geometric(photo, readout, fine))
    yield "agreement", "geometric mean of 2,3,4,5", lambda photo: close(geometric(photo, readout, (2, *fine)))
    yield (
        "agreement",
        "3,4,5 where 1,2 has an edge near",
        lambda photo: close(photo.joined(readout, fine, True) * near(photo.joined(readout, coarse, True))),
    )


def geometric(photo: Seen, readout: Readout, scales: tuple[int, ...]) -> Array:
    """An edge has to be found at every scale, to about a pixel."""
    parts = [ndimage.gaussian_filter(photo.joined(readout, (scale,), True), 1.0) for scale in scales]
    return np.exp(np.mean(np.log(np.array(parts) + 0.02), axis=0)) - 0.02


def near(joined: Array) -> Array:
    """How strong the strongest edge within 4 px is, in [0, 1]; half of it from 0.1 on."""
    strongest = ndimage.maximum_filter(ndimage.gaussian_filter(joined, 1.0), 9)
    return strongest / (strongest + 0.1)


def stretch(strength: Array) -> Array:
    """As `finish` stretches."""
    return strength * 1.25 / (strength + 0.25)


def outlines() -> Iterator[tuple[str, str, Choice]]:
    """How joined views become the map that is written, and at which looks."""

    def quiet(sigma: float, half: float, end: Finish) -> Finish:
        return lambda joined: end(contours.suppress_surround(joined, sigma * joined.size**0.5, half))

    steps = {"thinned": finish, "closed": close, "surround suppressed, thinned": quiet(0.05, 0.1, finish)}
    steps |= {f"outline, surround of {sigma}": quiet(sigma, 0.1, close) for sigma in (0.03, 0.08)}
    steps |= {f"outline, half at {half}": quiet(0.05, half, close) for half in (0.05, 0.2)}
    for name in ("layers", "layer-changes", "expected-depth", "render-gradient", "closed-regions"):
        group, readout = f"outlines, {name}", named(name)
        yield group, "outline", seen(readout, EDGE_SCALES, end=outline)
        for text, end in steps.items():
            yield group, text, seen(readout, EDGE_SCALES, end=end)
        yield group, "outline, mirrored looks too", seen(readout, EDGE_SCALES, flip=True, end=outline)
        for scales in ((1,), (1, 2), (1, 2, 3), (2, 3, 4), (3, 4)):
            yield group, f"outline, looks {','.join(map(str, scales))}", seen(readout, scales, end=outline)


def pictures() -> Iterator[tuple[str, str, Choice]]:
    """What the photograph adds to the Gaussians of closed-regions, and they to it."""
    readout, weight = named("closed-regions"), edges.PICTURE_WEIGHT

    def joined(own: Callable[[Seen], Array], share: float = weight, flip: bool = False) -> Choice:
        return lambda photo: outline((1 - share) * photo.joined(readout, EDGE_SCALES, flip) + share * own(photo))

    def own(photo: Seen) -> Array:
        return photo.own

    def without(**sigmas: tuple[float, ...]) -> Choice:
        return joined(lambda photo: histogram_gradient(photo.picture, **sigmas))

    def slope(photo: Seen) -> Array:
        change = contours.gradient(rgb2lab(photo.picture) / 100, 2.0).magnitude
        return change / (change + 0.1)

    def render(photo: Seen) -> Array:
        colors = [photo.joined(partial(rendered, channel=channel), EDGE_SCALES) for channel in range(3)]
        return histogram_gradient((255 * np.stack(colors, -1)).round().astype(np.uint8))

    group = "picture, regions-and-photo"
    yield group, "Gaussians and photograph", joined(own)
    yield group, "... mirrored looks too", joined(own, flip=True)
    yield group, "Gaussians alone", seen(readout, EDGE_SCALES, end=outline)
    yield group, "photograph alone, nothing of the model", joined(own, 1)
    yield group, "Gaussians and their render", joined(render)
    yield group, "Gaussians and the photograph's gradient in CIELAB", joined(slope, 0.5)
    yield group, "that gradient alone, nothing of the model", joined(slope, 1)
    for share in (0.5, 0.7):
        yield group, f"weight of the photograph {share}", joined(own, share)
    yield group, "colours only", without(texture_sigmas=())
    yield group, "texture only", without(color_sigmas=())
    yield group, "windows for colour of 2 and 4 px", without(color_sigmas=(2, 4))
    yield group, "windows for texture of 4.5 px", without(texture_sigmas=(4.5,))


def rendered(scene: Scene, channel: int) -> Array:
    """One channel of what a scene renders, in [0, 1]."""
    return scene.render()[0, channel].clamp(0, 1).numpy()


GROUPS: dict[str, Callable[[], Iterator[tuple[str, str, Choice]]]] = {
    "significance": significances,
    "depth": depths,
    "looks": looks,
    "thinning": thinnings,
    "merging": mergings,
    "mixture": mixtures,
    "closing": closings,
    "agreement": agreements,
    "outlines": outlines,
    "picture": pictures,
}


@script(takes="10 minutes", needs="BSDS500")
@root_option
@click.option("--every", type=click.IntRange(1), default=4, show_default=True, help="Only every Nth image.")
@click.option("--thresholds", type=click.IntRange(1), default=33, show_default=True)
@click.option("--group", "groups", type=click.Choice(list(GROUPS)), multiple=True, help="Only these.  [default: all]")
@checkpoint_option
@results_option("--results")
def main(
    root: str | None, every: int, thresholds: int, groups: tuple[str, ...], checkpoint: str, results: Path
) -> None:  # fmt: skip
    """Write `edge-choices.csv` into the folder of results, and print it."""
    data, model, protocol = BSDS500(root), checkpoints.load(checkpoint), BoundaryProtocol(thresholds)
    choices = [choice for group in groups or GROUPS for choice in GROUPS[group]()]
    scores = [BoundaryScores(protocol) for _ in choices]

    def count(path: Path) -> None:
        photo = read_image(path)
        truths = read_boundaries(data.ground_truth_folder("val") / f"{path.stem}.mat")
        views = Seen(look(model, photo, Looks(SCALES, flip=True)))
        for (_, _, detect), score in zip(choices, scores, strict=True):
            score.add(path.stem, count_boundaries(detect(views), truths, protocol))

    with ThreadPoolExecutor(2) as pool:
        for number, _ in enumerate(pool.map(count, data.images("val")[::every]), 1):
            click.echo(f"{number} images", err=True)
    rows: list[Row] = []
    first: dict[str, BoundaryResult] = {}
    for (group, choice, _), score in zip(choices, scores, strict=True):
        result = score.compute()
        figures = {"ods": result.ods, "ois": result.ois, "ap": result.ap}
        points = {"recall": result.ods_recall, "precision": result.ods_precision}
        difference, deviation = ods_difference(result, first.setdefault(group, result))
        changes = {"difference": difference, "deviation": deviation}
        rows.append({"group": group, "choice": choice, **figures, **points, **changes})
    write_table(results / "edge-choices.csv", rows, COLUMNS)
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


if __name__ == "__main__":
    main()
