"""Which choices of pretraining matter? Many short runs of a small model, each with one change; goes on if killed.

Protocol: every run trains the preset from random weights on the same samples in the same order, with the defaults of
`gmae-tools pretrain` but for the change that its row names; every seed has other starting weights, crops and masks.
Figures are means over held-out photographs (central squares at the run's size, on white): PSNR in dB of whole
pictures, of pictures with 75 % of the patches hidden (all pixels count), and of those that the nearest quarter of a
whole picture's Gaussians draw. `difference`: of `psnr` to the defaults with the same seeds; `spread`: the standard
deviation of that difference over the seeds. `images_per_s`: the median in the log, not measured in turns.

What this shows: which changes help a small model early. What it does not: that they do so for a larger one, later.

    python -m evals.studies.pretraining_choices --data 'shards/photos-*.tar'
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from evals.common import RUNS, images_per_second, results_option, script, whole_numbers, write_files, write_table
from gmae_tools import checkpoints
from gmae_tools.camera import Camera
from gmae_tools.datasets.photos import PhotoStore, held_out_split
from gmae_tools.metrics.pictures import psnr
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.pretrain.held_out import HeldOut
from gmae_tools.pretrain.loop import LOG_FILE, PretrainConfig, pretrain
from gmae_tools.pretrain.reconstruction import render
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.report.tables import Row, format_rows

DEFAULTS = "defaults"
COLUMNS = {"change": None, "psnr": 2, "difference": 2, "spread": 2, "psnr_masked": 2, "psnr_quarter": 2,
           "images_per_s": 0, "seeds": None}  # fmt: skip

# What differs from the defaults: settings of the run, of its schedule, its objective, its model, its optimiser.
# `together` is the recipe of the embedded checkpoint's second stage.
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    DEFAULTS: {},
    "hide 75 %, as the paper": {"objective": {"mask_ratio": (0.75, 0.75)}},
    "hide nothing": {"objective": {"mask_ratio": (0.0, 0.0)}},
    "half of the steps whole": {"objective": {"whole": 0.5}},
    "loss on hidden pixels": {"objective": {"loss_on": "masked"}},
    "loss: PSNR": {"objective": {"error": "psnr"}},
    "nested pictures, weight 0.3": {"objective": {"nested_weight": 0.3}},
    "white background": {"objective": {"background": "white"}},
    "no weight on depth by slot": {"objective": {"slot_depth_weight": 0.0}},
    "largest footprint 1": {"model": {"max_scale": 1.0}},
    "largest footprint 4": {"model": {"max_scale": 4.0}},
    "twice the Gaussians a query": {"model": {"gaussians_per_query": 2}},
    "twice the queries, half the Gaussians each": {"model": {"queries": 2, "gaussians_per_query": 0.5}},
    "orthographic camera": {"model": {"camera": Camera(kind="orthographic")}},
    "pinhole camera": {"model": {"camera": Camera(kind="pinhole", focal=8.0), "max_scale": 0.25}},
    "crops of 0.4 to 1": {"run": {"crop_scale": (0.4, 1.0)}},
    "plateau, then a cooldown over 45 %": {"schedule": {"cooldown": 0.45}},
    "batches half as large": {"run": {"batch_size": 0.5}},
    "rates half as high": {"optimizer": {"lr": 0.5, "muon_lr": 0.5}},
    "rates twice as high": {"optimizer": {"lr": 2, "muon_lr": 2}},
    "AdamW for all": {"optimizer": {"name": "adamw"}},
    "together: loss, half whole, crops, cooldown": {
        "objective": {"error": "psnr", "whole": 0.5},
        "run": {"crop_scale": (0.4, 1.0)},
        "schedule": {"cooldown": 0.45},
    },
    "loss: gradients, weight 1": {"objective": {"gradient_weight": 1.0}},
    "queries from chance, without places": {"model": {"query_start": "random"}},
}
_FACTORS = ("gaussians_per_query", "queries", "batch_size", "lr", "muon_lr")  # changed by a factor


@script(takes="hours, about 10 minutes for each change and seed", needs="photographs to train on")
@click.option("--data", multiple=True, required=True, metavar="PATH", help="Photographs, as for `gmae-tools pretrain`.")
@click.option("--preset", default="nano", show_default=True)
@click.option("--image-size", type=click.IntRange(1), metavar="PX", help="Side of pictures.  [default: the preset's]")
@click.option(
    "--samples", type=click.IntRange(1), default=40_000, show_default=True, help="Pictures that each run trains on."
)
@click.option("--seeds", callback=whole_numbers, default="0,1", show_default=True)
@click.option("--change", "names", multiple=True, help="Only the changes whose names begin with this; may be repeated.")
@click.option(
    "--held-out", type=click.IntRange(1), default=500, show_default=True, help="Number of held-out photographs."
)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=RUNS / "choices",
    help="Folder of the runs, which a later call continues.",
)
@results_option("-o", "--out")
def main(
    data: tuple[str, ...], preset: str, image_size: int | None, samples: int, seeds: tuple[int, ...],
    names: tuple[str, ...], held_out: int, runs: Path, out: Path,
) -> None:  # fmt: skip
    """Train, measure, and write the table."""
    chosen = [name for name in CHANGES if name == DEFAULTS or not names or name.startswith(names)]
    if names and len(chosen) == 1:
        raise click.UsageError(f"no change begins with {' or '.join(names)}: there are {', '.join(CHANGES)}")
    photos = PhotoStore.open(data)
    held = HeldOut(photos, held_out_split(photos.names, held_out)[1], held_out)
    figures: dict[str, list[dict[str, float]]] = {}
    for name in chosen:
        for seed in seeds:
            config = run_config(name, data, preset, image_size, samples, held_out, seed)
            label = f"{list(CHANGES).index(name):02d}-{preset}-{config.model.image_size}-{samples}-{seed}"
            figures.setdefault(name, []).append(figures_of(config, runs / label, held))
            click.echo(f"{name}, seed {seed}: {figures[name][-1]}", err=True)
    rows = [row(name, each, figures[DEFAULTS]) for name, each in figures.items()]
    write_table(out / f"pretraining_choices_{preset}.csv", rows, COLUMNS)
    click.echo(__doc__)
    click.echo(f"Preset {preset}, {config.model.image_size} px, {samples:,} samples a run.\n")
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


def run_config(
    name: str, data: Sequence[str], preset: str, image_size: int | None, samples: int, held_out: int, seed: int
) -> PretrainConfig:
    """The run of a change."""
    model = GMAEConfig.preset(preset, **({} if image_size is None else {"image_size": image_size}))
    config = PretrainConfig(
        tuple(data), model, Schedule(samples, resolutions=(model.image_size,)), held_out=held_out, seed=seed,
        evaluate_every=3600, save_every=600,
    )  # fmt: skip
    change = CHANGES[name]
    return dataclasses.replace(
        config,
        model=changed(config.model, change.get("model", {})),
        schedule=changed(config.schedule, change.get("schedule", {})),
        objective=changed(config.objective, change.get("objective", {})),
        optimizer=changed(config.optimizer, change.get("optimizer", {})),
        **{key: new_value(config, key, value) for key, value in change.get("run", {}).items()},
    )


def changed(settings: Any, changes: Mapping[str, Any]) -> Any:
    return dataclasses.replace(settings, **{key: new_value(settings, key, value) for key, value in changes.items()})


def new_value(settings: Any, key: str, value: Any) -> Any:
    """A factor times the old value, of the same type; or just the value."""
    old = getattr(settings, key)
    return type(old)(old * value) if key in _FACTORS else value


def figures_of(config: PretrainConfig, run: Path, held: HeldOut) -> dict[str, float]:
    """What a run reached; it is trained unless it was before."""
    kept = run / "figures.json"
    if not kept.exists():
        model = checkpoints.load(pretrain(config, run, resume=True, device="cpu"))
        size = config.model.image_size
        figures = held.psnr(model, size) | {"psnr_quarter": psnr_of_nearest(model, held, size, model.config.k // 4)}
        figures["images_per_s"] = images_per_second(run / LOG_FILE)
        write_files(run, {kept.name: json.dumps(figures)})
    found: dict[str, float] = json.loads(kept.read_text())
    return found


@torch.no_grad()
def psnr_of_nearest(model: GMAE, held: HeldOut, size: int, k: int) -> float:
    """Mean PSNR of the pictures that the nearest `k` Gaussians draw."""
    values = []
    for _, images in held.batches(model, size):
        nearest = model(images).sort_by_depth().select(slice(k))
        drawn = render(nearest, model.camera, size, size, torch.ones(3)).clamp(0, 1)
        values += [
            psnr(a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()) for a, b in zip(drawn, images, strict=True)
        ]
    return float(np.mean(values))


def row(name: str, figures: Sequence[Mapping[str, float]], defaults: Sequence[Mapping[str, float]]) -> Row:
    """A row of the table, from the figures of each seed."""
    means = {key: statistics.mean(each[key] for each in figures) for key in figures[0]}
    differences = [each["psnr"] - other["psnr"] for each, other in zip(figures, defaults, strict=True)]
    own = name == DEFAULTS
    return {
        "change": name, **{key: means[key] for key in ("psnr", "psnr_masked", "psnr_quarter", "images_per_s")},
        "difference": None if own else statistics.mean(differences),
        "spread": None if own or len(differences) < 2 else statistics.stdev(differences), "seeds": len(figures),
    }  # fmt: skip


if __name__ == "__main__":
    main()
