"""Refinement: against torch's Adam on the reference renderer, and what it promises about its results."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from gmae_tools import refine as module
from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.metrics.pictures import psnr
from gmae_tools.refine import Rates, Refinement, RefineOptions, refine, refine_scene
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize

CAMERA = Camera()
HEIGHT, WIDTH = 30, 40
DEPTH_ORDER_KEPT = 0.9  # Spearman's rank correlation of the depths before and after, if they are allowed to move


def prediction(k: int = 24, sets: int = 1, seed: int = 0) -> Gaussians:
    """Random Gaussians that cover most of the picture."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(sets, k, *shape, generator=generator)

    return Gaussians(
        1.8 * uniform(3) - 0.9, 0.5 + 2 * uniform(3), uniform(4) - 0.5, 0.1 + 0.8 * uniform(3), 0.3 + 0.6 * uniform()
    )


def photo(height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A disc before a gradient, `[1, 3, H, W]`."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    disc = ((x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.06).float()
    return torch.stack([0.2 + 0.6 * x, 0.8 * disc + 0.1, 0.9 - 0.5 * y])[None]


def draw(gaussians: Gaussians, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return rasterize(project(gaussians, CAMERA, height, width), height, width, background=torch.ones(3)).image


def measured(gaussians: Gaussians, image: Tensor) -> list[float]:
    pictures = draw(gaussians, *image.shape[-2:])
    return [psnr(*(x.permute(1, 2, 0).numpy() for x in pair)) for pair in zip(pictures, image, strict=True)]


def values(gaussians: Gaussians) -> list[Tensor]:
    return [getattr(gaussians, name) for name in ("means", "scales", "quats", "colors", "opacities")]


def assert_equal(a: Gaussians, b: Gaussians) -> None:
    for x, y in zip(values(a), values(b), strict=True):
        assert torch.equal(x, y)


def torch_adam(start: Gaussians, image: Tensor, steps: int, rates: Rates) -> tuple[Gaussians, list[float]]:
    """The same fit by torch's Adam and the reference renderer; the expectation over backgrounds by quadrature."""
    spacing = math.sqrt(HEIGHT * WIDTH / start.k)
    places = (start.means[..., :2] * torch.tensor([WIDTH / 2, HEIGHT / 2]) / spacing).requires_grad_()  # in spacings
    growth = torch.zeros_like(start.scales, requires_grad=True)
    norms = start.quats.norm(dim=-1, keepdim=True)
    quats, colors, opacities = (
        x.clone().requires_grad_() for x in (start.quats / norms, start.colors, start.opacities)
    )

    def gaussians() -> Gaussians:
        means = torch.cat([places * spacing / torch.tensor([WIDTH / 2, HEIGHT / 2]), start.means[..., 2:]], -1)
        return Gaussians(means, start.scales * growth.exp(), quats, colors, opacities)

    groups = [
        {"params": [parameter], "lr": getattr(rates, name)}
        for name, parameter in zip(
            ("means", "scales", "quats", "colors", "opacities"), (places, growth, quats, colors, opacities), strict=True
        )
    ]
    adam = torch.optim.Adam(groups, betas=(0.8, 0.9), eps=1e-12)
    cooldown = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min(1.0, (steps - step) / math.ceil(steps / 3)))
    history = measured(gaussians().detach(), image)
    for _ in range(steps):
        splats = project(gaussians(), CAMERA, HEIGHT, WIDTH)
        nodes = (0.5 - 1 / math.sqrt(12), 0.5 + 1 / math.sqrt(12))  # Gauss-Legendre: exact for squares
        pictures = [
            rasterize(splats, HEIGHT, WIDTH, background=torch.full((3,), node), backend="dense").image for node in nodes
        ]
        adam.zero_grad()
        (sum((picture - image).square().mean() for picture in pictures) / 2).backward()
        adam.step()
        cooldown.step()
        with torch.no_grad():
            for x in (colors, opacities):
                x.clamp_(0, 1)
        history += measured(gaussians().detach(), image)
    return gaussians().detach(), history


def test_is_adam_on_the_error_expected_over_backgrounds() -> None:
    start, image = prediction(), photo()
    expected, history = torch_adam(start, image, 6, Rates())
    found = refine(start, image, CAMERA, 6)
    assert found.history[:, 0] == pytest.approx(history, abs=0.02)
    assert found.history[-1, 0] == found.psnr_after[0] > history[0] + 2
    for x, y in zip(values(found.gaussians), values(expected), strict=True):
        if x.shape[-1] == 4:
            x, y = (torch.nn.functional.normalize(q, dim=-1) for q in (x, y))
        assert ((x - y).abs() < 0.01).float().mean() > 0.97  # a gradient near 0 may turn the other way


def test_the_backend_does_not_matter() -> None:
    histories = [
        refine(prediction(), photo(), CAMERA, 4, RefineOptions(backend=backend)).history for backend in ("cpu", "dense")
    ]
    np.testing.assert_allclose(*histories, atol=0.02)


@pytest.mark.cuda
def test_the_gpu_does_not_matter() -> None:
    start, image = prediction(sets=2), torch.cat([photo(), photo().flip(-1)])
    here, there = (refine(start.to(device), image, CAMERA, 6, RefineOptions(k=30)) for device in ("cpu", "cuda"))
    assert there.gaussians.device.type == "cuda"
    np.testing.assert_allclose(here.history, there.history, atol=0.1)


def test_no_steps_only_measure() -> None:
    start, image = prediction(sets=2), torch.cat([photo(), photo().flip(-1)])
    found = refine(start, image, CAMERA, 0)
    assert_equal(found.gaussians, start)
    assert found.psnr_before.tolist() == pytest.approx(measured(start, image), abs=1e-4)
    assert found.history.tolist() == [found.psnr_before.tolist()] == [found.psnr_after.tolist()]


def test_figures_are_over_the_background_that_is_asked_for() -> None:
    """Light Gaussians, where what is behind them shows, are the better the more it is like the photograph."""
    start, image = prediction(), torch.full((1, 3, HEIGHT, WIDTH), 0.25)
    start = replace(start, opacities=start.opacities / 4)
    splats = project(start, CAMERA, HEIGHT, WIDTH)
    for level in (0.0, 0.25, 1.0):
        picture = rasterize(splats, HEIGHT, WIDTH, background=torch.full((3,), level)).image[0]
        expected = psnr(picture.permute(1, 2, 0).numpy(), image[0].permute(1, 2, 0).numpy())
        found = refine(start, image, CAMERA, 0, RefineOptions(background=level))
        assert found.psnr_before[0] == pytest.approx(expected, abs=1e-3)


def test_what_is_returned_is_the_best_on_the_way() -> None:
    image = photo()
    found = refine(prediction(), image, CAMERA, 40)
    assert found.psnr_after[0] > found.psnr_before[0] + 10
    assert found.psnr_after.tolist() == found.history.max(0).tolist()
    assert measured(found.gaussians, image) == pytest.approx(found.psnr_after.tolist(), abs=1e-3)
    background = torch.zeros(3)
    dark = rasterize(project(found.gaussians, CAMERA, HEIGHT, WIDTH), HEIGHT, WIDTH, background=background).image
    assert float((dark - draw(found.gaussians)).abs().mean()) < 0.01  # nothing is left to the background


@pytest.mark.parametrize("k", [24, 30])
def test_never_worse_than_the_start(k: int) -> None:
    start = prediction()
    image = (draw(start) + 0.001).clamp(0, 1)
    wild = Rates(means=50, scales=50, quats=50, colors=50, opacities=50)
    found = refine(start, image, CAMERA, 3, RefineOptions(k=k, rates=wild))
    assert found.psnr_before[0] == found.psnr_after[0] > 50
    assert found.history[1:].max() < 30
    assert found.gaussians.k == k
    assert_equal(found.gaussians.select(slice(24)), start)
    assert torch.equal(draw(found.gaussians), draw(start))


def test_depth_keeps_its_order() -> None:
    start, image = prediction(60), photo()
    kept = refine(start, image, CAMERA, 30)
    assert torch.equal(kept.gaussians.means[..., 2], start.means[..., 2])
    moved = refine(start, image, CAMERA, 30, RefineOptions(rates=Rates(depth=0.005))).gaussians.means[0, :, 2]
    assert not torch.equal(moved, start.means[0, :, 2])
    assert spearmanr(moved, start.means[0, :, 2]).statistic > DEPTH_ORDER_KEPT


def test_the_same_input_gives_the_same_result_alone_or_in_a_batch() -> None:
    start, image = prediction(sets=2), torch.cat([photo(), photo().flip(-1)])
    both, again = (refine(start, image, CAMERA, 12, RefineOptions(k=40)) for _ in range(2))
    assert_equal(both.gaussians, again.gaussians)
    for index in range(2):
        alone = refine(start[index], image[index : index + 1], CAMERA, 12, RefineOptions(k=40))
        np.testing.assert_allclose(alone.history[:, 0], both.history[:, index], atol=1e-3)


def test_splits_where_the_error_is_along_the_longest_axis_on_the_picture() -> None:
    def flat(*places: tuple[float, float, float], widths: tuple[float, ...]) -> Gaussians:
        """Gaussians of different widths and one height; 1 half picture is 8 scene units."""
        count = len(places)
        scales = torch.tensor([[width, 4.0, 0.1] for width in widths])
        quats, colors = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1), torch.full((count, 3), 0.2)
        return Gaussians(*(x[None] for x in (torch.tensor(places), scales, quats, colors, torch.full((count,), 0.9))))

    shift = math.sqrt(0.75) * 3 / 8
    start = flat((-0.6, 0.0, 0.0), (0.5, 0.0, 0.0), widths=(1.0, 3.0))
    split = flat((-0.6, 0.0, 0.0), (0.5 - shift, 0.0, 0.0), (0.5 + shift, 0.0, 0.0), widths=(1.0, 1.5, 1.5))
    # 3 half widths of 60 px are longer than 4 half heights of 30 px.
    found = refine(start, draw(split, 30, 60), CAMERA, 1, RefineOptions(k=3, rates=Rates(0, 0, 0, 0, 0, 0)))
    assert found.psnr_after[0] > 100
    for x, y in zip(values(found.gaussians), values(split), strict=True):
        torch.testing.assert_close(x, y)


