"""Pretraining: the objective against plain loops, and runs that survive anything with the same loss curve."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch._dynamo.testing import CompileCounter

from gmae_tools import checkpoints
from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.pretrain import loop
from gmae_tools.pretrain.held_out import HeldOut
from gmae_tools.pretrain.loop import Execution, PretrainConfig, pretrain
from gmae_tools.pretrain.objectives.gmae import (
    GMAEObjective,
    gmae_loss,
    negative_psnr,
    reconstruction_error,
    slot_depth_spread,
)
from gmae_tools.pretrain.optimizers import OptimizerConfig, build_optimizers
from gmae_tools.pretrain.reconstruction import render
from gmae_tools.pretrain.sampling import sample_backgrounds, sample_masks
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.splatting import rasterize
from tests.oracles.mae import save_official

SAMPLES = np.arange(6)
NO_DEPTH = {"occlusion_gradient": 0.0, "size_depth_weight": 0.0, "region_depth_weight": 0.0}


# --- masks and backgrounds ------------------------------------------------------------------------------


@pytest.mark.parametrize("patches", [4, 16, 64, 196])
@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.75])
def test_the_masked_share_is_exact(patches: int, ratio: float) -> None:
    masks = sample_masks((ratio, ratio), patches, step=3, samples=SAMPLES, seed=0)
    assert masks.shape == (6, patches) and masks.dtype == torch.bool
    assert masks.sum(1).tolist() == [ratio * patches] * 6


def test_something_stays_visible() -> None:
    assert not sample_masks((0.95, 0.95), 4, 0, SAMPLES, 0).all(1).any()


def test_masks_follow_from_seed_and_sample_number() -> None:
    config = (0.5, 0.5)
    masks = sample_masks(config, 64, 0, SAMPLES, seed=0)
    # Any process, any step, any batch: the sample's own mask.
    assert torch.equal(sample_masks(config, 64, 9, SAMPLES[[4, 1]], seed=0), masks[[4, 1]])
    assert len({tuple(mask) for mask in masks.tolist()}) == 6
    assert not torch.equal(sample_masks(config, 64, 0, SAMPLES, seed=1), masks)


def test_every_patch_is_hidden_equally_often() -> None:
    share = sample_masks((0.5, 0.5), 16, 0, np.arange(2000), seed=0).float().mean(0)
    assert (share - 0.5).abs().max() < 5 * math.sqrt(0.25 / 2000)  # five standard deviations


def test_a_range_of_ratios_is_drawn_once_a_step() -> None:
    counts = []
    for step in range(300):
        rows = sample_masks((0.2, 0.7), 100, step, SAMPLES, seed=0).sum(1)
        assert len(set(rows.tolist())) == 1  # the encoder needs equal rows
        counts.append(int(rows[0]))
    assert min(counts) >= 20 and max(counts) <= 70
    np.testing.assert_allclose(np.quantile(counts, [0.1, 0.5, 0.9]), [25, 45, 65], atol=6)


@pytest.mark.parametrize("patches", [64, 196, 784])
def test_a_range_of_ratios_has_few_numbers_of_visible_patches(patches: int) -> None:
    drawn = [int(sample_masks((0.0, 0.75), patches, step, SAMPLES[:1], 0).sum()) for step in range(500)]
    assert 20 <= len(set(drawn)) <= 33
    assert min(drawn) == 0 and 0.7 * patches <= max(drawn) <= 0.75 * patches
    assert np.mean(drawn) == pytest.approx(0.375 * patches, rel=0.06)


@pytest.mark.parametrize("ratios", [(-0.1, 0.5), (0.5, 0.4), (0.5, 0.96), (math.nan, 0.5)])
def test_impossible_ratios_are_refused(ratios: tuple[float, float]) -> None:
    with pytest.raises(GmaeToolsError, match=r"must lie within 0\.\.0\.95"):
        GMAEObjective(mask_ratio=ratios)


def test_backgrounds() -> None:
    assert sample_backgrounds("white", SAMPLES, 0).tolist() == [[1.0] * 3] * 6
    assert sample_backgrounds("black", SAMPLES, 0).tolist() == [[0.0] * 3] * 6
    colors = sample_backgrounds("random", np.arange(500), 0)
    assert torch.equal(sample_backgrounds("random", np.array([7, 3]), 0), colors[[7, 3]])
    assert colors.min() < 0.02 and colors.max() > 0.98 and (colors.mean(0) - 0.5).abs().max() < 0.06
    assert np.abs(np.corrcoef(colors.T.numpy()) - np.eye(3)).max() < 0.2  # colours, not shades of grey


# --- the loss -------------------------------------------------------------------------------------------


def naive_loss(pictures: np.ndarray, images: np.ndarray, mask: np.ndarray | None, patch: int) -> float:
    """Mean over the pixels that count and the channels, pixel by pixel."""
    errors = []
    batch, channels, height, width = images.shape
    for b, y, x in np.ndindex(batch, height, width):
        if mask is None or mask[b, (y // patch) * (width // patch) + x // patch]:
            errors += [(pictures[b, c, y, x] - images[b, c, y, x]) ** 2 for c in range(channels)]
    return float(np.mean(errors))


@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_counts_the_right_pixels(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures, images = (torch.rand(2, 3, 12, 20, generator=generator) for _ in range(2))
    mask = sample_masks((0.5, 0.5), 15, 0, SAMPLES[:2], 0) if masked else None
    expected = naive_loss(pictures.numpy(), images.numpy(), None if mask is None else mask.numpy(), 4)
    assert float(reconstruction_error(pictures, images, mask, 4).mean()) == pytest.approx(expected, rel=1e-5)


def test_with_nothing_masked_all_pixels_count() -> None:
    pictures, images = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    errors = reconstruction_error(pictures, images, nothing, 4)
    torch.testing.assert_close(errors, (pictures - images).square().mean((1, 2, 3)))


def test_negative_psnr_follows_the_mean_psnr() -> None:
    """It falls by a fixed amount with every dB of the mean, and at 23 dB as fast as the mean squared error."""
    errors = [torch.tensor([10.0**-a, 10.0**-b]) for a, b in ((2.0, 2.6), (2.3, 2.3), (1.7, 3.1))]  # means: 23, 23, 24
    losses = [float(negative_psnr(each)) for each in errors]
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    assert losses[1] - losses[2] == pytest.approx(10**-2.3 * np.log(10) / 10, abs=5e-5)
    at_23 = errors[1].clone().requires_grad_()
    negative_psnr(at_23).backward()
    torch.testing.assert_close(at_23.grad, torch.full((2,), 0.5), rtol=0.01, atol=0)


def test_a_share_of_the_steps_hides_nothing() -> None:
    objective = GMAEObjective((0.5, 0.5), whole=0.3)
    hidden = [int(objective.masks(16, step, SAMPLES[:2], 0).sum()) for step in range(1000)]
    assert set(hidden) == {0, 16}
    assert 0.25 < hidden.count(0) / 1000 < 0.35
    assert not GMAEObjective((0.5, 0.5), whole=1.0).masks(16, 0, SAMPLES[:2], 0).any()
    with pytest.raises(GmaeToolsError, match="hide nothing"):
        GMAEObjective(whole=1.5)


def gaussians_at(depths: np.ndarray) -> Gaussians:
    """Gaussians with the given depths `[B, K]`."""
    z = torch.from_numpy(depths).float()
    means = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z], -1)
    return Gaussians(means, torch.ones_like(means), torch.ones(*z.shape, 4), torch.ones_like(means), torch.ones_like(z))


def test_slot_depth_spread_is_the_share_of_variance_between_slots() -> None:
    """An analysis of variance in numpy, picture by picture: between slots, over all."""
    depths = np.random.default_rng(0).normal(size=(3, 5, 4)) + np.array([0.0, 0.5, 1.0, -0.3])
    shares = [
        np.mean([(one[:, slot].mean() - one.mean()) ** 2 for slot in range(4)]) / np.mean((one - one.mean()) ** 2)
        for one in depths
    ]
    actual = slot_depth_spread(gaussians_at(depths.reshape(3, 20)), 4)
    assert float(actual) == pytest.approx(np.mean(shares), rel=1e-4)
    assert 0.05 < float(actual) < 0.5
    by_slot = slot_depth_spread(gaussians_at(depths.transpose(0, 2, 1).reshape(3, 20)), 4, "slots")
    assert float(by_slot) == pytest.approx(float(actual), rel=1e-5)


def test_slot_depth_spread_at_its_ends() -> None:
    slots = np.tile([0.0, 1.0, -1.0], (2, 8))  # the slot says it all
    queries = np.repeat(np.random.default_rng(0).normal(size=(2, 8)), 3, 1)  # the slot says nothing
    assert float(slot_depth_spread(gaussians_at(slots), 3)) == pytest.approx(1, abs=1e-4)
    assert float(slot_depth_spread(gaussians_at(queries), 3)) == pytest.approx(0, abs=1e-6)
    assert float(slot_depth_spread(gaussians_at(slots), 1)) == 0
    assert float(slot_depth_spread(gaussians_at(np.zeros((2, 6))), 3)) == 0  # and no NaN


@pytest.mark.parametrize("loss_on", ["all", "masked"])
def test_the_objective_is_its_parts(loss_on: Any) -> None:
    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano", image_size=32)).eval()
    config = GMAEObjective((0.5, 0.5), loss_on=loss_on, slot_depth_weight=0.3, **NO_DEPTH)
    images, mask = torch.rand(2, 3, 32, 32), config.masks(4, 0, SAMPLES[:2], 0)
    backgrounds = config.backgrounds(SAMPLES[:2], 0)
    loss, error = gmae_loss(model, images, mask, backgrounds, config, model.config)
    with torch.no_grad():
        gaussians = model(images, mask)
        splats = project(gaussians, Camera(), 32, 32)
        pictures = rasterize(splats, 32, 32, background=backgrounds, backend="dense").image
    expected = naive_loss(pictures.numpy(), images.numpy(), mask.numpy() if loss_on == "masked" else None, 16)
    assert float(error) == pytest.approx(expected, rel=1e-4) and not error.requires_grad
    assert float(loss.detach() - error) == pytest.approx(0.3 * float(slot_depth_spread(gaussians, 4)), rel=1e-3)
    with_psnr = dataclasses.replace(config, error="psnr")
    other, same = gmae_loss(model, images, mask, backgrounds, with_psnr, model.config)
    counted = mask if loss_on == "masked" else None
    by_psnr = negative_psnr(reconstruction_error(pictures, images, counted, 16))
    assert float(same) == float(error)
    assert float((other - loss).detach()) == pytest.approx(float(by_psnr - error), rel=1e-3)
    nested, _ = gmae_loss(
        model, images, mask, backgrounds, dataclasses.replace(config, nested_weight=0.5), model.config
    )
    first = [gaussians.sort_by_depth().select(slice(gaussians.k // part)) for part in (8, 4, 2)]
    drawn = [rasterize(project(part, Camera(), 32, 32), 32, 32, background=backgrounds).image for part in first]
    expected = np.mean([naive_loss(part.numpy(), images.numpy(), None if counted is None else counted.numpy(), 16)
                        for part in drawn])  # fmt: skip
    assert float((nested - loss).detach()) == pytest.approx(0.5 * expected, rel=1e-3)


@pytest.mark.parametrize("loss_on", ["all", "masked"])
def test_the_error_of_differences_between_neighbours(loss_on: Any) -> None:
    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano", image_size=32)).eval()
    config = GMAEObjective((0.5, 0.5), loss_on=loss_on, **NO_DEPTH)
    images, mask = torch.rand(2, 3, 32, 32), config.masks(4, 0, SAMPLES[:2], 0)
    backgrounds = config.backgrounds(SAMPLES[:2], 0)
    weighted = dataclasses.replace(config, gradient_weight=0.5)
    loss, error = gmae_loss(model, images, mask, backgrounds, config, model.config)
    other, same = gmae_loss(model, images, mask, backgrounds, weighted, model.config)
    assert float(same) == float(error)  # the log's figure stays the pixels'
    with torch.no_grad():
        pictures = rasterize(project(model(images, mask), Camera(), 32, 32), 32, 32, background=backgrounds).image
    wrong = (pictures - images).numpy()
    across, down = np.zeros_like(wrong), np.zeros_like(wrong)
    across[..., :-1] = wrong[..., 1:] - wrong[..., :-1]
    down[:, :, :-1] = wrong[:, :, 1:] - wrong[:, :, :-1]
    squared = across**2 + down**2
    counted = np.ones((2, 1, 32, 32))
    if loss_on == "masked":
        counted = np.kron(mask.numpy().reshape(2, 1, 2, 2), np.ones((16, 16)))
    expected = (squared * counted).sum() / (3 * counted.sum())
    assert float((other - loss).detach()) == pytest.approx(0.5 * expected, rel=1e-3)


# --- schedule and optimisers ------------------------------------------------------------------------------


def test_learning_rate() -> None:
    schedule = Schedule(1000, warmup=0.1)
    for progress, factor in ((0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.5), (0.325, 0.5 + math.sqrt(2) / 4), (1, 0)):
        assert schedule.learning_rate_factor(progress) == pytest.approx(factor, abs=1e-12)
    assert Schedule(1000, warmup=0.0).learning_rate_factor(0.0) == 1


def test_a_cooldown_follows_a_plateau() -> None:
    schedule = Schedule(1000, warmup=0.1, cooldown=0.25)
    factors = [schedule.learning_rate_factor(progress) for progress in (0.05, 0.1, 0.5, 0.75, 0.875, 1)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 0.5, 0])


def test_progress_is_by_samples_or_by_the_clock() -> None:
    assert [Schedule(200).progress(samples, 1e9) for samples in (0, 50, 200, 300)] == [0, 0.25, 1, 1]
    assert [Schedule(200, time_budget=60).progress(10**9, s) for s in (0, 15, 60, 90)] == [0, 0.25, 1, 1]


def test_resolutions_grow() -> None:
    schedule = Schedule(100, resolutions=(64, 128, 224), grow_at=(0.5, 0.75))
    assert [schedule.resolution(p) for p in (0, 0.499, 0.5, 0.749, 0.75, 1)] == [64, 64, 128, 128, 224, 224]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": 0}, "positive number of samples"),
        ({"time_budget": 0.0}, "positive time budget"),
        ({"time_budget": math.nan}, "positive time budget"),
        ({"warmup": 1.0}, "warm-up is 1.0"),
        ({"warmup": -0.1}, "warm-up is -0.1"),
        ({"cooldown": 0.0}, "cooldown is 0.0"),
        ({"cooldown": 0.99}, "beside the warm-up"),
        ({"resolutions": ()}, "at least one resolution"),
        ({"resolutions": (128, 224)}, "2 resolutions need 1 values of grow-at"),
        ({"resolutions": (64, 128, 224), "grow_at": (0.7, 0.5)}, "increasing"),
        ({"resolutions": (128, 224), "grow_at": (1.5,)}, "between 0 and 1"),
    ],
)
def test_impossible_schedules_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message):
        Schedule(**{"samples": 100, **values})


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_every_parameter_has_one_optimiser(name: Any) -> None:
    model = GMAE(GMAEConfig.preset("nano"))
    config = OptimizerConfig(name, lr=1e-3, muon_lr=0.02, weight_decay=0.05)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [(type(o).__name__, group) for o in build_optimizers(model, config) for group in o.param_groups]
    assert sorted(names[p] for _, group in groups for p in group["params"]) == sorted(names.values())
    for optimizer, group in groups:
        for parameter in group["params"]:
            block_matrix = ".blocks." in names[parameter] and names[parameter].endswith("weight") and parameter.ndim > 1
            weight = parameter.ndim > 1 and names[parameter].endswith("weight")
            assert optimizer == ("Muon" if name == "muon" and block_matrix else "AdamW"), names[parameter]
            assert group["weight_decay"] == (0.05 if weight else 0.0), names[parameter]
            assert group["peak_lr"] == (0.02 if optimizer == "Muon" else 1e-3)


# --- held-out figures ---------------------------------------------------------------------------------------


class Album:
    """As much of a PhotoStore as an evaluation needs."""

    def __init__(self, count: int) -> None:
        self.pictures = np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)

    def photo(self, index: int) -> np.ndarray:
        return self.pictures[index]


def test_held_out_psnr_is_that_of_scikit_image() -> None:
    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano", image_size=32)).eval()
    held_out = HeldOut(Album(5), np.array([0, 2, 4]))  # type: ignore[arg-type]
    images = held_out.pictures(np.arange(3), 32)
    expected = {"psnr": [], "psnr_masked": [], "psnr_hidden": []}  # type: dict[str, list[float]]
    for i in range(3):
        for name, ratio in (("psnr", 0.0), ("psnr_masked", 0.75)):
            mask = sample_masks((ratio, ratio), 4, 0, np.array([i]), seed=0)
            with torch.no_grad():
                picture = render(model(images[i : i + 1], mask), model.camera, 32, 32, torch.ones(3)).clamp(0, 1)
            expected[name].append(peak_signal_noise_ratio(images[i].numpy(), picture[0].numpy(), data_range=1))
        seen = int((~mask).nonzero()[0, 1])  # one of four quarters
        counted = torch.ones(3, 32, 32, dtype=torch.bool)
        counted[:, 16 * (seen // 2) :, 16 * (seen % 2) :][:, :16, :16] = False
        hidden = (values.numpy() for values in (images[i][counted], picture[0][counted]))
        expected["psnr_hidden"].append(peak_signal_noise_ratio(*hidden, data_range=1))
    actual = held_out.psnr(model, 32, batch=2)
    assert actual == pytest.approx({name: np.mean(values) for name, values in expected.items()}, abs=1e-3)
    assert abs(actual["psnr"] - actual["psnr_masked"]) > 1e-4
    assert held_out.psnr(model, 32, hidden_only=True) == {"psnr_hidden": pytest.approx(actual["psnr_hidden"])}


def test_held_out_photographs_are_spread_over_all() -> None:
    assert len(HeldOut(Album(1), np.arange(500), count=200).indices) == 200  # type: ignore[arg-type]
    assert HeldOut(Album(1), np.arange(10), count=5).indices.tolist() == [0, 2, 4, 6, 8]  # type: ignore[arg-type]
    nothing = HeldOut(Album(1), np.arange(0))  # type: ignore[arg-type]
    assert nothing.psnr(GMAE(GMAEConfig.preset("nano")), 32) == {}


# --- runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen details of photographs that come with scikit-image."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("astronaut", "chelsea", "coffee"):
        photo = Image.open(Path(skimage.data_dir) / f"{name}.png").convert("RGB")
        for i, (left, top) in enumerate(((0, 0), (150, 0), (0, 100), (150, 100))):
            photo.crop((left, top, left + 200, top + 200)).resize((64, 64)).save(folder / f"{name}-{i}.png")
    return folder


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """accelerate keeps its first settings for the life of the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def small_run(photographs: Path, steps: int = 12, **changes: Any) -> PretrainConfig:
    """Steps of 8 pictures, a line of the log every second step."""
    values: dict[str, Any] = {
        "data": (str(photographs),), "model": GMAEConfig.preset("nano", image_size=32),
        "schedule": Schedule(8 * steps, resolutions=(32,)), "batch_size": 8, "precision": "float32", "log_every": 2,
        "save_every": 0.0, "evaluate_every": 1e9, "optimizer": OptimizerConfig(),
    }  # fmt: skip
    return PretrainConfig(**{**values, **changes})


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / loop.LOG_FILE).read_text().splitlines()]


