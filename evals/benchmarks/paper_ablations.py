r"""The paper's ablations in small: largest scale, masking, loss and number of Gaussians, by representation and by dB.

Protocol: every run is GMAE as published in all switches that there are (`gmae_tools/pretrain/paper.py`: queries from
chance with one Gaussian each, white background, 75 % hidden, squared error of the hidden patches, no weight on depth by
slot, largest scale 1), but for its size, its optimiser (`gmae-tools pretrain`'s default) and the one switch of its row.
The published figures of a ViT-B after 400 epochs of ImageNet stand beside ours (fine-tuned and linear probe, top-1 in
%); for K only the course is public: more is better, flattening near 256. `--gaussians` sets K where it is not the
switch: 256 are for 196 patches, and pictures of fewer patches need fewer.

- `psnr_hidden`: of hidden patches, 75 % hidden, held-out photographs, mean over photographs and seeds; `psnr`: of whole
  ones.
- `linear`, `knn`: top-1 of frozen features (mean of the patches) on labelled photographs, as `gmae-tools probe` has
  them; `low`, `high` are 95 % bootstrap intervals over seeds and photographs. `difference`: to the published setting,
  same seeds and photographs, with its interval. An interval with 0 in it: no difference can be told at this size.
  Intervals of a single seed cover the choice of photographs only. Unless `--labelled` names others, pretraining saw the
  photographs of the probe, without their labels.

    python -m evals.benchmarks.paper_ablations --data 'shards/photos-*.tar'                       # a night of two cores
    python -m evals.benchmarks.paper_ablations --data 'shards/*.tar' --group loss \
        --samples 10000 # goes on where it was killed
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from evals.bootstrap import bootstrap_interval
from evals.common import RUNS, features_bar, progress, results_option, script, whole_numbers, write_files
from gmae_tools import checkpoints
from gmae_tools.datasets.labelled import LabelledPhotos, Labelling, describe, find_labelled
from gmae_tools.datasets.photos import PhotoStore, held_out_split
from gmae_tools.encoder.features import autoencoder_extractor
from gmae_tools.encoder.probe import LinearConfig, cached_features, probe
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.pretrain import paper
from gmae_tools.pretrain.held_out import HeldOut
from gmae_tools.pretrain.loop import PretrainConfig, pretrain
from gmae_tools.pretrain.objectives import GMAEObjective
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.report.figures import PALETTE, STYLE
from gmae_tools.report.tables import Row, format_rows
from gmae_tools.system.files import atomic_path

COLUMNS = {"group": None, "value": None, "psnr_hidden": 2, "psnr": 2, "linear": 3, "linear_low": 3, "linear_high": 3,
           "difference": 3, "difference_low": 3, "difference_high": 3, "knn": 3, "knn_low": 3, "knn_high": 3,
           "published_fine_tuned": 1, "published_linear": 1, "seeds": None}  # fmt: skip
NEIGHBOURS = 20


class Choice(NamedTuple):
    """A value of a switch: what it changes, and what the paper reports of it (fine-tuned and linear probe, %)."""

    objective: dict[str, Any] = {}  # noqa: RUF012  # never changed
    model: dict[str, Any] = {}  # noqa: RUF012
    published: tuple[float | None, float | None] = (None, None)


AS_PUBLISHED = (83.2, 61.9)
GROUPS: dict[str, dict[str, Choice]] = {
    "largest scale c": {
        "0.5": Choice(model={"max_scale": 0.5}, published=(82.7, 61.1)),
        "1": Choice(published=AS_PUBLISHED),
        "2": Choice(model={"max_scale": 2.0}, published=(83.1, 60.9)),
    },
    "hidden patches": {
        "0.70": Choice({"mask_ratio": (0.70, 0.70)}, published=(82.6, 60.2)),
        "0.75": Choice(published=AS_PUBLISHED),
        "0.80": Choice({"mask_ratio": (0.80, 0.80)}, published=(82.4, 61.9)),
    },
    "loss on": {
        "all": Choice({"loss_on": "all"}, published=(81.8, 57.4)),
        "masked": Choice(published=AS_PUBLISHED),
        "masked, normalised": Choice({"normalise_targets": True}, published=(76.9, 31.7)),
    },
    "Gaussians K": {
        str(k): Choice(model={"queries": k}, published=AS_PUBLISHED if k == 256 else (None, None))
        for k in (64, 128, 256, 512)
    },
}


@dataclass(frozen=True)
class Study:
    """The runs, and what they are measured on.

    Attributes:
        base: the published setting; of each run another switch is changed.
        seeds: of every setting.
        runs: folder of the runs.
        held: photographs for PSNR, which no run is trained on.
        photos: labelled photographs for the probes.
    """

    base: PretrainConfig
    seeds: Sequence[int]
    runs: Path
    held: HeldOut
    photos: LabelledPhotos

    def rows(self, groups: Mapping[str, Mapping[str, Choice]]) -> Iterator[Row]:
        """A row of `COLUMNS` for each value of each switch; what is missing is trained and measured."""
        published = self.figures(self.base)
        for group, choices in groups.items():
            for value, choice in choices.items():
                config = changed(self.base, choice)
                rival = None if config == self.base else published
                yield row(group, value, self.figures(config), rival, choice.published)

    def figures(self, config: PretrainConfig) -> dict[str, np.ndarray]:
        """Of every seed: PSNRs `[seeds]`, and whether the classifiers were right `[seeds, photographs]`."""
        found = [self.figures_of_run(dataclasses.replace(config, seed=seed)) for seed in self.seeds]
        return {name: np.array([each[name] for each in found]) for name in found[0]}

    def figures_of_run(self, config: PretrainConfig) -> dict[str, Any]:
        """The figures of a run; it is trained and measured unless it was before."""
        run = self.runs / name_of(config)
        kept = run / f"figures-{self.photos.fingerprint[:16]}.json"
        if not kept.exists():
            figures = self.measure(checkpoints.load(pretrain(config, run, resume=True, device="cpu")), run.name)
            with atomic_path(kept) as temporary:
                temporary.write_text(json.dumps(figures))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def measure(self, model: GMAE, name: str) -> dict[str, Any]:
        """PSNRs, and for each labelled photograph whether the classifiers were right, as 0 or 1."""
        psnr = self.held.psnr(model, model.config.image_size)
        extractor = autoencoder_extractor(model, name, torch.device("cpu"))
        features = cached_features(extractor, self.photos, self.runs / "features", features_bar(name))
        asked = probe(extractor, features, self.photos, ks=(NEIGHBOURS,), linear=LinearConfig())
        right = {each.method: each.correct.astype(int).tolist() for each in asked if each.tokens == "mean"}
        return {"psnr": psnr["psnr"], "psnr_hidden": psnr["psnr_hidden"], "linear": right["linear"],
                "knn": right["k-NN"]}  # fmt: skip

    def about(self) -> str:
        """Sizes of the runs and of the data, in words."""
        model, schedule, photos = self.base.model, self.base.schedule, self.photos
        assert isinstance(model, GMAEConfig)
        trained = len(self.held.photos) - len(self.held.indices)
        return (
            f"Width {model.width}, {model.depth} blocks; {model.image_size} px, patches of {model.patch_size} px, "
            f"K = {model.k}; {schedule.samples:,} samples a run of {trained:,} photographs, batches of "
            f"{self.base.batch_size}; seeds {','.join(map(str, self.seeds))}. Probes: {describe(photos)}; "
            f"{len(photos.classes)} labels; always the largest class: {photos.largest_class:.3f}"
        )


@script(takes="a night", needs="photographs to train on")
@click.option("--data", multiple=True, required=True, metavar="PATH", help="Photographs, as for `gmae-tools pretrain`.")
@click.option(
    "--labelled", multiple=True, metavar="PATH", help="Photographs for the probes.  [default: those of --data]"
)
@click.option("--labels", "labelling", type=click.Choice(["folder", "prefix"]), default="prefix", show_default=True)
@click.option(
    "--limit", type=click.IntRange(1), default=4000, show_default=True, help="Largest number of labelled photographs."
)
@click.option("--group", "names", multiple=True, help="Only the switches whose names begin with this; may be repeated.")
@click.option("--preset", default="nano", show_default=True)
@click.option("--image-size", type=click.IntRange(1), default=96, show_default=True, metavar="PX")
@click.option("--patch-size", type=click.IntRange(1), default=12, show_default=True, metavar="PX")
@click.option(
    "--gaussians", type=click.IntRange(1), default=256, show_default=True, help="K where it is not the switch."
)
@click.option(
    "--samples", type=click.IntRange(1), default=60_000, show_default=True, help="Pictures that each run trains on."
)
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True)
@click.option("--seeds", callback=whole_numbers, default="0,1", show_default=True)
@click.option(
    "--held-out", type=click.IntRange(1), default=500, show_default=True, help="Number of held-out photographs."
)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=RUNS / "paper-ablations",
    help="Folder of the runs, which a later call continues.",
)
@results_option("-o", "--out")
def main(
    data: tuple[str, ...], labelled: tuple[str, ...], labelling: Labelling, limit: int, names: tuple[str, ...],
    samples: int, batch_size: int, seeds: tuple[int, ...], held_out: int, runs: Path, out: Path, **sizes: Any,
) -> None:  # fmt: skip
    """Train, measure, and write the table and the figure."""
    groups = chosen(names)
    photos = find_labelled(labelled or data, labelling, limit)
    store = PhotoStore.open(data)
    model = paper_model(**sizes)
    base = PretrainConfig(
        data, model, Schedule(samples, resolutions=(model.image_size,)), GMAEObjective(**paper.OBJECTIVE),
        batch_size=batch_size, held_out=held_out, evaluate_every=3600,
    )  # fmt: skip
    study = Study(base, seeds, runs, HeldOut(store, held_out_split(store.names, held_out)[1], held_out), photos)
    rows = list(progress(study.rows(groups), sum(map(len, groups.values())), "settings", "setting"))
    write_results(rows, study.about(), out)


def chosen(beginnings: Sequence[str]) -> dict[str, dict[str, Choice]]:
    """The switches whose names begin with one of these; all of them for none.

    Raises:
        click.UsageError: no switch does.
    """
    asked = tuple(beginnings) or ("",)
    groups = {name: values for name, values in GROUPS.items() if name.lower().startswith(asked)}
    if not groups:
        raise click.UsageError(f"no switch begins with {' or '.join(beginnings)}: there are {', '.join(GROUPS)}")
    return groups


def write_results(rows: Sequence[Row], about: str, out: Path) -> None:
    """The table as CSV and on a page, and the figure; the table is also printed."""
    table = format_rows(rows, COLUMNS, "table")
    page = f"# The paper's ablations\n\n{(__doc__ or '').strip()}\n\n{about}\n\n```\n{table}```\n"
    write_files(out, {"paper_ablations.csv": format_rows(rows, COLUMNS, "csv"), "paper_ablations.md": page})
    plot(rows, out / "paper_ablations.png")
    click.echo(f"{__doc__}\n{about}\n\n{table}", nl=False)


# --- settings ----------------------------------------------------------------------------------------


def paper_model(preset: str, image_size: int, patch_size: int, gaussians: int = 256) -> GMAEConfig:
    """The paper's model at another size: a query for each Gaussian."""
    sizes = GMAEConfig.preset(preset, image_size=image_size, patch_size=patch_size).to_dict()
    published = GMAEConfig.preset(paper.PRESET).to_dict()
    same = ("width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads", "image_size", "patch_size")
    return GMAEConfig.from_dict(published | {name: sizes[name] for name in same} | {"queries": gaussians})


