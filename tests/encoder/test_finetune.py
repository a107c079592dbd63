"""Fine-tuning: classifiers that start as their encoders, chance that follows from numbers, and runs that go on."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image, ImageOps
from torch import Tensor

from gmae_tools import checkpoints
from gmae_tools.cli import main
from gmae_tools.cli.finetune import command
from gmae_tools.datasets.labelled import LabelledPhotos, find_labelled
from gmae_tools.encoder import finetune as module
from gmae_tools.encoder.finetune import (
    FinetuneConfig,
    Machine,
    classifier_of,
    finetune,
    open_classifier,
    optimizer_of,
    transforms_of,
)
from gmae_tools.errors import GmaeToolsError
from gmae_tools.mae import CMAE, MAE, RMAE, CMAEConfig, MAEConfig, RMAEConfig
from gmae_tools.model import GMAE, Autoencoder, GMAEConfig

CPU = Machine(torch.device("cpu"), workers=0, log_every=1, save_every=0.0)
QUICK = FinetuneConfig(
    epochs=3, warmup=1, batch_size=10, base_lr=2e-2, drop_path=0.2, mixup=0.2, cutmix=0.2, precision="float32",
    crop_scale=(0.5, 1.0),
)  # fmt: skip


def made(kind: Any = GMAE, config: Any = GMAEConfig, **changes: Any) -> Autoencoder:
    torch.manual_seed(0)
    model: Autoencoder = kind(config.preset("nano", image_size=32, **changes)).eval()
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reddish and bluish noise in train/ and val/."""
    root = tmp_path_factory.mktemp("data")
    chance = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 8)):
        for label, channel in (("red", 0), ("blue", 2)):
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                picture = chance.integers(0, 120, (40, 48, 3))
                picture[..., channel] += 130
                Image.fromarray(picture.astype(np.uint8)).save(root / part / label / f"{label}-{number}.png")
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> LabelledPhotos:
    return find_labelled([folder], "folder")


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in map(json.loads, (run / "log.jsonl").read_text().splitlines())]


# --- classifiers -----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    "model",
    [
        made(), made(MAE, MAEConfig), made(RMAE, RMAEConfig), made(CMAE, CMAEConfig),
        made(CMAE, CMAEConfig, head="light"),
    ],
    ids=["gmae", "mae", "r-mae", "c-mae", "c-mae, light"],
)  # fmt: skip
def test_a_classifier_begins_with_the_features_of_its_encoder(model: Autoencoder) -> None:
    classifier: Any = classifier_of(model, 5, drop_path=0.3).eval()
    images = torch.rand(20, 3, 32, 32)
    normal = (images - model.rgb_mean) / model.rgb_std
    expected = model.encoder(normal, model.positions((2, 2), 48), None)
    torch.testing.assert_close(model.encoder.norm(classifier.forward_features(normal)), expected, rtol=1e-4, atol=1e-5)
    assert classifier(normal).shape == (20, 5)
    pooled = classifier.fc_norm(classifier.forward_features(normal)[:, 1:].mean(1))
    torch.testing.assert_close(classifier(normal), classifier.head(pooled))
    classifier.train()
    assert not torch.allclose(classifier(normal), classifier(normal))  # drop path


def test_the_head_follows_from_the_seed_and_random_weights_are_random(tmp_path: Path) -> None:
    checkpoints.save(made(), tmp_path / "nano")
    first, again, other, untrained = (
        open_classifier(name, 3, FinetuneConfig(seed=seed)).state_dict()
        for name, seed in ((f"{tmp_path}/nano", 1), (f"{tmp_path}/nano", 1), (f"{tmp_path}/nano", 2),
                           (f"random:{tmp_path}/nano", 1))  # whose seed is not that of `made`
    )  # fmt: skip
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert {name for name in first if not torch.equal(first[name], other[name])} == {"head.weight"}
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], untrained["blocks.0.attn.qkv.weight"])


