"""Warm start: an MAE's encoder becomes ours, a GMAE grows, and a file can run no code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gmae_tools import checkpoints
from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.pretrain.warm_start import warm_start
from gmae_tools.system.torchvision_ops import ensure_torchvision
from tests import needs
from tests.oracles.mae import save_official

ensure_torchvision()
import timm  # noqa: E402


def nano(**changes: Any) -> GMAE:
    torch.manual_seed(0)
    return GMAE(GMAEConfig.preset("nano", **changes))


def official_layout(width: int = 48, depth: int = 2, decoder_width: int = 32) -> dict[str, Tensor]:
    """Random weights under the names and shapes of the official MAE checkpoints (`mae_visualize_vit_*.pth`)."""
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, 197, width), "mask_token": (1, 1, decoder_width),
        "decoder_pos_embed": (1, 197, decoder_width), "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,),
        "decoder_embed.weight": (decoder_width, width), "decoder_embed.bias": (decoder_width,),
        "decoder_norm.weight": (decoder_width,), "decoder_norm.bias": (decoder_width,),
        "decoder_pred.weight": (768, decoder_width), "decoder_pred.bias": (768,),
    }  # fmt: skip
    for blocks, d, count in (("blocks", width, depth), ("decoder_blocks", decoder_width, 1)):
        for i in range(count):
            layers = {"norm1": (d,), "attn.qkv": (3 * d, d), "attn.proj": (d, d), "norm2": (d,), "mlp.fc1": (4 * d, d),
                      "mlp.fc2": (d, 4 * d)}  # fmt: skip
            for layer, shape in layers.items():
                shapes[f"{blocks}.{i}.{layer}.weight"] = shape
                shapes[f"{blocks}.{i}.{layer}.bias"] = shape[:1]
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    save_official({"model": official_layout()}, tmp_path / "mae_visualize_vit_nano.pth")
    return tmp_path / "mae_visualize_vit_nano.pth"


def test_the_encoder_is_taken_over_and_the_decoder_left(official: Path) -> None:
    model, weights = nano(), official_layout()
    before = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
    warm_start(model, official)
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for name, tensor in model.decoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["bare", "encoder only", "half"])
def test_other_wrappings_of_the_same_weights(tmp_path: Path, kind: str) -> None:
    weights = official_layout()
    if kind == "encoder only":
        weights = {name: tensor for name, tensor in weights.items() if "decoder" not in name and name != "mask_token"}
    if kind == "half":
        weights = {name: tensor.half() for name, tensor in weights.items()}
    save_official(weights if kind == "bare" else {"model": weights}, tmp_path / "mae.pth")
    model = nano()
    warm_start(model, str(tmp_path / "mae.pth"))
    assert torch.equal(model.encoder.norm.bias, weights["norm.bias"].float())


def test_the_features_are_those_of_timms_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """`timm:NAME`, with the download replaced by a random start: the features agree with timm's forward pass."""
    create, asked = timm.create_model, []

    def without_download(name: str, pretrained: bool = False, **options: Any) -> torch.nn.Module:
        asked.append((name, pretrained))
        torch.manual_seed(2)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", without_download)
    model = GMAE(GMAEConfig.preset("tiny", depth=12)).eval()
    warm_start(model, "timm:vit_tiny_patch16_224")
    assert asked == [("vit_tiny_patch16_224", True)]
    theirs = without_download("vit_tiny_patch16_224", num_classes=0).eval()
    with torch.no_grad():
        positions = torch.cat([torch.zeros(1, 192), model.positions((14, 14), 192)])[None]
        theirs.pos_embed.copy_(positions)  # MAE's is fixed, this one would have been learnt
        images = torch.rand(1, 3, 224, 224)
        expected = theirs.forward_features((images - model.rgb_mean) / model.rgb_std)
        torch.testing.assert_close(model.encode(images), expected, rtol=1e-4, atol=1e-5)


