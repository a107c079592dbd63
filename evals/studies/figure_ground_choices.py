"""The choices behind `zeroshot.figure_ground`, one changed at a time, on photographs of ECSSD with odd numbers.

Protocol: photographs in their own size, seen once as a whole; the first row of a group is the default. `max_f`: F-beta
(beta^2 = 0.3) averaged over photographs at each of 255 thresholds, then the maximum. `iou`: of the figure at a
probability of 0.5, averaged over photographs; `half_1`, `half_2`: over every other one, beginning with the first or the
second. `gain`: IoU above the first row of the group, `gain_sd`: its standard error over photographs. `auc`: area under
the ROC curve of each photograph, averaged; `right`: share of those where it is above 0.5.

`grouped` is scored as Gaussians alone make it, before the colours of either side and the regions of the photograph,
which `readout_choices.py` and `grouping_choices.py` study; only the row `grouped` of the references is the package's,
which looks at the photograph.

Rows that look at the photograph, or at the truth, say so; all others are functions of the Gaussians alone.

    python -m evals.studies.figure_ground_choices --data ecssd-dev
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import click
import numpy as np
import torch
from scipy.sparse.csgraph import dijkstra
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu

from evals.common import checkpoint_option, every_option, results_option, root_option, script, write_table
from gmae_tools import checkpoints
from gmae_tools.benchmarks import figure_methods
from gmae_tools.datasets.saliency import Saliency, read_mask
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import read_image, resize
from gmae_tools.metrics.regions import LEVELS, RegionScores
from gmae_tools.model import GMAE
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize
from gmae_tools.zeroshot import figure_ground
from gmae_tools.zeroshot.figure_ground import (
    COUNTS,
    SOFTNESS,
    Graph,
    Groups,
    build_graph,
    calibrate,
    composite,
    foreground_mask,
    foreground_probability,
    group_scores,
    render_owners,
    saliency,
)  # fmt: skip
from gmae_tools.zeroshot.views import Looks, View, Views, look

COLUMNS = {
    "group": None, "choice": None, "max_f": 3, "iou": 3, "half_1": 3, "half_2": 3, "gain": 3, "gain_sd": 3, "auc": 3,
    "right": 2,
}  # fmt: skip
THE_MIDDLE = "the middle is farther than the mean"
REFINE_STEPS = 50
Array = np.ndarray


# --- what a choice may look at ----------------------------------------------------------------------


class Case:
    """A photograph as the model sees it: everything is computed when it is first asked for, and kept."""

    def __init__(self, model: GMAE, photo: Array, truth: Array) -> None:
        self.model, self.photo, self.truth = model, photo, truth
        self.height, self.width = photo.shape[:2]

    @cached_property
    def views(self) -> Views:
        """As a whole and as 2 x 2 tiles, each also mirrored."""
        return look(self.model, self.photo, Looks((1, 2), flip=True))

    @cached_property
    def scene(self) -> Scene:
        return self.views.views[0].scene

    @property
    def gaussians(self) -> Gaussians:
        return self.scene.gaussians

    @cached_property
    def seen(self) -> tuple[Array, Array]:
        """The strongest Gaussians and their colours in the small picture of which the graph is built."""
        return render_owners(self.scene)

    @cached_property
    def graph(self) -> Graph:
        return build_graph(self.gaussians.k, *self.seen)

    def render(self, scores: Array) -> Array:
        """Scores of the Gaussians `[K]` as a map stretched to [0, 1]."""
        return composite(self.scene, scores)

    @cached_property
    def owner(self) -> Array:
        """The strongest Gaussian of each pixel of the photograph, `[H, W]`."""
        owner = rasterize(self.scene.splats(), self.height, self.width, owners=True).owner
        assert owner is not None
        return owner[0].numpy()

    @cached_property
    def depths(self) -> Array:
        """z of the Gaussians in standard deviations above their mean, `[K]`."""
        z = self.gaussians.means[0, :, 2].double().numpy()
        return (z - z.mean()) / z.std()

    @cached_property
    def shuffled(self) -> Array:
        """The same depths, dealt out at random."""
        return np.random.default_rng(0).permutation(self.depths)


Choice = Callable[[Case], Array]  # -> probability of figure [H, W]; above 0.5 it is figure
Score = Callable[[Groups], Array]


def grouped(
    score: Score = saliency, counts: Sequence[int] = COUNTS, rewire: Callable[[Case], Graph] | None = None
) -> Choice:
    """`grouped` with another score, other numbers of groups or another graph."""

    def choose(case: Case) -> Array:
        graph = rewire(case) if rewire else case.graph
        return calibrate(case.render(group_scores(graph, counts, score)))

    return choose


# --- groups of choices ------------------------------------------------------------------------------


def recipes() -> Iterator[tuple[str, Choice]]:
    """How groups are scored. All prefer the middle alike, and are averaged over the same numbers of groups."""
    yield "saliency", grouped()
    named: dict[str, Score] = {
        "contrast to the border groups, without balance": contrast,
        "distance to the border along the graph": geodesic,
        "manifold ranking, all sides one query": manifold_ranking,
        "absorbing Markov chain": absorbing_chain,
        "normalised cut, the side with less border": normalised_cut,
    }
    for name, score in named.items():
        yield name, grouped(partial(centred, score))
    yield "saliency, then the colours of either side", color_models


def centred(score: Score, groups: Groups) -> Array:
    return unit(score(groups) * bell(np.hypot(*(groups.place - 0.5).T), figure_ground.CENTRE_SIGMA))


def contrast(groups: Groups) -> Array:
    """Colour differences to the groups at the border, near ones first."""
    near = bell(distances(groups.place), 0.25)
    return (distances(groups.color) * near) @ groups.border


def geodesic(groups: Groups) -> Array:
    """Wei et al. (ECCV 2012): length of the shortest path to the border, in colour differences."""
    paths = dijkstra(np.where(groups.beside, distances(groups.color) + 1e-6, 0), directed=False)
    return paths[:, groups.border > 0].min(1)


def affinity(groups: Groups) -> Array:
    return np.where(groups.beside, bell(distances(groups.color), 10.0), 0) + 1e-6 * groups.beside


def manifold_ranking(groups: Groups) -> Array:
    """Yang et al. (CVPR 2013): how little the groups follow from the border, then how much from what that leaves."""
    bonds = affinity(groups)
    spread = np.linalg.inv(np.diag(bonds.sum(1)) - 0.99 * bonds)
    np.fill_diagonal(spread, 0)
    first = 1 - unit(spread @ (groups.border > 0))
    return unit(spread @ (first > first @ groups.area))


def absorbing_chain(groups: Groups) -> Array:
    """Jiang et al. (ICCV 2013): steps of a random walk until it leaves by the border."""
    bonds = affinity(groups)
    leaving = (groups.border > 0).astype(float)
    return np.linalg.solve(np.diag(bonds.sum(1) + leaving) - bonds, bonds.sum(1) + leaving)


def normalised_cut(groups: Groups) -> Array:
    """Shi and Malik (2000): the second eigenvector, turned so that the border is low."""
    from scipy.linalg import eigh

    alike = bell(distances(groups.color), 20.0) * bell(distances(groups.place), 0.25)
    bonds = alike * np.outer(groups.area, groups.area)
    weight = bonds.sum(1)
    values = unit(eigh(np.diag(weight) - bonds, np.diag(weight))[1][:, 1])
    return values if values @ groups.border < (1 - values) @ groups.border else 1 - values


def color_models(case: Case) -> Array:
    """A second pass: each Gaussian also by whether colours like its own nearby are rather figure or ground."""
    nodes = case.graph.groups(np.arange(len(case.graph.gaussians)))
    first = group_scores(case.graph)
    side = calibrate(np.nan_to_num(first[case.graph.gaussians])[:, None])[:, 0]
    alike = bell(distances(nodes.color), 10.0) * bell(distances(nodes.place), 0.25) * nodes.area
    first[case.graph.gaussians] += alike @ side / alike.sum(1)
    return calibrate(case.render(first))


def constants() -> Iterator[tuple[str, Choice]]:
    """The constants of `saliency`, each halved and doubled or left out."""
    yield "as they are", grouped()
    tried: dict[str, tuple[float, ...]] = {
        "centre_sigma": (np.inf, 0.18, 0.35),
        "place_sigma": (np.inf, 0.12, 0.5),
        "color_sigma": (5.0, 20.0),
        "border_sigma": (0.5, 2.0),
        "link": (0.0, 0.03, 0.3),
    }
    for name, values in tried.items():
        for value in values:
            yield f"{name} {value:g}", grouped(named_saliency(name, value))


def named_saliency(name: str, value: float) -> Score:
    return lambda groups: saliency(groups, **{name: value})


def counts() -> Iterator[tuple[str, Choice]]:
    """Numbers of groups."""
    for numbers in (COUNTS, (5, 10, 20, 40), (20, 40, 80, 160), (10, 20, 40, 80, 160), (10, 40), (20, 80), (20,), (40,),
                    (80,), (160,)):  # fmt: skip
        yield ", ".join(map(str, numbers)), grouped(counts=numbers)
    yield "every Gaussian by itself", grouped(counts=(1 << 20,))


def graphs() -> Iterator[tuple[str, Choice]]:
    """What the graph is made of."""
    yield "Gaussians with the colours they show", grouped()
    yield "with their own colours", grouped(rewire=own_colors)
    for damping in (0.0, 0.01):
        yield f"damping {damping:g}", grouped(rewire=partial(damped, damping))
    for side in (64, 160, 224):
        yield f"drawn at {side} x {side} px", grouped(rewire=partial(drawn, side * side))
        wider = partial(saliency, place_sigma=0.5)
        yield f"drawn at {side} x {side} px, place_sigma 0.5", grouped(wider, rewire=partial(drawn, side * side))
    yield "groups at the border are no neighbours", grouped(rewire=unlinked)
    yield "with the colours of the photograph (looks at it)", grouped(rewire=photo_colors)
    yield "200 superpixels of the photograph instead (looks at it)", superpixels


def damped(damping: float, case: Case) -> Graph:
    return build_graph(case.gaussians.k, *case.seen, damping)


def drawn(pixels: int, case: Case) -> Graph:
    return build_graph(case.gaussians.k, *render_owners(case.scene, pixels))


class Unlinked(Graph):
    """A graph in which groups at the border of the picture are neighbours only if they touch."""

    def groups(self, part: Array) -> Groups:
        groups = super().groups(part)
        pairs = part[self.tree.pairs]
        beside = np.zeros_like(groups.beside)
        beside[tuple(pairs.T)] = beside[tuple(pairs.T[::-1])] = True
        np.fill_diagonal(beside, False)
        return replace(groups, beside=beside)


def unlinked(case: Case) -> Graph:
    return Unlinked(**vars(case.graph))


def own_colors(case: Case) -> Graph:
    owner, _ = case.seen
    white = torch.ones(1, 3)  # of owner -1, the last
    color = rgb2lab(torch.cat([case.gaussians.colors[0].clamp(0, 1), white]).numpy())
    return build_graph(case.gaussians.k, owner, color[owner])


def photo_colors(case: Case) -> Graph:
    owner, _ = case.seen
    return build_graph(case.gaussians.k, owner, rgb2lab(resize(case.photo, *owner.shape)))


def superpixels(case: Case) -> Array:
    """The same score on SLIC's superpixels: what the field starts from."""
    from PIL import Image
    from skimage.segmentation import slic

    small = resize(case.photo, *case.seen[0].shape)
    nodes = slic(small, n_segments=200, compactness=10, start_label=0)
    scores = group_scores(build_graph(int(nodes.max()) + 1, nodes, rgb2lab(small)))
    picture = Image.fromarray(unit(scores[nodes]).astype(np.float32))
    return calibrate(np.asarray(picture.resize((case.width, case.height), Image.Resampling.BILINEAR)))


