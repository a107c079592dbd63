"""Figure and ground on ECSSD: the readouts of the Gaussians and classical baselines in one table.

Protocol (`gmae_tools.metrics.regions`): maps of 8 bits in the photographs' own size, scored as given. F-beta (beta^2 =
0.3) at 255 thresholds, averaged over the images at each, then the maximum (max_f) or the mean (mean_f). E-measure: mean
over the thresholds. IoU of the figure and accuracy at each method's own threshold, averaged over images. CorLoc: the
box of the largest region of the mask has an IoU >= 0.5 with the box of any region of the true mask. AP50 and AR100 of
all boxes, without classes, by faster-coco-eval if it is installed. `looks`: 1 as a whole, flip also mirrored, 2 as 2 x
2 tiles. All choices were made on photographs with odd numbers; those with even numbers are only reported.

`iou_sd`, `max_f_sd`: standard deviations when the images are drawn anew with replacement, 1,000 times. The differences
below the table are paired: both methods on the same draws.

Speed: masks of 200 photographs at 224 x 224 px, one at a time, in one thread; `ratio` is the time from photograph to
mask over the time of the bare model for the same photograph, measured in turn, summed over all photographs.

    python -m evals.benchmarks.figure_ground --data ecssd-dev          # goes on where it stopped
    python -m evals.benchmarks.figure_ground --data ecssd-dev --split odd --results runs/odd
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import click
import numpy as np
import torch

from evals.bootstrap import resampled_regions
from evals.common import as_markdown, progress
from gmae_tools import checkpoints
from gmae_tools.benchmarks import regions as region_benchmark
from gmae_tools.benchmarks.figure_methods import CLASSICAL, THRESHOLDS, GaussianFigure, Segmenter
from gmae_tools.benchmarks.predictions import claim, predict_maps, weights_of
from gmae_tools.benchmarks.regions import Settings, fit, maps_of, read_map
from gmae_tools.datasets.saliency import PhotoAndMask, Saliency, Split, read_mask
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import read_image, resize, to_tensor, write_image
from gmae_tools.metrics.regions import RegionProtocol, RegionResult, binarize
from gmae_tools.report.segment import Comparison, comparison_sheet
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path
from gmae_tools.system.processes import cores
from gmae_tools.zeroshot.figure_ground import METHODS
from gmae_tools.zeroshot.views import Looks

ROOT = Path(__file__).resolve().parents[2]

LOOKS = (Looks((1,)), Looks((1,), flip=True), Looks((1, 2), flip=True))
COLUMNS = {
    "method": None, "looks": None, "max_f": 3, "max_f_sd": 3, "mean_f": 3, "mae": 3, "s_measure": 3, "e_measure": 3,
    "iou": 3, "iou_sd": 3, "mean_iou": 3, "accuracy": 3, "corloc": 2, "ap50": 3, "ar100": 3,
}  # fmt: skip
SPEED_COLUMNS = {"method": None, "photographs": None, "forward_ms": 1, "masks_ms": 1, "ratio": 2}
SHOWN = 12
TIMED, TIMED_SIDE = 200, 224


@dataclass(frozen=True)
class Entry:
    """A row of the table to be: a method, and how it looks at the photograph."""

    method: str
    looks: Looks | None = None

    @property
    def look(self) -> str | None:
        return ",".join([*map(str, self.looks.scales), *["flip"] * self.looks.flip]) if self.looks else None

    @property
    def folder(self) -> str:
        return self.method + (f"-{self.look.replace(',', '-')}" if self.look else "")


BEST = Entry(METHODS[0], LOOKS[0])  # the default of the command line
ENTRIES = [*(Entry(method, looks) for method in METHODS for looks in LOOKS), *(Entry(name) for name in CLASSICAL)]


# --- maps --------------------------------------------------------------------------------------------


class Worker:
    """Predicts all maps of a photograph; the model is loaded once a process."""

    segmenters: ClassVar[dict[Path, Segmenter]] = {}

    @classmethod
    def start(cls, checkpoint: str, out: Path) -> None:
        torch.set_num_threads(1)
        model = checkpoints.load(checkpoint)
        figures = {looks: GaussianFigure(model, looks) for looks in LOOKS}
        cls.segmenters = {
            out / entry.folder: figures[entry.looks].segmenter(entry.method) if entry.looks else CLASSICAL[entry.method]
            for entry in ENTRIES
        }

    @classmethod
    def predict(cls, photo: Path) -> None:
        list(predict_maps([photo], cls.segmenters))


def predict_all(photos: Sequence[Path], checkpoint: str, out: Path, jobs: int) -> Iterator[None]:
    """Predict all maps of all photographs, `jobs` photographs at a time."""
    if jobs == 1:
        Worker.start(checkpoint, out)
        yield from map(Worker.predict, photos)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), Worker.start, (checkpoint, out)) as pool:
        yield from pool.map(Worker.predict, photos)


def claim_all(data: Saliency, split: str, checkpoint: str, out: Path, overwrite: bool) -> None:
    """Note the settings of every entry beside its results."""
    weights = weights_of(checkpoint)
    for entry in ENTRIES:
        settings = Settings(
            dataset=data.name,
            split=split,
            method=entry.method,
            threshold=THRESHOLDS[entry.method],
            min_max=False,
            checkpoint=Path(checkpoint).name if entry.looks else None,
            weights=weights if entry.looks else None,
            scales=entry.looks.scales if entry.looks else None,
            flip=entry.looks.flip if entry.looks else None,
        )
        claim(out / entry.folder, asdict(settings), overwrite=overwrite)


# --- scores ------------------------------------------------------------------------------------------


def score_entry(entry: Entry, pairs: Sequence[PhotoAndMask], out: Path, jobs: int) -> tuple[RegionResult, Row]:
    """The scores of an entry's maps, and its row of `COLUMNS`."""
    protocol = RegionProtocol(threshold=THRESHOLDS[entry.method])
    scored = list(region_benchmark.score_pairs(maps_of(out / entry.folder, pairs), protocol, jobs))
    result = region_benchmark.summarize(scored, protocol)
    try:
        boxes = region_benchmark.detection(scored)
    except GmaeToolsError as error:  # the extra is not installed; everything else can be had without
        say(f"without AP50 and AR100: {error}")
        boxes = {}
    max_f, iou = resampled_regions(result)
    row: dict[str, str | int | float | None] = {
        **{name: value for name, value in result.to_dict().items() if name in COLUMNS},
        "method": entry.method,
        "looks": entry.look,
        "max_f": result.max_f_beta,
        "mean_f": result.mean_f_beta,
        "max_f_sd": float(max_f.std()),
        "iou_sd": float(iou.std()),
        "ap50": boxes.get("ap50"),
        "ar100": boxes.get("ar100"),
    }
    return result, row


