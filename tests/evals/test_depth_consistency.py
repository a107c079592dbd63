"""Agreement of depth maps under mirroring and shifts, with models that are known to go with the scene or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evals.depth_consistency import depth_consistency, expected_depth
from gmae_tools import checkpoints
from gmae_tools.camera import Camera
from gmae_tools.gaussians import Gaussians

SIZE, ROOM, GRID = 32, 4, 16


class Bump(nn.Module):
    """A grid of Gaussians, 2 px apart, whose depths are the brightness of the picture there, or that of the first."""

    def __init__(self, *, blind: bool = False, opacity: float = 0.99) -> None:
        super().__init__()
        self.register_buffer("rgb_mean", torch.zeros(3))
        self.camera, self.blind, self.opacity = Camera(), blind, opacity
        self.first: Tensor | None = None

    def forward(self, images: Tensor) -> Gaussians:
        if self.first is None:
            self.first = images[:1]
        seen = self.first.expand_as(images) if self.blind else images
        batch, step = len(images), SIZE // GRID
        brightness = seen.mean(1)[:, step // 2 :: step, step // 2 :: step].reshape(batch, -1)
        place = (torch.arange(GRID) + 0.5) * 2 / GRID - 1
        y, x = torch.meshgrid(place, place, indexing="ij")
        means = torch.stack([x.flatten().expand(batch, -1), y.flatten().expand(batch, -1), brightness], -1)
        k = means.shape[1]
        quats = torch.tensor([1.0, 0, 0, 0]).expand(batch, k, 4)
        return Gaussians(
            means, torch.full((batch, k, 3), 0.7), quats, torch.zeros(batch, k, 3),
            torch.full((batch, k), self.opacity),
        )  # fmt: skip


def scenes(count: int) -> Tensor:
    """Smooth random pictures."""
    noise = torch.randn(count, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(noise, SIZE + ROOM, mode="bicubic", align_corners=True)
    return smooth.sigmoid().expand(-1, 3, -1, -1).contiguous()


def test_depth_that_is_in_the_scene_goes_with_it() -> None:
    found = depth_consistency(Bump(), scenes(5), (2, 4))  # type: ignore[arg-type]
    assert list(found) == ["flip", "shift 2", "shift 4", "other"]
    assert all(values.shape == (5,) for values in found.values())
    # Shifted by its own grid the model says the very same, up to what comes in at the rim. (Mirroring moves it a bit.)
    assert min(found["shift 2"].min(), found["shift 4"].min()) > 0.98
    assert found["flip"].min() > 0.9
    assert found["other"].max() < 0.8


def test_a_pattern_of_the_frame_does_not() -> None:
    found = depth_consistency(Bump(blind=True), scenes(5), (4,))  # type: ignore[arg-type]
    np.testing.assert_allclose(found["other"], 1)
    assert found["shift 4"].max() < 0.9
    assert found["flip"].max() < 0.8
    assert np.ptp(found["flip"]) == 0


def test_compares_with_the_next_picture() -> None:
    model, pictures = Bump(), scenes(3)
    maps = expected_depth(model, pictures[..., :SIZE, :SIZE])  # type: ignore[arg-type]
    other = depth_consistency(model, pictures, (ROOM,))["other"]  # type: ignore[arg-type]
    ranks = [np.argsort(np.argsort(each.ravel())) for each in maps]
    for number in range(3):
        assert other[number] == pytest.approx(np.corrcoef(ranks[number], ranks[number - 1])[0, 1], abs=1e-3)


def test_what_is_hardly_covered_has_no_depth() -> None:
    assert np.isnan(expected_depth(Bump(opacity=0.004), scenes(1)[..., :SIZE, :SIZE])).all()  # type: ignore[arg-type]
    found = depth_consistency(Bump(opacity=0.004), scenes(2), (ROOM,))  # type: ignore[arg-type]
    assert all(np.isnan(values).all() for values in found.values())


def test_a_real_model_sees_what_it_was_built_for(checkpoint: Path) -> None:
    model = checkpoints.load(checkpoint)
    size = model.config.image_size
    picture = torch.rand(2, 3, size + 3, size + 3, generator=torch.Generator().manual_seed(1))
    found = depth_consistency(model, picture, (3,))
    assert set(found) == {"flip", "shift 3", "other"}
    assert all((np.abs(values) <= 1).all() for values in found.values())
    mirrored = expected_depth(model, picture[..., :size, :size].flip(-1))
    assert not np.allclose(mirrored[..., ::-1], expected_depth(model, picture[..., :size, :size]))
