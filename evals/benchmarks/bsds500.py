"""Edges on BSDS500: every readout of the Gaussians, the render's own gradient and classical detectors in one table.

Protocol: the official benchmark with exact matching (`gmae_tools.metrics.boundaries`), 33 thresholds, soft maps of 8
bits in the photographs' own size. `layers` is l@N (several N: what persists over them). `looks` is how the photograph
was shown to the model: 1 as a whole, 3 as 3 x 3 overlapping tiles, several: their mean; mirrored: every tile a second
time. All defaults were chosen on val; test is only reported.

`difference` compares a readout of the Gaussians with `render-gradient` at the same looks: ODS minus ODS, and its
standard deviation over 1,000 bootstrap samples of the images. Depth layers beat the render's own gradient where it is
positive.

    python -m evals.benchmarks.bsds500 --root DATA            # both splits; goes on where it stopped
    torchrun --nproc-per-node 8 -m evals.benchmarks.bsds500 --root DATA    # shared by 8 processes
    python -m evals.benchmarks.bsds500 --root DATA --splits val --every 4 --results runs/quick
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import click
import torch

from evals.bootstrap import ods_difference
from evals.common import as_markdown, progress
from gmae_tools import checkpoints
from gmae_tools.benchmarks import edges
from gmae_tools.benchmarks.edge_methods import CLASSICAL, GAUSSIAN, Detector, GaussianEdges
from gmae_tools.benchmarks.edges import Settings
from gmae_tools.benchmarks.predictions import predict_maps, weights_of
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.metrics.boundaries import BoundaryResult
from gmae_tools.report.pr_curve import Curve, plot_pr_curves
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path
from gmae_tools.system.processes import cores, is_main, join, share, wait
from gmae_tools.zeroshot.views import Looks

ROOT = Path(__file__).resolve().parents[2]

LAYERS = ((32,), (16,), (8,), (4,), (32, 16, 8, 4))
TILES, MIRRORED, WHOLE = Looks(), Looks(flip=True), Looks((1,))
COLUMNS = {
    "readout": None, "layers": None, "looks": None, "ods": 3, "ois": 3, "ap": 3, "r50": 3, "recall": 3, "precision": 3,
    "threshold": 2, "difference": 3, "deviation": 3,
}  # fmt: skip
BASELINE = "render-gradient"


@dataclass(frozen=True)
class Entry:
    """A row of the table to be: a detector, and what it is called."""

    readout: str
    detect: Detector
    layers: tuple[int, ...] | None = None
    looks: Looks | None = None

    @property
    def folder(self) -> str:
        parts = [self.readout, *(self.layers or ())]
        if self.looks:
            parts += ["looks", *self.looks.scales, *(["mirrored"] if self.looks.flip else [])]
        return "-".join(map(str, parts))


def entries(checkpoint: str) -> list[Entry]:
    """All readouts of the joined tiles, some mirrored too or of the whole photograph, then the classical detectors."""
    model = checkpoints.load(checkpoint)
    tiles, mirrored, whole = (GaussianEdges(model, looks) for looks in (TILES, MIRRORED, WHOLE))
    others = [name for name in GAUSSIAN if name != "layers"]
    return [
        *(Entry("layers", tiles.detector("layers", n), n, TILES) for n in LAYERS),
        *(Entry(name, tiles.detector(name, ()), None, TILES) for name in others),
        *(Entry(name, mirrored.detector(name, ()), None, MIRRORED) for name in ("closed-regions", BASELINE)),
        *(Entry("layers", whole.detector("layers", n), n, WHOLE) for n in LAYERS[1:2]),
        *(Entry(name, whole.detector(name, ()), None, WHOLE) for name in ("combined", BASELINE)),
        *(Entry(name, detect) for name, detect in CLASSICAL.items()),
    ]


def claim(rows: Sequence[Entry], split: str, checkpoint: str, thresholds: int, out: Path, overwrite: bool) -> None:
    """Note the settings of every entry beside its results."""
    weights = weights_of(checkpoint)
    for entry in rows:
        of_model = entry.looks is not None
        settings = Settings(
            dataset="bsds500",
            split=split,
            readout=entry.readout,
            layers=entry.layers,
            checkpoint=Path(checkpoint).name if of_model else None,
            weights=weights if of_model else None,
            scales=entry.looks.scales if entry.looks else None,
            flip=entry.looks.flip if entry.looks else None,
            thresholds=thresholds,
        )
        edges.claim(out / entry.folder, settings, overwrite=overwrite)


class Worker:
    """Predicts all maps of a photograph; the model is loaded once a process."""

    detectors: ClassVar[dict[Path, Detector]] = {}

    @classmethod
    def start(cls, checkpoint: str, out: Path) -> None:
        torch.set_num_threads(1)
        cls.detectors = {out / entry.folder: entry.detect for entry in entries(checkpoint)}

    @classmethod
    def predict(cls, photo: Path) -> None:
        list(predict_maps([photo], cls.detectors))


def predict_all(photos: Sequence[Path], checkpoint: str, out: Path, jobs: int) -> Iterator[None]:
    """Predict all maps of all photographs, `jobs` photographs at a time."""
    if jobs == 1:
        Worker.start(checkpoint, out)
        yield from (None for _ in predict_maps(photos, Worker.detectors))
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), Worker.start, (checkpoint, out)) as pool:
        yield from pool.map(Worker.predict, share(photos))
    wait()


def evaluate(
    data: BSDS500, split: str, every: int, checkpoint: str, thresholds: int, out: Path, overwrite: bool, jobs: int
) -> tuple[dict[Entry, BoundaryResult], BoundaryResult]:
    """The scores of each entry, and of the annotators."""
    rows = entries(checkpoint)
    claim(rows, split, checkpoint, thresholds, out, overwrite)
    photos = data.images(split)[::every]
    for _ in progress(predict_all(photos, checkpoint, out, jobs), len(photos), f"maps of {split}"):
        pass
    truths, subset = data.ground_truth_folder(split), every > 1
    results = {
        entry: edges.score_maps(
            out / entry.folder, truths, thresholds, subset=subset, jobs=jobs, progress=named_progress(entry.folder)
        )
        for entry in rows
    }
    first = out / rows[0].folder
    human = edges.score_annotators(first, truths, out / "human", subset=subset, jobs=jobs, progress=progress)
    return results, human


def named_progress(name: str) -> edges.Progress:
    """A bar on stderr under the name of an entry."""
    return lambda items, length, _label: progress(items, length, name)


def tabulate(results: dict[Entry, BoundaryResult], human: BoundaryResult) -> list[Row]:
    """Rows of `COLUMNS`, in the order of the entries, then the annotators."""
    rows: list[Row] = []
    baselines = {entry.looks: result for entry, result in results.items() if entry.readout == BASELINE}
    for entry, result in results.items():
        difference: tuple[float | None, float | None] = (None, None)
        if entry.looks and entry.readout != BASELINE:
            difference = ods_difference(result, baselines[entry.looks])
        rows.append(
            {
                "readout": entry.readout,
                "layers": ",".join(map(str, entry.layers)) if entry.layers else None,
                "looks": in_words(entry.looks) if entry.looks else None,
                "ods": result.ods,
                "ois": result.ois,
                "ap": result.ap,
                "r50": result.r50,
                "recall": result.ods_recall,
                "precision": result.ods_precision,
                "threshold": result.ods_threshold,
                "difference": difference[0],
                "deviation": difference[1],
            }
        )
    agreement = {"ods": human.ods, "recall": human.ods_recall, "precision": human.ods_precision}
    return [*rows, {**dict.fromkeys(COLUMNS), "readout": "human", **agreement}]


def in_words(looks: Looks) -> str:
    return ",".join(map(str, looks.scales)) + (" mirrored" if looks.flip else "")


def draw_curves(path: Path, results: dict[Entry, BoundaryResult], human: BoundaryResult, caption: str) -> None:
    """Precision and recall of the readouts of the tiles, of layers only the best, and of the classical detectors."""
    best_layers = max((entry for entry in results if entry.readout == "layers"), key=lambda entry: results[entry].ods)
    curves = []
    for entry, result in results.items():
        if entry.looks in (MIRRORED, WHOLE) or (entry.readout == "layers" and entry != best_layers):
            continue
        name = f"l@{','.join(map(str, entry.layers))}" if entry.layers else entry.readout
        best = (result.ods_recall, result.ods_precision)
        curves.append(Curve(name, result.total.recall, result.total.precision, best))
    plot_pr_curves(path, curves, (human.ods_recall, human.ods_precision), caption)


def verdict(rows: Sequence[Row]) -> str:
    """Whether depth layers beat the render's own gradient, in a sentence."""
    layers = [row for row in rows if row["readout"] == "layers" and row["looks"] == in_words(TILES)]
    best = max(layers, key=lambda row: row["ods"])  # type: ignore[arg-type, return-value]
    answer = "beat" if float(best["difference"] or 0) > 0 else "do not beat"
    return (
        f"Depth layers {answer} the render's own gradient: the best, l@{best['layers']}, is at {best['ods']:.3f}, "
        f"a difference of {best['difference']:+.3f} (standard deviation {best['deviation']:.3f})."
    )


