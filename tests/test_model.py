"""The model: its encoder is timm's, its positions are MAE's, and hidden patches stay hidden."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from gmae_tools.camera import Camera, quats_to_rotations
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.model import (
    GMAE,
    GMAEConfig,
    activate,
    patch_positions,
    query_places,
    shoemake_quaternion,
    sincos_embedding,
)
from gmae_tools.system.torchvision_ops import ensure_torchvision
from gmae_tools.vit import visible_patches

ensure_torchvision()
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

ATTRIBUTES = ("means", "scales", "quats", "colors", "opacities")


def pictures(batch: int = 2, height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def random_masks(batch: int, patches: int, hidden: int, seed: int = 0) -> torch.Tensor:
    order = torch.rand(batch, patches, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return order < hidden


@pytest.fixture(scope="module")
def model() -> GMAE:
    """A nano model whose head is large enough for its outputs to differ visibly."""
    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano")).eval()
    with torch.no_grad():
        model.decoder.head.weight.normal_(std=0.3)
    return model


def assert_same(a: Gaussians, b: Gaussians, **tolerance: float) -> None:
    for name in ATTRIBUTES:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), **tolerance, msg=name)  # type: ignore[arg-type]


def differ(a: Gaussians, b: Gaussians) -> bool:
    return all(not torch.allclose(getattr(a, name), getattr(b, name), atol=1e-3) for name in ATTRIBUTES)


# --- shapes and ranges ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (64, 96), (96, 64), (16, 16), (16, 160), (112, 80)], ids=lambda side: str(side)
)
@pytest.mark.parametrize("hidden", [None, 0.0, 0.5, 0.95])
def test_any_size_and_mask_gives_k_gaussians(model: GMAE, height: int, width: int, hidden: float | None) -> None:
    patches = (height // 16) * (width // 16)
    mask = None if hidden is None else random_masks(2, patches, int(hidden * patches))
    with torch.no_grad():
        tokens = model.encode(pictures(2, height, width), mask)
        gaussians = model(pictures(2, height, width), mask)
    visible = patches - (0 if mask is None else int(mask[0].sum()))
    assert tokens.shape == (2, 1 + visible, model.config.width)
    assert (gaussians.batch_size, gaussians.k) == (2, model.config.k) == (2, 64)
    assert all(getattr(gaussians, name).isfinite().all() for name in ATTRIBUTES)


def test_outputs_are_float32_under_autocast(model: GMAE) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        gaussians = model(pictures())
    assert {getattr(gaussians, name).dtype for name in ATTRIBUTES} == {torch.float32}


def test_nothing_is_visible_but_the_class_token(model: GMAE) -> None:
    with torch.no_grad():
        tokens = model.encode(pictures(), torch.ones(2, 16, dtype=torch.bool))
        assert tokens.shape == (2, 1, 48)
        assert model(pictures(), torch.ones(2, 16, dtype=torch.bool)).k == 64


def test_activation_of_extreme_values_stays_in_range() -> None:
    raw = torch.full((1, 2, 14), 100.0)
    raw[:, 1] = -100.0
    gaussians = activate(raw, max_scale=2.0)
    assert gaussians.means[0].tolist() == [[1, 1, 1], [-1, -1, -1]]
    assert gaussians.scales[0, 0].tolist() == [2, 2, 2] and (gaussians.scales[0, 1] >= 0).all()
    assert gaussians.colors[0, 0].tolist() == [1, 1, 1]
    assert gaussians.opacities[0, 0] == 1 and gaussians.opacities[0, 1] < 1e-6


def test_activation_of_known_values() -> None:
    """sigmoid(log 3) = 3/4; every attribute reads its own columns."""
    raw = torch.zeros(1, 1, 14)
    raw[..., [0, 3, 10, 13]] = float(np.log(3))
    raw[..., 6:10] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    gaussians = activate(raw, max_scale=2.0)
    for name, expected in (
        ("means", [0.5, 0, 0]), ("scales", [1.5, 1, 1]), ("quats", [1, 2, 3, 4]), ("colors", [0.75, 0.5, 0.5]),
        ("opacities", 0.75),
    ):  # fmt: skip
        torch.testing.assert_close(getattr(gaussians, name)[0, 0], torch.tensor(expected, dtype=torch.float32))


def test_shoemakes_map_is_uniform_and_of_unit_length() -> None:
    """A uniform rotation takes any vector anywhere on the sphere alike: its height is uniform in -1..1."""
    raw = torch.logit(torch.rand(20000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    quats = shoemake_quaternion(raw)
    torch.testing.assert_close(quats.norm(dim=-1), torch.ones(20000, dtype=torch.float64))
    heights = np.sort(quats_to_rotations(quats)[:, 2].numpy(), axis=0)  # of the three axes
    assert np.abs(heights - np.linspace(-1, 1, 20000)[:, None]).max() < 0.04


def test_shoemakes_map_has_gradients_at_its_ends() -> None:
    raw = torch.tensor([[60.0, 60.0, -60.0], [-60.0, 0.0, 0.0]], requires_grad=True)
    shoemake_quaternion(raw).sum().backward()
    assert raw.grad is not None and raw.grad.isfinite().all()


# --- masking ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_hidden_patches_cannot_be_seen(model: GMAE, height: int, width: int) -> None:
    """Whatever is painted into hidden patches, the Gaussians are the same to the last bit."""
    images, patches = pictures(2, height, width), height * width // 256
    mask = random_masks(2, patches, patches * 3 // 4)
    hidden = mask.view(2, 1, height // 16, width // 16).repeat_interleave(16, 2).repeat_interleave(16, 3)
    assert 0.7 < hidden.float().mean() < 0.8
    other = pictures(2, height, width, seed=1)
    with torch.no_grad():
        seen = model(images, mask)
        assert_same(model(torch.where(hidden, other, images), mask), seen, rtol=0, atol=0)
        assert differ(model(torch.where(hidden, images, other), mask), seen)
        assert differ(model(images), seen)


def test_each_picture_has_its_own_mask_and_does_not_see_the_others(model: GMAE) -> None:
    images, mask = pictures(3), random_masks(3, 16, 12)
    assert not torch.equal(mask[0], mask[1])
    with torch.no_grad():
        together = model(images, mask)
        for i in range(3):
            assert_same(together[i], model(images[i : i + 1], mask[i : i + 1]), rtol=1e-4, atol=1e-5)


def test_the_decoder_is_told_where_the_visible_patches_are(model: GMAE) -> None:
    images, mask = pictures(2, 64, 96), random_masks(2, 24, 18)
    inputs: list[torch.Tensor] = []
    hook = model.decoder.blocks[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        model(images, mask)
        embedded = model.decoder.embed(model.encode(images, mask))
    hook.remove()
    torch.testing.assert_close(inputs[0][:, 0], embedded[:, 0])  # the class token has no place
    positions = patch_positions((4, 6), 4, model.config.decoder_width)
    for i in range(2):
        torch.testing.assert_close(inputs[0][i, 1:7], embedded[i, 1:] + positions[~mask[i]])
        torch.testing.assert_close(inputs[0][i, 7:], model.decoder.queries[0])


def test_a_mask_may_name_the_visible_patches(model: GMAE) -> None:
    mask = random_masks(3, 16, 12)
    visible = visible_patches(mask)
    assert visible.tolist() == [[i for i in range(16) if not row[i]] for row in mask.tolist()]
    with torch.no_grad():
        assert_same(model(pictures(3), visible), model(pictures(3), mask), rtol=0, atol=0)


def test_hiding_nothing_is_no_mask(model: GMAE) -> None:
    with torch.no_grad():
        assert_same(model(pictures(), torch.zeros(2, 16, dtype=torch.bool)), model(pictures()), rtol=0, atol=0)


def test_features_of_visible_patches_know_where_they_are(model: GMAE) -> None:
    """The same pixels in another patch are another picture."""
    images = pictures(1)
    with torch.no_grad():
        assert differ(model(images.roll(16, -1)), model(images))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(2, 15, dtype=torch.bool), r"mask is torch.bool \[2, 15\], expected torch.bool \[2, 16\]"),
        (torch.zeros(1, 16, dtype=torch.bool), r"mask is torch.bool \[1, 16\]"),
        (torch.zeros(2, 16), r"mask is torch.float32 \[2, 16\]"),
        (torch.arange(32).view(2, 16) < 8, "must hide the same number"),  # 8 of the first, none of the second
    ],
    ids=["patches", "batch", "dtype", "unequal rows"],
)
def test_masks_that_do_not_fit_are_refused(model: GMAE, mask: torch.Tensor, message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message):
        model(pictures(), mask)


@pytest.mark.parametrize(("height", "width"), [(60, 64), (64, 72), (0, 64)])
def test_sizes_off_the_patch_grid_are_refused(model: GMAE, height: int, width: int) -> None:
    with pytest.raises(GmaeToolsError, match="multiples of 16 px"):
        model(torch.zeros(1, 3, height, width))


# --- against others' implementations ------------------------------------------------------------------


def mae_position_embedding(width: int, side: int) -> np.ndarray:
    """`[side^2, width]` as the official MAE defines it, computed entry by entry.

    The first half of the channels encodes the column, the second the row; in each half sines come before cosines,
    with frequencies 10000^(-i / (width / 4)).
    """
    quarter = width // 4
    table = np.empty((side * side, width))
    for row in range(side):
        for column in range(side):
            for i in range(quarter):
                frequency = 1 / 10000 ** (i / quarter)
                for half, place in enumerate((column, row)):
                    table[row * side + column, 2 * half * quarter + i] = np.sin(place * frequency)
                    table[row * side + column, (2 * half + 1) * quarter + i] = np.cos(place * frequency)
    return table


@pytest.mark.parametrize(("side", "width"), [(14, 192), (4, 48), (3, 4)])
def test_position_embeddings_are_those_of_mae(side: int, width: int) -> None:
    np.testing.assert_allclose(
        patch_positions((side, side), side, width), mae_position_embedding(width, side), atol=1e-6
    )


def test_position_embeddings_of_other_grids_lie_in_between() -> None:
    """A grid twice as fine: its patches lie a quarter of a coarse patch before and behind the coarse ones."""
    fine = patch_positions((8, 4), 4, 48).view(8, 4, 48)
    for row in range(4):
        for offset, y in ((0, row - 0.25), (1, row + 0.25)):
            expected = sincos_embedding(torch.tensor([[column, y] for column in range(4)]), 48)
            torch.testing.assert_close(fine[2 * row + offset], expected)


def test_position_embeddings_of_a_wide_picture_span_the_same_range() -> None:
    """3:2 pictures are squeezed into the square the model knows: no position is further out than in training."""
    wide, square = (
        patch_positions((14, 21), 14, 64).view(14, 21, 64),
        patch_positions((14, 14), 14, 64).view(14, 14, 64),
    )
    torch.testing.assert_close(wide[:, 10], sincos_embedding(torch.tensor([[6.5, y] for y in range(14)]), 64))
    assert torch.equal(wide[..., 32:], square[:, :1, 32:].expand(-1, 21, -1))  # rows as before


def timm_encoder(model: GMAE) -> VisionTransformer:
    """timm's own ViT with the weights of our encoder and MAE's position embedding."""
    config = model.config
    vit = VisionTransformer(
        img_size=config.image_size, patch_size=config.patch_size, embed_dim=config.width, depth=config.depth,
        num_heads=config.heads, num_classes=0, global_pool="token",
    )  # fmt: skip
    positions = mae_position_embedding(config.width, config.image_size // config.patch_size)
    positions = np.concatenate([np.zeros((1, config.width)), positions])  # the class token has none
    state = {**model.encoder.state_dict(), "pos_embed": torch.from_numpy(positions)[None].float()}
    vit.load_state_dict(state)  # strict: the names are the same
    return vit.eval()


def test_the_encoder_is_timms_vision_transformer(model: GMAE) -> None:
    images = pictures()
    normalised = (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        expected = timm_encoder(model).forward_features(normalised)
        actual = model.encode(images)
    assert actual.std() > 0.5
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_masked_encoder_is_timms_on_the_visible_patches(model: GMAE) -> None:
    images, mask = pictures(), random_masks(2, 16, 12)
    vit = timm_encoder(model)
    with torch.no_grad():
        embedded = vit.patch_embed((images - model.rgb_mean) / model.rgb_std) + vit.pos_embed[:, 1:]
        kept = torch.stack([embedded[i, ~mask[i]] for i in range(2)])
        expected = vit.norm(vit.blocks(torch.cat([vit.cls_token.expand(2, -1, -1), kept], 1)))
        torch.testing.assert_close(model.encode(images, mask), expected, rtol=1e-4, atol=1e-5)


# --- queries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 60, 64, 100, 128, 256, 1000])
def test_queries_start_evenly_spread(count: int) -> None:
    places = query_places(count)
    assert places.shape == (count, 2)
    assert len({tuple(place) for place in places.tolist()}) == count
    torch.testing.assert_close(places[:, 1].abs().max(), places[:, 1].max())  # as far up as down
    assert places.abs().max() < 1
    lengths = [int((places[:, 1] == y).sum()) for y in places[:, 1].unique()]
    assert max(lengths) - min(lengths) <= 1 and abs(len(lengths) - count**0.5) <= 0.5 + 1e-9
    for y in places[:, 1].unique():  # every row is centred, with even gaps
        row = places[places[:, 1] == y][:, 0]
        torch.testing.assert_close(row, -row.flip(0))
        torch.testing.assert_close(row.diff(), torch.full((len(row) - 1,), 2 / len(row)))


def test_a_square_number_of_queries_sits_on_patch_centres() -> None:
    x = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    torch.testing.assert_close(query_places(16), torch.cartesian_prod(x, x).flip(-1))
    config = GMAEConfig.preset("nano")
    decoder = GMAE(config).decoder
    torch.testing.assert_close(decoder.queries[0], patch_positions((4, 4), 4, config.decoder_width))


def test_gaussians_start_where_their_query_is() -> None:
    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano"))
    with torch.no_grad():
        model.decoder.head.weight.zero_()
        gaussians = model(pictures())
    torch.testing.assert_close(gaussians.means[0, :, :2], query_places(16).repeat_interleave(4, 0), atol=1e-5, rtol=0)
    assert (gaussians.means[..., 2] == 0).all()  # all at the same depth: none is in front by birth
    torch.testing.assert_close(gaussians.quats, torch.tensor([1.0, 0, 0, 0]).expand(2, 64, 4))
    assert gaussians.scales.max() < model.config.max_scale / 4


def test_queries_may_start_from_chance_without_places() -> None:
    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano", query_start="random", queries=400))
    queries = model.decoder.queries.detach()
    assert float(queries.std()) == pytest.approx(0.02, rel=0.05) and abs(float(queries.mean())) < 1e-3
    assert "decoder.anchors" not in model.state_dict()
    with torch.no_grad():
        model.decoder.head.weight.zero_()
        assert (model(pictures()).means == 0).all()  # the middle of the cube, whichever the query


@pytest.mark.parametrize(("queries", "per_query"), [(16, 1), (4, 16), (7, 9)])
def test_queries_and_gaussians_per_query_are_separate(queries: int, per_query: int) -> None:
    model = GMAE(GMAEConfig.preset("nano", queries=queries, gaussians_per_query=per_query))
    lengths: list[int] = []
    model.decoder.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    with torch.no_grad():
        assert model(pictures()).k == model.config.k == queries * per_query
    assert lengths == [1 + 16 + queries]  # what the decoder pays for


def test_gaussians_of_a_query_are_neighbours_in_k(model: GMAE) -> None:
    with torch.no_grad():
        before = model(pictures())
        assert model.decoder.anchors is not None
        old = model.decoder.anchors.clone()
        model.decoder.anchors[3] += 1
        after = model(pictures())
        model.decoder.anchors.copy_(old)
    moved = (before.means != after.means).any(-1).any(0).nonzero().flatten()
    assert moved.tolist() == [12, 13, 14, 15]


# --- learning -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["grid", "random"])
def test_every_parameter_learns(start: str) -> None:
    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano", query_start=start))
    gaussians = model(pictures(), random_masks(2, 16, 8))
    weights = torch.Generator().manual_seed(1)
    sum(
        (getattr(gaussians, name) * torch.randn(getattr(gaussians, name).shape, generator=weights)).sum()
        for name in ATTRIBUTES
    ).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    head = model.decoder.head.weight.grad
    assert head is not None and (head.abs().amax(1) > 0).all()  # each of the 14 numbers of each Gaussian


def test_evaluation_is_deterministic_and_seeds_repeat() -> None:
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(GMAE(GMAEConfig.preset("nano")).eval())
    with torch.no_grad():
        first, again, same, other = (model(pictures()) for model in (models[0], *models))
    assert_same(first, again, rtol=0, atol=0)
    assert_same(first, same, rtol=0, atol=0)
    assert not torch.equal(first.means, other.means)


def test_inference_mode_does_not_spoil_training(model: GMAE) -> None:
    """The cached position embeddings may be born in inference mode, and then serve in training."""
    patch_positions.cache_clear()
    with torch.inference_mode():
        expected = model(pictures())
    gaussians = model(pictures(), random_masks(2, 16, 8))
    gaussians.means.sum().backward()
    model.zero_grad()
    assert_same(model(pictures()).detach(), expected)


# --- configurations ---------------------------------------------------------------------------------------


def vit_size(width: int, depth: int) -> int:
    """Parameters of a plain ViT's blocks, last norm and class token."""
    return depth * (12 * width**2 + 13 * width) + 3 * width


