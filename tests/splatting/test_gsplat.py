"""The gsplat backend against the CPU kernels and the dense reference.

Where there is no GPU, gsplat's own functions run on references of its CUDA operations; the same comparisons, marked
`cuda`, run on the real ones where there is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("gsplat", reason="needs gsplat: pip install 'gmae-tools[cuda]'")

from gmae_tools import splatting
from gmae_tools.camera import Splats
from gmae_tools.errors import GmaeToolsError
from gmae_tools.splatting import Rules, gsplat, rasterize, rasterize_groups
from tests.oracles import gsplat_cpu
from tests.splatting import test_splatting
from tests.splatting.test_splatting import (
    FIELDS,
    GROUP_SIZES,
    SCENES,
    SIZES,
    gradients,
    leaves,
    merge,
    one_splat,
    opaque_stack,
    random_splats,
    random_weights,
    tensors,
)

PICTURE_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
LIGHT_TOLERANCE = 1e-3  # gsplat is compiled with fast arithmetic, and nearly opaque splats multiply its errors
HEIGHT, WIDTH = 48, 64


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where gsplat draws: on a GPU, or on the CPU by references of its operations."""
    if request.param == "cpu":
        gsplat_cpu.install(monkeypatch)
        monkeypatch.setattr(splatting, "choose_backend", lambda backend, _device: backend)
    return str(request.param)


def to(splats: Splats, device: str) -> Splats:
    return Splats(*(getattr(splats, f.name).to(device) for f in dataclasses.fields(Splats)))


def undoubted(splats: Splats, height: int, width: int, sizes: list[int], device: str) -> Tensor:
    """Mask of the pixels that no threshold is close to, on the device."""
    exact = leaves(splats, torch.float64)
    return test_splatting.undoubted(exact, height, width, sizes, 0.999, LIGHT_TOLERANCE).to(device)


def assert_close(ours: Tensor, expected: Tensor, mask: Tensor | float = 1.0) -> None:
    assert ours.device.type == expected.device.type and ours.dtype == expected.dtype == torch.float32
    assert ours.shape == expected.shape
    error = ((ours - expected).abs() * mask).max().item()
    assert error < PICTURE_TOLERANCE, f"differs by up to {error:.2e}"


def assert_gradients_close(ours: list[Tensor], expected: list[Tensor]) -> None:
    for name, own, other in zip([*FIELDS, "background"], ours, expected, strict=False):
        error = ((own - other).norm() / other.norm()).item()
        assert error < GRADIENT_TOLERANCE, f"{name}: relative error {error:.2e}"


def assert_draws_as_cpu(splats: Splats, device: str, height: int = HEIGHT, width: int = WIDTH) -> None:
    """Picture, alpha, expected depth, owners and the gradients of a random loss."""
    background = random_weights(*splats.colors.shape[::2]).to(device)
    clear = undoubted(splats, height, width, [splats.depths.shape[1]], device)
    rasters, slopes = [], []
    for backend in ("gsplat", "cpu"):
        single, shine = leaves(to(splats, device)), background.clone().requires_grad_()
        raster = rasterize(single, height, width, background=shine, depth=True, owners=True, backend=backend)
        image = torch.cat([raster.image, raster.depth * 0.01], 1)
        slopes.append(gradients_on(image, raster.alpha, [*tensors(single), shine], clear))
        rasters.append(raster)
    ours, expected = rasters
    assert_close(ours.image, expected.image, clear)
    assert_close(ours.alpha, expected.alpha, clear)
    assert_close(ours.depth, expected.depth, 0.1 * clear)  # depths are about 8
    assert_close(ours.owner_weight, expected.owner_weight, clear[:, 0])
    assert ours.owner.dtype == torch.int32 and ours.owner.device == ours.image.device
    assert ((ours.owner != expected.owner) & clear[:, 0]).double().mean() < 1e-3  # nearly equal weights
    assert_gradients_close(*slopes)


def gradients_on(image: Tensor, alpha: Tensor, inputs: list[Tensor], clear: Tensor) -> list[Tensor]:
    """`gradients` of pictures on any device."""
    return gradients(image.cpu(), alpha.cpu(), inputs, clear.cpu())


@pytest.mark.parametrize("scene", SCENES)
def test_draws_what_the_cpu_kernels_draw(scene: str, device: str) -> None:
    assert_draws_as_cpu(SCENES[scene](), device)


@pytest.mark.parametrize("size", SIZES)
def test_draws_any_size(size: str, device: str) -> None:
    height, width = SIZES[size]
    assert_draws_as_cpu(random_splats(12, height=height, width=width), device, height, width)


