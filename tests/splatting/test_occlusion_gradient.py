"""The occlusion gradient: against a closed form, random orders, the dense formula, and what any gradient has to do."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from gmae_tools.camera import Splats
from gmae_tools.errors import GmaeToolsError
from gmae_tools.splatting import Rules, rasterize, rasterize_groups
from tests.splatting.test_splatting import (
    SCENES,
    leaves,
    merge,
    one_splat,
    random_splats,
    random_weights,
    select,
    tensors,
    undoubted,
)

TAU = 0.2


@pytest.fixture(params=["cpu", "dense", "gsplat"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each backend in turn; gsplat draws with the stand-ins for its compiled functions."""
    if request.param == "gsplat":
        draw_with_gsplat_on_the_cpu(monkeypatch)
    return str(request.param)


def draw_with_gsplat_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gsplat", reason="needs gsplat: pip install 'gmae-tools[cuda]'")
    from tests.oracles import gsplat_cpu

    gsplat_cpu.install(monkeypatch)
    monkeypatch.setattr("gmae_tools.splatting.choose_backend", lambda backend, _device: backend)


def with_depths(splats: Splats, dtype: torch.dtype = torch.float32) -> Splats:
    """A copy all of whose tensors collect gradients."""
    copy = leaves(splats, dtype)
    return dataclasses.replace(copy, depths=splats.depths.detach().to(dtype).requires_grad_())


def depth_gradient(splats: Splats, backend: str = "cpu", height: int = 48, width: int = 64, tau: float = TAU) -> Tensor:
    """Gradient of depths `[B, K]` of a fixed linear loss on picture and coverage."""
    splats = with_depths(splats)
    raster = rasterize(splats, height, width, rules=Rules(order_temperature=tau), backend=backend)  # type: ignore[arg-type]
    weights = random_weights(*raster.image.shape[:1], raster.image.shape[1] + 1, height, width)
    loss = (raster.image * weights[:, :-1]).sum() + (raster.alpha * weights[:, -1:]).sum()
    (gradient,) = torch.autograd.grad(loss, [splats.depths])
    return gradient


# -------------------------------------------------------------------------------- what it is


def test_two_splats_have_the_gradient_of_the_closed_form(backend: str) -> None:
    near = one_splat((0.5, 0.5), sigma=50, color=0.9, opacity=0.6, depth=1.0)
    far = one_splat((0.5, 0.5), sigma=50, color=0.2, opacity=0.5, depth=1.3)
    splats = with_depths(merge(far, near))
    raster = rasterize(splats, 1, 1, rules=Rules(order_temperature=TAU), backend=backend)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(raster.image.sum(), [splats.depths])
    front = 1 / (1 + math.exp(0.3 / TAU))  # probability that the far one is in front
    expected = front * (1 - front) / TAU * 0.6 * 0.5 * (0.2 - 0.9)
    assert gradient[0].tolist() == pytest.approx([-expected, expected], rel=1e-4)


@pytest.mark.parametrize("depths", [(1.0, 1.3), (1.0, 1.1, 1.25), (1.0, 1.0, 1.4)], ids=str)
def test_it_is_the_slope_of_the_expectation_over_random_orders(depths: tuple[float, ...]) -> None:
    """Monte Carlo with the score function: pairs of neighbours are ordered at random, one pair at a time."""
    k, draws = len(depths), 60_000
    generator = torch.Generator().manual_seed(0)
    colors, opacities = (0.1, 0.9, 0.4)[:k], (0.7, 0.6, 0.5)[:k]
    scene = merge(*(one_splat((0.5, 0.5), 50, c, o, z) for c, o, z in zip(colors, opacities, depths, strict=True)))
    pair = torch.randint(k - 1, (draws,), generator=generator)
    u = torch.tensor(depths).diff()[pair] / TAU
    exchanged = torch.rand(draws, generator=generator) < torch.sigmoid(-u)
    order = torch.arange(k).repeat(draws, 1)
    rows = torch.arange(draws)[exchanged]
    order[rows, pair[exchanged]], order[rows, pair[exchanged] + 1] = pair[exchanged] + 1, pair[exchanged]
    splats = Splats(*(getattr(scene, f.name)[0][order] for f in dataclasses.fields(Splats)))
    splats = dataclasses.replace(splats, depths=torch.arange(k).float().expand(draws, k))
    pixels = rasterize(splats, 1, 1).image[:, 0, 0, 0]
    # d log(probability of what was drawn) / du, with the mean subtracted from the pixels against noise:
    score = torch.where(exchanged, -torch.sigmoid(u), torch.sigmoid(-u))
    slope = (pixels - pixels.mean()) * score / TAU * (k - 1)
    expected = torch.zeros(k).index_add(0, pair, -slope).index_add(0, pair + 1, slope) / draws
    found = with_depths(scene)
    (gradient,) = torch.autograd.grad(
        rasterize(found, 1, 1, rules=Rules(order_temperature=TAU)).image.sum(), [found.depths]
    )
    torch.testing.assert_close(gradient[0], expected, rtol=0.05, atol=0.004)


