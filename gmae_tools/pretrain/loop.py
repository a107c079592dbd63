"""The pretraining loop: any number of processes, resumable from every saved state, with a log that is easy to plot.

A run is a folder: `pretrain.json` (the configuration), `log.jsonl` (loss and held-out measurements), `state.pt` (all
that is needed to continue), `model/` (the newest checkpoint, ready for `--checkpoint`) and `samples.png` (held-out
pictures). Several machines share this folder. Decoded photographs are in a cache elsewhere, which all runs share.

Which photographs a step sees, and how they are cropped and masked, follows from (seed, sample number) alone, and the
loss is a mean over samples. Therefore neither the number of processes nor accumulation nor an interruption changes the
loss curve, except that a time budget makes the schedule depend on the clock.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, distributed
from tqdm import tqdm

from gmae_tools import checkpoints
from gmae_tools.datasets.photos import PhotoStore, held_out_split, prefetch
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import one_line
from gmae_tools.model import Autoencoder, AutoencoderConfig
from gmae_tools.prediction import has_bf16, resolve_device
from gmae_tools.pretrain.batches import BatchMaker, BatchPlan, Placement
from gmae_tools.pretrain.held_out import HeldOut
from gmae_tools.pretrain.objectives import GMAEObjective, Objective
from gmae_tools.pretrain.optimizers import OptimizerConfig, build_optimizers
from gmae_tools.pretrain.sampling import Batch
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.pretrain.sheet import write_sheet
from gmae_tools.pretrain.warm_start import warm_start
from gmae_tools.splatting import Backend, choose_backend
from gmae_tools.system.files import atomic_path, write_text
from gmae_tools.vit import use_plain_attention

CONFIG_FILE, STATE_FILE, LOG_FILE, MODEL_FOLDER = "pretrain.json", "state.pt", "log.jsonl", "model"

Compile = Literal["auto", "on", "off"]

# Values of settings that are missing in `pretrain.json` of older versions, which behaved according to these values.
_FORMERLY = {
    "model.query_start": "grid",
    "objective.name": GMAEObjective.name,
    "objective.occlusion_gradient": 0.0,
    "objective.size_depth_weight": 0.0,
    "objective.region_depth_weight": 0.0,
    "objective.normalise_targets": False,
    "objective.stop_gradient": False,
    "model.head": "decoder",
}

# How long processes wait for one that decodes a data set or evaluates. If a process dies, the others end at once.
_PATIENCE = timedelta(days=2)
_BATCHES_AHEAD = 3
_BAR = "{l_bar}{bar}| [{elapsed}<{remaining}] {postfix}"


@dataclass(frozen=True)
class PretrainConfig:
    """All choices that decide what a run learns.

    Args:
        data: Folders, photographs or tar shards.
        model, schedule, objective, optimizer: See their classes.
        batch_size: Pictures of a step, over all processes.
        crop_scale: Smallest and largest share of a photograph's area that a training crop shows.
        clip: Largest norm of the gradient.
        precision: Arithmetic of the transformer; `auto` is bf16 where the hardware supports it.
        held_out: Number of photographs that are never trained on; at most a tenth of all.
        warm_start: Source of the first weights, None for random ones; see `warm_start`.
        seed: Seed of weights, order, crops, masks and backgrounds.
        log_every: Steps between lines of the log.
        save_every, evaluate_every: Seconds between saved states and between held-out evaluations.
    """

    data: tuple[str, ...]
    model: AutoencoderConfig
    schedule: Schedule
    objective: Objective = field(default_factory=GMAEObjective)
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
        name, wanted = self.objective.name, self.objective.model_config
        if type(self.model) is not wanted:
            raise GmaeToolsError(f"{name} trains a model of a {wanted.__name__}, not of a {type(self.model).__name__}")
        for size in self.schedule.resolutions:
            if size < 1 or size % self.model.patch_size:
                raise GmaeToolsError(f"resolution {size} is not a multiple of the patch size {self.model.patch_size}")
            patches, ratio = (size // self.model.patch_size) ** 2, self.objective.mask_ratio[0]
            if int(ratio * patches) < self.objective.least_hidden:
                problem = f"masking ratio {ratio:g} may hide none of {patches} patches, as {name} has to"
                raise GmaeToolsError(f"{problem}: raise it, or the resolution")
        if self.batch_size < 2 and not self.objective.by_picture:
            raise GmaeToolsError(f"batch size {self.batch_size}: {name} compares the pictures of a step, take more")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise GmaeToolsError(f"crop scale {low}..{high}: must lie within 0..1, the lower one first")
        if min(self.batch_size, self.log_every) < 1 or not self.clip > 0:
            raise GmaeToolsError("batch size, log-every and clip must be above 0")
        if min(self.held_out, self.seed, self.save_every, self.evaluate_every) < 0:
            raise GmaeToolsError("held-out, seed, save-every and evaluate-every must not be negative")

    def to_json(self) -> str:
        """The content of `pretrain.json`, by which a resumed run is compared with the one that it continues."""
        values = {**dataclasses.asdict(self), "model": self.model.to_dict()}
        values["objective"] = {"name": self.objective.name, **values["objective"]}
        return json.dumps(values, indent=2)


@dataclass(frozen=True)
class Execution:
    """How a run is executed, which affects results by rounding errors at most, and may change when it is resumed.

    Args:
        backend: Backend of `rasterize`.
        accumulate: Number of parts that every process cuts its share of a batch into, to need less memory.
        compile: Whether `torch.compile` compiles the transformer blocks; `auto` does so on CUDA.
        shard_mb: Largest size of a checkpoint's files in megabytes, None for a single file.
        cache: Folder of decoded photographs, None for the user's; see `cache_folder`.
    """

    backend: Backend = "auto"
    accumulate: int = 1
    compile: Compile = "auto"
    shard_mb: float | None = None
    cache: str | Path | None = None


def pretrain(
    config: PretrainConfig, out: Path, *, resume: bool = False, device: str = "auto", execution: Execution = Execution()
) -> Path:
    """Start or continue a run, and return the folder of its checkpoint. A finished run does not change.

    Args:
        config: What to learn.
        out: Folder of the run, made if missing.
        resume: Whether to continue the run in `out`, from the start if nothing was saved yet. If False, `out` must
            contain no run.
        device: `auto`, `cpu` or `cuda`. It may differ between the parts of an interrupted run, as may the number of
            processes.
        execution: How the run is executed.

    Raises:
        GmaeToolsError: The folder holds another run, the data cannot be read, or training diverged.
    """
    where = resolve_device(device)
    with _torch_as_before(where):
        accelerator = Accelerator(
            cpu=where.type == "cpu",
            mixed_precision=_precision(config.precision, where),
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=_PATIENCE),
                DistributedDataParallelKwargs(broadcast_buffers=False),  # they never change
            ],
        )
        if accelerator.is_main_process:
            _check_folder(config, out, resume)
        accelerator.wait_for_everyone()
        run = _Run(config, out, accelerator, execution)
        if accelerator.is_main_process:  # only now, so that settings that cannot work leave no file
            write_text(out / CONFIG_FILE, config.to_json() + "\n")
        return run.train()


@contextmanager
def _torch_as_before(device: torch.device) -> Iterator[None]:
    """Let matrix products use TF32 on a GPU. At the end, restore that setting and the random state."""
    precision = torch.get_float32_matmul_precision()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if device.type == "cuda" else ()):
        try:
            if device.type == "cuda":
                torch.set_float32_matmul_precision("high")
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


def _precision(wanted: str, device: torch.device) -> str:
    """Accelerate's name for the arithmetic."""
    bf16 = wanted == "bf16" or (wanted == "auto" and has_bf16(device))
    return "bf16" if bf16 else "no"


