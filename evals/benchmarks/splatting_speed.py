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
many times longer that takes, for both passes together and for the backward pass alone.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

from evals.common import RESULTS, ROOT, as_markdown, machine, script, take_turn, write_files, write_table
from gmae_tools.camera import Splats
from gmae_tools.report.tables import Row
from gmae_tools.splatting import Rules, rasterize
from tests.oracles.tiled_torch import rasterize_tiled

Renderer = Callable[[Splats, int, int], Tensor]

CASE = ["measure", "threads", "batch", "k"]

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


def render_cpu(splats: Splats, height: int, width: int) -> Tensor:
    return rasterize(splats, height, width, backend="cpu").image


def render_with_order(splats: Splats, height: int, width: int) -> Tensor:
    return rasterize(splats, height, width, rules=Rules(order_temperature=0.05), backend="cpu").image


def render_dense(splats: Splats, height: int, width: int) -> Tensor:
    return rasterize(splats, height, width, backend="dense").image


def render_tiled(splats: Splats, height: int, width: int, tight: bool = False) -> Tensor:
    order = splats.depths.argsort(dim=1)
    rows = torch.arange(len(order))[:, None]
    tensors = (splats.means, splats.conics, splats.colors, splats.opacities)
    means, conics, colors, opacities = (tensor[rows, order] for tensor in tensors)
    background = colors.new_zeros(len(order), colors.shape[-1])
    return rasterize_tiled(means, conics, colors, opacities, background, height, width, tight=tight)[0]


CONTENDERS: dict[str, Renderer] = {
    "cpu": render_cpu,
    "tiled": render_tiled,
    "tight": partial(render_tiled, tight=True),
    "dense": render_dense,
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
    scene, leaves, target = with_leaves(splats, size, order)

    def call() -> None:
        loss = torch.nn.functional.mse_loss(renderer(scene, size, size), target)
        torch.autograd.grad(loss, leaves)

    return call


def backward_call(renderer: Renderer, splats: Splats, size: int, order: bool = False) -> Callable[[], None]:
    """The backward pass of `training_call` alone."""
    scene, leaves, target = with_leaves(splats, size, order)
    loss = torch.nn.functional.mse_loss(renderer(scene, size, size), target)

    def call() -> None:
        torch.autograd.grad(loss, leaves, retain_graph=True)

    return call


def with_leaves(splats: Splats, size: int, order: bool) -> tuple[Splats, list[Tensor], Tensor]:
    """The splats as leaves of a graph; those that get a gradient, depths only with `order`; and a random picture."""
    wanted = (splats.means, splats.conics, splats.colors, splats.opacities, splats.depths)
    means, conics, colors, opacities, depths = leaves = [tensor.clone().requires_grad_() for tensor in wanted]
    if not order:
        depths = leaves.pop().detach()
    shape = (len(means), colors.shape[-1], size, size)
    target = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    return Splats(means, conics, depths, colors, opacities), leaves, target


MEASURES = {"forward": forward_call, "forward+backward": training_call}


def compare(calls: dict[str, Callable[[], None]], rounds: int) -> Row:
    """Median milliseconds of each contender, and the median ratio of its time to the first one's."""
    for call in calls.values():
        call()  # a warm-up, which compiles and touches the memory
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
        calls = {name: MEASURES[measure](renderer, splats, size) for name, renderer in CONTENDERS.items()}
        dense = {"cpu": calls["cpu"], "dense": calls.pop("dense")}
        row: Row = {"measure": measure, "threads": count, "batch": batch, "k": k, **compare(calls, rounds)}
        if (batch, k) == (batches[0], ks[0]):
            row = {**compare(dense, max(1, rounds // 3)), **row}
        yield row


def occlusion_rows(batches: list[int], ks: list[int], threads: list[int], size: int, rounds: int) -> Iterator[Row]:
    """What the gradient of the order costs: passes with it, relative to those without."""
    measures = {"forward+backward": training_call, "backward": backward_call}
    for count, batch, k, measure in itertools.product(threads, batches, ks, measures):
        click.echo(f"occlusion gradient, {measure}: threads {count}, batch {batch}, K {k}", err=True)
        torch.set_num_threads(count)
        splats = workload(batch, k, size)
        without = measures[measure](render_cpu, splats, size)
        row = compare({"cpu": without, "order": measures[measure](render_with_order, splats, size, order=True)}, rounds)
        yield {"measure": measure, "threads": count, "batch": batch, "k": k, **row}


def small_scene(size: int, rounds: int) -> Row:
    """What a small scene pays where two threads are allowed, relative to one thread."""
    call = training_call(render_cpu, workload(1, 32, size), size)

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


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """The rows as a Markdown table, numbers to three digits."""

    def cell(value: str | int | float | None) -> str | int | None:
        if isinstance(value, float):
            return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
        return value

    return as_markdown([{name: cell(row.get(name)) for name in columns} for row in rows], dict.fromkeys(columns))


def write(out: Path, report: str, rows: list[Row], order: list[Row]) -> None:
    """Write both tables and the report."""
    for name, columns, found in (("splatting_speed", COLUMNS, rows), ("occlusion_speed", ORDER_COLUMNS, order)):
        whole = [{column: row.get(column) for column in columns} for row in found]
        write_table(out / f"{name}.csv", whole, dict.fromkeys(columns))
    write_files(out, {"splatting_speed.md": report})


@script(takes="5 minutes", needs="a machine that does nothing else")
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
        f"# Speed of the CPU renderer\n\n{(__doc__ or '').strip()}\n\n{machine()}\n\n{table(rows, COLUMNS)}\n"
        f"{table(order, ORDER_COLUMNS)}\n"
        "A ratio says how many times faster `cpu` is. A small scene (K = 32) takes "
        f"{small['two_ratio']:.2f} times as long with two threads allowed as with one.\n"
    )
    click.echo(report)
    if out or not quick:
        write(out or RESULTS, report, rows, order)


if __name__ == "__main__":
    main()
