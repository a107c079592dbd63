"""`gmae-tools score`: score predictions of any method against ground truth."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gmae_tools.cli._options import output_folder
from gmae_tools.files import atomic_path
from gmae_tools.processes import is_main

if TYPE_CHECKING:
    from gmae_tools.metrics.boundaries import BoundaryResult
    from gmae_tools.metrics.regions import RegionResult, Threshold

T = TypeVar("T")

TABLE = (
    ("ODS", "ods", "one threshold for all images"),
    ("OIS", "ois", "the best threshold of each image"),
    ("AP", "ap", "area under the curve"),
    ("R50", "r50", "recall at half precision"),
)
PARTS = ("recall", "precision", "threshold")

MASK_SCORES = {
    "max_f_beta": "best threshold for all images",
    "mean_f_beta": "mean over thresholds",
    "mae": "mean absolute error; lower is better",
    "s_measure": "likeness of structure",
    "e_measure": "enhanced alignment, mean over thresholds",
    "iou": "of the figure",
    "accuracy": "share of right pixels",
}
BOX_SCORES = {
    "corloc": "share of the images whose one box finds an object",
    "ap": "of all boxes, without classes; mean over IoU 0.5 to 0.95",
    "ap50": "at IoU 0.5",
    "ar100": "recall of at most 100 boxes an image, mean over IoU 0.5 to 0.95",
}
MASK_KEYS = (*MASK_SCORES, "images", "protocol")


class MaskThreshold(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """`otsu`, or a number from 0 to 1."""

    name = "otsu|number"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> Threshold:
        if value == "otsu":
            return "otsu"
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 <= number <= 1:
            self.fail(f"{value!r} is neither otsu nor a number from 0 to 1", param, ctx)
        return number


min_max_option = click.option(
    "--min-max", is_flag=True, help="Stretch every map to span 0 to 1 before it is scored, as PySODMetrics does."
)


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
    from gmae_tools.metrics.boundaries import Protocol
    from gmae_tools.metrics.boundary_files import count_files, count_human, pair_files, score

    protocol = Protocol(thresholds, max_distance, not no_thin)
    pairs = pair_files(pred_dir, gt_dir, subset=subset)
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
    from gmae_tools.metrics.regions import RegionProtocol
    from gmae_tools.region_benchmark import pair_maps, score_pairs, summarize

    protocol = RegionProtocol(min_max, threshold, thresholds)
    pairs = pair_maps(pred_dir, gt_dir)
    if out:
        out = output_folder(out)
    result = summarize(list(progress(score_pairs(pairs, protocol, jobs), len(pairs), "scoring")), protocol)
    scores = result.to_dict()
    if out:
        write_regions(out, result, scores)
    click.echo(render_regions({key: scores[key] for key in MASK_KEYS}, format_))


def progress(items: Iterable[T], length: int, label: str) -> Iterator[T]:
    """Pass the items on, with a bar on stderr, one for all processes."""
    from tqdm import tqdm

    yield from tqdm(items, total=length, desc=label, unit="image", mininterval=0.5, disable=not is_main())


def render(scores: dict[str, Any], format_: str) -> str:
    """The scores as text: a table for the eye, or a CSV line under its header, or a JSON object."""
    if format_ != "table":
        return serialize(scores, format_)
    lines = []
    for title, key, meaning in TABLE:
        parts = [f"{part} {scores[f'{key}_{part}']:.4f}" for part in PARTS if f"{key}_{part}" in scores]
        lines.append(f"{title:<4} {scores[key]:.4f}  {meaning}" + (f" ({', '.join(parts)})" if parts else ""))
    lines.append(f"{scores['images']} images, {scores['thresholds']} thresholds")
    lines += [f"{key.replace('_', ' ')}: {_text(value)}" for key, value in scores["protocol"].items()]
    return "\n".join(lines)


def render_regions(scores: dict[str, Any], format_: str) -> str:
    """The same for the scores of figure maps; what has no line of its own in the table stands below as it is."""
    if format_ != "table":
        return serialize(scores, format_)
    lines = [f"{key:<12} {scores[key]:.4f}  {meaning}" for key, meaning in MASK_SCORES.items()]
    others = {key: value for key, value in scores.items() if key not in (*MASK_SCORES, "protocol")}
    for key, value in {**others, **scores["protocol"]}.items():
        lines.append(f"{key.replace('_', ' ')}: {f'{value:.4f}' if isinstance(value, float) else _text(value)}")
    return "\n".join(lines)


def render_boxes(scores: dict[str, Any], format_: str) -> str:
    """The same for boxes."""
    if format_ != "table":
        return serialize(scores, format_)
    lines = [f"{key:<12} {scores[key]:.4f}  {meaning}" for key, meaning in BOX_SCORES.items() if key in scores]
    others = {key: value for key, value in scores.items() if key not in (*BOX_SCORES, "protocol")}
    lines += [f"{key.replace('_', ' ')}: {_text(value)}" for key, value in {**others, **scores["protocol"]}.items()]
    return "\n".join(lines)


def serialize(scores: dict[str, Any], format_: str) -> str:
    """The scores as a JSON object, or as a CSV line under its header."""
    if format_ == "json":
        return json.dumps(scores, indent=2)
    import pandas as pd

    table: str = pd.DataFrame([{**scores, "protocol": json.dumps(scores["protocol"])}]).to_csv(index=False)
    return table.rstrip("\n")


def write_regions(out: Path, result: RegionResult, scores: dict[str, Any]) -> None:
    """Write the scores of figure maps, the curves over the thresholds and the table of the images into a folder."""
    tables = {
        "images.csv": result.to_pandas().to_csv(index=False),
        "curve.csv": result.curve().to_csv(index=False),
        "scores.json": serialize(scores, "json") + "\n",
    }
    for file, text in tables.items():
        with atomic_path(out / file) as temporary:
            temporary.write_text(text)


def _text(value: object) -> str:
    return ("; ".join(value) or "none") if isinstance(value, list) else str(value)


def write(out: Path, name: str, result: BoundaryResult, human: BoundaryResult | None, caption: str = "") -> None:
    """Write the scores, the table of the images, the curve and, if given, the human agreement into `out`."""
    from gmae_tools.report.pr_curve import Curve, plot_pr_curves

    tables = {"scores.json": render(result.to_dict(), "json") + "\n"}
    tables["images.csv"] = result.to_pandas().to_csv(index=False)
    tables["curve.csv"] = result.curve().to_csv(index=False)
    point = None
    if human:
        agreement = {"f": human.ods, "precision": human.ods_precision, "recall": human.ods_recall}
        tables["human.json"] = json.dumps({**agreement, "images": human.images}, indent=2) + "\n"
        point = human.ods_recall, human.ods_precision
    for file, text in tables.items():
        with atomic_path(out / file) as temporary:
            temporary.write_text(text)
    total = result.total
    curve = Curve(name, total.recall, total.precision, (result.ods_recall, result.ods_precision))
    plot_pr_curves(out / "curve.png", [curve], point, caption)
