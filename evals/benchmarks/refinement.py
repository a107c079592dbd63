"""Refinement: how much do a few steps bring, how fast, and what is GMAE's prediction worth as a start?

Protocol: photographs of BSDS500 val (every 4th by name) in their own size, 481 x 321 px; one thread; PSNR against the
photograph on white; seconds are CPU time of the one thread, rendering, projection and Adam included, the model not.
Every number of steps is a fit of its own, since the rates fall at the end of each.

Starts, at each K:

- `gmae`: the prediction (768 Gaussians). A smaller K keeps those that weigh most in the picture, a larger one is
  reached by splitting on the way (`refine(k=K)`).
- `grid`: K round Gaussians on a grid, colours from the photograph, random depths.
- `grid+depth`: the same, with the expected depth of the prediction at their places.
- `grid, split`: a grid of 768 that is split as the prediction is: what splitting alone is worth. Only at K beyond 768.

`depth kept` is Spearman's rank correlation, over the pixels, of the maps of expected depth before and after: 1 if
refinement leaves the layering as it was. `gmae` only.

Besides: the bars of speed and of steps; MS-SSIM and time at the numbers of Gaussians at which 2-D Gaussian codecs are
run, on photographs that scikit-image brings along; a sheet of pictures to look at.

    python -m evals.benchmarks.refinement --root DATA  # about 9 minutes on two cores; goes on where it stopped
    python -m evals.benchmarks.refinement --root DATA --photos 2 --ks 1024 --steps 12,25 --out /tmp/runs \
        --results /tmp/results
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from pathlib import Path

import click
import numpy as np
import torch
from pytorch_msssim import ms_ssim
from torch import Tensor

from evals.common import (
    as_markdown,
    checkpoint_option,
    jobs_option,
    overwrite_option,
    progress,
    results_option,
    root_option,
    script,
    whole_numbers,
    work_option,
    write_files,
)
from evals.depth_consistency import scene_depth
from evals.depth_ranks import rank_correlation
from gmae_tools import checkpoints
from gmae_tools.benchmarks.predictions import weights_of
from gmae_tools.camera import Camera
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import read_image, resize, to_tensor, write_image
from gmae_tools.model import GMAE
from gmae_tools.prediction import predict_scene
from gmae_tools.refine import Rates, Refinement, RefineOptions, refine
from gmae_tools.report.contact_sheet import Panel, Section, contact_sheet, in_box, panel_size
from gmae_tools.report.figures import COLUMN, PAGE, PALETTE, STYLE, add_caption, depth_colors
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize
from gmae_tools.system.files import atomic_path
from gmae_tools.system.processes import cores, in_processes
from gmae_tools.system.settings import claim
from gmae_tools.vit import query_places
from gmae_tools.zeroshot.layers import over, render_layers

EVERY = 4
STARTS = ("gmae", "grid", "grid+depth", "grid, split")
COLUMNS = {"start": None, "k": None, "steps": None, "psnr": 2, "seconds": 2, "depth_kept": 3, "photographs": None}
SPEED_COLUMNS = {"start": None, "seconds": 2, "cpu_seconds": 2, "psnr": 2}
PEER_COLUMNS = {"photograph": None, "pixels": None, "k": None, "psnr": 2, "ms_ssim": 4, "seconds": 1}
SPEED_SIZE, SPEED_K, SPEED_STEPS, SPEED_BAR = (192, 288), 1024, 200, 3.0  # px, Gaussians, steps, seconds
PEER_PHOTOS, PEER_STEPS = ("astronaut", "chelsea", "coffee", "rocket"), 200
PEER_KS = 1024, 3000, 5000  # not fewer than the model predicts
SHEET_STEPS, SHEET_LAYERS, SHEET_SIDE = (0, 10, 50, 200), 4, 150  # the last in px
OPACITY = 0.7  # of a grid's Gaussians

Record = dict[str, str | int | float | None]


def grid(image: Tensor, k: int, depth: Tensor | None = None) -> Gaussians:
    """K Gaussians with a distance of two standard deviations on a grid over `image` `[1, 3, H, W]`.

    Args:
        depth: z in scene units for each pixel `[H, W]`; random in [-1, 1] by default.
    """
    height, width = image.shape[-2:]
    places = query_places(k)
    column = ((places[:, 0] + 1) / 2 * width).long().clamp(0, width - 1)
    row = ((places[:, 1] + 1) / 2 * height).long().clamp(0, height - 1)
    z = torch.rand(k, generator=torch.Generator().manual_seed(0)) * 2 - 1 if depth is None else depth[row, column]
    spacing = 2 / math.sqrt(k)  # in half pictures
    scales = torch.full((k, 3), spacing / 2 * Camera().distance)
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(k, 1)
    parts = (torch.cat([places, z[:, None]], 1), scales, quats, image[0, :, row, column].T, torch.full((k,), OPACITY))
    return Gaussians(*(part[None].contiguous() for part in parts))


def heaviest(scene: Scene, k: int) -> Gaussians:
    """The `k` Gaussians that weigh most in the picture, which is the gradient of its sum in their colours."""
    colors = torch.ones_like(scene.gaussians.colors, requires_grad=True)
    splats = replace(scene, gaussians=replace(scene.gaussians, colors=colors)).splats()
    (weights,) = torch.autograd.grad(rasterize(splats, scene.height, scene.width).image.sum(), colors)
    return scene.gaussians.select(weights.sum(-1).topk(k, dim=1).indices.sort(dim=1).values)


def start_from(name: str, prediction: Scene, k: int) -> Scene:
    """The scene of a start's name, with its photograph; fewer Gaussians than `k` if they are to be split."""
    if name == "gmae":
        return replace(prediction, gaussians=heaviest(prediction, k)) if k < prediction.k else prediction
    image = photograph(prediction)
    if name == "grid+depth":
        depth = torch.from_numpy(scene_depth(prediction)) - prediction.camera.distance
        return replace(prediction, gaussians=grid(image, k, depth))
    return replace(prediction, gaussians=grid(image, prediction.k if name == "grid, split" else k))