def losses(out: Path) -> list[tuple[float, ...]]:
    """The loss curve: step, samples, picture size and loss of each line."""
    return [(line["step"], line["samples"], line["size"], line["loss"]) for line in log(out) if "loss" in line]


def test_the_loss_falls_on_photographs(photographs: Path, tmp_path: Path) -> None:
    folder = pretrain(small_run(photographs, 60, log_every=10, evaluate_every=0.0), tmp_path, device="cpu")
    curve = [loss for *_, loss in losses(tmp_path)]
    assert curve[-1] < 0.6 * curve[0]
    quality = [line["psnr"] for line in log(tmp_path) if "psnr" in line]
    assert len(quality) == 6 and quality[-1] > quality[0] + 2
    assert folder == tmp_path / "model"
    assert checkpoints.load(folder).config == GMAEConfig.preset("nano", image_size=32)
    training = json.loads((folder / "config.json").read_text())["training"]
    assert training["samples"] == 480 and training["photographs"] == 11 and training["skipped"] == 0
    assert training["psnr"] == pytest.approx(quality[-1])
    assert training["recipe"]["schedule"]["samples"] == 480
    assert Image.open(tmp_path / "samples.png").size == (5 * 32, 32)  # five columns, one photograph held out


def test_a_recipe_tells_names_and_no_paths(photographs: Path, tmp_path: Path) -> None:
    first = pretrain(small_run(photographs, 1), tmp_path / "first", device="cpu")
    config = small_run(photographs, 1, warm_start=str(first))
    second = pretrain(config, tmp_path / "second", device="cpu")
    text = (second / "config.json").read_text()
    recipe = json.loads(text)["training"]["recipe"]
    assert (recipe["data"], recipe["warm_start"]) == ([photographs.name], "model")
    assert str(tmp_path) not in text and str(photographs) not in text
    assert json.loads((tmp_path / "second" / "pretrain.json").read_text())["warm_start"] == str(first)  # for --resume


