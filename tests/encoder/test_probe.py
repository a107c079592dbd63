"""k-NN against a plain loop, a linear classifier on what is and is not separable, and features that are kept."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gmae_tools.datasets.labelled import LabelledPhotos, find_labelled
from gmae_tools.encoder import probe as probe_module
from gmae_tools.encoder.features import Extractor, open_extractor
from gmae_tools.encoder.probe import (
    LinearConfig,
    cached_features,
    check_neighbours,
    knn_predict,
    linear_predict,
    probe,
)
from gmae_tools.errors import GmaeToolsError
from gmae_tools.report.probe import probe_rows
from gmae_tools.report.tables import format_rows

QUICK = LinearConfig(rates=(0.01, 0.1), epochs=10, warmup=1)


def clouds(count: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of three classes around different directions, far from 0, on axes of very different scales."""
    chance = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=chance)
    features = torch.eye(3, 8)[labels] + spread * torch.randn(count, 8, generator=chance)
    return 10 ** torch.linspace(-2, 1, 8) * features + 0.3, labels


# --- nearest neighbours ----------------------------------------------------------------------------------


def by_hand(train: np.ndarray, labels: np.ndarray, query: np.ndarray, k: int) -> int:
    """The same rule, one picture and one neighbour at a time."""
    cosines = [float(row @ query / math.sqrt(row @ row) / math.sqrt(query @ query)) for row in train]
    votes: dict[int, float] = defaultdict(float)
    for nearest in sorted(range(len(train)), key=lambda row: -cosines[row])[:k]:
        votes[int(labels[nearest])] += math.exp(cosines[nearest] / 0.07)
    return max(votes, key=lambda label: votes[label])


def test_knn_is_the_rule_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "_SIMILARITIES", 7 * 120)  # several chunks
    (train, labels), (queries, _) = clouds(120, 0.8), clouds(50, 0.8, seed=1)
    found = knn_predict(train, labels, queries, (1, 5, 40, 120))
    for k, predicted in found.items():
        rows = train.double().numpy(), labels.numpy()
        assert predicted.tolist() == [by_hand(*rows, query, k) for query in queries.double().numpy()], k
    assert len({tuple(predicted.tolist()) for predicted in found.values()}) > 1


def test_nearer_neighbours_count_more() -> None:
    train = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    predicted = knn_predict(train, torch.tensor([1, 0, 0]), torch.tensor([[5.0, 0.0]]), (3,))
    assert predicted[3].tolist() == [1]  # exp(1 / 0.07) against 2 exp(0.8 / 0.07)
    warm = knn_predict(train, torch.tensor([1, 0, 0]), torch.tensor([[5.0, 0.0]]), (3,), temperature=1.0)
    assert warm[3].tolist() == [0]


# --- the linear classifier -------------------------------------------------------------------------------


def test_linear_learns_what_is_separable_whatever_the_scales() -> None:
    (train, labels), (queries, truth) = clouds(400, 0.15), clouds(200, 0.15, seed=1)
    predicted, rate = linear_predict(train, labels, queries, QUICK)
    assert (predicted == truth).float().mean() > 0.97 and rate in QUICK.rates
    again, _ = linear_predict(train, labels, queries, QUICK)
    assert torch.equal(again, predicted)


def test_rates_side_by_side_do_not_see_each_other() -> None:
    (train, labels), (queries, _) = clouds(200, 0.6), clouds(100, 0.6, seed=1)
    both = probe_module._train(train, labels, (0.002, 0.3), QUICK)(queries)
    alone = [probe_module._train(train, labels, (rate,), QUICK)(queries)[0] for rate in (0.002, 0.3)]
    assert torch.equal(both, torch.stack(alone)) and not torch.equal(*alone)


