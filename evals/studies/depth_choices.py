"""Which training makes depth mean something? Small runs that differ in one thing, measured alike; goes on if killed.

Protocol: every run is a `gmae-tools pretrain` in one thread, from random weights, on the same samples: 96 px, encoder
4 x 96, decoder 2 x 96, 36 queries x 8 Gaussians, batch 32, cooldown 0.4, with the options of its variant (`VARIANTS`).
It is measured by `depth.py --quick` on 200 photographs that it held out, BSDS500 val and the ECSSD photographs with odd
numbers, all of them development data; see there for the columns. Beside each run lie the layers of twenty photographs
(`layers.png`): numbers do not show what layers look like.

Finished runs are left alone, killed ones go on, and runs of other `--samples` or seeds stay in the table.

    python -m evals.studies.depth_choices --data 'shards/photos-*.tar' --bsds DATA --ecssd ECSSD \
        --out runs/depth-choices
    python -m evals.studies.depth_choices ... --variant plain --variant occlusion-size --seed 0 --seed 1 --jobs 2
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path

import click

from evals.common import ROOT, read_table, script, write_table
from evals.depth_cells import COLUMNS as MEASURES
from gmae_tools.datasets.photos import PhotoStore
from gmae_tools.pretrain.loop import MODEL_FOLDER
from gmae_tools.report.tables import Row, format_rows

Options = dict[str, str | float]  # of `gmae-tools pretrain`, without the dashes

MODEL = {
    "image_size": 96, "width": 96, "depth": 4, "heads": 3, "decoder_width": 96, "decoder_depth": 2, "decoder_heads": 3,
    "queries": 36, "gaussians_per_query": 8,
}  # fmt: skip
BASE: Options = {
    "preset": "tiny", "resolution": 96, "batch-size": 32, "cooldown": 0.4, "slot-depth-weight": 0.001,
    "occlusion-gradient": 0, "size-depth-weight": 0, "region-depth-weight": 0, "camera": "gmae",
}  # fmt: skip

# --- the variants: what differs from BASE ----------------------------------------------------------

OCCLUSION: dict[str, Options] = {"": {}, "occlusion": {"occlusion-gradient": 0.05}}
PRIORS: dict[str, Options] = {
    "": {},
    "size": {"size-depth-weight": 0.003},
    "region": {"region-depth-weight": 0.003},
    "both": {"size-depth-weight": 0.0015, "region-depth-weight": 0.0015},
}
CAMERAS: dict[str, Options] = {"": {}, "orthographic": {"camera": "orthographic"}}
GRID: dict[str, Options] = {
    "-".join(filter(None, names)) or "plain": OCCLUSION[names[0]] | PRIORS[names[1]] | CAMERAS[names[2]]
    for names in product(OCCLUSION, PRIORS, CAMERAS)
}

STEM = GRID["occlusion-size-orthographic"]  # what the others change; `set` is a change of the model
VARIANTS: dict[str, Options] = GRID | {
    "tau-0.02": STEM | {"occlusion-gradient": 0.02},
    "tau-0.15": STEM | {"occlusion-gradient": 0.15},
    "size-0.001": STEM | {"size-depth-weight": 0.001},
    "size-0.01": STEM | {"size-depth-weight": 0.01},
    "region-0.001": STEM | {"size-depth-weight": 0, "region-depth-weight": 0.001},
    "size-0.002-region-0.001": OCCLUSION["occlusion"] | {"size-depth-weight": 0.002, "region-depth-weight": 0.001},
    "size-0.003-region-0.0005": OCCLUSION["occlusion"] | {"size-depth-weight": 0.003, "region-depth-weight": 0.0005},
    "no-slot-weight": STEM | {"slot-depth-weight": 0},
    "random-queries": STEM | {"set": "query_start=random"},
}

# ---------------------------------------------------------------------------------------------------

NAMED = {"variant": None, "seed": None, "samples": None}
COLUMNS = NAMED | {name: decimals for name, decimals in MEASURES.items() if name != "candidate"}
SHOWN = [name for name in COLUMNS if not name.endswith("_se") and name not in ("every", "thresholds", "looks")]
FIGURES, SHEET, OUTPUT = "depth.csv", "layers.png", "output.txt"  # in the folder of a run


class Processes:
    """Runs commands in one thread each, and ends those still running when it is left."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, command: Sequence[object], log: Path) -> None:
        """Run a command, its output added to `log`.

        Raises:
            click.ClickException: it failed, or everything is being ended.
        """
        with log.open("ab") as output:
            with self._lock:
                if self._closed:
                    raise click.ClickException("ended")
                process = subprocess.Popen(
                    list(map(str, command)), stdout=output, stderr=subprocess.STDOUT,
                    env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                )  # fmt: skip
                self._running.add(process)
            failed = process.wait()
            with self._lock:
                self._running.discard(process)
        if failed:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise click.ClickException(f"{lines[-1] if lines else 'it failed'} (all of it: {log})")

    def close(self) -> None:
        """End what is running; a run that is ended so is resumable."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.terminate()


@script(takes="hours, about half an hour for each variant", needs="BSDS500, ECSSD and photographs to train on")
@click.option("--data", multiple=True, required=True, metavar="PATH", help="Photographs, as for `gmae-tools pretrain`.")
@click.option("--bsds", required=True, metavar="DIR", help="BSDS500, or the folder of the data sets.")
@click.option("--ecssd", required=True, metavar="NAME|DIR", help="ecssd, or a folder with images/ and masks/.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the runs and of their table.")
@click.option(
    "--samples", type=click.IntRange(1), default=20_000, show_default=True, help="Pictures that each run trains on."
)
@click.option(
    "--variant", "names", multiple=True, type=click.Choice(list(VARIANTS)), help="May be repeated.  [default: all]"
)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True, help="May be repeated.")
@click.option("--jobs", type=click.IntRange(1, 2), default=1, show_default=True, help="Runs at a time.")
def main(
    data: tuple[str, ...], bsds: str, ecssd: str, out: Path, samples: int, names: tuple[str, ...],
    seeds: tuple[int, ...], jobs: int,
) -> None:  # fmt: skip
    """Train and measure the variants, and keep their table in OUT/depth_choices.csv."""
    out.mkdir(parents=True, exist_ok=True)
    PhotoStore.open(data)  # decoded before two runs want it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    processes, failures = Processes(), 0

    def finish(name: str, seed: int) -> None:
        run = out / f"{name}-{samples}-{seed}"
        if (run / FIGURES).exists():
            return
        run.mkdir(exist_ok=True)
        photos = [argument for each in data for argument in ("--data", each)]
        processes.run([*pretrain_command(VARIANTS[name], samples, seed), *photos, "--out", run], run / OUTPUT)
        processes.run(measure_command(run, data, bsds, ecssd), run / OUTPUT)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            tasks = {
                pool.submit(finish, name, seed): f"{name}, seed {seed}" for seed in seeds for name in names or VARIANTS
            }
            for task in as_completed(tasks):
                try:
                    task.result()
                    click.echo(f"{tasks[task]}: done", err=True)
                except click.ClickException as error:
                    click.echo(f"{tasks[task]}: {error.message}", err=True)
                    failures += 1
                keep_table(out)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.close()
    rows = list(table(out))
    click.echo(format_rows(rows, {name: COLUMNS[name] for name in SHOWN}, "table"), nl=False)
    if failures:
        raise SystemExit(1)


def pretrain_command(changes: Options, samples: int, seed: int) -> list[object]:
    """The training of a variant, without its photographs and its folder."""
    model = [argument for key, value in MODEL.items() for argument in ("--set", f"{key}={value}")]
    chosen = [argument for name, value in (BASE | changes).items() for argument in (f"--{name}", value)]
    run = ["--samples", samples, "--seed", seed, "--device", "cpu", "--evaluate-every", 3600, "--resume"]
    return [sys.executable, "-m", "gmae_tools", "pretrain", *model, *chosen, *run]


def measure_command(run: Path, data: Sequence[str], bsds: str, ecssd: str) -> list[object]:
    """The measurement of a finished run; its figures appear last, so that their file says that all is done."""
    photos = [argument for each in data for argument in ("--photos", each)]
    sets = ["--bsds", bsds, "--ecssd", ecssd, *photos]
    targets = ["--out", run.parent / "measured", "--results", run, "--sheet", run / SHEET]
    checkpoint = f"{run.name}={run / MODEL_FOLDER}"
    return [
        sys.executable,
        "-m",
        "evals.benchmarks.depth",
        "--quick",
        "--checkpoint",
        checkpoint,
        *sets,
        *targets,
    ]


def table(out: Path) -> Iterator[Row]:
    """A row for each measured run in the folder, in the order of VARIANTS."""
    found = {}
    for path in out.glob(f"*/{FIGURES}"):
        name, samples, seed = path.parent.name.rsplit("-", 2)
        figures = read_table(path)[0]
        known = {key: figures.get(key) for key in COLUMNS if key not in NAMED}
        place = list(VARIANTS).index(name) if name in VARIANTS else len(VARIANTS)
        row: Row = {"variant": name, "seed": int(seed), "samples": int(samples), **known}
        found[int(samples), place, name, int(seed)] = row
    return (found[key] for key in sorted(found))


def keep_table(out: Path) -> None:
    """Write what is known into `depth_choices.csv`."""
    write_table(out / "depth_choices.csv", list(table(out)), COLUMNS)


if __name__ == "__main__":
    main()