def depth_in_grouping() -> Iterator[tuple[str, Choice]]:
    """What depth adds to `grouped`: a standard deviation of the depths counts as that many CIELAB units."""
    yield "colour alone", grouped()
    for weight in (2.0, 5.0, 10.0):
        yield f"and depth, times {weight:g}", grouped(rewire=partial(deepened, weight, True, False))
        yield f"and shuffled depth, times {weight:g}", grouped(rewire=partial(deepened, weight, True, True))
    yield "depth alone, times 10", grouped(rewire=partial(deepened, 10.0, False, False))
    yield "shuffled depth alone, times 10", grouped(rewire=partial(deepened, 10.0, False, True))
    for weight in (-0.5, -0.25, 0.25, 0.5):
        yield f"scores times exp({weight:g} depth)", partial(tilted, weight, False)
    for weight in (0.25, 0.5):
        yield f"scores times exp({weight:g} shuffled depth)", partial(tilted, weight, True)


def deepened(weight: float, colored: bool, shuffle: bool, case: Case) -> Graph:
    """Depth as a fourth channel of colour, or as the only one, for merging too."""
    owner, color = case.seen
    depth = weight * np.append(case.shuffled if shuffle else case.depths, 0)[owner][..., None]
    return build_graph(case.gaussians.k, owner, np.concatenate([color, depth], -1) if colored else depth)


