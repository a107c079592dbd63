"""The renderers against each other, against closed forms, and against properties that any renderer has.

The truth is the dense reference in double precision. Where a pixel is within rounding of a threshold (alpha
of 1/255, or the transmittance at which it stops) single and double precision may decide differently. These
pixels are found by moving the thresholds a little; their gradients are left out of the comparison.
"""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gmae_tools.camera import Splats
from gmae_tools.errors import GmaeToolsError
from gmae_tools.splatting import Raster, Rules, dense, rasterize, rasterize_groups
from gmae_tools.splatting.dense import DenseRaster, rasterize_dense
from gmae_tools.splatting.rules import RasterOptions
from tests.oracles.tiled_torch import rasterize_tiled

PICTURE_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
BACKENDS = ["cpu", "dense"]
FIELDS = ["means", "conics", "colors", "opacities"]


# -------------------------------------------------------------------------------- scenes


def conics_of(sigmas: Tensor, angles: Tensor, blur: float = 0.0) -> Tensor:
    """Conics `[B, K, 3]` of ellipses with standard deviations `[B, K, 2]` px, turned by `angles` `[B, K]`."""
    u, v = (1 / (sigmas.double() ** 2 + blur)).unbind(-1)
    cos, sin = angles.double().cos(), angles.double().sin()
    return torch.stack([u * cos**2 + v * sin**2, (u - v) * sin * cos, u * sin**2 + v * cos**2], -1).float()


