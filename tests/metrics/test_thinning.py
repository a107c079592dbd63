"""Thinning against scikit-image's, which equals `bwmorph(map, 'thin', inf)`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.morphology import thin as reference_thin

from gmae_tools.metrics.thinning import thin


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.floats(0.0, 3.0), st.floats(0, 1))
def test_random_maps_as_scikit_image(seed: int, height: int, width: int, blur: float, level: float) -> None:
    noise = np.random.default_rng(seed).random((height, width))
    smooth = gaussian_filter(noise, blur) if blur > 0 else noise
    binary = smooth > np.quantile(smooth, level)
    np.testing.assert_array_equal(thin(binary), reference_thin(binary))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (1, 9), (9, 1), (40, 40)])
def test_full_maps_as_scikit_image(shape: tuple[int, int]) -> None:
    full = np.ones(shape, bool)
    expected = reference_thin(full) if full.size else full
    np.testing.assert_array_equal(thin(full), expected)


def test_a_thick_bar_becomes_one_line() -> None:
    bar = np.zeros((15, 40), bool)
    bar[5:10, 5:35] = True
    line = thin(bar)
    assert line.any()
    assert (line.sum(axis=0) <= 1).all()


def test_the_input_is_left_alone() -> None:
    bar = np.ones((6, 20), bool)
    thin(bar)
    assert bar.all()


def test_detector_maps_as_scikit_image(shared_data: Path) -> None:
    for path in sorted((shared_data / "bsds-bench-demo" / "png").glob("*.png")):
        soft = np.asarray(Image.open(path))
        for level in (1, 5, 20, 60, 120):
            np.testing.assert_array_equal(thin(soft >= level), reference_thin(soft >= level))