def photograph(scene: Scene) -> Tensor:
    """The photograph of a scene that has one, `[1, 3, H, W]` in [0, 1]."""
    assert scene.photo is not None
    return to_tensor(scene.photo)


def timed_fit(start: Scene, steps: int, k: int) -> tuple[Refinement, float]:
    """The fit in the photograph's own size, and its seconds of CPU time."""
    image = photograph(start)
    begin = time.process_time()
    found = refine(start.gaussians, image, start.camera, steps, RefineOptions(k))
    return found, time.process_time() - begin


def study(model: GMAE, photo: np.ndarray, ks: Sequence[int], budgets: Sequence[int]) -> Iterator[Record]:
    """Every start at every K and number of steps, for one photograph."""
    prediction = thawed(predict_scene(model, photo))
    before = scene_depth(prediction)
    for k in ks:
        for name in STARTS:
            if name == "grid, split" and k <= prediction.k:
                continue
            start = start_from(name, prediction, k)
            for steps in (0, *budgets):
                found, seconds = timed_fit(start, steps, k if steps else start.k)
                kept = rank_correlation(before, scene_depth(replace(start, gaussians=found.gaussians)))
                yield {
                    "start": name, "k": k, "steps": steps, "psnr": float(found.psnr_after[0]), "seconds": seconds,
                    "depth_kept": kept if name == "gmae" else None,
                }  # fmt: skip


def thawed(scene: Scene) -> Scene:
    """A copy that autograd may use, of what was made in inference mode."""
    return replace(scene, gaussians=scene.gaussians.map(Tensor.clone))


@cache
def load(checkpoint: str) -> GMAE:
    """The model, once for each process, which has one thread from then on: seconds are those of one core."""
    torch.set_num_threads(1)
    return checkpoints.load(checkpoint)


def study_file(checkpoint: str, ks: Sequence[int], budgets: Sequence[int], folder: Path, path: Path) -> list[Record]:
    """`study` of the photograph in a file, from `folder` if it is kept there."""
    kept = folder / f"{path.stem}.json"
    return cached(kept, study(load(checkpoint), read_image(path), ks, budgets))


def cached(path: Path, make: Iterable[Record]) -> list[Record]:
    """The records in a file, which are made first if it is not there."""
    if not path.exists():
        records = list(make)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(records))
    found: list[Record] = json.loads(path.read_text())
    return found


def average(records: Sequence[Record], photographs: int) -> list[Row]:
    """Means over the photographs: rows of `COLUMNS`."""
    cases = dict.fromkeys((record["start"], record["k"], record["steps"]) for record in records)
    rows: list[Row] = []
    for case in cases:
        own = [r for r in records if (r["start"], r["k"], r["steps"]) == case]
        means = {name: statistics.fmean(r[name] for r in own) for name in ("psnr", "seconds")}  # type: ignore[misc]
        kept = [float(r["depth_kept"]) for r in own if r["depth_kept"] is not None]
        start, k, steps = case
        rows.append(
            {"start": start, "k": k, "steps": steps, **means, "depth_kept": statistics.fmean(kept) if kept else None,
             "photographs": photographs}
        )  # fmt: skip
    return rows


