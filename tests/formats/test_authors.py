"""Checkpoints of the authors' code: they compute what the authors' model does, run nothing, and others are refused."""

from __future__ import annotations

import builtins
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from gmae_tools import checkpoints
from gmae_tools.benchmarks.predictions import weights_of
from gmae_tools.camera import Camera, project, quats_to_rotations
from gmae_tools.cli import main
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.pretrain.reconstruction import reconstruct, render
from gmae_tools.pretrain.warm_start import warm_start
from gmae_tools.system.files import file_sha256
from tests import needs
from tests.oracles.authors import AuthorsGMAE, dict_config, lightning, save_lightning
from tests.oracles.mae import OfficialMAE
from tests.thresholds import assert_equal_but_at_thresholds

SETTINGS = {"scale_factor": 1.5, "num_gaussian": 5, "model_name": "mae_vit_base_patch16", "list": [1, 2]}
ATTRIBUTES = ("means", "scales", "colors", "opacities")


@pytest.fixture(scope="module")
def theirs() -> AuthorsGMAE:
    torch.manual_seed(0)
    model = AuthorsGMAE().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)  # biases tell, too
    return model


@pytest.fixture
def file(theirs: AuthorsGMAE, tmp_path: Path) -> Path:
    return save_lightning(lightning(theirs, SETTINGS), tmp_path / "last.ckpt")


def masks(hidden: int) -> torch.Tensor:
    return torch.rand(2, 16, generator=torch.Generator().manual_seed(hidden)).argsort(1) < hidden


def compare(model: GMAE, theirs: AuthorsGMAE, c: float) -> None:
    """The same Gaussians, in the same order, whatever is hidden."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    for hidden in (0, 12):
        with torch.no_grad():
            expected = theirs((images - model.rgb_mean) / model.rgb_std, masks(hidden), c)
            gaussians = model(images, masks(hidden))
        for name in expected:
            torch.testing.assert_close(getattr(gaussians, name), expected[name], rtol=0, atol=1e-5, msg=name)


# --- the same model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [0, 75])
def test_the_authors_model_is_matched(percent: int, shared_data: Path) -> None:
    """Random weights, and what the authors' code makes of two pictures with them; its pixel centres are integers."""
    if not (folder := shared_data / "authors-layout").is_dir():
        pytest.skip("needs ../shared/data/authors-layout")
    needs.safe_torch()
    model = checkpoints.load(folder / "last.ckpt")
    with np.load(folder / "expected.npz") as archive:
        images, hidden = (torch.from_numpy(archive[name]) for name in ("images", f"hidden_{percent}"))
        expected = {name.removesuffix(f"_{percent}"): torch.from_numpy(archive[name]) for name in archive.files}
    height, width = images.shape[-2:]
    with torch.no_grad():
        gaussians = model(images, hidden)
        splats = project(gaussians, model.camera, height, width)
        picture = render(gaussians, model.camera, height, width, torch.ones(3))
    for name in ATTRIBUTES:
        torch.testing.assert_close(getattr(gaussians, name), expected[name], rtol=0, atol=1e-5, msg=name)
    found = (quats_to_rotations(gaussians.quats), splats.means - 0.5, splats.conics)
    tolerances = {"rotations": 1e-5, "centres_px": 1e-4, "conics": 1e-4}
    for (name, tolerance), actual in zip(tolerances.items(), found, strict=True):
        torch.testing.assert_close(actual, expected[name], rtol=0, atol=tolerance, msg=name)
    assert_equal_but_at_thresholds(picture, expected["picture"], splats, atol=1e-3)
    torch.testing.assert_close(reconstruct(model, images, hidden), picture.clamp(0, 1), rtol=0, atol=1e-6)


def test_the_model_of_the_description_is_matched(theirs: AuthorsGMAE, file: Path) -> None:
    model = checkpoints.load(file)
    assert model.config == GMAEConfig(
        image_size=64, width=64, depth=2, heads=1, decoder_width=96, decoder_depth=1, decoder_heads=3, queries=5,
        gaussians_per_query=3, max_scale=1.5, camera=Camera(cx=2 / 64, cy=2 / 64, shear=True), query_start="random",
        rotations="shoemake", decoder_positions="previous", order="slots",
    )  # fmt: skip
    assert not model.training
    compare(model, theirs, 1.5)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "encoder.", "_forward_module.encoder._orig_mod.", "module."])
