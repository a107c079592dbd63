"""What the scripts about encoders share: models of all objectives trained alike, and the table of fine-tuned ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
import numpy as np

from evals.bootstrap import bootstrap_interval
from evals.common import RUNS
from gmae_tools.encoder.finetune import FinetuneConfig
from gmae_tools.pretrain.loop import PretrainConfig, pretrain
from gmae_tools.pretrain.objectives import CMAEObjective, GMAEObjective, MAEObjective, Objective, RMAEObjective
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.report.tables import Row

HIDDEN = 0.75
_RUNS = "Folder of the runs, which a later call continues."
OBJECTIVES: dict[str, Objective] = {
    each.name: each
    for each in (
        GMAEObjective(
            (HIDDEN, HIDDEN),
            loss_on="masked",
            background="white",
            occlusion_gradient=0,
            size_depth_weight=0,
            region_depth_weight=0,
        ),
        MAEObjective((HIDDEN, HIDDEN)),
        RMAEObjective((HIDDEN, HIDDEN)),
        CMAEObjective((HIDDEN, HIDDEN)),
    )
}
# The light head is closer to the description in C-MAE's paper than the decoder that C-MAE has by default.
MODEL_CHANGES: dict[str, dict[str, Any]] = {"c-mae": {"head": "light"}}


# --- pretraining -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """How the models are trained: all alike but for the objective, with the defaults of `gmae-tools pretrain`.

    Attributes:
        data: photographs, as for `gmae-tools pretrain`.
        image_size: in px; None for the preset's.
        samples: number of pictures that each model is trained on.
        held_out: number of photographs.
        run: folder with a run for each objective, which a later call continues.
        changes: of the preset, for all models.
    """

    data: tuple[str, ...]
    preset: str
    image_size: int | None
    samples: int
    batch_size: int
    held_out: int
    seed: int
    device: str
    run: Path
    changes: Mapping[str, int] = field(default_factory=dict)

    def config(self, name: str) -> PretrainConfig:
        """The run of the objective with this name."""
        objective = OBJECTIVES[name]
        changes = dict(self.changes) if self.image_size is None else {**self.changes, "image_size": self.image_size}
        model = objective.model_config.preset(self.preset, **changes, **MODEL_CHANGES.get(name, {}))
        schedule = Schedule(self.samples, resolutions=(model.image_size,))
        return PretrainConfig(
            self.data, model, schedule, objective, batch_size=self.batch_size, held_out=self.held_out, seed=self.seed,
            evaluate_every=1800,
        )  # fmt: skip

    def about(self) -> str:
        """Sizes of the models and of their training, in words."""
        model = self.config(next(iter(OBJECTIVES))).model
        return (
            f"encoders of {model.depth} blocks, width {model.width}, {model.image_size} px in patches of "
            f"{model.patch_size} px; {self.samples:,} samples in batches of {self.batch_size}, seed {self.seed}"
        )

    def train(self, name: str) -> Path:
        """Train the model of an objective unless that was done before; returns the folder of its checkpoint."""
        return pretrain(self.config(name), self.run / name, resume=True, device=self.device)


def _changes(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, int]:
    """Of `KEY=NUMBER`; callback of an option."""
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, (_, _, number) in zip(texts, pairs, strict=True) if not number.isdecimal()]:
        raise click.BadParameter(f"{wrong[0]!r} is not KEY=NUMBER, such as patch_size=8")
    return {key: int(number) for key, _, number in pairs}


def training_options(batch_size: str = "--batch-size") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options of a command that receives them as `training`; `batch_size` names the option of that number."""
    count = partial(click.option, show_default=True)
    options = [
        click.option("--data", multiple=True, required=True, metavar="PATH", help="As for `gmae-tools pretrain`."),
        click.option("--preset", default="tiny", show_default=True, help="Preset of the models."),
        click.option("--image-size", type=click.IntRange(1), metavar="PX", help="[default: the preset's]"),
        click.option(
            "--set",
            "changes",
            multiple=True,
            callback=_changes,
            metavar="KEY=NUMBER",
            help="Change the preset of all models, e.g. patch_size=8, depth=4; may be repeated.",
        ),
        count("--samples", type=click.IntRange(1), default=100_000, help="Pictures that each model is trained on."),
        count(batch_size, "pretrain_batch", type=click.IntRange(2), default=64, help="Pictures of a pretraining step."),
        count("--held-out", type=click.IntRange(1), default=500, help="Photographs that are not trained on."),
        count("--seed", type=click.IntRange(0), default=0, help="Seed of pretraining."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
        click.option("--runs", type=click.Path(path_type=Path), default=RUNS / "gmae-vs-mae", help=_RUNS),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def collect(
            *, data: tuple[str, ...], preset: str, image_size: int | None, changes: dict[str, int], samples: int,
            pretrain_batch: int, held_out: int, seed: int, device: str, runs: Path, **others: Any,
        ) -> None:  # fmt: skip
            training = Training(
                data, preset, image_size=image_size, samples=samples, batch_size=pretrain_batch, held_out=held_out,
                seed=seed, device=device, run=runs, changes=changes,
            )  # fmt: skip
            command(training=training, **others)

        for option in reversed(options):
            collect = option(collect)
        return collect

    return decorate


# --- fine-tuning -------------------------------------------------------------------------------------

RANDOM = "random weights"
FINE_TUNED = {
    "model": None, "top1": 3, "low": 3, "high": 3, "difference": 3, "difference_low": 3, "difference_high": 3,
    "seeds": None, "photographs": None,
}  # fmt: skip


def warmup(epochs: int) -> int:
    """Epochs of warm-up: MAE's 5 of 100, and one at least."""
    return max(1, round(epochs / 20))


lr_option = click.option(
    "--lr", "base_lr", type=float, default=FinetuneConfig().base_lr, show_default=True,
    help="Peak rate of fine-tuning for 256 pictures a step. Few steps need a larger one than MAE's.",
)  # fmt: skip
plain_option = click.option(
    "--plain", is_flag=True,
    help="Fine-tune without mixing, RandAugment, erasing and drop path, from which only long runs gain.",
)  # fmt: skip


def recipe(epochs: int, batch_size: int, base_lr: float, plain: bool) -> FinetuneConfig:
    """How encoders are fine-tuned, but for the seed: as by `gmae-tools finetune`, or with plain crops."""
    config = FinetuneConfig(epochs=epochs, batch_size=batch_size, warmup=warmup(epochs), base_lr=base_lr)
    if plain:
        config = replace(config, mixup=0, cutmix=0, augment="none", erase=0, drop_path=0, crop_scale=(0.3, 1.0))
    return config


def recipe_name(config: FinetuneConfig) -> str:
    """Of the folder of a run of fine-tuning: what may differ between runs."""
    plain = "plain-" if config.augment == "none" else ""
    return f"{plain}{config.epochs}-{config.lr:g}-{config.seed}"


def fine_tuned_rows(answers: Mapping[str, np.ndarray], rival: str = RANDOM) -> list[Row]:
    """Rows of `FINE_TUNED`; differences are to the model called `rival`.

    Args:
        answers: whether each model was right, bool `[seeds, photographs]`.
    """
    rows: list[Row] = []
    for name, correct in answers.items():
        low, high = bootstrap_interval(correct)
        row: dict[str, str | int | float | None] = {"model": name, "top1": float(correct.mean()), "low": low,
            "high": high, "difference": None, "difference_low": None, "difference_high": None,
            "seeds": len(correct), "photographs": correct.shape[1]}  # fmt: skip
        if name != rival and rival in answers:
            difference = correct.astype(float) - answers[rival]
            low, high = bootstrap_interval(difference)
            row |= {"difference": float(difference.mean()), "difference_low": low, "difference_high": high}
        rows.append(row)
    return rows
