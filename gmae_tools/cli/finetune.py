"""`gmae-tools finetune`: what encoders are worth when all of them is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import click
from tqdm import tqdm

from gmae_tools.cli._inputs import LabelledInputs, labelled_options
from gmae_tools.cli._options import OutputOptions, checkpoints_option, device_option, output_options, overwrite_option
from gmae_tools.cli._progress import busy, loading
from gmae_tools.cli._scores import report_accuracies

METHOD = "fine-tuned"


@click.command()
@labelled_options
@checkpoints_option
@click.option("--epochs", default=100, help="Passes over the photographs to learn from.")
@click.option("--warmup", default=5, help="Epochs in which the rate rises.")
@click.option("--batch-size", default=64, help="Pictures of a step, an even number.")
@click.option("--lr", "base_lr", default=1e-3, help="Peak rate of the last layer for 256 pictures a step.")
@click.option("--layer-decay", default=0.75, help="Factor of the rate from each layer to the one before.")
@click.option("--weight-decay", default=0.05, help="Decoupled, of matrices only.")
@click.option("--drop-path", default=0.1, help="Share of the pictures that skip the last block.")
@click.option("--mixup", default=0.8, help="Parameter of its beta distribution; 0 turns it off.")
@click.option("--cutmix", default=1.0, help="Parameter of its beta distribution; 0 turns it off.")
@click.option("--smoothing", default=0.1, help="Label smoothing.")
@click.option("--augment", default="rand-m9-mmax9-mstd0.5-inc1", help="RandAugment in timm's notation, or none.")
@click.option("--erase", default=0.25, help="Share of the pictures in which a rectangle is erased.")
@click.option(
    "--crop-scale",
    nargs=2,
    type=float,
    default=(0.08, 1.0),
    help="Smallest and largest share of a photograph in a crop.",
)
@click.option("--precision", type=click.Choice(["auto", "bf16", "float32"]), default="auto")
@click.option("--seed", default=0, help="Seed of the head and of all random numbers.")
@click.option("--workers", type=click.IntRange(0), default=1, help="Number of processes that make pictures.")
@click.option("--save-every", default=60.0, help="Seconds between states to go on from.")
@overwrite_option
@output_options("finetune", "Folder of runs and results.")
@device_option
def command(
    labelled: LabelledInputs,
    checkpoints: tuple[str, ...],
    workers: int,
    save_every: float,
    overwrite: bool,
    output: OutputOptions,
    device: str,
    **options: Any,
) -> None:
    """Fine-tune encoders to classify photographs.

    DATA is a folder with train/ and val/, each with a folder a class; or folder trees and tar shards, of which a fifth
    becomes the validation part. A model can be a GMAE, an MAE, an R-MAE or a C-MAE, random:CHECKPOINT, or one of timm:
    --checkpoint timm:NAME. All of the encoder is trained, by MAE's recipe: AdamW with layer decay, RandAugment, mixup
    or cutmix, drop path; the head reads the mean of the patches.

    DIR/finetune.csv and stdout receive top-1 accuracy after the last epoch with 95 % intervals, and the differences to
    the first model with theirs; DIR/finetune.json also the protocol. Each model has a folder in DIR with its log and
    its weights. Killed, the same command goes on where it was saved last.
    """
    from gmae_tools.datasets.labelled import describe

    photos = labelled.find()  # before torch is loaded, in case there is nothing

    with loading("torch"):
        from gmae_tools.encoder.features import distinct_names
        from gmae_tools.encoder.finetune import FinetuneConfig, Machine, finetune, open_classifier
        from gmae_tools.encoder.probe import Answers
        from gmae_tools.prediction import resolve_device

    config = FinetuneConfig(**options)
    where = resolve_device(device)
    folder = output.folder("*")
    click.echo(describe(photos), err=True)
    names = list(dict.fromkeys(checkpoints))
    with busy("loading the models"):  # a wrong name is refused now
        models = [open_classifier(name, len(photos.classes), config) for name in names]
    truth = photos.labels[photos.is_validation]
    answers = []
    for name, model in zip(distinct_names(names), models, strict=True):
        run = folder / name.replace("/", "-").replace(":", "-")
        machine = Machine(where, workers, save_every=save_every, progress=partial(_bar, name))
        found = finetune(model, photos, config, run, machine, overwrite=overwrite)
        answers.append(Answers(name, "all", METHOD, None, config.lr, truth, found.correct))
    report_accuracies(answers, labelled.describe(photos) | {"settings": asdict(config)}, folder / "finetune", output)


def _bar(label: str, steps: Sequence[int], done: int) -> Any:
    """A bar on stderr over the steps that are left."""
    return tqdm(steps, initial=done, total=done + len(steps), desc=f"fine-tuning {label}", unit="step")