def random_splats(
    seed: int,
    batch: int = 2,
    k: int = 60,
    height: int = 48,
    width: int = 64,
    channels: int = 3,
    sigmas: tuple[float, float] = (1.0, 12.0),
    opacities: tuple[float, float] = (0.05, 0.95),
) -> Splats:
    """Splats spread over the picture and a little beyond, log-uniform in size, in random depth order."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, k, *shape, generator=generator)

    size = torch.tensor([width, height])
    return Splats(
        means=uniform(-0.1, 1.1, 2) * size,
        conics=conics_of(uniform(math.log(sigmas[0]), math.log(sigmas[1]), 2).exp(), uniform(0, math.pi), blur=0.3),
        depths=uniform(7.0, 9.0),
        colors=uniform(0.0, 1.0, channels),
        opacities=uniform(*opacities),
    )


def one_splat(mean: tuple[float, float], sigma: float, color: float, opacity: float, depth: float = 1.0) -> Splats:
    """A single round splat of one channel."""
    return Splats(
        torch.tensor([[mean]]),
        conics_of(torch.tensor([[[sigma, sigma]]]), torch.zeros(1, 1)),
        torch.tensor([[depth]]),
        torch.tensor([[[color]]]),
        torch.tensor([[opacity]]),
    )


def merge(*parts: Splats) -> Splats:
    """All splats of several scenes in one."""
    return Splats(*(torch.cat([getattr(part, f.name) for part in parts], 1) for f in dataclasses.fields(Splats)))


def select(splats: Splats, index: slice | Tensor) -> Splats:
    """Splats chosen along K."""
    return Splats(*(getattr(splats, f.name)[:, index] for f in dataclasses.fields(Splats)))


def off_screen() -> Splats:
    """Half of the splats outside: just touching, far, and so far that squares overflow."""
    splats = random_splats(1, k=24)
    outside = torch.tensor([[-3.0, 5], [70, 20], [30, -9], [20, 60], [-1e4, 0], [10, 1e6], [-1e9, 3], [1e30, 1e30]])
    splats.means[:, ::3] = outside
    return splats


def needles() -> Splats:
    """One pixel across and up to 12 long at every angle: sigma is a small difference of large terms."""
    splats = random_splats(2, k=40)
    sigmas = torch.tensor([0.55, 12.0]).expand(2, 40, 2)
    angles = torch.linspace(0, math.pi, 40).expand(2, 40)
    return dataclasses.replace(splats, conics=conics_of(sigmas, angles))


def endless_needles() -> Splats:
    """So long that rounding may make a stripe, or even a hyperbola, of the ellipse."""
    splats = random_splats(2, k=32, opacities=(0.05, 0.5))
    sigmas = torch.stack([torch.full((32,), 0.55), torch.logspace(2, 9, 32)], -1)
    angles = torch.linspace(0, math.pi, 17).repeat(2)[:32]
    return dataclasses.replace(splats, conics=conics_of(sigmas[None], angles[None]).expand(2, 32, 3))


def huge() -> Splats:
    """Much larger than the picture, up to a million pixels, with a few small ones between them."""
    splats = random_splats(3, k=12)
    sigmas = torch.logspace(2, 6, 12)[:, None].expand(2, 12, 2).clone()
    sigmas[:, ::4] = 2.0
    return dataclasses.replace(splats, conics=conics_of(sigmas, torch.zeros(2, 12)))


def opacities_0_and_1() -> Splats:
    """Fully transparent and fully opaque splats, and some on both sides of the visibility threshold."""
    splats = random_splats(4, k=30)
    splats.opacities[:, :20] = torch.tensor([0.0, 1.0, 0.0039, 0.00393]).repeat(5)
    return splats


def opaque_stack() -> Splats:
    """So many opaque layers that pixels stop early, tile by tile."""
    return random_splats(5, k=200, sigmas=(4.0, 20.0), opacities=(0.7, 1.0))


def equal_depths() -> Splats:
    """Only three different depths: the order of the input decides."""
    splats = random_splats(6)
    return dataclasses.replace(splats, depths=(splats.depths * 1.5).round())


SCENES = {
    "random": lambda: random_splats(0),
    "one splat": lambda: random_splats(7, k=1),
    "off screen": off_screen,
    "needles": needles,
    "huge": huge,
    "opacity 0 and 1": opacities_0_and_1,
    "opaque stack": opaque_stack,
    "equal depths": equal_depths,
    "1 channel": lambda: random_splats(8, channels=1),
    "4 channels": lambda: random_splats(9, channels=4),
    "17 channels": lambda: random_splats(10, channels=17),
    "tiny splats": lambda: random_splats(11, sigmas=(1e-3, 0.1)),
}
SIZES = {"1 x 1": (1, 1), "17 x 33": (17, 33), "50 x 3": (50, 3), "16 x 16": (16, 16), "5 x 150": (5, 150)}


# -------------------------------------------------------------------------------- comparison


def leaves(splats: Splats, dtype: torch.dtype = torch.float32) -> Splats:
    """A copy whose means, conics, colours and opacities collect gradients."""
    copies = {f: getattr(splats, f).detach().to(dtype).requires_grad_() for f in FIELDS}
    return dataclasses.replace(splats, **copies)


def tensors(splats: Splats) -> list[Tensor]:
    """The tensors that may need gradients."""
    return [getattr(splats, f) for f in FIELDS]


def by_depth(splats: Splats) -> tuple[Splats, Tensor]:
    """The splats sorted nearest first, and the order `[B, K]`."""
    order = torch.argsort(splats.depths, dim=1, stable=True)
    rows = torch.arange(len(order))[:, None]
    return Splats(*(getattr(splats, f.name)[rows, order] for f in dataclasses.fields(Splats))), order


def dense_truth(
    splats: Splats, background: Tensor, height: int, width: int, sizes: list[int], alpha_max: float
) -> DenseRaster:
    return rasterize_dense(by_depth(splats)[0], background, RasterOptions(height, width, tuple(sizes), alpha_max))


@torch.no_grad()
def undoubted(
    splats: Splats, height: int, width: int, sizes: list[int], alpha_max: float, light: float = 1e-4
) -> Tensor:
    """Mask `[B, 1, H, W]` of the pixels that no threshold is close to.

    Args:
        light: relative error of the transmittance to allow for; ten times as large a share of pixels may be in doubt.
    """
    pictures = []
    for side in (-1, 1):
        with (
            mock.patch.object(dense, "ALPHA_MIN", dense.ALPHA_MIN * (1 + side * 2e-5)),
            mock.patch.object(dense, "TRANSMITTANCE_MIN", dense.TRANSMITTANCE_MIN * (1 + side * light)),
        ):
            pictures.append(dense_truth(splats, torch.zeros(1, 1), height, width, sizes, alpha_max).alphas.sum(1))
    clear = pictures[0] == pictures[1]
    doubted = (~clear).sum().item()
    assert doubted <= max(2, 10 * light * clear.numel()), f"{doubted} of {clear.numel()} pixels are near a threshold"
    return clear


def random_weights(*shape: int) -> Tensor:
    """Fixed weights in [-1, 1] that turn pictures into a scalar loss."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(99)) * 2 - 1


