"""What do Gaussians change? GMAE against MAE (R-MAE, C-MAE), trained alike; one command, which goes on if killed.

Protocol: every model has an encoder of the same shape, and random weights of the same distribution to begin with. It
sees the same samples in the same order, each cropped, mirrored and, except for C-MAE, masked alike (75 % of the
patches), with the same optimiser and schedule. GMAE and MAE both have their loss on the hidden patches; GMAE draws on
white; MAE's targets are pixels, not normalised, so that it can draw. All decoders are ViTs of the preset's size; what
they read and tell differs, and so does the number of parameters.

1. Reconstruction of the photographs that training holds out, central squares, 75 % of the patches hidden, which ones
   follows from the photograph's number. `psnr_hidden`: PSNR over the pixels of hidden patches, RGB in [0, 1], the mean
   over photographs, +- 1.96 standard errors (`within`); `psnr`, `ssim`: of the picture in which hidden patches are the
   model's and visible ones the photograph's, for all models alike. `difference`: of `psnr_hidden` to the first model
   on the same photographs, likewise. `mean colour`: of the visible pixels, in the hidden patches.
2. Step: milliseconds of a training step (forward, loss, backward, optimiser) on one batch, the models taking turns;
   medians over rounds, and the median of the ratios to the first model. `images_per_s`: the median in the log of the
   run itself, which pays for loading, but was not measured in turns. Only from a machine without other work.
3. Probe: `gmae-tools probe` on the same shards, labels from the names of the photographs (`nette-00000`: the data set
   that it came from). Encoders saw these photographs in training, without labels; one with random weights did not.
4. Invariance: `gmae-tools invariance` on the same photographs.

What this shows: how the objectives compare at this size, budget and seed, with one optimiser that was chosen for GMAE.
What it does not: which is better at the paper's scale (ViT-B, 512 million samples of ImageNet), nor what fine-tuning
makes of the features. Labels by source are told apart by colour and sharpness, too, so a probe on them measures less
than one of objects. Intervals tell of the choice of photographs only, not of the seed of training: repeat with --seed
before a small difference is believed. LPIPS is not given, since its weights could not be had.

    python -m evals.benchmarks.gmae_vs_mae --data 'shards/photos-*.tar' --image-size 128
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 \
        -m evals.benchmarks.gmae_vs_mae ...  # two cores; measures with one of them
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from evals.benchmarks.splatting_speed import machine, take_turn
from gmae_tools import checkpoints
from gmae_tools.cli import invariance, probe
from gmae_tools.datasets.photos import PhotoStore, held_out_split
from gmae_tools.mae import MAE
from gmae_tools.metrics.pictures import psnr, ssim
from gmae_tools.model import GMAE, Autoencoder
from gmae_tools.predict import has_bf16, resolve_device
from gmae_tools.pretrain.held_out import HeldOut
from gmae_tools.pretrain.loop import LOG_FILE, PretrainConfig, pretrain
from gmae_tools.pretrain.objectives import (
    CMAEObjective,
    GMAEObjective,
    MAEObjective,
    Objective,
    RMAEObjective,
)
from gmae_tools.pretrain.optimizers import build_optimizers
from gmae_tools.pretrain.reconstruction import hidden_pixels, psnr_of_hidden, reconstruct_photo
from gmae_tools.pretrain.sampling import Batch
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.report.invariance import COLUMNS as INVARIANCE
from gmae_tools.report.probe import COLUMNS as PROBE
from gmae_tools.report.reconstruction import write_reconstructions
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path
from gmae_tools.vit import visible_patches

ROOT = Path(__file__).resolve().parents[2]

HIDDEN = 0.75
OBJECTIVES: dict[str, Objective] = {
    each.name: each
    for each in (
        GMAEObjective((HIDDEN, HIDDEN), loss_on="masked", background="white"),
        MAEObjective((HIDDEN, HIDDEN)),
        RMAEObjective((HIDDEN, HIDDEN)),
        CMAEObjective((HIDDEN, HIDDEN)),
    )
}
# The light head of C-MAE is nearer to what its paper says of it than the decoder that it has by default.
MODEL_CHANGES: dict[str, dict[str, Any]] = {"c-mae": {"head": "light"}}
RECONSTRUCTION = {"model": None, "psnr_hidden": 2, "within": 2, "difference": 2, "difference_within": 2, "psnr": 2,
                  "ssim": 4, "photographs": None}  # fmt: skip
SPEED = {"model": None, "parameters_m": 2, "step_ms": 1, "ratio": 3, "images_per_s": 1}
SHOWN = 3  # photographs on a sheet each
TIMED = 16  # pictures in a step that is timed


@click.command()
@click.option("--data", multiple=True, required=True, metavar="PATH", help="As for `gmae-tools pretrain`.")
@click.option("--objective", "names", type=click.Choice(list(OBJECTIVES)), multiple=True, default=["gmae", "mae"])
@click.option("--preset", default="tiny", show_default=True)
@click.option("--image-size", type=click.IntRange(1), metavar="PX", help="Of the pictures.  [default: the preset's]")
@click.option("--samples", type=click.IntRange(1), default=100_000, show_default=True, help="Of each model.")
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True)
@click.option("--held-out", type=click.IntRange(1), default=500, show_default=True, help="Photographs.")
@click.option("--limit", type=click.IntRange(1), default=10_000, show_default=True, help="Photographs for the probe.")
@click.option("--photographs", type=click.IntRange(4), default=1024, show_default=True, help="For invariance.")
@click.option("--neighbours", default="10,20,100,200", show_default=True, help="Of the k-NN classifiers.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="In which steps are timed.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--runs",
    "run",
    type=click.Path(path_type=Path),
    default=ROOT / "runs" / "gmae-vs-mae",
    help="To go on from.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=ROOT / "evals" / "results", help="For results.")
def main(
    data: tuple[str, ...], names: tuple[str, ...], preset: str, image_size: int | None, samples: int, batch_size: int,
    held_out: int, limit: int, photographs: int, neighbours: str, rounds: int, seed: int, device: str, run: Path,
    out: Path,
) -> None:  # fmt: skip
    """Train the models, measure them, write the report."""
    names = tuple(dict.fromkeys(names))
    changes = {} if image_size is None else {"image_size": image_size}
    configs = {
        name: run_config(data, OBJECTIVES[name], preset, changes, samples, batch_size, held_out, seed) for name in names
    }
    state = PartialState(cpu=resolve_device(device).type == "cpu")
    with state.local_main_process_first():  # photographs are decoded once for all runs
        photos = PhotoStore.open(data, progress=state.is_main_process)
    trained = {name: pretrain(config, run / name, resume=True, device=device) for name, config in configs.items()}
    state.destroy_process_group()  # of several that were launched to train, one goes on
    if not state.is_main_process:
        return
    folders = [str(folder) for folder in trained.values()]
    models = {name: checkpoints.load_any(folder, resolve_device(device)) for name, folder in trained.items()}
    held = HeldOut(photos, held_out_split(photos.names, held_out)[1], held_out)
    parts = {
        "reconstruction": (reconstruction_rows(models, held), RECONSTRUCTION),
        "step": (speed_rows(configs, run, rounds, device), SPEED),
        "probe": (probe_rows(data, folders, limit, neighbours, device, run / "probe"), PROBE),
        "invariance": (invariance_rows(data, folders, photographs, device, run / "invariance"), INVARIANCE),
    }
    setting = f"Preset {preset}, {next(iter(configs.values())).model.image_size} px, {samples:,} samples of"
    setting += f" {len(photos) - len(held.indices):,} photographs in batches of {batch_size}, seed {seed}. {machine()}"
    asked = json.loads((run / "probe" / probe.RECORD).read_text())["protocol"]
    setting += f" Probe: {asked['to_learn_from']} photographs to learn from, {asked['validation']} to classify into"
    setting += f" {asked['classes']} classes; always the largest class: {asked['largest_class']:.3f}."
    write(out, parts, setting, run)
    sheets(models, held, out)


# --- training ----------------------------------------------------------------------------------------


def run_config(
    data: tuple[str, ...], objective: Objective, preset: str, changes: Mapping[str, int], samples: int,
    batch_size: int, held_out: int, seed: int,
) -> PretrainConfig:  # fmt: skip
    """A run with the defaults of `gmae-tools pretrain`, but for the objective."""
    model = objective.model_config.preset(preset, **changes, **MODEL_CHANGES.get(objective.name, {}))
    schedule = Schedule(samples, resolutions=(model.image_size,))
    return PretrainConfig(
        data, model, schedule, objective, batch_size=batch_size, held_out=held_out, seed=seed, evaluate_every=1800
    )


# --- measuring ---------------------------------------------------------------------------------------


def reconstruction_rows(models: Mapping[str, Autoencoder], held: HeldOut) -> list[Row]:
    """Rows of `RECONSTRUCTION`, for all models that draw and for the mean colour."""
    drawing = {name: model for name, model in models.items() if isinstance(model, (GMAE, MAE))}
    figures: dict[str, list[tuple[float, float, float]]] = {}
    for name, model in drawing.items():
        for numbers, images in batches(held, model, name):
            rebuilt = held.render(model, images, HIDDEN, numbers)
            figures.setdefault(name, []).extend(figures_of(rebuilt, images, held.hidden(model, images, numbers), model))
    for model in list(drawing.values())[:1]:
        figures["mean colour"] = [
            each for batch in batches(held, model, "mean") for each in of_mean(held, model, *batch)
        ]
    first = np.array(next(iter(figures.values()), []))
    return [reconstruction_row(name, np.array(values), first) for name, values in figures.items()]


def of_mean(
    held: HeldOut, model: Autoencoder, numbers: np.ndarray, images: Tensor
) -> Iterator[tuple[float, float, float]]:
    """The figures of the mean colour of what `model` would see."""
    hidden, (height, width) = held.hidden(model, images, numbers), images.shape[-2:]
    visible = ~hidden_pixels(hidden, height, width, model.config.patch_size)
    mean = (images * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
    return figures_of(mean.expand_as(images), images, hidden, model)


def batches(held: HeldOut, model: Autoencoder, label: str) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The held-out pictures at the model's size, with a bar on stderr."""
    with tqdm(total=len(held.indices), desc=label, unit="picture") as bar:
        for numbers, images in held.batches(model, model.config.image_size):
            yield numbers, images
            bar.update(len(numbers))


