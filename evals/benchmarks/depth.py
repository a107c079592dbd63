"""What does a model's depth mean? Brightness, the frame, or the scene; a column for each checkpoint.

Protocol; every figure is a mean with its standard error over pictures (of ODS: over pictures drawn anew), and all are
on development data, so that choices may be made by them:

- Depth maps: the photograph is squeezed into the model's square, as `gmae-tools predict` does; the expected depth of
  its Gaussians is drawn at 96 x 96 px and counts where at least half is covered. Only ranks count
  (`gmae_tools.metrics.depth`).
- `luminance`, `height`, `centre`: rank correlation of depth with the photograph's luminance, with how high a pixel lies
  in the picture, and with its distance to the middle; 100 photographs of BSDS500 val. Below 0 for luminance: the bright
  is near. `common`: the share of depth's variance that is the same in all pictures, from all pairs of them.
- `auc`: how probably a pixel of the figure is *nearer* than one of the ground, in the ECSSD photographs with odd
  numbers: area under the ROC curve, a photograph at a time; below 0.5 the far side is the figure. `auc_mean`: the same
  of the mean map of all other photographs; `auc_rest`: of what is left without it; `auc_smooth`: of what is left if
  the maps are blurred before, as `gmae-tools segment --method depth` blurs them. `depth_iou`: masks of
  `gmae-tools segment --method depth`, in which near is figure, beside a preference for the middle.
- `l16`, `l8`: ODS of l@16 and l@8 on BSDS500 val at one look, as published (but soft, by persistence). `l16_tiles`,
  `l8_tiles`, `depth_edges` (of expected depth) and `regions`: the same with tiles.
- `flip`, `shift`: rank correlation of depth before and after mirroring the picture, and after moving it by 1, 2, 4 and
  8 px; central squares of every second photograph of BSDS500 val. `other`: between different photographs.
- With `--photos`, `psnr` and `psnr_masked`: 200 photographs that pretraining holds out, whole and with 75 % of the
  patches hidden, dB.

`--quick`: every 6th photograph of BSDS500 val for edges, 15 thresholds, tiles 3 x 3; the rest as above. Its ODS are
not to be compared with those of the full protocol. What was measured is kept under `--out`, as by `scoreboard.py`.

    python -m evals.benchmarks.depth --checkpoint gmae-tiny --checkpoint new=runs/new/model --bsds DATA \
        --ecssd ECSSD --quick
    python -m evals.benchmarks.depth --checkpoint new=runs/new/model --bsds DATA --ecssd ECSSD \
        --sheet runs/new/sheet.png
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from evals.bootstrap import ods_error
from evals.common import cache_option, whole_numbers
from evals.depth_cells import COLUMNS, MEASURES, ODS, depth_cells, with_errors
from evals.measurements import (
    Candidate,
    Cell,
    Consistency,
    Development,
    Edges,
    Measured,
    Photographs,
    Reconstruction,
    boundaries,
    measure_all,
    parse_candidates,
    read,
)
from gmae_tools import checkpoints
from gmae_tools.images import read_image, resize, write_image
from gmae_tools.model import GMAE
from gmae_tools.prediction import predict_gaussians
from gmae_tools.report.contact_sheet import Panel, Section, contact_sheet
from gmae_tools.report.figures import PAPER, depth_colors, depth_range
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.scene import Scene
from gmae_tools.system.files import atomic_path
from gmae_tools.zeroshot.layers import over, render_layers
from gmae_tools.zeroshot.views import Looks

SHOWN, PANEL = 20, 128  # photographs on a sheet, and the side of its pictures in px
SHARES = {"1/8": 8, "1/4": 4, "1/2": 2}  # of the Gaussians, in the pictures of the nearest and of the farthest


# --- a row -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        every: only every Nth photograph of BSDS500 val, for edges.
        thresholds, scales: of edges; each scale s has s x s tiles.
        ecssd_every: only every Nth photograph of ECSSD.
    """

    every: int = 1
    thresholds: int = 33
    scales: tuple[int, ...] = (3, 4)
    ecssd_every: int = 1


QUICK = Extent(every=6, thresholds=15, scales=(3,))


