"""How fast is the boundary benchmark? Seconds for a whole split, and ratios to other solvers in the same run.

Protocol: the photographs of a split of BSDS500, two soft maps without non-maximum suppression (their thinned
maps change at every threshold, the hard case): `sobel`, scikit-image's magnitude of the grey picture times 2;
`gradient`, the magnitude of Gaussian derivatives (sigma 2 px) times 5; both clipped to [0, 1].

- `seconds`: wall clock for all images and thresholds with all annotators; `thinning_s` and `matching_s`: the
  CPU seconds that go into either.
- `ours`: CPU milliseconds for one image and threshold with all annotators when all thresholds are scored,
  thinning included, on a sample of the images.
- `scratch`: the same matching when every threshold is matched by itself, without thinning.
- `scipy`: the same problem for `min_weight_full_bipartite_matching` (tests/oracles/assignment.py).
- `official`: the official C++ `match.cc` as wrapped by pyEdgeEval (`pip install pyEdgeEval`), if installed.

The last three get the same thinned maps at nine thresholds, turn by turn with `ours`; a ratio is the median
over the sample of (their time / ours). `difference` is the largest relative difference of an image's summed
counts (cntR, cntP) from the official ones, whose solver is random.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import pandas as pd

from evals.common import RESULTS, processor, script, write_files
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.images import read_image
from gmae_tools.metrics import boundaries, boundary_matching
from gmae_tools.metrics.boundaries import BoundaryProtocol, count_boundaries
from gmae_tools.metrics.thinning import thin
from gmae_tools.system.processes import cores
from tests.oracles.assignment import assign

Solver = Callable[[np.ndarray, np.ndarray, float], tuple[int, np.ndarray]]  # -> (cntR, matched prediction)

SAMPLE_THRESHOLDS = np.arange(1, 10) / 10


def sobel(grey: np.ndarray) -> np.ndarray:
    from skimage.filters import sobel as magnitude

    return np.clip(2 * magnitude(grey), 0, 1)


def gradient(grey: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_gradient_magnitude

    return np.clip(5 * gaussian_gradient_magnitude(grey, 2), 0, 1)


DETECTORS = {"sobel": sobel, "gradient": gradient}


def read_grey(path: Path) -> np.ndarray:
    from skimage.color import rgb2gray

    return rgb2gray(read_image(path))


def solve_from_scratch(binary: np.ndarray, truth: np.ndarray, distance: float) -> tuple[int, np.ndarray]:
    matched, found = boundary_matching.match(binary, truth, distance)
    return int(found.sum()), matched


def solve_with_scipy(binary: np.ndarray, truth: np.ndarray, distance: float) -> tuple[int, np.ndarray]:
    pixels, _ = assign(binary, truth, distance)
    matched = np.zeros_like(binary)
    matched[tuple(pixels.T)] = True
    return len(pixels), matched


def official_solver() -> Solver | None:
    try:
        from pyEdgeEval._lib import correspond_pixels
    except ImportError:
        click.echo("pyEdgeEval is not installed: no comparison with the official solver", err=True)
        return None

    def solve(binary: np.ndarray, truth: np.ndarray, distance: float) -> tuple[int, np.ndarray]:
        fraction = distance / float(np.hypot(*binary.shape))
        matched, found, _, _ = correspond_pixels(binary, truth, max_dist=fraction)
        return int((found > 0).sum()), matched > 0

    return solve


def score_split(
    data: list[tuple[np.ndarray, list[np.ndarray]]], protocol: BoundaryProtocol, jobs: int
) -> dict[str, float]:
    """Wall seconds for all images, and CPU seconds of thinning and of matching."""

    def work(item: tuple[np.ndarray, list[np.ndarray]]) -> tuple[float, float]:
        soft, truths = item
        start = time.thread_time()
        for _ in boundaries._changes(boundaries._binary_maps(soft, protocol, 1)):
            pass
        thinned = time.thread_time()
        count_boundaries(soft, truths, protocol)
        thinning = thinned - start
        return thinning, time.thread_time() - thinned - thinning

    with ThreadPoolExecutor(jobs) as executor:
        start = time.perf_counter()
        list(executor.map(lambda item: count_boundaries(item[0], item[1], protocol), data))
        seconds = time.perf_counter() - start
        thinning, matching = np.sum(list(executor.map(work, data)), axis=0)
    return {"seconds": seconds, "thinning_s": float(thinning), "matching_s": float(matching)}


def compare(
    sample: list[tuple[np.ndarray, list[np.ndarray]]], protocol: BoundaryProtocol, solvers: dict[str, Solver]
) -> dict[str, float]:
    """Median milliseconds for one image and threshold, and median ratios to `ours`."""
    times: dict[str, list[float]] = {name: [] for name in ["ours", *solvers]}
    differences = []
    for soft, truths in sample:
        start = time.thread_time()
        count_boundaries(soft, truths, protocol)
        times["ours"].append((time.thread_time() - start) / protocol.thresholds * 1e3)
        maps = [thin(soft >= level) for level in SAMPLE_THRESHOLDS]
        counts = {}
        for name, solve in solvers.items():
            start = time.thread_time()
            counts[name] = count_with(solve, maps, truths, protocol.max_distance)
            times[name].append((time.thread_time() - start) / len(maps) * 1e3)
        if "official" in counts:
            differences += np.abs(counts["scratch"] / counts["official"] - 1).tolist()
    row = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    for name in solvers:
        ratios = [theirs / ours for theirs, ours in zip(times[name], times["ours"], strict=True)]
        row[f"{name}_ratio"] = statistics.median(ratios)
    if differences:
        row["difference"] = max(differences)
    return row


def count_with(solve: Solver, maps: list[np.ndarray], truths: list[np.ndarray], max_distance: float) -> np.ndarray:
    """The summed counts (cntR, cntP) of some binary maps."""
    total = np.zeros(2)
    distance = max_distance * float(np.hypot(*maps[0].shape))
    for binary in maps:
        found = [solve(binary, truth, distance) for truth in truths]
        total += sum(count for count, _ in found), np.any([matched for _, matched in found], axis=0).sum()
    return total


def about_machine() -> str:
    """Processor, cores and load, in one line."""
    return f"{processor()}, {cores()} cores, load {os.getloadavg()[0]:.1f} before the run."


@script(takes="3 minutes", needs="BSDS500, and a machine that does nothing else")
@click.option("--root", envvar="GMAE_TOOLS_DATA", help="Folder of the data sets.  [env var: GMAE_TOOLS_DATA]")
@click.option("--split", default="test", show_default=True)
@click.option("--every", default=1, show_default=True, help="Take every n-th image of the split.")
@click.option("--thresholds", default=99, show_default=True)
@click.option("--jobs", type=int, help="Images at a time.  [default: one a core]")
@click.option("--sample", default=5, show_default=True, help="Images for the comparison with other solvers.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS)
def main(root: str | None, split: str, every: int, thresholds: int, jobs: int | None, sample: int, out: Path) -> None:
    """Time the boundary benchmark."""
    about = about_machine()
    dataset = BSDS500(root)
    photographs = dataset.images(split)[::every]
    jobs = jobs or cores()
    protocol = BoundaryProtocol(thresholds)
    solvers: dict[str, Solver] = {"scratch": solve_from_scratch, "scipy": solve_with_scipy}
    if official := official_solver():
        solvers["official"] = official
    rows = []
    for name, detect in DETECTORS.items():
        click.echo(f"{name}: {len(photographs)} images", err=True)
        data = [(detect(read_grey(path)), dataset.boundaries(path.stem)) for path in photographs]
        compare(data[:1], BoundaryProtocol(1), {"scratch": solve_from_scratch})  # a warm-up, which compiles
        row: dict[str, str | float] = {"detector": name, "images": len(data), "thresholds": thresholds, "jobs": jobs}
        row |= score_split(data, protocol, jobs)
        row |= compare(data[:: max(1, len(data) // sample)][:sample], protocol, solvers)
        rows.append(row)
    table = pd.DataFrame(rows).round(4)
    report = f"# Speed of the boundary benchmark\n\n{(__doc__ or '').strip()}\n\n{about}\n\n"
    report += f"```\n{table.set_index('detector').T.to_string()}\n```\n"
    click.echo(report)
    texts = {"boundary_speed.md": report.rstrip() + "\n", "boundary_speed.csv": table.to_csv(index=False)}
    write_files(out, texts)


if __name__ == "__main__":
    main()
