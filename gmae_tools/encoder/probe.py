"""Classifiers on frozen features: nearest neighbours and a linear classifier. Features are cached on disk.

The k-NN classifier compares features by cosine similarity. Each of the k nearest photographs votes for its class with
the weight exp(similarity / 0.07) (Wu et al., arXiv 1805.01978, as in DINO's evaluation). The linear classifier is a
batch normalisation without parameters and one linear layer, as in MAE (arXiv 2111.06377, appendix A). It is trained by
SGD on features of whole pictures, without augmentation.
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
from gmae_tools.system.files import atomic_path, write_json

TEMPERATURE = 0.07
NEIGHBOURS = (10, 20, 100, 200)
_LEAST = 10  # photographs to learn from, whatever k is: the linear classifier is trained in ten batches

_CHUNK = 512  # photographs in a file of cached features
_SIMILARITIES = 1 << 27  # computed at once, to bound memory: half a gigabyte


# --- cached features -------------------------------------------------------------------------------------


def cached_features(
    extractor: Extractor,
    data: LabelledPhotos,
    cache: Path,
    progress: Callable[[Iterable[int], int], Iterable[int]] | None = None,
) -> np.ndarray:
    """Extract the features of photographs, or read them from the cache if an earlier run has extracted them.

    The features are stored in files of 512 photographs each, so that an interrupted run loses one file at most. The
    name of the folder is a digest of the weights, the preparation and the data. Features of another model or of other
    photographs are therefore never read by mistake.

    Args:
        extractor: The frozen model.
        data: The photographs.
        cache: Folder of all caches; it is made if it is missing.
        progress: Called with an iterable of the files' first photographs and their number; it returns an iterable of
            the same, and may show a progress bar.

    Returns:
        float32 `[n, P, D]`, NaN for a photograph that cannot be read.

    Raises:
        GmaeToolsError: a whole chunk of photographs cannot be read, or a file of the cache is damaged.
    """
    about = {"weights": extractor.weights, "preparation": extractor.preparation, "tokens": extractor.tokens,
             "data": data.fingerprint, "photographs": len(data.photos)}  # fmt: skip
    text = json.dumps(about, indent=2)
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "about.json").exists():
        write_json(folder / "about.json", {"model": extractor.name, **about})
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
        return np.load(path)
    except (OSError, ValueError) as error:
        raise GmaeToolsError(f"{path}: damaged ({error}); delete it to have it made again") from None


# --- nearest neighbours ----------------------------------------------------------------------------------


def knn_predict(
    train: Tensor, labels: Tensor, queries: Tensor, ks: Sequence[int], temperature: float = TEMPERATURE
) -> dict[int, Tensor]:
    """Predict labels by nearest neighbours.

    The predicted class is the one with the largest sum of exp(cosine similarity / temperature) over the k photographs
    that are most similar.

    Args:
        train: Features of the photographs with known labels, `[n, D]`.
        labels: Their labels, int64 `[n]`.
        queries: Features of the photographs to classify, `[m, D]`.
        ks: Numbers of neighbours, each at most n.
        temperature: The smaller it is, the more the nearest neighbours count.

    Returns:
        The predicted labels for each k, int64 `[m]`.
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
    """How the linear classifier is trained.

    It is trained by SGD with momentum 0.9 and without weight decay. The learning rate rises linearly during the
    warm-up, and then falls along half a cosine.

    Args:
        rates: Learning rates to try. The one that is best on a fifth of the training photographs is used.
        epochs: Number of passes over the photographs, the warm-up included.
        warmup: Number of passes of the warm-up.
        batch_size: Largest batch. If the photographs make fewer than ten such batches, they are cut into ten.
        seed: Seed of the first weights and of the order of the photographs.
    """

    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)
    epochs: int = 90
    warmup: int = 10
    batch_size: int = 256
    seed: int = 0


