"""Fine-tuning: all weights of an encoder are trained as a classifier. A killed run resumes where it was saved last.

The recipe is MAE's for ImageNet (arXiv 2111.06377, appendix A.2): AdamW with learning rates that decay from the last
layer to the first, a warm-up and half a cosine, RandAugment, random erasing, mixup or cutmix, label smoothing, and drop
path. The head reads the mean of the patches' tokens after a normalisation of its own. Encoders of this project are
plain vision transformers and are loaded into timm's, so that optimiser, augmentation and mixing are timm's for every
model.

The random numbers of a step depend on the seed and on the number of the step alone. Nothing is selected by the
validation photographs: the weights after the last step are evaluated.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from gmae_tools.checkpoint_names import RANDOM_PREFIX, TIMM_PREFIX
from gmae_tools.datasets.labelled import LabelledPhotos
from gmae_tools.datasets.photos import Photo, decode_photo
from gmae_tools.encoder.features import load_autoencoder, random_like, weights_digest
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.timm import pretrained, require_timm, timm_arguments, timm_weights
from gmae_tools.images import one_line
from gmae_tools.model import Autoencoder
from gmae_tools.prediction import has_bf16
from gmae_tools.system.files import atomic_path, write_json, write_text
from gmae_tools.system.processes import end_with_parent
from gmae_tools.system.settings import claim
from gmae_tools.system.torchvision_ops import ensure_torchvision
from gmae_tools.vit import use_plain_attention

STATE, LOG, ANSWERS, WEIGHTS = "state.pt", "log.jsonl", "answers.json", "classifier.safetensors"

# MAE's `rand-m9-mstd0.5-inc1`, but for magnitudes beyond 9: timm then asks for 0 bits a colour, which Pillow refuses.
AUGMENT = "rand-m9-mmax9-mstd0.5-inc1"

_BASE_BATCH = 256  # the batch size that `base_lr` is for
_MAX_SIDE = 1024  # px; larger photographs are decoded downscaled
_BETAS = (0.9, 0.999)
_HEAD_STD = 2e-5
_HEADS_OWN = ("head.", "fc_norm.")  # parts of the classifier that the encoder has no weights for
_REPLACED = ("norm.",)  # the encoder's last normalisation, which the classifier replaces by `fc_norm`


@dataclass(frozen=True)
class FinetuneConfig:
    """How a classifier is fine-tuned. The defaults are MAE's for ViT-B, but for batches of 64 pictures, not 1,024.

    Args:
        epochs: Number of passes over the photographs to learn from, the warm-up included.
        warmup: Number of passes during which the learning rate rises.
        batch_size: Pictures of a step, an even number. Pictures that do not fill a batch are left out of the epoch;
            they are different ones in every epoch.
        base_lr: Peak learning rate of the last layer for 256 pictures a step. The rate is proportional to the batch.
        layer_decay: Factor of the learning rate from each layer to the one before it.
        weight_decay: Decoupled weight decay, of matrices only.
        drop_path: Share of the pictures that skip the last block. It falls linearly to 0 at the first block.
        mixup, cutmix: Parameters of the beta distributions from which the share of either picture is drawn; 0 turns
            one off. If both are on, each step uses one of them.
        smoothing: Label smoothing, the share of the probability that is spread over all classes.
        augment: RandAugment in timm's notation, or `none`.
        crop_scale: Smallest and largest share of a photograph's area in a crop. Half of the crops are mirrored.
        erase: Share of the pictures in which a rectangle is erased.
        clip: Largest norm of the gradient; 0 for no limit.
        precision: Arithmetic of the transformer; `auto` is bf16 where the hardware has it.
        seed: Seed of the head's first weights and of all random numbers.
    """

    epochs: int = 100
    warmup: int = 5
    batch_size: int = 64
    base_lr: float = 1e-3
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    drop_path: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    augment: str = AUGMENT
    crop_scale: tuple[float, float] = (0.08, 1.0)
    erase: float = 0.25
    clip: float = 0.0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or self.batch_size % 2:
            raise GmaeToolsError("epochs must be 1 or more, and the batch size an even number: mixing needs pairs")
        shares = ("layer_decay", "drop_path", "smoothing", "erase")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise GmaeToolsError(f"{name} is {getattr(self, name):g}, must lie within 0..1")
        for name in ("warmup", "base_lr", "weight_decay", "mixup", "cutmix", "clip", "seed"):
            if not getattr(self, name) >= 0:
                raise GmaeToolsError(f"{name} is {getattr(self, name):g}, must not be negative")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise GmaeToolsError(f"crop scale {low}..{high}: must lie within 0..1, the lower one first")

    @property
    def lr(self) -> float:
        """Peak learning rate of the last layer."""
        return self.base_lr * self.batch_size / _BASE_BATCH

    def factor(self, progress: float) -> float:
        """The factor in [0, 1] of all learning rates when the share `progress` of the run is done.

        It rises linearly during the warm-up, and then falls along half a cosine.
        """
        warmup = min(1.0, self.warmup / self.epochs)
        if progress < warmup:
            return progress / warmup
        return 0.5 * (1 + float(np.cos(np.pi * (progress - warmup) / max(1e-9, 1 - warmup))))


@dataclass(frozen=True)
class FineTuned:
    """The predictions of a fine-tuned classifier.

    Attributes:
        predicted: Labels of the validation photographs in the order of the data set, int64 `[m]`.
        correct: Whether they are right, bool `[m]`.
        steps: Number of training steps.
    """

    predicted: np.ndarray
    correct: np.ndarray
    steps: int


# --- classifiers -----------------------------------------------------------------------------------------


def open_classifier(name: str, classes: int, config: FinetuneConfig) -> nn.Module:
    """Make a classifier, a model of timm, from the weights of an encoder and a new head; it is on the CPU.

    Args:
        name: A checkpoint of any objective as `checkpoints.load_any` takes it, `random:CHECKPOINT` for the same
            architecture with random weights of the seed, or `timm:NAME` for one of timm's pretrained models.
        classes: Number of classes.
        config: How it will be trained; the seed and the drop path are used here.

    Raises:
        GmaeToolsError: There is no such model, it cannot be loaded, it knows no drop path, or timm is too old.
    """
    require_timm()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if name.startswith(TIMM_PREFIX):
            return _with_small_head(pretrained(name, num_classes=classes, drop_path_rate=config.drop_path))
        model = load_autoencoder(name)
        if name.startswith(RANDOM_PREFIX):  # each seed has its own
            model = random_like(model, config.seed)
        return classifier_of(model, classes, config.drop_path)


def classifier_of(model: Autoencoder, classes: int, drop_path: float = 0.0) -> nn.Module:
    """Make a classifier of timm from the encoder of a masked autoencoder, at the size of picture it was trained on."""
    ensure_torchvision()
    import timm

    size = model.config.image_size
    arguments = timm_arguments(model) | {"num_classes": classes, "global_pool": "avg", "drop_path_rate": drop_path}
    # In evaluation the classifier sees the central square, as for the encoder's frozen features.
    arguments["pretrained_cfg_overlay"] |= {"input_size": (3, size, size), "crop_pct": 1.0, "interpolation": "bicubic"}
    classifier: nn.Module = timm.create_model(arguments.pop("model_name"), **arguments)
    missing, unknown = classifier.load_state_dict(timm_weights(model), strict=False)
    assert all(name.startswith(_HEADS_OWN) for name in missing), missing
    assert all(name.startswith(_REPLACED) for name in unknown), unknown
    return _with_small_head(classifier)


def _with_small_head(model: nn.Module) -> nn.Module:
    """Set the weights of a linear head so small that all classes are equally probable at first, as MAE does."""
    head = model.get_classifier()  # type: ignore[operator]
    if isinstance(head, nn.Linear):
        nn.init.trunc_normal_(head.weight, std=_HEAD_STD)
        nn.init.zeros_(head.bias)
    return model


# --- pictures --------------------------------------------------------------------------------------------


def transforms_of(model: nn.Module, config: FinetuneConfig) -> tuple[Callable[..., Any], Callable[..., Any], str]:
    """Make timm's transforms for the size and the statistics of colours in the model's own configuration.

    Returns:
        A function from a photograph of Pillow to an augmented training picture, a function to a picture for evaluation,
        and a description of the settings of both.
    """
    from timm.data import create_transform, resolve_model_data_config  # type: ignore[attr-defined]

    settings = resolve_model_data_config(model)
    common = {name: settings[name] for name in ("input_size", "interpolation", "mean", "std")}
    augmented = create_transform(
        **common, is_training=True, scale=config.crop_scale, auto_augment=None if config.augment == "none" else
        config.augment, color_jitter=0.0, re_prob=config.erase, re_mode="pixel",
    )  # fmt: skip
    plain = create_transform(**settings, is_training=False)
    return augmented, plain, f"timm's transforms: {dict(sorted(settings.items()))}"


class _Steps(Dataset[Any]):
    """The batch of each training step: augmented and mixed pictures `[b, 3, S, S]` and soft labels `[b, classes]`.

    An item is the text of an error instead if one of its photographs cannot be read.
    """

    def __init__(
        self, photos: Sequence[Photo], labels: np.ndarray, classes: int, transform: Callable[..., Any],
        config: FinetuneConfig,
    ) -> None:  # fmt: skip
        from timm.data import Mixup  # type: ignore[attr-defined]

        self.photos, self.labels, self.transform, self.config = photos, labels, transform, config
        self.epoch_steps = len(photos) // config.batch_size
        if not self.epoch_steps:
            raise GmaeToolsError(f"{len(photos)} photographs to learn from are less than a batch: lower the batch size")
        self.mixup = Mixup(
            config.mixup, config.cutmix, prob=float(config.mixup > 0 or config.cutmix > 0),
            label_smoothing=config.smoothing, num_classes=classes,
        )  # fmt: skip

    def __len__(self) -> int:
        return self.epoch_steps * self.config.epochs

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor] | str:
        epoch, place = divmod(step, self.epoch_steps)
        order = np.random.default_rng((self.config.seed, epoch)).permutation(len(self.photos))
        numbers = order[place * self.config.batch_size :][: self.config.batch_size]
        with _chance(self.config.seed, step):
            pictures = _pictures([self.photos[number] for number in numbers], self.transform)
            if isinstance(pictures, str):
                return pictures
            return self.mixup(pictures, torch.from_numpy(self.labels[numbers]))


class _ValidationBatches(Dataset[Any]):
    """Batches of the validation photographs `[b, 3, S, S]` in order, or the text of an error as in `_Steps`."""

    def __init__(self, photos: Sequence[Photo], transform: Callable[..., Any], size: int) -> None:
        self.parts = [photos[start : start + size] for start in range(0, len(photos), size)]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Tensor | str:
        return _pictures(self.parts[number], self.transform)


def _pictures(photos: Sequence[Photo], transform: Callable[..., Any]) -> Tensor | str:
    """Make the pictures `[b, 3, S, S]` of photographs, or return the reason why one of them cannot be read."""
    pictures = []
    for photo in photos:
        pixels = decode_photo(photo, _MAX_SIDE)
        if isinstance(pixels, str):
            return f"{photo.name}: {pixels}; leave it out"
        try:
            pictures.append(transform(Image.fromarray(pixels)))
        except ValueError as error:  # timm drew arguments that it or Pillow refuses
            return f"{photo.name}: cannot be augmented ({one_line(error)}); choose another augmentation"
    return torch.stack(pictures)


@contextmanager
def _chance(seed: int, step: int) -> Iterator[None]:
    """Seed the random numbers of Python, NumPy and torch for one step, and restore their states afterwards."""
    number = int(np.random.SeedSequence((seed, step)).generate_state(1)[0])
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(number)
            np.random.seed(number)  # noqa: NPY002  # timm draws from it
            torch.default_generator.manual_seed(number)
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def _loader(batches: Dataset[Any], numbers: Sequence[int], workers: int) -> Iterator[Any]:
    """Yield the batches with these numbers in order, or raise their error; worker processes make them ahead of time."""
    loader: DataLoader[Any] = DataLoader(
        batches, batch_size=None, sampler=numbers, num_workers=workers, generator=torch.Generator(),
        worker_init_fn=_begin_worker,
    )  # fmt: skip
    for batch in loader:
        if isinstance(batch, str):
            raise GmaeToolsError(batch)
        yield batch


def _begin_worker(_: int) -> None:
    """Prepare a worker process: the main process handles Ctrl-C, and the worker ends when the main process does.

    A worker that outlived it would keep the folder of the run locked.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


