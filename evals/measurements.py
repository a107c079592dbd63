"""What is measured of a checkpoint, in parts that are taken once and kept: for `scoreboard.py` and `depth.py`.

A part (`Cell`) is one measurement with its settings. It is kept by the fingerprint of the checkpoint's config and
weights and by its settings, so that a killed script goes on, and a checkpoint more costs only its own measurements.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np
import torch
from torch import Tensor

from evals.depth_consistency import SHIFTS, depth_consistency
from gmae_tools import __version__, checkpoints
from gmae_tools.benchmarks import edges, regions
from gmae_tools.benchmarks.edge_methods import EdgeMethod
from gmae_tools.benchmarks.figure_methods import RegionMethod
from gmae_tools.benchmarks.pipeline import ModelSource, RunOptions
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.datasets.photos import PhotoStore, center_crop, held_out_split
from gmae_tools.datasets.saliency import PhotoAndMask, Saliency, Split
from gmae_tools.images import read_image
from gmae_tools.metrics.boundaries import BoundaryCounts, BoundaryProtocol, BoundaryResult, BoundaryScores
from gmae_tools.metrics.pictures import psnr
from gmae_tools.model import GMAE
from gmae_tools.pretrain.held_out import HeldOut
from gmae_tools.pretrain.sampling import MASKED
from gmae_tools.system.files import atomic_path, file_sha256
from gmae_tools.zeroshot.names import FOREGROUND_METHODS
from gmae_tools.zeroshot.views import Looks

DEPTH_BATCH = 5
LAYERS = 16

BATCH = 20

Samples = dict[str, list[float]]  # of each figure, one number a picture
Rebuilt = Iterator[tuple[np.ndarray, np.ndarray]]  # (rebuilt, photograph), each float32 [H, W, 3] in [0, 1]


@dataclass(frozen=True)
class Measured:
    """What is known of a candidate in one respect: the figures, and what they are the means of.

    Attributes:
        figures: by column.
        samples: by column, one number a picture, in the order of their names.
        counts: of the boundary benchmark, `[4][T]` for each photograph.
    """

    figures: dict[str, float]
    samples: Samples = field(default_factory=dict)
    counts: dict[str, list[list[int]]] = field(default_factory=dict)


class Cell(Protocol):
    """A group of columns: one measurement of one checkpoint."""

    def settings(self) -> dict[str, Any]:
        """Everything that the figures depend on beside the checkpoint, `cell` its name."""

    def measure(self, source: ModelSource, folder: Path) -> Measured:
        """Take the figures; in `folder` there may be parts of an earlier try."""


@dataclass(frozen=True)
class Photographs:
    """Those that pretraining held out: where they are, and how many of them to use."""

    data: tuple[str, ...]
    cache: str | None
    count: int

    def open(self) -> HeldOut:
        return _held_out(self.data, self.cache, self.count)

    def digest(self) -> str:
        photos = self.open()
        return names_digest([photos.photos.names[index] for index in photos.indices])

    def squares(self, model: GMAE, side: int) -> Iterator[Tensor]:
        return (images for _, images in self.open().batches(model, side, DEPTH_BATCH))


@dataclass(frozen=True)
class Development:
    """Every Nth photograph of BSDS500 val, for what needs no ground truth."""

    root: str | None
    every: int = 1

    def photos(self) -> list[Path]:
        return BSDS500(self.root).images("val")[:: self.every]

    def digest(self) -> str:
        return names_digest([path.stem for path in self.photos()])

    def squares(self, model: GMAE, side: int) -> Iterator[Tensor]:
        photos = self.photos()
        for start in range(0, len(photos), DEPTH_BATCH):
            crops = [center_crop(read_image(path), side) for path in photos[start : start + DEPTH_BATCH]]
            yield torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


@cache
def _held_out(data: tuple[str, ...], folder: str | None, count: int) -> HeldOut:
    photos = PhotoStore.open(data, folder)
    return HeldOut(photos, held_out_split(photos.names)[1], count)


@dataclass(frozen=True)
class Reconstruction:
    """How well unseen photographs are rebuilt."""

    photographs: Photographs

    def settings(self) -> dict[str, Any]:
        return {"cell": "reconstruction", "photographs": self.photographs.digest(), "masked": MASKED}

    def measure(self, source: ModelSource, folder: Path) -> Measured:
        model = source.model
        held_out, size = self.photographs.open(), model.config.image_size
        samples = {
            name: [psnr(a, b) for a, b in rebuilt_by(model, held_out, size, ratio)]
            for name, ratio in (("psnr", 0.0), ("psnr_masked", MASKED))
        }
        return Measured(means(samples), samples)


class Pictures(Protocol):
    """Where the pictures of a measurement come from."""

    def digest(self) -> str:
        """Which they are."""

    def squares(self, model: GMAE, side: int) -> Iterator[Tensor]:
        """Their central squares, `[b, 3, side, side]` in [0, 1], on the model's device, batch by batch."""


