"""Random crops of photographs: drawn for a whole batch at once, cut out and resized on the device that trains.

Resizing is two matrix products a picture, with the weights of Pillow's antialiased bicubic filter: one for the columns,
one for the rows. A fast GPU makes a hundred thousand pictures a second that way, and gets them from uint8 pixels, a
quarter of the bytes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gmae_tools.datasets.photos import PhotoStore
from gmae_tools.pretrain.sampling import Stream, uniforms

_TRIES = 10
_RATIO = (3 / 4, 4 / 3)
_SHARE_OF_DEVICE = 0.25  # photographs that need no more of a GPU's free memory are kept there
# Pictures resized at once: a GPU wants many. A CPU wants none of the padding to the largest crop among them.
_AT_ONCE, _AT_ONCE_ON_CPU = 512, 1


def draw_crops(
    shapes: np.ndarray, samples: np.ndarray, seed: int, scale: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Crops by the rule of torchvision's `RandomResizedCrop`, half of them mirrored.

    Up to ten times a share of the area (uniform in `scale`) and an aspect ratio (width to height, log-uniform in
    3/4..4/3) are drawn until the crop fits; else the largest central crop of such a ratio is taken.

    Args:
        shapes: `[B, 2]`, heights and widths of the photographs in pixels.
        samples: `[B]` sample numbers; all chance follows from them and the seed.
        seed: of the run.
        scale: smallest and largest share of the area.

    Returns:
        int64 `[B, 4]` (top, left, height, width) in pixels, and bool `[B]`, True where the picture is mirrored.
    """
    chances = uniforms(seed, Stream.CROP, samples, 2 * _TRIES + 3)
    height, width = shapes[:, :1], shapes[:, 1:]  # [B, 1]
    area = height * width * (scale[0] + (scale[1] - scale[0]) * chances[:, :_TRIES])  # [B, tries]
    low, high = np.log(_RATIO)
    aspect = np.exp(low + (high - low) * chances[:, _TRIES : 2 * _TRIES])
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    row, first = np.arange(len(shapes)), fits.argmax(1)
    drawn = np.stack([h[row, first], w[row, first]], 1)  # [B, 2]
    largest = np.rint(np.concatenate([width / _RATIO[0], height * _RATIO[1]], 1))
    sides = np.where(fits.any(1)[:, None], drawn, largest.clip(1, shapes)).astype(np.int64)
    room = shapes - sides
    places = np.floor(chances[:, -3:-1] * (room + 1)).astype(np.int64)
    corners = np.where(fits.any(1)[:, None], places, room // 2)
    return np.concatenate([corners, sides], 1), chances[:, -1] < 0.5


class Cropper:
    """Cuts crops out of photographs and resizes them on a device.

    Args:
        photos: the photographs.
        device: where the pictures are wanted.
        resident: keep all photographs in the device's memory, so that nothing but numbers travels there. By default
            on a CUDA GPU if they need at most a quarter of what is free.
    """

    def __init__(self, photos: PhotoStore, device: torch.device, resident: bool | None = None) -> None:
        self.photos, self.device = photos, device
        if resident is None:
            resident = device.type == "cuda" and photos.size <= _SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]
        self._pixels: Tensor | None = None
        if resident:
            pixels = torch.from_file(str(photos.path), shared=False, size=photos.size, dtype=torch.uint8)
            self._pixels = pixels.view(-1, 3).to(device)

    def crops(self, indices: np.ndarray, boxes: np.ndarray, mirrored: np.ndarray, size: int) -> Tensor:
        """Pictures uint8 `[B, 3, size, size]` of the photographs `indices` `[B]`; boxes as `draw_crops` gives them."""
        at_once = _AT_ONCE_ON_CPU if self.device.type == "cpu" else _AT_ONCE
        parts = (slice(start, start + at_once) for start in range(0, len(indices), at_once))
        return torch.cat([self._crops(indices[part], boxes[part], mirrored[part], size) for part in parts])

    def _crops(self, indices: np.ndarray, boxes: np.ndarray, mirrored: np.ndarray, size: int) -> Tensor:
        cut = self._cut_mapped if self._pixels is None else self._cut_resident
        sides, turned = send(boxes[:, 2:], self.device), send(mirrored, self.device)
        return resize_batch(cut(indices, boxes), sides, turned, size)

    def _cut_mapped(self, indices: np.ndarray, boxes: np.ndarray) -> Tensor:
        """Pixels inside the boxes from the mapped file, uint8 `[B, H, W, 3]`; what pads them is anything."""
        height, width = boxes[:, 2:].max(0)
        cuda = self.device.type == "cuda"
        pixels = torch.empty(len(boxes), height, width, 3, dtype=torch.uint8, pin_memory=cuda)
        for target, index, (top, left, h, w) in zip(pixels.numpy(), indices, boxes.tolist(), strict=True):
            target[:h, :w] = self.photos.photo(index)[top : top + h, left : left + w]
        return pixels.to(self.device, non_blocking=True)

    def _cut_resident(self, indices: np.ndarray, boxes: np.ndarray) -> Tensor:
        """The same from the device's memory; what pads them repeats the last row and column."""
        assert self._pixels is not None
        height, width = (int(side) for side in boxes[:, 2:].max(0))
        stride = self.photos.shapes[indices, 1]
        first = self.photos.starts[indices] // 3 + boxes[:, 0] * stride + boxes[:, 1]  # pixel in the corner of the box
        first, stride, h, w = (send(values, self.device)[:, None] for values in (first, stride, *boxes[:, 2:].T))
        rows = first + torch.arange(height, device=self.device).minimum(h - 1) * stride  # [B, H]
        columns = torch.arange(width, device=self.device).minimum(w - 1)  # [B, W]
        return self._pixels[rows[:, :, None] + columns[:, None]]


