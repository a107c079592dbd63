"""What the README and the model card quote of the embedded checkpoint, measured anew by one command.

The parts are those of `evals/report.toml`, the most important ones first, then the pictures of the README and of the
site, and the README's table. Killed, the command goes on when it is called again: a part that is finished is not run
again as long as its script, its arguments, the data, the weights and the version are the same. The results of a part
are copied into `evals/results` when it is finished. Minutes are estimates for two cores that do nothing else; each part
takes both, so that they run one after the other.

Left out, because they do not depend on the weights or only a little: the speed of the renderer, of the boundary
benchmark, of pretraining and of layers. Left out, because they are of their date and say so: the studies. Left out
unless `--refinement` is given, because it takes 9 minutes alone: the benchmark of refinement.

    python -m evals.regenerate --bsds DIR --ecssd DIR --photos DIR --dry-run
    python -m evals.regenerate --bsds DIR --ecssd DIR --photos DIR
    python -m evals.regenerate --bsds DIR --ecssd DIR --photos DIR --refinement
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from evals.common import RESULTS, ROOT, checkpoint_option, results_option, script, work_option
from gmae_tools.benchmarks.predictions import weights_of
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.suite.config import Config, read_config
from gmae_tools.suite.runs import RUNS as PARTS
from gmae_tools.suite.runs import Outcome, Request, run_parts
from gmae_tools.system.files import atomic_path, remove_leftovers, sole_run
from gmae_tools.system.processes import cores

COLUMNS = {"part": None, "status": None, "minutes": 1, "so_far": 1, "question": None}
PICTURES = "pictures"  # not a part of the report: it writes into docs/images
IMAGES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Step:
    """A part of the report.

    Attributes:
        name: of the part.
        minutes: that it takes on two cores.
        extra: further arguments; `{jobs}` stands for the number of cores.
    """

    name: str
    minutes: float
    extra: str = ""


STEPS = (
    Step("bsds500", 16.5),
    Step("figure-ground", 2.0),
    Step("reconstruction", 1.0),
    Step("density-gradient", 0.4),
    Step("depth", 1.5, "--quick --jobs {jobs}"),
    Step("scoreboard", 2.5, "--jobs {jobs}"),
)
REFINEMENT = Step("refinement", 9.0)
PICTURE_MINUTES = 1.0


@script(takes="25 minutes", needs="BSDS500, ECSSD and the photographs of the pretraining run")
@click.option("--bsds", metavar="DIR", help="BSDS500, as for the other scripts.")
@click.option("--ecssd", metavar="DIR", help="ECSSD: a folder with images/ and masks/.")
@click.option("--photos", metavar="DIR", help="The photographs of the pretraining run.")
@checkpoint_option
@click.option("--only", multiple=True, metavar="PART", help="Run this part alone; may be repeated.")
@click.option("--refinement", is_flag=True, help="Run the benchmark of refinement, too, as the last one.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and run nothing.")
@click.option("--quick", is_flag=True, help="Few photographs, to see that everything runs: name other folders.")
@work_option("regenerate")
@results_option("--results")
@click.option("--images", type=click.Path(path_type=Path), default=IMAGES, help="Folder of the README's pictures.")
def main(
    bsds: str | None, ecssd: str | None, photos: str | None, checkpoint: str, only: tuple[str, ...], refinement: bool,
    dry_run: bool, quick: bool, out: Path, results: Path, images: Path,
) -> None:  # fmt: skip
    """Measure the checkpoint anew, draw the pictures anew, and write the README's table."""
    if quick and RESULTS in (results, results.resolve()):
        raise click.UsageError("--quick is not for evals/results: name other folders with --results and --images")
    steps = chosen_steps(only, refinement)
    config = config_of(steps)
    folders = {"bsds500": bsds, "ecssd": ecssd, "photographs": photos}
    given = {name: Path(path).expanduser() for name, path in folders.items() if path}
    found, missing = config.find_data(None, given)
    out.mkdir(parents=True, exist_ok=True)
    request = Request(out, checkpoint, weights_of(checkpoint), quick, data=found, missing=missing)
    with sole_run(out) as lock:
        remove_leftovers([out, *out.glob("*/"), *out.glob(f"{PARTS}/*/")])
        stages = run_parts(config, request, lock, lambda part: click.echo(f"{part.name}: {part.question}", err=True))
        outcomes = next(stages)
        draws = not only or PICTURES in only
        click.echo(format_rows(plan(steps, outcomes, draws), COLUMNS, "table"), nl=False, err=not dry_run)
        if dry_run:
            return
        copy_results(outcomes, results)
        for outcomes in stages:
            copy_results(outcomes, results)
    failures = [f"{each.part.name}: {each.reason}" for each in outcomes if each.status != "done"]
    if draws and not draw_pictures(checkpoint, images.absolute()):
        failures.append(f"{PICTURES}: see above")
    if results == RESULTS and not write_readme():
        failures.append("the README's table: see above")
    if failures:
        raise click.ClickException("; ".join(failures) + ". The same command goes on")