@pytest.mark.parametrize(
    ("preset", "encoder", "decoder", "k"),
    [
        ("nano", (48, 2), (48, 1), 64),
        ("tiny", (192, 6), (192, 4), 768),
        ("small", (384, 12), (256, 4), 1024),
        ("base", (768, 12), (512, 8), 256),
    ],
)
def test_presets(preset: str, encoder: tuple[int, int], decoder: tuple[int, int], k: int) -> None:
    with torch.device("meta"):
        model = GMAE(GMAEConfig.preset(preset))
    config = model.config
    assert config.k == k
    assert model.camera == Camera("gmae", distance=8.0, focal=1.0, blur=0.3)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder)]
    patches = (16 * 16 * 3 + 1) * encoder[0]
    queries = config.queries * decoder[0] + 2 * config.queries  # with their anchors
    ends = (encoder[0] + 1) * decoder[0] + 14 * config.gaussians_per_query * decoder[0] + 14
    assert sizes == [vit_size(*encoder) + patches, vit_size(*decoder) - decoder[0] + queries + ends]


@pytest.mark.parametrize(("preset", "published"), [("small", 22_050_664), ("base", 86_567_656)])
def test_encoders_have_the_size_of_vits(preset: str, published: int) -> None:
    """DeiT-S and ViT-B/16, less their classifier of 1,000 classes and the position embedding that they learn."""
    with torch.device("meta"):
        model = GMAE(GMAEConfig.preset(preset))
    width = model.config.width
    size = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert size == published - 1000 * (width + 1) - 197 * width


