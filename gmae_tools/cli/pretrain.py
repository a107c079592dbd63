"""`gmae-tools pretrain`: train a GMAE on photographs, or a model that it is compared with."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from gmae_tools import checkpoint_names
from gmae_tools.cli._inputs import check_sources
from gmae_tools.cli._options import backend_option, cache_option, device_option, output_folder, when_interrupted
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from gmae_tools.pretrain.objectives import Objective

# What only some objectives have: options by the names of their settings.
_OF_SOME = {
    "whole": "--whole",
    "error": "--error",
    "loss_on": "--loss-on",
    "background": "--background",
    "slot_depth_weight": "--slot-depth-weight",
    "nested_weight": "--nested-weight",
    "gradient_weight": "--gradient-weight",
    "occlusion_gradient": "--occlusion-gradient",
    "size_depth_weight": "--size-depth-weight",
    "region_depth_weight": "--region-depth-weight",
    "camera": "--camera",
    "reconstruction_weight": "--reconstruction-weight",
    "temperature": "--temperature",
    "normalise_targets": "--normalise-targets",
    "own_decoder": "--own-decoder/--shared-decoder",
    "stop_gradient": "--stop-gradient",
    "head": "--head",
}


def _numbers(kind: type) -> Any:
    """Parser of comma-separated lists."""

    def parse(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[Any, ...] | None:
        try:
            return None if value is None else tuple(kind(part) for part in value.split(",") if part)
        except ValueError:
            raise click.BadParameter(f"{value!r}: expected numbers separated by commas") from None

    return parse


@click.command()
@click.option(
    "--data",
    multiple=True,
    required=True,
    metavar="PATH",
    help="Folder tree, photograph or tar shards (globs and {00..12} too); may be repeated.",
)
@click.option("-o", "--out", required=True, metavar="RUN", help="Folder of the run.")
@click.option(
    "--objective",
    type=click.Choice(["gmae", "mae", "r-mae", "c-mae"]),
    default="gmae",
    show_default=True,
    help="What to learn: Gaussians; pixels; pixels from two complementary occlusions; which two are of one picture.",
)
@click.option("--preset", default="tiny", show_default=True, help="Model: nano, tiny, small or base; or paper: "
              "base, and what else was published of masking, loss, background, starts and optimiser, unless another "
              "option says otherwise.")  # fmt: skip
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the preset, e.g. queries=128, gaussians_per_query=8, max_scale=1.0, query_start=random (queries drawn "
    "by chance, without places on a grid, as in the paper); may be repeated.",
)
@click.option("--samples", default=300_000, show_default=True, help="Pictures to train on.")
@click.option("--time-budget", type=float, metavar="MIN", help="Minutes; fits the schedule to the clock instead.")
@click.option("--batch-size", default=64, show_default=True, help="Over all processes.")
@click.option(
    "--resolution",
    "resolutions",
    callback=_numbers(int),
    metavar="PX",
    help="Side of the pictures; several (128,224) grow during training.  [default: the preset's image size]",
)
@click.option(
    "--grow-at",
    callback=_numbers(float),
    metavar="SHARES",
    help="Progress in 0..1 at which each further resolution begins.  [default: evenly]",
)
@click.option("--optimizer", type=click.Choice(["muon", "adamw"]), default="muon", show_default=True)
@click.option("--lr", default=1e-3, show_default=True, help="Peak rate of AdamW.")
@click.option("--muon-lr", default=0.02, show_default=True, help="Peak rate of Muon.")
@click.option("--weight-decay", default=0.05, show_default=True)
@click.option("--warmup", default=0.02, show_default=True, help="Share of the run.")
@click.option(
    "--cooldown",
    type=float,
    metavar="SHARE",
    help="Hold the rate, and let it fall linearly in the last SHARE of the run.  [default: half a cosine]",
)
@click.option("--clip", default=1.0, show_default=True, help="Largest norm of the gradient.")
@click.option(
    "--mask-ratio",
    callback=_numbers(float),
    metavar="SHARES",
    help="Share of hidden patches: one number, or a range.  [default: 0,0.75 for gmae, 0.75 for the others]",
)
@click.option(
    "--whole",
    type=float,
    metavar="SHARE",
    help="Share of the steps that hide nothing; for gmae.  [default: 0]",
)
@click.option(
    "--error",
    type=click.Choice(["mse", "psnr"]),
    help="Of rebuilt pictures: squared, or less their mean PSNR; for gmae.  [default: mse]",
)
@click.option(
    "--loss-on",
    type=click.Choice(["all", "masked"]),
    help="Pixels that count; for gmae and mae.  [default: all; for mae masked]",
)
@click.option(
    "--background",
    type=click.Choice(["random", "white", "black"]),
    help="Behind the Gaussians.  [default: random]",
)
@click.option(
    "--slot-depth-weight",
    type=float,
    metavar="W",
    help="Against the queries' grid in depth maps; 0 turns it off. For gmae.  [default: 0.001]",
)
@click.option(
    "--nested-weight",
    type=float,
    metavar="W",
    help="Of pictures from the nearest eighth, quarter and half of the Gaussians; for gmae.  [default: 0]",
)
@click.option(
    "--gradient-weight",
    type=float,
    metavar="W",
    help="Of the error of differences between neighbouring pixels; for gmae.  [default: 0]",
)
@click.option(
    "--occlusion-gradient",
    type=float,
    metavar="TAU",
    help="Temperature, in units of depth, at which the order of Gaussians gets a gradient; 0 turns it off. For gmae.  "
    "[default: 0.05]",
)
@click.option(
    "--size-depth-weight",
    type=float,
    metavar="W",
    help="Weight of the prior that large Gaussians lie behind; 0 turns it off. For gmae.  [default: 0.002]",
)
@click.option(
    "--region-depth-weight",
    type=float,
    metavar="W",
    help="Weight of the prior that large regions of one colour lie behind; 0 turns it off. For gmae.  [default: 0.001]",
)
@click.option(
    "--camera",
    type=click.Choice(["gmae", "orthographic", "pinhole"]),
    help="How Gaussians are looked at; see Camera. For gmae.  [default: gmae]",
)
@click.option(
    "--normalise-targets",
    is_flag=True,
    default=None,
    help="Compare patches less the mean and over the standard deviation of the photograph's patch; not for c-mae.",
)
@click.option(
    "--reconstruction-weight",
    type=float,
    metavar="W",
    help="Of the second view's pixels; for r-mae.  [default: 1]",
)
@click.option(
    "--own-decoder/--shared-decoder",
    default=None,
    help="Whether the second view has a decoder of its own; for r-mae.  [default: --own-decoder]",
)
@click.option(
    "--stop-gradient",
    is_flag=True,
    default=None,
    help="Make the decoded second view a target that the likeness of the views does not move; for r-mae.",
)
@click.option(
    "--head",
    type=click.Choice(["decoder", "light"]),
    help="Makes embeddings: MAE's decoder, or two layers, with mask tokens in the encoder; for c-mae.  "
    "[default: decoder]",
)
@click.option("--temperature", type=float, metavar="T", help="Of InfoNCE; for c-mae.  [default: 0.2]")
@click.option(
    "--crop-scale",
    default="0.2,1",
    show_default=True,
    callback=_numbers(float),
    help="Smallest and largest share of a photograph in a crop.",
)
@click.option("--precision", type=click.Choice(["auto", "bf16", "float32"]), default="auto", show_default=True)
@click.option("--held-out", default=500, show_default=True, help="Photographs never trained on; at most a tenth.")
@click.option(
    "--warm-start",
    metavar="MODEL",
    help="First weights: a checkpoint of the same kind (a GMAE may have fewer blocks or Gaussians a query), or the "
    "encoder of another one, of an official MAE .pth, or of timm:NAME.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--log-every", default=10, show_default=True, help="Steps.")
@click.option("--save-every", default=60.0, show_default=True, help="Seconds between resumable states.")
@click.option("--evaluate-every", default=600.0, show_default=True, help="Seconds between held-out figures.")
@click.option("--accumulate", default=1, show_default=True, metavar="N", help="Cut batches into N parts: less memory.")
@click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Have torch.compile work on the transformer blocks; auto: on a GPU.",
)
@click.option("--shard-mb", type=float, metavar="MB", help="Write checkpoints in pieces of at most so many megabytes.")
@click.option("--resume", is_flag=True, help="Continue the run in --out where it was saved last.")
@cache_option
@device_option
@backend_option
def command(
    data: tuple[str, ...],
    out: str,
    objective: str,
    preset: str,
    changes: tuple[str, ...],
    device: str,
    resume: bool,
    warm_start: str | None,
    **options: Any,
) -> None:
    """Train a GMAE, or a model that it is compared with, on photographs, resumably.

    The folder RUN collects the log (log.jsonl), held-out pictures (samples.png) and the newest checkpoint (model/),
    which every --checkpoint option takes. On several cores or GPUs:
    torchrun --nproc-per-node N -m gmae_tools pretrain ...
    See docs/pretraining.md.
    """
    scales = options["crop_scale"]
    if len(scales) != 2:
        raise GmaeToolsError("--crop-scale takes two numbers")
    parsed = _changes(changes)
    check_sources(data)
    if warm_start is not None and not resume:  # a run that goes on has it no more
        checkpoint_names.check(warm_start)

    from accelerate import PartialState

    from gmae_tools.pretrain import paper
    from gmae_tools.pretrain.loop import MODEL_FOLDER, Execution, PretrainConfig, pretrain
    from gmae_tools.pretrain.objectives import OBJECTIVES
    from gmae_tools.pretrain.optimizers import OptimizerConfig
    from gmae_tools.pretrain.schedule import Schedule

    kind = OBJECTIVES[objective]
    settings = _settings(kind, options)
    if preset == paper.PRESET:
        settings = _of(kind, paper.OBJECTIVE) | settings
        options |= {name: value for name, value in paper.options(options["batch_size"]).items() if _unsaid(name)}
    budget = options["time_budget"]
    model = kind.model_config.preset(preset, **parsed, **_of(kind.model_config, settings))
    resolutions = (model.image_size,) if options["resolutions"] is None else options["resolutions"]
    stages = len(resolutions)
    config = PretrainConfig(
        data=data,
        model=model,
        schedule=Schedule(
            samples=options["samples"],
            time_budget=None if budget is None else 60 * budget,
            warmup=options["warmup"],
            resolutions=resolutions,
            cooldown=options["cooldown"],
            grow_at=options["grow_at"] or tuple((i + 1) / stages for i in range(stages - 1)),
        ),
        objective=kind(**_of(kind, settings)),
        optimizer=OptimizerConfig(options["optimizer"], options["lr"], options["muon_lr"], options["weight_decay"]),
        crop_scale=(scales[0], scales[1]),
        warm_start=warm_start,
        **{name: options[name] for name in ("batch_size", "clip", "precision", "held_out", "seed", "log_every",
                                            "save_every", "evaluate_every")},
    )  # fmt: skip
    execution = Execution(**{each.name: options[each.name] for each in fields(Execution)})
    folder = output_folder(out, MODEL_FOLDER, launched=True)
    when_interrupted(f"the same command with --resume goes on with what {folder} holds")
    checkpoint = pretrain(config, folder, resume=resume, device=device, execution=execution)
    if PartialState().is_main_process:
        click.echo(checkpoint)


def _settings(objective: type[Objective], options: dict[str, Any]) -> dict[str, Any]:
    """The settings of an objective, and of its model, that were asked for.

    Raises:
        GmaeToolsError: one of them is of another objective, or impossible.
    """
    from gmae_tools.camera import Camera

    asked = {name: options[name] for name in _OF_SOME if options[name] is not None}
    if "camera" in asked:
        asked["camera"] = Camera(asked["camera"])
    known = _of(objective, asked) | _of(objective.model_config, asked)
    alien = [_OF_SOME[name] for name in asked if name not in known]
    if options["backend"] != "auto" and not objective.splats:
        alien.append("--backend")
    if alien:
        raise GmaeToolsError(f"{', '.join(alien)}: not for --objective {objective.name}; leave it out")
    ratios = options["mask_ratio"]
    if ratios is not None:
        if len(ratios) not in (1, 2):
            raise GmaeToolsError("--mask-ratio takes one or two numbers")
        asked["mask_ratio"] = (ratios[0], ratios[-1])
    return asked


def _unsaid(option: str) -> bool:
    """Whether an option of this call has its default."""
    return click.get_current_context().get_parameter_source(option) == click.core.ParameterSource.DEFAULT


def _of(kind: type[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that a dataclass has."""
    return {field.name: settings[field.name] for field in fields(kind) if field.name in settings}


def _changes(texts: tuple[str, ...]) -> dict[str, int | float | str]:
    """`queries=128` -> {"queries": 128}."""
    return dict(_parse_change(text) for text in texts)


def _parse_change(text: str) -> tuple[str, int | float | str]:
    """`queries=128` -> ("queries", 128); what is no number is a word, which the configuration knows or refuses."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise GmaeToolsError(f"--set {text}: expected KEY=VALUE, e.g. queries=128")
    try:
        return name, int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        return name, value
