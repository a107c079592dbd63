"""The Gaussian masked autoencoder, top to bottom.

A ViT encoder sees the visible patches; a light ViT decoder sees its tokens and a set of learned queries; each query
predicts a few 3-D Gaussians. Shapes: B pictures, N patches, V visible patches, Q queries, G Gaussians a query, K = Q G.
Source: GMAE (arXiv 2501.03229), on MAE's encoder (arXiv 2111.06377).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from gmae_tools.camera import LATER, Camera
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.hub import HubModel
from gmae_tools.masks import hidden_patches, keep_visible
from gmae_tools.positions import patch_positions, query_places, sincos_embedding
from gmae_tools.system.precision import working_dtype
from gmae_tools.system.torchvision_ops import ensure_torchvision

ensure_torchvision()
from timm.layers import Attention, PatchEmbed  # type: ignore[attr-defined]  # noqa: E402
from timm.models.vision_transformer import Block  # noqa: E402

if TYPE_CHECKING:
    from typing_extensions import Self

# ImageNet statistics of RGB in [0, 1], as MAE and timm use them.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)

# What a query says about one Gaussian: centre, scales, rotation, colour, opacity (before activation).
_PARAMETERS = {"means": 3, "scales": 3, "quats": 4, "colors": 3, "opacities": 1}
_RAW = sum(_PARAMETERS.values())  # 14

# Beyond these a configuration is a mistake, or meant to exhaust whoever loads it.
_MOST = {"image_size": 4096, "depth": 256, "decoder_depth": 256}  # other whole numbers:
_MOST_OTHERS = _MOST_PATCHES = 1 << 16
_MOST_GAUSSIANS = 1 << 20
_LARGEST_SCALE = 1000.0

# Where queries come from (each from a place of its own on a grid, or all from chance), and conventions; `GMAEConfig`
# says what they mean.
QueryStart = Literal["grid", "random"]
Rotations = Literal["quaternion", "shoemake"]
DecoderPositions = Literal["own", "previous"]
Order = Literal["queries", "slots"]
_CHOICES = {
    "query_start": QueryStart, "rotations": Rotations, "decoder_positions": DecoderPositions, "order": Order,
}  # fmt: skip
_CHANCE = 0.02  # standard deviation of random queries, as the paper draws them

_SMALL_START = -1.5  # raw scale at the start: a fifth of the largest; large footprints optimise badly at first


@dataclass(frozen=True)
class AutoencoderConfig:
    """Everything needed to build a masked autoencoder again; it travels with the weights.

    Args:
        image_size: side in pixels of the squares trained on; the unit of the position embedding.
        patch_size: side of a patch in pixels.
        width, depth, heads: of the encoder.
        decoder_width, decoder_depth, decoder_heads: of the decoder.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 192
    depth: int = 6
    heads: int = 3
    decoder_width: int = 192
    decoder_depth: int = 4
    decoder_heads: int = 3

    def __post_init__(self) -> None:
        for field_ in dataclasses.fields(self):
            value = getattr(self, field_.name)
            most = _MOST.get(field_.name, _MOST_OTHERS)
            if field_.type == "int" and not (type(value) is int and 0 < value <= most):
                raise GmaeToolsError(f"{field_.name} is {value!r}, must be a whole number above 0, {most:,} at most")
            if field_.type == "bool" and type(value) is not bool:
                raise GmaeToolsError(f"{field_.name} is {value!r}, must be true or false")
        if self.image_size % self.patch_size:
            raise GmaeToolsError(f"image size {self.image_size} is not a multiple of the patch size {self.patch_size}")
        if (self.image_size // self.patch_size) ** 2 > _MOST_PATCHES:
            raise GmaeToolsError(f"a picture is {_MOST_PATCHES:,} patches at most, this would be more")
        for width, heads in ((self.width, self.heads), (self.decoder_width, self.decoder_heads)):
            if width % heads or width % 4:
                raise GmaeToolsError(f"width {width} must be a multiple of 4 and of its {heads} heads")

    @classmethod
    def preset(cls, name: str, /, **changes: Any) -> Self:
        """`nano` (for tests), `tiny`, `small`, `base` or `paper`.

        `base` has the sizes of the paper's model, a ViT-B with 256 queries of one Gaussian each, and its largest scale,
        but queries that start spread over the picture, each with an anchor there, quaternions of any length, and a
        camera without shear. `paper` is the paper's in these, too. What no switch changes is told in
        `gmae_tools.pretrain.paper`.

        Raises:
            GmaeToolsError: there is no such preset, or a change is impossible.
        """
        if name not in _PRESETS:
            raise GmaeToolsError(f"preset {name!r} is unknown: use one of {', '.join(_PRESETS)}")
        known = {field_.name for field_ in dataclasses.fields(cls)}
        try:
            return cls(**{key: value for key, value in _PRESETS[name].items() if key in known} | changes)
        except TypeError as error:
            raise GmaeToolsError(f"preset {name!r}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; what is marked `LATER` only where it is not the default."""
        return _plain(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            GmaeToolsError: a key is unknown or a value impossible.
        """
        try:
            values = {key: Camera(**value) if key == "camera" else value for key, value in values.items()}
            return cls(**values)
        except TypeError as error:
            name = cls.__name__.removesuffix("Config")
            raise GmaeToolsError(f"not a configuration of this version's {name}: {error}") from error


def _plain(config: Any) -> dict[str, Any]:
    values = {each.name: (each, getattr(config, each.name)) for each in dataclasses.fields(config)}
    return {
        name: _plain(value) if dataclasses.is_dataclass(value) else value
        for name, (each, value) in values.items()
        if "later" not in each.metadata or value != each.default
    }


@dataclass(frozen=True)
class GMAEConfig(AutoencoderConfig):
    """What to draw, besides.

    The last four settings are conventions in which the authors' code differs; `formats/authors.py` sets them.

    Args:
        queries: learned query tokens Q. The decoder's cost grows with them.
        gaussians_per_query: G; K = Q G Gaussians cost the decoder no more than Q.
        max_scale: c in scale = c sigmoid(s). The paper's best is 1 (14 px at 224); 2 learns faster on small models.
        camera: how the Gaussians are looked at.
        query_start: `grid` spreads the queries over the picture: each starts as the sine-cosine code of a place and has
            a learned anchor there, to which the head's x and y are added. That is a prior on places which the paper
            does without. `random`, as in the paper: queries start from N(0, 0.02), and there are no anchors.
        rotations: what the head's four numbers of a rotation are: a `quaternion` of any length; or, the first three,
            sigmoids in [0, 1]^3 for `shoemake_quaternion`.
        decoder_positions: with which position the decoder sees a visible patch: its `own`; or that of the `previous`
            patch (zeros for the first), as where a table is read whose first row is the class token's.
        order: of the K Gaussians: those of one query side by side (`queries`), or those of one slot (`slots`).
        background_grey: in [0, 1], behind the Gaussians where the model's picture is drawn; 1 is white.
    """

    queries: int = 64
    gaussians_per_query: int = 12
    max_scale: float = 2.0
    camera: Camera = field(default_factory=Camera)
    query_start: QueryStart = field(default="grid", metadata=LATER)
    rotations: Rotations = field(default="quaternion", metadata=LATER)
    decoder_positions: DecoderPositions = field(default="own", metadata=LATER)
    order: Order = field(default="queries", metadata=LATER)
    background_grey: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in get_args(known):
                raise GmaeToolsError(f"{name} is {value!r}, must be {' or '.join(get_args(known))}")
        if type(self.background_grey) not in (int, float) or not 0 <= self.background_grey <= 1:
            raise GmaeToolsError(f"background_grey is {self.background_grey!r}, must be a number in 0..1")
        if type(self.max_scale) not in (int, float) or not 0 < self.max_scale <= _LARGEST_SCALE:
            raise GmaeToolsError(f"max_scale is {self.max_scale!r}, must be above 0, {_LARGEST_SCALE:g} at most")
        if not isinstance(self.camera, Camera):
            raise GmaeToolsError(f"camera is {self.camera!r}, must be a Camera")
        if self.k > _MOST_GAUSSIANS:
            raise GmaeToolsError(f"a picture has {_MOST_GAUSSIANS:,} Gaussians at most, not {self.k:,}")

    @property
    def k(self) -> int:
        """Number of Gaussians a picture."""
        return self.queries * self.gaussians_per_query

    @property
    def conventions(self) -> tuple[str, ...]:
        """What the numbers of a decoder mean; two decoders of different conventions cannot share weights."""
        return self.rotations, self.decoder_positions, self.order


_PRESETS: dict[str, dict[str, Any]] = {
    "nano": {
        "image_size": 64, "width": 48, "depth": 2, "heads": 3,
        "decoder_width": 48, "decoder_depth": 1, "decoder_heads": 3, "queries": 16, "gaussians_per_query": 4,
    },
    "tiny": {},
    "small": {
        "width": 384, "depth": 12, "heads": 6,
        "decoder_width": 256, "decoder_depth": 4, "decoder_heads": 8, "queries": 128, "gaussians_per_query": 8,
    },
    "base": {
        "width": 768, "depth": 12, "heads": 12,
        "decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16, "queries": 256, "gaussians_per_query": 1,
        "max_scale": 1.0,
    },
}  # fmt: skip
# The paper's model in every switch that there is: queries start from chance and without places, rotations are
# Shoemake's, and footprints have the shear of a full EWA projection.
_PRESETS["paper"] = {
    **_PRESETS["base"], "query_start": "random", "rotations": "shoemake", "camera": Camera(shear=True),
}  # fmt: skip


class Encoder(nn.Module):
    """A plain ViT over the visible patches; its parameters are named as in timm and MAE.

    Attributes:
        mask_token: None, or a parameter `[1, 1, D]` that a model has put here: it stands in for every hidden patch.
    """

    mask_token: nn.Parameter | None

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.patch_embed = PatchEmbed(
            None, config.patch_size, embed_dim=config.width, strict_img_size=False, flatten=True
        )
        self.blocks = nn.ModuleList(vit_block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.register_parameter("mask_token", None)

    def forward(self, images: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        x = self.embed(images, positions, mask)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def embed(self, images: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """What the first block sees, `[B, 1 + V, D]`; with mask tokens `[B, 1 + N, D]`."""
        x = self.patch_embed(images) + positions  # [B, N, D]
        if mask is not None and self.mask_token is not None:
            hidden = hidden_patches(mask, x.shape[1])[..., None]
            x = torch.where(hidden, (self.mask_token + positions).to(x.dtype), x)
        elif mask is not None:
            x = keep_visible(x, mask)  # [B, V, D]
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)


class Decoder(nn.Module):
    """Queries read Gaussians out of the encoder's tokens."""

    def __init__(self, config: GMAEConfig) -> None:
        super().__init__()
        self.order = config.order
        queries, anchors = _starting_queries(config)
        self.embed = nn.Linear(config.width, config.decoder_width)
        self.queries = nn.Parameter(queries)
        self.blocks = nn.ModuleList(
            vit_block(config.decoder_width, config.decoder_heads) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(config.decoder_width, eps=1e-6)
        self.head = nn.Linear(config.decoder_width, config.gaussians_per_query * _RAW, bias=False)
        # Only the place in the picture starts from the query: a depth of its own would print the queries' grid on
        # the depth map.
        self.anchors = None if anchors is None else nn.Parameter(anchors)
        self.bias = nn.Parameter(_starting_bias())  # [14]

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.embed(tokens)  # [B, 1 + V, D']
        x = torch.cat([x[:, :1], x[:, 1:] + positions, self.queries.expand(len(x), -1, -1)], 1)  # [B, 1 + V + Q, D']
        for block in self.blocks:
            x = block(x)
        queries = self.norm(x[:, -self.queries.shape[1] :])  # [B, Q, D']
        raw = self.head(queries)
        raw = raw.to(working_dtype(raw)).unflatten(-1, (-1, _RAW)) + self.bias  # [B, Q, G, 14]
        if self.anchors is not None:
            raw = torch.cat([raw[..., :2] + self.anchors, raw[..., 2:]], -1)
        if self.order == "slots":
            raw = raw.transpose(1, 2)  # [B, G, Q, 14]
        return raw.flatten(1, 2)  # [B, K, 14]


class Autoencoder(nn.Module, HubModel):
    """The encoder of visible patches, and a decoder of its features: what GMAE and MAE share.

    A new model is float32 whatever torch's default dtype is. `model.to(dtype)` has it compute in another; it takes
    pictures of any floating dtype, and what it predicts is float32 or, by a float64 model, float64.

    Args:
        decoder: makes the decoder from a configuration.
    """

    rgb_mean: Tensor
    rgb_std: Tensor

    def __init__(self, config: AutoencoderConfig, decoder: Callable[[Any], nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = decoder(config)
        for name, values in (("rgb_mean", RGB_MEAN), ("rgb_std", RGB_STD)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)
        self.float()
        self.apply(initialise)
        nn.init.normal_(self.encoder.cls_token, std=0.02)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Any:
        """What `decode` makes of pictures.

        Args:
            images: RGB in [0, 1] `[B, 3, H, W]`, sides multiples of the patch size, at any aspect ratio.
            mask: True where a patch is hidden from the encoder, bool `[B, N]`, rows of equal sums; or the patches that
                stay visible as `visible_patches` numbers them, which spares a GPU the counting; None hides none.
        """
        return self.decode(self.encode(images, mask), self.grid(images), mask)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches.

        Raises:
            GmaeToolsError: the sides are not multiples of the patch size.
        """
        height, width = images.shape[-2:]
        patch = self.config.patch_size
        if height % patch or width % patch or not height or not width:
            raise GmaeToolsError(f"pictures of {height} x {width} px: both sides must be multiples of {patch} px")
        return height // patch, width // patch

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features `[B, 1 + V, width]`: the class token, then the visible patches in row-major order."""
        positions = self.positions(self.grid(images), self.config.width)
        return self.encoder(self.normalise(images), positions, mask)

    def normalise(self, images: Tensor) -> Tensor:
        """What the encoder sees of RGB in [0, 1] `[B, 3, H, W]`: in units of ImageNet's statistics, and its dtype."""
        return ((images - self.rgb_mean) / self.rgb_std).to(self.dtype)

    def decode(self, tokens: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> Any:
        """What the decoder makes of features; `grid` and `mask` say which patch each token is of."""
        raise NotImplementedError

    def positions(self, grid: tuple[int, int], width: int) -> Tensor:
        """Position embeddings `[N, width]` of the patches."""
        side = self.config.image_size // self.config.patch_size
        return patch_positions(grid, side, width, self.rgb_mean.device).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights."""
        return self.encoder.cls_token.dtype


class GMAE(Autoencoder, tags=["gmae", "gaussian-splatting"]):
    """Pictures in, Gaussians out: `gaussians = model(images)`."""

    config: GMAEConfig
    decoder: Decoder

    def __init__(self, config: GMAEConfig) -> None:
        super().__init__(config, Decoder)

    @property
    def camera(self) -> Camera:
        """The camera the model was trained with."""
        return self.config.camera

    def decode(self, tokens: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> Gaussians:
        """Gaussians from features; `grid` and `mask` say which patch each token is of."""
        positions = self.positions(grid, self.config.decoder_width)
        if self.config.decoder_positions == "previous":
            positions = torch.cat([torch.zeros_like(positions[:1]), positions[:-1]])
        positions = positions[None].expand(len(tokens), -1, -1)
        raw = self.decoder(tokens, positions if mask is None else keep_visible(positions, mask))
        return activate(raw, self.config.max_scale, self.config.rotations)


def activate(raw: Tensor, max_scale: float, rotations: Rotations = "quaternion") -> Gaussians:
    """Turn the head's `[B, K, 14]` into Gaussians: sigmoids, and a quaternion left for `project` to normalise."""
    means, scales, quats, colors, opacities = raw.split(list(_PARAMETERS.values()), -1)
    return Gaussians(
        means=2 * means.sigmoid() - 1,
        scales=max_scale * scales.sigmoid(),
        quats=shoemake_quaternion(quats[..., :3]) if rotations == "shoemake" else quats,
        colors=colors.sigmoid(),
        opacities=opacities[..., 0].sigmoid(),
    )


def shoemake_quaternion(raw: Tensor) -> Tensor:
    """Unit quaternions (w, x, y, z) `[..., 4]` of three numbers `[..., 3]`, whose sigmoids are u, v, w.

    sqrt(1 - u) (sin, cos)(2 pi v) and sqrt(u) (sin, cos)(2 pi w): rotations are uniform where u, v, w are.
    Source: Shoemake, "Uniform random rotations", Graphics Gems III, 1992.
    """
    _, v, w = (2 * math.pi * raw.sigmoid()).unbind(-1)
    near, far = (-raw[..., 0]).sigmoid().sqrt(), raw[..., 0].sigmoid().sqrt()  # 1 - u itself would round to 0
    return torch.stack([near * v.sin(), near * v.cos(), far * w.sin(), far * w.cos()], -1)


def vit_block(width: int, heads: int) -> nn.Module:
    """One block of a ViT as MAE has it: the layers normalise with an epsilon of 1e-6."""
    return Block(width, heads, mlp_ratio=4, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))  # type: ignore[arg-type]


def use_plain_attention(model: nn.Module) -> None:
    """Have attention computed by matrix products; torch's fused one is several times slower on CPUs in bf16.

    It is the backward pass that is slow, so this is for training alone.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused_attn = False  # type: ignore[misc]  # final for TorchScript alone


def _starting_queries(config: GMAEConfig) -> tuple[Tensor, Tensor | None]:
    """Query tokens `[1, Q, D']`, and the raw x and y `[Q, 1, 2]` from which their Gaussians start, if from a grid."""
    if config.query_start == "random":
        return torch.randn(1, config.queries, config.decoder_width) * _CHANCE, None
    places = query_places(config.queries)  # [Q, 2] in [-1, 1]
    grid = config.image_size // config.patch_size
    tokens = sincos_embedding((places + 1) * grid / 2 - 0.5, config.decoder_width)
    return tokens[None], torch.logit((places + 1) / 2, eps=1e-3)[:, None]


def _starting_bias() -> Tensor:
    bias = torch.zeros(_RAW)
    bias[3:6] = _SMALL_START
    bias[6] = 1.0  # the identity rotation (w, x, y, z) = (1, 0, 0, 0)
    return bias


def initialise(module: nn.Module) -> None:
    """Give a part of a model the random weights that it starts from; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)  # MAE's initialisation
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    elif isinstance(module, Decoder):  # applied after its children
        nn.init.normal_(module.head.weight, std=0.02)
