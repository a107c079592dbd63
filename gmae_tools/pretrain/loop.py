"""The pretraining loop: any number of processes, resumable at every saved state, with a log that anyone can plot.

A run is a folder: `pretrain.json` (the configuration), `log.jsonl` (loss and held-out figures), `state.pt` (everything
needed to go on), `model/` (the newest checkpoint, ready for `--checkpoint`), `samples.png` (held-out pictures) and
`cache/` (decoded photographs).
Which photographs a step sees, and how they are cropped and masked, follows from (seed, sample number) alone; so neither
the number of processes nor an interruption changes the loss curve. (One small term does depend on the processes: each
takes `slot_depth_spread` over its own share of a batch. And a time budget leaves the schedule to the clock.)
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor
from tqdm import tqdm

from gmae_tools import checkpoints
from gmae_tools.datasets.photos import PhotoStore, held_out_split, prefetch, training_batch
from gmae_tools.errors import GmaeToolsError
from gmae_tools.files import atomic_path
from gmae_tools.images import one_line
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.predict import resolve_device
from gmae_tools.pretrain.evaluation import HeldOut
from gmae_tools.pretrain.objective import ObjectiveConfig, draw_backgrounds, draw_masks, gmae_loss
from gmae_tools.pretrain.optimizers import OptimizerConfig, build_optimizers
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.pretrain.warm_start import warm_start

CONFIG_FILE, STATE_FILE, LOG_FILE, MODEL_FOLDER = "pretrain.json", "state.pt", "log.jsonl", "model"


@dataclass(frozen=True)
class PretrainConfig:
    """All choices of a run.

    Args:
        data: folders, photographs or tar shards.
        model, objective, optimizer, schedule: see there.
        batch_size: pictures a step over all processes.
        crop_scale: smallest and largest share of a photograph's area that a training crop shows.
        clip: largest norm of the gradient.
        precision: arithmetic of the transformer; `auto` is bf16 where the hardware has it.
        held_out: number of photographs never trained on.
        warm_start: where the encoder's first weights come from, if not from chance; see `warm_start`.
        log_every: steps between lines of the log.
        save_every, evaluate_every: seconds between states and between held-out evaluations.
    """

    data: tuple[str, ...]
    model: GMAEConfig
    schedule: Schedule
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batch_size: int = 64
    crop_scale: tuple[float, float] = (0.2, 1.0)
    clip: float = 1.0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    held_out: int = 500
    warm_start: str | None = None
    seed: int = 0
    log_every: int = 10
    save_every: float = 60.0
    evaluate_every: float = 600.0

    def __post_init__(self) -> None:
        for size in self.schedule.resolutions:
            if size < 1 or size % self.model.patch_size:
                raise GmaeToolsError(f"resolution {size} is not a multiple of the patch size {self.model.patch_size}")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise GmaeToolsError(f"crop scale {low}..{high}: must lie within 0..1, the lower one first")
        if min(self.batch_size, self.log_every) < 1 or not self.clip > 0:
            raise GmaeToolsError("batch size, log-every and clip must be above 0")
        if min(self.held_out, self.seed, self.save_every, self.evaluate_every) < 0:
            raise GmaeToolsError("held-out, seed, save-every and evaluate-every must not be negative")

    def to_json(self) -> str:
        """For `pretrain.json`, and to tell whether two runs are the same."""
        return json.dumps(dataclasses.asdict(self), indent=2)


def pretrain(config: PretrainConfig, out: Path, *, resume: bool = False, device: str = "auto") -> Path:
    """Run or continue a run; returns the folder of the finished checkpoint. A finished run is left as it is.

    Args:
        config: all choices.
        out: folder of the run, made if missing.
        resume: continue the run in `out`, from the start if nothing was saved yet; without it, `out` must hold none.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        GmaeToolsError: the folder holds another run, the data cannot be read, or training diverged.
    """
    where = resolve_device(device)
    accelerator = Accelerator(cpu=where.type == "cpu", mixed_precision=_precision(config.precision, where))
    if accelerator.is_main_process:
        _check_folder(config, out, resume)
    accelerator.wait_for_everyone()
    run = _Run(config, out, accelerator)
    if accelerator.is_main_process:  # only now: settings that cannot work leave nothing behind
        with atomic_path(out / CONFIG_FILE) as temporary:
            temporary.write_text(config.to_json() + "\n")
    return run.train()


def _precision(wanted: str, device: torch.device) -> str:
    """Accelerate's name for the arithmetic."""
    bf16 = wanted == "bf16" or (wanted == "auto" and _has_bf16(device))
    return "bf16" if bf16 else "no"