@cache
def say(text: str) -> None:
    """Print on stderr what has not been said before."""
    click.echo(text, err=True)


def compare(result: RegionResult, rival: RegionResult) -> str:
    """By how much a result is above another one, with the standard deviations of the differences."""
    ours, theirs = resampled_regions(result), resampled_regions(rival)
    max_f, iou = (float(np.std(a - b)) for a, b in zip(ours, theirs, strict=True))
    return (
        f"max F-beta {result.max_f_beta - rival.max_f_beta:+.3f} (standard deviation {max_f:.3f}), "
        f"IoU {result.iou - rival.iou:+.3f} ({iou:.3f})"
    )


def verdict(results: dict[Entry, RegionResult]) -> str:
    """How the default readout of the Gaussians stands against everything else that sees the whole photograph once."""
    rivals = [entry for entry in results if entry != BEST and entry.looks in (None, BEST.looks)]
    return "\n".join(
        f"- {BEST.method} against {rival.method}: {compare(results[BEST], results[rival])}" for rival in rivals
    )


def draw_extremes(
    result: RegionResult, entry: Entry, pairs: Sequence[PhotoAndMask], checkpoint: str, out: Path, results: Path
) -> None:
    """The photographs of the highest and of the lowest IoU on a sheet each."""
    maker = f"K = {checkpoints.load(checkpoint).config.k} Gaussians by {Path(checkpoint).name}"
    best_first = sorted(maps_of(out / entry.folder, pairs), key=lambda pair: -result.metrics[pair.name].iou)
    photos = {pair.name: pair.photo for pair in pairs}
    for name, end, chosen in (
        ("successes", "highest", best_first[:SHOWN]),
        ("failures", "lowest", best_first[::-1][:SHOWN]),
    ):
        items = []
        for pair in chosen:
            photo, found = read_image(photos[pair.name]), binarize(read_map(pair.photo), THRESHOLDS[entry.method])
            truth = fit(read_mask(pair.mask).astype(float), *found.shape) >= 0.5
            items.append(Comparison(pair.name, photo, truth, found, f"IoU {result.metrics[pair.name].iou:.2f}"))
        subtitle = f"{entry.method} from {maker}, {len(pairs)} photographs: those of the {end} IoU"
        sheet = comparison_sheet(f"Figure and ground: {name}", subtitle, items)
        write_image(results / f"figure-ground-{name}.png", sheet)


