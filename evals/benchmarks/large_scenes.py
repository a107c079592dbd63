"""How long do the readouts take on a scene of a million Gaussians, and how much memory?

Protocol: a synthetic scene with the layout of apple/ml-sharp's files: two layers of `side` x `side` Gaussians, one on
each ray of a grid through a picture of 1,536 x 1,024 px, 1,179,648 with the default side of 768. The colours are those
of the bundled photograph; disparity is a ground plane with bumps and a disc before it, the second layer lies a tenth
deeper; a Gaussian is as wide as its cell of the grid. It is written as a PLY file, and read back by each step.

Each step runs in a process of its own, on as many threads as there are cores; it is timed from the scene in memory on
(`read` from the file on), after a run on a hundredth of the Gaussians that loads the compiled kernels. Processor
seconds are those of all threads, and do not grow when others use the machine. Peak memory is that of the whole process,
with Python and torch, which `start` shows.

`layers` is what `gmae-tools layers` does with a picture, all files included: six first-K pictures, eight layers, depth
map, sheet and archive; `edges` (with the two readouts that the command shows by default) and `segment` make the maps
that are written; `view3d` joins the Gaussians to as many as a browser draws; `view` writes the page of
`gmae-tools view`.

Two other renderers draw the picture of `render` on a CPU. `tiled PyTorch` is the straightforward tiled one of
`tests/oracles/tiled_torch.py`. `Mitsuba` (Jakob et al. 2022) traces a ray a pixel through the Gaussians as ellipsoids,
with its integrator `volprim_rf_basic` and at most 256 of them a ray. It needs `pip install mitsuba` and a recent LLVM
(19 works, 16 does not; Debian: libllvm19, whose path DRJIT_LIBLLVM_PATH tells where there are several), and is left out
without them. Of other packages on PyPI gsplat, gswarp, splax and taichi-splatting need CUDA, metal-gauss and msplat
Metal, and gausscam more buffers than Vulkan has on a CPU (35; lavapipe 32, SwiftShader 10); litesplat computes every
Gaussian at every pixel.
"""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from evals.common import PHOTO, RESULTS, first_ks, write_table
from gmae_tools import formats
from gmae_tools.benchmarks.names import FIRST_EDGES
from gmae_tools.camera import Camera
from gmae_tools.formats.perspective import for_viewers
from gmae_tools.formats.ply import SH_0
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import read_image, resize
from gmae_tools.report.density import plot_centres, plot_scales, write_figure
from gmae_tools.report.layers import LayersRequest, write_layers
from gmae_tools.report.page import PageRequest, write_page
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.report.view3d import _arrays
from gmae_tools.report.viser_there import MOST_SPLATS
from gmae_tools.scene import Scene
from gmae_tools.simplify import simplify
from gmae_tools.system.processes import cores
from gmae_tools.zeroshot.density import Points, scale_by_depth, summary
from gmae_tools.zeroshot.figure_ground import foreground_mask
from gmae_tools.zeroshot.names import FOREGROUND_METHODS
from gmae_tools.zeroshot.views import Views
from tests.oracles.tiled_torch import rasterize_tiled

COLUMNS = {"step": None, "gaussians": None, "seconds": 1, "processor_seconds": 1, "gigabytes": 2}
LAYERS, EDGE_LAYERS = 8, (16,)
TILED, MITSUBA = "tiled PyTorch", "Mitsuba"
MOST_DEPTH = 256  # Gaussians that a ray of Mitsuba meets, at most
ALIKE = 0.03  # mean difference from its picture: it follows rays, where splatting projects each Gaussian
FOCAL = 1400.0  # px; of a photograph with a wide lens