def test_densification_reaches_k_and_helps() -> None:
    start, image = prediction(), photo()
    few, many = (refine(start, image, CAMERA, 30, RefineOptions(k=k)) for k in (None, 100))
    assert (few.gaussians.k, many.gaussians.k) == (24, 100)
    assert many.psnr_after[0] > few.psnr_after[0] + 2
    assert set(many.gaussians.means[0, :, 2].tolist()) == set(start.means[0, :, 2].tolist())  # children keep the depth
    assert refine(start, image, CAMERA, 1, RefineOptions(k=500)).gaussians.k == 500


def test_stops_when_nothing_is_gained() -> None:
    start = Gaussians(*(x[:, :1] for x in values(prediction())))
    found = refine(start, photo(), CAMERA, 600)
    assert len(found.history) < 500
    assert found.psnr_after[0] > found.psnr_before[0]
    # Fewer than 0.02 dB within 25 steps; then the rates fall over a third of the 600.
    best = np.maximum.accumulate(found.history[:, 0])
    flat = next(step for step in range(26, len(best)) if best[step - 1] - best[step - 26] < 0.02)
    assert len(found.history) - 1 == flat + 200
    # Without step sizes nothing is ever gained. That is sure when all Gaussians are there, after 144.
    still = Rates(means=0, scales=0, quats=0, colors=0, opacities=0)
    found = refine(start, photo(), CAMERA, 600, RefineOptions(k=4, rates=still))
    assert len(found.history) - 1 == 144 + 1 + 26 + 200


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (50, 7), (33, 17)])
@pytest.mark.parametrize(
    "camera",
    [Camera(), Camera(cx=0.1, cy=0.1, shear=True), Camera("pinhole", focal=8.0), Camera("orthographic")],
    ids=["gmae", "sheared", "pinhole", "orthographic"],
)
def test_any_size_and_camera(size: tuple[int, int], camera: Camera) -> None:
    found = refine(prediction(), photo(*size), camera, 6, RefineOptions(k=30))
    assert found.gaussians.k == 30
    assert found.psnr_after[0] > found.psnr_before[0]
    assert all(torch.isfinite(x).all() for x in values(found.gaussians))