def test_linear_does_not_see_the_validation_labels() -> None:
    train, labels = clouds(300, 0.5)
    shuffled = labels[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    queries, truth = clouds(300, 0.5, seed=2)
    predicted, _ = linear_predict(train, shuffled, queries, QUICK)
    assert (predicted == truth).float().mean() < 0.5


def test_the_rate_is_chosen_on_training_photographs() -> None:
    (train, labels), (queries, _) = clouds(300, 0.2), clouds(10, 0.2, seed=1)
    config = LinearConfig(rates=(1e-6, 0.1), epochs=5, warmup=0)
    assert linear_predict(train, labels, queries, config)[1] == 0.1


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    factors = [probe_module._factor(epoch, LinearConfig(epochs=20, warmup=5)) for epoch in range(21)]
    assert factors[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:] == sorted(factors[5:], reverse=True) and factors[-1] == pytest.approx(0, abs=1e-12)


# --- features that are kept ------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> LabelledPhotos:
    """Sixty light and dark pictures, one of them damaged."""
    chance = np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / "data" / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 80, (24, 24, 3), dtype=np.uint8) + np.uint8(150 * (number % 2))
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    found = find_labelled([tmp_path / "data"], "folder")
    found.photos[int(np.flatnonzero(~found.is_validation)[0])].path.write_bytes(b"no picture")
    return found


def means(seen: list[int]) -> Extractor:
    """Mean colours as features; counts the pictures that it was given."""

    def extract(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images.mean((2, 3))[:, None] - 0.5

    def prepare(photo: np.ndarray) -> Tensor:
        return torch.from_numpy(photo).permute(2, 0, 1).float() / 255

    return Extractor("means", "0", ("mean",), "as they are", prepare, extract, torch.device("cpu"))


def test_features_are_extracted_once_and_go_on_after_a_kill(
    data: LabelledPhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "_CHUNK", 25)
    seen: list[int] = []
    features = cached_features(means(seen), data, tmp_path / "cache")
    assert features.shape == (60, 1, 3) and sum(seen) == 59
    (folder,) = (tmp_path / "cache").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000000.npy", "00000025.npy", "00000050.npy", "about.json",
    ]  # fmt: skip
    (folder / "00000025.npy").unlink()
    again = cached_features(means(seen), data, tmp_path / "cache")
    assert 59 + 24 <= sum(seen) <= 59 + 25
    np.testing.assert_array_equal(again, features)
    (folder / "00000000.npy").write_bytes(b"half a file")
    with pytest.raises(GmaeToolsError, match=r"00000000\.npy: damaged"):
        cached_features(means(seen), data, tmp_path / "cache")


def test_other_weights_or_photographs_are_other_features(
    data: LabelledPhotos, checkpoint: Path, tmp_path: Path
) -> None:
    extractor = open_extractor(str(checkpoint))
    cached_features(extractor, data, tmp_path / "cache")
    cached_features(means([]), data, tmp_path / "cache")
    cached_features(means([]), find_labelled([tmp_path / "data"], "folder", 40), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_probe_asks_every_classifier(data: LabelledPhotos, tmp_path: Path) -> None:
    extractor = means([])
    features = cached_features(extractor, data, tmp_path / "cache")
    answers = list(probe(extractor, features, data, ks=(1, 5), linear=QUICK))
    assert [(each.method, each.k) for each in answers] == [("k-NN", 1), ("k-NN", 5), ("linear", None)]
    assert all(each.correct.all() and len(each.correct) == data.is_validation.sum() for each in answers)
    with pytest.raises(GmaeToolsError, match="too few for k = 55"):
        list(probe(extractor, features, data, ks=(55,)))


def test_numbers_of_neighbours_that_fit() -> None:
    assert check_neighbours(None, 200, 1) == (10, 20, 100, 200)
    assert check_neighbours(None, 199, 1) == (10, 20, 100)
    assert check_neighbours((3, 15), 15, 1) == (3, 15)
    for ks, learned, asked in ((None, 9, 5), ((3,), 9, 5), ((16,), 15, 5), (None, 50, 0)):
        with pytest.raises(GmaeToolsError, match=f"{learned} photographs to learn from and {asked} for validation"):
            check_neighbours(ks, learned, asked)


def test_table_compares_with_the_first_model(data: LabelledPhotos, tmp_path: Path) -> None:
    extractor = means([])
    features = cached_features(extractor, data, tmp_path / "cache")
    chance = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    chance[np.isnan(features)] = np.nan
    answers = [*probe(extractor, chance, data, ks=(5,)), *probe(extractor, features, data, ks=(5,))]
    first, second = probe_rows(answers)
    assert first["difference"] is None and second["top1"] == second["high"] == 1.0
    assert second["difference"] == pytest.approx(1 - float(first["top1"] or 0))
    assert format_rows([first, second], dict.fromkeys(first), "csv").startswith("model,tokens,method,k,top1,low,high")