def _has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes in bf16; where torch merely emulates it, float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _check_folder(config: PretrainConfig, out: Path, resume: bool) -> None:
    """Make the run's folder; what lies there must be this run."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / CONFIG_FILE
    if not path.exists():
        return
    if not resume:
        raise GmaeToolsError(f"{out} already holds a run: add --resume to continue it, or choose another --out")
    try:
        changed = _differences(json.loads(path.read_text()), json.loads(config.to_json()))
    except (ValueError, AttributeError) as error:
        raise GmaeToolsError(f"{path}: damaged ({one_line(error)}); choose another --out") from None
    if changed:
        raise GmaeToolsError(f"{out} was begun with other settings ({', '.join(changed)}); use those, or another --out")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key in old.keys() | new.keys():
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}: {a} is now {b}")
    return sorted(names)


class _Run:
    """One process's share of a run."""

    def __init__(self, config: PretrainConfig, out: Path, accelerator: Accelerator) -> None:
        if config.batch_size % accelerator.num_processes:
            raise GmaeToolsError(
                f"batch size {config.batch_size} cannot be shared by {accelerator.num_processes} processes"
            )
        self.config, self.out, self.accelerator = config, out, accelerator
        with accelerator.main_process_first():  # one process decodes, the others map its cache
            self.photos = PhotoStore.open(config.data, out / "cache", progress=accelerator.is_main_process)
        self.train_indices, held_out = held_out_split(self.photos.names, config.held_out)
        self.held_out = HeldOut(self.photos, held_out)
        self._say(_describe(self.photos, len(self.train_indices), len(held_out)))
        torch.manual_seed(config.seed)
        self.bare_model = GMAE(config.model)
        if config.warm_start:
            warm_start(self.bare_model, config.warm_start)
        optimizers = build_optimizers(self.bare_model, config.optimizer)
        self.model, *self.optimizers = accelerator.prepare(self.bare_model, *optimizers)
        self.step, self.seconds = 0, 0.0
        self._restore()
        self.saved_step = self.step

    def train(self) -> Path:
        """Run to the end of the schedule; a state saved at the end means that nothing is left to do."""
        progress = self._progress()
        if progress < 1:
            bar = tqdm(initial=round(100 * progress, 2), total=100.0, disable=not self.accelerator.is_main_process,
                       bar_format="{l_bar}{bar}| [{elapsed}<{remaining}] {postfix}")  # fmt: skip
            try:
                with bar, closing(prefetch(self._batches(), depth=3)) as batches:  # type: ignore[type-var]
                    self._train(batches, bar)
                self._evaluate(self.config.schedule.resolutions[-1])
                self._save()
            except KeyboardInterrupt:
                again = f"the same command with --resume continues from step {self.saved_step}"
                self._say(f"interrupted at step {self.step}: {again}")
                raise
            self.accelerator.wait_for_everyone()
        return self.out / MODEL_FOLDER

    def _train(self, batches: Iterator[tuple[np.ndarray, Tensor]], bar: tqdm[Any]) -> None:
        """All steps, and what is due between them."""
        progress = self.latest_progress
        losses: list[Tensor] = []
        clock = saved = evaluated = logged = time.monotonic()
        while progress < 1:
            samples, images = next(batches)
            losses.append(self._train_step(samples, images, progress))
            self.step += 1
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            progress = self._progress()
            if self.step % self.config.log_every == 0 or progress >= 1:
                loss = float(self.accelerator.reduce(torch.stack(losses).mean(), "mean"))
                rate = len(losses) * self.config.batch_size / (now - logged)
                losses, logged = [], now
                self._log(
                    loss=loss,
                    images_per_second=round(rate, 1),
                    size=images.shape[-1],
                    progress=round(progress, 5),
                )
                bar.n = round(100 * progress, 2)
                bar.set_postfix_str(f"loss {loss:.5f}, {rate:.0f} images/s, {images.shape[-1]} px", refresh=True)
                if progress < 1 and now - evaluated > self.config.evaluate_every:
                    self._evaluate(images.shape[-1])
                    evaluated = time.monotonic()
                if progress < 1 and now - saved > self.config.save_every:
                    self._save()
                    saved = time.monotonic()

    def _progress(self) -> float:
        """Progress as the main process sees it, so that all processes stop at the same step."""
        own = self.config.schedule.progress(self.step * self.config.batch_size, self.seconds)
        if self.accelerator.num_processes == 1 or self.config.schedule.time_budget is None:
            self.latest_progress = own
        else:
            shared = broadcast(torch.tensor(own, dtype=torch.float64, device=self.accelerator.device))
            self.latest_progress = float(shared)
        return self.latest_progress

    def _batches(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """This process's sample numbers `[b]` and pictures `[b, 3, H, W]` in [0, 1] of every step to come."""
        batch, processes = self.config.batch_size, self.accelerator.num_processes
        step = self.step
        while True:
            samples = np.arange(step * batch, (step + 1) * batch)[self.accelerator.process_index :: processes]
            indices = np.array([self._photo_of(int(sample)) for sample in samples])
            by_time = self.config.schedule.time_budget is not None
            progress = self.latest_progress if by_time else self.config.schedule.progress(step * batch, 0)
            size = self.config.schedule.resolution(progress)
            pixels = training_batch(self.photos, indices, samples, size, self.config.seed, self.config.crop_scale)
            yield samples, torch.from_numpy(pixels).permute(0, 3, 1, 2)
            step += 1

    def _photo_of(self, sample: int) -> int:
        """Every epoch is its own permutation of the training photographs."""
        epoch, position = divmod(sample, len(self.train_indices))
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.config.seed, 0, epoch)).permutation(self.train_indices)
        return int(self._order[position])

    def _train_step(self, samples: np.ndarray, images: Tensor, progress: float) -> Tensor:
        config, device = self.config, self.accelerator.device
        images = images.to(device, non_blocking=True).float() / 255
        patches = (images.shape[-1] // config.model.patch_size) ** 2
        masks = draw_masks(config.objective, patches, self.step, samples, config.seed).to(device)
        backgrounds = draw_backgrounds(config.objective, samples, config.seed).to(device)
        factor = config.schedule.learning_rate_factor(progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.zero_grad()
        try:
            loss, error = gmae_loss(self.model, images, masks, backgrounds, config.objective, config.model)
        except GmaeToolsError as problem:  # the renderer draws no NaN
            raise GmaeToolsError(f"diverged at step {self.step} ({problem}): lower the learning rates") from None
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return error

    def _evaluate(self, size: int) -> None:
        """Held-out figures into the log, a contact sheet and the newest checkpoint into the folder.

        The main process alone does it, by its own clock; the others wait for it in their next step.
        """
        if self.accelerator.is_main_process:
            self.bare_model.eval()
            figures = self.held_out.psnr(self.bare_model, size)
            self.held_out.contact_sheet(self.bare_model, size, self.out / "samples.png")
            self.bare_model.train()
            self._log(size=size, **figures)
            training: dict[str, Any] = {
                "samples": self.step * self.config.batch_size,
                "seconds": round(self.seconds),
                "photographs": len(self.train_indices),
                "skipped": len(self.photos.skipped),
                **figures,
            }
            sources = [Path(source).name for source in self.config.data]  # checkpoints are shared: nobody's paths
            training["recipe"] = {**json.loads(self.config.to_json()), "data": sources}
            checkpoints.save(self.bare_model, self.out / MODEL_FOLDER, half=True, training=training)
            shown = ", ".join(f"{name} {value:.2f} dB" for name, value in figures.items())
            self._say(f"step {self.step}: {shown or 'no photographs are held out'}")

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(text, file=sys.stderr)

    def _log(self, **values: float) -> None:
        if self.accelerator.is_main_process:
            line = {
                "step": self.step,
                "samples": self.step * self.config.batch_size,
                "seconds": round(self.seconds, 3),
            }
            with open(self.out / LOG_FILE, "a") as file:
                file.write(json.dumps({**line, **values}) + "\n")

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "step": self.step,
                "seconds": self.seconds,
                "model": self.bare_model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            }
            with atomic_path(self.out / STATE_FILE) as temporary:
                torch.save(state, temporary)
        self.saved_step = self.step

    def _restore(self) -> None:
        path = self.out / STATE_FILE
        if path.exists():
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                self.bare_model.load_state_dict(state["model"])
                for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                    optimizer.load_state_dict(saved)
                self.step, self.seconds = state["step"], state["seconds"]
            except Exception as error:  # torch.load raises anything on a damaged file
                problem = f"{path}: damaged ({one_line(error)}); delete it to start the run again"
                raise GmaeToolsError(problem) from None
        if self.accelerator.is_main_process:
            _clear_up(self.out, self.step)


def _describe(photos: PhotoStore, training: int, held_out: int) -> str:
    """How many photographs there are, and of those that cannot be read how many and one example."""
    text = f"{training} photographs to train on, {held_out} held out"
    if photos.skipped:
        name, reason = photos.skipped[0]
        text += f", {len(photos.skipped)} skipped as unreadable (the first: {name}: {reason})"
    return text


def _clear_up(out: Path, step: int) -> None:
    """Drop what a killed process logged after its last saved state, and a state that it was just writing."""
    for leftover in out.glob(f".{Path(STATE_FILE).stem}.*.tmp*"):
        leftover.unlink()
    path = out / LOG_FILE
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept))