def test_a_bare_state_dict_will_do_with_any_prefix(theirs: AuthorsGMAE, prefix: str, tmp_path: Path) -> None:
    whole = lightning(theirs, SETTINGS, prefix)["state_dict"]
    for name in ("weights.pth", "weights.ckpt"):
        model = checkpoints.load(save_lightning(whole, tmp_path / name))
        assert model.config.max_scale == 1  # nothing tells it
        compare(model, theirs, 1)


def test_half_precision_will_do(theirs: AuthorsGMAE, tmp_path: Path) -> None:
    document = lightning(theirs, SETTINGS)
    document["state_dict"] = {name: tensor.bfloat16() for name, tensor in document["state_dict"].items()}
    model = checkpoints.load(save_lightning(document, tmp_path / "half.ckpt"))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "scale"),
    [({"scale_factor": 2}, 2), ({"scale_factor": 0.5}, 0.5), ({"other": 3}, 1), ({}, 1)],
)
def test_the_largest_scale_stands_in_the_settings(
    settings: dict[str, object], scale: float, theirs: AuthorsGMAE, tmp_path: Path
) -> None:
    document = lightning(theirs, settings)
    assert checkpoints.load(save_lightning(document, tmp_path / "a.ckpt")).config.max_scale == scale
    for number, place in enumerate(({"cfg": settings}, settings, dict_config(settings))):
        document["hyper_parameters"] = place
        assert checkpoints.load(save_lightning(document, tmp_path / f"{number}.ckpt")).config.max_scale == scale


def test_pictures_of_any_size_are_seen(file: Path) -> None:
    model = checkpoints.load(file)
    with torch.no_grad():
        gaussians = model(torch.rand(1, 3, 48, 80), torch.arange(15)[None] % 2 == 0)
    assert gaussians.k == 15 and all(tensor.isfinite().all() for tensor in vars(gaussians).values())


# --- in our format ----------------------------------------------------------------------------------------


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_import_writes_our_format(theirs: AuthorsGMAE, file: Path, tmp_path: Path) -> None:
    result = call("checkpoints", "import", file, "-o", tmp_path / "ours")
    assert (result.exit_code, result.output) == (0, f"{tmp_path / 'ours'}\n")
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "ours").iterdir()}
    model = checkpoints.load(tmp_path / "ours")
    assert model.config == checkpoints.load(file).config
    compare(model, theirs, 1.5)
    assert checkpoints.training_of(tmp_path / "ours") == {"imported_from": "last.ckpt", "sha256": file_sha256(file)}


def test_import_takes_official_files_and_refuses_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mae = OfficialMAE(4, 8, 64, 1, 1, 32, 1, 16, norm_pix_loss=False)
    save_lightning({"model": mae.state_dict()}, tmp_path / "mae.pth")
    assert call("checkpoints", "import", tmp_path / "mae.pth", "-o", tmp_path / "mae", "--half").exit_code == 0
    assert type(checkpoints.load_any(tmp_path / "mae")).__name__ == "MAE"
    (tmp_path / "a.txt").write_text("hello")
    result = call("checkpoints", "import", tmp_path / "a.txt", "-o", tmp_path / "text")
    assert result.exit_code == 1 and "expected a file named *.pth, *.pt, *.ckpt" in result.stderr
    assert not (tmp_path / "text").exists()


