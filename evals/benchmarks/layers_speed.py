"""What do layers cost beside the model itself? Warm times on one core for a photograph of 224 px.

Protocol: the bundled photograph, resized to 224 x 224 px; batch 1, float32, one thread. The parts take turns in rounds
(one call each), times are medians over the rounds, a ratio is the median of the ratios within a round, so that a busy
machine slows all parts alike.

- `forward`: the bare encoder-decoder, a tensor in, Gaussians out. The unit of the ratios.
- `layers`: photograph to tensor, model, six first-K pictures, eight layers and the depth map, as 8-bit pictures. The
  bar is 3 times `forward`.
- `metrics`: PSNR and SSIM of the six first-K pictures, on top.
- `files`: everything that `gmae-tools layers` does with the Gaussians of a picture: rendering, metrics, contact sheet
  and 17 files.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from evals.common import PHOTO, RESULTS, checkpoint_option, first_ks, script, write_table
from gmae_tools import checkpoints
from gmae_tools.images import read_image, resize, to_tensor
from gmae_tools.metrics.pictures import StreamingSimilarity
from gmae_tools.model import GMAE
from gmae_tools.prediction import predict_scene
from gmae_tools.report.figures import depth_colors
from gmae_tools.report.layers import LayersRequest, write_layers
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.zeroshot.layers import over, render_layers

SIZE, LAYERS = 224, 8
COLUMNS = {"part": None, "milliseconds": 1, "ratio": 2}


@script(takes="half a minute", needs="a machine that does nothing else")
@checkpoint_option
@click.option("--rounds", default=30, show_default=True, help="Calls of each part.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS / "layers_speed.csv", help="The table.")
def main(checkpoint: str, rounds: int, out: Path) -> None:
    """Time the layers of a photograph against the bare model."""
    torch.set_num_threads(1)
    model = checkpoints.load(checkpoint)
    photo = resize(read_image(PHOTO), SIZE, SIZE)
    request = LayersRequest(first_ks(model.config.k), LAYERS, "white", checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(parts(model, photo, request, Path(folder)), rounds)
    write_table(out, rows, COLUMNS)
    click.echo(__doc__)
    click.echo(format_rows(rows, COLUMNS, "table"), nl=False)


def parts(model: GMAE, photo: np.ndarray, request: LayersRequest, folder: Path) -> dict[str, Callable[[], object]]:
    """What is timed, by name; `forward` first."""
    image = to_tensor(photo)
    scene = predict_scene(model, photo)
    firsts = render(model, photo, request)

    def forward() -> None:
        with torch.inference_mode():
            model(image)

    def measure() -> None:
        for first in firsts:
            similarity = StreamingSimilarity(SIZE, SIZE)
            similarity.update(first, photo)
            similarity.compute()

    return {
        "forward": forward,
        "layers": lambda: render(model, photo, request),
        "metrics": measure,
        "files": lambda: write_layers(scene, request, folder, PHOTO.name),
    }


def render(model: GMAE, photo: np.ndarray, request: LayersRequest) -> np.ndarray:
    """All pictures from a photograph; returns those of the first K, uint8 `[S, H, W, 3]`."""
    pictures = render_layers(predict_scene(model, photo), list(request.ks.values()), request.layers)
    over(pictures.layers, pictures.layer_alphas, request.color)
    depth_colors(pictures.depth.numpy(), pictures.alpha.numpy(), 7.0, 9.0)
    return over(pictures.firsts, pictures.first_alphas, request.color)


def compare(calls: dict[str, Callable[[], object]], rounds: int) -> list[Row]:
    """Median milliseconds of each part, and the median ratio to the first one's."""
    turns = [{name: milliseconds(call) for name, call in calls.items()} for _ in range(rounds + 1)]
    del turns[0]  # warm-up
    first = next(iter(calls))
    return [
        {
            "part": name,
            "milliseconds": statistics.median(turn[name] for turn in turns),
            "ratio": statistics.median(turn[name] / turn[first] for turn in turns),
        }
        for name in calls
    ]


def milliseconds(call: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