def tilted(weight: float, shuffle: bool, case: Case) -> Array:
    scores = group_scores(case.graph)
    return calibrate(case.render(scores * np.exp(weight * (case.shuffled if shuffle else case.depths))))


def paintings() -> Iterator[tuple[str, Choice]]:
    """How scores of Gaussians become a map."""
    yield "composited", grouped()
    yield "each pixel of its strongest Gaussian", lambda case: calibrate(sharp(case))


def sharp(case: Case) -> Array:
    return unit(np.nan_to_num(group_scores(case.graph))[case.owner])


def thresholds() -> Iterator[tuple[str, Choice]]:
    """Where a map, stretched to [0, 1], becomes a mask; and how soft the step is."""
    rules: dict[str, Callable[[Array], float]] = {
        "Otsu's": threshold_otsu,
        "0.4 of the span": lambda saliency_map: 0.4,
        "1.5 times the mean": lambda saliency_map: 1.5 * float(saliency_map.mean()),
        "twice the mean": lambda saliency_map: 2 * float(saliency_map.mean()),
    }
    for name, rule in rules.items():
        yield name, partial(cut_at, rule, SOFTNESS)
    for softness in (0.03, 0.3):
        yield f"Otsu's, softness {softness:g}", partial(cut_at, threshold_otsu, softness)


