"""SVG of splats: drawn by another renderer."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import svg
from gmae_tools.gaussians import Gaussians
from gmae_tools.splatting import rasterize
from tests.some_gaussians import some_gaussians

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def gaussians() -> Gaussians:
    return some_gaussians()


def draw_svg(path: Path) -> np.ndarray:
    """A small renderer of the elements used, `[H, W, 3]`: painter's order, pixels sampled at their centres."""
    root = ElementTree.parse(path).getroot()
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    assert root.attrib["viewBox"] == f"0 0 {width} {height}"
    gradients = {element.attrib["id"]: element for element in root.iter(f"{SVG}radialGradient")}
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    picture = np.ones((height, width, 3))
    for circle in root.iter(f"{SVG}circle"):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", circle.attrib["transform"])]
        left, top, degrees, along, across = numbers
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        dx, dy = x - left, y - top
        radius = np.hypot((cos * dx + sin * dy) / along, (-sin * dx + cos * dy) / across)
        gradient = gradients[circle.attrib["fill"][5:-1]]
        stops = [stop.attrib for stop in gradient]
        offsets = [float(stop["offset"]) for stop in stops]
        levels = np.interp(
            radius / float(gradient.attrib["r"]), offsets, [float(stop["stop-opacity"]) for stop in stops]
        )
        alpha = levels * float(circle.attrib["fill-opacity"]) * (radius < float(circle.attrib["r"]))
        color = np.array([int(stops[0]["stop-color"][start : start + 2], 16) for start in (1, 3, 5)]) / 255
        picture += alpha[..., None] * (color - picture)
    return picture


def test_svg_is_the_picture(gaussians: Gaussians, tmp_path: Path) -> None:
    height, width = 40, 64
    splats = project(gaussians, Camera("gmae", 8.0, 3.0), height, width)
    svg.write(tmp_path / "some.svg", splats, height, width)
    ours = rasterize(splats, height, width, background=torch.ones(3)).image[0].movedim(0, -1).numpy()
    drawn = draw_svg(tmp_path / "some.svg")
    assert ours.std() > 0.1
    assert -10 * math.log10(np.square(drawn - ours).mean()) > 45
    assert np.abs(drawn - ours).max() < 0.02


def test_svg_names_any_photograph(gaussians: Gaussians, tmp_path: Path) -> None:
    splats = project(gaussians, Camera(), 10, 10)
    svg.write(tmp_path / "some.svg", splats, 10, 10, title="<b>&\udcff\x07\n猫.jpg")
    title = ElementTree.parse(tmp_path / "some.svg").getroot().find(f"{SVG}title")
    assert title is not None and title.text == "<b>&\ufffd\ufffd\ufffd猫.jpg"


def test_svg_leaves_out_what_is_not_drawn(gaussians: Gaussians, tmp_path: Path) -> None:
    with torch.no_grad():
        gaussians.opacities[0, 10:] = 0.5 / 255
    svg.write(tmp_path / "some.svg", project(gaussians, Camera(), 10, 10), 10, 10)
    root = ElementTree.parse(tmp_path / "some.svg").getroot()
    assert len(list(root.iter(f"{SVG}circle"))) == len(list(root.iter(f"{SVG}radialGradient"))) == 10


def test_a_file_holds_one_set(gaussians: Gaussians, tmp_path: Path) -> None:
    two = Gaussians.stack([gaussians, gaussians])
    with pytest.raises(GmaeToolsError, match="one set of Gaussians, not 2"):
        svg.write(tmp_path / "two.svg", project(two, Camera(), 8, 8), 8, 8)
    assert not list(tmp_path.iterdir())
