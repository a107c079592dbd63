"""What is the best model that one GPU trains in so many minutes? One command, which can be killed and called again.

Protocol:

1. Speed: every batch size in both precisions trains for its share of `--speed-seconds`, at the largest picture size,
   with the input pipeline of real runs and without `torch.compile`, whose minutes a short run does not earn back. Its
   `images_per_second` is the median over the second half of its log; `waiting` the share of time spent waiting for
   pictures; `peak_gb` what the GPU needed. Chosen is the smallest batch that is within 10 % of the fastest, since a
   small batch learns more from as many pictures.
2. Training: `--minutes` by the clock with what was chosen and the defaults of `gmae-tools pretrain`. AdamW's rate grows
   with the square root of the batch, at most twofold; Muon's stays. (Neither was studied at large batches.)
3. The checkpoint goes to `--out`, in half precision and in pieces of at most `--shard-mb`, with log, samples, speeds.

What was done is kept in `--run`: a later call goes on from there.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import statistics
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import click
import torch
from accelerate.state import AcceleratorState

from evals.common import read_table, script, whole_numbers, write_table
from gmae_tools.datasets.photos import PhotoStore
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import one_line
from gmae_tools.model import GMAEConfig
from gmae_tools.prediction import resolve_device
from gmae_tools.pretrain.loop import LOG_FILE, Execution, PretrainConfig, pretrain
from gmae_tools.pretrain.optimizers import OptimizerConfig
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.splatting.backends import choose_backend

Precision = Literal["bf16", "float32"]

COLUMNS = {"batch_size": None, "precision": None, "images_per_second": 0, "waiting": 3, "peak_gb": 1}
PRECISIONS: tuple[Precision, ...] = ("bf16", "float32")
NEARLY_AS_FAST = 0.9
USUAL_BATCH, USUAL_LR = 64, 1e-3  # the defaults of `gmae-tools pretrain`


@script(takes="25 minutes of one GPU, or as told by --minutes", needs="a GPU, and photographs to train on")
@click.option("--data", multiple=True, required=True, metavar="PATH", help="Photographs, as for `gmae-tools pretrain`.")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder for the checkpoint and what goes with it.")
@click.option("--run", default="runs/gpu-session", show_default=True, help="Folder of the run; needed to go on.")
@click.option("--minutes", default=20.0, show_default=True, help="Minutes of training.")
@click.option("--preset", default="tiny", show_default=True)
@click.option("--resolution", default="128,224", show_default=True, callback=whole_numbers)
@click.option("--batch-sizes", default="256,1024,4096", show_default=True, callback=whole_numbers)
@click.option("--speed-seconds", default=60.0, show_default=True, help="Seconds of the speed test.")
@click.option("--muon-lr", default=0.02, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--compile", type=click.Choice(["auto", "on", "off"]), default="auto", show_default=True)
@click.option("--shard-mb", default=16.0, show_default=True)
def main(
    data: tuple[str, ...], out: str, run: str, minutes: float, preset: str, resolution: tuple[int, ...],
    batch_sizes: tuple[int, ...], speed_seconds: float, muon_lr: float, device: str, compile: Any, shard_mb: float,
) -> None:  # fmt: skip
    """Choose batch size and precision, train as long as told, bring back the checkpoint."""
    folder = Path(run)
    config = run_config(data, preset, resolution, minutes)
    click.echo(__doc__)
    start = time.monotonic()
    backend = choose_backend("auto", resolve_device(device))  # gsplat may compile
    click.echo(f"splatting by {backend}, ready after {time.monotonic() - start:.0f} s")
    speeds = measure_speeds(config, folder, batch_sizes, speed_seconds, device)
    click.echo(format_rows(speeds, COLUMNS, "table"), nl=False)
    batch_size, precision = choose(speeds)
    click.echo(f"chosen: batches of {batch_size} in {precision}")
    optimizer = OptimizerConfig(lr=rate_for(batch_size), muon_lr=muon_lr)
    chosen = replace(config, batch_size=batch_size, precision=precision, optimizer=optimizer)
    _forget_precision()
    execution = Execution(compile=compile, shard_mb=shard_mb)
    deliver(pretrain(chosen, folder / "train", resume=True, device=device, execution=execution), folder, Path(out))
    click.echo(out)


def run_config(data: tuple[str, ...], preset: str, resolution: tuple[int, ...], minutes: float) -> PretrainConfig:
    """A run by the clock, which grows through the resolutions in equal parts, and is evaluated six times."""
    grow_at = tuple((i + 1) / len(resolution) for i in range(len(resolution) - 1))
    schedule = Schedule(1, time_budget=60 * minutes, resolutions=resolution, grow_at=grow_at)
    return PretrainConfig(data, GMAEConfig.preset(preset), schedule, evaluate_every=10 * minutes)


def rate_for(batch_size: int) -> float:
    """AdamW's step size: that of the usual batch times the square root of the ratio of the batches, at most twice."""
    return USUAL_LR * min(2.0, math.sqrt(batch_size / USUAL_BATCH))