def gradients(image: Tensor, alpha: Tensor, inputs: list[Tensor], mask: Tensor | float = 1.0) -> list[Tensor]:
    """Gradients of a loss that is linear in picture and alpha, at the pixels of `mask`."""
    weights = random_weights(*image.shape[:-3], image.shape[-3] + 1, *image.shape[-2:]).to(image.dtype) * mask
    loss = (image * weights[..., :-1, :, :]).sum() + (alpha * weights[..., -1:, :, :]).sum()
    return list(torch.autograd.grad(loss, inputs))


def assert_pictures_close(actual: Tensor, expected: Tensor, mask: Tensor) -> None:
    """Equal within 1e-5 at the pixels of `mask`."""
    error = (actual.detach().double() - expected.detach().double()).abs() * mask
    assert expected.abs().max() > 0.01, "an empty picture proves nothing"
    assert error.max() < PICTURE_TOLERANCE, f"{(error > PICTURE_TOLERANCE).sum()} values, up to {error.max():.2e}"


def assert_gradients_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Each tensor within 1e-4, relative to its norm."""
    for index, (ours, truth) in enumerate(zip(actual, expected, strict=True)):
        error = (ours.double() - truth).norm() / truth.norm()
        assert error < GRADIENT_TOLERANCE, f"{[*FIELDS, 'background'][index]}: relative error {error:.2e}"


def assert_matches_dense(splats: Splats, height: int, width: int, alpha_max: float = 0.999) -> None:
    background, everything = random_weights(*splats.colors.shape[::2]), [splats.depths.shape[1]]
    exact, exact_background = leaves(splats, torch.float64), background.double().requires_grad_()
    truth = dense_truth(exact, exact_background, height, width, everything, alpha_max)
    image, alpha = truth.images[:, 0], truth.alphas[:, 0]
    mask = undoubted(exact, height, width, everything, alpha_max)
    expected = gradients(image, alpha, [*tensors(exact), exact_background], mask)
    single, single_background = leaves(splats), background.clone().requires_grad_()
    raster = rasterize(
        single, height, width, background=single_background, rules=Rules(alpha_max=alpha_max), backend="cpu"
    )
    assert_pictures_close(raster.image, image, mask)
    assert_pictures_close(raster.alpha, alpha, mask)
    actual = gradients(raster.image, raster.alpha, [*tensors(single), single_background], mask)
    assert_gradients_close(actual, expected)


@pytest.mark.parametrize("scene", SCENES)
def test_pictures_and_gradients_match_the_dense_reference(scene: str) -> None:
    assert_matches_dense(SCENES[scene](), height=48, width=64)


@pytest.mark.parametrize("size", SIZES)
def test_any_size_matches_the_dense_reference(size: str) -> None:
    height, width = SIZES[size]
    assert_matches_dense(random_splats(12, height=height, width=width), height, width)


@pytest.mark.parametrize("alpha_max", [0.99, 0.5])
def test_alpha_max_is_respected(alpha_max: float) -> None:
    assert_matches_dense(opacities_0_and_1(), 48, 64, alpha_max)


def test_a_picture_of_training_size_matches_the_dense_reference() -> None:
    splats = random_splats(13, batch=1, k=96, height=224, width=224, sigmas=(1.0, 24.0))
    assert_matches_dense(splats, 224, 224)


def test_bands_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    splats, background = leaves(random_splats(14), torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    inputs = tensors(splats)
    whole = dense_truth(splats, background, 48, 64, [20, 30], 0.999)
    monkeypatch.setattr(dense, "MAX_ELEMENTS", 7 * 64 * 50 * 2)  # 48 rows in bands of 7
    banded = dense_truth(splats, background, 48, 64, [20, 30], 0.999)
    for one, other in zip(whole, banded, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(
        gradients(whole.images, whole.alphas, inputs), gradients(banded.images, banded.alphas, inputs)
    )


@pytest.mark.parametrize("tight", [False, True])
def test_the_tiled_baseline_of_the_benchmark_is_correct(tight: bool) -> None:
    splats, background = leaves(opaque_stack(), torch.float64), random_weights(2, 3).double().requires_grad_()
    inputs = [*tensors(splats), background]
    truth = dense_truth(splats, background, 40, 50, [200], 0.999)
    image, alpha = rasterize_tiled(*tensors(by_depth(splats)[0]), background, 40, 50, tight=tight)
    torch.testing.assert_close(image, truth.images[:, 0])
    torch.testing.assert_close(
        gradients(image, alpha, inputs), gradients(truth.images[:, 0], truth.alphas[:, 0], inputs)
    )


def test_endless_needles_are_drawn() -> None:
    assert_endless_needles_are_drawn("cpu", "cpu")


def assert_endless_needles_are_drawn(backend: str, device: str) -> None:
    """Single precision leaves holes along their ridges, where sigma is a difference of equals and its sign decides."""

    def draw(splats: Splats, backend: str) -> Raster:
        here = Splats(*(getattr(splats, f.name).to(device) for f in dataclasses.fields(Splats)))
        return rasterize(here, 200, 300, backend=backend)

    splats = endless_needles()
    wrong = (draw(splats, backend).image - draw(splats, "dense").image).abs() > 1e-3
    assert wrong.double().mean() < 0.01
    for k in range(32):  # none is lost
        alone = select(splats, slice(k, k + 1))
        seen, expected = (draw(alone, drawer).alpha.sum().item() for drawer in (backend, "dense"))
        assert seen == pytest.approx(expected, rel=0.02)


# -------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_splat_is_a_gaussian_around_its_centre(backend: str) -> None:
    raster = rasterize(one_splat((4.5, 2.5), sigma=2.0, color=0.8, opacity=0.6), 8, 12, backend=backend)
    assert raster.image[0, 0, 2, 4].item() == pytest.approx(0.8 * 0.6, abs=1e-6)  # pixel (4, 2) has its centre there
    assert raster.image[0, 0, 2, 7].item() == pytest.approx(0.8 * 0.6 * math.exp(-9 / 8), abs=1e-6)
    assert raster.alpha[0, 0, 5, 4].item() == pytest.approx(0.6 * math.exp(-9 / 8), abs=1e-6)
    far = 0.6 * math.exp(-(6.0**2 + 5.0**2) / 8)
    assert far < 1 / 255 and raster.image[0, 0, 7, 10].item() == 0  # skipped, not merely small


@pytest.mark.parametrize("backend", BACKENDS)
def test_nearer_splats_cover_farther_ones_and_the_background_gets_the_rest(backend: str) -> None:
    far = one_splat((0.5, 0.5), sigma=50, color=1.0, opacity=0.5, depth=2.0)
    near = one_splat((0.5, 0.5), sigma=50, color=0.2, opacity=0.4, depth=1.0)
    raster = rasterize(merge(far, near), 1, 1, background=torch.tensor([0.7]), backend=backend, depth=True)
    assert raster.image.item() == pytest.approx(0.4 * 0.2 + 0.6 * 0.5 * 1.0 + 0.3 * 0.7, abs=1e-6)
    assert raster.alpha.item() == pytest.approx(0.7, abs=1e-6)
    assert raster.depth is not None
    assert raster.depth.item() == pytest.approx((0.4 * 1 + 0.3 * 2) / 0.7, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pixel_stops_before_its_light_is_gone(backend: str) -> None:
    stack = merge(*(one_splat((0.5, 0.5), 50, color=1.0, opacity=0.8, depth=float(z)) for z in range(8)))
    alpha = rasterize(stack, 1, 1, backend=backend).alpha.double()
    assert 1 - alpha.item() == pytest.approx(0.2**5, rel=1e-3)  # a sixth would leave 6.4e-5 <= 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_capped_alpha_passes_gradient_to_the_colour_only(backend: str) -> None:
    splat = leaves(one_splat((0.6, 0.3), sigma=50, color=0.5, opacity=1.0))
    rasterize(
        splat, 1, 1, background=torch.tensor([0.9]), rules=Rules(alpha_max=0.99), backend=backend
    ).image.sum().backward()
    assert splat.colors.grad is not None and splat.colors.grad.item() == pytest.approx(0.99)
    for field in ("means", "conics", "opacities"):
        gradient = getattr(splat, field).grad
        assert gradient is None or not gradient.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_draw_is_the_background(backend: str) -> None:
    splats = leaves(random_splats(0, k=0))
    background = torch.rand(2, 3, requires_grad=True)
    raster = rasterize(splats, 5, 18, background=background, depth=True, owners=True, backend=backend)
    assert torch.equal(raster.image, background[:, :, None, None].expand(2, 3, 5, 18))
    assert not raster.alpha.any()
    assert raster.depth is not None and not raster.depth.any()
    assert raster.owner is not None and (raster.owner == -1).all()
    raster.image.sum().backward()
    assert background.grad is not None and (background.grad == 5 * 18).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("field", [*FIELDS, "depths"])
def test_a_number_that_is_none_is_refused_by_name(field: str, value: float, backend: str) -> None:
    splats = random_splats(0, k=5)
    getattr(splats, field)[1, 3] = value
    with pytest.raises(GmaeToolsError, match=field):
        rasterize(splats, 16, 16, backend=backend)


def test_a_number_beyond_float32_is_refused_by_name() -> None:
    splats = random_splats(0, k=5)
    with pytest.raises(GmaeToolsError, match="colors"):
        rasterize(dataclasses.replace(splats, colors=splats.colors.double() * 1e300), 16, 16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("field", [*FIELDS, "depths"])
@pytest.mark.parametrize("shape", ["fewer", "flat", "deep"])
def test_a_shape_that_does_not_fit_is_refused(field: str, shape: str, backend: str) -> None:
    """The kernels would read beyond the end of an array."""
    whole = random_splats(0, k=5)
    values = getattr(whole, field)
    wrong = {"fewer": values[:, :2], "flat": values[0], "deep": values[..., None]}[shape]
    with pytest.raises(GmaeToolsError, match="has shape"):
        rasterize(dataclasses.replace(whole, **{field: wrong}), 16, 16, backend=backend)


@pytest.mark.parametrize("alpha_max", [0.0, -1.0, 1.5, math.nan, math.inf])
def test_an_impossible_cap_is_refused(alpha_max: float) -> None:
    with pytest.raises(GmaeToolsError, match="alpha_max"):
        rasterize(random_splats(0), 16, 16, rules=Rules(alpha_max=alpha_max))


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, -1), (10**5, 10**6)])
def test_an_impossible_size_is_refused(height: int, width: int) -> None:
    with pytest.raises(GmaeToolsError, match=f"{height} x {width} pixels"):
        rasterize(random_splats(0), height, width)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(GmaeToolsError, match="quantum"):
        rasterize(random_splats(0), 16, 16, backend="quantum")


def test_auto_draws_as_cpu_on_a_processor() -> None:
    splats = random_splats(0)
    assert torch.equal(rasterize(splats, 48, 64).image, rasterize(splats, 48, 64, backend="cpu").image)


# -------------------------------------------------------------------------------- backgrounds


def test_a_background_may_be_one_for_all_or_one_each() -> None:
    splats, colour = random_splats(15), torch.tensor([0.1, 0.5, 0.9])
    plain = rasterize(splats, 48, 64)
    shared = rasterize(splats, 48, 64, background=colour)
    each = rasterize(splats, 48, 64, background=colour.expand(2, 3))
    assert torch.equal(shared.image, each.image)
    torch.testing.assert_close(shared.image, plain.image + (1 - plain.alpha) * colour[:, None, None], atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shared_background_collects_the_gradient_of_all_pictures(backend: str) -> None:
    colour = torch.tensor([0.1, 0.5, 0.9], requires_grad=True)
    raster = rasterize(random_splats(15), 48, 64, background=colour, backend=backend)
    raster.image.sum().backward()
    assert colour.grad is not None
    torch.testing.assert_close(colour.grad, (1 - raster.alpha).sum().expand(3), rtol=1e-4, atol=0)


# -------------------------------------------------------------------------------- depth, owners


def test_expected_depth_matches_the_dense_reference() -> None:
    splats = random_splats(16)
    as_colour = dataclasses.replace(splats, colors=splats.depths[..., None])
    truth = dense_truth(as_colour, torch.zeros(2, 1), 48, 64, [60], 0.999)
    for backend in BACKENDS:
        depth = rasterize(splats, 48, 64, depth=True, backend=backend).depth
        assert depth is not None
        torch.testing.assert_close(
            depth, truth.images[:, 0] / truth.alphas[:, 0].clamp_min(1e-10), atol=1e-4, rtol=1e-4
        )
        assert depth.max() > 7


@pytest.mark.parametrize("backend", BACKENDS)
def test_expected_depth_needs_no_colours(backend: str) -> None:
    splats = random_splats(16)
    coloured, blank = leaves(splats), leaves(dataclasses.replace(splats, colors=splats.colors[..., :0]))
    for version in (coloured, blank):
        raster = rasterize(version, 48, 64, depth=True, backend=backend)
        assert raster.image.shape[1] == version.colors.shape[2] and raster.depth is not None
        raster.depth.square().mean().backward()
    for field in ("means", "conics", "opacities"):
        expected = getattr(coloured, field).grad
        assert expected.abs().max() > 0
        torch.testing.assert_close(getattr(blank, field).grad, expected, rtol=1e-3, atol=1e-5)


def test_owners_are_the_splats_with_the_largest_weight() -> None:
    splats = random_splats(17, sigmas=(1.0, 5.0), opacities=(0.1, 0.6))
    raster = rasterize(splats, 48, 64, owners=True, backend="cpu")
    assert raster.owner is not None and raster.owner_weight is not None
    assert raster.owner.dtype == torch.int32
    # One-hot colours make the picture the weight of every splat at every pixel.
    one_hot = dataclasses.replace(splats, colors=torch.eye(60).expand(2, 60, 60))
    weights = rasterize(one_hot, 48, 64, backend="dense").image
    torch.testing.assert_close(raster.owner_weight, weights.amax(1), atol=2e-6, rtol=0)
    drawn = raster.owner >= 0
    assert torch.equal(drawn, weights.amax(1) > 0) and not drawn.all()
    named = weights.gather(1, raster.owner.clamp_min(0).long()[:, None])[:, 0]
    torch.testing.assert_close(named, weights.amax(1), atol=2e-6, rtol=0)
    reference = rasterize(splats, 48, 64, owners=True, backend="dense")
    assert reference.owner is not None and (reference.owner != raster.owner).double().mean() < 1e-3


# -------------------------------------------------------------------------------- groups


GROUP_SIZES = [[60], [20, 30, 10], [1, 0, 5, 40], [7] * 8]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", GROUP_SIZES, ids=str)
def test_groups_add_up_to_the_pictures_of_prefixes(sizes: list[int], backend: str) -> None:
    splats = random_splats(18, sigmas=(3.0, 20.0))
    order = torch.argsort(splats.depths, dim=1, stable=True)
    groups = rasterize_groups(splats, 48, 64, sizes, backend=backend)
    assert groups.images.shape == (2, len(sizes), 3, 48, 64)
    assert groups.alphas.shape == (2, len(sizes), 1, 48, 64)
    for last in range(len(sizes)):
        nearest = order[:, : sum(sizes[: last + 1])]
        rows = torch.arange(2)[:, None]
        prefix = rasterize(
            Splats(*(getattr(splats, f.name)[rows, nearest] for f in dataclasses.fields(Splats))),
            48,
            64,
            backend=backend,
        )
        torch.testing.assert_close(groups.images[:, : last + 1].sum(1), prefix.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(groups.alphas[:, : last + 1].sum(1), prefix.alpha, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", GROUP_SIZES, ids=str)
def test_groups_and_their_gradients_match_the_dense_reference(sizes: list[int]) -> None:
    splats = opaque_stack() if sizes == [7] * 8 else random_splats(19)
    exact, single = leaves(splats, torch.float64), leaves(splats)
    truth = dense_truth(exact, torch.zeros(2, 3, dtype=torch.float64), 48, 64, sizes, 0.999)
    groups = rasterize_groups(single, 48, 64, sizes, backend="cpu")
    mask = undoubted(exact, 48, 64, sizes, 0.999)
    assert_pictures_close(groups.images, truth.images, mask[:, None])
    assert_pictures_close(groups.alphas, truth.alphas, mask[:, None])
    assert_gradients_close(
        gradients(groups.images, groups.alphas, tensors(single), mask[:, None]),
        gradients(truth.images, truth.alphas, tensors(exact), mask[:, None]),
    )


@pytest.mark.parametrize("sizes", [[61], [30, 31], [-1, 5], []], ids=str)
def test_groups_that_do_not_fit_are_refused(sizes: list[int]) -> None:
    with pytest.raises(GmaeToolsError):
        rasterize_groups(random_splats(18), 16, 16, sizes)


# -------------------------------------------------------------------------------- autograd


def test_strided_inputs_are_drawn_like_compact_ones() -> None:
    splats = random_splats(20)
    strided = Splats(
        *(getattr(splats, f.name).movedim(0, -1).contiguous().movedim(-1, 0) for f in dataclasses.fields(Splats))
    )
    assert not strided.means.is_contiguous()
    results = []
    for version in (splats, strided):
        version = dataclasses.replace(version, **{f: getattr(version, f).requires_grad_() for f in FIELDS})
        image = rasterize(version, 48, 64, backend="cpu").image
        weights = random_weights(2, 48, 64, 3).movedim(-1, 1)  # the incoming gradient is strided too
        results.append([image, *torch.autograd.grad((image * weights).sum(), tensors(version))])
    for compact, other in zip(*results, strict=True):
        assert torch.equal(compact, other)


@pytest.mark.parametrize("wanted", [["means"], ["conics"], ["colors"], ["opacities"], ["conics", "colors"]], ids=str)
def test_only_the_gradients_asked_for_are_computed(wanted: list[str]) -> None:
    splats, everything = random_splats(21), leaves(random_splats(21))
    some = dataclasses.replace(splats, **{f: getattr(splats, f).clone().requires_grad_() for f in wanted})
    for version in (some, everything):
        rasterize(version, 48, 64, backend="cpu").image.square().sum().backward()
    for field in FIELDS:
        gradient = getattr(some, field).grad
        if field in wanted:
            assert gradient.abs().max() > 0
            torch.testing.assert_close(gradient, getattr(everything, field).grad, rtol=1e-5, atol=1e-6)
        else:
            assert gradient is None


def test_alpha_alone_can_be_the_loss() -> None:
    exact, single = leaves(random_splats(22), torch.float64), leaves(random_splats(22))
    weights = random_weights(2, 1, 48, 64)
    truth = dense_truth(exact, torch.zeros(2, 3, dtype=torch.float64), 48, 64, [60], 0.999)
    (truth.alphas[:, 0] * weights).sum().backward()
    (rasterize(single, 48, 64, backend="cpu").alpha * weights).sum().backward()
    for field in ("means", "conics", "opacities"):
        expected = getattr(exact, field).grad
        error = (getattr(single, field).grad - expected).norm() / expected.norm()
        assert error < GRADIENT_TOLERANCE, field


def test_the_dense_reference_has_the_gradients_of_finite_differences() -> None:
    """Without a threshold nearby: every splat is visible in every pixel, and none is capped."""
    splats = leaves(
        random_splats(23, batch=1, k=3, height=4, width=5, sigmas=(6, 9), opacities=(0.3, 0.8)), torch.float64
    )
    background = torch.tensor([[0.2, 0.4, 0.6]], dtype=torch.float64, requires_grad=True)

    def draw(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        means, conics, colors, opacities, background = inputs
        scene = Splats(means, conics, splats.depths, colors, opacities)
        raster = rasterize_dense(scene, background, RasterOptions(4, 5, (2, 1)))
        return raster.images, raster.alphas

    inputs = tensors(splats)
    assert draw(*inputs, background)[1][:, 0].min() > 0.1
    assert torch.autograd.gradcheck(draw, [*inputs, background], eps=1e-6, atol=1e-7)


# -------------------------------------------------------------------------------- determinism


def draw_with_gradients(splats: Splats, height: int = 48) -> list[Tensor]:
    splats = leaves(splats)
    raster = rasterize(splats, height, 64, background=torch.ones(3), backend="cpu")
    loss = raster.image.square().sum() + raster.alpha.sum()
    return [raster.image, raster.alpha, *torch.autograd.grad(loss, tensors(splats))]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_number_of_threads_changes_no_bit(batch: int) -> None:
    splats = random_splats(24, batch=batch, k=400, height=200)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(draw_with_gradients(splats, height=200))
    finally:
        torch.set_num_threads(before)
    for one, two, five in zip(*results, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, five)


@pytest.mark.parametrize("split", [[1, 4], [2, 2, 1], [1] * 5], ids=str)
def test_the_split_into_batches_changes_no_bit(split: list[int]) -> None:
    splats = random_splats(25, batch=5)
    parts, start = [], 0
    for size in split:
        part = Splats(*(getattr(splats, f.name)[start : start + size] for f in dataclasses.fields(Splats)))
        parts.append(draw_with_gradients(part))
        start += size
    for whole, *pieces in zip(draw_with_gradients(splats), *parts, strict=True):
        assert torch.equal(whole, torch.cat(pieces))


# -------------------------------------------------------------------------------- properties


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Splats, int, int]:
    """Any splats at distinct depths, with centres on a grid of 1/8 px so that whole-pixel moves are exact."""
    k, height, width = draw(st.integers(1, 8)), draw(st.integers(1, 40)), draw(st.integers(1, 40))

    def numbers(low: float, high: float, count: int = k) -> Tensor:
        return torch.tensor(draw(st.lists(st.floats(low, high, width=32), min_size=count, max_size=count)))

    sigmas = numbers(-0.5, 4.0, 2 * k).exp().reshape(1, k, 2)
    splats = Splats(
        means=(numbers(-16, 56, 2 * k) * 8).round().div(8).reshape(1, k, 2),
        conics=conics_of(sigmas, numbers(0, 3)[None]),
        depths=torch.tensor(draw(st.permutations(range(k))), dtype=torch.float32)[None],
        colors=numbers(-1, 2, 2 * k).reshape(1, k, 2),
        opacities=numbers(0, 1)[None],
    )
    return splats, height, width


properties = settings(max_examples=40, deadline=None, derandomize=True)
BACKGROUND = torch.tensor([0.25, 1.5])


def draw_picture(splats: Splats, height: int, width: int) -> Tensor:
    return rasterize(splats, height, width, background=BACKGROUND, backend="cpu").image


@properties
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(scene: tuple[Splats, int, int], random) -> None:  # type: ignore[no-untyped-def]
    splats, height, width = scene
    shuffled = list(range(splats.depths.shape[1]))
    random.shuffle(shuffled)
    assert torch.equal(
        draw_picture(splats, height, width),
        draw_picture(select(splats, torch.tensor(shuffled)), height, width),
    )


@properties
@given(scenes())
def test_pictures_stay_between_the_colours_and_alpha_between_0_and_1(scene: tuple[Splats, int, int]) -> None:
    splats, height, width = scene
    raster = rasterize(splats, height, width, background=BACKGROUND, backend="cpu")
    assert raster.alpha.min() >= 0 and raster.alpha.max() <= 1
    palette = torch.cat([splats.colors[0], BACKGROUND[None]])
    assert (raster.image.amin((0, 2, 3)) >= palette.amin(0) - 1e-5).all()
    assert (raster.image.amax((0, 2, 3)) <= palette.amax(0) + 1e-5).all()


@properties
@given(scenes(), scenes(), st.integers(0, 8))
def test_invisible_splats_change_nothing(
    scene: tuple[Splats, int, int], others: tuple[Splats, int, int], place: int
) -> None:
    splats, height, width = scene
    invisible = dataclasses.replace(others[0], opacities=torch.zeros_like(others[0].opacities))
    mixed = merge(select(splats, slice(0, place)), invisible, select(splats, slice(place, None)))
    assert torch.equal(draw_picture(splats, height, width), draw_picture(mixed, height, width))


@properties
@given(scenes(), st.integers(0, 20), st.integers(0, 20))
def test_moving_splats_by_whole_pixels_moves_the_picture(scene: tuple[Splats, int, int], x: int, y: int) -> None:
    splats, height, width = scene
    moved = dataclasses.replace(splats, means=splats.means + torch.tensor([float(x), float(y)]))
    torch.testing.assert_close(
        draw_picture(moved, height + y, width + x)[..., y:, x:],
        draw_picture(splats, height, width),
        atol=1e-5,
        rtol=0,
    )


@properties
@given(scenes())
def test_mirrored_splats_give_the_mirrored_picture(scene: tuple[Splats, int, int]) -> None:
    splats, height, width = scene
    mirrored = dataclasses.replace(
        splats,
        means=torch.tensor([float(width), 0.0]) + splats.means * torch.tensor([-1.0, 1.0]),
        conics=splats.conics * torch.tensor([1.0, -1.0, 1.0]),
    )
    torch.testing.assert_close(
        draw_picture(mirrored, height, width).flip(-1), draw_picture(splats, height, width), atol=1e-5, rtol=0
    )


@properties
@given(scenes())
def test_any_scene_matches_the_dense_reference(scene: tuple[Splats, int, int]) -> None:
    splats, height, width = scene
    exact, everything = leaves(splats, torch.float64), [splats.depths.shape[1]]
    truth = dense_truth(exact, BACKGROUND[None].double(), height, width, everything, 0.999)
    mask = undoubted(exact, height, width, everything, 0.999)
    error = (draw_picture(splats, height, width) - truth.images[:, 0]).abs() * mask
    assert error.max() < 1e-4  # needles of 50 px cost single precision a digit, see `needles`
