"""Options of commands that score maps of edges and of foregrounds, and tables of the scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gmae_tools.cli._progress import bar_size
from gmae_tools.system.files import write_json, write_text
from gmae_tools.system.processes import is_main

if TYPE_CHECKING:
    from gmae_tools.cli._options import OutputOptions
    from gmae_tools.encoder.probe import Answers
    from gmae_tools.metrics.regions import Threshold

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
    "iou": "IoU of the figure",
    "accuracy": "share of correct pixels",
}
BOX_SCORES = {
    "corloc": "share of the images whose one box finds an object",
    "ap": "average precision without classes, mean over IoU 0.5 to 0.95",
    "ap50": "average precision at IoU 0.5",
    "ar100": "recall with at most 100 boxes per image, mean over IoU 0.5 to 0.95",
}
MASK_KEYS = (*MASK_SCORES, "images", "protocol")


def mask_threshold(value: str | float) -> Threshold:
    """`otsu`, or a number from 0 to 1; type of an option."""
    if value == "otsu":
        return "otsu"
    with suppress(ValueError):
        if 0 <= (number := float(value)) <= 1:
            return number
    raise click.BadParameter(f"{value!r} is neither otsu nor a number from 0 to 1")


min_max_option = click.option(
    "--min-max", is_flag=True, help="Stretch every map to span 0 to 1 before it is scored, as PySODMetrics does."
)


def progress(items: Iterable[T], length: int, label: str) -> Iterator[T]:
    """Yield the items, with a bar on stderr in the first process of a launch."""
    from tqdm import tqdm

    yield from tqdm(items, total=length, desc=label, unit="image", mininterval=0.5, **bar_size(), disable=not is_main())


def report_accuracies(answers: list[Answers], protocol: dict[str, Any], stem: Path, output: OutputOptions) -> None:
    """Write the accuracies of classifiers to `stem` with .csv and, with their protocol, .json, and print them."""
    from gmae_tools.report.probe import COLUMNS, probe_rows
    from gmae_tools.report.tables import format_rows

    rows = probe_rows(answers)
    write_text(stem.with_suffix(".csv"), format_rows(rows, COLUMNS, "csv"))
    write_json(stem.with_suffix(".json"), {"protocol": protocol, "results": rows})
    output.print_rows(rows, COLUMNS)
    if output.form == "table":
        click.echo(f"always the largest class: {protocol['largest_class']:.3f} of {protocol['validation']}")


def render(scores: dict[str, Any], format_: str) -> str:
    """Scores of edges as a table, as a CSV line below its header, or as a JSON object."""
    if format_ != "table":
        return serialize(scores, format_)
    lines = []
    for title, key, meaning in TABLE:
        parts = [f"{part} {scores[f'{key}_{part}']:.4f}" for part in PARTS if f"{key}_{part}" in scores]
        lines.append(f"{title:<4} {scores[key]:.4f}  {meaning}" + (f" ({', '.join(parts)})" if parts else ""))
    lines.append(f"{scores['images']} images, {scores['thresholds']} thresholds")
    lines += [f"{key.replace('_', ' ')}: {_text(value)}" for key, value in scores["protocol"].items()]
    return "\n".join(lines)


def render_beside(
    scores: Sequence[dict[str, Any]], format_: str, render_one: Callable[[dict[str, Any], str], str]
) -> str:
    """The scores of several methods as text; in JSON, those of all but the first are its list `beside`."""
    if format_ == "json":
        return serialize(scores[0] | ({"beside": scores[1:]} if len(scores) > 1 else {}), "json")
    texts = [render_one(each, format_) for each in scores]
    if format_ == "csv":
        return "\n".join([texts[0], *(text.splitlines()[-1] for text in texts[1:])])
    return "\n\n".join(texts)


def render_regions(scores: dict[str, Any], format_: str) -> str:
    """Scores of foregrounds, or of boxes, as a table, as a CSV line below its header, or as a JSON object."""
    if format_ != "table":
        return serialize(scores, format_)
    masks = "iou" in scores
    meanings = MASK_SCORES if masks else BOX_SCORES
    lines = [f"{key:<12} {scores[key]:.4f}  {meaning}" for key, meaning in meanings.items() if key in scores]
    others = {key: value for key, value in scores.items() if key not in (*meanings, "protocol")}
    for key, value in {**others, **scores["protocol"]}.items():
        text = f"{value:.4f}" if masks and isinstance(value, float) else _text(value)
        lines.append(f"{key.replace('_', ' ')}: {text}")
    return "\n".join(lines)


def serialize(scores: dict[str, Any], format_: str) -> str:
    """Scores as a JSON object, or as a CSV line below its header."""
    if format_ == "json":
        return json.dumps(scores, indent=2)
    import pandas as pd

    return pd.DataFrame([{**scores, "protocol": json.dumps(scores["protocol"])}]).to_csv(index=False).rstrip("\n")


def _text(value: object) -> str:
    return ("; ".join(value) or "none") if isinstance(value, list) else str(value)
