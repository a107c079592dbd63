"""Edges on BSDS500: every readout of the Gaussians, the render's own gradient and classical detectors in one table.

Protocol: the official benchmark with exact matching (`gmae_tools.metrics.boundaries`), 33 thresholds, soft maps of 8
bits in the photographs' own size. `layers` is l@N (several N: what persists over them). `looks` is how the photograph
was shown to the model: 1 as a whole, 3 as 3 x 3 overlapping tiles, several: their mean. All defaults were chosen on
val; test is only reported.

`difference` compares a readout of the Gaussians with `render-gradient` at the same looks: ODS minus ODS, and its
standard deviation over 1,000 bootstrap samples of the images. Depth layers beat the render's own gradient where it is
positive.

    python -m evals.benchmarks.bsds500 --root DATA            # both splits; goes on where it stopped
    torchrun --nproc-per-node 8 -m evals.benchmarks.bsds500 --root DATA    # shared by 8 processes
    python -m evals.benchmarks.bsds500 --root DATA --splits val --every 4 --results runs/quick
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from evals.bootstrap import ods_difference
from evals.common import as_markdown, benchmark_options, run_options, script, write_files
from gmae_tools.benchmarks import edges
from gmae_tools.benchmarks.edge_methods import EdgeMethod
from gmae_tools.benchmarks.edges import EdgeResults
from gmae_tools.benchmarks.names import EDGE_DETECTORS
from gmae_tools.benchmarks.pipeline import ModelSource
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.report.pr_curve import plot_pr_curves
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.processes import is_main, join
from gmae_tools.zeroshot.names import EDGE_READOUTS
from gmae_tools.zeroshot.views import Looks

LAYERS = ((32,), (16,), (8,), (4,), (32, 16, 8, 4))
TILES, WHOLE = Looks(), Looks((1,))
COLUMNS = {
    "readout": None, "layers": None, "looks": None, "ods": 3, "ois": 3, "ap": 3, "r50": 3, "recall": 3, "precision": 3,
    "threshold": 2, "difference": 3, "deviation": 3,
}  # fmt: skip
BASELINE = "render-gradient"


def all_methods(checkpoint: str) -> dict[str, EdgeMethod]:
    """All readouts of the joined tiles, some of the whole photograph, then the classical detectors.

    Returns:
        The methods by the names of their folders.
    """
    source = ModelSource(checkpoint)
    others = [name for name in EDGE_READOUTS if name != "layers"]
    methods = [
        *(EdgeMethod.named("layers", source, TILES, n) for n in LAYERS),
        *(EdgeMethod.named(name, source, TILES) for name in others),
        *(EdgeMethod.named("layers", source, WHOLE, n) for n in LAYERS[1:2]),
        *(EdgeMethod.named(name, source, WHOLE) for name in ("layer-changes", "combined", BASELINE)),
        *(EdgeMethod(name) for name in EDGE_DETECTORS),
    ]
    return {folder_of(method): method for method in methods}


def folder_of(method: EdgeMethod) -> str:
    """Name of the folder of a method's maps, such as `layers-16-looks-3-4`."""
    parts = [method.name, *(method.layers or ())]
    if method.looks:
        parts += ["looks", *method.looks.scales]
    return "-".join(map(str, parts))


def tabulate(found: EdgeResults) -> list[Row]:
    """Rows of `COLUMNS`, in the order of the methods, then the annotators."""
    rows: list[Row] = []
    methods, human = found.methods, found.human
    assert human is not None
    baselines = {methods[name].looks: each for name, each in found.results.items() if methods[name].name == BASELINE}
    for name, result in found.results.items():
        method = methods[name]
        difference: tuple[float | None, float | None] = (None, None)
        if method.looks and method.name != BASELINE:
            difference = ods_difference(result, baselines[method.looks])
        rows.append(
            {
                "readout": method.name,
                "layers": ",".join(map(str, method.layers)) if method.layers else None,
                "looks": in_words(method.looks) if method.looks else None,
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
    return ",".join(map(str, looks.scales))


def plot_curves(path: Path, found: EdgeResults, caption: str) -> None:
    """Precision and recall of the readouts of the tiles, of layers only the best, and of the classical detectors."""
    methods, results, human = found.methods, found.results, found.human
    assert human is not None
    of_layers = [name for name in results if methods[name].name == "layers"]
    best = max(of_layers, key=lambda name: results[name].ods)
    curves = [
        edges.curve_of(methods[name].label, result)
        for name, result in results.items()
        if methods[name].looks in (TILES, None) and (name == best or name not in of_layers)
    ]
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


@script(takes="17 minutes", needs="BSDS500, and OpenCV for Canny")
@benchmark_options("bsds500")
@click.option("--splits", default="val,test", show_default=True)
@click.option("--thresholds", type=click.IntRange(1), default=33, show_default=True)
def main(
    root: str | None, splits: str, every: int, thresholds: int, checkpoint: str, out: Path, results: Path,
    overwrite: bool, jobs: int | None,
) -> None:  # fmt: skip
    """Write tables and curves of each split into the folder of results, and print them."""
    join()
    data, methods = BSDS500(root), all_methods(checkpoint)
    options = run_options(jobs, every, overwrite)
    for split in splits.split(","):
        folder = out / (split if every == 1 else f"{split}-every-{every}")
        found = edges.run(data, split, methods, folder, thresholds=thresholds, options=options)
        if is_main():
            write_results(found, thresholds, Path(checkpoint).name, results)


def write_results(found: EdgeResults, thresholds: int, checkpoint: str, results: Path) -> None:
    """Write and print the table of a split, and write its curves."""
    rows, split = tabulate(found), found.split
    about = f"BSDS500 {split}: {next(iter(found.results.values())).images} images, {thresholds} thresholds"
    title = f"{about}, checkpoint {checkpoint}"
    page = f"# {title}\n\n{verdict(rows)}\n\n{as_markdown(rows, COLUMNS)}\n"
    page += f"![precision and recall](bsds500-{split}.png)\n"
    write_files(results, {f"bsds500-{split}.csv": format_rows(rows, COLUMNS, "csv"), f"bsds500-{split}.md": page})
    plot_curves(results / f"bsds500-{split}.png", found, found.caption(*found.results))
    click.echo(f"{title}\n\n{format_rows(rows, COLUMNS, 'table')}\n{verdict(rows)}\n")


if __name__ == "__main__":
    main()
