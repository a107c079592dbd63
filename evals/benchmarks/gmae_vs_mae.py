"""What do Gaussians change? GMAE against MAE (R-MAE, C-MAE), trained alike; one command, which goes on if killed.

Protocol: every model has an encoder of the same shape, and random weights of the same distribution to begin with. It
sees the same samples in the same order, each cropped, mirrored and, except for C-MAE, masked alike (75 % of the
patches), with the same optimiser and schedule. GMAE and MAE both have their loss on the hidden patches; GMAE renders on
white; MAE's targets are pixels, not normalised, so that it makes pictures. All decoders are ViTs of the preset's size;
their inputs and outputs differ, and so do the numbers of parameters.

1. Reconstruction of the photographs that training holds out, central squares, 75 % of the patches hidden, which ones
   follows from the photograph's number. `psnr_hidden`: PSNR over the pixels of hidden patches, RGB in [0, 1], the mean
   over photographs, +- 1.96 standard errors (`within`); `psnr`, `ssim`: of the picture in which hidden patches are the
   model's and visible ones the photograph's, for all models alike. `difference`: of `psnr_hidden` to the first model
   on the same photographs, likewise. `mean colour`: of the visible pixels, in the hidden patches.
2. Step: milliseconds of a training step (forward, loss, backward, optimiser) on one batch, the models taking turns;
   medians over rounds, and the median of the ratios to the first model. `images_per_s`: the median in the log of the
   run itself, which pays for loading, but was not measured in turns. Valid only from a machine without other load.
3. Probe: `gmae-tools probe` on the same shards, labels from the names of the photographs (`nette-00000`: the data set
   that it came from). Encoders saw these photographs in training, without labels; one with random weights did not.
4. Invariance: `gmae-tools invariance` on the same photographs.

What this shows: how the objectives compare at this size, budget and seed, with one optimiser that was chosen for GMAE.
What it does not: which is better at the paper's scale (ViT-B, 512 million samples of ImageNet), nor how
fine-tuned features compare. Labels by source can also be told apart by colour and sharpness, so that a probe on them
measures less than one of objects. Intervals cover the choice of photographs, not the seed of training: repeat with
--seed before believing a small difference. LPIPS is not given, since its weights were not available.

    python -m evals.benchmarks.gmae_vs_mae --data 'shards/photos-*.tar' --image-size 128
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 \
        -m evals.benchmarks.gmae_vs_mae ...  # two cores; measures with one of them
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from evals.common import (
    images_per_second,
    machine,
    read_table,
    results_option,
    run_gmae_tools,
    script,
    take_turn,
    write_files,
    write_table,
)
from evals.encoders import HIDDEN, OBJECTIVES, Training, training_options
from gmae_tools import checkpoints
from gmae_tools.datasets.photos import PhotoStore, held_out_split
from gmae_tools.mae import MAE
from gmae_tools.metrics.pictures import psnr, ssim
from gmae_tools.model import GMAE, Autoencoder
from gmae_tools.prediction import has_bf16, resolve_device
from gmae_tools.pretrain.held_out import HeldOut
from gmae_tools.pretrain.loop import LOG_FILE, PretrainConfig
from gmae_tools.pretrain.optimizers import build_optimizers
from gmae_tools.pretrain.reconstruction import hidden_pixels, psnr_of_hidden, reconstruct_photo
from gmae_tools.pretrain.sampling import Batch
from gmae_tools.report.invariance import COLUMNS as INVARIANCE
from gmae_tools.report.probe import COLUMNS as PROBE
from gmae_tools.report.reconstruction import write_reconstructions
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.vit import visible_patches

RECONSTRUCTION = {"model": None, "psnr_hidden": 2, "within": 2, "difference": 2, "difference_within": 2, "psnr": 2,
                  "ssim": 4, "photographs": None}  # fmt: skip
SPEED = {"model": None, "parameters_m": 2, "step_ms": 1, "ratio": 3, "images_per_s": 1}
SHOWN = 3  # photographs on a sheet each
TIMED = 16  # pictures in a step that is timed


@script(takes="hours", needs="photographs to train on")
@training_options()
@click.option("--objective", "names", type=click.Choice(list(OBJECTIVES)), multiple=True, default=["gmae", "mae"])
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Largest number of photographs for the probe.",
)
@click.option(
    "--photographs",
    type=click.IntRange(4),
    default=1024,
    show_default=True,
    help="Photographs that invariance is measured on.",
)
@click.option(
    "--neighbours", default="10,20,100,200", show_default=True, help="Numbers of neighbours of the k-NN classifiers."
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Rounds in which steps are timed.")
@results_option("-o", "--out")
def main(
    training: Training, names: tuple[str, ...], limit: int, photographs: int, neighbours: str, rounds: int, out: Path
) -> None:
    """Train the models, measure them, write the report."""
    names, run, device = tuple(dict.fromkeys(names)), training.run, training.device
    state = PartialState(cpu=resolve_device(device).type == "cpu")
    with state.local_main_process_first():  # photographs are decoded once for all runs
        photos = PhotoStore.open(training.data, progress=state.is_main_process)
    trained = {name: training.train(name) for name in names}
    state.destroy_process_group()  # of several that were launched to train, one goes on
    if not state.is_main_process:
        return
    checkpoint_options = [option for folder in trained.values() for option in ("--checkpoint", folder)]
    models = {name: checkpoints.load_any(folder, resolve_device(device)) for name, folder in trained.items()}
    held = HeldOut(photos, held_out_split(photos.names, training.held_out)[1], training.held_out)
    shared = [*checkpoint_options, "--device", device, *training.data]
    random = ["--checkpoint", f"random:{next(iter(trained.values()))}"]
    labelled = ["--labels", "prefix", "--limit", limit, "--neighbours", neighbours, "-o", run / "probe"]
    run_gmae_tools("probe", *labelled, *checkpoint_options, *random, "--device", device, *training.data)
    run_gmae_tools("invariance", "--photographs", photographs, "--overwrite", "-o", run / "invariance", *shared)
    parts = {
        "reconstruction": (reconstruction_rows(models, held), RECONSTRUCTION),
        "step": (speed_rows(training, names, rounds), SPEED),
        "probe": (read_table(run / "probe" / "probe.csv"), PROBE),
        "invariance": (read_table(run / "invariance" / "invariance.csv"), INVARIANCE),
    }
    setting = f"Preset {training.preset}, {training.config(names[0]).model.image_size} px, {training.samples:,} samples"
    setting += f" of {len(photos) - len(held.indices):,} photographs in batches of {training.batch_size},"
    setting += f" seed {training.seed}. {machine()}"
    asked = json.loads((run / "probe" / "probe.json").read_text())["protocol"]
    setting += f" Probe: {asked['to_learn_from']} photographs to learn from, {asked['validation']} to classify into"
    setting += f" {asked['classes']} classes; always the largest class: {asked['largest_class']:.3f}."
    write(out, parts, setting, run)
    sheets(models, held, out)


# --- measuring ---------------------------------------------------------------------------------------


def reconstruction_rows(models: Mapping[str, Autoencoder], held: HeldOut) -> list[Row]:
    """Rows of `RECONSTRUCTION`, for all models that make pictures and for the mean colour."""
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
    """PSNRs and SSIM of the mean colour of the visible patches."""
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


def speed_rows(training: Training, names: Sequence[str], rounds: int) -> list[Row]:
    """Rows of `SPEED`; the models take turns."""
    steps = {name: step_of(training.config(name), training.device) for name in names}
    turns = [{name: take_turn(step) for name, (step, _) in steps.items()} for _ in tqdm(range(rounds), desc="steps")]
    return [
        {"model": name, "parameters_m": count / 1e6, "step_ms": statistics.median(turn[name] for turn in turns),
         "ratio": statistics.median(turn[name] / turn[names[0]] for turn in turns),
         "images_per_s": images_per_second(training.run / name / LOG_FILE)}
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

    step()  # a warm-up, which compiles and touches the memory
    return step, sum(parameter.numel() for parameter in model.parameters())


# --- reporting ---------------------------------------------------------------------------------------


def write(out: Path, parts: Mapping[str, tuple[list[Row], dict[str, int | None]]], setting: str, run: Path) -> None:
    """Write a CSV file for each part, a page with all of them, and the figures of invariance."""
    page = [f"# GMAE and MAE, trained alike\n\n{(__doc__ or '').strip()}\n\n{setting}"]
    for part, (rows, columns) in parts.items():
        write_table(out / f"gmae_vs_mae-{part}.csv", rows, columns)
        shown = [row for row in rows if part != "invariance" or is_shown(row)]
        page.append(f"## {part.capitalize()}\n\n```\n{format_rows(shown, columns, 'table')}```")
    for figure in sorted((run / "invariance").glob("invariance-*.png")):
        shutil.copyfile(figure, out / f"gmae_vs_mae-{figure.name}")
    text = "\n\n".join(page) + "\n"
    write_files(out, {"gmae_vs_mae.md": text})
    click.echo(text)


def is_shown(row: Row) -> bool:
    """Whether a row of invariance is on the page: scattered patches, as many hidden as in training."""
    return (row["tokens"], row["occlusion"], row["ratio"]) == ("mean", "random", HIDDEN)


def sheets(models: Mapping[str, Autoencoder], held: HeldOut, out: Path) -> None:
    """Write a sheet of reconstructions for each of a few held-out photographs."""
    drawing = {name: model for name, model in models.items() if isinstance(model, (GMAE, MAE))}
    for number_, index in enumerate(held.indices[:SHOWN].tolist()):
        path = out / f"gmae_vs_mae-{number_}.png"
        photo = held.photos.photo(index)
        found = {name: reconstruct_photo(model, photo, HIDDEN) for name, model in drawing.items()}
        write_reconstructions(found, photo.shape[:2], path, held.photos.names[index])


if __name__ == "__main__":
    main()