@pytest.mark.parametrize("channels", [6, 31, 32, 33, 70])
def test_draws_any_number_of_channels(channels: int, device: str) -> None:
    assert_draws_as_cpu(random_splats(30, k=20, channels=channels), device)


def far_away() -> Splats:
    """Depths that no sorting key of few bits can hold: nearly infinite, negative, of both zeros, equal."""
    splats = random_splats(31, k=12)
    depths = torch.tensor([3e38, 1e30, -5.0, -1e30, 0.0, -0.0, 7.0, 7.0, 1e-40, 2e30, 7.0, -5.0])
    return dataclasses.replace(splats, depths=depths.expand(2, 12))


def no_ellipses() -> Splats:
    """Some conics of no ellipse, which nobody draws."""
    splats = random_splats(32, k=12)
    splats.conics[:, ::3] = torch.tensor([[0.1, 0.2, 0.1], [-0.1, 0.0, 0.1], [0.0, 0.0, 0.0], [-1.0, 0.0, -1.0]])
    return splats


def test_endless_needles_are_drawn(device: str) -> None:
    test_splatting.assert_endless_needles_are_drawn("gsplat", device)


@pytest.mark.parametrize("make", [far_away, no_ellipses])
def test_draws_odd_splats_as_the_cpu_kernels_do(make: Callable[[], Splats], device: str) -> None:
    splats = to(make(), device)
    ours, expected = (rasterize(splats, HEIGHT, WIDTH, owners=True, backend=backend) for backend in ("gsplat", "cpu"))
    assert expected.alpha.max() > 0.1
    assert_close(ours.image, expected.image)
    assert torch.equal(ours.owner, expected.owner)


def test_equal_depths_are_drawn_in_the_order_of_the_input(device: str) -> None:
    colors = (0.9, 0.1)
    stack = merge(*(one_splat((8.5, 8.5), 4.0, color=color, opacity=0.8, depth=5.0) for color in colors))
    image = rasterize(to(stack, device), 16, 16, backend="gsplat").image
    assert image[0, 0, 8, 8].item() == pytest.approx(0.8 * 0.9 + 0.2 * 0.8 * 0.1, abs=1e-5)


@pytest.mark.parametrize("sizes", GROUP_SIZES, ids=str)
def test_draws_groups_as_the_cpu_kernels_do(sizes: list[int], device: str) -> None:
    splats = opaque_stack() if sizes == [7] * 8 else random_splats(19)
    clear = undoubted(splats, HEIGHT, WIDTH, sizes, device)[:, None]
    groups, slopes = [], []
    for backend in ("gsplat", "cpu"):
        single = leaves(to(splats, device))
        drawn = rasterize_groups(single, HEIGHT, WIDTH, sizes, backend=backend)
        slopes.append(gradients_on(drawn.images, drawn.alphas, tensors(single), clear))
        groups.append(drawn)
    ours, expected = groups
    assert ours.images.is_contiguous() and ours.alphas.is_contiguous()
    assert_close(ours.images, expected.images, clear)
    assert_close(ours.alphas, expected.alphas, clear)
    assert_gradients_close(*slopes)


def test_a_pixel_finished_in_one_group_stays_so_in_the_next(device: str) -> None:
    """Drawn alone, the second group would give its opaque splat the light of 0.05 that the first leaves."""
    depths = [(0.95, 1.0), (1.0, 2.0), (0.5, 3.0)]
    stack = merge(*(one_splat((8.5, 8.5), 1e3, color=1.0, opacity=o, depth=z) for o, z in depths))
    alphas = rasterize_groups(to(stack, device), 16, 16, [1, 2], backend="gsplat").alphas
    assert alphas[0, 0, 0, 8, 8].item() == pytest.approx(0.95, abs=1e-5)
    assert alphas[0, 1, 0, 8, 8].item() == 0  # 0.05 x 0.001 <= 1e-4


def test_a_splat_that_ends_a_pixel_does_not_own_it(device: str) -> None:
    """40 faint splats leave a light of 0.084, more than any of them takes; an opaque one behind would leave 8.4e-5."""
    faint = [one_splat((8.5, 8.5), 1e3, color=1.0, opacity=0.06, depth=float(z)) for z in range(40)]
    opaque = one_splat((8.5, 8.5), 1e3, color=1.0, opacity=1.0, depth=99.0)
    splats = to(merge(opaque, *faint), device)
    for backend in ("gsplat", "cpu", "dense"):
        raster = rasterize(splats, 16, 16, owners=True, backend=backend)
        assert (raster.owner == 1).all()
        assert raster.owner_weight.max().item() == pytest.approx(0.06, abs=1e-5)


