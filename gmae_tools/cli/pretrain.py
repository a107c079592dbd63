"""`gmae-tools pretrain`: train a GMAE on photographs."""

from __future__ import annotations

from typing import Any

import click

from gmae_tools.cli._options import backend_option, device_option, output_folder
from gmae_tools.errors import GmaeToolsError


def _numbers(kind: type) -> Any:
    """Parser of comma-separated lists."""

    def parse(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in (value or "").split(",") if part)
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
@click.option("--preset", default="tiny", show_default=True, help="Model: nano, tiny, small or base.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the preset, e.g. queries=128, gaussians_per_query=8, max_scale=1.0; may be repeated.",
)
@click.option("--samples", default=300_000, show_default=True, help="Pictures to train on.")
@click.option("--time-budget", type=float, metavar="MIN", help="Minutes; fits the schedule to the clock instead.")
@click.option("--batch-size", default=64, show_default=True, help="Over all processes.")
@click.option(
    "--resolution",
    "resolutions",
    default="224",
    show_default=True,
    callback=_numbers(int),
    help="Side of the pictures in px; several (128,224) grow during training.",
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
    default="0,0.75",
    show_default=True,
    callback=_numbers(float),
    help="Share of hidden patches: one number, or a range.",
)
@click.option(
    "--loss-on",
    type=click.Choice(["all", "masked"]),
    default="all",
    show_default=True,
    help="Pixels that count.",
)
@click.option("--background", type=click.Choice(["random", "white", "black"]), default="random", show_default=True)
@click.option(
    "--slot-depth-weight",
    default=1e-3,
    show_default=True,
    help="Against the queries' grid in depth maps; 0 turns it off.",
)
@click.option(
    "--crop-scale",
    default="0.2,1",
    show_default=True,
    callback=_numbers(float),
    help="Smallest and largest share of a photograph in a crop.",
)
@click.option("--precision", type=click.Choice(["auto", "bf16", "float32"]), default="auto", show_default=True)
@click.option("--held-out", default=500, show_default=True, help="Photographs never trained on.")
@click.option(
    "--warm-start",
    metavar="MODEL",
    help="First weights: a GMAE checkpoint (it may have fewer blocks or Gaussians a query), or the encoder of an MAE: "
    "its official .pth, or timm:NAME.",
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
@device_option
@backend_option
def command(data: tuple[str, ...], out: str, preset: str, changes: tuple[str, ...], device: str, resume: bool,
            warm_start: str | None, **options: Any) -> None:  # fmt: skip
    """Train a GMAE on photographs, resumably.

    The folder RUN collects the log (log.jsonl), held-out pictures (samples.png) and the newest checkpoint (model/),
    which every --checkpoint option takes. On several cores or GPUs:
    torchrun --nproc-per-node N -m gmae_tools pretrain ...
    See docs/pretraining.md.
    """
    from accelerate import PartialState

    from gmae_tools.model import GMAEConfig
    from gmae_tools.pretrain.loop import PretrainConfig, pretrain
    from gmae_tools.pretrain.objective import ObjectiveConfig
    from gmae_tools.pretrain.optimizers import OptimizerConfig
    from gmae_tools.pretrain.schedule import Schedule

    resolutions = options["resolutions"]
    stages = len(resolutions)
    ratios, scales = options["mask_ratio"], options["crop_scale"]
    if len(ratios) not in (1, 2) or len(scales) != 2:
        raise GmaeToolsError("--mask-ratio takes one or two numbers, --crop-scale two")
    budget = options["time_budget"]
    config = PretrainConfig(
        data=data,
        model=GMAEConfig.preset(preset, **dict(_parse_change(change) for change in changes)),
        schedule=Schedule(
            samples=options["samples"],
            time_budget=None if budget is None else 60 * budget,
            warmup=options["warmup"],
            resolutions=resolutions,
            cooldown=options["cooldown"],
            grow_at=options["grow_at"] or tuple((i + 1) / stages for i in range(stages - 1)),
        ),
        objective=ObjectiveConfig(
            mask_ratio=(ratios[0], ratios[-1]),
            loss_on=options["loss_on"],
            background=options["background"],
            slot_depth_weight=options["slot_depth_weight"],
        ),
        optimizer=OptimizerConfig(options["optimizer"], options["lr"], options["muon_lr"], options["weight_decay"]),
        crop_scale=(scales[0], scales[1]),
        warm_start=warm_start,
        **{name: options[name] for name in ("batch_size", "clip", "precision", "held_out", "seed", "log_every",
                                            "save_every", "evaluate_every")},
    )  # fmt: skip
    machine = {name: options[name] for name in ("backend", "accumulate", "compile", "shard_mb")}
    checkpoint = pretrain(config, output_folder(out), resume=resume, device=device, **machine)
    if PartialState().is_main_process:
        click.echo(checkpoint)


def _parse_change(text: str) -> tuple[str, int | float]:
    """`queries=128` -> ("queries", 128)."""
    name, _, value = text.partition("=")
    try:
        return name, int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        raise GmaeToolsError(f"--set {text}: expected KEY=NUMBER, e.g. queries=128") from None
