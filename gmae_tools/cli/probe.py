"""`gmae-tools probe`: what frozen features are worth, by nearest neighbours and by a linear classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmae_tools.cli._inputs import LabelledInputs, labelled_options
from gmae_tools.cli._options import OutputOptions, checkpoints_option, device_option, numbers, output_options
from gmae_tools.cli._progress import busy, chunk_progress, progress
from gmae_tools.cli._scores import report_accuracies

if TYPE_CHECKING:
    from gmae_tools.encoder.probe import Answers

FEATURES = "features"


@click.command()
@labelled_options
@checkpoints_option
@click.option(
    "--neighbours", "ks", type=numbers, metavar="K,K,...",
    help="Of the k-NN classifiers.  [default: those of 10,20,100,200 that there are photographs for]",
)  # fmt: skip
@click.option("--linear/--no-linear", default=True, help="Whether to train a linear classifier.")
@click.option("--cache", metavar="DIR", help="For features, which later calls use again.  [default: DIR/features]")
@output_options("probe")
@device_option
def command(
    labelled: LabelledInputs,
    checkpoints: tuple[str, ...],
    ks: tuple[int, ...] | None,
    linear: bool,
    cache: str | None,
    output: OutputOptions,
    device: str,
) -> None:
    """Classify photographs by frozen features.

    DATA is a folder with train/ and val/, each with a folder a class; or folder trees and tar shards, of which a fifth
    becomes the validation part. A model can also be one of timm: --checkpoint timm:NAME. Features are those of the
    class token and the mean of the patches' tokens (timm: what it gives a classifier).

    k-NN: cosine similarity, temperature 0.07. Linear: batch normalisation and one layer, SGD. DIR/probe.csv and stdout
    receive top-1 accuracy with 95 % intervals, and the differences to the first model with theirs; DIR/probe.json also
    the protocol. Interrupted, it goes on with the features that are there.
    """
    from gmae_tools.datasets.labelled import describe

    photos = labelled.find()  # before torch is loaded, in case there is nothing

    from gmae_tools.encoder.features import open_extractor
    from gmae_tools.encoder.probe import NEIGHBOURS, TEMPERATURE, LinearConfig, cached_features, check_neighbours, probe
    from gmae_tools.prediction import resolve_device

    where = resolve_device(device)
    folder = output.folder(f"{FEATURES}/*")
    click.echo(describe(photos), err=True)
    validation = int(photos.is_validation.sum())
    fitting = check_neighbours(ks, len(photos.photos) - validation, validation)  # before any features are computed
    if ks is None and (left_out := [str(k) for k in NEIGHBOURS if k not in fitting]):
        click.echo(f"too few photographs for k = {', '.join(left_out)}: left out", err=True)
    config = LinearConfig() if linear else None
    answers: list[Answers] = []
    preparations: dict[str, str] = {}
    with busy("loading the models"):  # a wrong name is refused now
        extractors = [open_extractor(name, where) for name in dict.fromkeys(checkpoints)]
    for extractor in extractors:
        preparations[extractor.name] = extractor.preparation
        features = cached_features(extractor, photos, Path(cache or folder / FEATURES), chunk_progress(extractor.name))
        asked = probe(extractor, features, photos, ks=fitting, linear=config)
        count = len(extractor.tokens) * (len(fitting) + bool(config))
        answers += progress(asked, count, "classifier", f"classifiers on {extractor.name}")
    protocol = labelled.describe(photos) | {
        "read": len(answers[0].labels) if answers else 0, "preparation": preparations,
        "temperature": TEMPERATURE, "linear": vars(config) if config else None,
        "linear_rates": {f"{each.model}, {each.tokens}": each.rate for each in answers if each.rate},
    }  # fmt: skip
    report_accuracies(answers, protocol, folder / "probe", output)
