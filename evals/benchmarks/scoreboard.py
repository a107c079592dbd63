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
  moving it by 1, 2, 4 and 8 px, over 50 held-out photographs (`evals.depth_consistency`); `..._within` is 1.96
  standard errors. `other`: the same between different photographs, which any pattern of the frame can have.
- Of depth, in a table of its own, as `depth.py`: what it goes with (`luminance`, `height`, `centre`, `common`), whether
  what is near is the figure (`auc`, `auc_mean`, `auc_rest`, `depth_iou`; the same half of ECSSD), and `l8_ods` beside
  `l16_ods`; `..._se` is a standard error.
- `ms`: CPU milliseconds of one thread for model and render of one picture at the model's size; the candidates take
  turns, medians over the rounds. `parameters_m` in millions. `k`: Gaussians a picture.

The second table compares with the first row, picture by picture: differences, and their standard deviations when the
pictures are drawn anew with replacement (of means: standard errors).

What is measured is kept under `--out` by the fingerprint of config and weights and by the settings: a killed run goes
on, and a row more costs only its own measurements. Times are always taken anew, together.

    python -m evals.benchmarks.scoreboard --data PHOTOS --root DATA \
        --ecssd ECSSD runs/a/checkpoint wide=runs/b/checkpoint
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

from evals.bootstrap import ods_difference, ods_error
from evals.common import (
    PHOTO,
    RESULTS,
    as_markdown,
    cache_option,
    ecssd_option,
    root_option,
    script,
    whole_numbers,
    work_option,
    write_files,
)
from evals.depth_cells import ORDER, depth_cells
from evals.measurements import (
    Candidate,
    Cell,
    Consistency,
    Edges,
    Figure,
    Measured,
    Photographs,
    Reconstruction,
    boundaries,
    error,
    known_mean,
    measure_all,
    parse_candidates,
    read,
)
from gmae_tools import checkpoints
from gmae_tools.datasets.saliency import Split
from gmae_tools.images import read_image, resize, to_tensor
from gmae_tools.model import GMAE
from gmae_tools.pretrain.reconstruction import reconstruct
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.zeroshot.names import EDGE_READOUTS
from gmae_tools.zeroshot.views import Looks

COLUMNS = {
    "candidate": None, "readout": None, "psnr": 2, "psnr_masked": 2, "l16_ods": 3, "l16_ois": 3, "l16_ap": 3, "ods": 3,
    "ois": 3, "ap": 3, "iou": 3, "max_f": 3, "flip": 3, "flip_within": 3, "shift": 3, "shift_within": 3, "other": 3,
    "ms": 1, "parameters_m": 2, "k": None,
}  # fmt: skip
DEPTH_COLUMNS = {"candidate": None} | {
    f"{name}{kind}": 3 for name in (*ORDER, "l16_ods", "l8_ods") for kind in ("", "_se")
}
COMPARED = ("psnr", "psnr_masked", "iou", "flip", "shift")  # figures of which there is one a picture, beside ODS
DIFFERENCES = {"candidate": None, "readout": None} | {
    f"{name}{kind}": 3 for name in ("psnr", "psnr_masked", "ods", "iou", "flip", "shift") for kind in ("", "_sd")
}


# --- the board --------------------------------------------------------------------------------------


def row_of(candidate: Candidate, edges: Edges, found: Mapping[str, Measured], model: GMAE, ms: float) -> Row:
    """A row of `COLUMNS` and of `DEPTH_COLUMNS` from the measurements by the names of their cells."""
    figures = {name: value for measured in found.values() for name, value in measured.figures.items()}
    figures |= {
        f"{name}_ods_se": ods_error(boundaries(found[cell], edges.thresholds))
        for name, cell in (("l16", "layers"), ("l8", "fewer layers"))
    }
    known: dict[str, str | int | float | None] = {
        name: value for name, value in figures.items() if name in COLUMNS | DEPTH_COLUMNS
    }
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
    row["ods"], row["ods_sd"] = ods_difference(*(boundaries(side["edges"], thresholds) for side in (found, first)))
    return row


def milliseconds(models: Mapping[str, GMAE], rounds: int) -> dict[str, float]:
    """CPU time of model and render of one picture in one thread, in turns: what others do does not count as much."""
    torch.set_num_threads(1)
    turns = [{label: render_once(model) for label, model in models.items()} for _ in range(rounds + 1)]
    return {label: statistics.median(turn[label] for turn in turns[1:]) for label in models}  # the first is to warm up


