"""Numbers drawn by hashing counters: SplitMix64's own, uniform, independent, the same however they are asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from gmae_tools.pretrain.sampling import _GOLDEN, Stream, _mix, uniforms


def test_the_mixing_function_is_that_of_splitmix64() -> None:
    """The first outputs for seed 1234567, as published with the reference implementation (Vigna, splitmix64.c)."""
    counters = np.uint64(1234567) + _GOLDEN * np.arange(1, 6, dtype=np.uint64)
    assert _mix(counters).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821
    ]  # fmt: skip


def test_numbers_depend_on_seed_stream_and_sample_alone() -> None:
    samples = np.array([0, 7, 2**40, 3])
    whole = uniforms(5, Stream.CROP, samples, 10)
    assert whole.shape == (4, 10) and whole.dtype == np.float64
    np.testing.assert_array_equal(uniforms(5, Stream.CROP, samples[[2, 0]], 4), whole[[2, 0], :4])
    for other in (uniforms(6, Stream.CROP, samples, 10), uniforms(5, Stream.MASK, samples, 10)):
        assert not np.isin(other, whole).any()
    assert len(np.unique(whole)) == whole.size


@pytest.mark.parametrize("seed", [0, 1, 2**63])
@pytest.mark.parametrize("stream", [Stream.ORDER, Stream.MASK])
def test_uniform_across_samples_and_within_one(seed: int, stream: Stream) -> None:
    across = uniforms(seed, stream, np.arange(20_000), 3)
    within = uniforms(seed, stream, np.arange(3), 20_000).T
    for draws in (*across.T, *within.T):
        assert draws.min() >= 0 and draws.max() < 1
        assert stats.kstest(draws, "uniform").pvalue > 1e-4
        low_bits = (draws * 2**53).astype(np.int64) % 16
        assert stats.chisquare(np.bincount(low_bits, minlength=16)).pvalue > 1e-4


@pytest.mark.parametrize(
    "pairs",
    [
        lambda a, b: (a[:, 0], a[:, 1]),  # of one sample
        lambda a, b: (a[:-1, 0], a[1:, 0]),  # of neighbouring samples
        lambda a, b: (a[:, 0], b[:, 0]),  # of two streams
        lambda a, b: (a[:, 0], uniforms(1, Stream.CROP, np.arange(len(a)), 1)[:, 0]),  # of neighbouring seeds
    ],
    ids=["indices", "samples", "streams", "seeds"],
)
def test_neighbours_are_independent(pairs: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    """Chi-squared over the squares of a 16 x 16 grid: any dependence, not only correlation."""
    a, b = (uniforms(0, stream, np.arange(100_000), 2) for stream in (Stream.CROP, Stream.MASK))
    table = np.histogram2d(*pairs(a, b), bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-4
