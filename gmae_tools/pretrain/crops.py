"""Crops of photographs, cut out and resized on the device that trains.

Resizing a picture takes two matrix products, one for the columns and one for the rows, with the weights of Pillow's
antialiased bicubic filter. A fast GPU resizes a hundred thousand pictures a second that way. It receives uint8 pixels,
which are a quarter of the bytes of float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gmae_tools.datasets.photos import PhotoStore

_SHARE_OF_DEVICE = 0.25  # photographs that need at most this share of a GPU's free memory are kept there
# Pictures resized at once. A GPU needs many; on a CPU the padding to the largest crop among them would only cost time.
_AT_ONCE, _AT_ONCE_ON_CPU = 512, 1


class Cropper:
    """Cuts crops out of photographs and resizes them on a device.

    Args:
        photos: The photographs.
        device: Where the pictures are wanted.
        resident: Whether all photographs are kept in the device's memory, so that only boxes are sent there. By
            default they are on a CUDA GPU, if they need at most a quarter of its free memory.
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
        """Cut crops out of photographs and resize them.

        Args:
            indices: Numbers of the photographs `[B]`.
            boxes, mirrored: Crops as `sample_crops` returns them.
            size: Side of the pictures in pixels.

        Returns:
            uint8 `[B, 3, size, size]`, on the device.
        """
        at_once = _AT_ONCE_ON_CPU if self.device.type == "cpu" else _AT_ONCE
        parts = (slice(start, start + at_once) for start in range(0, len(indices), at_once))
        return torch.cat([self._crops(indices[part], boxes[part], mirrored[part], size) for part in parts])

    def _crops(self, indices: np.ndarray, boxes: np.ndarray, mirrored: np.ndarray, size: int) -> Tensor:
        cut = self._cut_mapped if self._pixels is None else self._cut_resident
        sides, turned = send(boxes[:, 2:], self.device), send(mirrored, self.device)
        return resize_batch(cut(indices, boxes), sides, turned, size)

    def _cut_mapped(self, indices: np.ndarray, boxes: np.ndarray) -> Tensor:
        """Pixels inside the boxes from the mapped file, uint8 `[B, H, W, 3]`. The padding is uninitialised."""
        height, width = boxes[:, 2:].max(0)
        cuda = self.device.type == "cuda"
        pixels = torch.empty(len(boxes), height, width, 3, dtype=torch.uint8, pin_memory=cuda)
        for target, index, (top, left, h, w) in zip(pixels.numpy(), indices, boxes.tolist(), strict=True):
            target[:h, :w] = self.photos.photo(index)[top : top + h, left : left + w]
        return pixels.to(self.device, non_blocking=True)

    def _cut_resident(self, indices: np.ndarray, boxes: np.ndarray) -> Tensor:
        """Pixels inside the boxes from the device's memory. The padding repeats the last row and column."""
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
        pixels: Pictures in the upper left corner of uint8 `[B, H, W, 3]`; the rest is padding, which is ignored.
        sides: Height and width of each picture without its padding, int64 `[B, 2]`.
        mirrored: True where left and right are swapped, bool `[B]`.
        size: Height and width of the result in pixels.

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
    return values.add_(0.5).floor_().clamp_(0, 255)  # halves are rounded up, as in Pillow


def bicubic_weights(lengths: Tensor, size: int, padded: int) -> Tensor:
    """Weights of Pillow's antialiased bicubic filter (Catmull-Rom, widened when shrinking).

    Args:
        lengths: Numbers of input pixels, int64 `[B]`.
        size: Number of output pixels.
        padded: Length of the rows in memory, at least the largest of `lengths`.

    Returns:
        float32 `[B, size, padded]`: the share of each input pixel in each output pixel, 0 for pixels of the padding.

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
    """Copy values to a device as a tensor, without waiting until they have arrived."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