def all_cells(bsds: str, ecssd: str, extent: Extent, photographs: Photographs | None) -> dict[str, Cell]:
    """All measurements, those of ODS by the names of their columns."""
    one, tiles = Looks((1,)), Looks(extent.scales)
    edges = {
        "l16": Edges(bsds, "layers", one, extent.every, extent.thresholds, "l16_"),
        "l8": Edges(bsds, "layers", one, extent.every, extent.thresholds, "l8_", 8),
        "l16_tiles": Edges(bsds, "layers", tiles, extent.every, extent.thresholds),
        "l8_tiles": Edges(bsds, "layers", tiles, extent.every, extent.thresholds, "", 8),
        "depth_edges": Edges(bsds, "expected-depth", tiles, extent.every, extent.thresholds),
        "regions": Edges(bsds, "regions", tiles, extent.every, extent.thresholds),
    }
    return {
        **depth_cells(bsds, ecssd, extent.ecssd_every),
        "consistency": Consistency(Development(bsds, 2)),
        **({"reconstruction": Reconstruction(photographs)} if photographs else {}),
        **edges,
    }


def row_of(label: str, found: Mapping[str, Measured], extent: Extent) -> Row:
    """A row of `COLUMNS` from the measurements by the names of their cells."""
    row: dict[str, str | int | float | None] = dict.fromkeys(COLUMNS)
    row |= {"candidate": label, "every": extent.every, "thresholds": extent.thresholds}
    row["looks"] = ",".join(map(str, extent.scales))
    for name, measured in found.items():
        if name in ODS:
            result = boundaries(measured, extent.thresholds)
            figures = {name: result.ods, f"{name}_se": ods_error(result)}
        else:
            figures = with_errors(measured.samples) | measured.figures
        row |= {column: value for column, value in figures.items() if column in COLUMNS}
    return row


def measure_rows(
    candidates: Sequence[Candidate], cells: Mapping[str, Cell], extent: Extent, out: Path, jobs: int
) -> list[Row]:
    """Measure what is not kept yet under `out`, and give a row for each candidate."""
    measure_all({candidate: list(cells.values()) for candidate in candidates}, out, jobs)
    return [
        row_of(each.label, {name: read(cell, each.folder(out)) for name, cell in cells.items()}, extent)
        for each in candidates
    ]


