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
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch

from evals.bootstrap import resampled_regions
from evals.common import as_markdown, benchmark_options, run_options, script, write_files
from evals.figures import Comparison, comparison_sheet
from gmae_tools.benchmarks import regions
from gmae_tools.benchmarks.figure_methods import RegionMethod
from gmae_tools.benchmarks.names import SEGMENTERS
from gmae_tools.benchmarks.pipeline import ModelSource, maps
from gmae_tools.benchmarks.regions import MaskRules, RegionResults, fit, maps_of, read_map
from gmae_tools.datasets.saliency import PhotoAndMask, Saliency, Split, read_mask
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import read_image, resize, to_tensor, write_image
from gmae_tools.metrics.regions import RegionResult, binarize
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.zeroshot.names import FOREGROUND_METHODS
from gmae_tools.zeroshot.views import Looks

LOOKS = (Looks((1,)), Looks((1,), flip=True), Looks((1, 2), flip=True))
COLUMNS = {
    "method": None, "looks": None, "max_f": 3, "max_f_sd": 3, "mean_f": 3, "mae": 3, "s_measure": 3, "e_measure": 3,
    "iou": 3, "iou_sd": 3, "mean_iou": 3, "accuracy": 3, "corloc": 2, "ap50": 3, "ar100": 3,
}  # fmt: skip
SPEED_COLUMNS = {"method": None, "photographs": None, "forward_ms": 1, "masks_ms": 1, "ratio": 2}
SHOWN = 12
TIMED, TIMED_SIDE = 200, 224
BEST = FOREGROUND_METHODS[0]  # at one look: the default of the command line


def all_methods(checkpoint: str) -> dict[str, RegionMethod]:
    """The rows of the table to be, by the names of the folders of their maps."""
    source = ModelSource(checkpoint)
    methods = [RegionMethod(name, source, looks) for name in FOREGROUND_METHODS for looks in LOOKS]
    methods += [RegionMethod(name) for name in SEGMENTERS]
    return {folder_of(method): method for method in methods}


def look_of(method: RegionMethod) -> str | None:
    """How a method looks at a photograph, such as `1,2,flip`; None without a model."""
    looks = method.looks
    return ",".join([*map(str, looks.scales), *["flip"] * looks.flip]) if looks else None


def folder_of(method: RegionMethod) -> str:
    """Name of the folder of a method's maps, such as `grouped-1-flip`."""
    return "-".join([method.name, *(look_of(method) or "").split(",")]).rstrip("-")


# --- scores ------------------------------------------------------------------------------------------


def tabulate(found: RegionResults) -> list[Row]:
    """Rows of `COLUMNS`, in the order of the methods."""
    rows: list[Row] = []
    for name, result in found.results.items():
        scores = found.scores[name]
        max_f, iou = resampled_regions(result)
        rows.append(
            {
                **{column: value for column, value in scores.items() if column in COLUMNS},
                "looks": look_of(found.methods[name]),
                "max_f": result.max_f_beta,
                "mean_f": result.mean_f_beta,
                "max_f_sd": float(max_f.std()),
                "iou_sd": float(iou.std()),
                "ap50": scores.get("ap50"),
                "ar100": scores.get("ar100"),
            }
        )
    return rows


def scores_boxes() -> bool:
    """Whether AP50 and AR100 can be had here; if not, the reason is printed."""
    try:
        regions.detection([])
    except GmaeToolsError as error:  # the extra is not installed; everything else can be had without
        click.echo(f"without AP50 and AR100: {error}", err=True)
        return False
    return True


def compare(result: RegionResult, rival: RegionResult) -> str:
    """By how much a result is above another one, with the standard deviations of the differences."""
    ours, theirs = resampled_regions(result), resampled_regions(rival)
    max_f, iou = (float(np.std(a - b)) for a, b in zip(ours, theirs, strict=True))
    return (
        f"max F-beta {result.max_f_beta - rival.max_f_beta:+.3f} (standard deviation {max_f:.3f}), "
        f"IoU {result.iou - rival.iou:+.3f} ({iou:.3f})"
    )


def verdict(found: RegionResults) -> str:
    """How the default readout of the Gaussians stands against everything else that sees the whole photograph once."""
    best = f"{BEST}-1"
    rivals = [name for name, each in found.methods.items() if name != best and each.looks in (None, LOOKS[0])]
    return "\n".join(
        f"- {BEST} against {found.methods[name].name}: {compare(found.results[best], found.results[name])}"
        for name in rivals
    )


