"""Unbiased linear CKA, against the definition of its U-statistic and against a direct computation of all pictures."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmae_tools.metrics.cka import MinibatchCKA, unbiased_hsic


def features(n: int, *widths: int, seed: int = 0, common: float = 1.0) -> list[Tensor]:
    """Feature sets of the same pictures (of a seed) that share a part of what they say (always in the same way)."""
    chance, always = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    said = torch.randn(n, 3, generator=chance)
    sets = []
    for width in widths:
        own = torch.randn(n, width, generator=chance) + torch.randn(width, generator=always)
        sets.append(own + common * said @ torch.randn(3, width, generator=always))
    return sets


def kernel(x: Tensor) -> Tensor:
    return (x @ x.T).double()


def quadruples(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """HSIC as the mean over all ordered quadruples of different pictures of k_ij (l_ij + l_qr - 2 l_iq)."""
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(len(k)), 4)]
    return float(np.mean(terms))


def direct_cka(x: Tensor, y: Tensor) -> float:
    """CKA of all pictures at once, in feature space: another way to the same sums, without any [n, n] matrix."""

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        n = len(a)
        norms_a, norms_b = (a**2).sum(1), (b**2).sum(1)
        rows_a, rows_b = a @ a.sum(0) - norms_a, b @ b.sum(0) - norms_b
        trace = ((a.T @ b) ** 2).sum() - norms_a @ norms_b
        means = rows_a.sum() * rows_b.sum() / ((n - 1) * (n - 2)) - 2 * (rows_a @ rows_b) / (n - 2)
        return float((trace + means) / (n * (n - 3)))

    a, b = x.double().numpy(), y.double().numpy()
    return hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b))


def cka(*batches: tuple[Tensor, Tensor]) -> MinibatchCKA:
    metric = MinibatchCKA()
    for x, y in batches:
        metric.update(x, y)
    return metric


def test_hsic_is_its_u_statistic() -> None:
    x, y = features(7, 4, 5)
    k, l = kernel(x), kernel(y)  # noqa: E741
    assert float(unbiased_hsic(k, l)) == pytest.approx(quadruples(k.numpy(), l.numpy()))


def test_all_subsets_average_to_the_whole() -> None:
    """What makes an estimate from batches one of the whole."""
    x, y = features(8, 4, 5)
    of_batches = [unbiased_hsic(kernel(x[list(part)]), kernel(y[list(part)])) for part in combinations(range(8), 5)]
    torch.testing.assert_close(torch.stack(of_batches).mean(), unbiased_hsic(kernel(x), kernel(y)))


def test_one_batch_is_the_direct_computation() -> None:
    for common in (0.0, 0.5, 2.0):
        x, y = features(40, 6, 9, common=common)
        assert float(cka((x, y)).compute()) == pytest.approx(direct_cka(x, y), abs=1e-9)


def test_batches_come_near_the_direct_computation() -> None:
    x, y = features(4000, 6, 9, common=0.7)
    metric = cka(*zip(x.split(40), y.split(40), strict=True))
    value, error = float(metric.compute()), float(metric.standard_error())
    assert 0 < error < 0.03
    assert abs(value - direct_cka(x, y)) < 3 * error


def test_standard_error_is_the_spread_of_repetitions() -> None:
    repeated = [
        cka(*zip(x.split(20), y.split(20), strict=True))
        for x, y in (features(400, 6, 9, seed=seed, common=0.4) for seed in range(60))
    ]
    spread = torch.stack([metric.compute() for metric in repeated]).std()
    errors = torch.stack([metric.standard_error() for metric in repeated])
    assert 0.75 < float(errors.mean() / spread) < 1.33


def test_unrelated_features_have_nothing_in_common_on_average() -> None:
    sets = [features(12, 50, 50, seed=seed, common=0.0) for seed in range(300)]
    metric = cka(*((x, y) for x, y in sets))
    assert abs(float(metric.compute())) < min(0.03, 4 * float(metric.standard_error()))


def test_rotation_scale_and_shift_do_not_matter() -> None:
    x, y = features(30, 6, 6)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))[0]
    expected = cka((x, y)).compute()
    torch.testing.assert_close(cka((x @ turn * 5 + 100, y)).compute(), expected, rtol=1e-4, atol=1e-4)
    assert float(cka((x, x @ turn * 0.1 - 7)).compute()) == pytest.approx(1, abs=1e-5)


def test_pairs_side_by_side() -> None:
    sets = [features(10, 4, 4, seed=seed) for seed in range(3)]
    both = cka((torch.stack([x for x, _ in sets]), torch.stack([y for _, y in sets]))).compute()
    torch.testing.assert_close(both, torch.stack([cka((x, y)).compute() for x, y in sets]))


def test_equal_features_have_no_similarity() -> None:
    x, _ = features(10, 4, 4)
    metric = cka((torch.full((10, 4), 0.1), x), (torch.full((10, 4), 0.1), x))
    assert metric.compute().isnan() and metric.standard_error().isnan()


def test_a_single_batch_has_no_standard_error_and_three_pictures_are_refused() -> None:
    assert cka(tuple(features(10, 4, 4))).standard_error().isnan()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 4"):
        cka(tuple(features(3, 4, 4)))  # type: ignore[arg-type]