def test_owners_are_found_in_pieces(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    splats = to(random_splats(17, sigmas=(1.0, 5.0), opacities=(0.1, 0.6)), device)
    whole = rasterize(splats, HEIGHT, WIDTH, owners=True, backend="gsplat")
    monkeypatch.setattr(gsplat, "_OWNER_NUMBERS", 1)  # a tile at a time
    pieces = rasterize(splats, HEIGHT, WIDTH, owners=True, backend="gsplat")
    assert torch.equal(whole.owner, pieces.owner) and torch.equal(whole.owner_weight, pieces.owner_weight)


@pytest.mark.parametrize("k", [0, 3])
def test_draws_nothing(k: int, device: str) -> None:
    splats = random_splats(0, k=k)
    splats.opacities[:] = 0
    splats = leaves(to(splats, device))
    background = torch.rand(2, 3).to(device).requires_grad_()
    raster = rasterize(splats, 5, 18, background=background, depth=True, owners=True, backend="gsplat")
    assert torch.equal(raster.image, background[:, :, None, None].expand(2, 3, 5, 18))
    assert not raster.alpha.any() and not raster.depth.any()
    assert (raster.owner == -1).all() and not raster.owner_weight.any()
    raster.image.sum().backward()
    assert (background.grad == 5 * 18).all()
    assert all(tensor.grad is None or not tensor.grad.any() for tensor in tensors(splats))


def test_draws_depth_without_colours(device: str) -> None:
    """Also with coverage alone."""
    splats = random_splats(16)
    blank = to(dataclasses.replace(splats, colors=splats.colors[..., :0]), device)
    ours, expected = (rasterize(blank, HEIGHT, WIDTH, depth=True, backend=backend) for backend in ("gsplat", "cpu"))
    assert ours.image.shape == expected.image.shape == (2, 0, HEIGHT, WIDTH)
    assert_close(ours.depth, expected.depth, 0.1)
    assert_close(rasterize(blank, HEIGHT, WIDTH, backend="gsplat").alpha, expected.alpha)


def test_takes_double_precision(device: str) -> None:
    splats = to(random_splats(33, k=20), device)
    double = leaves(splats, torch.float64)
    raster = rasterize(double, HEIGHT, WIDTH, background=torch.ones(3, dtype=torch.float64), backend="gsplat")
    expected = rasterize(splats, HEIGHT, WIDTH, background=torch.ones(3), backend="cpu").image
    assert raster.image.dtype == torch.float64
    assert_close(raster.image.float(), expected)
    raster.image.sum().backward()
    assert double.means.grad.dtype == torch.float64


def test_another_cap_of_alpha_is_refused(device: str) -> None:
    with pytest.raises(GmaeToolsError, match=r"gsplat caps alpha at 0\.999, not at 0\.99: use the backend cpu"):
        rasterize(to(random_splats(0), device), 16, 16, rules=Rules(alpha_max=0.99), backend="gsplat")


def test_pictures_beyond_what_gsplat_can_count_are_refused() -> None:
    splats = random_splats(0, batch=1, k=1)
    huge = Splats(*(getattr(splats, f.name).expand(1 << 12, *getattr(splats, f.name).shape[1:])
                    for f in dataclasses.fields(Splats)))  # fmt: skip
    shapes = gsplat._Shapes(huge.means, huge.conics, huge.opacities)
    with pytest.raises(GmaeToolsError, match="4096 pictures of 16384 x 16384 px are too many for one call of gsplat"):
        gsplat._list_by_tile(shapes, 1 << 14, 1 << 14)


@pytest.mark.cuda
@pytest.mark.parametrize("backend", ["cpu", "dense"])
def test_other_backends_take_splats_on_a_gpu(backend: str) -> None:
    splats = random_splats(34)
    here, there = leaves(splats), leaves(to(splats, "cuda"))
    rasters = [rasterize(s, HEIGHT, WIDTH, background=torch.ones(3), depth=True, owners=True, backend=backend)
               for s in (here, there)]  # fmt: skip
    for field in ("image", "alpha", "depth", "owner", "owner_weight"):
        ours, expected = getattr(rasters[1], field), getattr(rasters[0], field)
        assert ours.is_cuda
        torch.testing.assert_close(ours.cpu(), expected, atol=1e-5, rtol=1e-5)
    for raster in rasters:
        raster.image.square().sum().backward()
    for field in FIELDS:
        torch.testing.assert_close(getattr(there, field).grad.cpu(), getattr(here, field).grad, rtol=1e-3, atol=1e-3)


@pytest.mark.cuda
def test_auto_draws_by_gsplat_on_a_gpu() -> None:
    splats = to(random_splats(0), "cuda")
    assert splatting.choose_backend("auto", splats.means.device) == "gsplat"
    assert_close(rasterize(splats, HEIGHT, WIDTH).image, rasterize(splats, HEIGHT, WIDTH, backend="gsplat").image)
