"""`gmae-tools invariance`: how little features change when a part of the picture is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from gmae_tools.cli._options import (
    OutputOptions,
    checkpoints_option,
    device_option,
    gathered,
    output_options,
    overwrite_option,
)
from gmae_tools.system.files import write_json, write_text

if TYPE_CHECKING:
    from gmae_tools.encoder.invariance import InvarianceCurve

TABLE, CURVES = "invariance.csv", "curves"
FIGURES = ("invariance-mean.png", "invariance-shared.png", "invariance-class.png")


def ratios_of(text: str) -> tuple[float, ...]:
    """`0.25,0.75` as a tuple of different numbers between 0 and 1; type of an option."""
    with suppress(ValueError):
        ratios = tuple(dict.fromkeys(map(float, text.split(","))))
        if all(0 < ratio < 1 for ratio in ratios):
            return ratios
    raise click.BadParameter(f"{text!r} is not a list of numbers between 0 and 1, such as 0.25,0.75")


@dataclass(frozen=True)
class InvariancePlan:
    """How many photographs are compared, in batches of which size, with which shares of their patches hidden."""

    ratios: tuple[float, ...]
    photographs: int
    batch_size: int
    seed: int


@click.command()
@click.argument("data", nargs=-1, required=True)
@checkpoints_option
@gathered(
    "plan",
    InvariancePlan,
    click.option(
        "--ratios", type=ratios_of, default="0.25,0.5,0.75,0.9,0.95", metavar="R,R,...",
        help="Shares of the patches that are hidden.",
    ),
    click.option("--photographs", type=click.IntRange(4), default=1024, help="How many, at most."),
    click.option("--batch-size", type=click.IntRange(8), default=256, help="Of the estimate of CKA."),
    click.option("--seed", default=0, help="Of the hidden patches, and of the random weights."),
)  # fmt: skip
@overwrite_option
@output_options("invariance")
@device_option
def command(
    data: tuple[str, ...],
    checkpoints: tuple[str, ...],
    plan: InvariancePlan,
    overwrite: bool,
    output: OutputOptions,
    device: str,
) -> None:
    """Compare features of whole and of occluded pictures, block by block.

    DATA are folder trees, photographs or tar shards. Hidden are scattered patches, or one block; or a random half, to
    be compared with the other. Unbiased minibatch CKA is given for three kinds of features: the mean of the patches
    that each version has, that of the patches that both have, and the class token. Every architecture is also measured
    with random weights.

    DIR/invariance.csv has all figures with standard errors, DIR/invariance-*.png shows them, stdout has the table. The
    curves of a model are kept, so an interrupted run goes on with the next model, and a further one costs no more than
    itself.
    """
    photos, data_digest = choose_photographs(data, plan.photographs)  # before torch is loaded, in case there are none

    from gmae_tools.encoder.features import weights_digest
    from gmae_tools.encoder.invariance import TOKENS, measure, models_of, occlusions, read_curves, shuffled_batches
    from gmae_tools.prediction import resolve_device
    from gmae_tools.report.invariance import COLUMNS, curve_rows, plot_invariance, wide_table
    from gmae_tools.report.invariance import TOKENS as TOKEN_NAMES
    from gmae_tools.report.tables import format_rows
    from gmae_tools.system.settings import claim

    where = resolve_device(device)
    batches = shuffled_batches(len(photos), plan.batch_size, plan.seed)
    folder = output.folder(CURVES)
    settings = {"data": data_digest, **asdict(plan), "photographs": len(photos)}
    claim(folder, settings, parts=(TABLE, CURVES, *FIGURES), overwrite=overwrite)
    (folder / CURVES).mkdir(exist_ok=True)
    curves: list[InvarianceCurve] = []
    for name, model in models_of(checkpoints, plan.seed):
        path = folder / CURVES / f"{weights_digest(model.encoder)[:16]}.json"
        if not path.exists():
            bar = tqdm(batches, desc=name, unit="batch")
            measured = measure(model.to(where), name, photos, bar, occlusions(plan.ratios), plan.seed)
            write_json(path, [curve.to_dict() for curve in measured], indent=None)
        curves += read_curves(path, name)
    rows = curve_rows(curves)
    write_text(folder / TABLE, format_rows(rows, COLUMNS, "csv"))
    for tokens, file in zip(TOKENS, FIGURES, strict=True):
        shown = [curve for curve in curves if curve.tokens == tokens]
        plot_invariance(folder / file, shown, f"Whole against occluded pictures: {TOKEN_NAMES[tokens]}")
    if output.form == "table":
        click.echo(wide_table(curves), nl=False)
    else:
        output.print_rows(rows, COLUMNS)


def choose_photographs(data: Sequence[str], count: int) -> tuple[list[Any], str]:
    """At most so many of the photographs, by the digests of their names, and what their fingerprint is."""
    from gmae_tools.datasets.labelled import name_share
    from gmae_tools.datasets.photos import find_sources, list_photos, sources_digest

    sources = find_sources(data)
    photos = sorted(list_photos(sources), key=lambda photo: (name_share("limit", photo.name), photo.name))
    return photos[:count], sources_digest(sources, 0)
