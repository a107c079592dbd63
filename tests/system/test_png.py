"""PNG files written in strips, read back by Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmae_tools.system.png import png_writer

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("cuts", [[], [1], [5, 6, 20]])
def test_strips_come_back_as_one_picture(tmp_path: Path, channels: int, mode: str, cuts: list[int]) -> None:
    picture = RNG.integers(0, 256, (23, 31, channels), dtype=np.uint8)
    with png_writer(tmp_path / "a.png", 23, 31, channels) as writer:
        for strip in np.split(picture, cuts):
            writer.write(strip)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == mode
        np.testing.assert_array_equal(np.asarray(image).reshape(picture.shape), picture)


def test_views_with_gaps_are_written_as_they_look(tmp_path: Path) -> None:
    picture = RNG.integers(0, 256, (8, 20, 3), dtype=np.uint8)[:, ::2]
    with png_writer(tmp_path / "a.png", 8, 10, 3) as writer:
        writer.write(picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)


def test_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    def fail() -> None:
        with png_writer(tmp_path / "a.png", 4, 4, 3) as writer:
            writer.write(np.zeros((2, 4, 3), np.uint8))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())