@torch.inference_mode()
def render_once(model: GMAE) -> float:
    size = model.config.image_size
    picture = to_tensor(resize(read_image(PHOTO), size, size))
    start = time.process_time()
    reconstruct(model, picture)
    return (time.process_time() - start) * 1e3


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        every: only every Nth photograph of BSDS500 val and of ECSSD.
        thresholds: of edges.
        rounds: in which the candidates take turns.
        held_out, moved: photographs that are rebuilt, and photographs that are mirrored and moved.
    """

    every: int = 1
    thresholds: int = 33
    rounds: int = 30
    held_out: int = 200
    moved: int = 50


QUICK = Extent(25, 5, 3, 10, 10)


@dataclass(frozen=True)
class Board:
    """Rows of `COLUMNS`, of `DEPTH_COLUMNS`, one for each candidate, and of `DIFFERENCES`, for all but the first."""

    rows: list[Row]
    depth: list[Row]
    differences: list[Row]


def make_board(
    candidates: Sequence[Candidate], shared: Mapping[str, Cell], rivals: Sequence[Edges], out: Path, extent: Extent
) -> Board:
    """Read what was measured, and take the times, together."""
    models = {candidate.label: checkpoints.load(candidate.checkpoint) for candidate in candidates}
    times = milliseconds(models, extent.rounds)
    board = Board([], [], [])
    first: dict[str, Measured] = {}
    for candidate in candidates:
        folder = candidate.folder(out)
        for edges in rivals:
            found = {name: read(cell, folder) for name, cell in {**shared, "edges": edges}.items()}
            row = row_of(candidate, edges, found, models[candidate.label], times[candidate.label])
            board.rows.append(row)
            if edges == rivals[0]:
                board.depth.append(row)
            if first:
                who = {"candidate": candidate.label, "readout": edges.title}
                board.differences.append(who | dict(difference_of(found, first, extent.thresholds)))
            first = first or found
    return board


def write_board(name: str, about: str, board: Board, results: Path) -> None:
    """Write the page and the tables, which begin with `name`."""
    page = f"# {name.capitalize()}\n\n{(__doc__ or '').strip()}\n\n{about}\n\n{as_markdown(board.rows, COLUMNS)}"
    page += f"\n## Depth\n\n{as_markdown(board.depth, DEPTH_COLUMNS)}"
    if board.differences:
        page += f"\n## Against {board.rows[0]['candidate']}\n\n{as_markdown(board.differences, DIFFERENCES)}"
    tables = {f"{name}.csv": format_rows(board.rows, COLUMNS, "csv")}
    tables[f"{name}-depth.csv"] = format_rows(board.depth, DEPTH_COLUMNS, "csv")
    write_files(results, tables | {f"{name}.md": page})


# --- command ----------------------------------------------------------------------------------------


@script(takes="3 minutes for each checkpoint", needs="BSDS500, ECSSD and the photographs of the pretraining run")
@click.argument("candidates", nargs=-1, metavar="[[LABEL=]CHECKPOINT]...", callback=parse_candidates)
@click.option("--data", multiple=True, required=True, metavar="PATH", help="The photographs of the pretraining run.")
@root_option
@ecssd_option
@click.option(
    "--readout", "readouts", type=click.Choice(EDGE_READOUTS), multiple=True, default=("regions",), show_default=True,
    help="Of edges; several make a row each.",
)  # fmt: skip
@click.option("--scales", callback=whole_numbers, default="3,4", show_default=True, help="The looks of the readouts.")
@click.option("--flip", is_flag=True, help="Readouts also look at everything mirrored.")
@click.option("--reporting-half", is_flag=True, help="Figure and ground on even numbers: for a report, not a choice.")
@click.option("--quick", is_flag=True, help="Few photographs, thresholds and rounds: only to see that it runs.")
@cache_option
@work_option("scoreboard")
@click.option(
    "--results", type=click.Path(path_type=Path), help="Folder for scoreboard.csv, -depth.csv and .md "
    "(with --reporting-half scoreboard-reported).  [default: evals/results; nothing is written with --quick]",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Measurements at a time.")
def main(
    candidates: list[Candidate], data: tuple[str, ...], root: str | None, ecssd: str, readouts: tuple[str, ...],
    scales: tuple[int, ...], flip: bool, reporting_half: bool, quick: bool, cache: str | None, out: Path,
    results: Path | None, jobs: int,
) -> None:  # fmt: skip
    """Measure CHECKPOINTs (by default the embedded one), and write the board into the folder of results."""
    candidates = candidates or [Candidate.parse("gmae-tiny")]
    extent = QUICK if quick else Extent()
    split: Split = "even" if reporting_half else "odd"
    held_out, moved = (Photographs(data, cache, count) for count in (extent.held_out, extent.moved))
    shared: dict[str, Cell] = {
        "reconstruction": Reconstruction(held_out),
        "depth": Consistency(moved),
        "layers": Edges(root, "layers", Looks((1,)), extent.every, extent.thresholds, "l16_"),
        "fewer layers": Edges(root, "layers", Looks((1,)), extent.every, extent.thresholds, "l8_", 8),
        "figure": Figure(ecssd, root, split, extent.every),
        **depth_cells(root, ecssd, extent.every, split),
    }
    rivals = [Edges(root, name, Looks(scales, flip), extent.every, extent.thresholds) for name in readouts]
    measure_all({candidate: [*shared.values(), *rivals] for candidate in candidates}, out, jobs)
    board = make_board(candidates, shared, rivals, out, extent)
    about = (
        f"ECSSD: {split} numbers. {extent.thresholds} thresholds, every {extent.every}. image of BSDS500 val and ECSSD."
    )
    if results or not quick:
        write_board("scoreboard-reported" if reporting_half else "scoreboard", about, board, results or RESULTS)
    click.echo(f"{about}\n\n{format_rows(board.rows, COLUMNS, 'table')}")
    click.echo(format_rows(board.depth, DEPTH_COLUMNS, "table"))
    if board.differences:
        click.echo(f"Against the first row:\n\n{format_rows(board.differences, DIFFERENCES, 'table')}", nl=False)


if __name__ == "__main__":
    main()
