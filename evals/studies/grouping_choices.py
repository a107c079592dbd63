"""The choices behind `grouped` of `zeroshot.figure_ground`, one changed at a time, on ECSSD with odd numbers.

Protocol: photographs in their own size, seen once as a whole unless a row says mirrored. `max_f`: F-beta (beta^2 = 0.3)
averaged over photographs at each of 255 thresholds, then the maximum. `iou`: of the figure at a probability of 0.5,
averaged over photographs. `gain`: IoU above the first row, with its standard error over photographs (`gain_sd`);
`half_1`, `half_2`: the same over every other photograph, beginning with the first or the second. Maps have 256 levels,
as they are written.

    python -m evals.studies.grouping_choices --data ecssd-dev --every 2
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import click
import numpy as np
from skimage.color import rgb2lab

from evals.common import checkpoint_option, every_option, results_option, root_option, script, write_table
from gmae_tools import checkpoints
from gmae_tools.datasets.saliency import Saliency, read_mask
from gmae_tools.images import read_image, resize
from gmae_tools.metrics.regions import RegionScores
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.scene import Scene
from gmae_tools.zeroshot.figure_ground import (
    FRAMES,
    balance_colors,
    build_graph,
    calibrate,
    color_regions,
    composite,
    foreground_probability,
    frame_scores,
    group_scores,
    render_owners,
)
from gmae_tools.zeroshot.guided_filter import enlarge, enlarge_along
from gmae_tools.zeroshot.views import Looks, look

COLUMNS = {"choice": None, "max_f": 3, "iou": 3, "gain": 3, "gain_sd": 3, "half_1": 3, "half_2": 3}
Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """A photograph as the model sees it; what several choices need is computed once."""

    scene: Scene
    kept: dict[object, Array] = field(default_factory=dict)

    @cached_property
    def seen(self) -> tuple[Array, Array]:
        return render_owners(self.scene)

    @cached_property
    def small(self) -> Array:
        assert self.scene.photo is not None
        return resize(self.scene.photo, *self.seen[0].shape)

    def once(self, key: object, make: Callable[[], Array]) -> Array:
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


Choice = Callable[[Case], Array]  # -> probability of figure [H, W]


@dataclass(frozen=True)
class Grouped:
    """`grouped`, put together anew: the defaults are the package's."""

    frames: Sequence[float] = FRAMES
    by: tuple[str, ...] = ("Gaussians", "regions")
    balanced: bool = True
    guided: bool = True

    def __call__(self, case: Case) -> Array:
        picture = case.scene.picture()
        regions = case.once("divided", lambda: color_regions(case.small))
        makers: dict[str, Choice] = {"Gaussians": self.by_gaussians, "regions": partial(self.by_regions, regions)}
        first = np.mean([case.once((name, self.frames), partial(makers[name], case)) for name in self.by], 0)
        if self.balanced:
            graph = build_graph(int(regions.max()) + 1, regions, rgb2lab(case.small))
            groups = graph.groups(np.arange(graph.n))
            first = balance_colors(groups, graph.means(first))[regions]
        if not self.guided:
            return enlarge(first, *picture.shape[:2])
        return enlarge_along(first, case.small, picture)

    def by_gaussians(self, case: Case) -> Array:
        owner, color = case.seen
        scores = frame_scores(build_graph(case.scene.k, owner, color), self.frames)
        return calibrate(composite(at_size(case.scene, *owner.shape), scores))

    def by_regions(self, regions: Array, case: Case) -> Array:
        graph = build_graph(int(regions.max()) + 1, regions, rgb2lab(case.small))
        drawn = frame_scores(graph, self.frames)[regions]
        span = max(1e-6, float(np.ptp(drawn)))
        return calibrate(((drawn - drawn.min()) / span).astype(np.float32))


def at_size(scene: Scene, height: int, width: int) -> Scene:
    return replace(scene, height=height, width=width, photo=None)


def gaussians_balanced(case: Case) -> Array:
    """`grouped` as it was before: one frame, and the colours of either side learned on the Gaussians."""
    owner, color = case.seen
    graph = build_graph(case.scene.k, owner, color)
    first = graph.means(calibrate(composite(at_size(case.scene, *owner.shape), group_scores(graph))))
    return calibrate(composite(case.scene, graph.spread(balance_colors(graph.groups(np.arange(graph.n)), first))))


def package(case: Case) -> Array:
    return foreground_probability(case.scene)


def without_photograph(case: Case) -> Array:
    return foreground_probability(replace(case.scene, photo=None))


def choices() -> Iterator[tuple[str, Choice]]:
    yield "before: Gaussians, and their colours", gaussians_balanced
    yield "the package", package
    yield "without the photograph: its render instead", without_photograph
    yield "Gaussians alone, then the regions' colours", Grouped(by=("Gaussians",))
    yield "regions alone, nothing of the model", Grouped(by=("regions",))
    yield "colours of either side not learned", Grouped(balanced=False)
    yield "enlarged bilinearly", Grouped(guided=False)
    yield "one frame", Grouped(frames=(1.0,))


MIRRORED = ("before: Gaussians, and their colours", "the package")


def rows(checkpoint: str, data: Saliency, every: int) -> Iterator[Row]:
    model = checkpoints.load(checkpoint)
    scores: dict[str, RegionScores] = {}
    for pair in data.pairs("odd")[::every]:
        truth, views = read_mask(pair.mask), look(model, read_image(pair.photo), Looks((1,), flip=True))
        plain, mirrored = (Case(view.scene) for view in views)
        for name, choose in choices():
            soft = choose(plain)
            found = {name: soft}
            if name in MIRRORED:
                found[f"{name}, mirrored"] = (soft + choose(mirrored)[:, ::-1]) / 2
            for label, probability in found.items():
                levels = np.rint(probability.clip(0, 1) * 255) / 255
                scores.setdefault(label, RegionScores()).update(pair.name, levels, truth)
        click.echo(pair.name, err=True)
    base: Array | None = None
    for label, score in scores.items():
        result = score.compute()
        overlaps = np.array([each.iou for each in result.metrics.values()])
        base = overlaps if base is None else base
        gain = overlaps - base
        yield {
            "choice": label, "max_f": result.max_f_beta, "iou": result.iou, "gain": float(gain.mean()),
            "gain_sd": float(gain.std() / np.sqrt(len(gain))), "half_1": float(gain[::2].mean()),
            "half_2": float(gain[1::2].mean()) if len(gain) > 1 else None,
        }  # fmt: skip


@script(takes="4 minutes", needs="ECSSD")
@click.option("--data", required=True, metavar="NAME|DIR", help="ecssd, or a folder with images/ and masks/.")
@root_option
@every_option
@checkpoint_option
@results_option("--results")
def main(data: str, root: str | None, every: int, checkpoint: str, results: Path) -> None:
    """Write `grouping_choices.csv` into the folder of results, and print it."""
    found = list(rows(checkpoint, Saliency(data, root), every))
    write_table(results / "grouping_choices.csv", found, COLUMNS)
    click.echo(format_rows(found, COLUMNS, "table"), nl=False)


if __name__ == "__main__":
    main()
