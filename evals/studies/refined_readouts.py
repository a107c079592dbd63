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
from pathlib import Path

import click
import numpy as np

from evals.bootstrap import ods_difference, resampled_regions
from evals.common import benchmark_options, run_options, script, whole_numbers, write_table
from gmae_tools.benchmarks import edges, regions
from gmae_tools.benchmarks.edge_methods import EdgeMethod
from gmae_tools.benchmarks.figure_methods import RegionMethod
from gmae_tools.benchmarks.pipeline import ModelSource, RunOptions
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.datasets.saliency import Saliency
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.zeroshot.names import EDGE_READOUTS, FOREGROUND_METHODS
from gmae_tools.zeroshot.views import Looks

LEVELS = 33  # thresholds of the benchmark
READOUTS = [name for name in EDGE_READOUTS if name not in ("closed-regions", "regions-and-photo")]
EDGE_COLUMNS = {"readout": None, "steps": None, "ods": 3, "ois": 3, "ap": 3, "difference": 3, "deviation": 3}
FIGURE_COLUMNS = {"method": None, "steps": None, "max_f": 3, "iou": 3, "difference": 3, "deviation": 3}


def edge_rows(data: BSDS500, source: ModelSource, steps: Sequence[int], out: Path, options: RunOptions) -> list[Row]:
    """Rows of `EDGE_COLUMNS`."""
    methods = {
        f"{name}-{count}": EdgeMethod.named(name, source, Looks(refine=count)) for name in READOUTS for count in steps
    }
    results = edges.run(data, "val", methods, out, thresholds=LEVELS, human=False, options=options).results
    rows: list[Row] = []
    for name in READOUTS:
        for count in steps:
            result = results[f"{name}-{count}"]
            difference, deviation = ods_difference(result, results[f"{name}-{steps[0]}"])
            scores = {"ods": result.ods, "ois": result.ois, "ap": result.ap}
            rows.append({"readout": name, "steps": count, **scores, "difference": difference, "deviation": deviation})
    return rows


def figure_rows(data: Saliency, source: ModelSource, steps: Sequence[int], out: Path, options: RunOptions) -> list[Row]:
    """Rows of `FIGURE_COLUMNS`."""
    methods = {
        f"{name}-{count}": RegionMethod(name, source, Looks((1,), refine=count))
        for name in FOREGROUND_METHODS
        for count in steps
    }
    results = regions.run(data, "odd", methods, out, options=options).results
    rows: list[Row] = []
    for name in FOREGROUND_METHODS:
        first = resampled_regions(results[f"{name}-{steps[0]}"])[1]
        for count in steps:
            result = results[f"{name}-{count}"]
            change: np.ndarray = resampled_regions(result)[1] - first
            scores = {"max_f": result.max_f_beta, "iou": result.iou}
            difference, deviation = float(change.mean()), float(change.std())
            rows.append({"method": name, "steps": count, **scores, "difference": difference, "deviation": deviation})
    return rows


@script(takes="about an hour", needs="BSDS500, and ECSSD for figure and ground")
@benchmark_options("refined-readouts")
@click.option("--ecssd", metavar="NAME|DIR", help="ecssd, or a folder with images/ and masks/; edges alone without.")
@click.option(
    "--steps", callback=whole_numbers, default="0,10,50", show_default=True, help="The first is compared with."
)
def main(
    root: str | None, ecssd: str | None, steps: tuple[int, ...], every: int, checkpoint: str, out: Path, results: Path,
    overwrite: bool, jobs: int | None,
) -> None:  # fmt: skip
    """Write the tables into the folder of results, and print them."""
    folder, source, options = out / f"every-{every}", ModelSource(checkpoint), run_options(jobs, every, overwrite)
    tables = [("edges", EDGE_COLUMNS, edge_rows(BSDS500(root), source, steps, folder, options))]
    if ecssd:
        tables.append(("figure", FIGURE_COLUMNS, figure_rows(Saliency(ecssd, root), source, steps, folder, options)))
    for name, columns, rows in tables:
        write_table(results / f"refined_{name}.csv", rows, columns)
        click.echo(format_rows(rows, columns, "table"))


if __name__ == "__main__":
    main()
