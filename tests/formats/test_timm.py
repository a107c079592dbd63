"""The exported encoder in timm: the same features, from either file, with or without a new head, at other sizes."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from gmae_tools.encoder.features import open_extractor
from gmae_tools.encoder.finetune import FinetuneConfig, open_classifier
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.official_mae import from_official
from gmae_tools.formats.timm import export_timm, loading_code, timm_arguments, timm_weights
from gmae_tools.mae import MAE, MAEConfig
from gmae_tools.model import GMAE, RGB_MEAN, RGB_STD, Autoencoder, AutoencoderConfig, GMAEConfig
from tests.oracles.mae import OfficialMAE


def made(kind: type[Any] = GMAE, config: type[AutoencoderConfig] = GMAEConfig, **changes: int) -> Autoencoder:
    torch.manual_seed(0)
    model: Autoencoder = kind(config.preset("nano", **changes)).eval()
    return model


def loaded(model: Autoencoder, path: Path, image_size: int | None = None) -> Any:
    """What the printed program makes."""
    names: dict[str, Any] = {}
    exec(loading_code(model, path, image_size), names)
    return names["encoder"].eval()


def normalised(images: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (RGB_MEAN, RGB_STD))
    return (images - mean) / deviation


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "model", [made(), made(MAE, MAEConfig), made(width=192, depth=1), made(patch_size=8, image_size=48)],
    ids=["gmae", "mae", "tiny", "small patches"],
)  # fmt: skip
def test_features_in_timm_are_the_same(model: Autoencoder, suffix: str, timm: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / f"encoder{suffix}"
    export_timm(model, path)
    theirs = loaded(model, path)
    images = torch.rand(2, 3, model.config.image_size, model.config.image_size)
    tokens = model.encode(images)
    torch.testing.assert_close(theirs.forward_features(normalised(images)), tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs(normalised(images)), tokens[:, 0], rtol=1e-4, atol=1e-5)
    data = timm.data.resolve_model_data_config(theirs)
    assert (data["mean"], data["std"]) == (RGB_MEAN, RGB_STD)


@torch.no_grad()
def test_with_a_new_head(timm: ModuleType, tmp_path: Path) -> None:
    """As timm's training script loads it: `--pretrained --pretrained-path FILE`."""
    model = made()
    export_timm(model, tmp_path / "encoder.safetensors")
    arguments = timm_arguments(model) | {"num_classes": 7}
    arguments["pretrained_cfg_overlay"] |= {"file": str(tmp_path / "encoder.safetensors"), "num_classes": -1}
    theirs = timm.create_model(pretrained=True, **arguments).eval()
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(theirs.forward_features(normalised(images)), model.encode(images), rtol=1e-4, atol=1e-5)
    assert theirs(normalised(images)).shape == (2, 7)


@torch.no_grad()
def test_other_sizes_have_the_positions_of_ours(tmp_path: Path) -> None:
    model = made()
    export_timm(model, tmp_path / "encoder.pth", 96)
    theirs = loaded(model, tmp_path / "encoder.pth", 96)
    images = torch.rand(1, 3, 96, 96)
    torch.testing.assert_close(theirs.forward_features(normalised(images)), model.encode(images), rtol=1e-4, atol=1e-5)


def test_what_differs_from_timms_model_is_named() -> None:
    small = GMAE(GMAEConfig.preset("small"))
    arguments = timm_arguments(small)
    assert arguments.pop("pretrained_cfg_overlay") == {"mean": RGB_MEAN, "std": RGB_STD}
    assert arguments == {"model_name": "vit_small_patch16_224", "num_classes": 0}
    assert timm_arguments(made())["embed_dim"] == 48


def test_the_layout_is_that_of_the_official_files() -> None:
    """Names and values, but for MAE's decoder; its position table is the one that its authors compute."""
    theirs = OfficialMAE(4, 16, 48, 2, 3, 48, 1, 3, False)
    model = MAE(MAEConfig.preset("nano"))
    model.load_state_dict(from_official(theirs.state_dict()))
    weights, official = timm_weights(model), theirs.state_dict()
    assert weights.keys() == {name for name in official if not name.startswith(("decoder", "mask_token"))}
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, official[name].view_as(tensor), rtol=0, atol=1e-6, msg=name)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match=r"name it \*\.safetensors or \*\.pth"):
        export_timm(made(), tmp_path / "encoder.bin")
    with pytest.raises(GmaeToolsError, match="multiples of 16 px"):
        export_timm(made(), tmp_path / "encoder.pth", 100)
    assert not list(tmp_path.iterdir())


def test_an_old_timm_is_refused_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions that other packages ask for will do for everything else."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.6.7")
    for use in (
        lambda: open_extractor("timm:vit_tiny_patch16_224"),
        lambda: open_classifier("gmae-tiny", 2, FinetuneConfig()),
    ):
        with pytest.raises(GmaeToolsError, match=r"timm 0\.6\.7 is too old for this: run pip install"):
            use()
