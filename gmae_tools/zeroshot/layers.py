"""Depth layers: pictures of the nearest k Gaussians together, and of each of N depth groups alone.

Source: GMAE (arXiv 2501.03229), Figures 6 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gmae_tools.camera import Splats, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.pictures import StreamingSimilarity
from gmae_tools.splatting import Backend, rasterize, rasterize_groups
from gmae_tools.system.kernels import kernel
from gmae_tools.zeroshot.strips import strips

if TYPE_CHECKING:
    from gmae_tools.scene import Scene

STRIP_PIXELS = 1 << 16  # with six prefixes and eight layers a strip takes about 15 MB; larger strips are slower
STRIP_ROWS = 16  # height of the renderer's tiles, at which strips begin


@dataclass(frozen=True)
class LayerPictures:
    """Pictures of one set of Gaussians, whole or in a strip of rows.

    Colours are RGB in [0, 1], premultiplied by alpha, without a background; alphas are in [0, 1].

    Attributes:
        firsts, first_alphas: the nearest k Gaussians for each of S numbers k, `[S, 3, H, W]` and `[S, 1, H, W]`.
        layers, layer_alphas: each of N depth groups alone, nearest first, `[N, 3, H, W]` and `[N, 1, H, W]`.
        depth: expected distance of all Gaussians from the camera in scene units, 0 where there are none, `[H, W]`.
        alpha: coverage by all Gaussians, `[H, W]`.
    """

    firsts: Tensor
    first_alphas: Tensor
    layers: Tensor
    layer_alphas: Tensor
    depth: Tensor
    alpha: Tensor


def over(images: Tensor, alphas: Tensor, background: Tensor) -> np.ndarray:
    """Lay premultiplied pictures `[n, 3, H, W]` with alphas `[n, 1, H, W]` on a colour `[3]`, uint8 `[n, H, W, 3]`."""
    arrays = (tensor.detach().cpu().float().contiguous().numpy() for tensor in (images, alphas[:, 0], background))
    return np.asarray(_over(*arrays))


@kernel()
def _over(images: np.ndarray, alphas: np.ndarray, background: np.ndarray) -> np.ndarray:
    """All float32 and contiguous: `[n, 3, H, W]`, `[n, H, W]` and `[3]`. One pass instead of torch's five."""
    count, _, height, width = images.shape
    found = np.empty((count, height, width, 3), np.uint8)
    for number in range(count):
        for y in range(height):
            for x in range(width):
                left = np.float32(1) - alphas[number, y, x]
                for channel in range(3):
                    color = images[number, channel, y, x] + left * background[channel]
                    level = color * np.float32(255) + np.float32(0.5)
                    found[number, y, x, channel] = min(max(level, np.float32(0)), np.float32(255))
    return found


