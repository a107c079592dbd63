"""The first stage of every benchmark: each method predicts a soft map of each photograph and writes it to a folder.

    source = ModelSource("gmae-tiny")
    methods = {Path("maps-of-regions"): EdgeMethod("regions", source, Looks())}
    predict(methods, photos, RunOptions(jobs=4))

An interrupted run continues where it stopped. Processes that were launched together (`gmae_tools.system.processes`)
share the photographs, and must have access to the same folders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
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
from gmae_tools.system.precision import Precision
from gmae_tools.system.processes import cores, in_threads, share, spare, torch_threads, wait
from gmae_tools.zeroshot.views import Looks, Views, Watch, look

Predictor = Callable[[np.ndarray], np.ndarray]  # from a photograph, uint8 RGB [H, W, 3], to a map [H, W] in [0, 1]
Progress = Callable[[Iterable[Any], int, str], Iterator[Any]]  # from items, their number and a label to the items


def no_progress(items: Iterable[Any], _total: int, _label: str) -> Iterator[Any]:
    """Return the items without showing any progress."""
    return iter(items)


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint, and the device and the renderer of its Gaussians.

    The model is loaded when it is first used. A copy in another process loads its own model.

    Attributes:
        checkpoint: name, path or address of the checkpoint, as for `checkpoints.load`.
        device: name of a torch device, or `auto`.
        backend: renderer, as for `splatting.rasterize`.
        precision: arithmetic of the transformer, as for `checkpoints.load`.
    """

    checkpoint: str
    device: str = "auto"
    backend: Backend = "auto"
    precision: Precision = "float32"

    @property
    def name(self) -> str:
        """The checkpoint's name without its folder, for tables and settings."""
        return Path(self.checkpoint).name

    @cached_property
    def weights(self) -> str:
        """The SHA-256 of the weights; see `weights_of`."""
        return weights_of(self.checkpoint)

    @cached_property
    def model(self) -> GMAE:
        """The model on its device, in evaluation mode.

        Raises:
            GmaeToolsError: there is no such device, the backend cannot render there, or the checkpoint cannot be read.
        """
        device = resolve_device(self.device)
        choose_backend(self.backend, device)  # a backend that cannot render is refused before any work
        return checkpoints.load(self.checkpoint, device, precision=self.precision)

    @property
    def k(self) -> int:
        """K, the number of Gaussians that the model predicts for one view."""
        return number_of_gaussians(self.checkpoint) or self.model.config.k

    def __reduce__(self) -> tuple[type[ModelSource], tuple[str, ...]]:
        return ModelSource, (self.checkpoint, self.device, self.backend, self.precision)


