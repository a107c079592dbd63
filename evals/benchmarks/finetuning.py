r"""What are encoders worth when all of them is trained on? Fine-tuned GMAE, MAE, R-MAE, C-MAE and random weights.

Table 2 in small; one command, which goes on if killed. Protocol: encoders are those of `gmae_vs_mae.py` (same shape,
photographs, order, schedule and optimiser, 75 % hidden; R-MAE with a decoder of its own for the second view, C-MAE with
the light head), trained here unless they were before; `random` has the weights that they start from. Each is fine-tuned
by `gmae-tools finetune`'s recipe on labelled photographs, with the same head, order and augmentation for each seed.
Nothing is chosen by the validation photographs: the weights after the last epoch answer. Other models, of timm or
trained elsewhere, can be named beside them (`--checkpoint`); they saw other photographs.

`top1`: mean over seeds; `low`, `high`: 95 % bootstrap interval over seeds of fine-tuning and validation photographs;
`difference`: to random weights of the same seeds on the same photographs, with its own interval. The seed of
pretraining is one and the same, so the interval says nothing of it. Where the photographs are those that pretraining
saw, it saw the validation part, too, without labels.

    python -m evals.benchmarks.finetuning --data 'shards/photos-*.tar' --image-size 128 --limit 4000 \
        --epochs 30 --seeds 0,1
    python -m evals.benchmarks.finetuning --data 'shards/*.tar' --labelled imagenette --labels folder \
        --checkpoint gmae-tiny
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from torch import nn
from tqdm import tqdm

from evals.benchmarks.gmae_vs_mae import OBJECTIVES, run_config
from gmae_tools.checkpoint_names import RANDOM_PREFIX
from gmae_tools.datasets.labelled import LabelledPhotos, Labelling, describe, find_labelled
from gmae_tools.encoder.features import display_name
from gmae_tools.encoder.finetune import FinetuneConfig, Machine, finetune, open_classifier
from gmae_tools.metrics.accuracy import bootstrap_interval
from gmae_tools.predict import resolve_device
from gmae_tools.pretrain.loop import pretrain
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path

ROOT = Path(__file__).resolve().parents[2]

COLUMNS = {"model": None, "top1": 3, "low": 3, "high": 3, "difference": 3, "difference_low": 3, "difference_high": 3,
           "seeds": None, "photographs": None}  # fmt: skip
RANDOM = "random weights"

Opener = Callable[[FinetuneConfig], nn.Module]  # a classifier with a head of the seed


@click.command()
@click.option("--data", multiple=True, required=True, metavar="PATH", help="As for `gmae-tools pretrain`.")
@click.option("--labelled", multiple=True, metavar="PATH", help="To fine-tune on.  [default: the same]")
@click.option("--labels", "labelling", type=click.Choice(["folder", "prefix"]), default="prefix", show_default=True)
@click.option("--limit", type=click.IntRange(1), default=4000, show_default=True, help="Of labelled photographs.")
@click.option("--objective", "names", type=click.Choice(list(OBJECTIVES)), multiple=True, default=list(OBJECTIVES))
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="NAME", help="Further models, also timm:NAME.")
@click.option("--preset", default="tiny", show_default=True)
@click.option("--image-size", type=click.IntRange(1), metavar="PX", help="Of the pictures.  [default: the preset's]")
@click.option("--samples", type=click.IntRange(1), default=100_000, show_default=True, help="Of pretraining.")
@click.option("--pretrain-batch-size", type=click.IntRange(2), default=64, show_default=True)
@click.option("--held-out", type=click.IntRange(1), default=500, show_default=True, help="Photographs of pretraining.")
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True, help="Of fine-tuning.")
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Of fine-tuning.")
@click.option("--seeds", default="0,1", show_default=True, help="Of fine-tuning.")
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="That make pictures.")
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--runs", "run", type=click.Path(path_type=Path), default=ROOT / "runs" / "gmae-vs-mae", help="To go on from."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=ROOT / "evals" / "results", help="For results.")
def main(
    data: tuple[str, ...], labelled: tuple[str, ...], labelling: Labelling, limit: int, names: tuple[str, ...],
    checkpoints: tuple[str, ...], preset: str, image_size: int | None, samples: int, pretrain_batch_size: int,
    held_out: int, epochs: int, batch_size: int, seeds: str, workers: int, device: str, run: Path, out: Path,
) -> None:  # fmt: skip
    """Pretrain, fine-tune, and write the table."""
    photos = find_labelled(labelled or data, labelling, limit)
    changes = {} if image_size is None else {"image_size": image_size}
    where = resolve_device(device)
    models: dict[str, Opener] = {}
    for name in dict.fromkeys(names):
        config = run_config(data, OBJECTIVES[name], preset, changes, samples, pretrain_batch_size, held_out, 0)
        folder = str(pretrain(config, run / name, resume=True, device=device))
        models.setdefault(RANDOM, opener(f"{RANDOM_PREFIX}{folder}", len(photos.classes)))
        models[name] = opener(folder, len(photos.classes))
    models |= {display_name(name): opener(name, len(photos.classes)) for name in checkpoints}
    answers = answers_of(
        models, photos, [FinetuneConfig(epochs=epochs, batch_size=batch_size, seed=int(seed), warmup=warmup(epochs))
                         for seed in seeds.split(",")], run / "finetuned", Machine(where, workers),
    )  # fmt: skip
    rows = rows_of(answers, RANDOM)
    setting = f"Pretrained: preset {preset}, {samples:,} samples. Fine-tuned: {epochs} epochs, batches of"
    setting += f" {batch_size}; {describe(photos)}; {len(photos.classes)} labels by {labelling}; always the largest"
    setting += f" class: {photos.largest_class:.3f}"
    out.mkdir(parents=True, exist_ok=True)
    table = format_rows(rows, COLUMNS, "table")
    for file, text in {
        "finetuning.csv": format_rows(rows, COLUMNS, "csv"),
        "finetuning.md": f"# Fine-tuned encoders\n\n{(__doc__ or '').strip()}\n\n{setting}\n\n```\n{table}```\n",
    }.items():
        with atomic_path(out / file) as temporary:
            temporary.write_text(text)
    click.echo(f"{__doc__}\n{setting}\n\n{table}", nl=False)


def warmup(epochs: int) -> int:
    """Epochs of warm-up: MAE's 5 of 100, and one at least."""
    return max(1, round(epochs / 20))