@pytest.mark.parametrize("scene", SCENES)
def test_the_kernels_match_the_dense_formula(scene: str) -> None:
    splats = SCENES[scene]()
    found = []
    mask = undoubted(leaves(splats, torch.float64), 48, 64, [splats.depths.shape[1]], 0.999)
    background = random_weights(*splats.colors.shape[::2])
    for dtype, backend in ((torch.float64, "dense"), (torch.float32, "cpu")):
        copy = with_depths(splats, dtype)
        raster = rasterize(
            copy, 48, 64, background=background.to(dtype), rules=Rules(order_temperature=TAU), backend=backend
        )  # type: ignore[arg-type]
        weights = random_weights(*raster.image.shape).to(dtype) * mask
        found.append(torch.autograd.grad((raster.image * weights).sum(), [*tensors(copy), copy.depths]))
    for truth, ours in zip(*found, strict=True):
        assert (ours.double() - truth).norm() <= 1e-4 * truth.norm()


@pytest.mark.parametrize("sizes", [[60], [10, 0, 20, 25], [1] * 60], ids=str)
def test_groups_match_the_dense_formula(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    draw_with_gsplat_on_the_cpu(monkeypatch)
    splats = random_splats(31, sigmas=(3.0, 12.0))
    found = []
    for dtype, backend in ((torch.float64, "dense"), (torch.float32, "cpu"), (torch.float32, "gsplat")):
        copy = with_depths(splats, dtype)
        raster = rasterize_groups(copy, 48, 64, sizes, rules=Rules(order_temperature=TAU), backend=backend)  # type: ignore[arg-type]
        weights = random_weights(*raster.images.shape[:2], 4, 48, 64).to(dtype)
        loss = (raster.images * weights[:, :, :3]).sum() + (raster.alphas * weights[:, :, 3:]).sum()
        found.append(torch.autograd.grad(loss, [copy.depths])[0].double())
    truth = found[0]
    assert truth.norm() > 0.1
    for ours in found[1:]:
        assert (ours - truth).norm() < 1e-4 * truth.norm()


# -------------------------------------------------------------------------------- what it leaves alone


def test_the_picture_and_all_other_gradients_stay_the_same_to_the_bit(backend: str) -> None:
    splats, found = random_splats(32, k=40), []
    for temperature in (None, TAU):
        copy = with_depths(splats)
        raster = rasterize(copy, 40, 50, rules=Rules(order_temperature=temperature), backend=backend)  # type: ignore[arg-type]
        gradients = torch.autograd.grad((raster.image * random_weights(2, 3, 40, 50)).sum(), tensors(copy))
        found.append([raster.image, raster.alpha, *gradients])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_without_a_temperature_depths_get_no_gradient() -> None:
    splats = with_depths(random_splats(33))
    raster = rasterize(splats, 48, 64)
    (gradient,) = torch.autograd.grad(raster.image.sum(), [splats.depths], allow_unused=True)
    assert gradient is None


def test_one_splat_has_no_order(backend: str) -> None:
    assert not depth_gradient(one_splat((8.0, 8.0), 5.0, 0.5, 0.5), backend, 16, 16).any()


def test_what_does_not_overlap_has_no_order(backend: str) -> None:
    splats = merge(one_splat((8.0, 8.0), 2.0, 0.5, 0.5, 1.0), one_splat((56.0, 40.0), 2.0, 0.9, 0.5, 1.1))
    assert not depth_gradient(splats, backend).any()


def test_the_order_of_equal_colours_does_not_matter(backend: str) -> None:
    splats = random_splats(34, k=20, channels=1)
    splats = with_depths(dataclasses.replace(splats, colors=torch.full_like(splats.colors, 0.3)))
    raster = rasterize(splats, 48, 64, rules=Rules(order_temperature=TAU), backend=backend)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad((raster.image * random_weights(2, 1, 48, 64)).sum(), [splats.depths])
    assert gradient.abs().max() < 1e-5


def test_the_gradients_of_a_picture_add_up_to_zero(backend: str) -> None:
    """Moving everything changes no order."""
    gradient = depth_gradient(random_splats(35, sigmas=(4.0, 12.0)), backend)
    assert gradient.abs().max() > 0.1
    torch.testing.assert_close(gradient.sum(1), torch.zeros(2), rtol=0, atol=1e-3)


def test_splats_far_apart_are_sure_of_their_order(backend: str) -> None:
    splats = random_splats(36)
    splats = dataclasses.replace(splats, depths=splats.depths * 1e6)
    assert depth_gradient(splats, backend).abs().max() < 1e-8


def test_what_a_finished_pixel_does_not_show_has_no_order(backend: str) -> None:
    opaque = [one_splat((8.0, 8.0), 500.0, 0.5, 0.99, depth) for depth in (1.0, 1.1)]
    hidden = [one_splat((8.0, 8.0), 500.0, color, 0.9, depth) for color, depth in ((0.1, 1.2), (0.9, 1.3))]
    gradient = depth_gradient(merge(*opaque, *hidden), backend, 16, 16)
    assert not gradient[:, 2:].any()


def test_capped_alphas_exchange_as_much_as_they_cover(backend: str) -> None:
    """At opacity 1 the cap of 0.999 counts: alpha's own gradient is cut off, that of the order is not."""
    near, far = one_splat((0.5, 0.5), 50, 0.9, 1.0, 1.0), one_splat((0.5, 0.5), 50, 0.2, 0.5, 1.3)
    splats = with_depths(merge(near, far))
    raster = rasterize(splats, 1, 1, rules=Rules(order_temperature=TAU), backend=backend)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(raster.image.sum(), [splats.depths])
    front = 1 / (1 + math.exp(0.3 / TAU))
    expected = front * (1 - front) / TAU * 0.999 * 0.5 * (0.9 - 0.2)
    assert gradient[0].tolist() == pytest.approx([-expected, expected], rel=1e-4)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(GmaeToolsError, match="order_temperature"):
        rasterize(random_splats(37), 16, 16, rules=Rules(order_temperature=temperature))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_depths_that_are_no_numbers_are_refused(value: float, backend: str) -> None:
    splats = random_splats(38)
    splats.depths[1, 3] = value
    with pytest.raises(GmaeToolsError, match="depths"):
        rasterize(splats, 16, 16, rules=Rules(order_temperature=TAU), backend=backend)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_number_of_threads_changes_no_bit(batch: int) -> None:
    splats = random_splats(39, batch=batch, k=400, height=200, sigmas=(2.0, 30.0))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(depth_gradient(splats, height=200))
    finally:
        torch.set_num_threads(before)
    assert found[0].any() and all(torch.equal(found[0], other) for other in found[1:])


def test_the_split_into_batches_changes_no_bit() -> None:
    splats = with_depths(random_splats(40, batch=5))
    weights = random_weights(5, 3, 48, 64)

    def gradient(rows: slice) -> Tensor:
        part = Splats(*(getattr(splats, f.name)[rows] for f in dataclasses.fields(Splats)))
        image = rasterize(part, 48, 64, rules=Rules(order_temperature=TAU)).image
        (found,) = torch.autograd.grad((image * weights[rows]).sum(), [splats.depths])
        return found[rows]

    whole = gradient(slice(5))
    assert torch.equal(whole, torch.cat([gradient(slice(row, row + 1)) for row in range(5)]))


def test_the_order_of_the_input_does_not_matter() -> None:
    splats = random_splats(41)
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(depth_gradient(select(splats, shuffled)), depth_gradient(splats)[:, shuffled])
