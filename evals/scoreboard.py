"""Which checkpoint, and which readout, is the best so far? A row for each, on development data alone.

Protocol, for each candidate checkpoint:

- `psnr`, `psnr_masked`: 200 of the photographs that pretraining holds out, as `reconstruction.py`: whole, and with 75 %
  of the patches hidden, at the model's own size; dB, means over photographs.
- `l16_ods`, `l16_ois`, `l16_ap`: BSDS500 val, l@16 from one look at the whole photograph, as published (but soft, by
  persistence). `ods`, `ois`, `ap`: the same for `readout`, with its looks. Both as `bsds500.py`, 33 thresholds.
- `iou`, `max_f`: figure and ground (`grouped`, one look) on the ECSSD photographs with odd numbers, as
  `figure_ground.py`. Candidates are chosen by these numbers, so the even ones, which are for the report, are left alone
  unless `--reporting-half` asks for them; then nothing may be chosen any more.
- `flip`, `shift`: rank correlation of the maps of expected depth before and after mirroring the picture, and after
  moving it by 1, 2, 4 and 8 px, over 50 held-out photographs (`gmae_tools.depth_consistency`); `..._within` is 1.96
  standard errors. `other`: the same between different photographs, which any pattern of the frame can have.
- `ms`: CPU milliseconds of one thread for model and render of one picture at the model's size; the candidates take
  turns, medians over the rounds. `parameters_m` in millions. `k`: Gaussians a picture.

The second table compares with the first row, picture by picture: differences, and their standard deviations when the
pictures are drawn anew with replacement (of means: standard errors).

What is measured is kept under `--out` by the fingerprint of config and weights and by the settings: a killed run goes
on, and a row more costs only its own measurements. Times are always taken anew, together.

    python evals/scoreboard.py --data PHOTOS --root DATA --ecssd ECSSD runs/a/checkpoint wide=runs/b/checkpoint
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np
import torch
from bsds500 import compare
from figure_ground import BEST as FIGURE
from figure_ground import as_markdown
from layers_speed import PHOTO
from reconstruction import rebuilt_by

from gmae_tools import __version__, checkpoints, edge_benchmark, region_benchmark
from gmae_tools.cli._options import Numbers, cache_option
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.datasets.photos import PhotoStore, held_out_split
from gmae_tools.datasets.saliency import Pair, Saliency, Split
from gmae_tools.depth_consistency import SHIFTS, depth_consistency
from gmae_tools.detectors import GAUSSIAN, GaussianEdges
from gmae_tools.files import atomic_path
from gmae_tools.images import read_image, resize, to_tensor
from gmae_tools.metrics.boundaries import BoundaryCounts, BoundaryResult, BoundaryScores
from gmae_tools.metrics.boundaries import Protocol as BoundaryProtocol
from gmae_tools.metrics.pictures import psnr
from gmae_tools.metrics.regions import RegionProtocol
from gmae_tools.model import GMAE
from gmae_tools.prediction_folder import claim, fingerprint, predict_maps
from gmae_tools.pretrain.evaluation import HeldOut
from gmae_tools.pretrain.objectives.objective import MASKED
from gmae_tools.reconstruction import reconstruct
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.segmenters import THRESHOLDS, GaussianFigure
from gmae_tools.views import Looks

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = {
    "candidate": None, "readout": None, "psnr": 2, "psnr_masked": 2, "l16_ods": 3, "l16_ois": 3, "l16_ap": 3, "ods": 3,
    "ois": 3, "ap": 3, "iou": 3, "max_f": 3, "flip": 3, "flip_within": 3, "shift": 3, "shift_within": 3, "other": 3,
    "ms": 1, "parameters_m": 2, "k": None,
}  # fmt: skip
COMPARED = ("psnr", "psnr_masked", "iou", "flip", "shift")  # figures of which there is one a picture, beside ODS
DIFFERENCES = {"candidate": None, "readout": None} | {
    f"{name}{kind}": 3 for name in ("psnr", "psnr_masked", "ods", "iou", "flip", "shift") for kind in ("", "_sd")
}
DEPTH_BATCH = 5
LAYERS = 16

Samples = dict[str, list[float]]  # of each figure, one number a picture


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

    def measure(self, model: GMAE, folder: Path) -> Measured:
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

    def measure(self, model: GMAE, folder: Path) -> Measured:
        held_out, size = self.photographs.open(), model.config.image_size
        samples = {
            name: [psnr(a, b) for a, b in rebuilt_by(model, held_out, size, ratio)]
            for name, ratio in (("psnr", 0.0), ("psnr_masked", MASKED))
        }
        return Measured(means(samples), samples)


@dataclass(frozen=True)
class Depth:
    """Whether the order of depth goes with the scene."""

    photographs: Photographs

    def settings(self) -> dict[str, Any]:
        return {"cell": "depth", "photographs": self.photographs.digest(), "shifts": SHIFTS, "batch": DEPTH_BATCH}

    def measure(self, model: GMAE, folder: Path) -> Measured:
        held_out, side = self.photographs.open(), model.config.image_size + max(SHIFTS)
        found: dict[str, list[np.ndarray]] = {}
        for _, images in held_out.batches(model, side, DEPTH_BATCH):
            for name, values in depth_consistency(model, images, SHIFTS).items():
                found.setdefault(name, []).append(values)
        joined = {name: np.concatenate(parts) for name, parts in found.items()}
        joined["shift"] = np.mean([joined[f"shift {shift}"] for shift in SHIFTS], axis=0)
        samples: Samples = {name: values.tolist() for name, values in joined.items()}
        within = {f"{name}_within": 1.96 * error(joined[name]) for name in ("flip", "shift")}
        return Measured(means(samples) | within, samples)


@dataclass(frozen=True)
class Edges:
    """A readout of edges on BSDS500 val; `prefix` goes before the names of the columns."""

    root: str | None
    readout: str
    looks: Looks
    every: int
    thresholds: int
    prefix: str = ""

    @property
    def title(self) -> str:
        """Name of the setting, such as `regions, looks 3,4`."""
        flip = " and mirrored" if self.looks.flip else ""
        return f"{self.readout}, looks {','.join(map(str, self.looks.scales))}{flip}"

    def photos(self) -> list[Path]:
        return BSDS500(self.root).images("val")[:: self.every]

    def settings(self) -> dict[str, Any]:
        names = names_digest([path.stem for path in self.photos()])
        layers = LAYERS if self.readout == "layers" else None
        chosen = {"readout": self.readout, "layers": layers, "scales": self.looks.scales, "flip": self.looks.flip}
        return {"cell": f"{self.prefix}edges", "photographs": names, "thresholds": self.thresholds, **chosen}

    def measure(self, model: GMAE, folder: Path) -> Measured:
        detect = GaussianEdges(model, self.looks).detector(self.readout, (LAYERS,))
        list(predict_maps(self.photos(), {folder: detect}))
        truths = BSDS500(self.root).ground_truth_folder("val")
        result = edge_benchmark.score_maps(
            folder, truths, self.thresholds, subset=True, jobs=1, progress=lambda counts, _length, _label: iter(counts)
        )
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
        return {"cell": "figure", "split": self.split, "photographs": names, "method": FIGURE.method}

    def _pairs(self) -> list[Pair]:
        return Saliency(self.data, self.root).pairs(self.split)[:: self.every]

    def measure(self, model: GMAE, folder: Path) -> Measured:
        pairs, protocol = self._pairs(), RegionProtocol(threshold=THRESHOLDS[FIGURE.method])
        segment = GaussianFigure(model, FIGURE.looks).segmenter(FIGURE.method)
        list(predict_maps([pair.photo for pair in pairs], {folder: segment}))
        scored = list(region_benchmark.score_pairs(region_benchmark.maps_of(folder, pairs), protocol, jobs=1))
        result = region_benchmark.summarize(scored, protocol)
        samples = {"iou": [each.figures.iou for each in scored]}
        return Measured({"iou": result.iou, "max_f": result.max_f_beta}, samples)


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
        digest = hashlib.sha256("".join(map(fingerprint, files)).encode()).hexdigest()
        return out / digest[:16]


WEIGHTS = (".json", ".safetensors")  # of config, index and weights


def kept(cell: Cell, folder: Path) -> Path:
    """The file of a measurement of the checkpoint whose folder this is."""
    settings = json.dumps({"version": __version__, **cell.settings()}, sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
    return folder / f"{cell.settings()['cell']}-{digest}.json"


def measure(cell: Cell, checkpoint: str, path: Path) -> None:
    """Take a measurement, and keep it as `path`; maps and counts go into a folder of that name."""
    torch.set_num_threads(1)
    folder = path.with_suffix("")
    claim(folder, cell.settings())
    found = cell.measure(checkpoints.load(checkpoint), folder)
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


# --- the board --------------------------------------------------------------------------------------


def row_of(candidate: Candidate, edges: Edges, found: Mapping[str, Measured], model: GMAE, ms: float) -> Row:
    """A row of `COLUMNS` from the measurements by the names of their cells."""
    figures = {name: value for measured in found.values() for name, value in measured.figures.items()}
    known: dict[str, str | int | float | None] = {name: value for name, value in figures.items() if name in COLUMNS}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = {"ms": ms, "parameters_m": parameters / 1e6, "k": model.config.k}
    return {"candidate": candidate.label, "readout": edges.title, **known, **size}


def difference_of(found: Mapping[str, Measured], first: Mapping[str, Measured], thresholds: int) -> Row:
    """The figures of a row of `DIFFERENCES`."""
    row: dict[str, float] = {}
    ours, theirs = (
        {name: values for each in side.values() for name, values in each.samples.items()} for side in (found, first)
    )
    for name in COMPARED:
        change = np.array(ours[name]) - np.array(theirs[name])
        row |= {name: known_mean(change), f"{name}_sd": error(change)}
    row["ods"], row["ods_sd"] = compare(*(boundaries(side["edges"], thresholds) for side in (found, first)))
    return row


def boundaries(measured: Measured, thresholds: int) -> BoundaryResult:
    """The result of the boundary benchmark from its counts."""
    scores = BoundaryScores(BoundaryProtocol(thresholds))
    for name, counts in measured.counts.items():
        scores.add(name, BoundaryCounts(*(np.array(each) for each in counts)))
    return scores.compute()


def milliseconds(models: Mapping[str, GMAE], rounds: int) -> dict[str, float]:
    """CPU time of model and render of one picture in one thread, in turns: what others do does not count as much."""
    torch.set_num_threads(1)
    turns = [{label: draw_once(model) for label, model in models.items()} for _ in range(rounds + 1)]
    return {label: statistics.median(turn[label] for turn in turns[1:]) for label in models}  # the first is to warm up


@torch.inference_mode()
def draw_once(model: GMAE) -> float:
    size = model.config.image_size
    picture = to_tensor(resize(read_image(PHOTO), size, size))
    start = time.process_time()
    reconstruct(model, picture)
    return (time.process_time() - start) * 1e3


# --- command ----------------------------------------------------------------------------------------


def parse_candidates(_context: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[Candidate]:
    candidates = [Candidate.parse(text) for text in texts]
    labels = [candidate.label for candidate in candidates]
    for label in labels:
        if labels.count(label) > 1:
            raise click.BadParameter(f"two candidates are called {label!r}: name them, LABEL=CHECKPOINT")
    return candidates


@click.command()
@click.argument("candidates", nargs=-1, metavar="[[LABEL=]CHECKPOINT]...", callback=parse_candidates)
@click.option("--data", multiple=True, required=True, metavar="PATH", help="The photographs of the pretraining run.")
@click.option("--root", envvar="GMAE_TOOLS_DATA", show_envvar=True, help="Folder of the data sets.")
@click.option("--ecssd", required=True, metavar="NAME|DIR", help="ecssd, or a folder with images/ and masks/.")
@click.option(
    "--readout", "readouts", type=click.Choice(GAUSSIAN), multiple=True, default=("regions",), show_default=True,
    help="Of edges; several make a row each.",
)  # fmt: skip
@click.option("--scales", type=Numbers(), default="3,4", show_default=True, help="The looks of the readouts.")
@click.option("--flip", is_flag=True, help="Readouts also look at everything mirrored.")
@click.option("--reporting-half", is_flag=True, help="Figure and ground on even numbers: for a report, not a choice.")
@click.option("--quick", is_flag=True, help="Few photographs, thresholds and rounds: only to see that it runs.")
@cache_option
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "runs" / "scoreboard", help="Measurements.")
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder for scoreboard.csv and .md (with --reporting-half "
    "scoreboard-reported).  [default: evals/results; nothing is written with --quick]",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Measurements at a time.")
def main(
    candidates: list[Candidate], data: tuple[str, ...], root: str | None, ecssd: str, readouts: tuple[str, ...],
    scales: tuple[int, ...], flip: bool, reporting_half: bool, quick: bool, cache: str | None, out: Path,
    results: Path | None, jobs: int,
) -> None:  # fmt: skip
    """Measure CHECKPOINTs (by default the embedded one), and write the board into the folder of results."""
    candidates = candidates or [Candidate.parse("gmae-tiny")]
    every, thresholds, rounds = (25, 5, 3) if quick else (1, 33, 30)
    held_out, moved = (Photographs(data, cache, 10 if quick else count) for count in (200, 50))
    split: Split = "even" if reporting_half else "odd"
    shared: dict[str, Cell] = {
        "reconstruction": Reconstruction(held_out),
        "depth": Depth(moved),
        "layers": Edges(root, "layers", Looks((1,)), every, thresholds, "l16_"),
        "figure": Figure(ecssd, root, split, every),
    }
    rivals = [Edges(root, readout, Looks(scales, flip), every, thresholds) for readout in readouts]
    measure_all({candidate: [*shared.values(), *rivals] for candidate in candidates}, out, jobs)

    models = {candidate.label: checkpoints.load(candidate.checkpoint) for candidate in candidates}
    times = milliseconds(models, rounds)
    rows: list[Row] = []
    differences: list[Row] = []
    first: dict[str, Measured] = {}
    for candidate in candidates:
        folder = candidate.folder(out)
        for edges in rivals:
            found = {name: read(cell, folder) for name, cell in {**shared, "edges": edges}.items()}
            rows.append(row_of(candidate, edges, found, models[candidate.label], times[candidate.label]))
            first = first or found
            who = {"candidate": candidate.label, "readout": edges.title}
            differences.append(who | dict(difference_of(found, first, thresholds)))

    name = "scoreboard-reported" if reporting_half else "scoreboard"
    about = f"ECSSD: {split} numbers. {thresholds} thresholds, every {every}. image of BSDS500 val and ECSSD."
    page = f"# {name.capitalize()}\n\n{(__doc__ or '').strip()}\n\n{about}\n\n{as_markdown(rows, COLUMNS)}"
    if len(rows) > 1:
        page += f"\n## Against {rows[0]['candidate']}\n\n{as_markdown(differences[1:], DIFFERENCES)}"
    if results or not quick:
        folder = results or ROOT / "evals" / "results"
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in (("csv", format_rows(rows, COLUMNS, "csv")), ("md", page)):
            with atomic_path(folder / f"{name}.{suffix}") as temporary:
                temporary.write_text(text)
    click.echo(f"{about}\n\n{format_rows(rows, COLUMNS, 'table')}")
    if len(rows) > 1:
        click.echo(f"Against the first row:\n\n{format_rows(differences[1:], DIFFERENCES, 'table')}", nl=False)


if __name__ == "__main__":
    main()