def test_the_log_says_all(photographs: Path, tmp_path: Path) -> None:
    pretrain(small_run(photographs, 4), tmp_path, device="cpu")
    first, second, last = log(tmp_path)
    assert (first["step"], first["samples"], first["size"], first["progress"]) == (2, 16, 32, 0.5)
    assert (second["step"], second["samples"], second["progress"]) == (4, 32, 1.0)
    assert first["images_per_second"] > 0 and 0 <= first["waiting"] <= 1 and 0 < first["seconds"] <= second["seconds"]
    assert last.keys() == {"step", "samples", "seconds", "size", "psnr", "psnr_masked", "psnr_hidden"}


def test_bf16_learns_too(photographs: Path, tmp_path: Path) -> None:
    pretrain(small_run(photographs, 6, precision="bf16"), tmp_path / "bf16", device="cpu")
    AcceleratorState._reset_state(reset_partial_state=True)
    pretrain(small_run(photographs, 6), tmp_path / "float32", device="cpu")
    low, full = (np.array([loss for *_, loss in losses(tmp_path / name)]) for name in ("bf16", "float32"))
    assert not np.array_equal(low, full)
    np.testing.assert_allclose(low, full, rtol=0.05)


def test_resolutions_grow_during_a_run(photographs: Path, tmp_path: Path) -> None:
    schedule = Schedule(64, resolutions=(32, 64), grow_at=(0.5,))
    pretrain(small_run(photographs, schedule=schedule), tmp_path, device="cpu")
    assert [(line["step"], line["size"]) for line in log(tmp_path)] == [(2, 32), (4, 32), (6, 64), (8, 64), (8, 64)]