def chosen_steps(only: Sequence[str], refinement: bool) -> list[Step]:
    """The parts to run, in their order.

    Raises:
        click.UsageError: a name is of no part.
    """
    known = [*STEPS, REFINEMENT]
    names = [step.name for step in known]
    for name in only:
        if name not in (*names, PICTURES):
            raise click.UsageError(f"there is no part {name}; there are {', '.join((*names, PICTURES))}")
    return [step for step in known if (step.name in only if only else step != REFINEMENT or refinement)]


def config_of(steps: Sequence[Step]) -> Config:
    """The configuration of the report with these parts alone, and with their further arguments."""
    whole = read_config(Path(__file__).with_name("report.toml"))
    parts = {part.name: part for part in whole.parts}
    chosen = [
        msgspec.structs.replace(part, arguments=f"{part.arguments} {step.extra.format(jobs=cores())}")
        for step in steps
        if (part := parts[step.name])
    ]
    return msgspec.structs.replace(whole, parts=tuple(chosen))


def plan(steps: Sequence[Step], outcomes: Sequence[Outcome], draws: bool) -> list[Row]:
    """Rows of `COLUMNS`: what would be run, and how long it would take with everything before it."""
    rows: list[Row] = []
    so_far = 0.0
    for step, outcome in zip(steps, outcomes, strict=True):
        minutes = step.minutes if outcome.status == "pending" else 0.0
        so_far += minutes
        status = outcome.reason or outcome.status
        rows.append({"part": step.name, "status": status, "minutes": minutes, "so_far": so_far,
                     "question": outcome.part.question})  # fmt: skip
    if draws:
        rows.append({"part": PICTURES, "status": "pending", "minutes": PICTURE_MINUTES,
                     "so_far": so_far + PICTURE_MINUTES, "question": "What does the README show?"})  # fmt: skip
    return rows


def copy_results(outcomes: Sequence[Outcome], results: Path) -> None:
    """Copy everything that finished parts have written, if it is not there yet."""
    results.mkdir(parents=True, exist_ok=True)
    for outcome in outcomes:
        if outcome.status != "done" or outcome.folder is None:
            continue
        for file in sorted(outcome.result(".").iterdir()):
            target = results / file.name
            if file.is_file() and not (target.exists() and target.read_bytes() == file.read_bytes()):
                with atomic_path(target) as temporary:
                    shutil.copyfile(file, temporary)
                click.echo(target)


def draw_pictures(checkpoint: str, images: Path) -> bool:
    """Draw the pictures of the README and of the site anew; whether that worked."""
    return _run("evals.benchmarks.readme_pictures", "--checkpoint", checkpoint, "--out", images)


def write_readme() -> bool:
    """Write the README's table of results from the files in `evals/results`; whether that worked."""
    return _run("evals.readme_table")


def _run(module: str, *arguments: object) -> bool:
    return not subprocess.run([sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    main()