def _check_folder(config: PretrainConfig, out: Path, resume: bool) -> None:
    """Make the run's folder, and refuse one that holds another run."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / CONFIG_FILE
    if not path.exists():
        return
    if not resume:
        raise GmaeToolsError(f"{out} already holds a run: add --resume to continue it, or choose another --out")
    try:
        old = json.loads(path.read_text())
        changed = _differences(old, json.loads(config.to_json()))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise GmaeToolsError(f"{path}: damaged ({one_line(error)}); choose another --out") from None
    if changed:
        raise GmaeToolsError(f"{out} was begun with other settings ({', '.join(changed)}); use those, or another --out")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key in old.keys() | new.keys():
        a, b = (values.get(key, _FORMERLY.get(prefix + key)) for values in (old, new))
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}: {a} is now {b}")
    return sorted(names)


class _Run:
    """One process's share of a run."""

    def __init__(self, config: PretrainConfig, out: Path, accelerator: Accelerator, execution: Execution) -> None:
        accumulate = execution.accumulate
        if accumulate < 1 or config.batch_size % (accelerator.num_processes * accumulate):
            shares = f"{accelerator.num_processes} processes x {accumulate} accumulated parts"
            raise GmaeToolsError(f"batch size {config.batch_size} cannot be shared by {shares}")
        if accumulate > 1 and not config.objective.by_picture:
            name = config.objective.name
            raise GmaeToolsError(f"{name} compares all pictures of a step with each other: it cannot be accumulated")
        self.config, self.out, self.accelerator, self.execution = config, out, accelerator, execution
        if config.objective.splats:
            choose_backend(execution.backend, accelerator.device)  # refuses one that cannot render before any work
        self._open_photographs()
        self._build_model()
        self.step, self.seconds = 0, 0.0
        self._host_group = _host_group(accelerator)
        self._restore()
        self.saved_step = self.step
        plan = BatchPlan(config.objective, config.batch_size, config.model.patch_size, config.seed, config.crop_scale)
        place = Placement(accelerator.device, accelerator.process_index, accelerator.num_processes)
        self.maker = BatchMaker(self.photos, self.train_indices, plan, place)

    def _open_photographs(self) -> None:
        """Decode the photographs or map their cache, and hold some of them out."""
        config, accelerator, execution = self.config, self.accelerator, self.execution
        with accelerator.local_main_process_first():  # one process of a machine decodes, the others map its cache
            self.photos = PhotoStore.open(config.data, execution.cache, progress=accelerator.is_main_process)
        self.train_indices, held_out = held_out_split(self.photos.names, config.held_out)
        self.held_out = HeldOut(self.photos, held_out, backend=execution.backend)
        self._say(_describe(self.photos, len(self.train_indices), len(held_out), config.held_out))

    def _build_model(self) -> None:
        """Build the model with its first weights, and its optimisers, and wrap both for several processes."""
        config, accelerator = self.config, self.accelerator
        torch.manual_seed(config.seed)
        self.bare_model = config.objective.build(config.model)
        if config.warm_start:
            warm_start(self.bare_model, config.warm_start)
        self.bare_model.to(accelerator.device)
        if accelerator.device.type == "cpu":
            use_plain_attention(self.bare_model)
        if _compiles(self.execution.compile, accelerator.device):
            compile_blocks(self.bare_model)
        optimizers = build_optimizers(self.bare_model, config.optimizer)
        self.model, *self.optimizers = accelerator.prepare(self.bare_model, *optimizers)

    def train(self) -> Path:
        """Train to the end of the schedule, unless the saved state is already there."""
        progress = self._progress()
        if progress < 1:
            shown = {"initial": round(100 * progress, 2), "total": 100.0, "bar_format": _BAR}
            bar = tqdm(**shown, disable=not self.accelerator.is_main_process)
            try:
                made = self.maker.batches(self.step, self._size_of)
                with bar, closing(prefetch(made, _BATCHES_AHEAD)) as batches:  # type: ignore[type-var]
                    self._train(batches, bar)
                self._evaluate(self.config.schedule.resolutions[-1])
                self._save()
            except KeyboardInterrupt:
                again = f"the same command with --resume continues from step {self.saved_step}"
                raise KeyboardInterrupt(f"interrupted at step {self.step}: {again}") from None
            self.accelerator.wait_for_everyone()
        return self.out / MODEL_FOLDER

    def _train(self, batches: Iterator[Batch], bar: tqdm[Any]) -> None:
        """Take all steps, and log, evaluate and save at the configured intervals."""
        progress = self.latest_progress
        losses: list[Tensor] = []
        waited = 0.0
        clock = saved = evaluated = logged = time.monotonic()
        while progress < 1:
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            losses.append(self._train_step(batch, progress))
            self.step += 1
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            progress = self._progress()
            if self.step % self.config.log_every == 0 or progress >= 1:
                loss = self._finite_loss(losses)
                now = time.monotonic()
                rate = len(losses) * self.config.batch_size / (now - logged)
                self._log(
                    loss=loss,
                    images_per_second=round(rate, 1),
                    waiting=round(waited / (now - logged), 4),
                    size=batch.size,
                    progress=round(progress, 5),
                )
                bar.n = round(100 * progress, 2)
                bar.set_postfix_str(f"loss {loss:.5f}, {rate:.0f} images/s, {batch.size} px", refresh=True)
                if progress < 1 and now - evaluated > self.config.evaluate_every:
                    self._evaluate(batch.size)
                    evaluated = time.monotonic()
                if progress < 1 and now - saved > self.config.save_every:
                    self._save()
                    saved = time.monotonic()
                losses, waited, logged = [], 0.0, time.monotonic()

    def _progress(self) -> float:
        """Progress in [0, 1] by the clock of the main process, so that all processes stop at the same step."""
        own = self.config.schedule.progress(self.step * self.config.batch_size, self.seconds)
        self.latest_progress = own if self.config.schedule.time_budget is None else self._of_main_process(own)
        return self.latest_progress

    def _of_main_process(self, value: float) -> float:
        """The main process's value, sent between hosts so that no GPU is waited for."""
        if self._host_group is None:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(shared, 0, group=self._host_group)
        return float(shared)

    def _size_of(self, step: int) -> int:
        """Side in pixels of the pictures of a step; with a time budget, the present one."""
        schedule = self.config.schedule
        by_samples = schedule.progress(step * self.config.batch_size, 0)
        return schedule.resolution(by_samples if schedule.time_budget is None else self.latest_progress)

    def _train_step(self, batch: Batch, progress: float) -> Tensor:
        """Take one step of the optimisers; returns this process's loss for the log."""
        factor = self.config.schedule.learning_rate_factor(progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.zero_grad()
        errors = []
        parts = self.execution.accumulate
        for part in range(parts):
            last = part == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):  # gradients are exchanged once a step
                errors.append(self._backward(batch.part(part, parts)))
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return torch.stack(errors).mean()

    def _backward(self, batch: Batch) -> Tensor:
        """Add the gradient of a part of a batch; returns its loss for the log."""
        config, execution = self.config, self.execution
        try:
            loss, error = config.objective.loss(self.model, batch, config.model, execution.backend)
        except GmaeToolsError as problem:  # the renderer refuses NaN
            raise self._diverged(str(problem)) from None
        self.accelerator.backward(loss / execution.accumulate)
        return error

    def _finite_loss(self, losses: list[Tensor]) -> float:
        """Mean over steps and processes. The loop waits for the GPU only here."""
        loss = float(self.accelerator.reduce(torch.stack(losses).mean(), "mean"))
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        return loss

    def _diverged(self, how: str) -> GmaeToolsError:
        return GmaeToolsError(f"diverged at step {self.step} ({how}): lower the learning rates")

    def _evaluate(self, size: int) -> None:
        """Measure the model on held-out photographs; write the log, the contact sheet and the newest checkpoint.

        Only the main process does this, by its own clock. The others wait for it in their next step.
        """
        if self.accelerator.is_main_process:
            self.bare_model.eval()
            measured = self.held_out.metrics(self.bare_model, self.config.objective.metrics, size)
            write_sheet(self.bare_model, self.held_out, size, self.out / "samples.png")
            self.bare_model.train()
            self._log(size=size, **measured)
            training: dict[str, Any] = {
                "samples": self.step * self.config.batch_size,
                "seconds": round(self.seconds),
                "photographs": len(self.train_indices),
                "skipped": len(self.photos.skipped),
                **measured,
                "recipe": _recipe(self.config),
            }
            shard_mb = self.execution.shard_mb
            checkpoints.save(
                self.bare_model, self.out / MODEL_FOLDER, half=True, training=training, max_shard_mb=shard_mb
            )
            shown = ", ".join(f"{name} {value:.2f}" for name, value in measured.items())
            self._say(f"step {self.step}: {shown or 'no photographs are held out'}")

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            with tqdm.external_write_mode(file=sys.stderr):  # on a line of its own
                print(text, file=sys.stderr, flush=True)

    def _log(self, **values: float) -> None:
        if self.accelerator.is_main_process:
            line = {"step": self.step, "samples": self.step * self.config.batch_size, "seconds": round(self.seconds, 3)}
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
        if self._of_main_process(self.step) != self.step:
            raise GmaeToolsError(f"{self.out}: not the same folder on all machines; put the run on a shared disk")
        if self.accelerator.is_main_process:
            _clear_up(self.out, self.step)


