"""Frozen features: what extractors of ours and of timm return, block by block, and for what cannot be read."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from gmae_tools import checkpoints
from gmae_tools.datasets.photos import Photo, center_crop
from gmae_tools.encoder.features import (
    display_name,
    extract_features,
    open_extractor,
    random_like,
    read_pictures,
    weights_digest,
)
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import to_tensor
from gmae_tools.mae import MAE, MAEConfig
from gmae_tools.model import Autoencoder


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    """Five photographs of different shapes; the second is none."""
    chance = np.random.default_rng(0)
    found = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.fromarray(chance.integers(0, 256, (70 + 9 * number, 80, 3), dtype=np.uint8)).save(path)
        found.append(Photo(path.name, path))
    found[1].path.write_bytes(b"no photograph")
    return found


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Autoencoder:
    return checkpoints.load_any(checkpoint)


def test_blocks_end_in_what_encode_returns(model: Autoencoder) -> None:
    images = torch.rand(3, 3, 64, 64)
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[0, :5] = mask[1, 4:9] = mask[2, 11:] = True
    with torch.no_grad():
        for hidden, tokens in ((None, 17), (mask, 12)):
            stages = model.encode(images, hidden, return_blocks=True)
            assert [stage.shape for stage in stages] == [(3, tokens, 48)] * 4
            torch.testing.assert_close(stages[-1], model.encode(images, hidden), rtol=0, atol=0)
            torch.testing.assert_close(stages[-1], model.encoder.norm(stages[-2]), rtol=0, atol=0)
            torch.testing.assert_close(stages[2], model.encoder.blocks[1](stages[1]), rtol=0, atol=0)


def test_features_are_class_token_and_mean(photos: list[Photo], checkpoint: Path, model: Autoencoder) -> None:
    extractor = open_extractor(str(checkpoint))
    features = extract_features(extractor, photos)
    assert features.shape == (5, 2, 48) and features.dtype == np.float32
    assert np.isnan(features[1]).all() and not np.isnan(features[[0, 2, 3, 4]]).any()
    square = center_crop(np.asarray(Image.open(photos[4].path)), 64)
    with torch.no_grad():
        tokens = model.encode(to_tensor(square))[0]
    np.testing.assert_allclose(features[4], torch.stack([tokens[0], tokens[1:].mean(0)]), rtol=1e-4, atol=1e-5)


def test_one_by_one_is_all_at_once(photos: list[Photo], checkpoint: Path) -> None:
    extractor = open_extractor(str(checkpoint))
    alone = np.concatenate([extract_features(extractor, [photo]) for photo in (photos[0], photos[2])])
    np.testing.assert_allclose(alone, extract_features(extractor, photos)[[0, 2]], rtol=1e-4, atol=1e-5)


def test_nothing_readable(photos: list[Photo], checkpoint: Path) -> None:
    with pytest.raises(GmaeToolsError, match=r"none of 1 photographs can be read, such as 1\.png"):
        extract_features(open_extractor(str(checkpoint)), photos[1:2])
    with pytest.raises(GmaeToolsError, match=r"1\.png: not a picture"):
        read_pictures(photos, 32)


def test_random_weights_are_of_that_architecture(checkpoint: Path, model: Autoencoder) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    untrained = random_like(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert untrained.config == model.config and type(untrained) is type(model)
    assert weights_digest(untrained) == weights_digest(random_like(model)) != weights_digest(random_like(model, 1))
    assert open_extractor(f"random:{checkpoint}").weights == weights_digest(untrained.encoder)
    assert isinstance(random_like(MAE(MAEConfig.preset("nano"))), MAE)


def test_fingerprint_sees_every_parameter(model: Autoencoder) -> None:
    changed = random_like(model)
    before = weights_digest(changed)
    with torch.no_grad():
        changed.encoder.norm.bias[3] += 1e-6
    assert weights_digest(changed) != before


def test_names_for_tables() -> None:
    names = ["gmae-tiny", "runs/first/model", "/a/mae.pth", "hf://org/name", "random:runs/first/model", "model"]
    shown = ["gmae-tiny", "first", "mae.pth", "name", "random:first", "model"]
    assert [display_name(name) for name in names] == shown


def test_timm_sees_what_its_evaluation_shows(
    photos: list[Photo], timm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timm.data import create_transform, resolve_model_data_config  # type: ignore[attr-defined]

    torch.manual_seed(0)
    size = {"img_size": 32, "pretrained_cfg_overlay": {"input_size": (3, 32, 32)}}
    vit = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0, **size).eval()
    asked = []

    def create_model(name: str, **options: object) -> torch.nn.Module:
        asked.append((name, options))
        return vit

    monkeypatch.setattr(timm, "create_model", create_model)
    extractor = open_extractor("timm:vit_tiny_patch16_224")
    assert asked == [("vit_tiny_patch16_224", {"pretrained": True, "num_classes": 0})]
    features = extract_features(extractor, photos)
    transform = create_transform(**resolve_model_data_config(vit), is_training=False)
    with torch.no_grad():
        expected = vit(transform(Image.open(photos[3].path).convert("RGB"))[None])
    np.testing.assert_allclose(features[3], expected, rtol=1e-4, atol=1e-5)
    assert extractor.tokens == ("pooled",) and "'crop_pct': 0.9" in extractor.preparation


def test_unknown_models() -> None:
    with pytest.raises(GmaeToolsError, match="timm:vit_of_nobody: cannot be loaded"):
        open_extractor("timm:vit_of_nobody")
    with pytest.raises(GmaeToolsError, match="no checkpoint 'nowhere'"):
        open_extractor("random:nowhere")