def test_commands_take_the_file_itself(file: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(photo)
    for command in ("layers", "density", "export"):
        result = call(command, photo, "--checkpoint", file, "-o", tmp_path / command)
        assert result.exit_code == 0, result.output
    (row,) = json.loads(call("checkpoints", "list", file, "--format", "json").stdout)
    assert row["model"] == "GMAE" and row["image_size"] == 64
    assert weights_of(str(file)) == file_sha256(file)


def test_the_encoder_alone_is_a_warm_start(theirs: AuthorsGMAE, file: Path) -> None:
    """The numbers of their decoder mean other things than those of ours."""
    torch.manual_seed(1)
    model = GMAE(GMAEConfig.from_dict({**GMAEConfig.preset("nano").to_dict(), "width": 64, "heads": 1}))
    before = model.decoder.state_dict()["blocks.0.mlp.fc1.weight"].clone()
    warm_start(model, file)
    torch.testing.assert_close(model.encoder.norm.weight, theirs.norm.weight)
    torch.testing.assert_close(model.decoder.state_dict()["blocks.0.mlp.fc1.weight"], before, rtol=0, atol=0)


# --- refusals ---------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(GmaeToolsError) as caught:
        checkpoints.load_any(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 500
    return message.removeprefix(f"{path}: ")


def without(document: dict[str, Any], *parts: str) -> dict[str, Any]:
    kept = {name: tensor for name, tensor in document["state_dict"].items() if not any(part in name for part in parts)}
    return {**document, "state_dict": kept}


def changed(document: dict[str, Any], name: str, tensor: torch.Tensor) -> dict[str, Any]:
    return {**document, "state_dict": {**document["state_dict"], f"encoder.{name}": tensor}}


def test_other_models_are_refused_by_name(theirs: AuthorsGMAE, tmp_path: Path) -> None:
    document = lightning(theirs, SETTINGS)
    for content, message in (
        (changed(document, "pos_embed_t", torch.zeros(1, 8, 64)), r"weights of the authors' video model (pos_embed_t)"),
        (without(document, "gaussian"), "weights of an MAE, which predicts pixels"),
        (without(document, "gaussian", "decoder", "mask_token"), "weights of an encoder alone"),
        ({"state_dict": {"unet.weight": torch.zeros(3)}}, "weights of something else (such as unet.weight)"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"state_dict": 3}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
        ({"state_dict": {"encoder.linear_gaussian.weight": 3}}, "holds no state dict"),
        (without(document, "encoder.cls_token"), "lacks 1 tensors, such as encoder.cls_token"),
        (without(document, "mask_token"), "lacks a part of the authors' model ('mask_token')"),
        (changed(document, "surplus", torch.zeros(3)), "has unknown 1 tensors, such as encoder.surplus"),
        (changed(document, "pos_embed", torch.randn(1, 17, 64)), "pos_embed is not the fixed table of a 4 x 4 grid"),
        (changed(document, "decoder_pos_embed", torch.randn(1, 17, 3)), "decoder_pos_embed is not the fixed table"),
        (changed(document, "mask_token", torch.zeros(1, 1, 95)), "mask_token has shape [1, 1, 95]"),
        (changed(document, "linear_gaussian.weight", torch.zeros(13, 96)), "no multiple of 14"),
        (changed(document, "norm.bias", torch.full((64,), torch.nan)), "NaN or infinite"),
        (changed(document, "pos_embed", torch.zeros(3)), "lacks a part of the authors' model"),
        ({**document, "hyper_parameters": {"cfg": dict_config({"scale_factor": "${c}"})}}, "scale_factor is ${c}, no"),
        ({**document, "hyper_parameters": {"cfg": dict_config({"scale_factor": -1})}}, "max_scale is -1"),
        (changed(document, "norm.bias", torch.zeros(1).expand(1 << 33)), "claim more numbers than the file holds"),
    ):  # fmt: skip
        assert message in refused(save_lightning(content, tmp_path / "other.ckpt")), message


class Call:
    """What pickle makes a call of a function when it is read."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_in_a_file_is_run(theirs: AuthorsGMAE, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = (
        (Call(os.system, f"touch {trace}"), "posix.system"),
        (Call(builtins.eval, f"open({str(trace)!r}, 'w')"), "eval"),
        (Call(torch.save, [], str(trace)), "torch.serialization.save"), (Call(Path.touch, trace), "getattr"),
    )  # fmt: skip
    for hostile, name in calls:
        for place in (
            lightning(theirs, {"scale_factor": hostile}),
            {**lightning(theirs, SETTINGS), "hyper_parameters": {"cfg": hostile}},
            {**lightning(theirs, SETTINGS), "callbacks": {"x": hostile}},
            hostile,
        ):
            message = refused(save_lightning(place, tmp_path / "hostile.ckpt"))
            assert message.startswith("not a file of plain weights (") and name in message
            assert not trace.exists()


@pytest.mark.parametrize("damage", [lambda data: data[:2000], lambda data: b"", lambda data: b"hello" * 100])
def test_damage_is_refused(damage: Any, file: Path) -> None:
    file.write_bytes(damage(file.read_bytes()))
    assert refused(file).startswith("not a file of plain weights (")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.ckpt") == "no such file"


def test_gaussians_of_one_slot_lie_together(file: Path) -> None:
    """Only the order differs from that of the same weights read out query by query."""
    model = checkpoints.load(file)
    images = torch.rand(1, 3, 64, 64)
    other = GMAE(GMAEConfig.from_dict({**model.config.to_dict(), "order": "queries"})).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        by_slot: Gaussians = model(images)
        by_query: Gaussians = other(images)
    torch.testing.assert_close(
        by_slot.means.unflatten(1, (3, 5)).transpose(1, 2).flatten(1, 2), by_query.means, rtol=0, atol=0
    )
