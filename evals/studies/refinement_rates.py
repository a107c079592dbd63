"""Which step sizes, and how much SSIM? One choice of refinement changed at a time, from GMAE's prediction.

Protocol: every 12th photograph of BSDS500 val by name, made 288 x 192 px; K = 768; PSNR and SSIM on white, means over
the photographs. `depth_kept` is Spearman's rank correlation of the maps of expected depth before and after.

    python -m evals.studies.refinement_rates --root DATA            # a few minutes
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
import numpy as np
import torch

from evals.common import checkpoint_option, results_option, root_option, script, write_table
from evals.depth_consistency import scene_depth
from evals.depth_ranks import rank_correlation
from gmae_tools import checkpoints
from gmae_tools.datasets.bsds500 import BSDS500
from gmae_tools.images import read_image, resize, to_tensor
from gmae_tools.metrics.pictures import ssim
from gmae_tools.model import GMAE
from gmae_tools.prediction import predict_scene
from gmae_tools.refine import Rates, RefineOptions, refine
from gmae_tools.report.tables import Row, format_rows

EVERY, STEPS = 12, (50, 200)
SIZE = (192, 288)  # px, or turned by 90 degrees
FACTORS, DEPTHS, WEIGHTS = (0.25, 0.5, 2.0, 4.0), (0.001, 0.003, 0.01), (0.003, 0.01, 0.03)
COLUMNS = {"choice": None, "value": None, "steps": None, "psnr": 2, "ssim": 4, "depth_kept": 3}


@dataclass(frozen=True)
class Choice:
    """What differs from the defaults."""

    name: str
    value: float | None = None
    rates: Rates = field(default_factory=Rates)
    ssim_weight: float = 0.0


def choices() -> Iterator[Choice]:
    yield Choice("defaults")
    defaults = asdict(Rates())
    for name, rate in defaults.items():
        for value in DEPTHS if name == "depth" else [rate * factor for factor in FACTORS]:
            yield Choice(name, value, Rates(**{**defaults, name: value}))
    for factor in FACTORS:
        yield Choice("all rates, times", factor, Rates(**{name: factor * rate for name, rate in defaults.items()}))
    for weight in WEIGHTS:
        yield Choice("ssim_weight", weight, ssim_weight=weight)


def measure(model: GMAE, photo: np.ndarray, choice: Choice, steps: int) -> tuple[float, float, float]:
    """PSNR, SSIM and how far the depth is kept, for one photograph."""
    image, start = to_tensor(photo), predict_scene(model, photo)
    options = RefineOptions(rates=choice.rates, ssim_weight=choice.ssim_weight)
    found = refine(start.gaussians, image, model.camera, steps, options)
    refined = replace(start, gaussians=found.gaussians)
    picture = refined.render().clamp(0, 1)
    similarity = ssim(*(pictures[0].permute(1, 2, 0).numpy() for pictures in (picture, image)))
    return float(found.psnr_after[0]), similarity, rank_correlation(scene_depth(start), scene_depth(refined))


@script(takes="3 minutes", needs="BSDS500")
@root_option
@click.option("--every", type=click.IntRange(1), default=EVERY, show_default=True, help="Only every Nth image.")
@checkpoint_option
@results_option("--results")
def main(root: str | None, every: int, checkpoint: str, results: Path) -> None:
    """Write `refinement_rates.csv` into the folder of results, and print it."""
    from tqdm import tqdm

    torch.set_num_threads(1)
    model = checkpoints.load(checkpoint)
    photos = [read_image(path) for path in BSDS500(root).images("val")[::every]]
    photos = [resize(p, *(SIZE if p.shape[0] < p.shape[1] else SIZE[::-1])) for p in photos]
    rows: list[Row] = []
    for choice in tqdm(list(choices()), unit="choice"):
        for steps in STEPS:
            psnr, similarity, kept = np.mean([measure(model, photo, choice, steps) for photo in photos], 0).tolist()
            value = "" if choice.value is None else f"{choice.value:g}"
            figures = {"psnr": psnr, "ssim": similarity, "depth_kept": kept}
            rows.append({"choice": choice.name, "value": value, "steps": steps, **figures})
    write_table(results / "refinement_rates.csv", rows, COLUMNS)
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


if __name__ == "__main__":
    main()