def test_a_time_budget_is_kept(photographs: Path, tmp_path: Path) -> None:
    pretrain(small_run(photographs, 2), tmp_path / "warm-up", device="cpu")  # compiles the kernels, if need be
    schedule = Schedule(1, time_budget=3.0, resolutions=(32, 64), grow_at=(0.3,))
    pretrain(small_run(photographs, schedule=schedule, log_every=1), tmp_path / "run", device="cpu")
    lines = [line for line in log(tmp_path / "run") if "loss" in line]
    assert lines[-1]["seconds"] >= 3.0 and lines[-2]["progress"] < 1  # no step begins after the end
    for line in lines[:-1]:
        assert line["progress"] == pytest.approx(line["seconds"] / 3.0, abs=0.03)
    assert lines[-1]["progress"] == 1 and {line["size"] for line in lines} == {32, 64}


# --- resuming ---------------------------------------------------------------------------------------------------


class Stop(BaseException):
    """Ends a run as abruptly as an exception can."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    train_step = loop._Run._train_step

    def stopping(self: loop._Run, *args: Any) -> torch.Tensor:
        if self.step == step:
            raise Stop
        return train_step(self, *args)

    monkeypatch.setattr(loop._Run, "_train_step", stopping)


@pytest.mark.parametrize("save_every", [0.0, 1e9], ids=["saved", "nothing saved yet"])
def test_a_resumed_run_has_the_same_loss_curve(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: float
) -> None:
    """Twelve photographs: the stop falls into the third epoch, and the picture size grows before and after it."""
    schedule = Schedule(96, resolutions=(32, 48, 64), grow_at=(0.3, 0.8))
    config = small_run(photographs, schedule=schedule, save_every=save_every)
    pretrain(config, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(Stop):
            pretrain(config, tmp_path / "parts", device="cpu")
    assert len(losses(tmp_path / "parts")) == 3
    pretrain(config, tmp_path / "parts", resume=True, device="cpu")
    assert len(losses(tmp_path / "whole")) == 6
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_a_log_longer_than_the_state_is_cut(tmp_path: Path) -> None:
    """A process may die after it logged and before it saved, even in the middle of a line or of a state."""
    lines = [json.dumps({"step": step, "loss": 0.1}) for step in (2, 4, 6, 8)]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"step": 10, "lo']))
    (tmp_path / ".state.0123abcd.tmp.pt").write_bytes(b"half a state")
    loop._clear_up(tmp_path, 6)
    assert [line["step"] for line in log(tmp_path)] == [2, 4, 6]
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_finished_run_is_left_as_it_is(photographs: Path, tmp_path: Path) -> None:
    config = small_run(photographs, 4)
    folder = pretrain(config, tmp_path, device="cpu")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert pretrain(config, tmp_path, resume=True, device="cpu") == folder
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_with_a_run_is_refused_or_checked(photographs: Path, tmp_path: Path) -> None:
    config = small_run(photographs, 2)
    pretrain(config, tmp_path, device="cpu")
    with pytest.raises(GmaeToolsError, match="already holds a run: add --resume"):
        pretrain(config, tmp_path, device="cpu")
    other = dataclasses.replace(config, batch_size=4, model=dataclasses.replace(config.model, depth=3))
    with pytest.raises(GmaeToolsError, match=r"other settings \(batch_size: 8 is now 4, model.depth: 2 is now 3\)"):
        pretrain(other, tmp_path, resume=True, device="cpu")
    assert json.loads((tmp_path / "pretrain.json").read_text()) == json.loads(config.to_json())


@pytest.mark.parametrize("file", ["state.pt", "pretrain.json"])
def test_damaged_files_of_a_run_are_named(photographs: Path, tmp_path: Path, file: str) -> None:
    config = small_run(photographs, 2)
    pretrain(config, tmp_path, device="cpu")
    for content in (b"", b"[1]", (tmp_path / file).read_bytes()[:500]):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(GmaeToolsError, match="damaged") as caught:
            pretrain(config, tmp_path, resume=True, device="cpu")
        assert str(caught.value).startswith(f"{tmp_path / file}: ") and "\n" not in str(caught.value)


def test_machines_without_a_shared_folder_are_refused(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first machine has a state, this one has none."""
    monkeypatch.setattr(loop._Run, "_of_main_process", lambda self, value: 40.0)
    with pytest.raises(GmaeToolsError, match="not the same folder on all machines"):
        pretrain(small_run(photographs, 2), tmp_path, device="cpu")