def figures_of(
    rebuilt: Tensor, images: Tensor, hidden: Tensor, model: Autoencoder
) -> Iterator[tuple[float, float, float]]:
    """PSNR of the hidden patches; PSNR and SSIM of the picture with these filled in."""
    patch, (height, width) = model.config.patch_size, images.shape[-2:]
    inserted = torch.where(hidden_pixels(hidden, height, width, patch), rebuilt, images)
    of_hidden = psnr_of_hidden(rebuilt, images, hidden, patch).tolist()
    pictures = (batch.permute(0, 2, 3, 1).cpu().numpy() for batch in (inserted, images))
    for value, a, b in zip(of_hidden, *pictures, strict=True):
        yield value, psnr(a, b), ssim(a, b)


def reconstruction_row(name: str, figures: np.ndarray, first: np.ndarray) -> Row:
    """A row of `RECONSTRUCTION` from figures `[photographs, 3]`, and those of the first model."""
    difference = figures[:, 0] - first[:, 0]
    own = not difference.any()
    return {
        "model": name, "psnr_hidden": float(figures[:, 0].mean()), "within": within(figures[:, 0]),
        "difference": None if own else float(difference.mean()), "difference_within": None if own else
        within(difference), "psnr": float(figures[:, 1].mean()), "ssim": float(figures[:, 2].mean()),
        "photographs": len(figures),
    }  # fmt: skip


