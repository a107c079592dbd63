"""`.splat` files: to 8 bits what was written, and refused in one line."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import splat
from gmae_tools.gaussians import Gaussians
from tests.some_gaussians import K, some_gaussians


@pytest.fixture
def gaussians() -> Gaussians:
    return some_gaussians()


def importance(gaussians: Gaussians) -> list[float]:
    scales, opacities = gaussians.scales[0].tolist(), gaussians.opacities[0].tolist()
    return [math.prod(each) * opacity for each, opacity in zip(scales, opacities, strict=True)]


def test_the_record_of_antimatter15(gaussians: Gaussians, tmp_path: Path) -> None:
    """Most conspicuous first."""
    splat.write(tmp_path / "some.splat", gaussians)
    data = (tmp_path / "some.splat").read_bytes()
    assert len(data) == 32 * K
    order = np.argsort(-np.array(importance(gaussians)), kind="stable")
    means, scales, quats, colors, opacities = (tensor[0].tolist() for tensor in vars(gaussians).values())
    for index, values in zip(order, struct.iter_unpack("<6f8B", data), strict=True):
        assert values[:3] == pytest.approx(means[index])
        assert values[3:6] == pytest.approx(scales[index])
        assert [value / 255 for value in values[6:10]] == pytest.approx([*colors[index], opacities[index]], abs=0.002)
        assert [(value - 128) / 128 for value in values[10:]] == pytest.approx(quats[index], abs=0.004)


def test_it_comes_back_to_8_bits(gaussians: Gaussians, tmp_path: Path) -> None:
    splat.write(tmp_path / "some.splat", gaussians)
    back = splat.read(tmp_path / "some.splat")
    expected = gaussians.select(torch.tensor(importance(gaussians)).argsort(descending=True))
    assert torch.equal(back.means, expected.means) and torch.equal(back.scales, expected.scales)
    for name, bound in (("colors", 0.002), ("opacities", 0.002), ("quats", 0.008)):
        torch.testing.assert_close(getattr(back, name), getattr(expected, name), atol=bound, rtol=0)


def test_whole_turns_do_not_overflow(gaussians: Gaussians, tmp_path: Path) -> None:
    turned = Gaussians(**{**vars(gaussians), "quats": torch.eye(4)[torch.arange(K) % 4][None] * 3})
    splat.write(tmp_path / "some.splat", turned)
    stored = np.frombuffer((tmp_path / "some.splat").read_bytes(), np.uint8).reshape(K, 32)[:, 28:]
    assert sorted(map(tuple, np.unique(stored, axis=0).tolist())) == sorted(
        tuple(255 if axis == turn else 128 for axis in range(4)) for turn in range(4)
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are no .splat file, which has 32 a Gaussian"),
        (bytes(33), "33 bytes are no .splat file"),
        (b"\xff" * 64, "NaN or infinite"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "broken.splat").write_bytes(data)
    with pytest.raises(GmaeToolsError, match=message):
        splat.read(tmp_path / "broken.splat")


def test_a_file_as_large_as_a_disk_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "large.splat", "wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(GmaeToolsError, match="more than 33,554,432 Gaussians"):
        splat.read(tmp_path / "large.splat")


def test_missing_files_and_two_sets(gaussians: Gaussians, tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match="cannot be read"):
        splat.read(tmp_path / "nowhere.splat")
    with pytest.raises(GmaeToolsError, match="one set of Gaussians, not 2"):
        splat.write(tmp_path / "two.splat", Gaussians.stack([gaussians, gaussians]))
    assert not list(tmp_path.iterdir())