def write_extremes(found: RegionResults, pairs: Sequence[PhotoAndMask], out: Path, results: Path) -> None:
    """The photographs of the highest and of the lowest IoU on a sheet each."""
    method, result = found.methods[f"{BEST}-1"], found.results[f"{BEST}-1"]
    assert method.model is not None
    maker = f"K = {method.model.k} Gaussians by {method.model.name}"
    best_first = sorted(maps_of(out / f"{BEST}-1", pairs), key=lambda pair: -result.metrics[pair.name].iou)
    photos = {pair.name: pair.photo for pair in pairs}
    for name, end, chosen in (
        ("successes", "highest", best_first[:SHOWN]),
        ("failures", "lowest", best_first[::-1][:SHOWN]),
    ):
        items = []
        for pair in chosen:
            photo, mask = read_image(photos[pair.name]), binarize(read_map(pair.photo), method.threshold)
            truth = fit(read_mask(pair.mask).astype(float), *mask.shape) >= 0.5
            items.append(Comparison(pair.name, photo, truth, mask, f"IoU {result.metrics[pair.name].iou:.2f}"))
        subtitle = f"{BEST} from {maker}, {len(pairs)} photographs: those of the {end} IoU"
        sheet = comparison_sheet(f"Figure and ground: {name}", subtitle, items)
        write_image(results / f"figure-ground-{name}.png", sheet)


# --- speed -------------------------------------------------------------------------------------------


def time_masks(photos: Sequence[Path], checkpoint: str) -> list[Row]:
    """Rows of `SPEED_COLUMNS`: bare model and masks in turn for each photograph."""
    torch.set_num_threads(1)
    source = ModelSource(checkpoint)
    model = source.model
    pictures = [resize(read_image(path), TIMED_SIDE, TIMED_SIDE) for path in photos]
    rows: list[Row] = []
    for method in FOREGROUND_METHODS:
        segmenter = RegionMethod(method, source, LOOKS[0])

        def mask_of(picture: np.ndarray, segmenter: RegionMethod = segmenter) -> np.ndarray:
            return binarize(next(maps([segmenter], picture)), segmenter.threshold)

        mask_of(pictures[-1])  # nobody pays for compiling
        seconds = np.zeros(2)
        for picture in pictures:
            image = to_tensor(picture)
            start = time.perf_counter()
            with torch.inference_mode():
                model(image)
            middle = time.perf_counter()
            mask_of(picture)
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


@script(takes="2 minutes", needs="ECSSD, OpenCV for GrabCut, and faster-coco-eval for AP50 and AR100")
@benchmark_options("figure-ground")
@click.option("--data", required=True, metavar="NAME|DIR", help="ecssd, or a folder with images/ and masks/.")
@click.option("--split", type=click.Choice(["odd", "even"]), default="even", show_default=True)
@click.option("--speed/--no-speed", default=True, help="Whether masks are timed.")
def main(
    data: str, root: str | None, split: Split, every: int, checkpoint: str, out: Path, results: Path,
    overwrite: bool, jobs: int | None, speed: bool,
) -> None:  # fmt: skip
    """Write the table, two sheets and the times into the folder of results, and print them."""
    source, methods, folder = Saliency(data, root), all_methods(checkpoint), out / split
    rules = MaskRules(detection=scores_boxes())
    found = regions.run(source, split, methods, folder, rules=rules, options=run_options(jobs, every, overwrite))
    pairs = source.pairs(split)[::every]
    times = time_masks([pair.photo for pair in source.pairs()][:TIMED:every], checkpoint) if speed else []
    results.mkdir(parents=True, exist_ok=True)
    write_extremes(found, pairs, folder, results)
    title = f"Figure and ground: {len(pairs)} photographs of {Path(source.name).name}, {split} numbers"
    write_tables(f"{title}, checkpoint {Path(checkpoint).name}", found, times, results)


def write_tables(title: str, found: RegionResults, times: Sequence[Row], results: Path) -> None:
    """Write and print the scores and, if they were taken, the times."""
    rows = tabulate(found)
    page = f"# {title}\n\n{as_markdown(rows, COLUMNS)}\n{verdict(found)}\n"
    page += "\n![successes](figure-ground-successes.png)\n\n![failures](figure-ground-failures.png)\n"
    texts = {"figure_ground.csv": format_rows(rows, COLUMNS, "csv")}
    if times:
        texts["figure_ground_speed.csv"] = format_rows(times, SPEED_COLUMNS, "csv")
        page += f"\n## Speed\n\n{as_markdown(times, SPEED_COLUMNS)}"
        click.echo(format_rows(times, SPEED_COLUMNS, "table"))
    write_files(results, {**texts, "figure_ground.md": page})
    click.echo(f"{title}\n\n{format_rows(rows, COLUMNS, 'table')}\n{verdict(found)}")


if __name__ == "__main__":
    main()
