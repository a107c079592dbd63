"""Torch's default dtype is the caller's: results do not depend on it. Models and Gaussians of other precisions work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from gmae_tools import checkpoints
from gmae_tools.camera import Camera, Splats, project
from gmae_tools.diagnosis import try_backend
from gmae_tools.encoder.probe import LinearConfig, linear_predict
from gmae_tools.gaussians import Gaussians
from gmae_tools.mae import CMAE, MAE, CMAEConfig, MAEConfig, paint_patches
from gmae_tools.model import GMAE, Autoencoder, GMAEConfig
from gmae_tools.prediction import predict_gaussians
from gmae_tools.pretrain.crops import bicubic_weights, resize_batch
from gmae_tools.pretrain.objectives import OBJECTIVES
from gmae_tools.pretrain.optimizers import OptimizerConfig, build_optimizers
from gmae_tools.pretrain.reconstruction import reconstruct
from gmae_tools.pretrain.sampling import Batch
from gmae_tools.refine import RefineOptions, refine
from gmae_tools.report.layers import LayersRequest
from gmae_tools.scene import Scene
from gmae_tools.splatting import Backend, rasterize, rasterize_groups
from gmae_tools.splatting.simd import empty_rows, load, store
from gmae_tools.system.precision import working_dtype
from gmae_tools.vit import patch_positions, visible_patches
from gmae_tools.zeroshot.layers import over, render_layers
from gmae_tools.zeroshot.names import EDGE_READOUTS, FOREGROUND_METHODS
from gmae_tools.zeroshot.views import Looks, look

HEIGHT, WIDTH = 35, 52
CAMERA = Camera()
HALVES = (torch.float16, torch.bfloat16)
BACKENDS: tuple[Backend, ...] = ("cpu", "dense")


@pytest.fixture(autouse=True)
def _no_defaults_left() -> Iterator[None]:
    """Nothing that was computed under another default is there before or after a test."""
    patch_positions.cache_clear()
    yield
    torch.set_default_dtype(torch.float32)
    patch_positions.cache_clear()


def gaussians(dtype: torch.dtype = torch.float32, k: int = 40) -> Gaussians:
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        numbers = torch.rand(1, k, *shape, generator=generator, dtype=torch.float64)
        return (low + (high - low) * numbers).to(dtype)

    return Gaussians(uniform(-1, 1, 3), uniform(0.2, 2, 3), uniform(-1, 1, 4), uniform(0, 1, 3), uniform(0.2, 1))


def pictures(count: int = 1, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float32)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def photo() -> np.ndarray:
    return (pictures(size=64)[0, :, :48].permute(1, 2, 0).numpy() * 255).astype(np.uint8)


# --- whatever the default dtype is --------------------------------------------------------------------


def drawn(backend: Backend) -> list[Tensor]:
    """Everything that the renderer says, and its gradients."""
    splats = project(gaussians(), CAMERA, HEIGHT, WIDTH)
    inputs = [tensor.requires_grad_() for tensor in vars(splats).values()]
    raster = rasterize(splats, HEIGHT, WIDTH, background=torch.ones(3), depth=True, owners=True, backend=backend)
    groups = rasterize_groups(splats, HEIGHT, WIDTH, [9, 20], backend=backend)
    loss = raster.image.square().sum() + raster.depth.sum() + groups.images.square().sum()  # type: ignore[union-attr]
    gradients = torch.autograd.grad(loss, inputs)
    return [*(tensor.detach() for tensor in (*vars(raster).values(), *vars(groups).values())), *gradients]


def refined() -> list[Tensor]:
    image = pictures()[..., :HEIGHT, :WIDTH]
    found = refine(gaussians(), image, CAMERA, 6, RefineOptions(k=60, ssim_weight=0.01))
    return [*vars(found.gaussians).values(), torch.from_numpy(found.history)]


def layers() -> list[Tensor]:
    request = LayersRequest({"8": 8}, 4, "black", "")
    found = render_layers(Scene(gaussians(), CAMERA, HEIGHT, WIDTH), [8, 40], 4)
    return [*vars(found).values(), torch.from_numpy(over(found.firsts, found.first_alphas, request.color))]


def readouts() -> list[Tensor]:
    """Maps of edges and of foreground, from the photograph on."""
    model = GMAE(GMAEConfig.preset("nano", max_scale=6.0)).eval()
    model.load_state_dict(random_weights())
    tiles, whole = look(model, photo(), Looks((2,), flip=True)), look(model, photo(), Looks((1,)))
    maps = [*(tiles.edges(name, (4,)) for name in EDGE_READOUTS), *map(whole.foreground, FOREGROUND_METHODS)]
    return [torch.from_numpy(found) for found in maps]


@lru_cache
def random_weights() -> dict[str, Tensor]:
    """Drawn once, as chance depends on the default dtype."""
    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano", max_scale=6.0))
    torch.nn.init.normal_(model.decoder.head.weight, std=0.4)
    return model.state_dict()


def crops() -> list[Tensor]:
    sides = torch.tensor([[40, 31], [64, 64]])
    pixels = (pictures(2) * 255).byte().permute(0, 2, 3, 1)
    return [bicubic_weights(sides[:, 0], 24, 64), resize_batch(pixels, sides, torch.tensor([True, False]), 24)]


def probed() -> list[Tensor]:
    features = torch.rand(60, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float32)
    labels = (features[:, 0] > 0.5).long()
    answers, rate = linear_predict(features, labels, features, LinearConfig(epochs=3, warmup=1))
    return [answers, torch.tensor(rate, dtype=torch.float64)]


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "work", [lambda: drawn("cpu"), lambda: drawn("dense"), refined, layers, readouts, crops, probed],
    ids=["cpu", "dense", "refine", "layers", "readouts", "crops", "probe"],
)  # fmt: skip
def test_the_default_dtype_changes_nothing(work: Callable[[], list[Tensor]], default: torch.dtype) -> None:
    expected = work()
    torch.set_default_dtype(default)
    patch_positions.cache_clear()
    found = work()
    torch.set_default_dtype(torch.float32)
    assert any(bool(tensor.float().std() > 0) for tensor in expected)
    for before, after in zip(expected, found, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_training_step_is_the_same(name: str, optimizer: Any, default: torch.dtype) -> None:
    objective = OBJECTIVES[name]()
    config = objective.model_config.preset("nano", image_size=32, patch_size=8)
    start = objective.build(config).state_dict()

    def step() -> dict[str, Tensor]:
        model = objective.build(config)
        assert {tensor.dtype for tensor in (*model.parameters(), *model.buffers())} == {torch.float32}
        model.load_state_dict(start)
        samples = np.arange(4)
        masks = visible_patches(objective.masks(16, 0, samples, 0))
        batch = Batch((pictures(4, 32) * 255).byte(), masks, objective.backgrounds(samples, 0))
        loss, _ = objective.loss(model, batch, config)
        loss.backward()
        for each in build_optimizers(model, OptimizerConfig(optimizer)):
            each.step()
        return {"loss": loss.detach(), **model.state_dict()}

    expected = step()
    torch.set_default_dtype(default)
    patch_positions.cache_clear()
    found = step()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_a_new_model_and_a_loaded_one_are_float32(default: torch.dtype, tmp_path: Path) -> None:
    torch.set_default_dtype(default)
    for model in (GMAE(GMAEConfig.preset("nano")), MAE(MAEConfig.preset("nano")), CMAE(CMAEConfig.preset("nano"))):
        checkpoints.save(model, tmp_path / "model")
        for each in (model, checkpoints.load_any(tmp_path / "model")):
            assert {tensor.dtype for tensor in (*each.parameters(), *each.buffers())} == {torch.float32}
            assert each.decoder.get_submodule("embed").weight.std() > 0  # and was drawn, not left as it lay in memory


def test_the_doctor_is_content(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float64)
    assert try_backend("cpu").problem is None


def test_a_default_device_is_not_the_kernels() -> None:
    """Nobody asked for these pictures to be on it."""
    splats = project(gaussians(), CAMERA, HEIGHT, WIDTH)
    expected = rasterize(splats, HEIGHT, WIDTH, backend="cpu").image
    with torch.device("meta"):
        assert torch.equal(rasterize(splats, HEIGHT, WIDTH, backend="cpu").image, expected)


# --- models of other precisions --------------------------------------------------------------------------


def nano(kind: str) -> Autoencoder:
    torch.manual_seed(0)
    models: dict[str, Callable[[], Autoencoder]] = {
        "gmae": lambda: GMAE(GMAEConfig.preset("nano")),
        "mae": lambda: MAE(MAEConfig.preset("nano")),
        "c-mae": lambda: CMAE(CMAEConfig.preset("nano")),
    }
    return models[kind]().eval()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [*HALVES, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["gmae", "mae", "c-mae"])
@pytest.mark.parametrize("images", [torch.float32, None], ids=["float32 pictures", "pictures of its dtype"])
def test_a_model_computes_in_its_own_dtype(kind: str, dtype: torch.dtype, images: torch.dtype | None) -> None:
    model, shown = nano(kind), pictures(2)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, ::2] = True
    expected, features = model(shown, mask), model.encode(shown)
    model.to(dtype)
    found = model(shown.to(images or dtype), mask)
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float64: 1e-5}[dtype]
    for before, after in zip(tensors(expected), tensors(found), strict=True):
        assert after.dtype == wanted
        torch.testing.assert_close(after.float(), before, rtol=0, atol=tolerance * float(before.abs().max()))
    assert model.encode(shown).dtype == dtype
    torch.testing.assert_close(model.encode(shown).float(), features, rtol=0, atol=5 * tolerance)
    if kind != "c-mae":
        assert reconstruct(model, shown, mask).dtype == wanted


def tensors(predicted: Any) -> list[Tensor]:
    return list(vars(predicted).values()) if isinstance(predicted, Gaussians) else [predicted]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [*HALVES, torch.float64], ids=str)
def test_a_photograph_through_the_checkpoint_that_came_along(dtype: torch.dtype) -> None:
    # Mirrored: of the photograph as it is, two Gaussians are nearer to each other in depth than float32 resolves.
    model, shown = checkpoints.load("gmae-tiny"), np.ascontiguousarray(photo()[:, ::-1])
    height, width = shown.shape[:2]

    def picture() -> Tensor:
        return rasterize(
            project(predict_gaussians(model, shown), model.camera, height, width), height, width
        ).image.float()

    expected = picture()
    model.to(dtype)
    limit = {torch.float16: 1e-5, torch.bfloat16: 1e-3, torch.float64: 1e-11}[dtype]
    assert (picture() - expected).square().mean() < limit


@torch.no_grad()
def test_draws_what_a_float64_mae_predicts() -> None:
    model = MAE(MAEConfig.preset("nano", normalise_targets=True)).double().eval()
    assert paint_patches(model(pictures()), pictures(), model.config).dtype == torch.float64


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    """The transformer obeys it. The Gaussians, and what is drawn of them, are float32, and the gradients get there."""
    model = nano("gmae")
    expected = model(pictures())
    with torch.autocast("cpu", dtype):
        found = model(pictures())
        splats = project(found, CAMERA, HEIGHT, WIDTH)
        rasters = {backend: rasterize(splats, HEIGHT, WIDTH, depth=True, backend=backend) for backend in BACKENDS}
    for name, tensor in vars(found).items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, getattr(expected, name), rtol=0, atol=0.05, msg=name)
        assert not torch.equal(tensor, getattr(expected, name)), name
    for backend, raster in rasters.items():
        without = rasterize(splats, HEIGHT, WIDTH, depth=True, backend=backend)
        for field in ("image", "alpha", "depth"):
            assert torch.equal(getattr(raster, field), getattr(without, field)), (backend, field)
    rasters["cpu"].image.square().mean().backward()
    assert all(float(p.grad.norm()) > 0 for p in model.parameters() if p.grad is not None)  # type: ignore[arg-type]
    assert model.encoder.cls_token.grad is not None


def test_refinement_under_autocast() -> None:
    expected = refined()
    with torch.autocast("cpu", torch.bfloat16):
        found = refined()
    for before, after in zip(expected, found, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)


# --- Gaussians of other precisions ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_is_for_storing(dtype: torch.dtype, backend: Backend) -> None:
    """Drawn and refined as the float32 numbers that they are, to which gradients return in their own dtype."""
    stored = gaussians(dtype)
    full = stored.map(lambda tensor: tensor.float())
    expected = rasterize(project(full, CAMERA, HEIGHT, WIDTH), HEIGHT, WIDTH, depth=True, backend=backend)
    stored.means.requires_grad_()
    found = rasterize(project(stored, CAMERA, HEIGHT, WIDTH), HEIGHT, WIDTH, depth=True, backend=backend)
    assert torch.equal(found.image, expected.image) and torch.equal(found.alpha, expected.alpha)
    (gradient,) = torch.autograd.grad(found.image.sum(), stored.means)
    assert gradient.dtype == dtype and gradient.abs().sum() > 0
    image = pictures()[..., :HEIGHT, :WIDTH]
    for a, b in zip(*(refine(g, image, CAMERA, 2).gaussians.map(Tensor.detach) for g in (stored, full)), strict=True):
        assert torch.equal(a.means, b.means)


def test_float64_stays() -> None:
    exact = gaussians(torch.float64)
    splats = project(exact, CAMERA, HEIGHT, WIDTH)
    assert {tensor.dtype for tensor in vars(splats).values()} == {torch.float64}
    by_cpu, by_dense = (rasterize(splats, HEIGHT, WIDTH, depth=True, owners=True, backend=each) for each in BACKENDS)
    for name in ("image", "alpha", "depth", "owner_weight"):
        assert getattr(by_cpu, name).dtype == getattr(by_dense, name).dtype == torch.float64
        torch.testing.assert_close(getattr(by_cpu, name), getattr(by_dense, name), rtol=1e-4, atol=1e-5)
    unmoved = refine(exact, pictures()[..., :HEIGHT, :WIDTH], CAMERA, 0).gaussians
    for field in fields(Gaussians):
        assert torch.equal(getattr(unmoved, field.name), getattr(exact, field.name)), field.name


@pytest.mark.parametrize("backend", BACKENDS)
def test_splats_of_mixed_dtypes(backend: Backend) -> None:
    splats = project(gaussians(), CAMERA, HEIGHT, WIDTH)
    mixed = Splats(splats.means.double(), *list(vars(splats).values())[1:])
    background = torch.tensor([1, 0, 1])  # whole numbers
    found = rasterize(mixed, HEIGHT, WIDTH, background=background, backend=backend).image
    expected = rasterize(splats, HEIGHT, WIDTH, background=background.float(), backend=backend).image
    torch.testing.assert_close(found.float(), expected)
    assert found.dtype == torch.float64


def test_the_dtype_to_work_in() -> None:
    of = {dtype: torch.zeros(1, dtype=dtype) for dtype in (*HALVES, torch.float32, torch.float64, torch.int64)}
    assert working_dtype(*(of[dtype] for dtype in HALVES)) == torch.float32
    assert working_dtype(of[torch.int64]) == working_dtype() == torch.float32
    assert working_dtype(of[torch.float64], of[torch.float16]) == torch.float64


# --- kernels ----------------------------------------------------------------------------------------------


@numba.njit
def copy_row(source: np.ndarray, target: np.ndarray) -> None:
    store(target, 0, load(source, 0))


@numba.njit
def copy_through_rows(source: np.ndarray, target: np.ndarray) -> None:
    rows = empty_rows(1)
    store(rows, 0, load(source, 0))
    store(target, 0, load(rows, 0))


def test_kernels_refuse_memory_that_they_would_misread() -> None:
    good = np.arange(32, dtype=np.float32).reshape(2, 16)
    target = np.empty_like(good)
    copy_through_rows(good, target)
    np.testing.assert_array_equal(target[0], good[0])
    spread = np.empty((2, 32), np.float32)[:, ::2]
    for source, into in ((good.astype(np.float64), target), (good, target.astype(np.float64)), (good, spread)):
        with pytest.raises(numba.core.errors.TypingError, match="contiguous float32"):
            copy_row(source, into)