# --- training --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """How a run is computed. None of this changes what it learns.

    Args:
        device: Where the model is trained.
        workers: Number of processes that make pictures. With 0 the training process makes them itself.
        log_every: Steps between lines of the log. States are saved only at these steps.
        save_every: Seconds between saved states.
        progress: Called with the steps that are left and the number of those that are done; it returns the steps, and
            may show a progress bar.
    """

    device: torch.device
    workers: int = 1
    log_every: int = 10
    save_every: float = 60.0
    progress: Callable[[Sequence[int], int], Any] = lambda steps, done: steps


def finetune(
    model: nn.Module,
    data: LabelledPhotos,
    config: FinetuneConfig,
    folder: Path,
    machine: Machine,
    *,
    overwrite: bool = False,
) -> FineTuned:
    """Train a classifier on the photographs to learn from, and evaluate it on those for validation.

    A run is a folder. It contains `settings.json` (all that the result depends on), `log.jsonl` (the loss), `state.pt`
    (while it trains: the state from which it resumes), and at the end `classifier.safetensors` and `answers.json`.
    Calling the function again continues an interrupted run with the loss that it would have had, and reads the answers
    of a finished one.

    Args:
        model: A classifier of timm, such as `open_classifier` makes. It is trained in place.
        data: The photographs with their labels and parts.
        config: How to train.
        folder: Folder of the run.
        machine: Device, processes and files.
        overwrite: Whether to remove a run with other settings from the folder.

    Raises:
        GmaeToolsError: The folder holds another run, a photograph cannot be read, or training diverged.
    """
    augmented, plain, preparation = transforms_of(model, config)
    inputs = {"weights": weights_digest(model), "data": data.fingerprint, "preparation": preparation}
    settings = inputs | asdict(config)
    claim(folder, settings, parts=(STATE, LOG, ANSWERS, WEIGHTS), overwrite=overwrite)
    asked = np.flatnonzero(data.is_validation)
    if not (folder / ANSWERS).exists():
        learned = np.flatnonzero(~data.is_validation)
        photos = [data.photos[number] for number in learned]
        steps = _Steps(photos, data.labels[learned], len(data.classes), augmented, config)
        _train(model.to(machine.device), steps, config, folder, machine)
        validation = _ValidationBatches([data.photos[number] for number in asked], plain, config.batch_size)
        predicted = _predict(model, validation, machine, config)
        with atomic_path(folder / WEIGHTS) as temporary:
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
            temporary.write_bytes(to_bytes(weights, {"classes": json.dumps(data.classes)}))
        write_json(folder / ANSWERS, {"steps": len(steps), "predicted": predicted}, indent=None)
        (folder / STATE).unlink(missing_ok=True)
    return _read_answers(folder / ANSWERS, data.labels[asked])


def _train(model: nn.Module, steps: _Steps, config: FinetuneConfig, folder: Path, machine: Machine) -> None:
    """Run all steps that are left. Learning rates and drop path depend on the number of the step, not on the past."""
    if machine.device.type == "cpu":
        # timm.layers has it in later versions only
        from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]

        use_plain_attention(model, Attention)
    optimizer = optimizer_of(model, config)
    done = _restore(folder, model, optimizer)
    model.train()
    losses: list[Tensor] = []
    saved = logged = time.monotonic()
    left = range(done, len(steps))
    cuda = [machine.device] if machine.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        batches = _loader(steps, left, machine.workers)
        for step, (images, targets) in zip(machine.progress(left, done), batches, strict=True):
            factor = config.factor((step + 0.5) / len(steps))
            for group in optimizer.param_groups:
                group["lr"] = config.lr * factor * group.get("lr_scale", 1.0)
            torch.manual_seed(int(np.random.SeedSequence((config.seed, step, 1)).generate_state(1)[0]))  # drop path
            with _arithmetic(config, machine.device):
                logits = model(images.to(machine.device, non_blocking=True))
            loss = _soft_cross_entropy(logits.float(), targets.to(machine.device))
            optimizer.zero_grad()
            loss.backward()
            if config.clip:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            losses.append(loss.detach())
            if (step + 1) % machine.log_every and step + 1 < len(steps):
                continue
            mean, now = float(torch.stack(losses).mean()), time.monotonic()
            if not np.isfinite(mean):
                raise GmaeToolsError(f"diverged at step {step + 1} (the loss is {mean}): lower the rate")
            line = {"step": step + 1, "epoch": round((step + 1) / steps.epoch_steps, 3), "loss": mean,
                    "images_per_second": round(len(losses) * config.batch_size / (now - logged), 1)}  # fmt: skip
            with (folder / LOG).open("a") as file:
                file.write(json.dumps(line) + "\n")
            losses, logged = [], now
            if now - saved > machine.save_every and step + 1 < len(steps):
                _save(folder, model, optimizer, step + 1)
                saved = time.monotonic()


def optimizer_of(model: nn.Module, config: FinetuneConfig) -> torch.optim.Optimizer:
    """Make timm's AdamW with a group of parameters for each layer; `lr_scale` of a group is its layer decay."""
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    return create_optimizer_v2(
        model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay, layer_decay=config.layer_decay, betas=_BETAS
    )