@click.command()
@click.option("--root", envvar="GMAE_TOOLS_DATA", show_envvar=True, help="Folder of the data sets.")
@click.option("--splits", default="val,test", show_default=True)
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Only every Nth image.")
@click.option("--thresholds", type=click.IntRange(1), default=33, show_default=True)
@click.option("--checkpoint", default="gmae-tiny", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "runs" / "bsds500", help="Maps and counts.")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "evals" / "results", help="Tables, curves.")
@click.option("--overwrite", is_flag=True, help="Remove maps made with other settings.")
@click.option("--jobs", type=click.IntRange(1), help="Photographs at a time.  [default: one a core]")
def main(
    root: str | None, splits: str, every: int, thresholds: int, checkpoint: str, out: Path, results: Path,
    overwrite: bool, jobs: int | None,
) -> None:  # fmt: skip
    """Write tables and curves of each split into the folder of results, and print them."""
    join()
    data, k = BSDS500(root), checkpoints.load(checkpoint).config.k
    results.mkdir(parents=True, exist_ok=True)
    for split in splits.split(","):
        folder = out / (split if every == 1 else f"{split}-every-{every}")
        scores, human = evaluate(data, split, every, checkpoint, thresholds, folder, overwrite, jobs or cores())
        if not is_main():
            continue
        rows = tabulate(scores, human)
        about = f"BSDS500 {split}: {human.images} images, {thresholds} thresholds"
        title = f"{about}, checkpoint {Path(checkpoint).name}"
        page = f"# {title}\n\n{verdict(rows)}\n\n{as_markdown(rows, COLUMNS)}\n"
        page += f"![precision and recall](bsds500-{split}.png)\n"
        for name, text in ((f"bsds500-{split}.csv", format_rows(rows, COLUMNS, "csv")), (f"bsds500-{split}.md", page)):
            with atomic_path(results / name) as temporary:
                temporary.write_text(text)
        caption = f"{about}; {Path(checkpoint).name}, K = {k}"
        draw_curves(results / f"bsds500-{split}.png", scores, human, caption)
        click.echo(f"{title}\n\n{format_rows(rows, COLUMNS, 'table')}\n{verdict(rows)}\n")


if __name__ == "__main__":
    main()