def test_configurations_survive_json() -> None:
    config = GMAEConfig.preset("small", queries=100, camera=Camera("pinhole", distance=3.0, focal=2.0, blur=0.1))
    assert GMAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert GMAEConfig.from_dict({}) == GMAEConfig()
    chance = GMAEConfig.preset("nano", query_start="random")
    assert GMAEConfig.from_dict(json.loads(json.dumps(chance.to_dict()))) == chance != GMAEConfig.preset("nano")


def test_younger_settings_are_written_only_where_they_matter() -> None:
    """So that older versions read whatever they can compute, and older runs are resumed."""
    values = GMAEConfig().to_dict()
    assert list(values)[-1] == "camera" and list(values["camera"]) == ["kind", "distance", "focal", "blur"]
    config = GMAEConfig(
        camera=Camera(cy=0.5, shear=True), rotations="shoemake", decoder_positions="previous", order="slots",
        background_grey=0.0,
    )  # fmt: skip
    assert list(config.to_dict()["camera"]) == ["kind", "distance", "focal", "blur", "cy", "shear"]
    assert GMAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 48}, "widht"),
        ({"width": 50}, "width 50 must be a multiple of 4 and of its 3 heads"),
        ({"decoder_heads": 5}, "width 192 must be a multiple"),
        ({"width": "192"}, "width is '192', must be a whole number above 0"),
        ({"queries": 0}, "queries is 0"),
        ({"queries": 3.5}, "queries is 3.5"),
        ({"gaussians_per_query": -1}, "gaussians_per_query is -1"),
        ({"depth": True}, "depth is True"),
        ({"heads": 0}, "heads is 0"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"image_size": 100}, "image size 100 is not a multiple of the patch size 16"),
        ({"max_scale": 0}, "max_scale is 0"),
        ({"max_scale": None}, "max_scale is None"),
        ({"camera": {"kind": "fisheye"}}, "fisheye"),
        ({"camera": {"zoom": 1}}, "zoom"),
        ({"camera": None}, "not a configuration"),
        ({"camera": {"distance": "8"}}, "camera: distance, focal and blur must be numbers"),
        ({"camera": {"blur": 1e7}}, r"all 1e\+06 at most"),
        ({"width": 1 << 17}, "width is 131072, must be a whole number above 0, 65,536 at most"),
        ({"depth": 257}, "256 at most"),
        ({"image_size": 4096, "patch_size": 8}, "65,536 patches at most"),
        ({"queries": 2000, "gaussians_per_query": 2000}, "Gaussians at most, not 4,000,000"),
        ({"rotations": "euler"}, "rotations is 'euler', must be quaternion or shoemake"),
        ({"decoder_positions": None}, "decoder_positions is None, must be own or previous"),
        ({"order": ["slots"]}, r"order is \['slots'\], must be queries or slots"),
        ({"background_grey": 2}, "background_grey is 2, must be a number in 0..1"),
        ({"background_grey": "white"}, "background_grey is 'white'"),
        ({"query_start": "circle"}, "query_start is 'circle', must be grid or random"),
        ({"query_start": ["grid"]}, "query_start is"),
        ({"max_scale": 1001}, "max_scale is 1001, must be above 0, 1000 at most"),
    ],
)
def test_impossible_configurations_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message) as caught:
        GMAEConfig.from_dict(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "changes"), [("huge", {}), ("tiny", {"name": 3}), ("tiny", {"wdith": 3})])
def test_impossible_presets_are_refused(name: str, changes: dict[str, int]) -> None:
    with pytest.raises(GmaeToolsError, match="preset"):
        GMAEConfig.preset(name, **changes)