def test_structural_similarity_can_join_the_loss() -> None:
    from gmae_tools.metrics.pictures import ssim

    image = photo()
    likeness = []
    for weight in (0.0, 0.1):
        found = refine(prediction(), image, CAMERA, 40, RefineOptions(ssim_weight=weight))
        likeness.append(ssim(*(x[0].permute(1, 2, 0).numpy() for x in (draw(found.gaussians), image))))
    assert likeness[1] > likeness[0]


def test_broken_gradients_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    grad = torch.autograd.grad

    def broken(*arguments: Tensor) -> tuple[Tensor, ...]:
        (gradient,) = grad(*arguments)
        gradient[:, :5] = math.nan
        return (gradient,)

    monkeypatch.setattr(torch.autograd, "grad", broken)
    found = refine(prediction(), photo(), CAMERA, 10)
    assert found.psnr_after[0] > found.psnr_before[0]
    assert torch.equal(found.gaussians.means[:, :5], prediction().means[:, :5])


def test_works_on_predictions_and_inside_inference_mode() -> None:
    with torch.inference_mode():
        predicted = prediction()
        inside = refine(predicted, photo(), CAMERA, 3)
    assert_equal(inside.gaussians, refine(predicted, photo(), CAMERA, 3).gaussians)
    assert not inside.gaussians.means.requires_grad