def within(values: np.ndarray) -> float:
    """1.96 standard errors of the mean."""
    return float(1.96 * values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan


def speed_rows(configs: Mapping[str, PretrainConfig], run: Path, rounds: int, device: str) -> list[Row]:
    """Rows of `SPEED`; the models take turns."""
    steps = {name: step_of(config, device) for name, config in configs.items()}
    turns = [{name: take_turn(step) for name, (step, _) in steps.items()} for _ in tqdm(range(rounds), desc="steps")]
    first = next(iter(steps))
    return [
        {"model": name, "parameters_m": count / 1e6, "step_ms": statistics.median(turn[name] for turn in turns),
         "ratio": statistics.median(turn[name] / turn[first] for turn in turns),
         "images_per_s": images_per_second(run / name / LOG_FILE)}
        for name, (_, count) in steps.items()
    ]  # fmt: skip


def step_of(config: PretrainConfig, device: str) -> tuple[Callable[[], None], int]:
    """A training step on one batch that changes nothing, and the number of the model's parameters."""
    where, size, count = resolve_device(device), config.model.image_size, min(config.batch_size, TIMED)
    model = config.objective.build(config.model).to(where)
    optimizers = build_optimizers(model, config.optimizer)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = 0.0
    samples = np.arange(count)
    masks = config.objective.masks((size // config.model.patch_size) ** 2, 0, samples, config.seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    parts = (pixels, visible_patches(masks), config.objective.backgrounds(samples, config.seed))

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        batch = Batch(*(part.to(where) for part in parts))
        with torch.autocast(where.type, torch.bfloat16, enabled=has_bf16(where)):
            loss, _ = config.objective.loss(model, batch, config.model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for optimizer in optimizers:
            optimizer.step()
        if where.type == "cuda":
            torch.cuda.synchronize()

    step()  # nobody pays for compiling, or for the first touch of memory
    return step, sum(parameter.numel() for parameter in model.parameters())


def images_per_second(log: Path) -> float:
    """The median in the log of a run."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return statistics.median(line["images_per_second"] for line in lines if "images_per_second" in line)


def probe_rows(
    data: Sequence[str], folders: Sequence[str], limit: int, neighbours: str, device: str, out: Path
) -> list[Row]:
    """The table of `gmae-tools probe`, of the models and of random weights."""
    models = [*folders, f"random:{folders[0]}"]
    options = ["--labels", "prefix", "--limit", str(limit), "--neighbours", neighbours, "--device", device]
    run_command(probe.command, data, models, [*options, "-o", str(out)])
    return read_table(out / probe.TABLE)


def invariance_rows(data: Sequence[str], folders: Sequence[str], photographs: int, device: str, out: Path) -> list[Row]:
    """The table of `gmae-tools invariance`, of the models and of random weights."""
    options = ["--photographs", str(photographs), "--device", device, "--overwrite"]
    run_command(invariance.command, data, folders, [*options, "-o", str(out)])
    return read_table(out / invariance.TABLE)


def run_command(command: click.Command, data: Sequence[str], models: Sequence[str], options: list[str]) -> None:
    """A command of gmae-tools; what it finds it also writes into files."""
    given = [option for model in models for option in ("--checkpoint", model)]
    command.main([*options, *given, *data], standalone_mode=False)


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file, numbers as numbers."""
    with path.open(newline="") as file:
        return [{key: number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def number(text: str) -> str | int | float | None:
    try:
        if text.isdigit():
            return int(text)
        return float(text) if text else None
    except ValueError:
        return text


# --- reporting ---------------------------------------------------------------------------------------


def write(out: Path, parts: Mapping[str, tuple[list[Row], dict[str, int | None]]], setting: str, run: Path) -> None:
    """A table for each part as CSV, all of them on one page, and the figures of invariance."""
    out.mkdir(parents=True, exist_ok=True)
    page = [f"# GMAE and MAE, trained alike\n\n{(__doc__ or '').strip()}\n\n{setting}"]
    for part, (rows, columns) in parts.items():
        with atomic_path(out / f"gmae_vs_mae-{part}.csv") as temporary:
            temporary.write_text(format_rows(rows, columns, "csv"))
        shown = [row for row in rows if part != "invariance" or is_shown(row)]
        page.append(f"## {part.capitalize()}\n\n```\n{format_rows(shown, columns, 'table')}```")
    for figure in invariance.FIGURES:
        shutil.copyfile(run / "invariance" / figure, out / f"gmae_vs_mae-{figure}")
    text = "\n\n".join(page) + "\n"
    with atomic_path(out / "gmae_vs_mae.md") as temporary:
        temporary.write_text(text)
    click.echo(text)


def is_shown(row: Row) -> bool:
    """Of hundreds of figures of invariance those of scattered patches, hidden as in training."""
    return (row["tokens"], row["occlusion"], row["ratio"]) == ("mean", "random", HIDDEN)


def sheets(models: Mapping[str, Autoencoder], held: HeldOut, out: Path) -> None:
    """What the models make of a few held-out photographs."""
    drawing = {name: model for name, model in models.items() if isinstance(model, (GMAE, MAE))}
    for number_, index in enumerate(held.indices[:SHOWN].tolist()):
        path = out / f"gmae_vs_mae-{number_}.png"
        photo = held.photos.photo(index)
        found = {name: reconstruct_photo(model, photo, HIDDEN) for name, model in drawing.items()}
        write_reconstructions(found, photo.shape[:2], path, held.photos.names[index])


if __name__ == "__main__":
    main()
