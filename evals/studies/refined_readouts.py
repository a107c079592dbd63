"""Do edges, and figure and ground, gain from refinement? Every readout from predictions refined by several steps.

Protocol: edges on BSDS500 val, as `bsds500.py`: exact matching, 33 thresholds, 3 x 3 and 4 x 4 tiles, each refined by
itself. Figure and ground on the ECSSD photographs with odd numbers, as `figure_ground.py`: whole photographs. Both are
the splits to develop on. `difference` is that to 0 steps, of ODS or of IoU, and `deviation` its standard deviation when
the images are drawn anew, 1,000 times.

    python -m evals.studies.refined_readouts --root DATA --ecssd ecssd-dev        # goes on where it stopped
    python -m evals.studies.refined_readouts --root DATA --ecssd ecssd-dev --every 10 --results runs/quick
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import click
import numpy as np
import torch

from evals.bootstrap import ods_difference, resampled_regions
from evals.common import progress, whole_numbers
from gmae_tools import checkpoints
from gmae_tools.benchmarks import edges as edge_benchmark
from gmae_tools.benchmarks import regions as region_benchmark
from gmae_tools.benchmarks.edge_methods import GaussianEdges
from gmae_tools.benchmarks.figure_methods import THRESHOLDS, GaussianFigure
from gmae_tools.benchmarks.predictions import Predictor, claim, predict_maps, weights_of
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.datasets.saliency import PhotoAndMask, Saliency
from gmae_tools.metrics.boundaries import BoundaryResult
from gmae_tools.metrics.regions import RegionProtocol
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path
from gmae_tools.system.processes import cores
from gmae_tools.zeroshot.edges import READOUTS
from gmae_tools.zeroshot.figure_ground import METHODS
from gmae_tools.zeroshot.views import Looks

ROOT = Path(__file__).resolve().parents[2]

LAYERS, LEVELS = (16,), 33  # depth groups of the readout `layers`; thresholds of the benchmark
EDGE_COLUMNS = {"readout": None, "steps": None, "ods": 3, "ois": 3, "ap": 3, "difference": 3, "deviation": 3}
FIGURE_COLUMNS = {"method": None, "steps": None, "max_f": 3, "iou": 3, "difference": 3, "deviation": 3}


@dataclass(frozen=True)
class Entry:
    """A row of the table to be: a readout of edges or a method of figure and ground, and the steps before it."""

    name: str
    steps: int

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.steps}"


class Worker:
    """Predicts all maps of a photograph, for one number of steps; the model is loaded once a process."""

    predictors: ClassVar[dict[Path, Predictor]] = {}

    @classmethod
    def start(cls, checkpoint: str, out: Path, names: Sequence[str], steps: int) -> None:
        torch.set_num_threads(1)
        model = checkpoints.load(checkpoint)
        edges, figure = GaussianEdges(model, Looks(refine=steps)), GaussianFigure(model, Looks((1,), refine=steps))
        cls.predictors = {
            out / f"{name}-{steps}": edges.detector(name, LAYERS) if name in READOUTS else figure.segmenter(name)
            for name in names
        }

    @classmethod
    def predict(cls, photo: Path) -> None:
        list(predict_maps([photo], cls.predictors))


def predict_all(
    photos: Sequence[Path], checkpoint: str, out: Path, names: Sequence[str], steps: Sequence[int], jobs: int
) -> None:
    """The maps of all readouts after each number of steps."""
    for count in steps:
        arguments = (checkpoint, out, names, count)
        label = f"{names[0]}... {count} steps"
        if jobs == 1:
            Worker.start(*arguments)
            list(progress(map(Worker.predict, photos), len(photos), label))
            continue
        with ProcessPoolExecutor(jobs, get_context("spawn"), Worker.start, arguments) as pool:
            list(progress(pool.map(Worker.predict, photos), len(photos), label))


def edge_rows(
    data: BSDS500, every: int, checkpoint: str, out: Path, steps: Sequence[int], jobs: int, overwrite: bool
) -> list[Row]:
    """Rows of `EDGE_COLUMNS`."""
    entries = [Entry(name, count) for name in READOUTS for count in steps]
    weights = weights_of(checkpoint)
    for entry in entries:
        layers = LAYERS if entry.name == "layers" else None
        settings = edge_benchmark.Settings(
            "bsds500", "val", entry.name, layers, Path(checkpoint).name, weights, Looks().scales, False, LEVELS,
            entry.steps or None,
        )  # fmt: skip
        edge_benchmark.claim(out / entry.folder, settings, overwrite=overwrite)
    predict_all(data.images("val")[::every], checkpoint, out, list(READOUTS), steps, jobs)
    results: dict[Entry, BoundaryResult] = {}
    rows: list[Row] = []
    for entry in entries:
        result = results[entry] = edge_benchmark.score_maps(
            out / entry.folder, data.ground_truth_folder("val"), LEVELS, subset=every > 1, jobs=jobs, progress=progress
        )
        difference, deviation = ods_difference(result, results[Entry(entry.name, steps[0])])
        scores = {"ods": result.ods, "ois": result.ois, "ap": result.ap}
        rows.append(
            {"readout": entry.name, "steps": entry.steps, **scores, "difference": difference, "deviation": deviation}
        )
    return rows


def figure_rows(
    data: Saliency, every: int, checkpoint: str, out: Path, steps: Sequence[int], jobs: int, overwrite: bool
) -> list[Row]:
    """Rows of `FIGURE_COLUMNS`."""
    pairs: list[PhotoAndMask] = data.pairs("odd")[::every]
    entries = [Entry(name, count) for name in METHODS for count in steps]
    weights = weights_of(checkpoint)
    for entry in entries:
        settings = region_benchmark.Settings(
            data.name, "odd", entry.name, THRESHOLDS[entry.name], False, Path(checkpoint).name, weights, (1,), False,
            entry.steps or None,
        )  # fmt: skip
        claim(out / entry.folder, asdict(settings), overwrite=overwrite)
    predict_all([pair.photo for pair in pairs], checkpoint, out, list(METHODS), steps, jobs)
    rows: list[Row] = []
    first: dict[str, np.ndarray] = {}
    for entry in entries:
        protocol = RegionProtocol(threshold=THRESHOLDS[entry.name])
        scored = region_benchmark.score_pairs(region_benchmark.maps_of(out / entry.folder, pairs), protocol, jobs)
        result = region_benchmark.summarize(list(scored), protocol)
        iou = resampled_regions(result)[1]
        change = iou - first.setdefault(entry.name, iou)
        scores = {"max_f": result.max_f_beta, "iou": result.iou}
        difference, deviation = float(change.mean()), float(change.std())
        rows.append(
            {"method": entry.name, "steps": entry.steps, **scores, "difference": difference, "deviation": deviation}
        )
    return rows


@click.command()
@click.option("--root", envvar="GMAE_TOOLS_DATA", show_envvar=True, help="Folder of the data sets.")
@click.option("--ecssd", metavar="NAME|DIR", help="ecssd, or a folder with images/ and masks/; edges alone without.")
@click.option(
    "--steps", callback=whole_numbers, default="0,10,50", show_default=True, help="The first is compared with."
)
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Only every Nth image.")
@click.option("--checkpoint", default="gmae-tiny", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "runs" / "refined-readouts", help="For maps.")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "evals" / "results", help="For the tables.")
@click.option("--overwrite", is_flag=True, help="Remove maps made with other settings.")
@click.option("--jobs", type=click.IntRange(1), help="Photographs at a time.  [default: one a core]")
def main(
    root: str | None, ecssd: str | None, steps: tuple[int, ...], every: int, checkpoint: str, out: Path, results: Path,
    overwrite: bool, jobs: int | None,
) -> None:  # fmt: skip
    """Write the tables into the folder of results, and print them."""
    folder, jobs = out / f"every-{every}", jobs or cores()
    tables = [("edges", EDGE_COLUMNS, edge_rows(BSDS500(root), every, checkpoint, folder, steps, jobs, overwrite))]
    if ecssd:
        rows = figure_rows(Saliency(ecssd, root), every, checkpoint, folder, steps, jobs, overwrite)
        tables.append(("figure", FIGURE_COLUMNS, rows))
    results.mkdir(parents=True, exist_ok=True)
    for name, columns, rows in tables:
        with atomic_path(results / f"refined_{name}.csv") as temporary:
            temporary.write_text(format_rows(rows, columns, "csv"))
        click.echo(format_rows(rows, columns, "table"))


if __name__ == "__main__":
    main()