@dataclass(frozen=True)
class Consistency:
    """Whether the order of depth goes with the scene when that is mirrored, or moved by a few pixels."""

    photographs: Pictures

    def settings(self) -> dict[str, Any]:
        return {"cell": "depth", "photographs": self.photographs.digest(), "shifts": SHIFTS, "batch": DEPTH_BATCH}

    def measure(self, source: ModelSource, folder: Path) -> Measured:
        model = source.model
        side = model.config.image_size + max(SHIFTS)
        found: dict[str, list[np.ndarray]] = {}
        for images in self.photographs.squares(model, side):
            for name, values in depth_consistency(model, images, SHIFTS).items():
                found.setdefault(name, []).append(values)
        joined = {name: np.concatenate(parts) for name, parts in found.items()}
        joined["shift"] = np.mean([joined[f"shift {shift}"] for shift in SHIFTS], axis=0)
        samples: Samples = {name: values.tolist() for name, values in joined.items()}
        within = {f"{name}_within": 1.96 * error(joined[name]) for name in ("flip", "shift")}
        return Measured(means(samples) | within, samples)


@dataclass(frozen=True)
class Edges:
    """A readout of edges on BSDS500 val, of `layers` l@N; `prefix` goes before the names of the columns."""

    root: str | None
    readout: str
    looks: Looks
    every: int
    thresholds: int
    prefix: str = ""
    layers: int = LAYERS

    @property
    def title(self) -> str:
        """Name of the setting, such as `regions, looks 3,4`."""
        flip = " and mirrored" if self.looks.flip else ""
        return f"{self.readout}, looks {','.join(map(str, self.looks.scales))}{flip}"

    def photos(self) -> list[Path]:
        return BSDS500(self.root).images("val")[:: self.every]

    def settings(self) -> dict[str, Any]:
        names = names_digest([path.stem for path in self.photos()])
        layers = self.layers if self.readout == "layers" else None
        chosen = {"readout": self.readout, "layers": layers, "scales": self.looks.scales, "flip": self.looks.flip}
        return {"cell": f"{self.prefix}edges", "photographs": names, "thresholds": self.thresholds, **chosen}

    def measure(self, source: ModelSource, folder: Path) -> Measured:
        method = EdgeMethod.named(self.readout, source, self.looks, (self.layers,))
        options, data = RunOptions(jobs=1, every=self.every, overwrite=True), BSDS500(self.root)
        run = edges.run(data, "val", {"": method}, folder, thresholds=self.thresholds, human=False, options=options)
        result = run.results[""]
        figures = {f"{self.prefix}{name}": getattr(result, name) for name in ("ods", "ois", "ap")}
        counts = {name: [each.tolist() for each in count.arrays()] for name, count in result.counts.items()}
        return Measured(figures, counts=counts)


@dataclass(frozen=True)
class Figure:
    """Figure and ground on a half of ECSSD."""

    data: str
    root: str | None
    split: Split
    every: int

    def settings(self) -> dict[str, Any]:
        names = names_digest([pair.name for pair in self._pairs()])
        return {"cell": "figure", "split": self.split, "photographs": names, "method": FOREGROUND_METHODS[0]}

    def _pairs(self) -> list[PhotoAndMask]:
        return Saliency(self.data, self.root).pairs(self.split)[:: self.every]

    def measure(self, source: ModelSource, folder: Path) -> Measured:
        method = RegionMethod(FOREGROUND_METHODS[0], source, Looks((1,)))
        options = RunOptions(jobs=1, every=self.every, overwrite=True)
        run = regions.run(Saliency(self.data, self.root), self.split, {"": method}, folder, options=options)
        result = run.results[""]
        samples = {"iou": [each.iou for each in result.metrics.values()]}
        return Measured({"iou": result.iou, "max_f": result.max_f_beta}, samples)