def as_page(rows: Sequence[Row]) -> str:
    """A Markdown table with a line for each measure and a column for each candidate."""
    lines = [["measure", *(str(row["candidate"]) for row in rows)], ["---"] * (len(rows) + 1)]
    for name, decimals in MEASURES.items():
        cells = [with_error(row[name], row[f"{name}_se"], decimals) for row in rows]
        if any(cells):
            lines.append([name, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_error(value: str | int | float | None, within: str | int | float | None, decimals: int) -> str:
    """`0.512 +- 0.010`; empty for what was not measured."""
    return "" if value is None else f"{float(value):.{decimals}f} +- {float(within or 0):.{decimals}f}"


# --- layers to look at -------------------------------------------------------------------------------


def layers_sheet(model: GMAE, label: str, photos: Sequence[Path]) -> np.ndarray:
    """Photographs taken apart by depth, a row each: nearest eighth to farthest eighth, uint8 RGB `[H, W, 3]`."""
    rows = [Section(path.stem, list(_parts(model, read_image(path)))) for path in photos]
    subtitle = f"K = {model.config.k} Gaussians, on grey; depth: near is bright"
    return contact_sheet(f"Depth layers of {label}", subtitle, rows, columns=len(rows[0].panels))


def _parts(model: GMAE, photo: np.ndarray) -> Iterator[Panel]:
    height, width = (round(side * PANEL / max(photo.shape[:2])) for side in photo.shape[:2])
    gaussians, k = predict_gaussians(model, photo).sort_by_depth(), model.config.k
    scene = Scene(gaussians, model.camera, height, width)
    near = {name: max(1, k // part) for name, part in SHARES.items()}
    drawn = render_layers(scene, [*near.values(), k], 1)
    behind = {name: gaussians.select(slice(k - count, None)) for name, count in reversed(near.items())}
    grey = torch.full((3,), 0.5)  # on white, what is bright would look like nothing
    firsts = over(drawn.firsts, drawn.first_alphas, grey)
    depth, alpha = drawn.depth.numpy(), drawn.alpha.numpy()
    yield Panel(_square(resize(photo, height, width)), "photograph")
    yield Panel(_square(firsts[-1]), "all")
    yield Panel(_square(depth_colors(depth, alpha, *depth_range(depth, alpha))), "depth")
    for name, picture in zip(near, firsts, strict=False):
        yield Panel(_square(picture), f"nearest {name}")
    for name, part in behind.items():
        far = render_layers(replace(scene, gaussians=part), [part.k], 1)
        yield Panel(_square(over(far.firsts, far.first_alphas, grey)[0]), f"farthest {name}")


def _square(picture: np.ndarray) -> np.ndarray:
    """A picture in the middle of a square of paper: panels of a sheet have one size."""
    page = np.full((PANEL, PANEL, 3), PAPER, np.uint8)
    top, left = ((PANEL - side) // 2 for side in picture.shape[:2])
    page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return page


# --- command -----------------------------------------------------------------------------------------


@click.command()
@click.option(
    "--checkpoint", "candidates", multiple=True, default=("gmae-tiny",), show_default=True,
    metavar="[LABEL=]CHECKPOINT", callback=parse_candidates, help="May be repeated.",
)  # fmt: skip
@click.option("--bsds", required=True, metavar="DIR", help="BSDS500, or the folder of the data sets.")
@click.option("--ecssd", required=True, metavar="NAME|DIR", help="ecssd, or a folder with images/ and masks/.")
@click.option("--photos", multiple=True, metavar="PATH", help="Of the pretraining run, for PSNR; may be repeated.")
@click.option("--quick", is_flag=True, help="Every 6th photograph for edges, 15 thresholds, tiles 3 x 3.")
@click.option("--every", type=click.IntRange(1), help="Only every Nth photograph for edges.  [default: 1]")
@click.option("--thresholds", type=click.IntRange(2), help="Of edges.  [default: 33]")
@click.option("--scales", callback=whole_numbers, help="Tiles of edges.  [default: 3,4]")
@click.option("--ecssd-every", type=click.IntRange(1), help="Only every Nth photograph of ECSSD.  [default: 1]")
@cache_option
@click.option("--out", type=click.Path(path_type=Path), default="runs/depth", show_default=True, help="Measurements.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder for depth.csv and depth.md.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help=f"PNG of the layers of {SHOWN} photographs; with several "
    "checkpoints their names are added.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Measurements at a time.")
def main(
    candidates: list[Candidate], bsds: str, ecssd: str, photos: tuple[str, ...], quick: bool,
    cache: str | None, out: Path, results: Path | None, sheet: Path | None, jobs: int, **asked: Any,
) -> None:  # fmt: skip
    """Measure what the depth of CHECKPOINTs means; print a table, and write it if asked to."""
    extent = replace(QUICK if quick else Extent(), **{name: value for name, value in asked.items() if value})
    cells = all_cells(bsds, ecssd, extent, Photographs(photos, cache, 200) if photos else None)
    rows = measure_rows(candidates, cells, extent, out, jobs)
    about = (
        f"Edges: every {extent.every}. photograph of BSDS500 val, {extent.thresholds} thresholds, tiles "
        f"{','.join(map(str, extent.scales))}; every {extent.ecssd_every}. of the odd ECSSD photographs."
    )
    if sheet:
        shown = Development(bsds).photos()
        shown = shown[:: max(1, len(shown) // SHOWN)][:SHOWN]
        sheet.parent.mkdir(parents=True, exist_ok=True)
        for each in candidates:
            path = sheet if len(candidates) == 1 else sheet.with_stem(f"{sheet.stem}-{each.label}")
            write_image(path, layers_sheet(checkpoints.load(each.checkpoint), each.label, shown))
    if results:
        results.mkdir(parents=True, exist_ok=True)
        page = f"# Depth\n\n{(__doc__ or '').strip()}\n\n{about}\n\n{as_page(rows)}"
        for suffix, text in (("md", page), ("csv", format_rows(rows, COLUMNS, "csv"))):
            with atomic_path(results / f"depth.{suffix}") as temporary:
                temporary.write_text(text)
    click.echo(f"{about}\n\n{as_page(rows)}", nl=False)


if __name__ == "__main__":
    main()