def layer_sizes(k: int, layers: int) -> list[int]:
    """Return the sizes of `layers` depth groups of `k` Gaussians, as equal as possible, the larger ones first."""
    return [k // layers + (layer < k % layers) for layer in range(layers)]


def render_layers(scene: Scene, ks: Sequence[int], layers: int, *, backend: Backend = "auto") -> LayerPictures:
    """Render all pictures whole, in the size of the scene; arguments and errors are those of `layer_strips`."""
    strips = [strip for _, strip in layer_strips(scene, ks, layers, backend=backend)]
    parts = ([getattr(strip, field.name) for strip in strips] for field in fields(LayerPictures))
    return LayerPictures(*(torch.cat(part, -2) for part in parts))


def layer_strips(
    scene: Scene, ks: Sequence[int], layers: int, *, backend: Backend = "auto"
) -> Iterator[tuple[slice, LayerPictures]]:
    """Render all pictures in strips from top to bottom, so that memory does not grow with the height of the picture.

    All prefixes and the depth map together take one pass over the Gaussians; all layers take another.

    Args:
        scene: a scene whose Gaussians may be in any order.
        ks: numbers of nearest Gaussians to render together, 1 to K, in any order.
        layers: number N of depth groups, 1 to K.
        backend: renderer, as for `splatting.rasterize`.

    Yields:
        The rows of each strip and its pictures, on the Gaussians' device.

    Raises:
        GmaeToolsError: a number is less than 1 or more than K, or a parameter is not finite.
    """
    _check(scene.k, ks, layers)
    height, width = scene.height, scene.width
    splats = project(scene.gaussians.sort_by_depth(), scene.camera, height, width)
    ends = sorted({*ks, scene.k})
    wanted = [ends.index(end) for end in (*ks, scene.k)]
    steps = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    most = max(STRIP_ROWS, STRIP_PIXELS // width // STRIP_ROWS * STRIP_ROWS)
    for rows, strip, (parts, groups) in strips(splats, height, most, steps, layer_sizes(scene.k, layers)):
        size = (rows.stop - rows.start, width)
        alone = rasterize(_groups_as_batch(strip, groups), *size, backend=backend)
        firsts, alphas, depth = _render_prefixes(strip, *size, parts, wanted, backend)
        yield rows, LayerPictures(firsts, alphas[:-1], alone.image, alone.alpha, depth, alphas[-1, 0])


def _check(count: int, ks: Sequence[int], layers: int) -> None:
    for k in ks:
        if not 1 <= k <= count:
            raise GmaeToolsError(f"cannot render the nearest {k} of {count} Gaussians")
    if not 1 <= layers <= count:
        raise GmaeToolsError(f"cannot cut {count} Gaussians into {layers} layers")


def _render_prefixes(
    splats: Splats, height: int, width: int, sizes: Sequence[int], wanted: list[int], backend: Backend
) -> tuple[Tensor, Tensor, Tensor]:
    """Render several numbers of the nearest splats, and all splats, in one pass.

    `sizes` are the differences between consecutive numbers, `wanted` the indices of the S numbers, and of all. Returned
    are colours `[S, 3, H, W]`, alphas of these and of all `[S + 1, 1, H, W]`, and the depth of all `[H, W]`.
    """
    splats = replace(splats, colors=torch.cat([splats.colors, splats.depths[..., None]], -1))
    groups = rasterize_groups(splats, height, width, sizes, backend=backend)
    images, alphas = _running_sums(groups.images[0]), _running_sums(groups.alphas[0])
    depth = images[-1, 3] / alphas[-1, 0].clamp_min(1e-10)
    return images[wanted[:-1], :3], alphas[wanted], depth


def _running_sums(parts: Tensor) -> Tensor:
    """Return `parts.cumsum(0)`, which takes the place of the parts unless a gradient needs them."""
    if parts.requires_grad:
        return parts.cumsum(0)
    for nearer, part in pairwise(parts):
        part += nearer
    return parts


def _groups_as_batch(splats: Splats, sizes: Sequence[int]) -> Splats:
    """Turn consecutive groups of one set into a batch `[N, M, ...]`, filled up to the largest size M with opacity 0."""
    lengths = torch.tensor(sizes, device=splats.means.device)[:, None]
    offsets = torch.arange(max(sizes), device=splats.means.device)
    index = (lengths.cumsum(0) - lengths + offsets).clamp_max(splats.means.shape[1] - 1)  # [N, M]
    batch = splats.map(lambda tensor: tensor[0, index])
    return replace(batch, opacities=batch.opacities * (offsets < lengths))


# --- scores of the pictures of the nearest Gaussians ---------------------------------------------------


@dataclass(frozen=True)
class PrefixScore:
    """The scores of the picture of the nearest k Gaussians, rounded to 8 bits.

    Attributes:
        psnr: PSNR against the photograph in dB; None without a photograph.
        ssim: SSIM against the photograph, at most 1; None without a photograph.
        coverage: mean alpha, in [0, 1].
    """

    psnr: float | None
    ssim: float | None
    coverage: float


class PrefixScores:
    """Computes the scores of S pictures strip by strip, with the same result as for whole pictures.

    Args:
        scene: the scene of the pictures, with its photograph if there is one.
        count: S, the number of pictures.
    """

    def __init__(self, scene: Scene, count: int) -> None:
        self._photo, self._pixels = scene.photo, scene.height * scene.width
        self._similarity = [
            StreamingSimilarity(scene.height, scene.width) for _ in range(count if scene.photo is not None else 0)
        ]
        self._covered = torch.zeros(count, dtype=torch.float64)

    def jobs(self, rows: slice, pictures: np.ndarray, alphas: Tensor) -> list[Callable[[], None]]:
        """Take the next strip of all pictures.

        Args:
            rows: rows of the strip in the picture.
            pictures: the strip of each picture, uint8 RGB `[S, h, W, 3]`.
            alphas: the strip of each alpha, `[S, 1, h, W]` in [0, 1].

        Returns:
            Functions that the caller must call before the next strip; they are independent of each other, so that
            threads may share them.
        """
        self._covered += alphas.double().sum((1, 2, 3)).cpu()
        if self._photo is None:
            return []
        photo = self._photo[rows]
        return [partial(each.update, picture, photo) for each, picture in zip(self._similarity, pictures, strict=True)]

    def compute(self) -> list[PrefixScore]:
        """Return the score of each picture, after all strips."""
        coverage = (self._covered / self._pixels).tolist()
        if self._photo is None:
            return [PrefixScore(None, None, covered) for covered in coverage]
        found = [each.compute() for each in self._similarity]
        return [PrefixScore(*figures, covered) for figures, covered in zip(found, coverage, strict=True)]


def score_prefixes(
    scene: Scene, ks: Sequence[int], background: Tensor, *, backend: Backend = "auto"
) -> list[PrefixScore]:
    """Score the pictures of the nearest k Gaussians for several k.

    Args:
        scene: a scene whose Gaussians may be in any order, with its photograph if there is one.
        ks: numbers of nearest Gaussians, 1 to K.
        background: RGB in [0, 1] behind the Gaussians, `[3]`.
        backend: renderer, as for `splatting.rasterize`.

    Returns:
        One score for each of `ks`.
    """
    scores = PrefixScores(scene, len(ks))
    for rows, strip in layer_strips(scene, ks, 1, backend=backend):
        pictures = over(strip.firsts, strip.first_alphas, background)
        for job in scores.jobs(rows, pictures, strip.first_alphas):
            job()
    return scores.compute()
