"""The first stage of every benchmark: each method makes a soft map of each photograph, and the maps lie in folders.

    source = ModelSource("gmae-tiny")
    methods = {Path("maps-of-regions"): EdgeMethod("regions", source, Looks())}
    predict(methods, photos, RunOptions(jobs=4))

An interrupted run goes on where it stopped. Processes that were launched together (`gmae_tools.system.processes`) share
the photographs; they must see the same folders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from gmae_tools import checkpoints
from gmae_tools.benchmarks.predictions import MAPS, weights_of
from gmae_tools.checkpoint_names import number_of_gaussians
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import read_image, write_image
from gmae_tools.metrics.regions import check_map
from gmae_tools.model import GMAE
from gmae_tools.prediction import resolve_device
from gmae_tools.splatting import Backend, choose_backend
from gmae_tools.system.files import check_writable
from gmae_tools.system.processes import cores, in_threads, share, torch_threads, wait
from gmae_tools.zeroshot.views import Looks, Views, Watch, look

Predictor = Callable[[np.ndarray], np.ndarray]  # photograph, uint8 RGB [H, W, 3] -> soft map [H, W] in [0, 1]
Progress = Callable[[Iterable[Any], int, str], Iterator[Any]]  # items, how many, what is done to them -> the items


def no_progress(items: Iterable[Any], _total: int, _label: str) -> Iterator[Any]:
    """Pass the items on and show nothing."""
    return iter(items)


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint, and where its Gaussians are predicted and rendered.

    The model is loaded once, when it is needed first. A copy in another process loads its own.

    Attributes:
        checkpoint: name, path or address, as `checkpoints.load` takes it.
        device: name of a torch device, or `auto`.
        backend: renders the Gaussians; see `splatting.rasterize`.
    """

    checkpoint: str
    device: str = "auto"
    backend: Backend = "auto"

    @property
    def name(self) -> str:
        """The checkpoint's name without its folder, for tables and settings."""
        return Path(self.checkpoint).name

    @cached_property
    def weights(self) -> str:
        """SHA-256 of the weights; see `weights_of`."""
        return weights_of(self.checkpoint)

    @cached_property
    def model(self) -> GMAE:
        """The model on its device, in evaluation mode.

        Raises:
            GmaeToolsError: there is no such device, the backend cannot render there, or the checkpoint cannot be read.
        """
        device = resolve_device(self.device)
        choose_backend(self.backend, device)  # a backend that cannot render is refused before any work
        return checkpoints.load(self.checkpoint, device=device)

    @property
    def k(self) -> int:
        """K, the number of Gaussians of one look."""
        return number_of_gaussians(self.checkpoint) or self.model.config.k

    def __reduce__(self) -> tuple[type[ModelSource], tuple[str, str, str]]:
        return ModelSource, (self.checkpoint, self.device, self.backend)


@dataclass(frozen=True)
class Method(ABC):
    """Makes the soft map of a photograph: a readout of a model's Gaussians, a classical method or anyone's function.

    Attributes:
        name: of the readout or of the classical method; what anyone's function is called.
        model: whose Gaussians are read; None for what looks at the photograph itself.
        looks: how the photograph is shown to the model; given together with `model`.
        function: anyone's, from a photograph, uint8 RGB `[H, W, 3]`, to a map `[H, W]` in [0, 1]; None for the method
            of that name.
    """

    name: str
    model: ModelSource | None = None
    looks: Looks | None = None
    function: Predictor | None = None

    @property
    def checkpoint(self) -> str | None:
        """Name of the model's checkpoint; None without a model."""
        return self.model.name if self.model else None

    def settings(self) -> dict[str, object]:
        """Everything that the maps depend on beside the photographs, as JSON has them; None if it does not apply."""
        looks = self.looks
        return {
            "checkpoint": self.checkpoint,
            "weights": self.model.weights if self.model else None,
            "scales": looks.scales if looks else None,
            "flip": looks.flip if looks else None,
            "refine": (looks.refine or None) if looks else None,
        }

    @abstractmethod
    def of_views(self, views: Views) -> np.ndarray:
        """Read the map from what a model saw of a photograph, float32 `[H, W]` in [0, 1]."""

    @abstractmethod
    def classical(self) -> Predictor:
        """The method of this name that looks at the photograph itself."""

    def of_photo(self, photo: np.ndarray) -> np.ndarray:
        """The map of a photograph, uint8 RGB `[H, W, 3]`, by a method that needs no model.

        Raises:
            GmaeToolsError: anyone's function makes something else than a map `[H, W]` in [0, 1].
        """
        if self.function is None:
            return self.classical()(photo)
        soft = np.asarray(self.function(photo))
        if soft.shape != photo.shape[:2]:
            wanted = list(photo.shape[:2])
            raise GmaeToolsError(f"{self.name} makes an array {list(soft.shape)}, not a map {wanted} of the photograph")
        try:
            return check_map(soft.astype(np.float32))
        except GmaeToolsError as error:
            raise GmaeToolsError(f"{self.name}: {error}") from None