@pytest.mark.cuda
@pytest.mark.parametrize("settings", [{"compile": "off"}, {"compile": "on"}, {"compile": "off", "accumulate": 4}])
def test_a_gpu_has_the_loss_curve_of_the_cpu(photographs: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """To what TF32 leaves of it; from the same pictures, cut and resized on the GPU."""
    schedule = Schedule(96, resolutions=(32, 48), grow_at=(0.5,))
    config = small_run(photographs, schedule=schedule, optimizer=OptimizerConfig("adamw"))
    pretrain(config, tmp_path / "cpu", device="cpu")
    AcceleratorState._reset_state(reset_partial_state=True)
    pretrain(config, tmp_path / "cuda", device="cuda", execution=Execution(**settings))
    cpu, cuda = (np.array(losses(tmp_path / name)) for name in ("cpu", "cuda"))
    np.testing.assert_array_equal(cuda[:, :3], cpu[:, :3])
    np.testing.assert_allclose(cuda[:, 3], cpu[:, 3], rtol=0.02)
    assert (tmp_path / "cuda" / "samples.png").exists()


# --- compiled blocks ----------------------------------------------------------------------------------------------


def test_compiled_blocks_are_compiled_once_for_all_sizes_and_masks() -> None:
    """And nothing of it shows: the same numbers, the same names of parameters."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = GMAE(GMAEConfig.preset("nano", depth=3))
    compiled = copy.deepcopy(model)
    counter = CompileCounter()
    loop.compile_blocks(compiled, counter)
    assert compiled.state_dict().keys() == model.state_dict().keys()
    for size, hidden, batch in ((64, 0, 4), (64, 5, 4), (64, 12, 4), (96, 9, 4), (96, 20, 2), (128, 31, 4)):
        images = torch.rand(batch, 3, size, size)
        visible = torch.arange(hidden, (size // 16) ** 2).expand(batch, -1)
        torch.testing.assert_close(compiled(images, visible).means, model(images, visible).means)
    assert counter.frame_count <= 2  # encoder and decoder may have different widths


def test_compilation_is_for_gpus_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(loop, "_has_triton", lambda: True)
    assert [loop._compiles(wanted, cpu) for wanted in ("auto", "on", "off")] == [False, True, False]
    assert [loop._compiles(wanted, cuda) for wanted in ("auto", "on", "off")] == [True, True, False]
    monkeypatch.setattr(loop, "_has_triton", lambda: False)
    assert not loop._compiles("auto", cuda)


# --- trouble ------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_work_leave_no_run_behind(photographs: Path, tmp_path: Path) -> None:
    """So that the corrected command runs without `--resume`."""
    with pytest.raises(GmaeToolsError, match="no-such-folder"):
        pretrain(small_run(tmp_path / "no-such-folder", 2), tmp_path / "run", device="cpu")
    with pytest.raises(GmaeToolsError, match="no-such-file"):
        pretrain(small_run(photographs, 2, warm_start="no-such-file.pth"), tmp_path / "run", device="cpu")
    pretrain(small_run(photographs, 2), tmp_path / "run", device="cpu")


def test_a_diverging_run_says_what_to_do(photographs: Path, tmp_path: Path) -> None:
    config = small_run(photographs, optimizer=OptimizerConfig("adamw", lr=1e30), schedule=Schedule(96, warmup=0.0))
    with pytest.raises(GmaeToolsError, match=r"diverged at step \d+ \(.*\): lower the learning rates"):
        pretrain(dataclasses.replace(config, schedule=Schedule(96, resolutions=(32,))), tmp_path, device="cpu")


def test_a_warm_start_is_what_training_starts_from(photographs: Path, tmp_path: Path) -> None:
    donor = GMAE(GMAEConfig.preset("nano", image_size=32)).encoder.state_dict()
    donor = {name: torch.full_like(tensor, 0.01) for name, tensor in donor.items()}
    save_official({"model": donor}, tmp_path / "mae.pth")
    config = small_run(photographs, 1, warm_start=str(tmp_path / "mae.pth"), schedule=Schedule(8, resolutions=(32,)))
    model = checkpoints.load(pretrain(config, tmp_path / "run", device="cpu"))  # one step at learning rate 0
    for name, tensor in model.encoder.state_dict().items():
        torch.testing.assert_close(tensor, donor[name], rtol=1e-3, atol=0, msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": Schedule(8, resolutions=(40,))}, "resolution 40 is not a multiple of the patch size 16"),
        ({"schedule": Schedule(8, resolutions=(0,))}, "resolution 0"),
        ({"crop_scale": (0.0, 1.0)}, "crop scale"),
        ({"crop_scale": (0.8, 0.2)}, "crop scale"),
        ({"batch_size": 0}, "batch size"),
        ({"log_every": 0}, "log-every"),
        ({"clip": 0.0}, "clip"),
        ({"held_out": -1}, "held-out"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_settings_are_refused(photographs: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message):
        small_run(photographs, **changes)


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert loop._precision("bf16", cpu) == "bf16"
    assert loop._precision("float32", cpu) == "no"
    assert loop._precision("auto", cpu) == ("bf16" if loop.has_bf16(cpu) else "no")