def make_scene(side: int, height: int = 1024, width: int = 1536) -> Scene:
    """The synthetic scene of 2 `side`^2 Gaussians, with a picture of its own to compare with."""
    photo = resize(read_image(PHOTO), height, width)
    x, y = np.meshgrid(*[(np.arange(side) + 0.5) / side * 2 - 1] * 2)  # [side, side], in half pictures
    disparity = 0.15 + 0.2 * (y + 1) + 0.05 * np.sin(7 * x) * np.cos(9 * y)
    disparity = np.where(np.hypot(x + 0.2, y - 0.1) < 0.4, 0.8 + 0.05 * np.sin(20 * x), disparity)
    depth = np.stack([1 / disparity, 1.1 / disparity])  # [2, side, side]
    camera = Camera("pinhole", 0.0, 2 * FOCAL / width, focal_y=2 * FOCAL / height)
    means = np.stack([x * depth / camera.focal, y * depth / (2 * FOCAL / height), depth], -1)
    cell = np.stack([depth * width / side / FOCAL, depth * height / side / FOCAL], -1) / 2
    scales = np.concatenate([cell, cell.min(-1, keepdims=True)], -1)
    colors = np.stack([resize(photo, side, side) / 255.0] * 2)
    opacities = np.stack([np.full((side, side), 0.85), np.full((side, side), 0.5)])
    turn = 0.2 * np.sin(5 * x)
    quats = np.stack([np.stack([np.cos(turn), 0 * x, 0 * x, np.sin(turn)], -1)] * 2)
    arrays = (means, scales, quats, colors, opacities[..., None])
    columns = [torch.from_numpy(array.reshape(1, 2 * side * side, -1).astype(np.float32)) for array in arrays]
    gaussians = Gaussians(columns[0], columns[1], columns[2], columns[3], columns[4][..., 0])
    return Scene(gaussians, camera, height, width, photo)


# --- steps -------------------------------------------------------------------------------------------


def _layers(scene: Scene, folder: Path) -> None:
    request = LayersRequest(first_ks(scene.k), LAYERS, "white", "large_scenes")
    write_layers(scene, request, folder / "layers", "large.ply")


def _edges(name: str) -> Callable[[Scene, Path], None]:
    def read(scene: Scene, folder: Path) -> None:
        Views.of(scene).edges(name, EDGE_LAYERS)

    return read


def _figure(method: str) -> Callable[[Scene, Path], None]:
    def read(scene: Scene, folder: Path) -> None:
        foreground_mask(Views.of(scene).foreground(method))

    return read


def _density(scene: Scene, folder: Path) -> None:
    points = Points.of(scene)
    summary(points)
    assert scene.photo is not None
    write_figure(plot_centres(points, scene.photo, "large"), folder, "centres")
    write_figure(plot_scales(points, scale_by_depth(points), "large", dots=True), folder, "scales")


def _view3d(scene: Scene, folder: Path) -> None:
    _arrays(for_viewers(simplify(scene, MOST_SPLATS), 50.0)[0].gaussians.sort_by_depth())


def _view(scene: Scene, folder: Path) -> None:
    write_page(scene, PageRequest("large_scenes", layers=LAYERS), folder / "view.html", "large.ply")


def _render(scene: Scene, folder: Path) -> None:
    scene.render()


def _render_tiled(scene: Scene, folder: Path) -> None:
    splats = scene.splats()
    order = splats.depths[0].argsort()
    parts = [part[:, order] for part in (splats.means, splats.conics, splats.colors, splats.opacities)]
    white = torch.ones(1, 3)
    rasterize_tiled(parts[0], parts[1], parts[2], parts[3], white, scene.height, scene.width, tight=True)


def _render_mitsuba(scene: Scene, folder: Path) -> None:
    picture_by_mitsuba(scene)