class Bomb:
    """A pickle that runs a command when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, how: str) -> None:
    path, trace = tmp_path / "mae.pth", tmp_path / "trace"
    document = {"model": official_layout(), "extra": Bomb(trace)}
    if how == "torch":
        save_official(document, path)
    else:
        needs.safe_torch()
        path.write_bytes(pickle.dumps(document["extra"]))
    with pytest.raises(GmaeToolsError) as caught:
        warm_start(nano(), path)
    assert str(caught.value).startswith(f"{path}: not a file of plain weights")
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    with path.open("rb") as file:  # and it is a live bomb
        torch.load(file, weights_only=False) if how == "torch" else pickle.load(file)
    assert trace.exists()


def test_a_torch_that_would_run_the_code_never_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, trace = tmp_path / "mae.pth", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Bomb(trace)))
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(GmaeToolsError, match=r"only torch 2\.10 or later reads such a file safely, not 2\.9\.1$"):
        warm_start(nano(), path)
    assert not trace.exists()


def write_text(path: Path) -> None:
    path.write_text("<html>404</html>")


def write_list(path: Path) -> None:
    save_official([torch.zeros(3)], path)


def write_numbers(path: Path) -> None:
    save_official({"model": {"epoch": 3}}, path)


def write_truncated(path: Path) -> None:
    save_official({"model": official_layout()}, path)
    os.truncate(path, 5000)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "not a file of plain weights"),
        (Path.touch, "not a file of plain weights"),
        (write_text, "not a file of plain weights"),
        (write_truncated, "not a file of plain weights"),
        (write_list, "holds no state dict"),
        (write_numbers, "holds no state dict"),
    ],
    ids=["missing", "folder", "empty", "text", "truncated", "list", "numbers"],
)
def test_files_of_something_else_are_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "mae.pth"
    write(path)
    if path.exists():
        needs.safe_torch()
    with pytest.raises(GmaeToolsError, match=message) as caught:
        warm_start(nano(), path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "example"),
    [
        ({"width": 96}, "blocks.0.attn.proj.bias"),
        ({"depth": 3}, "blocks.2.attn.proj.bias"),
        ({"depth": 1}, "blocks.1.attn.proj.bias"),
        ({"patch_size": 8}, "patch_embed.proj.weight"),
    ],
)
def test_another_shape_is_refused_before_anything_is_copied(
    official: Path, changes: dict[str, int], example: str
) -> None:
    model = nano(**changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(GmaeToolsError, match=f"do not fit this model, such as {example}"):
        warm_start(model, official)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_name_unknown_to_timm_is_refused_in_one_line() -> None:
    with pytest.raises(GmaeToolsError, match="timm:no_such_model: cannot be loaded by timm") as caught:
        warm_start(nano(), "timm:no_such_model")
    assert "\n" not in str(caught.value)


# --- from a whole GMAE ------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path) -> tuple[GMAE, Path]:
    model = nano()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    checkpoints.save(model, tmp_path / "trained")
    return model, tmp_path / "trained"


def raw(model: GMAE, images: Tensor) -> Tensor:
    """`[B, Q, G, 14]` before activation."""
    tokens = model.encode(images)
    positions = model.positions(model.grid(images), model.config.decoder_width)[None].expand(len(images), -1, -1)
    return model.decoder(tokens, positions).unflatten(1, (model.config.queries, -1))


def test_a_gmae_is_taken_over_whole(trained: tuple[GMAE, Path]) -> None:
    model, folder = trained
    again = nano()
    warm_start(again, folder)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_further_blocks_change_nothing_at_first_and_can_learn(trained: tuple[GMAE, Path]) -> None:
    model, folder = trained
    deeper = nano(depth=4, decoder_depth=3)
    warm_start(deeper, folder)
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(raw(deeper, images), raw(model, images), atol=1e-6)
    raw(deeper, images).square().sum().backward()
    gradient = deeper.decoder.blocks[2].mlp.fc2.weight.grad
    assert gradient is not None and gradient.abs().max() > 0


def test_further_gaussians_start_beside_those_there(trained: tuple[GMAE, Path]) -> None:
    model, folder = trained
    finer = nano(gaussians_per_query=6)
    warm_start(finer, folder)
    images = torch.rand(2, 3, 64, 64)
    before, after = raw(model, images), raw(finer, images)
    assert torch.allclose(after[:, :, :4], before, atol=1e-6)
    apart = (after[:, :, 4:] - before[:, :, :2]).abs()
    assert 0 < apart.mean() < 0.5 * before.std()


def test_queries_from_chance_keep_their_places_and_may_get_anchors(tmp_path: Path) -> None:
    model = nano(query_start="random")
    checkpoints.save(model, tmp_path / "chance")
    assert checkpoints.load(tmp_path / "chance").config.query_start == "random"
    images = torch.rand(2, 3, 64, 64)
    for start in ("random", "grid"):
        other = nano(query_start=start)
        with torch.no_grad():
            other.decoder.head.weight.normal_()
        warm_start(other, tmp_path / "chance")
        assert torch.equal(raw(other, images), raw(model, images))
    assert other.decoder.anchors is not None


def test_places_on_a_grid_are_not_lost_in_silence(trained: tuple[GMAE, Path]) -> None:
    with pytest.raises(GmaeToolsError, match=r"places on a grid, which query_start=random does without; leave"):
        warm_start(nano(query_start="random"), trained[1])


@pytest.mark.parametrize("changes", [{"width": 96}, {"queries": 8}, {"depth": 1}, {"gaussians_per_query": 2}])
def test_a_gmae_of_another_shape_is_refused(trained: tuple[GMAE, Path], changes: dict[str, int]) -> None:
    with pytest.raises(GmaeToolsError, match=r"do not fit this model"):
        warm_start(nano(**changes), trained[1])
