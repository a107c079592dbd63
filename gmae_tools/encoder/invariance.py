"""How invariant an encoder's features are to hidden parts of the picture, block by block.

Over many pictures, the features of the whole pictures are compared with those of the same pictures after an
`Occlusion`, by linear CKA (`metrics.cka`); complementary halves are compared with each other. There are three kinds of
features of a picture:

- `mean`: the mean of the patches' tokens that each version has, which a user of the encoder would compare.
- `shared`: the mean over the patches that both versions have. They are equal before the first block; later they differ
  by their context. Halves share no patch.
- `class`: the class token. Before the first block it is the same for all pictures, and CKA is undefined.

Encoders with random weights mix patches little, and so are invariant to a degree: compare with them. Where a few
directions carry most of the variance, CKA depends on them alone. The encoder's last normalisation can change the
result, and is a stage of its own.
Source: arXiv 2208.04164, which explains masked image modelling as learning such invariance. Its public description does
not say which tokens it compares; the choice here is ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gmae_tools.checkpoint_names import RANDOM_PREFIX
from gmae_tools.encoder.features import display_name, distinct_names, load_autoencoder, random_like, read_pictures
from gmae_tools.encoder.occlusion import Occlusion
from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.cka import LEAST_BATCH, MinibatchCKA
from gmae_tools.model import Autoencoder

Tokens = Literal["mean", "shared", "class"]
TOKENS: tuple[Tokens, ...] = ("mean", "shared", "class")

_AT_ONCE, _AT_ONCE_ON_CPU = 256, 32  # pictures


@dataclass(frozen=True)
class InvarianceCurve:
    """CKA along the encoder, between whole and occluded pictures.

    Attributes:
        model: name of the model.
        tokens: what the features of a picture are.
        kind, ratio: of the occlusion.
        cka: `[depth + 2]`: before the first block, after each, and of what `encode` returns; NaN where it is undefined.
        error: its standard error `[depth + 2]`, NaN for a single batch.
    """

    model: str
    tokens: Tokens
    kind: str
    ratio: float
    cka: list[float]
    error: list[float]

    @property
    def stages(self) -> list[str]:
        """Names of the places in the encoder: `0` for what enters the first block, ..., and `norm`."""
        return [*map(str, range(len(self.cka) - 1)), "norm"]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return vars(self)


def occlusions(ratios: Sequence[float]) -> list[Occlusion]:
    """Scattered patches and a block at each ratio, and halves."""
    return [
        *(Occlusion("random", ratio) for ratio in ratios),
        *(Occlusion("block", ratio) for ratio in ratios),
        Occlusion("halves", 0.5),
    ]


def shuffled_batches(count: int, size: int, seed: int = 0) -> list[np.ndarray]:
    """The numbers 0..count-1 in random batches of nearly equal size, at most `size`.

    Raises:
        GmaeToolsError: fewer pictures than CKA needs.
    """
    if count < LEAST_BATCH:
        raise GmaeToolsError(f"{count} photographs: CKA needs at least {LEAST_BATCH}")
    order = np.random.default_rng(seed).permutation(count)
    return np.array_split(order, -(-count // max(size, 2 * LEAST_BATCH)))


@torch.inference_mode()
def invariance(
    model: Autoencoder,
    name: str,
    pictures: Callable[[np.ndarray], Tensor],
    batches: Iterable[np.ndarray],
    conditions: Sequence[Occlusion],
    *,
    seed: int = 0,
) -> list[InvarianceCurve]:
    """The curves of a model, for all conditions and all kinds of tokens.

    Args:
        model: on any device, in evaluation mode.
        name: of the model, for the table.
        pictures: gives those of numbers `[b]`, RGB in [0, 1] `[b, 3, S, S]`, sides multiples of the patch size.
        batches: numbers of the pictures of each batch that CKA is estimated from, at least four.
        seed: of the masks, which are the same for all models with the same grid of patches.
    """
    found: dict[tuple[Occlusion, Tokens], MinibatchCKA] = {}
    device = model.rgb_mean.device
    size = _AT_ONCE_ON_CPU if device.type == "cpu" else _AT_ONCE
    for batch in batches:
        parts = [
            dict(_pairs(model, pictures(numbers).to(device), numbers, conditions, seed))
            for numbers in np.array_split(batch, -(-len(batch) // size))
        ]
        for key in parts[0]:
            whole, occluded = (torch.cat(features, 1) for features in zip(*(part[key] for part in parts), strict=True))
            found.setdefault(key, MinibatchCKA()).update(whole, occluded)
    curves = [
        InvarianceCurve(name, tokens, hidden.kind, hidden.ratio, cka.compute().tolist(), cka.standard_error().tolist())
        for (hidden, tokens), cka in found.items()
    ]
    return sorted(curves, key=lambda curve: TOKENS.index(curve.tokens))


def _pairs(
    model: Autoencoder, images: Tensor, numbers: np.ndarray, conditions: Sequence[Occlusion], seed: int
) -> Iterator[tuple[tuple[Occlusion, Tokens], tuple[Tensor, Tensor]]]:
    """For each condition and kind of tokens the features of both versions, `[depth + 2, b, D]` each."""
    whole = model.encode(images, return_blocks=True)
    for condition in conditions:
        mask = condition.sample(model.grid(images), numbers, seed).to(images.device)
        seen = model.encode(images, mask, return_blocks=True)
        other = model.encode(images, ~mask, return_blocks=True) if condition.kind == "halves" else whole
        visible = _of_visible(seen, mask)
        yield (condition, "mean"), (_of_visible(other, ~mask) if condition.kind == "halves" else _means(whole), visible)
        if condition.kind != "halves":
            yield (condition, "shared"), (torch.stack([_mean_visible(x, mask) for x in whole]), visible)
        yield (condition, "class"), (torch.stack([x[:, 0] for x in other]), torch.stack([x[:, 0] for x in seen]))


def _means(stages: Sequence[Tensor]) -> Tensor:
    """Means of the patches' tokens `[stages, b, D]`, from `[b, 1 + V, D]` each."""
    return torch.stack([x[:, 1:].mean(1) for x in stages])


