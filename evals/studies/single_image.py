r"""Does pretraining on one single photograph already teach an encoder anything? Frozen features against random ones.

Protocol: each encoder is trained from random weights on crops of one photograph (a fifth of its area up to all of it,
half of them mirrored), for the same number of samples, with the defaults of `gmae-tools pretrain`. Features of labelled
photographs (`gmae-tools probe`: class token, and mean of the patches) are then classified by their nearest neighbours,
and by a linear classifier. `random` has the weights that training starts from, for each seed; `pixels` are the colours
of an 8 x 8 px thumbnail. Nothing of the labelled photographs is seen in training, unless the photograph is one of them.

`low`, `high`: 95 % interval (Wilson). `difference`: to the random weights of the first seed on the same photographs,
`within` so much (95 %, paired). Both cover only the choice of labelled photographs; compare rows for the effect of
the one photograph and of the seed.

After arXiv 2208.04164, where pretraining on a single picture beats random weights after fine-tuning; that is the second
table (`--fine-tune EPOCHS`). Each encoder is trained on as a classifier by the recipe of `gmae-tools finetune`, random
weights of the same seed likewise; rows are of all seeds, with bootstrap intervals over seeds and photographs.

    python -m evals.studies.single_image --data DATA --labels prefix --limit 4000             # goes on where it stopped
    python -m evals.studies.single_image --data DATA --image a.jpg --image b.jpg --seeds 0,1 --objective gmae \
        --objective mae \
        --preset tiny --image-size 128                                                # half an hour on one core
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from torch import Tensor

from evals.common import PHOTO, RESULTS, RUNS, features_bar, script, whole_numbers, write_table
from evals.encoders import FINE_TUNED, RANDOM, fine_tuned_rows, lr_option, plain_option, recipe, recipe_name
from gmae_tools import checkpoints
from gmae_tools.datasets.labelled import LabelledPhotos, Labelling, describe, find_labelled
from gmae_tools.datasets.photos import center_crop
from gmae_tools.encoder.features import Extractor, autoencoder_extractor
from gmae_tools.encoder.finetune import FinetuneConfig, Machine, classifier_of, finetune
from gmae_tools.encoder.probe import Answers, LinearConfig, cached_features, probe
from gmae_tools.model import Autoencoder
from gmae_tools.pretrain.loop import PretrainConfig, pretrain
from gmae_tools.pretrain.objectives import OBJECTIVES
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.report.probe import COLUMNS, probe_rows
from gmae_tools.report.tables import format_rows

THUMBNAIL = 8  # px
CPU = torch.device("cpu")


class Compared(NamedTuple):
    """An encoder of the table.

    Attributes:
        extractor: of its frozen features.
        model: None for features that no model makes, which cannot be fine-tuned.
        called: its name, the same for all seeds.
        seed: of its weights.
    """

    extractor: Extractor
    model: Autoencoder | None
    called: str
    seed: int = 0


@dataclass(frozen=True)
class Encoders:
    """Which encoders are compared, and where their runs are kept.

    Attributes:
        images: photographs, each of which every objective is trained on with every seed.
        preset, changes: of all models.
        samples: crops that each is trained on.
        out: folder of the runs.
    """

    images: Sequence[str]
    objectives: Sequence[str]
    preset: str
    changes: Mapping[str, int]
    samples: int
    seeds: Sequence[int]
    out: Path

    def __iter__(self) -> Iterator[Compared]:
        """All encoders of the table, random ones first; those that are not there yet are trained."""
        for seed in self.seeds:
            yield compared(self.random(seed), RANDOM, seed)
        preparation = f"central square, bicubic, {THUMBNAIL} px"
        pixels = Extractor("pixels", "none", ("pixels",), preparation, thumbnail, lambda x: x.flatten(2), CPU)
        yield Compared(pixels, None, "pixels")
        for name, image, seed in product(self.objectives, self.images, self.seeds):
            yield compared(self.trained(name, image, seed), f"{name} of {Path(image).name}", seed)

    def random(self, seed: int) -> Autoencoder:
        """The weights that training with this seed starts from."""
        objective = OBJECTIVES[self.objectives[0]]()
        torch.manual_seed(seed)
        return objective.build(objective.model_config.preset(self.preset, **self.changes))

    def trained(self, name: str, image: str, seed: int) -> Autoencoder:
        """A model that was trained on one photograph, at the size of its pictures; there is nothing to hold out."""
        objective = OBJECTIVES[name]()
        model = objective.model_config.preset(self.preset, **self.changes)
        schedule = Schedule(self.samples, resolutions=(model.image_size,))
        config = PretrainConfig((image,), model, schedule, objective, held_out=0, seed=seed)
        run = self.out / f"{Path(image).stem}-{name}-{self.preset}-{model.image_size}-{self.samples}-{seed}"
        return checkpoints.load_any(pretrain(config, run, resume=True, device="cpu"))


def compared(model: Autoencoder, called: str, seed: int) -> Compared:
    """A model with its features; random weights are called `random` in the table of those."""
    name = "random" if called == RANDOM else called
    return Compared(autoencoder_extractor(model, f"{name}, seed {seed}", CPU), model, called, seed)


def thumbnail(photo: np.ndarray) -> Tensor:
    """Colours of the central square less a middle grey, from which angles are measured: `[1, 8, 24]`."""
    pixels: Tensor = torch.from_numpy(center_crop(photo, THUMBNAIL)).float() / 255 - 0.5
    return pixels.flatten(1)[None]


def fine_tuned(each: Compared, photos: LabelledPhotos, config: FinetuneConfig, out: Path) -> np.ndarray:
    """Whether an encoder that is trained on as a classifier is right, bool `[photographs]`; kept under `out`."""
    assert each.model is not None
    torch.manual_seed(config.seed)  # of the head
    classifier = classifier_of(each.model, len(photos.classes), config.drop_path)
    run = out / f"{each.model.config.width}-{each.extractor.weights[:16]}-{recipe_name(config)}"
    return finetune(classifier, photos, config, run, Machine(CPU)).correct


@script(takes="30 minutes", needs="photographs with labels, and timm for fine-tuning")
@click.option("--data", required=True, multiple=True, help="Labelled photographs, as `gmae-tools probe` takes them.")
@click.option("--labels", "labelling", type=click.Choice(["folder", "prefix"]), default="folder", show_default=True)
@click.option(
    "--limit", type=click.IntRange(1), default=4000, show_default=True, help="Largest number of labelled photographs."
)
@click.option("--image", "images", multiple=True, default=[str(PHOTO)], help="The photograph; may be repeated.")
@click.option("--objective", "objectives", type=click.Choice(list(OBJECTIVES)), multiple=True, default=["gmae"])
@click.option("--preset", default="nano", show_default=True, help="nano or tiny; larger ones need a GPU.")
@click.option("--image-size", type=click.IntRange(1), metavar="PX", help="Side of pictures.  [default: the preset's]")
@click.option(
    "--samples", type=click.IntRange(1), default=20_000, show_default=True, help="Number of crops to train on."
)
@click.option("--seeds", callback=whole_numbers, default="0,1", show_default=True)
@click.option("--neighbours", callback=whole_numbers, default="10,20,100,200", show_default=True)
@click.option("--fine-tune", "epochs", type=click.IntRange(0), default=0, show_default=True, metavar="EPOCHS",
              help="Epochs for which all encoders are fine-tuned; 0 leaves that out.")  # fmt: skip
@click.option(
    "--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Pictures of a fine-tuning step."
)
@lr_option
@plain_option
@click.option(
    "--out", type=click.Path(path_type=Path), default=RUNS / "single-image", help="Folder for runs and features."
)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the table.")
def main(
    data: tuple[str, ...], labelling: Labelling, limit: int, images: tuple[str, ...], objectives: tuple[str, ...],
    preset: str, image_size: int | None, samples: int, seeds: tuple[int, ...], neighbours: tuple[int, ...], epochs: int,
    batch_size: int, base_lr: float, plain: bool, out: Path, results: Path,
) -> None:  # fmt: skip
    """Write the table into the folder of results, and print it."""
    photos = find_labelled(data, labelling, limit)
    changes = {} if image_size is None else {"image_size": image_size}
    about = f"{preset}, {samples:,} samples of one photograph; {len(photos.classes)} labels by {labelling}, "
    about += f"{describe(photos)}; always the largest class: {photos.largest_class:.3f}"
    encoders = Encoders(images, objectives, preset, changes, samples, seeds, out)
    answers: list[Answers] = []
    correct: dict[str, list[np.ndarray]] = {}
    for each in encoders:
        features = cached_features(each.extractor, photos, out / "features", features_bar(each.extractor.name))
        answers += probe(each.extractor, features, photos, ks=neighbours, linear=LinearConfig())
        if epochs and each.model is not None:
            config = recipe(epochs, batch_size, base_lr, plain)
            found = fine_tuned(each, photos, replace(config, seed=each.seed), out / "finetuned")
            correct.setdefault(each.called, []).append(found)
    frozen = probe_rows(answers)
    write_table(results / f"single_image_{preset}.csv", frozen, COLUMNS)
    click.echo(f"{__doc__}\n{about}\n\n{format_rows(frozen, COLUMNS, 'table')}", nl=False)
    if epochs:
        tuned = fine_tuned_rows({name: np.stack(seeds_of) for name, seeds_of in correct.items()})
        write_table(results / f"single_image_{preset}_finetuned.csv", tuned, FINE_TUNED)
        click.echo(f"\nFine-tuned, {epochs} epochs:\n\n{format_rows(tuned, FINE_TUNED, 'table')}", nl=False)


if __name__ == "__main__":
    main()
