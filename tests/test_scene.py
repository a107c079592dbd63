"""A scene is checked once, says what it is, and draws itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize
from tests.some_gaussians import some_gaussians

PHOTO = np.zeros((20, 30, 3), np.uint8)


def test_it_says_what_it_is() -> None:
    assert repr(Scene(some_gaussians(), Camera(), 20, 30)) == "Scene(50 Gaussians, gmae camera, 30 x 20 px)"
    assert repr(Scene(some_gaussians(), Camera(), 20, 30, PHOTO)).endswith("px, with its photograph)")


def test_it_draws_itself_at_any_size() -> None:
    gaussians, camera = some_gaussians(), Camera("gmae", 8.0, 3.0)
    scene = Scene(gaussians, camera, 20, 30)
    for size, arguments in (((20, 30), ()), ((40, 20), (40, 20))):
        expected = rasterize(project(gaussians, camera, *size), *size, background=torch.tensor([0.1, 0.2, 0.3])).image
        assert torch.equal(scene.render(*arguments, background=(0.1, 0.2, 0.3)), expected)
    assert scene.render().requires_grad is False
    learned = Scene(gaussians.map(lambda tensor: tensor.clone().requires_grad_()), camera, 20, 30)
    assert learned.render().requires_grad


def test_its_picture_is_the_photograph_or_the_render_in_any_size() -> None:
    scene = Scene(some_gaussians(), Camera("gmae", 8.0, 3.0), 20, 30, PHOTO)
    assert scene.picture() is PHOTO
    small = scene.resized(10, 15)
    assert (small.height, small.width) == (10, 15) and small.photo is not None and small.photo.shape == (10, 15, 3)
    bare = Scene(scene.gaussians, scene.camera, 20, 30)
    assert bare.resized(8, 9).photo is None
    expected = (bare.render()[0].movedim(0, -1).clamp(0, 1) * 255).round().numpy()
    np.testing.assert_array_equal(bare.picture(), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gaussians": Gaussians.stack([some_gaussians(), some_gaussians()])}, "not 2 sets of 50"),
        ({"gaussians": some_gaussians().select(slice(0, 0))}, "not 1 sets of 0"),
        ({"height": 0}, "height in pixels is 0: use a whole number of 1 or more"),
        ({"width": 2.5}, "width in pixels is 2.5: use a whole number of 1 or more"),
        ({"width": True}, "width in pixels is True"),
        ({"photo": PHOTO[:10]}, r"uint8 RGB \[20, 30, 3\], not uint8 \[10, 30, 3\]"),
        ({"photo": PHOTO / 255}, "not float64"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"gaussians": some_gaussians(), "camera": Camera(), "height": 20, "width": 30}
    with pytest.raises(GmaeToolsError, match=message):
        Scene(**values | changes)
