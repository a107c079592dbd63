"""What the methods of a scene return: the arrays of the readouts, and figures of them."""

from __future__ import annotations

import os
import re
import tempfile
import webbrowser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmae_tools.camera import Camera
from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.pictures import psnr, ssim
from gmae_tools.refine import refine_scene
from gmae_tools.results import Shown
from gmae_tools.scene import Scene
from gmae_tools.zeroshot.boxes import boxes
from gmae_tools.zeroshot.density import Points, density_map, summary
from gmae_tools.zeroshot.edges import join_picture, layer_edges, outline, region_edges
from gmae_tools.zeroshot.figure_ground import foreground_mask, foreground_probability
from gmae_tools.zeroshot.layers import over, render_layers
from tests.some_gaussians import some_gaussians

HEIGHT, WIDTH, K = 24, 40, 50


@pytest.fixture(scope="module")
def scene() -> Scene:
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return Scene(some_gaussians(K), Camera("gmae", 8.0, 3.0), HEIGHT, WIDTH, photo)


def test_layers_are_those_of_the_readout_and_their_scores_those_of_their_pictures(scene: Scene) -> None:
    found = scene.layers(k=[10, 50], n=4)
    expected = render_layers(scene, [10, 50], 4)
    assert all(torch.equal(getattr(found.pictures, name), tensor) for name, tensor in vars(expected).items())
    shown = over(expected.firsts, expected.first_alphas, torch.ones(3)).astype(np.float32) / np.float32(255)
    assert scene.photo is not None
    photo = scene.photo.astype(np.float32) / np.float32(255)
    for score, picture, alpha in zip(found.scores, shown, expected.first_alphas, strict=True):
        assert score.psnr == pytest.approx(psnr(picture, photo)) and score.ssim == pytest.approx(ssim(picture, photo))
        assert score.coverage == pytest.approx(alpha.mean().item())
    assert scene.layers().ks == (32, K) and scene.layers(k=7).ks == (7,)


def test_without_a_photograph_there_is_nothing_to_be_like(scene: Scene) -> None:
    found = replace(scene, photo=None).layers(k=[10], n=2)
    assert (found.scores[0].psnr, found.scores[0].ssim) == (None, None) and 0 < found.scores[0].coverage < 1
    assert found.sheet().width < scene.layers(k=[10], n=2).sheet().width  # no panel of the photograph


def test_edges_are_the_map_of_one_look(scene: Scene) -> None:
    found = scene.edges(layers=8)
    np.testing.assert_array_equal(found.strength, outline(layer_edges(scene, [8])))
    both = np.mean([layer_edges(scene, [count]) for count in (8, 4)], axis=0)
    np.testing.assert_array_equal(scene.edges(layers=[8, 4]), outline(both))
    regions = region_edges(scene, damping=0.01)
    np.testing.assert_array_equal(scene.edges("closed-regions"), outline(regions))
    joined = outline(join_picture(regions, scene.picture()))
    np.testing.assert_array_equal(scene.edges("regions-and-photo"), joined)
    with pytest.raises(GmaeToolsError, match="no edge readout 'sobel': use layers, "):
        scene.edges("sobel")
    with pytest.raises(GmaeToolsError, match="cut 50 Gaussians into 51"):
        scene.edges(layers=51)


@pytest.mark.parametrize("method", ["grouped", "depth"])
def test_masks_and_boxes_are_those_of_the_readout(scene: Scene, method: str) -> None:
    found = scene.mask(method)
    np.testing.assert_array_equal(found.probability, foreground_probability(scene, method=method))
    np.testing.assert_array_equal(found, foreground_mask(found.probability))
    np.testing.assert_array_equal(scene.boxes(method), boxes(found.mask))


def test_density_is_that_of_the_points(scene: Scene) -> None:
    found = scene.density()
    np.testing.assert_array_equal(found.map, density_map(Points.of(scene)))
    assert found.summary == summary(Points.of(scene))


def test_refining_gives_a_scene_that_is_more_like_its_photograph(scene: Scene) -> None:
    steps: list[int] = []
    found = scene.refine(3, progress=lambda step, _: steps.append(step))
    assert steps == [1, 2, 3] and found.photo is scene.photo
    assert torch.equal(found.gaussians.means, refine_scene(scene, 3).gaussians.means)


@pytest.mark.parametrize("photo", [True, False])
def test_everything_shows_itself_in_a_notebook(scene: Scene, photo: bool) -> None:
    scene = scene if photo else replace(scene, photo=None)
    results: list[Shown] = [scene.layers(k=[10], n=2), scene.edges("regions"), scene.mask(), scene.density()]
    for result in results:
        assert isinstance(result.sheet(), Image.Image) and min(result.sheet().size) >= HEIGHT
    for text in [scene._repr_html_(), *(result._repr_html_() for result in results)]:
        assert re.fullmatch(r'<img src="data:image/png;base64,[\w+/=]+" alt="\w+\([^"]+\)">', text)


def test_show_opens_a_page_and_removes_those_of_other_days(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("gmae-tools-page-old", "gmae-tools-page-new", "anything"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scene.html").touch()
        if name != "gmae-tools-page-new":
            os.utime(tmp_path / name, (1e9, 1e9))
    monkeypatch.setattr(webbrowser, "open", opened.append)
    page = replace(scene, photo=None).show()
    assert opened == [page.as_uri()]
    assert f"K = {K} Gaussians; picture of {WIDTH} × {HEIGHT} px" in page.read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"gmae-tools-page-new", "anything", page.parent.name}
