"""What does splatting cost in pretraining, and how does a step grow with the number of Gaussians?

Protocol: full training steps (forward, loss, backward, clipping, AdamW at learning rate 0, so that nothing changes from
step to step) on crops of the bundled photograph at the preset's picture size. `masked` is the share of hidden patches;
the loss is that of the hidden patches, or of all where none is hidden. The models take turns in rounds; times are
medians over the rounds, and a ratio or a difference is the median of those within a round, so that a busy machine slows
all alike.

- `mae`: the same encoder with MAE's pixel decoder, as wide and as deep as GMAE's. The unit of `ratio`.
- `gmae`: 128 queries whatever K, K / 128 Gaussians each. `growth` is relative to the smallest K of the same footprints.
- `splatting_ms` and `share`: a step's time minus that of one whose loss is on the Gaussians themselves, without
  rendering; it includes the loss on pixels. (The paper has 1.5 % for K = 256 of a ViT-B on GPUs.)
- `footprint`: `fresh`, as in a model before its first step, the same for every K; `trained`, scaled so that K Gaussians
  cover as much as those of a trained checkpoint (K sigma^2 is constant), though rounder; `checkpoint`, the checkpoint
  itself. `sigma_px`: root mean square of the standard deviations in the picture.
- `memory_mb`: peak of model, gradients, optimiser, activations and renderer together; of resident memory on a CPU (to
  some 10 MB), of allocated memory on a GPU.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from evals.common import PHOTO, RESULTS, machine, script, take_turn, write_files
from gmae_tools import checkpoints
from gmae_tools.camera import project
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import read_image, resize, to_tensor
from gmae_tools.mae import MAE, MAEConfig, mae_loss
from gmae_tools.model import GMAE, AutoencoderConfig, GMAEConfig
from gmae_tools.prediction import resolve_device
from gmae_tools.pretrain.objectives.gmae import GMAEObjective, gmae_loss
from gmae_tools.pretrain.optimizers import OptimizerConfig, build_optimizers
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.splatting import choose_backend
from gmae_tools.vit import visible_patches

COLUMNS = {
    "masked": 2, "model": None, "k": None, "footprint": None, "sigma_px": 1, "step_ms": 1, "images_per_s": 1,
    "ratio": 3, "growth": 2, "splatting_ms": 1, "share": 3, "memory_mb": 0,
}  # fmt: skip
BAR = 2.0  # the largest K must cost less than this many times the smallest
SCALES = slice(3, 6)  # in the decoder's bias


@dataclass(frozen=True)
class Bench:
    """What all contenders share.

    Attributes:
        images: `[B, 3, S, S]` in [0, 1], on the device.
        visible: patches that are not hidden, `[B, V]`.
        backgrounds: `[B, 3]`.
        bf16: whether the transformer computes in it.
    """

    images: Tensor
    visible: Tensor
    backgrounds: Tensor
    bf16: bool


@dataclass(frozen=True)
class Contender:
    """A model to be timed.

    Attributes:
        config: a `MAEConfig` or a `GMAEConfig`.
        footprint: its name in the table, None for pixels.
        scale: standard deviation in the scene that all Gaussians start with, None for the model's own.
        draws: whether the Gaussians are rendered.
        weights: a trained model to copy.
    """

    config: MAEConfig | GMAEConfig
    footprint: str | None = None
    scale: float | None = None
    draws: bool = True
    weights: GMAE | None = None

    @property
    def k(self) -> int:
        return self.config.k if isinstance(self.config, GMAEConfig) else 0

    def build(self) -> GMAE | MAE:
        torch.manual_seed(0)
        if isinstance(self.config, MAEConfig):
            return MAE(self.config)
        model = GMAE(self.config)
        if self.weights:
            model.load_state_dict(self.weights.state_dict())
        if self.scale:
            share = torch.tensor(self.scale / self.config.max_scale)
            model.decoder.bias.data[SCALES] = torch.logit(share, eps=1e-3)
        return model

    def loss(self, model: GMAE | MAE, bench: Bench) -> Tensor:
        if isinstance(self.config, MAEConfig):
            return mae_loss(model, bench.images, bench.visible, self.config)
        if self.draws:
            objective = GMAEObjective(loss_on="masked")
            return gmae_loss(model, bench.images, bench.visible, bench.backgrounds, objective, self.config)[0]
        gaussians = model(bench.images, bench.visible)
        return torch.stack([getattr(gaussians, field.name).mean() for field in fields(Gaussians)]).sum()

    def sigma(self, bench: Bench) -> float:
        """Root mean square of the standard deviations in the picture, px."""
        model, size = self.build().to(bench.images.device), bench.images.shape[-1]
        assert isinstance(model, GMAE)
        with torch.no_grad():
            a, b, c = project(model(bench.images, bench.visible), model.camera, size, size).conics.unbind(-1)
        return float((a * c - b * b).rsqrt().mean().sqrt())  # of an ellipse: the square root of its axes' product


def contenders(preset: str, queries: int, ks: Sequence[int], checkpoint: GMAE, bench: Bench) -> list[Contender]:
    """MAE, every K with fresh and with trained footprints and unrendered, and the checkpoint if it is of the preset."""
    mae = MAEConfig.preset(preset)
    trained = Contender(checkpoint.config, "checkpoint", weights=checkpoint)
    area = checkpoint.config.k * trained.sigma(bench) ** 2
    found = [Contender(mae)]
    for k in ks:
        config = GMAEConfig.preset(preset, queries=queries, gaussians_per_query=k // queries)
        fresh, blur = Contender(config, "fresh"), config.camera.blur
        start = config.max_scale * float(GMAE(config).decoder.bias.detach()[SCALES].sigmoid().mean())
        scale = start * ((area / k - blur) / (fresh.sigma(bench) ** 2 - blur)) ** 0.5
        found += [fresh, replace(fresh, footprint="trained", scale=scale), replace(fresh, draws=False)]
    if all(getattr(checkpoint.config, field.name) == getattr(mae, field.name) for field in fields(AutoencoderConfig)):
        found += [trained, replace(trained, draws=False)]
    return found


# --- measuring ---------------------------------------------------------------------------------------


def training(contender: Contender, bench: Bench) -> Callable[[], None]:
    """Builds the model and its optimiser; each call is a training step, to its end on the device too."""
    model = contender.build().to(bench.images.device)
    optimizers = build_optimizers(model, OptimizerConfig("adamw"))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = 0.0
    device = bench.images.device.type

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bench.bf16):
            loss = contender.loss(model, bench)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    step()  # a warm-up, which compiles and touches the memory
    return step


def time_rounds(competing: Sequence[Contender], bench: Bench, rounds: int) -> dict[Contender, np.ndarray]:
    """Milliseconds `[rounds]` of each contender."""
    calls = {each: training(each, bench) for each in competing}
    turns = [[take_turn(call) for call in calls.values()] for _ in range(rounds)]
    return dict(zip(competing, np.transpose(turns), strict=True))


def peak_memory(contender: Contender, bench: Bench) -> float | None:
    """Megabytes that training this model takes at its peak; None where the system does not report it."""
    gc.collect()
    if bench.images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
        training(contender, bench)()
        return torch.cuda.max_memory_allocated() / 2**20 - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    except (OSError, AttributeError):  # not Linux, or not its usual C library
        return None
    before = resident("VmRSS")
    training(contender, bench)()
    return resident("VmHWM") - before


def resident(name: str) -> float:
    """A figure of this process in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measure(competing: Sequence[Contender], bench: Bench, rounds: int, masked: float) -> Iterator[Row]:
    """The rows of the table for one share of hidden patches; the first contender is the unit."""
    shown = [each for each in competing if each.draws]
    training(shown[-1], bench)  # loads the renderer, which is no model's memory
    memory = {each: peak_memory(each, bench) for each in shown}
    times = time_rounds(competing, bench, rounds)
    for each in shown:
        kin = [other for other in shown if other.footprint == each.footprint]
        undrawn = (other for other in competing if not other.draws)
        bare = next((times[o] for o in undrawn if (o.config, o.weights) == (each.config, each.weights)), None)
        yield {
            "masked": masked,
            "model": "gmae" if each.k else "mae",
            "k": each.k or None,
            "footprint": each.footprint,
            "sigma_px": each.sigma(bench) if each.k else None,
            "step_ms": median(times[each]),
            "images_per_s": median(1000 * len(bench.images) / times[each]),
            "ratio": median(times[each] / times[shown[0]]),
            "growth": median(times[each] / times[min(kin, key=lambda other: other.k)]),
            "splatting_ms": None if bare is None else median(times[each] - bare),
            "share": None if bare is None else median(1 - bare / times[each]),
            "memory_mb": memory[each],
        }