def cut_at(rule: Callable[[Array], float], softness: float, case: Case) -> Array:
    saliency_map = case.render(group_scores(case.graph))
    return 1 / (1 + np.exp((rule(saliency_map) - saliency_map) / softness))


def looks() -> Iterator[tuple[str, Choice]]:
    """How often the model looks."""
    yield "once, at the whole", partial(joined, (1,), False)
    yield "and mirrored", partial(joined, (1,), True)
    yield "2 x 2 tiles", partial(joined, (2,), False)
    yield "whole and 2 x 2 tiles", partial(joined, (1, 2), False)
    yield "whole and 2 x 2 tiles, and mirrored", partial(joined, (1, 2), True)
    yield "the Gaussians of 2 x 2 tiles put together", patchwork
    yield f"refined in {REFINE_STEPS} steps (looks at the photograph)", refined


def joined(scales: tuple[int, ...], flip: bool, case: Case) -> Array:
    return case.views.only(scales, (False, True)[: 1 + flip]).foreground()


def patchwork(case: Case) -> Array:
    """One set of four tiles' Gaussians, each from the tile in whose quarter of the picture its centre lies."""
    parts = [in_picture(view, case) for view in case.views if view.scale == 2 and not view.mirrored]
    joined = Gaussians(
        *(
            torch.cat([getattr(part, name) for part in parts], 1)
            for name in ("means", "scales", "quats", "colors", "opacities")
        )
    )
    return foreground_probability(replace(case.scene, gaussians=joined))