def _soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross entropy of logits `[B, classes]` against soft labels `[B, classes]`."""
    return -(targets * functional.log_softmax(logits, 1)).sum(1).mean()


def _arithmetic(config: FinetuneConfig, device: torch.device) -> torch.autocast:
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


@torch.inference_mode()
def _predict(model: nn.Module, batches: _ValidationBatches, machine: Machine, config: FinetuneConfig) -> list[int]:
    """Predict the most probable label of each validation photograph."""
    model.eval()
    predicted: list[int] = []
    for images in _loader(batches, range(len(batches)), machine.workers):
        with _arithmetic(config, machine.device):
            predicted += model(images.to(machine.device)).argmax(1).tolist()
    return predicted


# --- files -----------------------------------------------------------------------------------------------


def _save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with atomic_path(folder / STATE) as temporary:
        torch.save(state, temporary)


def _restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the saved state, if any, cut the log to it, and return the number of steps that are done."""
    path, step = folder / STATE, 0
    if path.exists():
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            step = int(state["step"])
        except Exception as error:  # torch.load raises anything on a damaged file
            raise GmaeToolsError(f"{path}: damaged ({one_line(error)}); delete it to start the run again") from None
    log = folder / LOG
    lines = log.read_text().splitlines() if log.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    write_text(log, "".join(line + "\n" for line in kept))
    return step


def _read_answers(path: Path, labels: np.ndarray) -> FineTuned:
    try:
        found = json.loads(path.read_text())
        predicted = np.array(found["predicted"], np.int64)
        return FineTuned(predicted, predicted == labels, int(found["steps"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GmaeToolsError(f"{path}: damaged ({one_line(error)}); delete it to have it made again") from None