def median(values: np.ndarray) -> float:
    return float(np.median(values))


def make_bench(size: int, patch: int, batch: int, masked: float, device: torch.device, bf16: bool) -> Bench:
    """Crops of the photograph, and which of their patches are visible."""
    photo = to_tensor(resize(read_image(PHOTO), 2 * size, 2 * size))[0]
    corners = np.random.default_rng(0).integers(0, size, (batch, 2))
    images = torch.stack([photo[:, top : top + size, left : left + size] for top, left in corners.tolist()])
    samples, objective = np.arange(batch), GMAEObjective((masked, masked))
    masks = objective.masks((size // patch) ** 2, 0, samples, seed=0)
    backgrounds = objective.backgrounds(samples, seed=0)
    return Bench(images.to(device), visible_patches(masks).to(device), backgrounds.to(device), bf16)


# --- reporting ---------------------------------------------------------------------------------------


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """Splatting's share and the bar, for each share of hidden patches and kind of footprint."""
    kinds = dict.fromkeys((row["masked"], row["footprint"]) for row in rows if row["k"])
    for masked, footprint in kinds:
        found: list[Any] = [row for row in rows if (row["masked"], row["footprint"]) == (masked, footprint)]
        shares = ", ".join(f"{row['share']:.1%} at K = {row['k']}" for row in (found[0], found[-1])[: len(found)])
        text = f"- {masked:.0%} hidden, footprints {footprint}: splatting is {shares} of a step."
        if len(found) > 1:
            growth = found[-1]["growth"]
            text += f" K = {found[-1]['k']} costs {growth:.2f} times a step of K = {found[0]['k']}"
            text += f" ({'below' if growth < BAR else 'missing'} the bar of {BAR:g})."
        yield text


def report(rows: Sequence[Row], where: str) -> str:
    """The page: protocol, machine, table, verdicts."""
    parts = ["# Speed of pretraining", (__doc__ or "").strip(), where]
    return "\n\n".join([*parts, f"```\n{format_rows(rows, COLUMNS, 'table')}```", "\n".join(verdicts(rows))]) + "\n"


@script(takes="10 minutes", needs="a machine that does nothing else")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--preset", default="tiny", show_default=True)
@click.option("--batch", default=8, show_default=True, help="Pictures of each step.")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), default="float32", show_default=True)
@click.option("--checkpoint", default="gmae-tiny", show_default=True, help="The model with trained footprints.")
@click.option("--rounds", default=7, show_default=True, help="Rounds in which the models take turns.")
@click.option("--quick", is_flag=True, help="Tiny models, two rounds: only to see that it runs.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Folder for pretraining_speed.csv and .md."
    "  [default: evals/results; nothing is written with --quick]",
)  # fmt: skip
def main(
    device: str, preset: str, batch: int, precision: str, checkpoint: str, rounds: int, quick: bool, out: Path | None
) -> None:
    """Time training steps of GMAE against those of MAE."""
    queries, ks, masks = 128, [256, 512, 1024, 2048, 4096], [0.75, 0.0]
    if quick:
        preset, batch, rounds, queries, ks, masks = "nano", 2, 2, 16, [32, 64], [0.75]
    where = resolve_device(device)
    model = checkpoints.load(checkpoint)
    like = AutoencoderConfig.preset(preset)
    rows: list[Row] = []
    for masked in masks:
        click.echo(f"{masked:.0%} of the patches hidden", err=True)
        bench = make_bench(like.image_size, like.patch_size, batch, masked, where, precision == "bf16")
        rows += measure(contenders(preset, queries, ks, model, bench), bench, rounds, masked)
    threads = f"{torch.get_num_threads()} threads" if where.type == "cpu" else torch.cuda.get_device_name(where)
    setting = f"preset {preset}, {like.image_size} px, batch {batch}, {precision}, {rounds} rounds"
    page = report(rows, f"{machine()} {threads}, renderer {choose_backend('auto', where)}; {setting}.")
    click.echo(page)
    if out or not quick:
        write_files(
            out or RESULTS, {"pretraining_speed.md": page, "pretraining_speed.csv": format_rows(rows, COLUMNS, "csv")}
        )


if __name__ == "__main__":
    main()