# --- speed -------------------------------------------------------------------------------------------


def time_masks(photos: Sequence[Path], checkpoint: str) -> list[Row]:
    """Rows of `SPEED_COLUMNS`: bare model and masks in turn for each photograph."""
    torch.set_num_threads(1)
    model = checkpoints.load(checkpoint)
    pictures = [resize(read_image(path), TIMED_SIDE, TIMED_SIDE) for path in photos]
    rows: list[Row] = []
    for method in METHODS:
        segment = GaussianFigure(model).segmenter(method)
        binarize(segment(pictures[-1]), THRESHOLDS[method])  # nobody pays for compiling
        seconds = np.zeros(2)
        for picture in pictures:
            image = to_tensor(picture)
            start = time.perf_counter()
            with torch.inference_mode():
                model(image)
            middle = time.perf_counter()
            binarize(segment(picture), THRESHOLDS[method])
            seconds += middle - start, time.perf_counter() - middle
        forward, masks = (seconds / len(pictures) * 1e3).tolist()
        rows.append(
            {
                "method": method,
                "photographs": len(pictures),
                "forward_ms": forward,
                "masks_ms": masks,
                "ratio": masks / forward,
            }
        )
    return rows


# --- command -----------------------------------------------------------------------------------------


@click.command()
@click.option("--data", required=True, metavar="NAME|DIR", help="ecssd, or a folder with images/ and masks/.")
@click.option("--root", envvar="GMAE_TOOLS_DATA", show_envvar=True, help="Folder of the data sets.")
@click.option("--split", type=click.Choice(["odd", "even"]), default="even", show_default=True)
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Only every Nth photograph.")
@click.option("--checkpoint", default="gmae-tiny", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "runs" / "figure-ground", help="Maps.")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "evals" / "results", help="Tables, sheets.")
@click.option("--overwrite", is_flag=True, help="Remove maps made with other settings.")
@click.option("--jobs", type=click.IntRange(1), help="Photographs at a time.  [default: one a core]")
@click.option("--speed/--no-speed", default=True, help="Whether masks are timed.")
def main(
    data: str, root: str | None, split: Split, every: int, checkpoint: str, out: Path, results: Path,
    overwrite: bool, jobs: int | None, speed: bool,
) -> None:  # fmt: skip
    """Write the table, two sheets and the times into the folder of results, and print them."""
    source = Saliency(data, root)
    pairs, folder, jobs = source.pairs(split)[::every], out / split, jobs or cores()
    claim_all(source, split, checkpoint, folder, overwrite)
    photos = [pair.photo for pair in pairs]
    for _ in progress(predict_all(photos, checkpoint, folder, jobs), len(photos), "maps"):
        pass
    scores = {entry: score_entry(entry, pairs, folder, jobs) for entry in progress(ENTRIES, len(ENTRIES), "scoring")}
    rows = [row for _, row in scores.values()]
    found = {entry: result for entry, (result, _) in scores.items()}
    title = f"Figure and ground: {len(pairs)} photographs of {Path(source.name).name}, {split} numbers"
    title += f", checkpoint {Path(checkpoint).name}"
    page = f"# {title}\n\n{as_markdown(rows, COLUMNS)}\n{verdict(found)}\n"
    texts = {"figure_ground.csv": format_rows(rows, COLUMNS, "csv")}
    results.mkdir(parents=True, exist_ok=True)
    draw_extremes(found[BEST], BEST, pairs, checkpoint, folder, results)
    page += "\n![successes](figure-ground-successes.png)\n\n![failures](figure-ground-failures.png)\n"
    if speed:
        times = time_masks([pair.photo for pair in source.pairs()][:TIMED:every], checkpoint)
        texts["figure_ground_speed.csv"] = format_rows(times, SPEED_COLUMNS, "csv")
        page += f"\n## Speed\n\n{as_markdown(times, SPEED_COLUMNS)}"
        click.echo(format_rows(times, SPEED_COLUMNS, "table"))
    for name, text in {**texts, "figure_ground.md": page}.items():
        with atomic_path(results / name) as temporary:
            temporary.write_text(text)
    click.echo(f"{title}\n\n{format_rows(rows, COLUMNS, 'table')}\n{verdict(found)}")


if __name__ == "__main__":
    main()