def rebuilt_by(model: GMAE, held_out: HeldOut, size: int, ratio: float) -> Rebuilt:
    """Reconstructions of the held-out photographs with a share `ratio` of the patches hidden, `size` px a side."""
    for start in range(0, len(held_out.indices), BATCH):
        numbers = np.arange(start, min(start + BATCH, len(held_out.indices)))
        images = held_out.pictures(numbers, size)
        rendered = held_out.render(model, images, ratio, numbers)
        yield from zip(*(batch.permute(0, 2, 3, 1).numpy() for batch in (rendered, images)), strict=True)


def names_digest(names: Sequence[str]) -> str:
    """Which photographs, in a few letters."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def means(samples: Samples) -> dict[str, float]:
    """The mean of each figure over the pictures that have it."""
    return {name: known_mean(np.array(values)) for name, values in samples.items()}


def known_mean(values: np.ndarray) -> float:
    """Mean of the numbers that are no NaN; NaN without any."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def error(values: np.ndarray) -> float:
    """Standard error of `known_mean`."""
    known = values[np.isfinite(values)]
    return float(known.std(ddof=1) / len(known) ** 0.5) if len(known) > 1 else math.nan


# --- measuring, once --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A checkpoint and its name on the board."""

    label: str
    checkpoint: str

    @staticmethod
    def parse(text: str) -> Candidate:
        """Of `[LABEL=]CHECKPOINT`."""
        label, equals, checkpoint = text.partition("=")
        return Candidate(label, checkpoint) if equals else Candidate(Path(text).name, text)

    def folder(self, out: Path) -> Path:
        """Where its measurements are kept."""
        files = sorted(path for path in checkpoints.find(self.checkpoint).iterdir() if path.suffix in WEIGHTS)
        digest = hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()
        return out / digest[:16]


def parse_candidates(_context: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[Candidate]:
    candidates = [Candidate.parse(text) for text in texts]
    labels = [candidate.label for candidate in candidates]
    for label in labels:
        if labels.count(label) > 1:
            raise click.BadParameter(f"two candidates are called {label!r}: name them, LABEL=CHECKPOINT")
    return candidates


WEIGHTS = (".json", ".safetensors")  # of config, index and weights


def kept(cell: Cell, folder: Path) -> Path:
    """The file of a measurement of the checkpoint whose folder this is."""
    settings = json.dumps({"version": __version__, **cell.settings()}, sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
    return folder / f"{cell.settings()['cell']}-{digest}.json"


def measure(cell: Cell, checkpoint: str, path: Path) -> None:
    """Take a measurement, and keep it as `path`; maps and counts go into a folder of that name."""
    torch.set_num_threads(1)
    found = cell.measure(ModelSource(checkpoint), path.with_suffix(""))
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(asdict(found)))


def measure_all(cells: Mapping[Candidate, Sequence[Cell]], out: Path, jobs: int) -> None:
    """Take all measurements that are not kept yet, `jobs` at a time."""
    wanted: dict[Path, tuple[str, Cell, str]] = {}  # two candidates may be the same
    for candidate, needed in cells.items():
        folder = candidate.folder(out)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {kept(cell, folder): cell for cell in needed}
        wanted |= {
            path: (f"{candidate.label}: {path.stem.rpartition('-')[0]}", cell, candidate.checkpoint)
            for path, cell in paths.items()
            if not path.exists()
        }
    if jobs == 1:
        for path, (name, cell, checkpoint) in wanted.items():
            click.echo(name, err=True)
            measure(cell, checkpoint, path)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        tasks: dict[Future[None], str] = {
            pool.submit(measure, cell, checkpoint, path): name for path, (name, cell, checkpoint) in wanted.items()
        }
        for task in as_completed(tasks):
            task.result()
            click.echo(tasks[task], err=True)


def read(cell: Cell, folder: Path) -> Measured:
    """A measurement that was kept."""
    return Measured(**json.loads(kept(cell, folder).read_text()))


def boundaries(measured: Measured, thresholds: int) -> BoundaryResult:
    """The result of the boundary benchmark from its counts."""
    scores = BoundaryScores(BoundaryProtocol(thresholds))
    for name, counts in measured.counts.items():
        scores.add(name, BoundaryCounts(*(np.array(each) for each in counts)))
    return scores.compute()