def resize_batch(pixels: Tensor, sides: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """Resize pictures of different sizes as Pillow does (bicubic, antialiased), columns first.

    As in Pillow, colours are rounded to whole levels after the columns and again after the rows.

    Args:
        pixels: uint8 `[B, H, W, 3]`; of each picture only the corner that `sides` tells of counts.
        sides: int64 `[B, 2]`, height and width of each.
        mirrored: bool `[B]`, True where left and right are to be swapped.
        size: height and width wanted.

    Returns:
        uint8 `[B, 3, size, size]`.
    """
    batch, height, width, _ = pixels.shape
    across = bicubic_weights(sides[:, 1], size, width)  # [B, size, W]
    across = torch.where(mirrored[:, None, None], across.flip(1), across)
    down = bicubic_weights(sides[:, 0], size, height)  # [B, size, H]
    rows = pixels.transpose(2, 3).reshape(batch, height * 3, width).float()
    rows = _whole_levels(rows @ across.mT).view(batch, height, 3 * size)
    pictures = _whole_levels(down @ rows).view(batch, size, 3, size)
    return pictures.transpose(1, 2).to(torch.uint8)


def _whole_levels(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)  # half a level goes up, as in Pillow


def bicubic_weights(lengths: Tensor, size: int, padded: int) -> Tensor:
    """Weights of Pillow's antialiased bicubic filter (Catmull-Rom, widened when shrinking).

    Args:
        lengths: int64 `[B]`, pixels of each row to be resized.
        size: pixels that it is to have.
        padded: length of the rows in memory, at least the largest of `lengths`.

    Returns:
        float32 `[B, size, padded]`: each output pixel is this sum of input pixels; 0 for pixels beyond the length.

    Source: Pillow's `precompute_coeffs` (src/libImaging/Resample.c).
    """
    step = lengths[:, None].float() / size  # [B, 1]
    centres, places = (torch.arange(count, dtype=step.dtype, device=step.device) for count in (size, padded))
    centres = (centres + 0.5) * step  # [B, size]
    distance = (places + 0.5 - centres[..., None]) / step.clamp_min(1)[..., None]  # [B, size, padded]
    weights = _catmull_rom(distance.abs_().clamp_max_(2)) * (places < lengths[:, None])[:, None]
    return weights / weights.sum(-1, keepdim=True)


def _catmull_rom(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2 at distances in [0, 2]."""
    return torch.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)


def send(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The values as a tensor on the device, without waiting for them to arrive."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