def in_picture(view: View, case: Case) -> Gaussians:
    """A tile's Gaussians in units of the picture, those with their centre in its quarter."""
    columns, rows = view.columns, view.rows
    sides = torch.tensor([case.width, case.height])
    share = torch.tensor([columns.stop - columns.start, rows.stop - rows.start]) / sides
    middle = torch.tensor([columns.start + columns.stop, rows.start + rows.stop]) / sides - 1
    gaussians = view.scene.gaussians
    means = gaussians.means.clone()
    means[..., :2] = means[..., :2] * share + middle
    own = ((means[0, :, :2] >= 0) == (middle >= 0)).all(1)
    return replace(gaussians, means=means, scales=gaussians.scales * share.mean()).select(own)


def refined(case: Case) -> Array:
    return look(case.model, case.photo, Looks((1,), refine=REFINE_STEPS)).foreground()


def sides() -> Iterator[tuple[str, Choice]]:
    """Which end of the depths is the figure, where depth stands alone, as in the first version of `depth`."""
    rules: dict[str, Callable[[Array], bool]] = {
        THE_MIDDLE: far_is_foreground,
        "always the far one": lambda farness: True,
        "always the near one": lambda farness: False,
        "the border is nearer than the mean": lambda farness: bool(rim(farness).mean() <= farness.mean()),
        "less than half of the border is far (Otsu)": lambda farness: bool(rim(split(farness)).mean() <= 0.5),
        "the far side is smaller (Otsu)": lambda farness: bool(split(farness).mean() <= 0.5),
        "the far side is more compact (Otsu)": lambda farness: extent(split(farness)) <= extent(~split(farness)),
    }
    for name, rule in rules.items():
        yield name, partial(turned, rule)
    yield (
        f"{THE_MIDDLE}; places in the order of depth",
        lambda case: turn(far_is_foreground, case.render(ranks(case.depths))),
    )
    yield (
        "the right one (looks at the truth)",
        lambda case: turned(lambda f: area_under_roc(f, case.truth) > 0.5, case),
    )


def far_is_foreground(farness: Array) -> bool:
    """The rule of the first version: whether the middle of the map `[H, W]` is farther than its mean."""
    height, width = farness.shape
    y, x = (bell((np.arange(side) + 0.5) / side - 0.5, figure_ground.CENTRE_SIGMA) for side in (height, width))
    return bool(y @ farness @ x / (y.sum() * x.sum()) >= farness.mean())


def turned(rule: Callable[[Array], bool], case: Case) -> Array:
    return turn(rule, case.render(case.depths))


def turn(rule: Callable[[Array], bool], farness: Array) -> Array:
    return calibrate(farness if rule(farness) else 1 - farness)


def rim(values: Array) -> Array:
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def split(farness: Array) -> Array:
    return foreground_mask(calibrate(farness))


def extent(mask: Array) -> float:
    """Variance of the places of a mask's pixels, in widths and heights of the picture."""
    y, x = np.nonzero(mask)
    return float((x / mask.shape[1]).var() + (y / mask.shape[0]).var()) if len(x) else np.inf


def ranks(values: Array) -> Array:
    return np.argsort(np.argsort(values)).astype(float)


def farness() -> Iterator[tuple[str, Choice]]:
    """What farness adds to a preference for the middle that knows nothing of the picture."""
    for weight in (0.0, 0.25, 0.5, 1.0):
        yield f"centre prior times exp({weight:g} depth)", partial(middle, weight)


def middle(weight: float, case: Case) -> Array:
    splat_depth = case.render(case.depths)
    tilt = np.exp(weight * (splat_depth - splat_depth.mean()) / splat_depth.std())
    return calibrate(unit(figure_methods.centre_prior(case.photo) * tilt))


def references() -> Iterator[tuple[str, Choice]]:
    """What the figures above are to be measured by."""
    yield "grouped", lambda case: foreground_probability(case.scene)
    yield "depth", lambda case: foreground_probability(case.scene, method="depth")
    yield "centre prior", lambda case: figure_methods.centre_prior(case.photo)
    yield "everything", lambda case: figure_methods.everything(case.photo)
    yield "Otsu on luminance (looks at the photograph)", lambda case: figure_methods.otsu(case.photo)
    yield "each Gaussian on its right side (looks at the truth)", majority


