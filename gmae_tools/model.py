"""The Gaussian masked autoencoder, top to bottom.

A ViT encoder processes the visible patches; a light ViT decoder processes the encoder's tokens together with learned
queries; each query predicts a few 3-D Gaussians.

Shapes: B pictures, N patches, V visible patches, Q queries, G Gaussians per query, K = Q G Gaussians.

Source: GMAE (arXiv 2501.03229), on MAE's encoder (arXiv 2111.06377).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints, overload

import torch
from torch import Tensor, nn

from gmae_tools.camera import LATER, Camera
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import COLUMNS, LAYOUT, PACKED, Gaussians
from gmae_tools.hub import HubModel
from gmae_tools.system.precision import Precision, working_dtype
from gmae_tools.vit import (
    LayerNorm,
    PatchEmbed,
    ViTBlock,
    hidden_patches,
    keep_visible,
    patch_positions,
    query_places,
    sincos_embedding,
)

if TYPE_CHECKING:
    import os

    import numpy as np
    from PIL import Image
    from typing_extensions import Self

    from gmae_tools.photographs import Photograph
    from gmae_tools.scene import Scene
    from gmae_tools.zeroshot.views import Views

# ImageNet statistics of RGB in [0, 1], as MAE and timm use them.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)

# A configuration beyond these limits is a mistake, or made to exhaust the machine that loads it.
_MOST = {"image_size": 4096, "depth": 256, "decoder_depth": 256}
_MOST_OTHERS = _MOST_PATCHES = 1 << 16  # bound of all other whole numbers, and of the patches of a picture
_MOST_GAUSSIANS = 1 << 20
_LARGEST_SCALE = 1000.0

# Choices of `GMAEConfig`, which documents them.
QueryStart = Literal["grid", "random"]
Rotations = Literal["quaternion", "shoemake"]
DecoderPositions = Literal["own", "previous"]
Order = Literal["queries", "slots"]
_INIT_STD = 0.02  # standard deviation of tokens and queries that start at random; MAE's and the paper's

_SMALL_START = -1.5  # raw scale at the start: a fifth of the largest; large footprints optimise badly at first


@dataclass(frozen=True)
class AutoencoderConfig:
    """Everything that is needed to build a masked autoencoder; it is saved with the weights.

    Args:
        image_size: Side in pixels of the squares that the model is trained on; it sets the unit of the positions.
        patch_size: Side of a patch in pixels.
        width, depth, heads: Width, number of blocks and heads of the encoder.
        decoder_width, decoder_depth, decoder_heads: The same numbers for the decoder.
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
        for name, kind in get_type_hints(type(self)).items():
            if problem := _problem(getattr(self, name), kind, _MOST.get(name, _MOST_OTHERS)):
                raise GmaeToolsError(f"{name} is {getattr(self, name)!r}, must be {problem}")
        if self.image_size % self.patch_size:
            raise GmaeToolsError(f"image size {self.image_size} is not a multiple of the patch size {self.patch_size}")
        if (self.image_size // self.patch_size) ** 2 > _MOST_PATCHES:
            raise GmaeToolsError(f"a picture is {_MOST_PATCHES:,} patches at most, this would be more")
        for width, heads in ((self.width, self.heads), (self.decoder_width, self.decoder_heads)):
            if width % heads or width % 4:
                raise GmaeToolsError(f"width {width} must be a multiple of 4 and of its {heads} heads")

    @classmethod
    def preset(cls, name: str, /, **changes: Any) -> Self:
        """A named configuration: `nano` (for tests), `tiny`, `small`, `base` or `paper`.

        `base` has the sizes of the paper's model (a ViT-B with 256 queries of one Gaussian each) and its largest scale,
        but its queries start on a grid over the picture, each with an anchor, its quaternions have any length, and its
        camera has no shear. `paper` follows the paper in these three points, too. `gmae_tools.pretrain.paper` lists the
        remaining differences.

        Args:
            name: Name of the preset.
            changes: Settings that replace those of the preset.

        Raises:
            GmaeToolsError: There is no such preset, or a change is impossible.
        """
        if name not in _PRESETS:
            raise GmaeToolsError(f"preset {name!r} is unknown: use one of {', '.join(_PRESETS)}")
        known = {field_.name for field_ in dataclasses.fields(cls)}
        try:
            return cls(**{key: value for key, value in _PRESETS[name].items() if key in known} | changes)
        except TypeError as error:
            raise GmaeToolsError(f"preset {name!r}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The settings in plain types, for JSON; those marked `LATER` are omitted if they have their default."""
        return _plain(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """A configuration from the result of `to_dict`.

        Raises:
            GmaeToolsError: A key is unknown or a value impossible.
        """
        try:
            types = get_type_hints(cls)
            parts: dict[str, Any] = {name: kind for name, kind in types.items() if dataclasses.is_dataclass(kind)}
            return cls(**{key: parts[key](**value) if key in parts else value for key, value in values.items()})
        except TypeError as error:
            name = cls.__name__.removesuffix("Config")
            raise GmaeToolsError(f"not a configuration of this version's {name}: {error}") from error


def _problem(value: object, kind: Any, most: int) -> str | None:
    """A description of valid values of a setting, or None if the value is valid; whole numbers lie in 1..most."""
    if kind is int and not (type(value) is int and 0 < value <= most):
        return f"a whole number above 0, {most:,} at most"
    if kind is bool and type(value) is not bool:
        return "true or false"
    if kind is float and type(value) not in (int, float):
        return "a number"
    if get_origin(kind) is Literal and value not in get_args(kind):
        return " or ".join(get_args(kind))
    if dataclasses.is_dataclass(kind) and not isinstance(value, kind):  # type: ignore[arg-type]
        return f"a {kind.__name__}"  # type: ignore[union-attr]
    return None


def _plain(config: Any) -> dict[str, Any]:
    values = {each.name: (each, getattr(config, each.name)) for each in dataclasses.fields(config)}
    return {
        name: _plain(value) if dataclasses.is_dataclass(value) else value
        for name, (each, value) in values.items()
        if "later" not in each.metadata or value != each.default
    }


@dataclass(frozen=True)
class GMAEConfig(AutoencoderConfig):
    """The configuration of a GMAE.

    In the last four settings the authors' code has other values, which `formats/authors.py` sets.

    Args:
        queries: Number Q of learned query tokens. The cost of the decoder grows with Q.
        gaussians_per_query: Number G of Gaussians per query. The decoder's cost hardly depends on it.
        max_scale: C in scale = c sigmoid(s). The paper's best is 1 (14 px at 224); 2 learns faster on small models.
        camera: The camera that renders the Gaussians.
        query_start: `grid` spreads the queries over the picture: each starts as the sine-cosine code of a place and has
            a learned anchor there, to which the head's x and y are added; the paper has no such prior. `random`, as in
            the paper, starts the queries from N(0, 0.02) and has no anchors.
        rotations: The meaning of the head's four numbers for a rotation: a `quaternion` of any length; or `shoemake`:
            the sigmoids of the first three are the arguments of `shoemake_quaternion`.
        decoder_positions: The position that the decoder adds to a visible patch: its `own`; or that of the `previous`
            patch (zeros for the first), as in code that reads a table whose first row belongs to the class token.
        order: Order of the K Gaussians: by query and then by slot (`queries`), or by slot and then by query (`slots`).
        background_grey: Grey level in [0, 1] behind the Gaussians in the model's picture; 1 is white.
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
        if not 0 <= self.background_grey <= 1:
            raise GmaeToolsError(f"background_grey is {self.background_grey!r}, must be a number in 0..1")
        if not 0 < self.max_scale <= _LARGEST_SCALE:
            raise GmaeToolsError(f"max_scale is {self.max_scale!r}, must be above 0, {_LARGEST_SCALE:g} at most")
        if self.k > _MOST_GAUSSIANS:
            raise GmaeToolsError(f"a picture has {_MOST_GAUSSIANS:,} Gaussians at most, not {self.k:,}")

    @property
    def k(self) -> int:
        """Number of Gaussians of a picture."""
        return self.queries * self.gaussians_per_query

    @property
    def conventions(self) -> tuple[str, ...]:
        """The conventions of the decoder's numbers; decoders whose conventions differ cannot share weights."""
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
# The paper's model in all settings: queries start at random and without anchors, rotations are Shoemake's, and
# footprints have the shear of a full EWA projection.
_PRESETS["paper"] = {
    **_PRESETS["base"], "query_start": "random", "rotations": "shoemake", "camera": Camera(shear=True),
}  # fmt: skip


class Encoder(nn.Module):
    """A plain ViT over the visible patches; its parameters are named as in timm and MAE."""

    mask_token: nn.Parameter | None  # [1, 1, D], takes the place of every hidden patch in models that set it

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.patch_embed = PatchEmbed(config.patch_size, config.width)
        self.blocks = nn.ModuleList(ViTBlock(config.width, config.heads) for _ in range(config.depth))
        self.norm = LayerNorm(config.width)
        self.register_parameter("mask_token", None)

    def forward(
        self, images: Tensor, positions: Tensor, mask: Tensor | None, return_blocks: bool = False
    ) -> Tensor | list[Tensor]:
        x = self.embed(images, positions, mask)
        stages = [x]
        for block in self.blocks:
            x = block(x)
            if return_blocks:
                stages.append(x)
        x = self.norm(x)
        return [*stages, x] if return_blocks else x

    def embed(self, images: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """The tokens that enter the first block, `[B, 1 + V, D]`; with mask tokens `[B, 1 + N, D]`."""
        x = self.patch_embed(images) + positions  # [B, N, D]
        if mask is not None and self.mask_token is not None:
            hidden = hidden_patches(mask, x.shape[1])[..., None]
            x = torch.where(hidden, (self.mask_token + positions).to(x.dtype), x)
        elif mask is not None:
            x = keep_visible(x, mask)  # [B, V, D]
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)


class Decoder(nn.Module):
    """A ViT over the encoder's tokens and the queries, whose outputs become the raw numbers of the Gaussians."""

    def __init__(self, config: GMAEConfig) -> None:
        super().__init__()
        self.order = config.order
        queries, anchors = _starting_queries(config)
        self.embed = nn.Linear(config.width, config.decoder_width)
        self.queries = nn.Parameter(queries)
        self.blocks = nn.ModuleList(
            ViTBlock(config.decoder_width, config.decoder_heads) for _ in range(config.decoder_depth)
        )
        self.norm = LayerNorm(config.decoder_width)
        self.head = nn.Linear(config.decoder_width, config.gaussians_per_query * PACKED, bias=False)
        # Anchors hold x and y alone: an anchor in depth would show the grid of queries in the depth map.
        self.anchors = None if anchors is None else nn.Parameter(anchors)
        bias = torch.zeros(PACKED)
        bias[COLUMNS["scales"]] = _SMALL_START
        bias[COLUMNS["quats"].start] = 1.0  # w of the identity rotation
        self.bias = nn.Parameter(bias)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.embed(tokens)  # [B, 1 + V, D']
        x = torch.cat([x[:, :1], x[:, 1:] + positions, self.queries.expand(len(x), -1, -1)], 1)  # [B, 1 + V + Q, D']
        for block in self.blocks:
            x = block(x)
        queries = self.norm(x[:, -self.queries.shape[1] :])  # [B, Q, D']
        raw = self.head(queries)
        raw = raw.to(working_dtype(raw)).unflatten(-1, (-1, PACKED)) + self.bias  # [B, Q, G, 14]
        if self.anchors is not None:
            raw = torch.cat([raw[..., :2] + self.anchors, raw[..., 2:]], -1)
        if self.order == "slots":
            raw = raw.transpose(1, 2)  # [B, G, Q, 14]
        return raw.flatten(1, 2)  # [B, K, 14]


class Autoencoder(nn.Module, HubModel):
    """An encoder of visible patches and a decoder of its features: the base of GMAE, MAE, R-MAE and C-MAE.

    A new model is float32, independent of torch's default dtype, and `model.to(dtype)` changes that. It takes
    pictures of any floating dtype; its predictions are float32, or float64 where the model is.

    Args:
        config: Configuration of the model.
        decoder: Function that builds the decoder from the configuration.
    """

    rgb_mean: Tensor
    rgb_std: Tensor
    precision: Precision = "float32"  # arithmetic of the transformer in `prediction`; the weights stay as they are

    def __init__(self, config: AutoencoderConfig, decoder: Callable[[Any], nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = decoder(config)
        self._set_statistics()
        self.float()
        self.apply(initialise)
        init_normal(self.encoder.cls_token)

    def _set_statistics(self) -> None:
        for name, values in (("rgb_mean", RGB_MEAN), ("rgb_std", RGB_STD)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)

    def __repr__(self) -> str:
        facts = "".join(f"  {name}: {value}\n" for name, value in self.facts().items())
        return f"{type(self).__name__}(\n{facts})"

    @classmethod
    def with_weights(cls, config: Any, weights: Mapping[str, Tensor]) -> Self:
        """A model on the CPU with copies of these weights, all of them; no random numbers are generated."""
        with torch.device("meta"):
            model = cls(config)  # type: ignore[call-arg]  # subclasses choose their decoder
        model._set_statistics()
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
        model.load_state_dict(copies, assign=True)
        return model

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Any:
        """Encode pictures and decode their features.

        Args:
            images: RGB in [0, 1] `[B, 3, H, W]`, sides multiples of the patch size, at any aspect ratio.
            mask: True where a patch is hidden from the encoder, bool `[B, N]`, the same number in every row; or the
                numbers of the visible patches, int64 `[B, V]`, from `visible_patches`; None hides no patch.

        Returns:
            What `decode` returns.
        """
        return self.decode(self.encode(images, mask), self.grid(images), mask)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches.

        Raises:
            GmaeToolsError: The sides are not multiples of the patch size.
        """
        height, width = images.shape[-2:]
        patch = self.config.patch_size
        if height % patch or width % patch or not height or not width:
            raise GmaeToolsError(f"pictures of {height} x {width} px: both sides must be multiples of {patch} px")
        return height // patch, width // patch

    @overload
    def encode(self, images: Tensor, mask: Tensor | None = None) -> Tensor: ...

    @overload
    def encode(self, images: Tensor, mask: Tensor | None = None, *, return_blocks: Literal[True]) -> list[Tensor]: ...

    def encode(
        self, images: Tensor, mask: Tensor | None = None, *, return_blocks: bool = False
    ) -> Tensor | list[Tensor]:
        """Features `[B, 1 + V, width]`: the class token, then the visible patches in row-major order.

        Args:
            images, mask: Arguments of `forward`.
            return_blocks: Whether to return a list of depth + 2 tensors instead: the input of the first block, the
                output of each block, and the features, which are the last output after the encoder's `norm`.
        """
        positions = self.positions(self.grid(images), self.config.width)
        return self.encoder(self.normalise(images), positions, mask, return_blocks)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise RGB in [0, 1] `[B, 3, H, W]` by ImageNet's statistics, in the dtype of the weights."""
        return ((images - self.rgb_mean) / self.rgb_std).to(self.dtype)

    def decode(self, tokens: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> Any:
        """Decode features; `grid` and `mask` say which patch each token belongs to."""
        raise NotImplementedError

    def positions(self, grid: tuple[int, int], width: int) -> Tensor:
        """Position embeddings `[N, width]` of the patches."""
        side = self.config.image_size // self.config.patch_size
        return patch_positions(grid, side, width, self.rgb_mean.device).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.encoder.cls_token.dtype


class GMAE(Autoencoder, tags=["gmae", "gaussian-splatting"]):
    """Pictures in, Gaussians out: `gaussians = model(images)`."""

    config: GMAEConfig
    decoder: Decoder

    def __init__(self, config: GMAEConfig) -> None:
        super().__init__(config, Decoder)

    @property
    def camera(self) -> Camera:
        """The camera with which the model was trained."""
        return self.config.camera

    @overload
    def predict(
        self, photos: str | os.PathLike[str] | Image.Image, *, size: tuple[int, int] | None = None
    ) -> Scene: ...

    @overload
    def predict(self, photos: list[Any] | tuple[Any, ...], *, size: tuple[int, int] | None = None) -> list[Scene]: ...

    @overload
    def predict(self, photos: np.ndarray | Tensor, *, size: tuple[int, int] | None = None) -> Any: ...

    def predict(self, photos: Any, *, size: tuple[int, int] | None = None) -> Scene | list[Scene]:
        """Predict the scene of a photograph, or a list of the scenes of several; see `prediction.predict`.

        The model sees the whole photograph once. `look` also shows it parts of the photograph.

        Args:
            photos: A path, a PIL picture, an array `[H, W, 3]` or a tensor `[3, H, W]`; or several: a list of any of
                these, an array `[B, H, W, 3]`, or a tensor `[B, 3, H, W]`.
            size: Height and width in pixels at which the model sees them; by default the square of its training.

        Raises:
            GmaeToolsError: A photograph cannot be read, or is of another type.

        Example:
            >>> model.predict(["one.jpg", "two.png"])[0].edges(layers=16).sheet().save("edges.png")
        """
        from gmae_tools.prediction import predict  # imported here, because that module imports this one

        return predict(photos, self, size=size)

    def look(self, photo: Photograph, **looks: Any) -> Views:
        """Show the model overlapping tiles of a photograph, as `gmae-tools edges` does; readouts join their maps.

        Args:
            photo: One photograph, in any form that `predict` takes.
            looks: Settings of `zeroshot.views.Looks`, such as `scales=(3, 4)`, `flip=True` and `refine=50`.

        Example:
            >>> model.look("photo.jpg").edges("closed-regions")  # float32 [H, W], the map that the command writes
        """
        from gmae_tools.arguments import whole_numbers
        from gmae_tools.photographs import photograph
        from gmae_tools.zeroshot.views import Looks, look

        if "scales" in looks:
            looks["scales"] = whole_numbers(looks["scales"], "scales")
        return look(self, photograph(photo), Looks(**looks))

    def decode(self, tokens: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> Gaussians:
        """Gaussians from features; `grid` and `mask` say which patch each token belongs to."""
        positions = self.positions(grid, self.config.decoder_width)
        if self.config.decoder_positions == "previous":
            positions = torch.cat([torch.zeros_like(positions[:1]), positions[:-1]])
        positions = positions[None].expand(len(tokens), -1, -1)
        raw = self.decoder(tokens, positions if mask is None else keep_visible(positions, mask))
        return activate(raw, self.config.max_scale, self.config.rotations)


def activate(raw: Tensor, max_scale: float, rotations: Rotations = "quaternion") -> Gaussians:
    """Convert the head's outputs `[B, K, 14]` to Gaussians by sigmoids; `project` normalises the quaternions."""
    means, scales, quats, colors, opacities = raw.split(list(LAYOUT.values()), -1)
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


def _starting_queries(config: GMAEConfig) -> tuple[Tensor, Tensor | None]:
    """Query tokens `[1, Q, D']`, and on a grid the raw x and y `[Q, 1, 2]` of their Gaussians, else None."""
    if torch.get_default_device().type == "meta":  # arithmetic on this device would import torch._dynamo
        queries = torch.empty(1, config.queries, config.decoder_width)
        return queries, None if config.query_start == "random" else torch.empty(config.queries, 1, 2)
    if config.query_start == "random":
        return torch.randn(1, config.queries, config.decoder_width) * _INIT_STD, None
    places = query_places(config.queries)  # [Q, 2] in [-1, 1]
    grid = config.image_size // config.patch_size
    tokens = sincos_embedding((places + 1) * grid / 2 - 0.5, config.decoder_width)
    return tokens[None], torch.logit((places + 1) / 2, eps=1e-3)[:, None]


def initialise(module: nn.Module) -> None:
    """Set the initial random weights of one module; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)  # MAE's initialisation
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    elif isinstance(module, Decoder):  # applied after its children
        init_normal(module.head.weight)


def init_normal(parameter: Tensor) -> None:
    """Fill a parameter from N(0, 0.02), as in MAE.

    Parameters on the meta device have no values; filling one would import torch._dynamo, which takes long.
    """
    if not parameter.is_meta:
        nn.init.normal_(parameter, std=_INIT_STD)
