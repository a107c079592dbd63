"""How fast is the CPU renderer? Ratios to plain PyTorch renderers, measured side by side in one run.

Protocol: 224 x 224 px, three channels; splats spread evenly over the picture, standard deviations log-
uniform in 1..24 px along both axes, any angle, opacity uniform in 0.05..0.95, random depths. All contenders
start from the same unsorted splats; the loss of the backward pass is the mean squared error to a random
picture, with gradients for means, conics, colours and opacities. The contenders take turns in rounds, each
the median of a few calls; a ratio is the median over the rounds of the ratio within a round, so that a busy
machine slows both sides alike.

- `cpu`: `gmae_tools.splatting.rasterize(backend="cpu")`, input checks and sorting included.
- `tiled`: the straightforward tiled PyTorch renderer of `tests/oracles/tiled_torch.py`, splats boxed by
  squares around their longest axis as in the first 3-D Gaussian splatting code.
- `tight`: the same with boxes that fit both axes and the opacity, as in gsplat 1.5: a much harder opponent.
- `dense`: the reference, every pixel against every splat; only at the smallest size and in fewer rounds.

A second table has `order`: `cpu` with the occlusion gradient, which depths get in the backward pass. Its ratio says how
many times longer that takes.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

from gmae_tools.camera import Splats
from gmae_tools.splatting import Rules, rasterize
from gmae_tools.system.files import atomic_path
from tests.oracles.tiled_torch import rasterize_tiled

ROOT = Path(__file__).resolve().parents[2]

Renderer = Callable[[Splats, int, int], Tensor]
Row = dict[str, str | int | float | None]

CASE = ["measure", "threads", "batch", "k"]
CALL_SECONDS = 0.05  # a contender calls until it has used this much of its turn, ...
MAX_CALLS = 5  # ... but not more often than this

FIRST_CALL = """
import time, torch
from gmae_tools.camera import Splats
from gmae_tools.splatting import rasterize
generator = torch.Generator().manual_seed(0)
uniform = lambda *shape: torch.rand(1, 64, *shape, generator=generator).requires_grad_()
conics = torch.tensor([0.1, 0.0, 0.1]).expand(1, 64, 3)
splats = Splats(uniform(2) * 64, conics, uniform().detach(), uniform(3), uniform())
start = time.perf_counter()
rasterize(splats, 64, 64).image.sum().backward()
print(time.perf_counter() - start)
"""


def draw_cpu(splats: Splats, height: int, width: int) -> Tensor:
    return rasterize(splats, height, width, backend="cpu").image


def draw_with_order(splats: Splats, height: int, width: int) -> Tensor:
    return rasterize(splats, height, width, rules=Rules(order_temperature=0.05), backend="cpu").image


def draw_dense(splats: Splats, height: int, width: int) -> Tensor:
    return rasterize(splats, height, width, backend="dense").image


def draw_tiled(splats: Splats, height: int, width: int, tight: bool = False) -> Tensor:
    order = splats.depths.argsort(dim=1)
    rows = torch.arange(len(order))[:, None]
    tensors = (splats.means, splats.conics, splats.colors, splats.opacities)
    means, conics, colors, opacities = (tensor[rows, order] for tensor in tensors)
    background = colors.new_zeros(len(order), colors.shape[-1])
    return rasterize_tiled(means, conics, colors, opacities, background, height, width, tight=tight)[0]


CONTENDERS: dict[str, Renderer] = {
    "cpu": draw_cpu,
    "tiled": draw_tiled,
    "tight": partial(draw_tiled, tight=True),
    "dense": draw_dense,
}
ORDER_COLUMNS = [*CASE, "cpu_ms", "order_ms", "order_ratio"]
COLUMNS = CASE + [f"{name}_ms" for name in CONTENDERS] + [f"{name}_ratio" for name in CONTENDERS if name != "cpu"]


def workload(batch: int, k: int, size: int, seed: int = 0) -> Splats:
    """The splats of the protocol, `[batch, k, ...]`, on a square picture of `size` px."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, k, *shape, generator=generator)

    u, v = (1 / (torch.exp(uniform(2) * math.log(24.0)) ** 2 + 0.3)).unbind(-1)
    angle = uniform() * math.pi
    cos, sin = angle.cos(), angle.sin()
    conics = torch.stack([u * cos**2 + v * sin**2, (u - v) * sin * cos, u * sin**2 + v * cos**2], -1)
    return Splats(uniform(2) * size, conics, 1 + uniform(), uniform(3), 0.05 + 0.9 * uniform())


def forward_call(renderer: Renderer, splats: Splats, size: int) -> Callable[[], None]:
    @torch.no_grad()
    def call() -> None:
        renderer(splats, size, size)

    return call


def training_call(renderer: Renderer, splats: Splats, size: int, order: bool = False) -> Callable[[], None]:
    """A forward and a backward pass; with `order`, depths are given a gradient, too."""
    wanted = (splats.means, splats.conics, splats.colors, splats.opacities, splats.depths)
    means, conics, colors, opacities, depths = leaves = [tensor.clone().requires_grad_() for tensor in wanted]
    if not order:
        depths = leaves.pop().detach()
    scene = Splats(means, conics, depths, colors, opacities)
    shape = (len(means), colors.shape[-1], size, size)
    target = torch.rand(shape, generator=torch.Generator().manual_seed(1))

    def call() -> None:
        loss = torch.nn.functional.mse_loss(renderer(scene, size, size), target)
        torch.autograd.grad(loss, leaves)

    return call


MEASURES = {"forward": forward_call, "forward+backward": training_call}


