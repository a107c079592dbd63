r"""How occlusion-invariant do MAE, R-MAE, C-MAE, GMAE and random weights become, block by block? One figure.

Protocol: encoders are those of `gmae_vs_mae.py` (same shape, photographs, order, schedule and optimiser, 75 % hidden;
R-MAE with a decoder of its own for the second view, C-MAE with the light head), trained here unless they were before;
random weights are those that they start from. Then `gmae-tools invariance` on the same photographs: linear CKA,
unbiased and by minibatches, between features of whole pictures and of the same pictures with scattered patches hidden,
with one block hidden, and between a random half and the other half. Three kinds of features: the mean of the patches
that each version has, of those that both have, and the class token.

After arXiv 2208.04164, which measures invariance by CKA, layer by layer; which tokens it compared is not public.
C-MAE's encoder gets mask tokens for hidden patches, as in its training; its features are of the visible patches, like
everybody's. Block `0` is what enters the first block, `norm` what the encoder returns. Errors are standard errors over
minibatches; there is one seed of training.

    python -m evals.benchmarks.occlusion_invariance --data 'shards/photos-*.tar' --image-size 128
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from evals.benchmarks.gmae_vs_mae import OBJECTIVES, read_table, run_command, run_config
from gmae_tools.cli import invariance
from gmae_tools.encoder.invariance import InvarianceCurve
from gmae_tools.pretrain.loop import pretrain
from gmae_tools.report.invariance import COLUMNS, plot_kinds
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path

ROOT = Path(__file__).resolve().parents[2]

ORDER = ("mae", "r-mae", "c-mae", "gmae")  # random weights follow the first


@click.command()
@click.option("--data", multiple=True, required=True, metavar="PATH", help="As for `gmae-tools pretrain`.")
@click.option("--preset", default="tiny", show_default=True)
@click.option("--image-size", type=click.IntRange(1), metavar="PX", help="Of the pictures.  [default: the preset's]")
@click.option("--samples", type=click.IntRange(1), default=100_000, show_default=True, help="Of each model.")
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Of training.")
@click.option("--held-out", type=click.IntRange(1), default=500, show_default=True, help="Photographs of training.")
@click.option("--photographs", type=click.IntRange(4), default=1024, show_default=True, help="That CKA is measured on.")
@click.option("--cka-batch-size", type=click.IntRange(8), default=256, show_default=True)
@click.option("--ratio", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.75, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--runs", "run", type=click.Path(path_type=Path), default=ROOT / "runs" / "gmae-vs-mae", help="To go on from."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=ROOT / "evals" / "results", help="For results.")
def main(
    data: tuple[str, ...], preset: str, image_size: int | None, samples: int, batch_size: int, held_out: int,
    photographs: int, cka_batch_size: int, ratio: float, device: str, run: Path, out: Path,
) -> None:  # fmt: skip
    """Train, measure, and write the table and the figures."""
    changes = {} if image_size is None else {"image_size": image_size}
    folders = []
    for name in ORDER:
        config = run_config(data, OBJECTIVES[name], preset, changes, samples, batch_size, held_out, 0)
        folders.append(str(pretrain(config, run / name, resume=True, device=device)))
    measured = run / "occlusion"
    options = ["--photographs", str(photographs), "--batch-size", str(cka_batch_size), "--ratios", str(ratio)]
    run_command(invariance.command, data, folders, [*options, "--device", device, "--overwrite", "-o", str(measured)])
    out.mkdir(parents=True, exist_ok=True)
    rows = read_table(measured / invariance.TABLE)
    plot_kinds(out / "occlusion_invariance.png", curves_of(rows), f"Whole against occluded pictures, preset {preset}")
    with atomic_path(out / "occlusion_invariance.csv") as temporary:
        temporary.write_text(format_rows(rows, COLUMNS, "csv"))
    click.echo(f"{__doc__}\nPreset {preset}, {samples:,} samples a model, {photographs:,} photographs at most.")


def curves_of(rows: Sequence[Row]) -> list[InvarianceCurve]:
    """Curves from the rows of a table, whose blocks are in order."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in ("model", "tokens", "occlusion", "ratio")), []).append(row)
    return [
        InvarianceCurve(*curve, *([_number(row[name]) for row in each] for name in ("cka", "error")))
        for curve, each in found.items()
    ]


def _number(value: str | float | None) -> float:
    return math.nan if value is None or isinstance(value, str) else value


if __name__ == "__main__":
    main()
