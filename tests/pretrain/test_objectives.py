"""What a model can be trained for: losses against plain statements of them, and runs at nano scale on photographs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import skimage
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from gmae_tools import checkpoints
from gmae_tools.cli import main
from gmae_tools.cli.pretrain import command
from gmae_tools.errors import GmaeToolsError
from gmae_tools.mae import CMAE, MAE, CMAEConfig, MAEConfig, RMAEConfig, mae_loss, patchify
from gmae_tools.model import GMAEConfig
from gmae_tools.pretrain import loop
from gmae_tools.pretrain.held_out import HeldOut
from gmae_tools.pretrain.loop import Execution, PretrainConfig, pretrain
from gmae_tools.pretrain.objectives import (
    OBJECTIVES,
    CMAEObjective,
    GMAEObjective,
    MAEObjective,
    Objective,
    RMAEObjective,
)
from gmae_tools.pretrain.objectives.gmae import normalised_error
from gmae_tools.pretrain.objectives.siamese import info_nce
from gmae_tools.pretrain.optimizers import OptimizerConfig
from gmae_tools.pretrain.sampling import Batch
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.vit import complement, visible_patches
from tests.launches import launch

NANO = {"image_size": 32, "patch_size": 8}
RELATIVES = [MAEObjective(), RMAEObjective(), CMAEObjective()]
SHARED, LIGHT = {"own_decoder": False}, {"head": "light"}


def made(objective: Objective, **changes: Any) -> Any:
    torch.manual_seed(0)
    return objective.build(objective.model_config.preset("nano", **NANO, **changes))


def batch_of(objective: Objective, images: Tensor | None = None, count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    if images is None:
        images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    samples = np.arange(len(images))
    masks = objective.masks(16, 0, samples, 0)
    return Batch(images, visible_patches(masks), objective.backgrounds(samples, 0))


# --- losses ---------------------------------------------------------------------------------------------------


def test_complementary_occlusions_share_no_patch_and_leave_none() -> None:
    visible = visible_patches(MAEObjective((0.4, 0.4)).masks(16, 0, np.arange(5), 0))
    rest = complement(visible, 16)
    assert rest.shape == (5, 6)
    assert torch.equal(torch.cat([visible, rest], 1).sort(1).values, torch.arange(16).expand(5, -1))
    assert torch.equal(rest, rest.sort(1).values)


def test_maes_loss_is_the_published_one() -> None:
    objective = MAEObjective()
    model, batch = made(objective), batch_of(objective)
    loss, told = objective.loss(model, batch, model.config)
    expected = mae_loss(model, batch.images, batch.visible, model.config).detach()
    assert float(loss.detach()) == float(told) == float(expected)
    assert loss.requires_grad and not told.requires_grad


@pytest.mark.parametrize("changes", [{}, SHARED])
def test_r_mae_pulls_two_decoded_views_together_and_one_to_the_picture(changes: dict[str, Any]) -> None:
    """Equation (3), patch by patch."""
    objective = RMAEObjective((0.5, 0.5), reconstruction_weight=0.3)
    model, batch = made(objective, **changes), batch_of(objective)
    loss, told = objective.loss(model, batch, model.config)
    hidden = torch.ones(6, 16, dtype=torch.bool).scatter(1, batch.visible, False)
    pixels = patchify((batch.images - model.rgb_mean) / model.rgb_std, 8)
    with torch.no_grad():
        first, second = model(batch.images, hidden), model(batch.images, ~hidden, second_view=True)
        assert torch.equal(second, model(batch.images, ~hidden)) == bool(changes)
    likeness, penalty, maes = [], [], []
    for b, n in hidden.nonzero().tolist():
        likeness.append(float((first[b, n] - second[b, n]).square().mean()))
        penalty.append(float((second[b, n] - pixels[b, n]).square().mean()))
        maes.append(float((first[b, n] - pixels[b, n]).square().mean()))
    assert len(likeness) == 6 * 8
    assert float(loss.detach()) == pytest.approx(np.mean(likeness) + 0.3 * np.mean(penalty), rel=1e-5)
    assert float(told) == pytest.approx(np.mean(maes), rel=1e-5)


def test_the_second_view_of_r_mae_can_be_a_target() -> None:
    """Its decoder then learns from the penalty alone, and the first one from the likeness."""
    gradients = {}
    for stopped in (False, True):
        objective = RMAEObjective((0.5, 0.5), stop_gradient=stopped)
        model, batch = made(objective), batch_of(objective)
        loss, _ = objective.loss(model, batch, model.config)
        loss.backward()
        gradients[stopped] = [model.decoder.head.weight.grad.clone(), model.second_decoder.head.weight.grad.clone()]
    torch.testing.assert_close(gradients[True][0], gradients[False][0])
    rest = complement(batch.visible, 16)
    model.zero_grad()
    second = model(batch.images, rest, second_view=True)
    pixels = patchify((batch.images - model.rgb_mean) / model.rgb_std, 8)
    rows = rest[..., None].expand(-1, -1, pixels.shape[-1])
    (second.gather(1, rows) - pixels.gather(1, rows)).square().mean().backward()
    torch.testing.assert_close(gradients[True][1], model.second_decoder.head.weight.grad)
    assert not torch.allclose(gradients[False][1], gradients[True][1])


def test_an_r_mae_starts_as_an_mae_does() -> None:
    own, shared, mae = made(RMAEObjective()), made(RMAEObjective(), **SHARED), made(MAEObjective())
    for name, tensor in mae.state_dict().items():
        assert torch.equal(own.state_dict()[name], tensor) and torch.equal(shared.state_dict()[name], tensor)
    assert own.state_dict().keys() - mae.state_dict().keys() == {
        name.replace("decoder.", "second_decoder.", 1) for name in mae.state_dict() if name.startswith("decoder.")
    }


def test_gmaes_normalised_error_is_maes_of_what_is_drawn() -> None:
    """Patch by patch: both less the mean and over the deviation of the photograph's patch, in units of ImageNet's."""
    generator = torch.Generator().manual_seed(0)
    drawn, images = torch.rand(2, 3, 32, 32, generator=generator), torch.rand(2, 3, 32, 32, generator=generator)
    model = made(MAEObjective())
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[0, :3], hidden[1, 5:8] = True, True
    ours, theirs = ((each - model.rgb_mean) / model.rgb_std for each in (drawn, images))
    expected = []
    for b in range(2):
        errors = []
        for n in hidden[b].nonzero()[:, 0].tolist():
            place = (slice(None), slice(n // 4 * 8, n // 4 * 8 + 8), slice(n % 4 * 8, n % 4 * 8 + 8))
            one, other = ours[b][place], theirs[b][place]
            scaled = [(each - other.mean()) / (other.var() + 1e-6).sqrt() for each in (one, other)]
            errors.append(float((scaled[0] - scaled[1]).square().mean()))
        expected.append(np.mean(errors))
    assert normalised_error(drawn, images, hidden, 8).tolist() == pytest.approx(expected, rel=1e-4)
    assert normalised_error(images, images, None, 8).tolist() == [0, 0]


def test_gmae_can_have_normalised_targets() -> None:
    plain, normalised = (
        GMAEObjective(
            (0.5, 0.5),
            loss_on="masked",
            slot_depth_weight=0.0,
            normalise_targets=each,
            occlusion_gradient=0.0,
            size_depth_weight=0.0,
            region_depth_weight=0.0,
        )
        for each in (False, True)
    )
    model, batch = made(plain), batch_of(plain)
    (loss, told), (other, also) = (each.loss(model, batch, model.config) for each in (plain, normalised))
    assert float(told) == float(also) == float(loss.detach()) and other.requires_grad
    assert float(other.detach()) > 5 * float(loss.detach())
    for changes in ({"error": "psnr"}, {"gradient_weight": 0.5}):
        with pytest.raises(GmaeToolsError, match="normalised targets go with the squared error"):
            dataclasses.replace(normalised, **changes)


def test_the_best_second_view_makes_r_mae_a_fraction_of_mae() -> None:
    """What the module claims of equation (3): minimised over free predictions of the second view by a solver."""
    first, pixels, weight = 2.0, -1.0, 0.7
    second = torch.tensor(5.0, requires_grad=True)
    optimizer = torch.optim.LBFGS([second], line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        return (first - second) ** 2 + weight * (second - pixels) ** 2

    def closure() -> float:
        optimizer.zero_grad()
        loss().backward()
        return float(loss().detach())

    optimizer.step(closure)
    assert float(second.detach()) == pytest.approx((first + weight * pixels) / (1 + weight), abs=1e-4)
    assert float(loss().detach()) == pytest.approx(weight / (1 + weight) * (first - pixels) ** 2, abs=1e-4)


def test_info_nce_is_its_formula() -> None:
    first, second = (torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    terms = []
    for queries, keys in ((first, second), (second, first)):
        for i in range(5):
            scores = [math.exp(cosine(queries[i], key) / 0.3) for key in keys]
            terms.append(-math.log(scores[i] / sum(scores)))
    assert float(info_nce(first, second, 0.3)) == pytest.approx(np.mean(terms), rel=1e-5)
    assert float(info_nce(first, first, 1e-3)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("changes", [{}, LIGHT])
def test_c_mae_compares_the_two_views(changes: dict[str, Any]) -> None:
    objective = CMAEObjective((0.5, 0.5), temperature=0.3)
    model, batch = made(objective, **changes), batch_of(objective)
    loss, told = objective.loss(model, batch, model.config)
    hidden = torch.ones(6, 16, dtype=torch.bool).scatter(1, batch.visible, False)
    expected = info_nce(model(batch.images, hidden), model(batch.images, ~hidden), 0.3)
    assert float(loss.detach()) == float(told) == pytest.approx(float(expected.detach()), rel=1e-5)


@torch.no_grad()
def test_the_light_head_has_mask_tokens_in_the_encoder() -> None:
    model = made(CMAEObjective(), **LIGHT)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, 4:] = True
    changed = images.clone()
    changed[:, :, 8:] = 0.5  # what is hidden: all but the first row of patches
    for mask in (hidden, visible_patches(hidden)):
        tokens = model.encode(images, mask)
        assert tokens.shape == (2, 17, 48)
        torch.testing.assert_close(model.encode(changed, mask), tokens)
    assert model(images, hidden).shape == (2, 128) and not torch.allclose(model.encode(images), tokens)
    embedded = model.encoder.embed(images, model.positions((4, 4), 48), hidden)
    torch.testing.assert_close(embedded[0, 5:], model.encoder.mask_token[0] + model.positions((4, 4), 48)[4:])
    with pytest.raises(GmaeToolsError, match="head is 'none', must be decoder or light"):
        CMAEConfig(head="none")  # type: ignore[arg-type]


def test_all_pictures_of_a_step_of_c_mae_have_the_same_patches_hidden() -> None:
    objective = CMAEObjective((0.5, 0.5))
    masks = [objective.masks(16, step, np.arange(6), 0) for step in (0, 1)]
    assert all((mask == mask[0]).all() and mask[0].sum() == 8 for mask in masks)
    assert not torch.equal(*masks)


class MaskedApart(CMAEObjective):
    """C-MAE with a mask for each picture, as the others have it."""

    masks = Objective.masks


@pytest.mark.parametrize("changes", [{}, LIGHT])
@pytest.mark.parametrize(("kind", "told"), [(CMAEObjective, False), (MaskedApart, True)])
def test_masks_do_not_tell_which_views_belong_together(
    kind: type[Objective], told: bool, changes: dict[str, Any]
) -> None:
    """Identical pictures are a matter of chance, whatever the weights; with masks of their own they need not be."""
    objective = kind((0.5, 0.5))
    model = made(objective, **changes)
    torch.nn.init.normal_(model.decoder.head.weight, std=1.0)
    if changes:
        torch.nn.init.normal_(model.encoder.mask_token, std=1.0)
    grey = torch.full((8, 3, 32, 32), 128, dtype=torch.uint8)
    loss, _ = objective.loss(model, batch_of(objective, grey), model.config)
    assert (abs(float(loss.detach()) - math.log(8)) > 1e-3) == told


# --- the loss of several processes ----------------------------------------------------------------------------


def gradient_of_share(name: str, processes: int) -> tuple[float, list[float]]:
    """The loss for the log, and the gradient's mean over the processes, when each works on its share of 8 pictures."""
    from accelerate import PartialState
    from torch import distributed

    torch.set_num_threads(1)
    rank = 0
    if processes > 1:
        rank = PartialState(cpu=True, backend="gloo").process_index
    objective = OBJECTIVES[name]((0.5, 0.5))
    model = made(objective)
    batch = batch_of(objective, count=8)
    share = Batch(batch.pixels[rank::processes], batch.visible[rank::processes], batch.backgrounds[rank::processes])
    wrapped = torch.nn.parallel.DistributedDataParallel(model) if processes > 1 else model
    loss, told = objective.loss(wrapped, share, model.config)
    loss.backward()
    if processes > 1:
        distributed.all_reduce(told)
        told /= processes
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return float(told), gradient.tolist()