def opener(name: str, classes: int) -> Opener:
    return lambda config: open_classifier(name, classes, config)


def answers_of(
    models: Mapping[str, Opener], photos: LabelledPhotos, configs: Sequence[FinetuneConfig], folder: Path,
    machine: Machine,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Whether each model was right, bool `[seeds, photographs]`; what was fine-tuned before is read."""
    found: dict[str, list[np.ndarray]] = {}
    turns = [(name, config) for config in configs for name in models]
    for name, config in bar(turns):
        run = folder / f"{name.replace('/', '-').replace(':', '-').replace(' ', '-')}-{config.epochs}-{config.seed}"
        found.setdefault(name, []).append(finetune(models[name](config), photos, config, run, machine).correct)
    return {name: np.stack(correct) for name, correct in found.items()}


def bar(turns: Sequence[tuple[str, FinetuneConfig]]) -> Iterable[tuple[str, FinetuneConfig]]:
    passed_on: Iterable[tuple[str, FinetuneConfig]] = tqdm(turns, desc="fine-tuning", unit="model")
    return passed_on


def rows_of(answers: Mapping[str, np.ndarray], rival: str) -> list[Row]:
    """Rows of `COLUMNS`; differences are to the model called `rival`."""
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


if __name__ == "__main__":
    main()