def take_turn(call: Callable[[], None]) -> float:
    """Median milliseconds of a few calls."""
    times: list[float] = []
    while len(times) < MAX_CALLS and sum(times) < CALL_SECONDS * 1e3:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def compare(calls: dict[str, Callable[[], None]], rounds: int) -> Row:
    """Median milliseconds of each contender, and the median ratio of its time to the first one's."""
    for call in calls.values():
        call()  # nobody pays for compiling, or for the first touch of memory
    turns = [{name: take_turn(call) for name, call in calls.items()} for _ in range(rounds)]
    first, *others = calls
    milliseconds = {f"{name}_ms": statistics.median(turn[name] for turn in turns) for name in calls}
    ratios = {f"{name}_ratio": statistics.median(turn[name] / turn[first] for turn in turns) for name in others}
    return {**milliseconds, **ratios}


def speed_rows(batches: list[int], ks: list[int], threads: list[int], size: int, rounds: int) -> Iterator[Row]:
    """One row for each combination; `dense` takes part only in the smallest."""
    for count, batch, k, measure in itertools.product(threads, batches, ks, MEASURES):
        click.echo(f"{measure}: threads {count}, batch {batch}, K {k}", err=True)
        torch.set_num_threads(count)
        splats = workload(batch, k, size)
        calls = {name: MEASURES[measure](draw, splats, size) for name, draw in CONTENDERS.items()}
        dense = {"cpu": calls["cpu"], "dense": calls.pop("dense")}
        row: Row = {"measure": measure, "threads": count, "batch": batch, "k": k, **compare(calls, rounds)}
        if (batch, k) == (batches[0], ks[0]):
            row = compare(dense, max(1, rounds // 3)) | row
        yield row


def occlusion_rows(batches: list[int], ks: list[int], threads: list[int], size: int, rounds: int) -> Iterator[Row]:
    """What the gradient of the order costs: forward and backward with it, relative to those without."""
    for count, batch, k in itertools.product(threads, batches, ks):
        click.echo(f"occlusion gradient: threads {count}, batch {batch}, K {k}", err=True)
        torch.set_num_threads(count)
        splats = workload(batch, k, size)
        without = training_call(draw_cpu, splats, size)
        row = compare({"cpu": without, "order": training_call(draw_with_order, splats, size, order=True)}, rounds)
        yield {"measure": "forward+backward", "threads": count, "batch": batch, "k": k, **row}


def small_scene(size: int, rounds: int) -> Row:
    """What a small scene pays where two threads are allowed, relative to one thread."""
    call = training_call(draw_cpu, workload(1, 32, size), size)

    def with_threads(count: int) -> None:
        torch.set_num_threads(count)
        call()

    return compare({"one": partial(with_threads, 1), "two": partial(with_threads, 2)}, rounds)


def first_calls() -> Iterator[Row]:
    """The first forward+backward of a process, with an empty compiler cache and with a filled one."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
        for measure in ("first call, empty cache", "first call, later process"):
            click.echo(measure, err=True)
            command = [sys.executable, "-c", FIRST_CALL]
            finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            yield {"measure": measure, "batch": 1, "k": 64, "cpu_ms": float(finished.stdout) * 1e3}


def markdown(rows: list[Row], columns: list[str]) -> str:
    """The rows as a Markdown table, numbers to three digits."""

    def cell(value: str | int | float | None) -> str:
        if isinstance(value, float):
            return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
        return "" if value is None else str(value)

    lines = [columns, ["---"] * len(columns), *([cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine() -> str:
    """Processor and versions, in one line."""
    import numba

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numba {numba.__version__}"
    return f"{processor}, {os.cpu_count()} logical cores; {versions}."


def write(out: Path, report: str, rows: list[Row], order: list[Row]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, columns, table_rows in (("splatting_speed", COLUMNS, rows), ("occlusion_speed", ORDER_COLUMNS, order)):
        with atomic_path(out / f"{name}.csv") as path, path.open("w", newline="") as file:
            table = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
            table.writeheader()
            table.writerows(table_rows)
    with atomic_path(out / "splatting_speed.md") as path:
        path.write_text(report)


@click.command()
@click.option("--quick", is_flag=True, help="Tiny scenes, two rounds: only to see that it runs.")
@click.option("--rounds", default=7, show_default=True, help="Rounds in which the contenders take turns.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Folder for splatting_speed.csv and .md."
    "  [default: evals/results; nothing is written with --quick]",
)  # fmt: skip
def main(quick: bool, rounds: int, out: Path | None) -> None:
    """Time the CPU renderer against plain PyTorch ones."""
    if quick:
        rows = list(speed_rows([1], [16, 32], [1], size=32, rounds=2))
        order = list(occlusion_rows([1], [32], [1], size=32, rounds=2))
        small = small_scene(size=32, rounds=2)
    else:
        rows = list(speed_rows([1, 8], [256, 1024], [1, 2], size=224, rounds=rounds))
        order = list(occlusion_rows([1, 8], [256, 1024], [1, 2], size=224, rounds=rounds))
        small = small_scene(size=224, rounds=10 * rounds)
        rows += first_calls()
    report = (
        f"# Speed of the CPU renderer\n\n{(__doc__ or '').strip()}\n\n{machine()}\n\n{markdown(rows, COLUMNS)}\n"
        f"{markdown(order, ORDER_COLUMNS)}\n"
        "A ratio says how many times faster `cpu` is. A small scene (K = 32) takes "
        f"{small['two_ratio']:.2f} times as long with two threads allowed as with one.\n"
    )
    click.echo(report)
    if out or not quick:
        write(out or ROOT / "evals" / "results", report, rows, order)


if __name__ == "__main__":
    main()