@dataclass(frozen=True)
class Method(ABC):
    """Makes the soft map of a photograph: a readout of a model's Gaussians, a classical method or a user's function.

    Attributes:
        name: name of the readout, of the classical method or of the user's function.
        model: the model whose Gaussians are read out; None for methods that look at the photograph itself.
        looks: which views the model is shown; given together with `model`.
        function: the user's function from a photograph, uint8 RGB `[H, W, 3]`, to a map `[H, W]` in [0, 1]; None for
            the other methods.
    """

    name: str
    model: ModelSource | None = None
    looks: Looks | None = None
    function: Predictor | None = None

    @property
    def checkpoint(self) -> str | None:
        """The name of the model's checkpoint; None without a model."""
        return self.model.name if self.model else None

    def settings(self) -> dict[str, object]:
        """Return all settings that the maps depend on, for JSON; those that do not apply are None."""
        looks = self.looks
        return {
            "checkpoint": self.checkpoint,
            "weights": self.model.weights if self.model else None,
            "precision": "bf16" if self.model and self.model.precision == "bf16" else None,
            "scales": looks.scales if looks else None,
            "flip": looks.flip if looks else None,
            "refine": (looks.refine or None) if looks else None,
        }

    @abstractmethod
    def of_views(self, views: Views) -> np.ndarray:
        """Read out the map, float32 `[H, W]` in [0, 1], from a model's views of a photograph."""

    @abstractmethod
    def classical(self) -> Predictor:
        """Return the classical method of this name."""

    def of_photo(self, photo: np.ndarray) -> np.ndarray:
        """Make the map `[H, W]` in [0, 1] of a photograph, uint8 RGB `[H, W, 3]`, by a method without a model.

        Raises:
            GmaeToolsError: the user's function returns something other than a map `[H, W]` in [0, 1].
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
    """How a benchmark is run. Apart from `every`, the results do not depend on it.

    Attributes:
        jobs: number of photographs that are worked on at the same time, by default one for each core. For a user's
            function it is always one.
        every: use only every Nth photograph.
        overwrite: whether maps of other settings are removed instead of refused.
        max_pixels: number of pixels above which a photograph is refused; see `read_image`.
        progress: function that returns the items of a stage unchanged, and may show progress.
        watch: function that returns the places of a photograph's views unchanged, and may show progress; see
            `views.look`.
    """

    jobs: int | None = None
    every: int = 1
    overwrite: bool = False
    max_pixels: int | None = None
    progress: Progress = no_progress
    watch: Watch = iter


def maps(methods: Iterable[Method], photo: np.ndarray, watch: Watch = iter) -> Iterator[np.ndarray]:
    """Make the map `[H, W]` in [0, 1] of a photograph, uint8 RGB `[H, W, 3]`, by each method.

    Methods with the same model share its predictions, so that it is shown each tile once. Where cores are spare, it is
    shown the tiles that only later methods need while earlier methods are read out. `watch` is as for `views.look`.
    """
    methods = list(methods)
    widest: dict[tuple[ModelSource, int], Looks] = {}
    for model, looks in filter(None, map(_look_of, methods)):
        so_far = widest.get((model, looks.refine), looks)
        scales = tuple(dict.fromkeys((*so_far.scales, *looks.scales)))
        widest[model, looks.refine] = Looks(scales, so_far.flip or looks.flip, looks.refine)
    parts: list[tuple[ModelSource, Looks]] = []
    for (model, refine), looks in widest.items():
        first = next(
            each for key, each in filter(None, map(_look_of, methods)) if (key, each.refine) == (model, refine)
        )
        # Steps of refinement show their progress, which belongs into this thread.
        divided = [looks.scales] if refine else [first.scales, looks.scales[len(first.scales) :]]
        parts += [(model, replace(looks, scales=some)) for some in divided if some]

    def see(part: tuple[ModelSource, Looks]) -> Views:
        model, looks = part
        return look(model.model, photo, looks, backend=model.backend, watch=watch)

    threads = 1 if any(looks.refine for _, looks in parts) else min(spare(), len(parts))
    if threads > 1:
        for model, _ in parts:
            _ = model.model  # loaded once, before several threads ask for it
    seen: dict[tuple[ModelSource, int], Views] = {}
    chosen: dict[tuple[ModelSource, Looks], Views] = {}
    with closing(in_threads(see, parts, threads)) as done:
        coming = zip(parts, done, strict=False)
        for method in methods:
            key = _look_of(method)
            if key is None:
                yield method.of_photo(photo)
                continue
            model, looks = key
            every = model, looks.refine
            while key not in chosen:
                if every in seen and {view.scale for view in seen[every]}.issuperset(looks.scales):
                    chosen[key] = seen[every].only(looks.scales, (False, True)[: 1 + looks.flip])
                    break
                (source, part), views = next(coming)
                before = seen.get((source, part.refine))
                found = views.result()
                seen[source, part.refine] = replace(found, views=before.views + found.views) if before else found
            yield method.of_views(chosen[key])


def _look_of(method: Method) -> tuple[ModelSource, Looks] | None:
    """Return the model of a method and which views it is shown; None without a model."""
    return (method.model, method.looks or Looks((1,))) if method.model else None


def predict(methods: Mapping[Path, Method], photos: Sequence[Path], options: RunOptions) -> None:
    """Write the map of each photograph by each method as `<folder>/maps/<stem>.png` (8 bits), unless it exists.

    Args:
        methods: methods by the folder of their results, which exists.
        photos: files with different stems, the same in every process of a launch.
        options: how the benchmark is run.

    Raises:
        GmaeToolsError: a photograph cannot be read, or a map cannot be written.
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
    """Write the missing maps of one photograph; arguments and errors are those of `predict`."""
    targets = {folder / MAPS / f"{path.stem}.png": method for folder, method in methods.items()}
    missing = {target: method for target, method in targets.items() if not target.exists()}
    if not missing:
        return
    photo = read_image(path, max_pixels=max_pixels)
    for target, soft in zip(missing, maps(missing.values(), photo, watch), strict=True):
        check_writable(target.parent)  # if the folder was removed, making it again would hide that its maps are lost
        write_image(target, soft)
