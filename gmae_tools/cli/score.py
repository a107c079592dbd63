"""`gmae-tools score`: score the predictions of any method against ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.benchmarks.names import THRESHOLDS
from gmae_tools.cli._options import Decorator, OutputOptions, format_option, gathered, jobs_option, out_option
from gmae_tools.cli._progress import progress as late_progress
from gmae_tools.cli._scores import MASK_KEYS, mask_threshold, min_max_option, progress, render, render_regions

if TYPE_CHECKING:
    from gmae_tools.metrics.boundaries import BoundaryProtocol
    from gmae_tools.metrics.regions import RegionProtocol, Threshold

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def _output_options(help_: str) -> Decorator:
    """--out and --format of a command that writes files only if --out is given."""
    return gathered("output", OutputOptions, out_option(None, help_), format_option)


def _boundary_protocol(thresholds: int, max_distance: float, no_thin: bool) -> BoundaryProtocol:
    from gmae_tools.metrics.boundaries import BoundaryProtocol

    return BoundaryProtocol(thresholds, max_distance, not no_thin)


def _region_protocol(threshold: Threshold, min_max: bool, thresholds: int) -> RegionProtocol:
    from gmae_tools.metrics.regions import RegionProtocol

    return RegionProtocol(min_max, threshold, thresholds)


@click.group()
def command() -> None:
    """Score the predictions of any method."""


@command.command()
@click.argument("pred_dir", type=_FOLDER)
@click.argument("gt_dir", type=_FOLDER)
@gathered(
    "protocol",
    _boundary_protocol,
    click.option("--thresholds", type=click.IntRange(1), default=THRESHOLDS, help="Number of thresholds."),
    click.option(
        "--max-distance",
        type=float,
        default=0.0075,
        help="Largest distance of matched pixels, as a share of the diagonal. Other values deviate from the benchmark.",
    ),
    click.option("--no-thin", is_flag=True, help="Match maps without thinning. This deviates from the benchmark."),
)
@click.option(
    "--subset", is_flag=True, help="Score only images that are in both folders. This deviates from the benchmark."
)
@click.option("--no-human", is_flag=True, help="With --out, do not score the agreement of the annotators.")
@jobs_option
@_output_options("Folder of the curve, tables and counts.")
def edges(
    pred_dir: Path,
    gt_dir: Path,
    protocol: BoundaryProtocol,
    subset: bool,
    no_human: bool,
    jobs: int | None,
    output: OutputOptions,
) -> None:
    """Score soft boundary maps by the BSDS benchmark: ODS, OIS, AP and R50.

    PRED_DIR contains a soft map for each image (8- or 16-bit PNG, .npy, or .mat with `ucm2` or a single array), and
    GT_DIR the ground truth (.mat, as in groundTruth/test of BSDS500). Files are matched by name. Maps are scored
    without changes, so apply non-maximum suppression before if it is wanted. With --out an interrupted run continues
    where it stopped.
    """
    from dataclasses import replace

    from gmae_tools.benchmarks.edges import COUNTS, HUMAN, write_scores
    from gmae_tools.benchmarks.map_files import count_files, count_human, pair_files, read_levels, score
    from gmae_tools.metrics.map_levels import check_levels

    pairs = pair_files(pred_dir, gt_dir, subset=subset)
    check_levels(dict(late_progress(read_levels(pairs), len(pairs), "image", "checking")), thin=True)
    out = output.folder(COUNTS, HUMAN) if output.out else None
    counts = count_files(pairs, protocol, jobs=jobs, cache=out and out / COUNTS)
    result = score(progress(counts, len(pairs), "scoring"), protocol)
    if subset:
        result.protocol["deviations"].append(f"only the {len(pairs)} images both folders have")
    if out:
        agreement = None
        if not no_human:
            annotators = count_human(pairs, protocol, jobs=jobs, cache=out / HUMAN)
            agreement = score(progress(annotators, len(pairs), "annotators"), replace(protocol, thresholds=1))
        write_scores(out, pred_dir.resolve().name, result, agreement)
    click.echo(render(result.to_dict(), output.form))


@command.command()
@click.argument("pred_dir", type=_FOLDER)
@click.argument("gt_dir", type=_FOLDER)
@gathered(
    "protocol",
    _region_protocol,
    click.option(
        "--threshold",
        type=mask_threshold,
        metavar="otsu|FLOAT",
        default=0.5,
        help="Threshold of the mask for IoU and accuracy; otsu computes it for each map.",
    ),
    min_max_option,
    click.option(
        "--thresholds",
        type=click.IntRange(1, 256),
        default=255,
        help="Number n of thresholds 0/255, 1/255, ..., (n - 1)/255 for F-beta and E-measure; 256 in PySODMetrics.",
    ),
)
@jobs_option
@_output_options("Folder of all scores, the curves, and a table of the images.")
def masks(pred_dir: Path, gt_dir: Path, protocol: RegionProtocol, jobs: int | None, output: OutputOptions) -> None:
    """Score maps of the foreground against masks: F-beta, MAE, S-measure, E-measure, IoU and accuracy.

    PRED_DIR contains a map for each image (a grey picture, white for the foreground, or an .npy array in [0, 1]), and
    GT_DIR the masks. Files are matched by name. Masks are cut at one half. A map is resized to the size of its mask.
    """
    from gmae_tools.benchmarks.regions import pair_maps, score_pairs, summarize, write_scores

    pairs = pair_maps(pred_dir, gt_dir)
    out = output.folder() if output.out else None
    result = summarize(list(progress(score_pairs(pairs, protocol, jobs), len(pairs), "scoring")), protocol)
    scores = result.to_dict()
    if out:
        write_scores(out, result, scores)
    click.echo(render_regions({key: scores[key] for key in MASK_KEYS}, output.form))
