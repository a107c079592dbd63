"""`gmae-tools reconstruct`: rebuild photographs from some of their patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gmae_tools.cli._inputs import Inputs, input_options
from gmae_tools.cli._options import (
    OutputOptions,
    backend_option,
    checkpoints_option,
    device_option,
    folder_names,
    max_pixels_option,
    output_options,
    print_failure,
)
from gmae_tools.cli._progress import loading, progress_over
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import write_text

if TYPE_CHECKING:
    from gmae_tools.report.tables import Row
    from gmae_tools.splatting import Backend

TABLE, SHEET = "reconstruct.csv", "reconstruction.png"


@click.command()
@input_options
@checkpoints_option
@click.option(
    "--mask-ratio", type=click.FloatRange(0, 0.95), default=0.75, help="Share of the patches that are hidden."
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the choice of hidden patches.")
@output_options("reconstructions")
@device_option
@backend_option
@max_pixels_option
def command(
    inputs: Inputs,
    checkpoints: tuple[str, ...],
    mask_ratio: float,
    seed: int,
    output: OutputOptions,
    device: str,
    backend: Backend,
    max_pixels: int,
) -> None:
    """Rebuild photographs from some of their patches.

    IMG is a picture, a folder of pictures, a glob, or - for a pipe. A model is a GMAE or an MAE; an official MAE .pth
    is also possible. For each picture DIR/<name>/reconstruction.png shows, for each model, the photograph, its visible
    patches, the reconstruction, and the photograph with its hidden patches filled in. The table (PSNR and SSIM of the
    whole reconstruction, and PSNR of the hidden patches alone) is printed on stdout and written to DIR/reconstruct.csv.
    Predictions of visible patches are poor for an MAE that was trained on hidden patches alone. Compare such a model by
    psnr_hidden.

    A picture that cannot be read is reported on stderr, the others are processed, and the exit code is 1.
    """
    paths, failures = inputs.find(output.out)
    with loading("the models"):
        from gmae_tools.encoder.features import distinct_names, load_autoencoder
        from gmae_tools.images import read_image
        from gmae_tools.prediction import resolve_device
        from gmae_tools.pretrain.reconstruction import check_rebuilds, reconstruct_photo
        from gmae_tools.report.reconstruction import COLUMNS, rows_of, write_reconstructions
        from gmae_tools.report.tables import format_rows
        from gmae_tools.splatting import choose_backend

        where = resolve_device(device)
        choose_backend(backend, where)  # refuses a backend that cannot render, before any work
        names = list(dict.fromkeys(checkpoints))
        models = dict(zip(distinct_names(names), (load_autoencoder(name).to(where) for name in names), strict=True))
    for name, model in models.items():
        check_rebuilds(model, name)
    folder = output.folder("*")
    rows: list[Row] = []
    try:
        for path, name in progress_over(list(zip(paths, folder_names(paths), strict=True)), folder):
            try:
                photo = read_image(path, max_pixels=max_pixels)
                found = {
                    label: reconstruct_photo(model, photo, mask_ratio, seed=seed, backend=backend)
                    for label, model in models.items()
                }
                write_reconstructions(found, photo.shape[:2], folder / name / SHEET, str(path))
                rows += rows_of(found, str(path))
            except (GmaeToolsError, OSError) as error:
                print_failure(path, error)
                failures += 1
    finally:  # an interrupted run keeps the table of its finished pictures
        if rows:
            write_text(folder / TABLE, format_rows(rows, COLUMNS, "csv"))
    if rows:
        output.print_rows(rows, COLUMNS)
    if failures:
        raise SystemExit(1)