def measure_speeds(
    config: PretrainConfig, folder: Path, batch_sizes: tuple[int, ...], seconds: float, device: str
) -> list[Row]:
    """The rows of `speed.csv`, from an earlier call if there was one."""
    path = folder / "speed.csv"
    if path.exists():
        return read_table(path)
    PhotoStore.open(config.data)  # decoded before time is taken
    cases = list(product(batch_sizes, PRECISIONS))
    rows = [measure_speed(config, folder, *case, seconds / len(cases), device) for case in cases]
    write_table(path, rows, COLUMNS)
    return rows


def measure_speed(
    config: PretrainConfig, folder: Path, batch_size: int, precision: Precision, seconds: float, device: str
) -> Row:
    """Train for so many seconds; NaN where that fails, for want of memory as a rule."""
    row: dict[str, str | int | float | None] = {"batch_size": batch_size, "precision": precision}
    name = f"speed-{batch_size}-{precision}"
    shutil.rmtree(folder / name, ignore_errors=True)
    schedule = Schedule(1, time_budget=seconds, resolutions=config.schedule.resolutions[-1:])
    case = replace(config, schedule=schedule, batch_size=batch_size, precision=precision, held_out=0, log_every=4)
    cuda = torch.cuda.is_available() and device != "cpu"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    _forget_precision()
    try:
        pretrain(case, folder / name, device=device, execution=Execution(compile="off"))
        lines = [json.loads(line) for line in (folder / name / LOG_FILE).read_text().splitlines()]
        settled = [line for line in lines if "loss" in line][len(lines) // 2 :] or lines[:1]
        figures = {key: statistics.median(line[key] for line in settled) for key in ("images_per_second", "waiting")}
    except (torch.cuda.OutOfMemoryError, GmaeToolsError) as error:
        click.echo(f"{name}: {one_line(error)}", err=True)
        figures = {"images_per_second": math.nan, "waiting": math.nan}
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else math.nan
    gc.collect()
    torch.cuda.empty_cache()
    return {**row, **figures, "peak_gb": peak}


def choose(speeds: list[Row]) -> tuple[int, Precision]:
    """The smallest batch that is nearly as fast as the fastest, in its faster precision."""
    rated = [(float(row["images_per_second"] or 0), row) for row in speeds]
    fastest = max((rate for rate, _ in rated if rate > 0), default=None)
    if fastest is None:
        raise click.ClickException("no batch size fits into memory: give smaller --batch-sizes")
    good = [(rate, row) for rate, row in rated if rate >= NEARLY_AS_FAST * fastest]
    _, best = min(good, key=lambda case: (case[1]["batch_size"], -case[0]))
    return int(best["batch_size"] or 0), "bf16" if best["precision"] == "bf16" else "float32"


def deliver(checkpoint: Path, folder: Path, out: Path) -> None:
    """Copy what is worth keeping."""
    out.mkdir(parents=True, exist_ok=True)
    files = [*checkpoint.iterdir(), folder / "train" / LOG_FILE, folder / "train" / "samples.png", folder / "speed.csv"]
    for file in files:
        if file.exists():  # there are no samples without held-out photographs
            shutil.copyfile(file, out / file.name)


def _forget_precision() -> None:
    """Accelerate keeps its first settings for the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)


if __name__ == "__main__":
    main()