def steps_saved(rows: Sequence[Row], k: int, other: str) -> list[str]:
    """For each number of steps of another start: how many GMAE's prediction needs to its PSNR, as text."""
    curves = {
        name: sorted((int(str(r["steps"])), float(str(r["psnr"]))) for r in rows if r["start"] == name and r["k"] == k)
        for name in ("gmae", other)
    }
    ours_steps, ours_psnr = zip(*curves["gmae"], strict=True)
    found = []
    for steps, psnr in curves[other][1:]:
        if psnr > ours_psnr[-1]:
            found.append(f"{steps}: more than {ours_steps[-1]}")
        else:
            needed = float(np.interp(psnr, np.maximum.accumulate(ours_psnr), ours_steps))
            found.append(f"{steps}: {needed:.0f} ({needed / steps:.0%})")
    return found


def measure_speed(model: GMAE, photos: Sequence[np.ndarray]) -> list[Row]:
    """Seconds of `SPEED_STEPS` steps at `SPEED_SIZE` and `SPEED_K` by the clock and of CPU time, medians."""
    rows: list[Row] = []
    smalls = [resize(photo, *(SPEED_SIZE if photo.shape[0] < photo.shape[1] else SPEED_SIZE[::-1])) for photo in photos]
    for name in ("gmae", "grid"):
        found = []
        for small in [smalls[0], *smalls]:  # the first one warms up
            start = start_from(name, thawed(predict_scene(model, small)), SPEED_K)
            begin = time.perf_counter()
            refinement, cpu_seconds = timed_fit(start, SPEED_STEPS, SPEED_K)
            found.append((time.perf_counter() - begin, cpu_seconds, float(refinement.psnr_after[0])))
        seconds, cpu, psnrs = zip(*found[1:], strict=True)
        medians = {"seconds": statistics.median(seconds), "cpu_seconds": statistics.median(cpu)}
        rows.append({"start": name, **medians, "psnr": statistics.fmean(psnrs)})
    return rows


def measure_peers(model: GMAE, folder: Path) -> list[Record]:
    """PSNR and MS-SSIM from GMAE's prediction at the peers' numbers of Gaussians."""
    from skimage import data

    def fits(name: str) -> Iterator[Record]:
        start = thawed(predict_scene(model, getattr(data, name)()))
        for k in PEER_KS:
            found, seconds = timed_fit(start, PEER_STEPS, k)
            picture = replace(start, gaussians=found.gaussians).render().clamp(0, 1)
            similarity = float(ms_ssim(picture.double(), photograph(start).double(), data_range=1))
            size = f"{start.width} x {start.height}"
            yield {
                "photograph": name, "pixels": size, "k": k, "psnr": float(found.psnr_after[0]),
                "ms_ssim": similarity, "seconds": seconds,
            }  # fmt: skip

    return [record for name in PEER_PHOTOS for record in cached(folder / f"peer-{name}.json", fits(name))]


def plot_curves(path: Path, checkpoint: str, rows: Sequence[Row]) -> None:
    """PSNR over steps and over seconds, a panel for each K."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ks = list(dict.fromkeys(row["k"] for row in rows))
    with rc_context(STYLE):  # type: ignore[arg-type]  # its annotations list every key by name
        figure = Figure(figsize=(max(COLUMN, PAGE * len(ks) / 4), 3.6), layout="constrained")
        for line, unit in enumerate(("steps", "seconds")):
            for column, k in enumerate(ks):
                axes = figure.add_subplot(2, len(ks), line * len(ks) + column + 1)
                for color, name in zip(PALETTE, STARTS, strict=False):
                    own = [row for row in rows if row["start"] == name and row["k"] == k]
                    x, y = ([float(str(row[key])) for row in own] for key in (unit, "psnr"))
                    axes.plot(x, y, "o-", color=color, label=name, linewidth=1, markersize=2)
                axes.set(title=f"K = {k}" * (line == 0), xlabel=unit, ylabel="PSNR (dB)" * (column == 0))
                if line == 0 and k == ks[-1]:
                    axes.legend(loc="lower right")
        add_caption(figure, f"{rows[0]['photographs']} photographs of BSDS500 val; seconds of one core; {checkpoint}")
        with atomic_path(path) as temporary:
            figure.savefig(temporary)


def write_sheet(path: Path, checkpoint: str, model: GMAE, photos: Mapping[str, np.ndarray]) -> None:
    """Pictures, depth and layers of a few photographs as they are refined."""
    sections = []
    sizes = [panel_size(*photo.shape[:2], side=SHEET_SIDE) for photo in photos.values()]
    box = max(height for height, _ in sizes), max(width for _, width in sizes)

    def panel(picture: np.ndarray, caption: str, note: str = "", depth_scale: bool = False) -> Panel:
        small = resize(picture, *panel_size(*picture.shape[:2], side=SHEET_SIDE))
        return Panel(in_box(small, box), caption, note, depth_scale)

    for name, photo in photos.items():
        start = predict_scene(model, photo)
        for steps in SHEET_STEPS:
            found, _ = timed_fit(start, steps, start.k)
            drawn = render_layers(replace(start, gaussians=found.gaussians), [start.k], SHEET_LAYERS)
            picture = over(drawn.firsts, drawn.first_alphas, torch.ones(3))[0]
            layers = over(drawn.layers, drawn.layer_alphas, torch.ones(3))
            depth = depth_colors(drawn.depth.numpy(), drawn.alpha.numpy(), 7.4, 8.6)
            captions = ["nearest", *[""] * (SHEET_LAYERS - 2), "farthest"]
            panels = [
                panel(picture, "picture", f"{found.psnr_after[0]:.2f} dB"),
                panel(depth, "depth", depth_scale=True),
            ]
            panels += [panel(layer, text) for layer, text in zip(layers, captions, strict=True)]
            sections.append(Section(f"{name}, {steps} steps", panels))
    subtitle = f"{checkpoint}, K = {model.config.k}; picture, expected depth, {SHEET_LAYERS} layers each alone"
    write_image(path, contact_sheet("Refinement", subtitle, sections))


def page(rows: Sequence[Row], speed: Sequence[Row], peers: Sequence[Record], ks: Sequence[int], checkpoint: str) -> str:
    """Everything that was found."""
    met = all(float(str(row["seconds"])) < SPEED_BAR for row in speed)
    saved = "\n".join(
        f"| {k} | {other} | {', '.join(steps_saved(rows, k, other))} |"
        for k in ks
        for other in STARTS[1:]
        if any(row["start"] == other and row["k"] == k for row in rows)
    )
    return f"""# Refinement, checkpoint {checkpoint}