@dataclass(frozen=True)
class RunOptions:
    """How a benchmark is run; its results do not depend on it.

    Attributes:
        jobs: photographs that are worked on at a time, by default one a core; by anyone's function, one.
        every: only every Nth photograph is taken.
        overwrite: whether maps of other settings are removed instead of refused.
        max_pixels: pixels of a photograph above which it is refused; see `read_image`.
        progress: passes on the items of a stage, and may show how far it is.
        watch: passes on the places where a model looks; see `views.look`.
    """

    jobs: int | None = None
    every: int = 1
    overwrite: bool = False
    max_pixels: int | None = None
    progress: Progress = no_progress
    watch: Watch = iter


def maps(methods: Iterable[Method], photo: np.ndarray, watch: Watch = iter) -> Iterator[np.ndarray]:
    """The map of a photograph, uint8 RGB `[H, W, 3]`, by each method, `[H, W]` in [0, 1].

    Methods of one model share what it predicts: every tile is looked at once.
    """
    methods = list(methods)
    widest: dict[tuple[ModelSource, int], Looks] = {}
    for model, looks in filter(None, map(_look_of, methods)):
        so_far = widest.get((model, looks.refine), looks)
        scales = tuple(dict.fromkeys((*so_far.scales, *looks.scales)))
        widest[model, looks.refine] = Looks(scales, so_far.flip or looks.flip, looks.refine)
    seen: dict[tuple[ModelSource, int], Views] = {}
    chosen: dict[tuple[ModelSource, Looks], Views] = {}
    for method in methods:
        key = _look_of(method)
        if key is None:
            yield method.of_photo(photo)
            continue
        model, looks = key
        every = model, looks.refine
        if every not in seen:
            seen[every] = look(model.model, photo, widest[every], backend=model.backend, watch=watch)
        if key not in chosen:
            chosen[key] = seen[every].only(looks.scales, (False, True)[: 1 + looks.flip])
        yield method.of_views(chosen[key])


def _look_of(method: Method) -> tuple[ModelSource, Looks] | None:
    """The model of a method and how it is shown a photograph; None without a model."""
    return (method.model, method.looks or Looks((1,))) if method.model else None


def predict(methods: Mapping[Path, Method], photos: Sequence[Path], options: RunOptions) -> None:
    """Write the map of each photograph by each method as `<folder>/maps/<stem>.png` (8 bits), unless it is there.

    Args:
        methods: by the folder of their results, which exists.
        photos: of different stems, the same in every process of a launch.

    Raises:
        GmaeToolsError: a photograph cannot be read, or nothing can be written any more.
    """
    for folder in methods:
        (folder / MAPS).mkdir(exist_ok=True)
    own = share(photos)
    one = partial(predict_photo, methods, max_pixels=options.max_pixels, watch=options.watch)
    alone = any(method.function for method in methods.values())  # anyone's need not bear several threads
    jobs = 1 if alone else min(options.jobs or cores(), len(own))
    with torch_threads(1 if alone else len(photos)), closing(in_threads(one, own, jobs)) as done:
        for outcome in options.progress(done, len(own), "maps"):
            outcome.result()
    wait()


def predict_photo(
    methods: Mapping[Path, Method], path: Path, max_pixels: int | None = None, watch: Watch = iter
) -> None:
    """Write the maps of one photograph that are not there yet."""
    targets = {folder / MAPS / f"{path.stem}.png": method for folder, method in methods.items()}
    missing = {target: method for target, method in targets.items() if not target.exists()}
    if not missing:
        return
    photo = read_image(path, max_pixels=max_pixels)
    for target, soft in zip(missing, maps(missing.values(), photo, watch), strict=True):
        check_writable(target.parent)  # a folder that has vanished is not made again: it would lack its other maps
        write_image(target, soft)