def changed(config: PretrainConfig, choice: Choice) -> PretrainConfig:
    """The run with another value of a switch."""
    return dataclasses.replace(
        config,
        objective=dataclasses.replace(config.objective, **choice.objective),
        model=dataclasses.replace(config.model, **choice.model),
    )


def name_of(config: PretrainConfig) -> str:
    """Of the folder of a run: what may differ between runs."""
    model, objective = config.model, config.objective
    assert isinstance(model, GMAEConfig) and isinstance(objective, GMAEObjective)
    loss = objective.loss_on + ("-normalised" if objective.normalise_targets else "")
    parts = [model.width, model.image_size, model.patch_size, f"k{model.k}", f"c{model.max_scale:g}",
             f"m{objective.mask_ratio[0]:g}", loss, config.schedule.samples, config.batch_size,
             config.seed]  # fmt: skip
    return "-".join(map(str, parts))


# --- results -----------------------------------------------------------------------------------------


def row(
    group: str, value: str, figures: Mapping[str, np.ndarray], published: Mapping[str, np.ndarray] | None,
    theirs: tuple[float | None, float | None],
) -> Row:  # fmt: skip
    """A row of `COLUMNS`, from the figures of this value and, unless it is the published setting, from those."""
    found: dict[str, str | int | float | None] = {
        "group": group, "value": value, "psnr_hidden": float(figures["psnr_hidden"].mean()),
        "psnr": float(figures["psnr"].mean()), "published_fine_tuned": theirs[0], "published_linear": theirs[1],
        "seeds": len(figures["psnr"]), "difference": None, "difference_low": None, "difference_high": None,
    }  # fmt: skip
    for name in ("linear", "knn"):
        low, high = bootstrap_interval(figures[name])
        found |= {name: float(figures[name].mean()), f"{name}_low": low, f"{name}_high": high}
    if published:
        difference = figures["linear"] - published["linear"]
        low, high = bootstrap_interval(difference)
        found |= {"difference": float(difference.mean()), "difference_low": low, "difference_high": high}
    return found


