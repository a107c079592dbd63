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

from evals.common import read_table, results_option, run_gmae_tools, script, write_table
from evals.encoders import Training, training_options
from evals.figures import plot_kinds
from gmae_tools.encoder.invariance import InvarianceCurve
from gmae_tools.report.invariance import COLUMNS
from gmae_tools.report.tables import Row

ORDER = ("mae", "r-mae", "c-mae", "gmae")  # random weights follow the first


@script(takes="hours", needs="photographs to train on")
@training_options()
@click.option(
    "--photographs",
    type=click.IntRange(4),
    default=1024,
    show_default=True,
    help="Photographs that CKA is measured on.",
)
@click.option("--cka-batch-size", type=click.IntRange(8), default=256, show_default=True)
@click.option("--ratio", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.75, show_default=True)
@results_option("-o", "--out")
def main(training: Training, photographs: int, cka_batch_size: int, ratio: float, out: Path) -> None:
    """Train, measure, and write the table and the figures."""
    given = [option for name in ORDER for option in ("--checkpoint", training.train(name))]
    measured = training.run / "occlusion"
    options = ["--photographs", photographs, "--batch-size", cka_batch_size, "--ratios", ratio]
    options += ["--device", training.device, "--overwrite", "-o", measured]
    run_gmae_tools("invariance", *options, *given, *training.data)
    rows = read_table(measured / "invariance.csv")
    write_table(out / "occlusion_invariance.csv", rows, COLUMNS)
    plot_kinds(out / "occlusion_invariance.png", curves_of(rows), "Whole against occluded pictures")
    click.echo(f"{__doc__}\nTrained: {training.about()}. CKA: {photographs:,} photographs at most.")


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