def test_models_of_timm(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def offline(name: str, pretrained: bool, **arguments: Any) -> Any:
        asked.append((name, pretrained))
        return create(name, depth=1, img_size=32, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(timm, "create_model", offline)
        model: Any = open_classifier("timm:vit_tiny_patch16_224", 4, FinetuneConfig())
    assert asked == [("vit_tiny_patch16_224", True)] and model.num_classes == 4
    with pytest.raises(GmaeToolsError, match="timm:vit_of_nobody: cannot be loaded by timm"):
        open_classifier("timm:vit_of_nobody", 4, FinetuneConfig())


def test_rates_decay_from_the_head_to_the_patches() -> None:
    classifier = classifier_of(made(), 3)
    config = FinetuneConfig(layer_decay=0.5, base_lr=1e-3, batch_size=64)
    rates = {}
    for group in optimizer_of(classifier, config).param_groups:
        for parameter in group["params"]:
            (name,) = [name for name, each in classifier.named_parameters() if each is parameter]
            rates[name] = group["lr_scale"]
            assert (group["weight_decay"] == 0) == (parameter.ndim <= 1 or name in ("cls_token", "pos_embed")), name
    assert rates["head.weight"] == 1
    assert rates["blocks.1.mlp.fc1.weight"] == rates["blocks.0.mlp.fc1.weight"] / 0.5
    assert rates["patch_embed.proj.weight"] == rates["blocks.0.mlp.fc1.weight"] * 0.5
    assert config.lr == 1e-3 * 64 / 256


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    config = FinetuneConfig(epochs=20, warmup=5)
    assert [config.factor(share) for share in (0.0, 0.125, 0.25, 0.625, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert FinetuneConfig(epochs=2, warmup=5).factor(0.5) == pytest.approx(0.5)


# --- pictures --------------------------------------------------------------------------------------------


def steps_of(data: LabelledPhotos, config: FinetuneConfig) -> Any:
    model = classifier_of(made(), 2)
    learned = np.flatnonzero(~data.is_validation)
    photos = [data.photos[number] for number in learned]
    return module._Steps(photos, data.labels[learned], 2, transforms_of(model, config)[0], config)


def test_a_step_follows_from_its_number_and_leaves_chance_alone(data: LabelledPhotos) -> None:
    steps = steps_of(data, QUICK)
    assert len(steps) == 3 * 3  # 32 photographs in batches of 10
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first = steps[4]
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(5)
    torch.manual_seed(5)
    again = steps_of(data, QUICK)[4]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], steps[5][0])
    images, targets = first
    assert images.shape == (10, 3, 32, 32) and targets.shape == (10, 2)
    torch.testing.assert_close(targets.sum(1), torch.ones(10))


def test_magnitudes_that_pillow_refuses_are_not_drawn(data: LabelledPhotos, monkeypatch: pytest.MonkeyPatch) -> None:
    posterize = ImageOps.posterize

    def strict(image: Image.Image, bits: int) -> Image.Image:
        if not 1 <= bits <= 8:  # so does Pillow 13
            raise ValueError("bits must be between or equal to 1 and 8")
        return posterize(image, bits)

    monkeypatch.setattr(ImageOps, "posterize", strict)
    augmented, _, _ = transforms_of(classifier_of(made(), 2), FinetuneConfig(augment="rand-m9-mmax9-mstd9-n4-inc1"))
    picture = Image.new("RGB", (40, 40), (200, 100, 50))
    with module._chance(0, 0):
        for _ in range(100):
            augmented(picture)
    never = FinetuneConfig(augment="rand-m30-mmax30-n20-inc1", batch_size=10)
    assert "cannot be augmented (bits must be" in str(steps_of(data, never)[0])


def test_the_defaults_of_the_command_are_those_of_the_settings() -> None:
    defaults = {option.name: option.default for option in command.params}
    for field in dataclasses.fields(FinetuneConfig):
        if field.name != "clip":  # which is no option
            assert defaults[field.name] == field.default, field.name


def test_an_epoch_has_each_photograph_once_and_labels_are_theirs(data: LabelledPhotos) -> None:
    config = FinetuneConfig(
        epochs=2, batch_size=16, mixup=0, cutmix=0, smoothing=0, augment="none", erase=0, crop_scale=(0.9, 1.0)
    )
    steps = steps_of(data, config)
    for epoch in range(2):
        images, targets = (torch.cat(each) for each in zip(steps[2 * epoch], steps[2 * epoch + 1], strict=True))
        red = images[:, 0].mean((1, 2)) > images[:, 2].mean((1, 2))
        assert data.classes == ["blue", "red"]
        assert torch.equal(targets.argmax(1) == 1, red) and red.sum() == 16
        assert len(images.flatten(1).unique(dim=0)) == 32
    with pytest.raises(GmaeToolsError, match="32 photographs to learn from are less than a batch"):
        steps_of(data, FinetuneConfig())


# --- runs ------------------------------------------------------------------------------------------------


def test_fine_tuning_learns_and_a_finished_run_is_read(
    data: LabelledPhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_rng_state()
    found = finetune(classifier_of(made(), 2), data, QUICK, tmp_path, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.steps == 9 and found.correct.shape == (16,) and found.correct.mean() > 0.9
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers.json", "classifier.safetensors", "log.jsonl", "settings.json",
    ]  # fmt: skip
    curve = losses(tmp_path)
    assert [step for step, _ in curve] == list(range(1, 10)) and curve[-1][1] < curve[0][1]
    monkeypatch.setattr(module, "_train", None)
    assert (finetune(classifier_of(made(), 2), data, QUICK, tmp_path, CPU).predicted == found.predicted).all()
    changed = FinetuneConfig(**{**vars(QUICK), "seed": 1})
    with pytest.raises(GmaeToolsError, match="holds results of seed 0, not 1; use --overwrite"):
        finetune(classifier_of(made(), 2), data, changed, tmp_path, CPU)


# Dies by kill -9 while it writes the state of step 6: half of it is on disk, the log ahead of the last whole one.
KILLED = """
import os, signal, torch
save = torch.save
def dying_save(state, path):
    if state["step"] == 6:
        path.write_bytes(b"half a state")
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, path)
torch.save = dying_save
from functools import partial
from gmae_tools.encoder import finetune
finetune.Machine = partial(finetune.Machine, log_every=2)
from gmae_tools.cli import main
main()
"""


def test_a_killed_run_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With workers that make the pictures; they end with the process, and the next one need not wait for them."""
    monkeypatch.setattr(module, "Machine", partial(Machine, log_every=2))
    checkpoints.save(made(), tmp_path / "nano")
    arguments = [folder, "--checkpoint", tmp_path / "nano", "--epochs", 3, "--warmup", 1, "--batch-size", 10,
                 "--save-every", 0, "--precision", "float32", "--device", "cpu"]  # fmt: skip
    whole = call(*arguments, "-o", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    command = [sys.executable, "-c", KILLED, "finetune", *map(str, arguments), "-o", str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert killed.returncode == -9, killed.stderr
    assert [step for step, _ in losses(tmp_path / "killed" / "nano")] == [2, 4, 6]
    resumed = call(*arguments, "-o", tmp_path / "killed")
    assert resumed.exit_code == 0, resumed.output
    assert losses(tmp_path / "killed" / "nano") == losses(tmp_path / "whole" / "nano")
    for name in ("answers.json", "classifier.safetensors"):
        assert (tmp_path / "killed" / "nano" / name).read_bytes() == (tmp_path / "whole" / "nano" / name).read_bytes()
    assert resumed.stdout == whole.stdout and "always the largest class: 0.500 of 16" in whole.stdout
    assert not list((tmp_path / "killed" / "nano").glob(".*"))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["finetune", *map(str, arguments)])


def test_the_command_compares_models(folder: Path, tmp_path: Path) -> None:
    checkpoints.save(made(), tmp_path / "nano")
    options = ["--epochs", 1, "--warmup", 0, "--batch-size", 16, "--workers", 0, "--device", "cpu", "--mixup", 0]
    models = ["--checkpoint", tmp_path / "nano", "--checkpoint", f"random:{tmp_path / 'nano'}"]
    result = call(folder, *models, *options, "-o", tmp_path / "out", "--format", "csv")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "finetune.csv")
    assert table.model.tolist() == ["nano", "random:nano"] and set(table.method) == {"fine-tuned"}
    assert result.stdout == (tmp_path / "out" / "finetune.csv").read_text()
    assert np.isnan(table.difference[0]) and not np.isnan(table.within[1])
    protocol = json.loads((tmp_path / "out" / "finetune.json").read_text())["protocol"]
    assert protocol["settings"]["epochs"] == 1 and protocol["validation"] == 16


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for number in range(2):
                source = folder / part / "red" / f"red-{number}.png"
                (tmp_path / "data" / part / label / f"{label}-{number}.png").write_bytes(source.read_bytes())
    (tmp_path / "data" / "train" / "a" / "a-0.png").write_bytes(b"no picture")
    checkpoints.save(made(), tmp_path / "nano")
    for workers in (0, 1):
        result = call(tmp_path / "data", "--checkpoint", tmp_path / "nano", "--epochs", 1, "--batch-size", 4,
                      "--workers", workers, "-o", tmp_path / "out", "--device", "cpu")  # fmt: skip
        assert result.exit_code == 1 and "a-0.png: not a picture in a known format; leave it out" in result.stderr
    assert not (tmp_path / "out" / "finetune.csv").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 7}, "an even number"), ({"epochs": 0}, "epochs must be 1 or more"),
        ({"drop_path": 1.5}, "drop_path is 1.5, must lie within 0..1"), ({"mixup": -1.0}, "must not be negative"),
        ({"crop_scale": (0.5, 0.1)}, "the lower one first"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message):
        FinetuneConfig(**changes)


def test_divergence_is_told(data: LabelledPhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_finite(logits: Tensor, _: Tensor) -> Tensor:
        return logits.sum() * float("nan")

    monkeypatch.setattr(module, "_soft_cross_entropy", not_finite)
    with pytest.raises(GmaeToolsError, match="diverged at step 1"):
        finetune(classifier_of(made(), 2), data, QUICK, tmp_path, CPU)