{as_markdown(rows, COLUMNS)}
![PSNR over steps and seconds](refinement.png)

## Steps that the prediction saves

Steps of the other start: steps from GMAE's prediction to the same mean PSNR, between the measured ones by straight
lines. The bar is 50 %.

| k | other start | steps: steps from the prediction |
|---|---|---|
{saved}

## Speed

{SPEED_STEPS} steps at K = {SPEED_K}, {SPEED_SIZE[1]} x {SPEED_SIZE[0]} px, one thread; by the clock, the bar of
{SPEED_BAR:g} s is {"met" if met else "missed"}.

{as_markdown(speed, SPEED_COLUMNS)}
## Beside 2-D Gaussian codecs

From GMAE's prediction, {PEER_STEPS} steps on one core of a CPU, on photographs that scikit-image brings along.
GaussianImage fits Kodak's photographs (768 x 512 px) with 800 to 9,000 Gaussians in 50,000 steps on a GPU (its
`kodak_comp.sh`); no table of its figures could be found to quote, and they would be of other photographs.

{as_markdown(peers, PEER_COLUMNS)}"""


@script(takes="9 minutes", needs="BSDS500")
@root_option
@click.option("--photos", type=click.IntRange(1), default=24, show_default=True)
@click.option("--ks", callback=whole_numbers, default="512,1024,2048,4096", show_default=True)
@click.option("--steps", callback=whole_numbers, default="6,12,25,50,100", show_default=True)
@click.option("--peers/--no-peers", default=True, show_default=True, help="Fit scikit-image's photographs too.")
@checkpoint_option
@work_option("refinement")
@results_option("--results")
@overwrite_option
@jobs_option
def main(
    root: str | None, photos: int, ks: tuple[int, ...], steps: tuple[int, ...], peers: bool, checkpoint: str, out: Path,
    results: Path, overwrite: bool, jobs: int | None,
) -> None:  # fmt: skip
    """Write tables and pictures into the folder of results, and print the tables."""
    settings = {"weights": weights_of(checkpoint), "ks": ks, "steps": steps, "rates": vars(Rates())}
    claim(out, settings, parts=("fits",), overwrite=overwrite)
    paths = BSDS500(root).images("val")[::EVERY][:photos]
    fit = partial(study_file, checkpoint, ks, steps, out / "fits")
    workers = min(jobs or cores(), len(paths))
    fits = map(fit, paths) if workers == 1 else in_processes(fit, paths, workers, 1)
    records = list(chain.from_iterable(progress(fits, len(paths), "fits", "photograph")))
    rows = average(records, len(paths))
    model, name = load(checkpoint), Path(checkpoint).name
    speed = measure_speed(model, [read_image(path) for path in paths[:5]])
    beside = measure_peers(model, out / "fits") if peers else []
    text = page(rows, speed, beside, ks, name)
    write_files(results, {"refinement.csv": format_rows(rows, COLUMNS, "csv"), "refinement.md": text})
    plot_curves(results / "refinement.png", name, rows)
    write_sheet(results / "refinement-pictures.png", name, model, {path.stem: read_image(path) for path in paths[:2]})
    click.echo(text)


if __name__ == "__main__":
    main()
