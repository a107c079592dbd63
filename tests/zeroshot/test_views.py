"""Tiles of a photograph, and joining what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.prediction import predict_gaussians
from gmae_tools.scene import Scene
from gmae_tools.zeroshot.names import EDGE_READOUTS
from gmae_tools.zeroshot.views import Looks, Views, look, tiles

HEIGHT, WIDTH = 50, 71


@pytest.fixture(scope="module")
def model() -> GMAE:
    torch.manual_seed(0)
    return GMAE(GMAEConfig.preset("nano")).eval()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.mark.parametrize("length", [1, 2, 7, 50, 321])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_tiles_cover_everything_and_have_one_size(length: int, count: int) -> None:
    pieces = tiles(length, count)
    assert len(pieces) == count
    assert len({piece.stop - piece.start for piece in pieces}) == 1
    assert set().union(*(range(length)[piece] for piece in pieces)) == set(range(length))
    assert pieces[0].start == 0
    assert pieces[-1].stop == length


def test_tiles_overlap_by_a_third() -> None:
    assert tiles(350, 3) == [slice(0, 150), slice(100, 250), slice(200, 350)]


def test_looks_at_tiles_and_their_mirror_images(model: GMAE, photo: np.ndarray) -> None:
    views = look(model, photo, Looks((1, 2), flip=True)).views
    assert [(view.scale, view.mirrored) for view in views] == [(1, False), (1, True)] + 4 * [(2, False), (2, True)]
    for view in (views[0], views[-2]):
        expected = predict_gaussians(model, np.ascontiguousarray(photo[view.rows, view.columns]))
        torch.testing.assert_close(view.scene.gaussians.means, expected.means)
    mirrored = predict_gaussians(model, np.ascontiguousarray(photo[views[-1].rows, views[-1].columns][:, ::-1]))
    torch.testing.assert_close(views[-1].scene.gaussians.means, mirrored.means)


@pytest.mark.parametrize("looks", [Looks((1,)), Looks((3,)), Looks((1, 2), flip=True)])
def test_joins_what_the_views_agree_on(model: GMAE, photo: np.ndarray, looks: Looks) -> None:
    """If every view reads the truth of its tile, the whole is the truth, tiles, mirrors and all."""
    truth = np.random.default_rng(1).random((HEIGHT, WIDTH)).astype(np.float32)
    views = look(model, photo, looks)
    parts = {id(view.scene): truth[view.rows, view.columns][:, :: -1 if view.mirrored else 1] for view in views}

    def read(scene: Scene) -> np.ndarray:
        part = parts[id(scene)]
        assert part.shape == (scene.height, scene.width)
        return part

    joined = views.join(read)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined, truth, atol=1e-6)


def test_tiles_fade_into_each_other(model: GMAE, photo: np.ndarray) -> None:
    views = look(model, photo, Looks((2,)))
    left = {id(view.scene) for view in views if view.columns.start == 0}
    joined = views.join(lambda scene: np.full((scene.height, scene.width), float(id(scene) in left)))
    assert np.allclose(joined, joined[:1])
    profile = joined[0]
    first, second = tiles(WIDTH, 2)
    assert (profile[: second.start] == 1).all()
    assert (profile[first.stop :] == 0).all()
    assert (np.diff(profile[second.start - 1 : first.stop + 1]) < 0).all()
    assert np.abs(np.diff(profile)).max() < 0.15


def test_scales_are_averaged(model: GMAE, photo: np.ndarray) -> None:
    views = look(model, photo, Looks((1, 2)))
    whole = views.views[0].scene
    joined = views.join(lambda scene: np.full((scene.height, scene.width), 0.8 if scene is whole else 0.2))
    np.testing.assert_allclose(joined, 0.5, atol=1e-6)


def test_some_views_alone(model: GMAE, photo: np.ndarray) -> None:
    views = look(model, photo, Looks((1, 2), flip=True))
    chosen = views.only((2,), (True,))
    assert [(view.scale, view.mirrored) for view in chosen] == 4 * [(2, True)] and len(views) == 10
    assert (chosen.height, chosen.width) == (HEIGHT, WIDTH)


def test_a_readout_is_read_once(model: GMAE, photo: np.ndarray) -> None:
    calls: list[Scene] = []

    def read(scene: Scene) -> np.ndarray:
        calls.append(scene)
        return np.zeros((scene.height, scene.width))

    views = look(model, photo, Looks((2,)))
    assert views.read(read, "nothing") is views.read(read, "nothing")
    assert len(calls) == 4
    assert views.only((2,)).read(read, "nothing") is not views.read(read, "nothing")


def test_a_scene_is_its_own_only_view(model: GMAE, photo: np.ndarray) -> None:
    seen = look(model, photo, Looks((1,)))
    own = Views.of(seen.views[0].scene)
    for readout in ("layers", "closed-regions", "regions-and-photo"):
        np.testing.assert_array_equal(own.edges(readout, (4,)), seen.edges(readout, (4,)))
    with pytest.raises(GmaeToolsError, match="at least one number"):
        own.edges("layers", ())


@pytest.mark.parametrize("looks", [Looks((1,)), Looks((3,), flip=True)])
def test_the_photograph_is_put_together_from_its_views(model: GMAE, photo: np.ndarray, looks: Looks) -> None:
    np.testing.assert_array_equal(look(model, photo, looks).picture(), photo)


def test_without_a_photograph_the_picture_is_rendered(model: GMAE, photo: np.ndarray) -> None:
    scene = replace(look(model, photo, Looks((1,))).views[0].scene, photo=None)
    np.testing.assert_array_equal(Views.of(scene).picture(), scene.picture())
    assert Views.of(scene).edges("regions-and-photo").shape == photo.shape[:2]


def test_only_one_readout_looks_at_the_photograph(model: GMAE, photo: np.ndarray) -> None:
    scene = look(model, photo, Looks((1,))).views[0].scene
    bare = replace(scene, photo=None)
    for readout in EDGE_READOUTS:
        same = np.array_equal(Views.of(scene).edges(readout, (4,)), Views.of(bare).edges(readout, (4,)))
        assert same == (readout != "regions-and-photo")


@pytest.mark.parametrize("scales", [(), (0,), (2, 2)])
def test_refuses_impossible_scales(scales: tuple[int, ...]) -> None:
    with pytest.raises(GmaeToolsError, match="scales"):
        Looks(scales)