def plot(rows: Sequence[Row], path: Path) -> None:
    """A panel for each switch: linear probe and k-NN with their intervals, the published linear probe above."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(str(each["group"]) for each in rows))
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(2.6 * len(groups) + 0.8, 4.6), layout="constrained")
        panels = figure.subplots(2, len(groups), squeeze=False, sharex="col", sharey="row")
        for column, group in enumerate(groups):
            shown = [each for each in rows if each["group"] == group]
            places = np.arange(len(shown))
            for shift, (name, label) in zip((-0.08, 0.08), (("linear", "linear probe"), ("knn", "20-NN")), strict=True):
                middle, low, high = (np.array([float(each[f"{name}{end}"] or 0) for each in shown])
                                     for end in ("", "_low", "_high"))  # fmt: skip
                panels[0][column].errorbar(
                    places + shift, middle, np.stack([middle - low, high - middle]).clip(0), fmt="o-", capsize=3,
                    color=PALETTE[shift > 0], label=label,
                )  # fmt: skip
            panels[1][column].plot(places, [each["psnr_hidden"] for each in shown], "o-", color=PALETTE[2])
            panels[1][column].set_xticks(places, [str(each["value"]).replace(", ", ",\n") for each in shown])
            panels[1][column].set_xlabel(group)
            theirs = [each["published_linear"] for each in shown]
            if None not in theirs:
                panels[0][column].set_title("published: " + ", ".join(f"{value:g}" for value in theirs), fontsize=8)
        panels[0][0].set_ylabel("top-1, frozen features")
        panels[1][0].set_ylabel("hidden patches, dB")
        panels[0][0].legend()
        with atomic_path(path) as temporary:
            figure.savefig(temporary)


if __name__ == "__main__":
    main()