def _host_group(accelerator: Accelerator) -> distributed.ProcessGroup | None:
    """The group for messages between hosts other than gradients; None for a single process."""
    return distributed.new_group(backend="gloo", timeout=_PATIENCE) if accelerator.num_processes > 1 else None


def _describe(photos: PhotoStore, training: int, held_out: int, wanted: int) -> str:
    """A message with the numbers of photographs, an example of the unreadable ones, and the path of the cache."""
    text = f"{training} photographs to train on, {held_out} held out"
    if photos.skipped:
        name, reason = photos.skipped[0]
        text += f", {len(photos.skipped)} skipped as unreadable (the first: {name}: {reason})"
    if held_out < wanted:
        text += f"; at most a tenth of all is held out, so not {wanted}"
    how, size = "made" if photos.made else "used again", photos.path.stat().st_size
    return f"{text}\n{size / 1e6:,.1f} MB of decoded photographs {how}: {photos.path}"


def _compiles(wanted: Compile, device: torch.device) -> bool:
    """Whether to compile. On a CPU compilation takes longer than it saves in a short run."""
    return wanted == "on" or (wanted == "auto" and device.type == "cuda" and _has_triton())


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def compile_blocks(model: Autoencoder, backend: str | Callable[..., Any] = "inductor") -> None:
    """Let the transformer blocks be compiled when they are first used; parameters keep their names.

    Blocks of equal shape share their code. The number of tokens is dynamic, because it changes with the masking ratio
    from step to step and with the size of the pictures.
    """
    for name, part in model.named_modules():
        if name.endswith(".blocks"):
            for block in part.children():
                block.compile(dynamic=True, backend=backend)


def _recipe(config: PretrainConfig) -> dict[str, Any]:
    """The configuration that is stored with the weights. It holds no paths, because checkpoints are shared."""
    names: dict[str, Any] = {"data": [Path(source).name for source in config.data]}
    if config.warm_start and Path(config.warm_start).exists():
        names["warm_start"] = Path(config.warm_start).name
    return {**json.loads(config.to_json()), **names}


def _clear_up(out: Path, step: int) -> None:
    """Remove the lines that a killed process logged after its last saved state, and an unfinished state."""
    for leftover in out.glob(f".{Path(STATE_FILE).stem}.*.tmp*"):
        leftover.unlink()
    path = out / LOG_FILE
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    write_text(path, "".join(line + "\n" for line in kept))
