"""Looking at a photograph at several scales and mirrored, and joining what each look says into one map.

A model has a fixed number of Gaussians a picture, so that it sees a part of a photograph more finely than the whole.
Scale s cuts the photograph into s x s overlapping tiles; scale 1 is the photograph itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.model import GMAE
from gmae_tools.predict import predict
from gmae_tools.refine import refine_photo
from gmae_tools.splatting import Backend

DEFAULT_SCALES = (3, 4)  # the best on BSDS500 val: evals/studies/edge_choices.py
_OVERLAP = 0.5  # of neighbouring tiles, as a fraction of the stride: tiles are 1.5 strides long
_LEAST_WEIGHT = 0.02  # at a tile's rim, so that no pixel is without any

Readout = Callable[[Gaussians, int, int], np.ndarray]  # a set of Gaussians, height, width -> map [H, W]
Place = tuple[int, slice, slice, bool]  # of a view: scale, rows, columns, mirrored
Watch = Callable[[Sequence[Place]], Iterable[Place]]  # passes the places on, and may show how far they are


@dataclass(frozen=True)
class Looks:
    """How often and how closely to look.

    Attributes:
        scales: each s gives s x s tiles; the scales' maps are averaged.
        flip: also look at everything mirrored, and average.
        refine: steps by which the Gaussians of each tile are fitted to it.
    """

    scales: tuple[int, ...] = DEFAULT_SCALES
    flip: bool = False
    refine: int = 0

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 1 or len(set(self.scales)) < len(self.scales):
            raise GmaeToolsError(f"scales {list(self.scales)}: give different numbers of 1 or more")
        if self.refine < 0:
            raise GmaeToolsError(f"refine: {self.refine} steps; use 0 or more")


@dataclass(frozen=True)
class View:
    """The Gaussians of one tile of a photograph: its rows and columns in px, and whether it was mirrored."""

    scale: int
    rows: slice
    columns: slice
    mirrored: bool
    gaussians: Gaussians


def look(model: GMAE, photo: np.ndarray, looks: Looks, *, backend: Backend = "auto", watch: Watch = iter) -> list[View]:
    """Predict, and refine if asked to, the Gaussians of every tile of a photograph, uint8 RGB `[H, W, 3]`.

    Args:
        backend: that draws the Gaussians while they are refined.
        watch: called with the places of all views.
    """
    height, width = photo.shape[:2]
    places = [
        (scale, rows, columns, mirrored)
        for scale in looks.scales
        for rows in tiles(height, scale)
        for columns in tiles(width, scale)
        for mirrored in (False, True)[: 1 + looks.flip]
    ]
    return [_view(model, photo, place, looks.refine, backend) for place in watch(places)]


def _view(model: GMAE, photo: np.ndarray, place: Place, steps: int, backend: Backend) -> View:
    _, rows, columns, mirrored = place
    tile = np.ascontiguousarray(photo[rows, columns][:, :: -1 if mirrored else 1])
    gaussians = predict(model, tile)
    if steps:
        gaussians = refine_photo(gaussians, tile, model.camera, steps, backend=backend).gaussians
    return View(*place, gaussians)


def tiles(length: int, count: int) -> list[slice]:
    """`count` overlapping pieces of equal length that cover `length` px."""
    size = min(length, max(1, round(length * (1 + _OVERLAP) / (count + _OVERLAP))))
    starts = np.linspace(0, length - size, count).round().astype(int).tolist() if count > 1 else [0]
    return [slice(start, start + size) for start in starts]


def join(views: Sequence[View], readout: Readout, height: int, width: int) -> np.ndarray:
    """Read out every view and blend the maps, float32 `[H, W]`: tiles by a cross-fade, scales by their mean."""
    total = np.zeros((height, width))
    scales = sorted({view.scale for view in views})
    for scale in scales:
        values, weights = np.zeros_like(total), np.zeros_like(total)
        for view in (view for view in views if view.scale == scale):
            weight = np.outer(_fade(view.rows, height), _fade(view.columns, width))
            part = readout(view.gaussians, *weight.shape)
            values[view.rows, view.columns] += weight * part[:, :: -1 if view.mirrored else 1]
            weights[view.rows, view.columns] += weight
        total += values / weights
    return (total / len(scales)).astype(np.float32)


class Viewer:
    """Shows photographs to a model for several readouts; of the last photograph it keeps what it saw and what was read.

    Args:
        model: in evaluation mode.
        looks: scales and mirroring to average over, and refinement.
        backend, watch: of `look`.
    """

    def __init__(self, model: GMAE, looks: Looks, *, backend: Backend = "auto", watch: Watch = iter) -> None:
        self.model, self.looks, self.backend, self.watch = model, looks, backend, watch
        self._digest = b""
        self._views: list[View] = []
        self._read: dict[Hashable, np.ndarray] = {}

    def read(self, photo: np.ndarray, name: Hashable, readout: Readout) -> np.ndarray:
        """The joined views of a photograph, uint8 RGB `[H, W, 3]`, as a map `[H, W]`; `name` tells readouts apart."""
        digest = hashlib.sha256(repr(photo.shape).encode() + photo.tobytes()).digest()
        if digest != self._digest:
            self._views = look(self.model, photo, self.looks, backend=self.backend, watch=self.watch)
            self._read = {}
            self._digest = digest
        if name not in self._read:
            self._read[name] = join(self._views, readout, *photo.shape[:2])
        return self._read[name]


def _fade(piece: slice, length: int) -> np.ndarray:
    """Weights along a side of a tile: 1, falling to nearly 0 over the overlap, but not at the border of the picture."""
    size = piece.stop - piece.start
    ramp = max(1.0, size * _OVERLAP / (1 + _OVERLAP))
    place = np.arange(size) + 0.5
    before = place if piece.start > 0 else np.full(size, np.inf)
    after = place[::-1] if piece.stop < length else np.full(size, np.inf)
    return np.clip(np.minimum(before, after) / ramp, _LEAST_WEIGHT, 1.0)
