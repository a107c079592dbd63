"""Show a model a photograph at several scales and mirrored, and join the readouts of all views into one map.

A model predicts a fixed number of Gaussians for a picture, so that a tile of a photograph gets finer detail than the
whole. Scale s cuts the photograph into s x s overlapping tiles; scale 1 is the whole photograph.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import GMAE
from gmae_tools.prediction import predict_scenes
from gmae_tools.refine import RefineOptions, refine_scene
from gmae_tools.scene import Scene
from gmae_tools.splatting import Backend
from gmae_tools.system.processes import in_threads, spare
from gmae_tools.zeroshot.names import EDGE_SCALES, LAYERS

_OVERLAP = 0.5  # overlap of neighbouring tiles as a fraction of the stride: tiles are 1.5 strides long
_PIXEL = 32  # bytes per pixel of a view, by which few large views are read out at a time
_LEAST_WEIGHT = 0.02  # weight at the rim of a tile, so that every pixel has some weight

Readout = Callable[[Scene], np.ndarray]  # from a scene to a map [H, W]
Place = tuple[int, slice, slice, bool]  # where a view lies: scale, rows, columns, mirrored
Watch = Callable[[Sequence[Place]], Iterable[Place]]  # returns the places unchanged, and may show progress


@dataclass(frozen=True)
class Looks:
    """Which views of a photograph a model is shown.

    Attributes:
        scales: different numbers, 1 or more; scale s has s x s tiles, and the maps of all scales are averaged.
        flip: whether mirrored tiles are shown, too, and their maps averaged with the others.
        refine: number of steps, 0 or more, in which the Gaussians of each tile are fitted to it.

    Raises:
        GmaeToolsError: a number is out of range, or a scale is repeated.
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
        scale: scale of the tile; scale s has s x s tiles.
        rows, columns: where the tile lies in the photograph, in pixels.
        mirrored: whether the model was shown the mirrored tile.
        scene: the scene that the model predicted from the tile.
    """

    scale: int
    rows: slice
    columns: slice
    mirrored: bool
    scene: Scene


@dataclass(frozen=True)
class Views:
    """The scenes that a model predicted from all views of one photograph, to be read out in several ways.

    Attributes:
        views: at least one view; the views of each scale cover the photograph.
        height, width: size of the photograph in pixels.
        backend: renderer for `edges` and `foreground`, as for `splatting.rasterize`.
    """

    views: tuple[View, ...]
    height: int
    width: int
    backend: Backend = "auto"
    _read: dict[Hashable, np.ndarray] = field(init=False, default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(scene: Scene, *, backend: Backend = "auto") -> Views:
        """Make a scene the only view, as for Gaussians that do not come from a model."""
        whole = View(1, slice(0, scene.height), slice(0, scene.width), False, scene)
        return Views((whole,), scene.height, scene.width, backend)

    def __iter__(self) -> Iterator[View]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)

    def only(self, scales: Sequence[int], mirrored: Sequence[bool] = (False, True)) -> Views:
        """Return the views of some scales, and of some values of `View.mirrored`."""
        chosen = tuple(view for view in self.views if view.scale in scales and view.mirrored in mirrored)
        return replace(self, views=chosen)

    def join(self, readout: Readout) -> np.ndarray:
        """Read out every view and join the maps.

        Overlapping tiles are cross-faded, and the maps of the scales are averaged.

        Args:
            readout: function from a scene to a map `[H, W]` in the size of the scene; several threads may call it.

        Returns:
            float32 `[H, W]` in the size of the photograph.
        """
        total = np.zeros((self.height, self.width))
        scales = sorted({view.scale for view in self.views})
        views = sorted(self.views, key=lambda view: view.scale)
        threads = min(spare(), len(views))
        with closing(in_threads(lambda view: readout(view.scene), views, threads, _size)) as parts:
            for scale in scales:
                values, weights = np.zeros_like(total), np.zeros_like(total)
                for view in (view for view in views if view.scale == scale):
                    weight = np.outer(_fade(view.rows, self.height), _fade(view.columns, self.width))
                    part = next(parts).result()
                    values[view.rows, view.columns] += weight * part[:, :: -1 if view.mirrored else 1]
                    weights[view.rows, view.columns] += weight
                total += values / weights
        return (total / len(scales)).astype(np.float32)

    def read(self, readout: Readout, name: Hashable) -> np.ndarray:
        """Call `join` once for each `name`, which identifies the readout, and return the same map from then on."""
        if name not in self._read:
            self._read[name] = self.join(readout)
        return self._read[name]

    def picture(self) -> np.ndarray:
        """Put the photograph together again; where there is none, what the views render. uint8 RGB `[H, W, 3]`."""
        picture = np.zeros((self.height, self.width, 3), np.uint8)
        for view in self.views:
            tile = view.scene.picture(backend=self.backend)
            picture[view.rows, view.columns] = tile[:, :: -1 if view.mirrored else 1]
        return picture

    def edges(self, readout: str = "layers", layers: Sequence[int] = (LAYERS,)) -> np.ndarray:
        """Compute the edge map that is written and scored: the joined views after `edges.outline`.

        `regions-and-photo` also looks at the photograph itself, see `edges.join_picture`.

        Args:
            readout: one of `names.EDGE_READOUTS`.
            layers: numbers of depth groups, 1 to K, for the readout `layers`; their maps are averaged.

        Returns:
            float32 `[H, W]` in [0, 1].

        Raises:
            GmaeToolsError: there is no such readout, or `layers` does not fit the Gaussians.
        """
        # These load scipy, which layers do not need.
        from gmae_tools.zeroshot.edges import READOUTS, WITH_PICTURE, join_picture, outline

        if readout not in READOUTS:
            raise GmaeToolsError(f"there is no edge readout {readout!r}: use {', '.join(READOUTS)}")
        if readout == "layers" and not layers:
            raise GmaeToolsError("l@N needs at least one number of layers")
        groups = [(count,) for count in layers] if readout == "layers" else [()]
        read = READOUTS[readout]
        maps = [self.read(partial(read, layers=own, backend=self.backend), (read, own)) for own in groups]
        joined = np.mean(maps, axis=0)
        if readout in WITH_PICTURE:
            joined = join_picture(joined, self.picture())
        return outline(joined)

    def foreground(self, method: str = "grouped") -> np.ndarray:
        """Compute the joined probability of foreground, float32 `[H, W]` in [0, 1].

        Args:
            method: one of `names.FOREGROUND_METHODS`.

        Raises:
            GmaeToolsError: there is no such method.
        """
        from gmae_tools.zeroshot.figure_ground import foreground_probability

        readout = partial(foreground_probability, method=method, backend=self.backend)
        return self.read(readout, ("foreground", method))


def look(model: GMAE, photo: np.ndarray, looks: Looks, *, backend: Backend = "auto", watch: Watch = iter) -> Views:
    """Predict the Gaussians of every tile of a photograph, and refine them if `looks` says so.

    Args:
        model: a model in evaluation mode.
        photo: uint8 RGB `[H, W, 3]`.
        looks: which views the model is shown, and how many steps of refinement follow.
        backend: renderer for refinement and readouts, as for `splatting.rasterize`.
        watch: called once with the places of all views; what it returns is iterated over, one place for each view that
            is being refined, so that it can show progress.

    Returns:
        The views in the order scale, row, column, mirrored.
    """
    height, width = photo.shape[:2]
    places = [
        (scale, rows, columns, mirrored)
        for scale in looks.scales
        for rows in tiles(height, scale)
        for columns in tiles(width, scale)
        for mirrored in (False, True)[: 1 + looks.flip]
    ]
    # Copies, because torch takes no arrays with negative strides.
    cut = [np.ascontiguousarray(photo[rows, columns][:, :: -1 if flip else 1]) for _, rows, columns, flip in places]
    scenes = predict_scenes(model, cut)
    options = RefineOptions(backend=backend)
    for number, _ in enumerate(watch(places)):
        if looks.refine:
            scenes[number] = refine_scene(scenes[number], looks.refine, options)
    return Views(tuple(View(*each, scene) for each, scene in zip(places, scenes, strict=True)), height, width, backend)


def tiles(length: int, count: int) -> list[slice]:
    """Cut `length` pixels into `count` overlapping pieces of equal length."""
    size = min(length, max(1, round(length * (1 + _OVERLAP) / (count + _OVERLAP))))
    starts = np.linspace(0, length - size, count).round().astype(int).tolist() if count > 1 else [0]
    return [slice(start, start + size) for start in starts]


def _size(view: View) -> int:
    return _PIXEL * view.scene.height * view.scene.width


def _fade(piece: slice, length: int) -> np.ndarray:
    """Compute the weights along a side of a tile.

    They are 1, and fall to nearly 0 where the tile overlaps another one, but not at the border of the picture.
    """
    size = piece.stop - piece.start
    ramp = max(1.0, size * _OVERLAP / (1 + _OVERLAP))
    place = np.arange(size) + 0.5
    before = place if piece.start > 0 else np.full(size, np.inf)
    after = place[::-1] if piece.stop < length else np.full(size, np.inf)
    return np.clip(np.minimum(before, after) / ramp, _LEAST_WEIGHT, 1.0)
