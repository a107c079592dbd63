"""`Gaussians`, the data that all parts of the toolkit exchange: models predict them, analyses take them."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import one_line
from gmae_tools.system.files import atomic_path

LAYOUT = {"means": 3, "scales": 3, "quats": 4, "colors": 3, "opacities": 1}
"""Number of values of each parameter of a Gaussian, in the order in which they are packed."""

PACKED = sum(LAYOUT.values())
"""Number of values of all parameters of a Gaussian: 14."""

COLUMNS = {
    name: slice(end - size, end) for (name, size), end in zip(LAYOUT.items(), accumulate(LAYOUT.values()), strict=True)
}
"""Positions of each parameter among the 14 packed values."""


@dataclass(frozen=True, repr=False)
class Gaussians:
    """A batch of B sets of K activated 3-D Gaussians in normalised units.

    The picture spans [-1, 1] in x (to the right) and in y (downwards), whatever its size or aspect ratio; z grows
    away from the viewer and lies in [-1, 1] for GMAE models.

    Attributes:
        means: Centres `[B, K, 3]`.
        scales: Standard deviations along the principal axes `[B, K, 3]`, > 0.
        quats: Rotations as quaternions (w, x, y, z) `[B, K, 4]` of any length but 0.
        colors: RGB in [0, 1] `[B, K, 3]`.
        opacities: Peak opacities in [0, 1] `[B, K]`.

    Raises:
        GmaeToolsError: The shapes do not fit together.
    """

    means: Tensor
    scales: Tensor
    quats: Tensor
    colors: Tensor
    opacities: Tensor

    def __post_init__(self) -> None:
        leading = tuple(self.means.shape[:2])
        for name, size in LAYOUT.items():
            expected = leading if name == "opacities" else (*leading, size)
            if tuple(getattr(self, name).shape) != expected:
                shape = list(getattr(self, name).shape)
                raise GmaeToolsError(f"Gaussians: {name} has shape {shape}, expected {list(expected)}")

    def __repr__(self) -> str:
        kind = str(self.means.dtype).removeprefix("torch.")
        return f"Gaussians({self.batch_size} x {self.k:,}, {kind} on {self.device})"

    @property
    def batch_size(self) -> int:
        """B, the number of sets."""
        return self.means.shape[0]

    @property
    def k(self) -> int:
        """K, the number of Gaussians in each set."""
        return self.means.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.means.device

    def map(self, function: Callable[[Tensor], Tensor]) -> Gaussians:
        """Apply `function` to each of the five tensors."""
        return Gaussians(*(function(getattr(self, field.name)) for field in fields(self)))

    def __getitem__(self, item: SupportsIndex | slice) -> Gaussians:
        """Sets chosen along the batch. A single index keeps the batch dimension: `[1, K, ...]`."""
        if not isinstance(item, slice):
            index = operator.index(item)
            if not -self.batch_size <= index < self.batch_size:
                raise IndexError(f"set {index} of a batch of {self.batch_size}")  # also what ends a `for` loop
            item = slice(index, index + 1 or None)
        return self.map(lambda tensor: tensor[item])

    def select(self, index: Tensor | slice) -> Gaussians:
        """Gaussians chosen along K.

        Args:
            index: A slice, indices `[k]` or a boolean mask `[K]` for all sets, or indices `[B, k]` that differ by set.
        """
        if isinstance(index, Tensor) and index.ndim == 2:
            rows = torch.arange(self.batch_size, device=index.device)[:, None]
            return self.map(lambda tensor: tensor[rows, index])
        return self.map(lambda tensor: tensor[:, index])

    def sort_by_depth(self) -> Gaussians:
        """The same Gaussians, nearest first; equal depths keep their order."""
        return self.select(torch.argsort(self.means[..., 2], dim=1, stable=True))

    def to(self, device: torch.device | str) -> Gaussians:
        """Move all tensors to `device`."""
        return self.map(lambda tensor: tensor.to(device))

    def detach(self) -> Gaussians:
        """The same values, cut from the autograd graph."""
        return self.map(Tensor.detach)

    @staticmethod
    def stack(parts: Sequence[Gaussians]) -> Gaussians:
        """Join batches of equal K along the batch dimension.

        Raises:
            GmaeToolsError: There are no parts, or they differ in K.
        """
        if len({part.k for part in parts}) != 1:
            raise GmaeToolsError(f"Gaussians.stack needs sets of one size, not of K = {[part.k for part in parts]}")
        return Gaussians(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Gaussians)))

    def pack(self) -> Tensor:
        """All parameters in one tensor `[B, K, 14]`, in the order of `LAYOUT`."""
        return torch.cat([self.means, self.scales, self.quats, self.colors, self.opacities[..., None]], -1)

    @staticmethod
    def unpack(packed: Tensor) -> Gaussians:
        """The Gaussians in a tensor `[B, K, 14]` as `pack` returns it; their tensors are views of it."""
        means, scales, quats, colors, opacities = packed.split(list(LAYOUT.values()), -1)
        return Gaussians(means, scales, quats, colors, opacities[..., 0])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a NumPy `.npz` file with a float32 array for each attribute."""
        arrays = {f.name: getattr(self, f.name).detach().cpu().float().numpy() for f in fields(self)}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Gaussians:
        """Read a file that `save` wrote.

        Raises:
            GmaeToolsError: The file is missing or does not hold Gaussians.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = [archive[field.name].astype(np.float32, casting="same_kind") for field in fields(Gaussians)]
        except FileNotFoundError:
            raise GmaeToolsError(f"{path}: no such file") from None
        except Exception as error:  # np.load raises anything on a damaged file
            raise GmaeToolsError(f"{path}: not Gaussians as written by gmae-tools ({one_line(error)})") from None
        try:
            return Gaussians(*map(torch.from_numpy, arrays))
        except GmaeToolsError as error:
            raise GmaeToolsError(f"{path}: {error}") from None
