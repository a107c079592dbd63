"""Looking at a photograph at several scales and mirrored, and joining the readouts of all looks into one map.

A model has a fixed number of Gaussians a picture, so that it shows a part of a photograph more finely than the whole.
Scale s cuts the photograph into s x s overlapping tiles; scale 1 is the photograph itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import GMAE
from gmae_tools.prediction import predict_scenes
from gmae_tools.refine import RefineOptions, refine_scene
from gmae_tools.scene import Scene
from gmae_tools.splatting import Backend
from gmae_tools.zeroshot.names import EDGE_SCALES, LAYERS

_OVERLAP = 0.5  # of neighbouring tiles, as a fraction of the stride: tiles are 1.5 strides long
_LEAST_WEIGHT = 0.02  # at a tile's rim, so that no pixel is without any

Readout = Callable[[Scene], np.ndarray]  # a scene -> map [H, W]
Place = tuple[int, slice, slice, bool]  # of a view: scale, rows, columns, mirrored
Watch = Callable[[Sequence[Place]], Iterable[Place]]  # passes the places on, and may show how far they are


@dataclass(frozen=True)
class Looks:
    """How often and how closely to look.

    Attributes:
        scales: scale s gives s x s tiles; the maps of all scales are averaged.
        flip: also look at mirrored tiles, and average.
        refine: steps by which the Gaussians of each tile are fitted to it.
    """

    scales: tuple[int, ...] = EDGE_SCALES
    flip: bool = False
    refine: int = 0

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 1 or len(set(self.scales)) < len(self.scales):
            raise GmaeToolsError(f"scales {list(self.scales)}: give different numbers of 1 or more")
        if self.refine < 0:
            raise GmaeToolsError(f"refine: {self.refine} steps; use 0 or more")


@dataclass(frozen=True)
class View:
    """One tile of a photograph.

    Attributes:
        scale: of the tile; scale s has s x s tiles.
        rows, columns: of the photograph, in pixels.
        mirrored: whether the scene is that of the mirrored tile.
        scene: what the model predicted from the tile.
    """

    scale: int
    rows: slice
    columns: slice
    mirrored: bool
    scene: Scene


@dataclass(frozen=True)
class Views:
    """Everything that a model saw of one photograph: look once, then read it out in several ways.

    Attributes:
        views: at least one; they cover the photograph at every scale.
        height, width: of the photograph in pixels.
        backend: of `splatting.rasterize`, for `edges` and `foreground`.
    """

    views: tuple[View, ...]
    height: int
    width: int
    backend: Backend = "auto"
    _read: dict[Hashable, np.ndarray] = field(init=False, default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(scene: Scene, *, backend: Backend = "auto") -> Views:
        """A scene as its own only view, for Gaussians without a model."""
        whole = View(1, slice(0, scene.height), slice(0, scene.width), False, scene)
        return Views((whole,), scene.height, scene.width, backend)

    def __iter__(self) -> Iterator[View]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)

    def only(self, scales: Sequence[int], mirrored: Sequence[bool] = (False, True)) -> Views:
        """The views of these scales, mirrored or not."""
        chosen = tuple(view for view in self.views if view.scale in scales and view.mirrored in mirrored)
        return replace(self, views=chosen)

    def join(self, readout: Readout) -> np.ndarray:
        """Read every view and blend the maps, float32 `[H, W]`: tiles by a cross-fade, scales by their mean."""
        total = np.zeros((self.height, self.width))
        scales = sorted({view.scale for view in self.views})
        for scale in scales:
            values, weights = np.zeros_like(total), np.zeros_like(total)
            for view in (view for view in self.views if view.scale == scale):
                weight = np.outer(_fade(view.rows, self.height), _fade(view.columns, self.width))
                part = readout(view.scene)
                values[view.rows, view.columns] += weight * part[:, :: -1 if view.mirrored else 1]
                weights[view.rows, view.columns] += weight
            total += values / weights
        return (total / len(scales)).astype(np.float32)

    def read(self, readout: Readout, name: Hashable) -> np.ndarray:
        """`join`, once for each `name`, which tells readouts apart."""
        if name not in self._read:
            self._read[name] = self.join(readout)
        return self._read[name]

    def edges(self, readout: str = "layers", layers: Sequence[int] = (LAYERS,)) -> np.ndarray:
        """The edge map that is written and scored: joined views, thinned to their crests, or closed.

        Args:
            readout: one of `names.EDGE_READOUTS`.
            layers: numbers of depth groups, for the readout `layers`; their maps are averaged.

        Returns:
            float32 `[H, W]` in [0, 1].

        Raises:
            GmaeToolsError: there is no such readout, or `layers` does not fit the Gaussians.
        """
        from gmae_tools.zeroshot.edges import CLOSED, READOUTS, close, finish  # with scipy, which layers do without

        known = READOUTS | CLOSED
        if readout not in known:
            raise GmaeToolsError(f"there is no edge readout {readout!r}: use {', '.join(known)}")
        if readout == "layers" and not layers:
            raise GmaeToolsError("l@N needs at least one number of layers")
        groups = [(count,) for count in layers] if readout == "layers" else [()]
        maps = [
            self.read(partial(known[readout], layers=own, backend=self.backend), ("edges", readout, own))
            for own in groups
        ]
        return (close if readout in CLOSED else finish)(np.mean(maps, axis=0))

    def foreground(self, method: str = "grouped") -> np.ndarray:
        """The joined probability of foreground, float32 `[H, W]` in [0, 1].

        Args:
            method: one of `names.FOREGROUND_METHODS`.
        """
        from gmae_tools.zeroshot.figure_ground import foreground_probability

        readout = partial(foreground_probability, method=method, backend=self.backend)
        return self.read(readout, ("foreground", method))


def look(model: GMAE, photo: np.ndarray, looks: Looks, *, backend: Backend = "auto", watch: Watch = iter) -> Views:
    """Predict, and refine if asked to, the Gaussians of every tile of a photograph.

    Args:
        model: in evaluation mode.
        photo: uint8 RGB `[H, W, 3]`.
        looks: scales and mirroring to average over, and refinement.
        backend: of `splatting.rasterize`, while Gaussians are refined and when they are read out.
        watch: called with the places of all views, one after the other before each is refined.
    """
    height, width = photo.shape[:2]
    places = [
        (scale, rows, columns, mirrored)
        for scale in looks.scales
        for rows in tiles(height, scale)
        for columns in tiles(width, scale)
        for mirrored in (False, True)[: 1 + looks.flip]
    ]
    scenes = predict_scenes(model, [_tile(photo, place) for place in places])
    options = RefineOptions(backend=backend)
    for number, _ in enumerate(watch(places)):
        if looks.refine:
            scenes[number] = refine_scene(scenes[number], looks.refine, options)
    return Views(tuple(View(*each, scene) for each, scene in zip(places, scenes, strict=True)), height, width, backend)


def _tile(photo: np.ndarray, place: Place) -> np.ndarray:
    """A place of a photograph; a copy, because torch takes no arrays with negative strides."""
    _, rows, columns, mirrored = place
    return np.ascontiguousarray(photo[rows, columns][:, :: -1 if mirrored else 1])


def tiles(length: int, count: int) -> list[slice]:
    """`count` overlapping pieces of equal length that cover `length` px."""
    size = min(length, max(1, round(length * (1 + _OVERLAP) / (count + _OVERLAP))))
    starts = np.linspace(0, length - size, count).round().astype(int).tolist() if count > 1 else [0]
    return [slice(start, start + size) for start in starts]


def _fade(piece: slice, length: int) -> np.ndarray:
    """Weights along a side of a tile: 1, falling to nearly 0 where tiles overlap, but not at the picture's border."""
    size = piece.stop - piece.start
    ramp = max(1.0, size * _OVERLAP / (1 + _OVERLAP))
    place = np.arange(size) + 0.5
    before = place if piece.start > 0 else np.full(size, np.inf)
    after = place[::-1] if piece.stop < length else np.full(size, np.inf)
    return np.clip(np.minimum(before, after) / ramp, _LEAST_WEIGHT, 1.0)