@pytest.mark.parametrize("name", ["r-mae", "c-mae"])
def test_processes_share_a_step_and_its_gradient(name: str) -> None:
    """For C-MAE that means: negatives from all of them."""
    expected, gradient = gradient_of_share(name, 1)
    for found in launch(2, gradient_of_share, name, 2):
        assert found is not None
        assert found[0] == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(found[1], gradient, rtol=1e-3, atol=1e-6 * np.abs(gradient).max() + 1e-7)
    assert np.abs(gradient).max() > 1e-3


# --- runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty details of photographs that come with scikit-image."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        with Image.open(Path(skimage.data_dir) / f"{name}.{'jpg' if name == 'rocket' else 'png'}") as opened:
            photo = opened.convert("RGB")
        for i in range(10):
            left, top = rng.integers(0, (photo.width - 120, photo.height - 120)).tolist()
            photo.crop((left, top, left + 120, top + 120)).resize((48, 48)).save(folder / f"{name}-{i}.png")
    return folder


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """accelerate keeps its first settings for the life of the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def small_run(photographs: Path, objective: Objective, steps: int, **changes: Any) -> PretrainConfig:
    """Steps of 16 pictures of 16 patches, with AdamW."""
    values: dict[str, Any] = {
        "data": (str(photographs),), "model": objective.model_config.preset("nano", **NANO), "objective": objective,
        "schedule": Schedule(16 * steps, resolutions=(32,), warmup=0.1), "batch_size": 16, "precision": "float32",
        "log_every": 5, "save_every": 0.0, "evaluate_every": 1e9,
        "optimizer": OptimizerConfig("adamw", lr=2e-3),
    }  # fmt: skip
    return PretrainConfig(**{**values, **changes})


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / loop.LOG_FILE).read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("objective", RELATIVES, ids=lambda objective: objective.name)
def test_the_loss_falls_on_photographs(objective: Objective, photographs: Path, tmp_path: Path) -> None:
    config = small_run(photographs, objective, 60, save_every=1e9)
    folder = pretrain(config, tmp_path, device="cpu")
    curve = losses(tmp_path)
    assert curve[-1] < 0.75 * curve[0]
    training = json.loads((folder / "config.json").read_text())["training"]
    assert training["recipe"]["objective"]["name"] == objective.name
    figure = "matched" if objective.name == "c-mae" else "psnr_hidden"
    assert training[figure] > (0.3 if figure == "matched" else 12)  # of four pictures; dB
    assert Image.open(tmp_path / "samples.png").size == (4 * 32, 4 * 32)
    model = checkpoints.load_any(folder)
    assert type(model) is objective.model and model.config == config.model


@pytest.mark.parametrize("objective", RELATIVES, ids=lambda objective: objective.name)
def test_a_resumed_run_has_the_same_loss_curve(
    objective: Objective, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(photographs, objective, 6, log_every=1)
    pretrain(config, tmp_path / "whole", device="cpu")
    train_step = loop._Run._train_step

    def stopping(self: loop._Run, *arguments: Any) -> Tensor:
        if self.step == 4:
            raise KeyboardInterrupt
        return train_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, tmp_path / "parts", device="cpu")
    pretrain(config, tmp_path / "parts", resume=True, device="cpu")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_run_from_before_there_were_some_settings_resumes(photographs: Path, tmp_path: Path) -> None:
    config = small_run(photographs, GMAEObjective(), 2)
    pretrain(config, tmp_path, device="cpu")
    kept = json.loads((tmp_path / "pretrain.json").read_text())
    assert kept["objective"].pop("name") == "gmae" and kept["objective"].pop("normalise_targets") is False
    assert "query_start" not in kept["model"]  # the default of what came later is not written
    (tmp_path / "pretrain.json").write_text(json.dumps(kept))
    pretrain(config, tmp_path, resume=True, device="cpu")
    chance = dataclasses.replace(config, model=dataclasses.replace(config.model, query_start="random"))
    with pytest.raises(GmaeToolsError, match=r"model\.query_start: grid is now random"):
        pretrain(chance, tmp_path, resume=True, device="cpu")
    other = small_run(photographs, MAEObjective(), 2)
    with pytest.raises(GmaeToolsError, match=r"objective\.name: gmae is now mae"):
        pretrain(other, tmp_path, resume=True, device="cpu")


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_single_photograph_is_enough(name: str, photographs: Path, tmp_path: Path) -> None:
    objective = OBJECTIVES[name]()
    config = small_run(photographs / "coffee-3.png", objective, 10)
    folder = pretrain(config, tmp_path, device="cpu")
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    training = json.loads((folder / "config.json").read_text())["training"]
    assert training["photographs"] == 1 and not training.keys() & {"psnr", "psnr_hidden", "matched"}
    assert not (tmp_path / "samples.png").exists()


def test_matched_counts_the_views_that_find_each_other(photographs: Path) -> None:
    """A model whose embedding is the mean colour of what it sees, by hand."""

    class Album:
        def photo(self, index: int) -> np.ndarray:
            return np.full((40, 40, 3), (index * 60, 255 - index * 60, 90), np.uint8)

    class MeanColour(CMAE):
        def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
            assert mask is not None
            return torch.stack([image[~row].mean(0) for image, row in zip(patchify(images, 8), mask, strict=True)])

    model = MeanColour(CMAEConfig.preset("nano", **NANO))
    same = HeldOut(Album(), np.array([0, 1, 2, 3]))  # type: ignore[arg-type]
    assert same.metrics(model, CMAEObjective().metrics, 32) == {"matched": 1.0}
    twins = HeldOut(Album(), np.array([0, 0, 2, 3]))  # type: ignore[arg-type]
    assert twins.metrics(model, CMAEObjective().metrics, 32) == {"matched": 0.75}  # of twins the first is found by both
    assert HeldOut(Album(), np.arange(0)).matched(model, 32) == {}  # type: ignore[arg-type]


# --- settings -------------------------------------------------------------------------------------------------


def test_settings_that_cannot_work_are_refused(photographs: Path, tmp_path: Path) -> None:
    for make, message in (
        (lambda: RMAEObjective(reconstruction_weight=0.0), "reconstruction weight 0: must be above 0"),
        (lambda: CMAEObjective(temperature=0.0), "temperature 0: must be above 0"),
        (lambda: small_run(photographs, RMAEObjective((0.0, 0.75)), 1), "masking ratio 0 may hide none of 16 patches"),
        (lambda: small_run(photographs, CMAEObjective(), 1, batch_size=1), "batch size 1: c-mae compares"),
        (
            lambda: small_run(photographs, MAEObjective(), 1, model=GMAEConfig.preset("nano", **NANO)),
            "mae trains a model of a MAEConfig, not of a GMAEConfig",
        ),
        (
            lambda: pretrain(
                small_run(photographs, CMAEObjective(), 1),
                tmp_path / "run",
                device="cpu",
                execution=Execution(accumulate=2),
            ),
            "c-mae compares all pictures of a step with each other: it cannot be accumulated",
        ),
    ):
        with pytest.raises(GmaeToolsError, match=message):
            make()
    assert not (tmp_path / "run" / "pretrain.json").exists()


def invoke(photographs: Path, out: Path, *arguments: str) -> Any:
    common = ["--preset", "nano", "--samples", "16", "--batch-size", "8", "--resolution", "32", "--precision",
              "float32", "--optimizer", "adamw", "--device", "cpu", "--held-out", "0"]  # fmt: skip
    return CliRunner().invoke(main, ["pretrain", "--data", str(photographs), "--out", str(out), *common, *arguments])


@pytest.mark.parametrize(
    ("objective", "option"),
    [
        ("mae", ("--background", "white")), ("mae", ("--slot-depth-weight", "0.1")),
        ("mae", ("--whole", "0.5")), ("c-mae", ("--error", "psnr")), ("r-mae", ("--nested-weight", "0.5")),
        ("mae", ("--gradient-weight", "1")),
        ("mae", ("--backend", "dense")),
        ("gmae", ("--temperature", "0.1")), ("c-mae", ("--loss-on", "all")),
        ("mae", ("--stop-gradient",)), ("r-mae", ("--head", "light")),
        ("c-mae", ("--normalise-targets",)), ("r-mae", ("--loss-on", "masked")), ("r-mae", ("--temperature", "0.1")),
        ("mae", ("--reconstruction-weight", "2")),
    ],
)  # fmt: skip
def test_options_of_other_objectives_are_refused(
    photographs: Path, tmp_path: Path, objective: str, option: tuple[str, ...]
) -> None:
    result = invoke(photographs, tmp_path / "run", "--objective", objective, *option)
    assert result.exit_code == 1
    assert result.stderr == f"error: {option[0]}: not for --objective {objective}; leave it out\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "model", "objective"),
    [
        ("mae --normalise-targets --loss-on all --mask-ratio 0.6", MAEConfig, MAEObjective((0.6, 0.6), "all")),
        ("r-mae --normalise-targets --reconstruction-weight 0.5", RMAEConfig, RMAEObjective(reconstruction_weight=0.5)),
        ("r-mae --normalise-targets --shared-decoder --stop-gradient", partial(RMAEConfig.preset, own_decoder=False),
         RMAEObjective(stop_gradient=True)),
        ("c-mae --temperature 0.1 --set embedding=16", CMAEConfig, CMAEObjective(temperature=0.1)),
        ("c-mae --head light --set embedding=16", partial(CMAEConfig.preset, head="light"), CMAEObjective()),
        ("gmae --normalise-targets", GMAEConfig, GMAEObjective(normalise_targets=True)),
    ],
)  # fmt: skip
def test_options_reach_objective_and_model(
    photographs: Path, tmp_path: Path, arguments: str, model: Any, objective: Objective
) -> None:
    result = invoke(photographs, tmp_path / "run", "--objective", *arguments.split())
    assert result.exit_code == 0, result.stderr
    kept = json.loads((tmp_path / "run" / "pretrain.json").read_text())
    expected = json.loads(json.dumps(dataclasses.asdict(objective)))
    assert kept["objective"] == {"name": objective.name, **expected}
    changes: dict[str, Any] = {} if isinstance(objective, GMAEObjective) else {"normalise_targets": True}
    if isinstance(objective, CMAEObjective):
        changes = {"embedding": 16}
    preset = model if isinstance(model, partial) else model.preset
    assert kept["model"] == preset("nano", **changes).to_dict()


def test_all_objectives_are_on_the_command_line() -> None:
    option = next(each for each in command.params if each.name == "objective")
    assert isinstance(option.type, click.Choice) and list(option.type.choices) == list(OBJECTIVES)


def test_an_mae_starts_from_an_mae_and_lends_its_encoder(photographs: Path, tmp_path: Path) -> None:
    trained = pretrain(small_run(photographs, MAEObjective(), 3), tmp_path / "mae", device="cpu")
    weights = checkpoints.load_any(trained).state_dict()
    for objective in (MAEObjective(), GMAEObjective(), CMAEObjective()):
        AcceleratorState._reset_state(reset_partial_state=True)
        config = small_run(photographs, objective, 1, warm_start=str(trained))  # one step at learning rate 0
        model = checkpoints.load_any(pretrain(config, tmp_path / objective.name / "run", device="cpu"))
        shared = "" if type(model) is MAE else "encoder."
        for name, tensor in model.state_dict().items():
            if name.startswith(shared):
                torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=1e-4, msg=name)
