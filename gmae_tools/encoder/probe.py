"""Classifiers on frozen features: nearest neighbours and a linear classifier, with features cached on disk.

k-NN: cosine similarity; each of the k nearest votes with the weight exp(similarity / 0.07) (Wu et al.,
arXiv 1805.01978, as in DINO's evaluation). Linear: batch normalisation without parameters and one linear layer, as in
MAE (arXiv 2111.06377, appendix A), by SGD on features of whole pictures, without augmentation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gmae_tools.datasets.labelled import LabelledPhotos
from gmae_tools.encoder.features import Extractor, extract_features
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path

TEMPERATURE = 0.07
NEIGHBOURS = (10, 20, 100, 200)
_LEAST = 10  # photographs to learn from, whatever k is; the linear classifier needs them

_CHUNK = 512  # photographs in a file of cached features
_SIMILARITIES = 1 << 27  # computed at once, to bound memory: half a gigabyte


# --- cached features -------------------------------------------------------------------------------------


def cached_features(
    extractor: Extractor,
    data: LabelledPhotos,
    cache: Path,
    progress: Callable[[Iterable[int], int], Iterable[int]] | None = None,
) -> np.ndarray:
    """Features float32 `[n, P, D]`, read from the cache where an earlier or interrupted run extracted them.

    The name of the cache's folder is a digest of the weights, the preparation and the data, so that features of one are
    never taken for those of another.

    Args:
        progress: passes on an iterable of the chunks, of which it is told the number.

    Raises:
        GmaeToolsError: a whole chunk of photographs cannot be read, or a file of the cache is damaged.
    """
    about = {"weights": extractor.weights, "preparation": extractor.preparation, "tokens": extractor.tokens,
             "data": data.fingerprint, "photographs": len(data.photos)}  # fmt: skip
    text = json.dumps(about, indent=2)
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "about.json").exists():
        with atomic_path(folder / "about.json") as temporary:
            temporary.write_text(json.dumps({"model": extractor.name, **about}, indent=2) + "\n")
    starts = range(0, len(data.photos), _CHUNK)
    chunks = []
    for start in progress(starts, len(starts)) if progress else starts:
        path = folder / f"{start:08}.npy"
        if not path.exists():
            with atomic_path(path) as temporary:
                np.save(temporary, extract_features(extractor, data.photos[start : start + _CHUNK]))
        chunks.append(_read(path))
    return np.concatenate(chunks)


def _read(path: Path) -> np.ndarray:
    try:
        features: np.ndarray = np.load(path)
        return features
    except (OSError, ValueError) as error:
        raise GmaeToolsError(f"{path}: damaged ({error}); delete it to have it made again") from None


# --- nearest neighbours ----------------------------------------------------------------------------------


def knn_predict(
    train: Tensor, labels: Tensor, queries: Tensor, ks: Sequence[int], temperature: float = TEMPERATURE
) -> dict[int, Tensor]:
    """Labels of the queries for each k: the class with the largest sum of exp(cosine / temperature) over the k nearest.

    Args:
        train: features `[n, D]`, of the known labels int64 `[n]`.
        queries: features `[m, D]`.
        ks: numbers of neighbours, at most n.

    Returns:
        int64 `[m]` for each k.
    """
    train, queries = functional.normalize(train, dim=1), functional.normalize(queries, dim=1)
    classes = int(labels.max()) + 1
    found: dict[int, list[Tensor]] = {k: [] for k in ks}
    for chunk in queries.split(max(1, _SIMILARITIES // len(train))):
        similarity, nearest = (chunk @ train.T).topk(max(ks), 1)  # [m, k], most similar first
        votes = (similarity / temperature).exp()
        for k in ks:
            sums = votes.new_zeros(len(chunk), classes).scatter_add_(1, labels[nearest[:, :k]], votes[:, :k])
            found[k].append(sums.argmax(1))
    return {k: torch.cat(parts) for k, parts in found.items()}


# --- a linear classifier ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearConfig:
    """How the linear classifier is trained: SGD with momentum 0.9 and no weight decay, cosine after a warm-up.

    Args:
        rates: learning rates, of which the one is used that is best on a fifth of the training photographs.
        epochs, warmup: number of passes, of which so many are to warm up.
        batch_size: at most; a training set of fewer than ten such batches is cut into ten.
        seed: of the weights and the order.
    """

    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)
    epochs: int = 90
    warmup: int = 10
    batch_size: int = 256
    seed: int = 0


def linear_predict(
    train: Tensor, labels: Tensor, queries: Tensor, config: LinearConfig | None = None
) -> tuple[Tensor, float]:
    """Labels int64 `[m]` of the queries `[m, D]` by a linear classifier, and the learning rate it was trained with.

    Args:
        train: features `[n, D]`, of the known labels int64 `[n]`; n >= 10.
    """
    config = config or LinearConfig()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed)).to(labels.device)
    asked, learned = order[: len(train) // 5], order[len(train) // 5 :]
    trials = _train(train[learned], labels[learned], config.rates, config)(train[asked])  # [rates, a]
    best = config.rates[int((trials == labels[asked]).sum(1).argmax())]
    return _train(train, labels, (best,), config)(queries)[0], best


def _train(train: Tensor, labels: Tensor, rates: Sequence[float], config: LinearConfig) -> Callable[[Tensor], Tensor]:
    """Train a classifier for each rate; what comes back predicts labels `[rates, m]` of features `[m, D]`."""
    generator = torch.Generator().manual_seed(config.seed)
    classes, device = int(labels.max()) + 1, train.device
    norm = nn.BatchNorm1d(train.shape[1], affine=False, eps=1e-6, device=device, dtype=train.dtype)
    heads = nn.Linear(train.shape[1], len(rates) * classes, device=device, dtype=train.dtype)  # side by side
    start = torch.empty(classes, train.shape[1], dtype=torch.float32).normal_(std=0.01, generator=generator)
    heads.weight.data.copy_(start.repeat(len(rates), 1))
    nn.init.zeros_(heads.bias)
    # The heads have nothing in common, so a loss times a rate is a step at that rate.
    weights = torch.tensor(rates, device=device, dtype=train.dtype)
    optimizer = torch.optim.SGD(heads.parameters(), lr=1.0, momentum=0.9)
    size = max(2, min(config.batch_size, len(train) // 10))
    steps = len(train) // size
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor((step + 1) / steps, config))
    for _ in range(config.epochs):
        order = torch.randperm(len(train), generator=generator).to(device)
        for batch in order[: steps * size].view(steps, size):
            logits = heads(norm(train[batch])).unflatten(1, (len(rates), classes))  # [b, rates, classes]
            targets = labels[batch, None].expand(-1, len(rates))
            losses = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(0)  # [rates]
            optimizer.zero_grad()
            (weights * losses).sum().backward()
            optimizer.step()
            schedule.step()
    norm.eval()

    @torch.no_grad()
    def predict(features: Tensor) -> Tensor:
        return heads(norm(features)).unflatten(1, (len(rates), classes)).argmax(2).T

    return predict


def _factor(epoch: float, config: LinearConfig) -> float:
    """Of the learning rate after so many epochs: a linear warm-up, then half a cosine."""
    if epoch < config.warmup:
        return epoch / config.warmup
    progress = min(1.0, (epoch - config.warmup) / max(1, config.epochs - config.warmup))
    return 0.5 * (1 + float(np.cos(np.pi * progress)))


# --- the table -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """Whether a classifier on frozen features was right.

    Attributes:
        model: name of the extractor.
        tokens: what the features are of.
        method: `k-NN` or `linear`.
        k: number of neighbours, or None.
        rate: learning rate, or None.
        labels: `[m]`, the right answers, for the validation photographs that could be read, in order of their names.
        correct: bool `[m]`, whether they were given.
    """

    model: str
    tokens: str
    method: str
    k: int | None
    rate: float | None
    labels: np.ndarray = field(repr=False)
    correct: np.ndarray = field(repr=False)


def check_neighbours(ks: Sequence[int] | None, learned: int, asked: int) -> tuple[int, ...]:
    """The numbers of neighbours to ask for, where so many photographs are to learn from and for validation.

    Raises:
        GmaeToolsError: there are too few photographs.
    """
    chosen = tuple(k for k in NEIGHBOURS if k <= learned) if ks is None else tuple(ks)
    most = max([_LEAST, *chosen])
    if learned < most or not asked:
        problem = f"{learned} photographs to learn from and {asked} for validation are too few"
        advice = "give more data" if most == _LEAST else "choose a smaller one, or give more data"
        raise GmaeToolsError(f"{problem} for k = {most}: {advice}")
    return chosen


def probe(
    extractor: Extractor,
    features: np.ndarray,
    data: LabelledPhotos,
    *,
    ks: Sequence[int] | None = None,
    linear: LinearConfig | None = None,
) -> Iterator[Answers]:
    """Ask every classifier on features `[n, P, D]` of `data`.

    Args:
        ks: numbers of neighbours; by default those of `NEIGHBOURS` that there are photographs for.
        linear: how the linear classifier is trained; None leaves it out.

    Raises:
        GmaeToolsError: fewer training photographs than neighbours.
    """
    readable = ~np.isnan(features).any((1, 2))
    learned, asked = (torch.from_numpy(np.flatnonzero(part & readable)) for part in
                      (~data.is_validation, data.is_validation))  # fmt: skip
    ks = check_neighbours(ks, len(learned), len(asked))
    labels = torch.from_numpy(data.labels).to(extractor.device)
    for number, tokens in enumerate(extractor.tokens):
        x = torch.from_numpy(features[:, number]).to(extractor.device)
        known = x[learned], labels[learned], x[asked]

        def answers(method: str, k: int | None, rate: float | None, predicted: Tensor, tokens: str = tokens) -> Answers:
            truth = data.labels[asked.numpy()]
            return Answers(extractor.name, tokens, method, k, rate, truth, predicted.cpu().numpy() == truth)

        for k, predicted in knn_predict(*known, ks).items() if ks else ():
            yield answers("k-NN", k, None, predicted)
        if linear:
            predicted, rate = linear_predict(*known, linear)
            yield answers("linear", None, rate, predicted)
