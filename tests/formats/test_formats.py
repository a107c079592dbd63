"""Any file of Gaussians becomes a scene: which format, and how it is seen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmae_tools import checkpoints, formats
from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import npz, ply, splat
from gmae_tools.formats.perspective import PerspectiveView, for_viewers, in_perspective
from gmae_tools.images import read_image
from gmae_tools.prediction import predict_gaussians, predict_scene
from gmae_tools.scene import Scene
from tests.some_gaussians import K, some_gaussians
from tests.thresholds import assert_equal_but_at_thresholds

HEIGHT, WIDTH = 40, 64


@pytest.fixture
def scene() -> Scene:
    return Scene(some_gaussians(), Camera("gmae", 8.0, 3.0, 0.1), HEIGHT, WIDTH)


def test_names() -> None:
    assert all(map(formats.is_gaussians_name, ("a.ply", "b/c.SPLAT", "d.npz")))
    assert not any(map(formats.is_gaussians_name, ("a.jpg", "._b.ply", "ply", "c.svg")))


# --- what we write -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(236, 320), (320, 236), (100, 320)])
def test_a_prediction_comes_back_at_any_aspect(checkpoint: Path, tmp_path: Path, height: int, width: int) -> None:
    model = checkpoints.load(str(checkpoint))
    y, x = np.mgrid[:height, :width]
    photo = np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8)
    scene = Scene(predict_gaussians(model, photo), model.camera, height, width, photo)
    ours = scene.render()
    assert ours.std() > 0.05
    for form in ("ply", "npz"):
        formats.write(tmp_path / f"some.{form}", scene)
        back = formats.read(tmp_path / f"some.{form}")
        assert (back.height, back.width, back.k) == (height, width, scene.k)
        assert (back.render() - ours).abs().mean() <= 1e-5


def test_pixels_of_an_export_differ_only_at_the_renderers_thresholds(repository: Path, tmp_path: Path) -> None:
    """Rounding to float32 may move a splat over the alpha that is skipped, or a pixel over the light that ends it."""
    photo = read_image(repository / "gmae_tools" / "assets" / "demo.jpg")
    predicted = predict_scene(checkpoints.load("gmae-tiny"), photo)
    for height, width in ((236, 320), (320, 100)):
        scene = predicted.resized(height, width)
        formats.write(tmp_path / "some.ply", scene)
        back, picture = formats.read(tmp_path / "some.ply").render(), scene.render()
        assert (back - picture).abs().mean() <= 1e-6
        assert_equal_but_at_thresholds(back, picture, scene.splats(), atol=1e-5)


def test_what_a_pinhole_sees_is_written_as_it_is(tmp_path: Path) -> None:
    camera = Camera("pinhole", 0.0, 2.0, focal_y=3.0, cx=0.1, cy=-0.05)
    gaussians = some_gaussians()
    gaussians.means[..., 2] += 3
    scene = Scene(gaussians, camera, HEIGHT, WIDTH)
    formats.write(tmp_path / "some.ply", scene)
    back = formats.read(tmp_path / "some.ply")
    assert torch.equal(back.gaussians.means, gaussians.means)
    assert (back.render() - scene.render()).abs().mean() < 1e-5


def test_every_suffix_is_written(scene: Scene, tmp_path: Path) -> None:
    for suffix in formats.WRITABLE:
        formats.write(tmp_path / f"some{suffix.upper()}", scene, title="some")
    assert "<title>some</title>" in (tmp_path / "some.SVG").read_text()
    with pytest.raises(GmaeToolsError, match=r"name it .ply, .splat, .npz or .svg"):
        formats.write(tmp_path / "some.obj", scene)


# --- how it is seen ----------------------------------------------------------------------------------


def sidecar(tmp_path: Path, **changes: Any) -> None:
    record: dict[str, Any] = {
        "files": ["some.ply", "some.splat", "some.npz"],
        "viewer": PerspectiveView(HEIGHT, WIDTH, 40.0).to_dict(),
        "camera": {"kind": "gmae", "distance": 8.0, "focal": 3.0, "blur": 0.1},
    }
    (tmp_path / "some.json").write_text(json.dumps(record | changes))


def test_the_json_file_of_an_export(scene: Scene, tmp_path: Path) -> None:
    """One of an earlier version, whose PLY files do not say themselves how they are seen."""
    moved = in_perspective(scene, PerspectiveView(HEIGHT, WIDTH, 40.0)).gaussians
    ply.write(tmp_path / "some.ply", moved)
    splat.write(tmp_path / "some.splat", moved)
    scene.gaussians.save(tmp_path / "some.npz")
    sidecar(tmp_path)
    for form, bound in (("ply", 1e-5), ("splat", 0.02), ("npz", 0.0)):
        back = formats.read(tmp_path / f"some.{form}")
        assert (back.height, back.width, back.camera.blur) == (HEIGHT, WIDTH, 0.1)
        assert (back.render() - scene.render()).abs().mean() <= bound


def test_a_json_file_about_something_else(scene: Scene, tmp_path: Path) -> None:
    ply.write(tmp_path / "some.ply", scene.gaussians)
    for text in ("", "[]", "{", '{"files": []}', '{"files": 3}', "[" * 100_000, '"some.ply"'):
        (tmp_path / "some.json").write_text(text)
        assert formats.read(tmp_path / "some.ply", size=(20, 30)).camera.kind == "pinhole"


@pytest.mark.parametrize(
    "changes",
    [
        {"viewer": {}},
        {"viewer": None},
        {"camera": {"kind": "fisheye"}},
        {"viewer": {"width": 0, "height": 3, "fov_x_degrees": 40, "fov_y_degrees": 30, "position": [0, 0, -3]}},
        {"viewer": {"width": 9, "height": 3, "fov_x_degrees": 0, "fov_y_degrees": 30, "position": [0, 0, -3]}},
        {"viewer": {"width": 9, "height": 3, "fov_x_degrees": "wide", "fov_y_degrees": 30, "position": [0, 0, -3]}},
    ],
)
def test_a_damaged_json_file_is_refused(scene: Scene, tmp_path: Path, changes: dict[str, Any]) -> None:
    ply.write(tmp_path / "some.ply", scene.gaussians)
    sidecar(tmp_path, **changes)
    with pytest.raises(GmaeToolsError, match=r"does not say how some\.ply is seen") as caught:
        formats.read(tmp_path / "some.ply")
    assert "\n" not in str(caught.value)


def test_the_caller_says_how(scene: Scene, tmp_path: Path) -> None:
    """A point is seen where a camera of that focal length in pixels sees it."""
    gaussians = some_gaussians()
    gaussians.means[..., 2] += 4
    ply.write(tmp_path / "some.ply", gaussians)
    read = formats.read(tmp_path / "some.ply", size=(HEIGHT, WIDTH), focal=50.0)
    x, y, z = gaussians.means[0].T
    expected = torch.stack([50 * x / z + WIDTH / 2, 50 * y / z + HEIGHT / 2], -1)
    torch.testing.assert_close(read.splats().means[0], expected, atol=1e-4, rtol=1e-5)
    default = formats.read(tmp_path / "some.ply", size=(HEIGHT, WIDTH)).camera
    assert (default.kind, default.focal, default.focal_y) == ("pinhole", 2.0, 2 * WIDTH / HEIGHT)
    assert formats.read(tmp_path / "some.ply", size=(HEIGHT, WIDTH), camera=scene.camera).camera == scene.camera
    flat = formats.read(tmp_path / "some.ply", size=(HEIGHT, WIDTH), camera="orthographic").camera
    assert flat == Camera("orthographic", 1.0, 1.0)
    model = formats.read(tmp_path / "some.ply", size=(HEIGHT, WIDTH), camera="gmae", focal=WIDTH / 4).camera
    assert model == Camera("gmae", 8.0, 0.5)


def test_predicted_gaussians_are_a_models(scene: Scene, tmp_path: Path) -> None:
    scene.gaussians.save(tmp_path / "some.npz")
    assert formats.read(tmp_path / "some.npz", size=(HEIGHT, WIDTH)).camera == Camera()


def test_the_caller_has_the_last_word(scene: Scene, tmp_path: Path) -> None:
    formats.write(tmp_path / "some.ply", scene)
    found = formats.read(tmp_path / "some.ply")
    larger = formats.read(tmp_path / "some.ply", size=(2 * HEIGHT, 2 * WIDTH))
    assert (larger.camera, larger.height) == (found.camera, 2 * HEIGHT)
    assert formats.read(tmp_path / "some.ply", focal=100.0).camera.focal == 200 / WIDTH
    assert formats.read(tmp_path / "some.ply", camera=Camera()).camera == Camera()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing says how its Gaussians are seen: give the size"),
        ({"focal": 3.0}, "give the size"),
        ({"camera": Camera()}, "give the size"),
        ({"size": (0, 3)}, "give height and width in pixels"),
        ({"size": (-1, 3)}, "give height and width in pixels"),
        ({"size": (1 << 20, 1 << 20)}, "cannot be rendered"),
        ({"size": (4, 3), "focal": 0.0}, "focal length is 0.0: use a number above 0"),
        ({"size": (4, 3), "focal": math.inf}, "focal length is inf: use a number above 0"),
        ({"size": (4, 3), "focal": 3.0, "camera": Camera()}, "a Camera has its own focal length"),
        ({"size": (4, 3), "camera": "fisheye"}, "camera kind 'fisheye' is unknown"),
    ],
)
def test_ways_to_look_that_there_are_not(scene: Scene, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    ply.write(tmp_path / "some.ply", scene.gaussians)
    with pytest.raises(GmaeToolsError, match=message):
        formats.read(tmp_path / "some.ply", **arguments)


def test_the_content_decides(scene: Scene, tmp_path: Path) -> None:
    """Whatever a file is called; only .splat files have no mark."""
    formats.write(tmp_path / "some.ply", scene)
    (tmp_path / "some.ply").rename(tmp_path / "some.npz")
    assert formats.read(tmp_path / "some.npz").k == K
    npz.write(tmp_path / "some.splat", scene.gaussians)
    assert formats.read(tmp_path / "some.splat", size=(3, 3)).k == K
    (tmp_path / "some.obj").write_bytes(bytes(32))
    for name, message in (("some.obj", "not a file of Gaussians"), ("nowhere.ply", "cannot be read")):
        with pytest.raises(GmaeToolsError, match=message):
            formats.read(tmp_path / name)


# --- for viewers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40)])
def test_a_viewer_sees_a_pinholes_scene_in_its_own_proportions(height: int, width: int) -> None:
    gaussians = some_gaussians()
    gaussians.means[..., 2] += 20
    camera = Camera("pinhole", 0.0, 2 * 70 / width, focal_y=2 * 70 / height)
    shown, view = for_viewers(Scene(gaussians, camera, height, width), 50.0)
    moved = shown.gaussians
    assert view.fov == pytest.approx(2 * math.degrees(math.atan(32 / 70)))
    assert moved.means[..., 2].median() == pytest.approx(0.0, abs=1e-4)
    ratio = moved.scales / gaussians.scales
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio))
    assert torch.equal(moved.quats, gaussians.quats)
    ours, theirs = project(gaussians, camera, height, width), shown.splats()
    torch.testing.assert_close(theirs.means, ours.means, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(theirs.conics, ours.conics, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("camera", [Camera(), Camera("pinhole", 8.0, 8.0), Camera("pinhole", 8.0, 8.0, cx=0.1)])
def test_all_else_is_reshaped_for_viewers(camera: Camera) -> None:
    scene, view = Scene(some_gaussians(), camera, HEIGHT, WIDTH), PerspectiveView(HEIGHT, WIDTH, 40.0)
    shown, found = for_viewers(scene, 40.0)
    assert found == view
    expected = vars(in_perspective(scene, view).gaussians)
    assert all(torch.equal(getattr(shown.gaussians, name), tensor) for name, tensor in expected.items())
