"""`gmae-tools score`: score predictions of any method against ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._options import output_folder
from gmae_tools.cli._progress import progress as late_progress
from gmae_tools.cli._scores import (
    MASK_KEYS,
    MaskThreshold,
    min_max_option,
    progress,
    render,
    render_regions,
    write,
    write_regions,
)

if TYPE_CHECKING:
    from gmae_tools.metrics.regions import Threshold


@click.group()
def command() -> None:
    """Score the predictions of any method."""


@command.command()
@click.argument("pred_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("gt_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--thresholds", type=click.IntRange(1), default=99, show_default=True, help="Number of thresholds.")
@click.option("--jobs", type=click.IntRange(1), help="Images at a time.  [default: one a core]")
@click.option("--format", "format_", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the curve, tables and counts.",
)
@click.option(
    "--max-distance",
    type=float,
    default=0.0075,
    show_default=True,
    help="Distance matched pixels may have, as a fraction of the diagonal. A deviation from the benchmark.",
)
@click.option("--no-thin", is_flag=True, help="Match the binary maps unthinned. A deviation from the benchmark.")
@click.option("--subset", is_flag=True, help="Score the images both folders have. A deviation from the benchmark.")
@click.option("--no-human", is_flag=True, help="With --out, do without the agreement of the annotators.")
def edges(
    pred_dir: Path,
    gt_dir: Path,
    thresholds: int,
    jobs: int | None,
    format_: str,
    out: Path | None,
    max_distance: float,
    no_thin: bool,
    subset: bool,
    no_human: bool,
) -> None:
    """Score soft boundary maps with the BSDS benchmark: ODS, OIS, AP and R50.

    PRED_DIR holds one soft map an image (8- or 16-bit PNG, .npy, or .mat with `ucm2` or a single array),
    GT_DIR the ground truth (.mat, as in BSDS500's groundTruth/test); files are matched by name. Maps are
    scored as they are: apply non-maximum suppression before if you want it. With --out an interrupted run
    goes on where it stopped.
    """
    from gmae_tools.benchmarks.map_files import count_files, count_human, pair_files, read_levels, score
    from gmae_tools.metrics.boundaries import Protocol
    from gmae_tools.metrics.map_levels import check_levels

    protocol = Protocol(thresholds, max_distance, not no_thin)
    pairs = pair_files(pred_dir, gt_dir, subset=subset)
    check_levels(dict(late_progress(read_levels(pairs), len(pairs), "image", "checking")), thin=True)
    if out:
        out = output_folder(out, "counts", "human")
    counts = count_files(pairs, protocol, jobs=jobs, cache=out and out / "counts")
    result = score(progress(counts, len(pairs), "scoring"), protocol)
    if subset:
        result.protocol["deviations"].append(f"only the {len(pairs)} images both folders have")
    if out:
        agreement = None
        if not no_human:
            annotators = count_human(pairs, protocol, jobs=jobs, cache=out / "human")
            once = Protocol(1, max_distance, not no_thin)
            agreement = score(progress(annotators, len(pairs), "annotators"), once)
        write(out, pred_dir.resolve().name, result, agreement)
    click.echo(render(result.to_dict(), format_))


@command.command()
@click.argument("pred_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("gt_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--threshold", type=MaskThreshold(), metavar="otsu|FLOAT", default=0.5, show_default=True,
    help="Makes a map a mask, for IoU and accuracy.",
)  # fmt: skip
@min_max_option
@click.option(
    "--thresholds", type=click.IntRange(1, 256), default=255, show_default=True,
    help="How many of the thresholds 0/255, 1/255, ... F and E are taken at; PySODMetrics takes 256.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), help="Processes.  [default: one a core]")
@click.option("--format", "format_", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path),
    help="Folder for all scores, the curves, and a table of the images.",
)  # fmt: skip
def masks(
    pred_dir: Path, gt_dir: Path, threshold: Threshold, min_max: bool, thresholds: int, jobs: int | None, format_: str,
    out: Path | None,
) -> None:  # fmt: skip
    """Score figure maps against masks: F-beta, MAE, S-measure, E-measure, IoU and accuracy.

    PRED_DIR holds one map an image (a grey picture, white for the figure, or an .npy array in [0, 1]), GT_DIR the
    masks; files are matched by name. Masks are cut at one half; a map of another size is resized to its mask's.
    """
    from gmae_tools.benchmarks.regions import pair_maps, score_pairs, summarize
    from gmae_tools.metrics.regions import RegionProtocol

    protocol = RegionProtocol(min_max, threshold, thresholds)
    pairs = pair_maps(pred_dir, gt_dir)
    if out:
        out = output_folder(out)
    result = summarize(list(progress(score_pairs(pairs, protocol, jobs), len(pairs), "scoring")), protocol)
    scores = result.to_dict()
    if out:
        write_regions(out, result, scores)
    click.echo(render_regions({key: scores[key] for key in MASK_KEYS}, format_))