def picture_by_mitsuba(scene: Scene) -> np.ndarray:
    """The picture on black as Mitsuba draws it, RGB `[H, W, 3]`."""
    import mitsuba

    mitsuba.set_variant("llvm_ad_rgb")
    one = {name: tensor[0].numpy() for name, tensor in vars(scene.gaussians).items()}
    arrays = {
        "centers": one["means"],
        "scales": one["scales"],
        "quaternions": one["quats"][:, [1, 2, 3, 0]],  # its real part comes last
        "opacities": one["opacities"][:, None],
        "sh_coeffs": (one["colors"] - np.float32(0.5)) / np.float32(SH_0),
    }
    sensor = {
        "type": "perspective",
        "fov": math.degrees(2 * math.atan(1 / scene.camera.focal)),
        "to_world": mitsuba.ScalarTransform4f().look_at(origin=[0, 0, 0], target=[0, 0, 1], up=[0, -1, 0]),
        "film": {"type": "hdrfilm", "width": scene.width, "height": scene.height, "rfilter": {"type": "box"}},
        "sampler": {"type": "independent", "sample_count": 1},
    }
    world = mitsuba.load_dict({
        "type": "scene",
        "integrator": {"type": "volprim_rf_basic", "max_depth": MOST_DEPTH, "srgb_primitives": False},
        "sensor": sensor,
        "gaussians": {"type": "ellipsoids"} | {name: mitsuba.TensorXf(each) for name, each in arrays.items()},
    })  # fmt: skip
    return np.array(mitsuba.render(world, spp=1))


def has_mitsuba() -> bool:
    """Whether Mitsuba is installed, and draws here what we draw; LLVM may be missing, or too old."""
    if importlib.util.find_spec("mitsuba") is None:
        return False
    scene = make_scene(32, 128, 192)
    try:
        theirs = _alone(picture_by_mitsuba, scene)
    except (BrokenProcessPool, ImportError) as error:
        click.echo(f"without Mitsuba: {error}", err=True)
        return False
    ours = scene.render(background=(0.0, 0.0, 0.0))[0].movedim(0, -1).numpy()
    assert np.abs(theirs - ours).mean() < ALIKE, "Mitsuba draws something else"
    return True


STEPS: dict[str, Callable[[Scene, Path], None]] = {
    "render": _render,
    "layers": _layers,
    **{f"edges, {name}": _edges(name) for name in FIRST_EDGES},
    **{f"segment, {method}": _figure(method) for method in FOREGROUND_METHODS},
    "density": _density,
    "view3d": _view3d,
    "view": _view,
    TILED: _render_tiled,
    MITSUBA: _render_mitsuba,
}


def measure(step: str, paths: tuple[str, str]) -> dict[str, float]:
    """Seconds, processor seconds and gigabytes of a step on the second of two files; the first warms up.

    For a process of its own.
    """
    torch.set_num_threads(cores())
    photo = resize(read_image(PHOTO), 1024, 1536)

    def read(path: str) -> Scene:
        scene = formats.read(path)
        return Scene(scene.gaussians, scene.camera, scene.height, scene.width, photo)

    seconds = busy = 0.0
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for path in paths if step != "start" else ():
            started, busy_before = time.perf_counter(), time.process_time()
            scene = read(path)
            if step != "read":
                started, busy_before = time.perf_counter(), time.process_time()
                STEPS[step](scene, Path(folder))
            seconds, busy = time.perf_counter() - started, time.process_time() - busy_before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "processor_seconds": busy, "gigabytes": peak / 1e9}


def write_scene(path: str, side: int) -> None:
    """Write the synthetic scene as a PLY file."""
    formats.write(path, make_scene(side))


def _alone(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@click.command()
@click.option("--side", default=768, show_default=True, help="Side of the grid of each of the two layers.")
@click.option("--step", "only", multiple=True, help="Only the steps whose names begin with this; may be repeated.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS / "large_scenes.csv", help="The table.")
def main(side: int, only: tuple[str, ...], out: Path) -> None:
    """Time what the commands make of a scene with a million Gaussians."""
    names = [name for name in ("start", "read", *STEPS) if not only or name.startswith(only)]
    if MITSUBA in names and not has_mitsuba():
        names.remove(MITSUBA)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = (str(Path(folder) / "small.ply"), str(Path(folder) / "large.ply"))
        for path, size in zip(paths, (max(16, side // 10), side), strict=True):
            _alone(write_scene, path, size)  # what a process has once taken counts for those that it starts
        for name in names:
            rows.append({"step": name, "gaussians": 2 * side * side, **_alone(measure, name, paths)})
            click.echo(format_rows(rows[-1:], COLUMNS, "csv").splitlines()[1], err=True)
    write_table(out, rows, COLUMNS)
    click.echo(__doc__)
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


if __name__ == "__main__":
    main()
