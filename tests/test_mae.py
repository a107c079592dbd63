"""MAE's pixel decoder, against its published forward pass."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.official_mae import from_official
from gmae_tools.mae import MAE, MAEConfig, mae_loss, paint_patches, patch_targets, patchify, unpatchify
from gmae_tools.model import GMAE, RGB_MEAN, RGB_STD, GMAEConfig
from gmae_tools.vit import visible_patches
from tests.oracles.mae import OfficialMAE

SIDE, PATCH, KEEP = 4, 8, 5


def config(**changes: Any) -> MAEConfig:
    return MAEConfig.preset(
        "nano", image_size=SIDE * PATCH, patch_size=PATCH, **{"decoder_width": 32, "decoder_heads": 4, **changes}
    )


def pictures(count: int = 3, side: int = SIDE * PATCH) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def official(like: MAEConfig) -> OfficialMAE:
    torch.manual_seed(0)
    return OfficialMAE(
        SIDE, PATCH, like.width, like.depth, like.heads, like.decoder_width, like.decoder_depth, like.decoder_heads,
        like.normalise_targets,
    )  # fmt: skip


def loaded(theirs: OfficialMAE, like: MAEConfig) -> MAE:
    model = MAE(like)
    model.load_state_dict(from_official(theirs.state_dict()))
    return model


@pytest.fixture
def model() -> MAE:
    torch.manual_seed(0)
    return MAE(config())


# --- against the published forward pass -----------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True])
def test_predictions_and_loss_are_the_published_ones(normalise: bool) -> None:
    like = config(decoder_depth=2, normalise_targets=normalise)
    theirs = official(like)
    model = loaded(theirs, like)
    images = pictures()
    noise = torch.rand(3, SIDE**2, generator=torch.Generator().manual_seed(2))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (RGB_MEAN, RGB_STD))
    loss, predictions, mask = theirs((images - mean) / deviation, noise, KEEP)
    hidden = mask.bool()
    assert hidden.sum(1).tolist() == [SIDE**2 - KEEP] * 3
    torch.testing.assert_close(model(images, hidden), predictions, rtol=1e-4, atol=1e-5)
    for form in (hidden, visible_patches(hidden)):
        torch.testing.assert_close(mae_loss(model, images, form, like), loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(patch_targets(images, like), theirs.targets((images - mean) / deviation))


def test_gradients_are_the_published_ones() -> None:
    like = config(normalise_targets=True)
    theirs = official(like)
    model = loaded(theirs, like)
    noise = torch.rand(2, SIDE**2, generator=torch.Generator().manual_seed(2))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (RGB_MEAN, RGB_STD))
    loss, _, mask = theirs((pictures(2) - mean) / deviation, noise, KEEP)
    loss.backward()
    mae_loss(model, pictures(2), mask.bool(), like).backward()
    expected = from_official({name: value.grad for name, value in theirs.named_parameters() if value.requires_grad})
    found = {name: value.grad for name, value in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


# --- the decoder ------------------------------------------------------------------------------------------


def test_nothing_hidden_means_no_mask_token(model: MAE) -> None:
    with torch.no_grad():
        whole = model(pictures())
        torch.testing.assert_close(model(pictures(), torch.zeros(3, SIDE**2, dtype=torch.bool)), whole)
        model.decoder.mask_token.fill_(9.0)
        torch.testing.assert_close(model(pictures()), whole)


def test_what_is_hidden_is_not_seen(model: MAE) -> None:
    mask = torch.zeros(1, SIDE**2, dtype=torch.bool)
    mask[0, 6] = True  # second row, third column
    images, changed = pictures(1), pictures(1)
    changed[..., PATCH : 2 * PATCH, 2 * PATCH : 3 * PATCH] = 0.5
    with torch.no_grad():
        torch.testing.assert_close(model(changed, mask), model(images, mask), rtol=0, atol=0)
        assert not torch.equal(model(changed), model(images))


def test_pictures_need_not_be_square(model: MAE) -> None:
    images = torch.rand(2, 3, 2 * PATCH, 5 * PATCH)
    assert model(images).shape == (2, 10, 3 * PATCH**2)
    assert paint_patches(model(images), images, model.config).shape == images.shape
    with pytest.raises(GmaeToolsError, match="multiples of 8 px"):
        model(torch.rand(1, 3, 12, 16))


def test_rows_must_hide_equally_many(model: MAE) -> None:
    mask = torch.zeros(2, SIDE**2, dtype=torch.bool)
    mask[0, 0] = True
    with pytest.raises(GmaeToolsError, match="same number of patches"):
        model(pictures(2), mask)


def test_it_trains_under_autocast() -> None:
    like = config()
    torch.manual_seed(0)
    model = MAE(like)
    mask = torch.arange(SIDE**2).expand(3, -1) % 2 == 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            loss = mae_loss(model, pictures(), mask, like)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert loss.dtype == torch.float32
    assert losses[-1] < 0.7 * losses[0]


# --- pixels -----------------------------------------------------------------------------------------------


def test_patches_are_rows_of_pixels_with_channels_last() -> None:
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).float()
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    for b, row, column, y, x, channel in torch.cartesian_prod(*map(torch.arange, (2, 2, 3, 2, 2, 3))).tolist():
        place = (2 * y + x) * 3 + channel
        assert patches[b, 3 * row + column, place] == images[b, channel, 2 * row + y, 2 * column + x]
    assert torch.equal(unpatchify(patches, (2, 3)), images)


@pytest.mark.parametrize("normalise", [False, True])
def test_perfect_predictions_draw_the_picture(normalise: bool) -> None:
    like = config(normalise_targets=normalise)
    torch.testing.assert_close(paint_patches(patch_targets(pictures(), like), pictures(), like), pictures())


def test_normalised_targets_have_no_brightness_nor_contrast() -> None:
    like = config(normalise_targets=True)
    targets = patch_targets(pictures(), like)
    torch.testing.assert_close(targets.mean(-1), torch.zeros(3, SIDE**2), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.std(-1), torch.ones(3, SIDE**2), atol=1e-4, rtol=0)
    flat = torch.full((1, 3, PATCH, PATCH), 0.5)
    assert patch_targets(flat, like).isfinite().all()


def test_the_loss_counts_hidden_patches_or_all(model: MAE) -> None:
    mask = torch.zeros(2, SIDE**2, dtype=torch.bool)
    mask[:, :3] = True
    errors = (model(pictures(2), mask) - patch_targets(pictures(2), model.config)).square()
    torch.testing.assert_close(mae_loss(model, pictures(2), mask, model.config), errors[:, :3].mean())
    torch.testing.assert_close(mae_loss(model, pictures(2), mask, model.config, "all"), errors.mean())
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(
        mae_loss(model, pictures(2), nothing, model.config), mae_loss(model, pictures(2), None, model.config)
    )


# --- configuration and weights ------------------------------------------------------------------------------


def test_presets_are_gmaes_without_the_gaussians() -> None:
    for name in ("nano", "tiny", "small", "base"):
        ours, theirs = MAEConfig.preset(name).to_dict(), GMAEConfig.preset(name).to_dict()
        assert ours.pop("normalise_targets") is False
        assert ours.items() <= theirs.items()
    changed = MAEConfig.preset("tiny", normalise_targets=True)
    assert MAEConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    with pytest.raises(GmaeToolsError, match=r"configuration of this version's MAE: .*queries"):
        MAEConfig.from_dict({"queries": 3})
    with pytest.raises(GmaeToolsError, match=r"preset 'tiny': .*queries"):
        MAEConfig.preset("tiny", queries=3)


def test_the_encoder_is_gmaes(model: MAE) -> None:
    like = GMAEConfig.preset("nano", image_size=SIDE * PATCH, patch_size=PATCH)
    gmae = GMAE(like)
    gmae.encoder.load_state_dict(model.encoder.state_dict())
    mask = torch.arange(SIDE**2).expand(3, -1) % 4 != 0
    with torch.no_grad():
        assert torch.equal(gmae.encode(pictures(), mask), model.encode(pictures(), mask))


def test_official_weights_that_do_not_fit_are_refused() -> None:
    theirs = official(config(decoder_depth=2)).state_dict()
    with pytest.raises(RuntimeError, match=r"decoder\.blocks\.1"):
        MAE(config(decoder_depth=1)).load_state_dict(from_official(theirs))
