r"""What are encoders worth when all weights are trained on? Fine-tuned GMAE, MAE, R-MAE, C-MAE and random weights.

Table 2 in small; one command, which goes on if killed. Protocol: encoders are those of `gmae_vs_mae.py` (same shape,
photographs, order, schedule and optimiser, 75 % hidden; R-MAE with a decoder of its own for the second view, C-MAE with
the light head), trained here unless they were before; `random` has the weights that they start from. Each is fine-tuned
by `gmae-tools finetune`'s recipe on labelled photographs, with the same head, order and augmentation for each seed.
Nothing is chosen by the validation photographs: the weights after the last epoch answer. Other models, of timm or
trained elsewhere, can be named beside them (`--checkpoint`); they saw other photographs.

`top1`: mean over seeds; `low`, `high`: 95 % bootstrap interval over seeds of fine-tuning and validation photographs;
`difference`: to random weights of the same seeds on the same photographs, with its own interval. The seed of
pretraining is the same for all, so the interval does not cover it. Where the photographs are those that pretraining
saw, it saw the validation part, too, without labels.

    python -m evals.benchmarks.finetuning --data 'shards/photos-*.tar' --image-size 128 --limit 4000 \
        --epochs 30 --seeds 0,1
    python -m evals.benchmarks.finetuning --data 'shards/*.tar' --labelled imagenette --labels folder \
        --checkpoint gmae-tiny
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from torch import nn

from evals.common import progress, results_option, script, whole_numbers, write_files
from evals.encoders import (
    FINE_TUNED,
    OBJECTIVES,
    RANDOM,
    Training,
    fine_tuned_rows,
    lr_option,
    plain_option,
    recipe,
    recipe_name,
    training_options,
)
from gmae_tools.checkpoint_names import RANDOM_PREFIX
from gmae_tools.datasets.labelled import LabelledPhotos, Labelling, describe, find_labelled
from gmae_tools.encoder.features import display_name
from gmae_tools.encoder.finetune import FinetuneConfig, Machine, finetune, open_classifier
from gmae_tools.prediction import resolve_device
from gmae_tools.report.tables import format_rows

Opener = Callable[[FinetuneConfig], nn.Module]  # a classifier with a head of the seed


@script(takes="hours", needs="photographs to train on, and timm")
@training_options("--pretrain-batch-size")
@click.option(
    "--labelled", multiple=True, metavar="PATH", help="Photographs to fine-tune on.  [default: those of --data]"
)
@click.option("--labels", "labelling", type=click.Choice(["folder", "prefix"]), default="prefix", show_default=True)
@click.option(
    "--limit", type=click.IntRange(1), default=4000, show_default=True, help="Largest number of labelled photographs."
)
@click.option("--objective", "names", type=click.Choice(list(OBJECTIVES)), multiple=True, default=list(OBJECTIVES))
@click.option(
    "--checkpoint", "checkpoints", multiple=True, metavar="NAME", help="Another model, also timm:NAME; may be repeated."
)
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True, help="Epochs of fine-tuning.")
@click.option(
    "--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Pictures of a fine-tuning step."
)
@lr_option
@plain_option
@click.option("--seeds", callback=whole_numbers, default="0,1", show_default=True, help="Seeds of fine-tuning.")
@click.option(
    "--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes that prepare pictures."
)
@results_option("-o", "--out")
def main(
    training: Training, labelled: tuple[str, ...], labelling: Labelling, limit: int, names: tuple[str, ...],
    checkpoints: tuple[str, ...], seeds: tuple[int, ...], workers: int, out: Path,
    **asked: Any,
) -> None:  # fmt: skip
    """Pretrain, fine-tune, and write the table."""
    photos = find_labelled(labelled or training.data, labelling, limit)
    machine = Machine(resolve_device(training.device), workers)
    models: dict[str, Opener] = {}
    for name in dict.fromkeys(names):
        folder = str(training.train(name))
        models.setdefault(RANDOM, opener(f"{RANDOM_PREFIX}{folder}", len(photos.classes)))
        models[name] = opener(folder, len(photos.classes))
    models |= {display_name(name): opener(name, len(photos.classes)) for name in checkpoints}
    config = recipe(**asked)
    configs = [replace(config, seed=seed) for seed in seeds]
    rows = fine_tuned_rows(answers_of(models, photos, configs, training.run / "finetuned", machine))
    setting = (
        f"Pretrained: {training.about()}. Fine-tuned: {config.epochs} epochs, batches of {config.batch_size}, rate "
        f"{config.lr:g}{', plain crops' * asked['plain']}; {describe(photos)}; "
        f"{len(photos.classes)} labels by {labelling}; always the largest class: {photos.largest_class:.3f}"
    )
    table = format_rows(rows, FINE_TUNED, "table")
    page = f"# Fine-tuned encoders\n\n{(__doc__ or '').strip()}\n\n{setting}\n\n```\n{table}```\n"
    write_files(out, {"finetuning.csv": format_rows(rows, FINE_TUNED, "csv"), "finetuning.md": page})
    click.echo(f"{__doc__}\n{setting}\n\n{table}", nl=False)


def opener(name: str, classes: int) -> Opener:
    return lambda config: open_classifier(name, classes, config)


def answers_of(
    models: Mapping[str, Opener], photos: LabelledPhotos, configs: Sequence[FinetuneConfig], folder: Path,
    machine: Machine,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Whether each model was right, bool `[seeds, photographs]`; what was fine-tuned before is read."""
    found: dict[str, list[np.ndarray]] = {}
    turns = [(name, config) for config in configs for name in models]
    for name, config in progress(turns, len(turns), "fine-tuning", "model"):
        words = f"{name}-{recipe_name(config)}"
        run = folder / words.translate(str.maketrans("/: ", "---"))
        found.setdefault(name, []).append(finetune(models[name](config), photos, config, run, machine).correct)
    return {name: np.stack(correct) for name, correct in found.items()}


if __name__ == "__main__":
    main()