def linear_predict(
    train: Tensor, labels: Tensor, queries: Tensor, config: LinearConfig | None = None
) -> tuple[Tensor, float]:
    """Predict labels by a linear classifier, whose learning rate is chosen on a fifth of the known photographs.

    Args:
        train: Features of the photographs with known labels, `[n, D]`, n >= 10.
        labels: Their labels, int64 `[n]`.
        queries: Features of the photographs to classify, `[m, D]`.
        config: How the classifier is trained; by default as `LinearConfig` says.

    Returns:
        The predicted labels, int64 `[m]`, and the learning rate.
    """
    config = config or LinearConfig()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed)).to(labels.device)
    asked, learned = order[: len(train) // 5], order[len(train) // 5 :]
    trials = _train(train[learned], labels[learned], config.rates, config)(train[asked])  # [rates, a]
    best = config.rates[int((trials == labels[asked]).sum(1).argmax())]
    return _train(train, labels, (best,), config)(queries)[0], best


def _train(train: Tensor, labels: Tensor, rates: Sequence[float], config: LinearConfig) -> Callable[[Tensor], Tensor]:
    """Train a classifier for each rate, all on the same batches; returns a predictor of labels `[rates, m]`."""
    generator = torch.Generator().manual_seed(config.seed)
    classes, device = int(labels.max()) + 1, train.device
    norm = nn.BatchNorm1d(train.shape[1], affine=False, eps=1e-6, device=device, dtype=train.dtype)
    heads = nn.Linear(train.shape[1], len(rates) * classes, device=device, dtype=train.dtype)  # side by side
    start = torch.empty(classes, train.shape[1], dtype=torch.float32).normal_(std=0.01, generator=generator)
    heads.weight.data.copy_(start.repeat(len(rates), 1))
    nn.init.zeros_(heads.bias)
    # The heads share no parameters. Multiplying the loss of a head by a rate is therefore a step at that rate.
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
    """The factor in [0, 1] by which the learning rate is multiplied after `epoch` epochs (a fraction is allowed)."""
    if epoch < config.warmup:
        return epoch / config.warmup
    progress = min(1.0, (epoch - config.warmup) / max(1, config.epochs - config.warmup))
    return 0.5 * (1 + float(np.cos(np.pi * progress)))


# --- the table -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """Which of the validation photographs a classifier got right.

    Only photographs that could be read are included; they are in the order of their names.

    Attributes:
        model: Name of the extractor.
        tokens: What the features are of, such as `mean` (of the patches).
        method: `k-NN` or `linear`.
        k: Number of neighbours; None for other methods.
        rate: Learning rate; None for methods without one.
        labels: The true labels, int64 `[m]`.
        correct: Whether the predicted label is the true one, bool `[m]`.
    """

    model: str
    tokens: str
    method: str
    k: int | None
    rate: float | None
    labels: np.ndarray = field(repr=False)
    correct: np.ndarray = field(repr=False)


def check_neighbours(ks: Sequence[int] | None, learned: int, asked: int) -> tuple[int, ...]:
    """Check that there are enough photographs for k-NN classifiers, and choose k if it is not given.

    Args:
        ks: Numbers of neighbours, or None for those of `NEIGHBOURS` that are not too large.
        learned: Number of photographs to learn from.
        asked: Number of photographs for validation.

    Returns:
        The numbers of neighbours.

    Raises:
        GmaeToolsError: There are too few photographs.
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
    """Classify the validation photographs by every classifier, for each kind of tokens.

    Args:
        extractor: The frozen model that the features come from.
        features: Features of all photographs, `[n, P, D]`; photographs with a NaN are left out.
        data: The photographs with their labels and parts.
        ks: Numbers of neighbours. By default those of `NEIGHBOURS` for which there are enough photographs.
        linear: How the linear classifier is trained. None leaves it out.

    Raises:
        GmaeToolsError: There are fewer photographs to learn from than neighbours.
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