def _of_visible(stages: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Means `[stages, b, D]` of the tokens of visible patches; some encoders have tokens of the hidden ones, too."""
    if stages[0].shape[1] == 1 + mask.shape[1]:
        return torch.stack([_mean_visible(x, mask) for x in stages])
    return _means(stages)


def _mean_visible(x: Tensor, mask: Tensor) -> Tensor:
    """Means `[b, D]` of the tokens `[b, 1 + N, D]` of the patches that `mask` `[b, N]` does not hide."""
    visible = (~mask).to(x.dtype)
    return (x[:, 1:] * visible[..., None]).sum(1) / visible.sum(1, keepdim=True)


# --- measuring models --------------------------------------------------------------------------------


def models_of(checkpoints: Sequence[str], seed: int) -> Iterator[tuple[str, Autoencoder]]:
    """Every model, and each architecture of an encoder once with random weights, with their names for the table."""
    names = list(dict.fromkeys(checkpoints))
    seen = set()
    for name, shown in zip(names, distinct_names(names), strict=True):
        model = load_autoencoder(name)
        yield shown, model
        config = model.config
        architecture = (config.image_size, config.patch_size, config.width, config.depth, config.heads)
        if architecture not in seen and not name.startswith(RANDOM_PREFIX):
            yield f"{RANDOM_PREFIX}{display_name(name)}", random_like(model, seed)
        seen.add(architecture)


def measure(
    model: Autoencoder,
    name: str,
    photos: Sequence[Any],
    batches: Iterable[np.ndarray],
    conditions: Sequence[Occlusion],
    seed: int,
) -> list[InvarianceCurve]:
    """The curves of a model on photographs, of which `batches` hold the numbers."""
    size = model.config.image_size
    return invariance(
        model, name, lambda batch: read_pictures([photos[number] for number in batch], size), batches, conditions,
        seed=seed,
    )  # fmt: skip


def read_curves(path: Path, name: str) -> list[InvarianceCurve]:
    """Curves as they were written, under the name that the model has now.

    Raises:
        GmaeToolsError: the file is damaged.
    """
    try:
        return [InvarianceCurve(**{**values, "model": name}) for values in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise GmaeToolsError(f"{path}: damaged ({error}); delete it to have it made again") from None