def test_reports_every_step() -> None:
    calls: list[tuple[int, float]] = []
    found = refine(prediction(), photo(), CAMERA, 5, progress=lambda *call: calls.append(call))
    assert [step for step, _ in calls] == [1, 2, 3, 4, 5]
    assert [best for _, best in calls] == pytest.approx(np.maximum.accumulate(found.history[:, 0])[1:].tolist())


def test_large_photographs_are_fitted_small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []

    def spy(gaussians: Gaussians, image: Tensor, *arguments: object, **options: object) -> Refinement:
        sizes.append(tuple(image.shape))
        return refine(gaussians, image, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "refine", spy)
    monkeypatch.setattr(module, "MAX_PIXELS", 300)
    for height, width in ((60, 80), (10, 20), (1, 3000)):
        start = Scene(prediction(), CAMERA, height, width, np.full((height, width, 3), 100, np.uint8))
        found = refine_scene(start, 1)
        assert (found.height, found.width) == (height, width) and found.photo is start.photo
    assert sizes == [(1, 3, 15, 20), (1, 3, 10, 20), (1, 3, 1, 949)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": photo()[0]}, "use .B, 3, H, W."),
        ({"image": photo().repeat(2, 1, 1, 1)}, "for 1 sets of 24 Gaussians"),
        ({"image": torch.zeros(1, 3, 0, 5)}, "use .B, 3, H, W."),
        ({"image": photo() * 255}, "floating point in .0, 1."),
        ({"image": photo() * math.nan}, "without NaN"),
        ({"image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "floating point"),
        ({"gaussians": prediction().select(slice(0))}, "0 Gaussians"),
        ({"gaussians": prediction().map(lambda x: x * math.nan)}, "NaN or infinite"),
        ({"steps": -1}, "-1 steps"),
        ({"options": RefineOptions(k=23)}, "from 24 to 23"),
        ({"options": RefineOptions(k=30), "steps": 0}, "from 24 to 30 Gaussians in 0 steps"),
        ({"options": RefineOptions(ssim_weight=0.1), "image": photo(6, 20)}, "0 below 7 px"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"gaussians": prediction(), "image": photo(), "camera": CAMERA, "steps": 2} | change
    with pytest.raises(GmaeToolsError, match=message):
        refine(**arguments)  # type: ignore[arg-type]


def test_bad_options_are_refused() -> None:
    with pytest.raises(GmaeToolsError, match="scales must be"):
        Rates(scales=-1)
    with pytest.raises(GmaeToolsError, match="ssim_weight -1"):
        RefineOptions(ssim_weight=-1)
    with pytest.raises(GmaeToolsError, match="background 2"):
        RefineOptions(background=2)


def test_a_scene_without_photograph_cannot_be_refined() -> None:
    with pytest.raises(GmaeToolsError, match="no photograph"):
        refine_scene(Scene(prediction(), CAMERA, 20, 30), 1)