def majority(case: Case) -> Array:
    """How well any choice among Gaussians can do: the side of each that has more of its pixels."""
    nodes = case.owner.ravel() + 1
    return (
        (np.bincount(nodes, case.truth.ravel()) * 2 > np.bincount(nodes))[nodes].reshape(case.truth.shape).astype(float)
    )


GROUPS: dict[str, Callable[[], Iterator[tuple[str, Choice]]]] = {
    "recipe": recipes,
    "constants": constants,
    "counts": counts,
    "graph": graphs,
    "depth in grouping": depth_in_grouping,
    "painting": paintings,
    "threshold": thresholds,
    "looks": looks,
    "side": sides,
    "farness": farness,
    "reference": references,
}


# --- small tools ------------------------------------------------------------------------------------


def unit(values: Array) -> Array:
    span = np.ptp(values)
    return np.asarray((values - values.min()) / span if span > 0 else np.zeros_like(values))


def bell(distance: Array, sigma: float) -> Array:
    return np.exp(-((distance / sigma) ** 2) / 2)


def distances(points: Array) -> Array:
    return np.sqrt(((points[:, None] - points) ** 2).sum(-1))


def area_under_roc(soft: Array, truth: Array) -> float:
    """The chance that a pixel of the figure is above one of the ground, equal ones counting half; 8-bit levels."""
    levels = np.rint(soft * (LEVELS - 1)).astype(int)
    figure, ground = (np.bincount(levels[side], minlength=LEVELS) for side in (truth, ~truth))
    return float(figure @ (ground.cumsum() - ground / 2) / (figure.sum() * ground.sum()))


# --- the table --------------------------------------------------------------------------------------


class Tally:
    """Scores of one choice, photograph by photograph."""

    def __init__(self) -> None:
        self.scores, self.areas = RegionScores(), dict[str, float]()

    def add(self, name: str, soft: Array, truth: Array) -> None:
        self.scores.update(name, soft, truth)
        self.areas[name] = area_under_roc(soft, truth)

    def overlaps(self) -> Array:
        """IoU of each photograph, by name."""
        return np.array([each.iou for each in self.scores.compute().metrics.values()])


def as_row(name: tuple[str, str], tally: Tally, standard: Tally) -> Row:
    result, overlaps = tally.scores.compute(), tally.overlaps()
    gain = overlaps - standard.overlaps()
    areas = np.array(list(tally.areas.values()))
    return {
        "group": name[0], "choice": name[1], "max_f": result.max_f_beta, "iou": result.iou,
        "half_1": float(overlaps[::2].mean()), "half_2": float(overlaps[1::2].mean()),
        "gain": float(gain.mean()), "gain_sd": float(gain.std() / np.sqrt(len(gain))),
        "auc": float(areas.mean()), "right": float((areas > 0.5).mean()),
    }  # fmt: skip


@script(takes="10 minutes", needs="ECSSD")
@click.option("--data", required=True, metavar="NAME|DIR", help="ecssd, or a folder with images/ and masks/.")
@root_option
@every_option
@checkpoint_option
@results_option("--results")
def main(data: str, root: str | None, every: int, checkpoint: str, results: Path) -> None:
    """Write `figure_ground_choices.csv` into the folder of results, and print it."""
    torch.set_num_threads(1)
    model = checkpoints.load(checkpoint)
    choices = {(group, name): choice for group, make in GROUPS.items() for name, choice in make()}
    tallies = {name: Tally() for name in choices}
    pairs = Saliency(data, root).pairs("odd")[::every]
    for number, pair in enumerate(pairs, 1):
        photo = read_image(pair.photo)
        case = Case(model, photo, read_mask(pair.mask))
        for name, choice in choices.items():
            tallies[name].add(pair.name, choice(case), case.truth)
        click.echo(f"{number} of {len(pairs)} photographs", err=True)
    standards = {group: tallies[group, next(make())[0]] for group, make in GROUPS.items()}
    rows = [as_row(name, tally, standards[name[0]]) for name, tally in tallies.items()]
    write_table(results / "figure_ground_choices.csv", rows, COLUMNS)
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


if __name__ == "__main__":
    main()
