"""`gmae-tools pretrain`: train a GMAE, or one of the models that it is compared with, on photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from gmae_tools import checkpoint_names
from gmae_tools.cli._inputs import check_sources
from gmae_tools.cli._options import (
    Decorator,
    backend_option,
    cache_option,
    device_option,
    output_folder,
    when_interrupted,
)
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from gmae_tools.pretrain.loop import PretrainConfig
    from gmae_tools.pretrain.objectives import Objective

# Options whose names and values are those of `PretrainConfig`.
_RUN_OPTIONS = (
    "batch_size", "crop_scale", "clip", "precision", "held_out", "seed", "log_every", "save_every", "evaluate_every",
)  # fmt: skip


class _Setting(NamedTuple):
    """An option that sets something which only some objectives or their models have."""

    flag: str  # such as `--loss-on`; `loss_on` is then the name of the setting
    kind: Any  # type of its values; bool for a flag
    objectives: str
    default: str  # as the help shows it; empty for a flag
    help: str

    @property
    def name(self) -> str:
        return self.flag.partition("/")[0].removeprefix("--").replace("-", "_")

    def option(self) -> Decorator:
        """The option for click; None is its value unless it is given."""
        default = f"  [default: {self.default}]" * bool(self.default)
        text = f"{self.help} Only for {self.objectives}.{default}"
        flag = {"is_flag": True} if self.kind is bool else {"type": self.kind}
        return click.option(self.flag, default=None, help=text, **flag)


_SETTINGS = (
    _Setting("--whole", float, "gmae", "0", "Share of the training steps that hide no patches."),
    _Setting("--error", click.Choice(["mse", "psnr"]), "gmae", "mse",
             "The error to minimise: the mean squared error of the rendered pictures, or their negative mean PSNR."),
    _Setting("--loss-on", click.Choice(["all", "masked"]), "gmae and mae", "all for gmae, masked for mae",
             "Compute the loss on all patches, or on the masked ones alone."),
    _Setting("--background", click.Choice(["random", "white", "black"]), "gmae", "random",
             "Colour behind the Gaussians; random chooses a new one for every picture."),
    _Setting("--slot-depth-weight", float, "gmae", "0.001",
             "Weight of the penalty on depth that follows from a Gaussian's position within its query. Without it, the "
             "grid of the queries appears in depth maps."),
    _Setting("--nested-weight", float, "gmae", "0",
             "Weight of the error of the pictures rendered from the nearest 1/8, 1/4 and 1/2 of the Gaussians alone."),
    _Setting("--gradient-weight", float, "gmae", "0",
             "Weight of the error of the differences between neighbouring pixels, which penalises blur."),
    _Setting("--occlusion-gradient", float, "gmae", "0.05",
             "Temperature, in units of depth, of the gradient that depth gets from occlusion; 0 for no such gradient."),
    _Setting("--size-depth-weight", float, "gmae", "0.002",
             "Weight of the prior that Gaussians with large footprints lie behind those with small ones."),
    _Setting("--region-depth-weight", float, "gmae", "0.001",
             "Weight of the prior that large regions of one colour lie behind small ones."),
    _Setting("--camera", click.Choice(["gmae", "orthographic", "pinhole"]), "gmae", "gmae",
             "Camera of the renderer. With gmae, depth shrinks footprints; with pinhole, it also moves centres; with "
             "orthographic, it does neither."),
    _Setting("--normalise-targets", bool, "gmae, mae and r-mae", "",
             "Compare patches after normalising both by mean and standard deviation of the photograph's patch."),
    _Setting("--reconstruction-weight", float, "r-mae", "1",
             "Weight of the error of the pixels decoded from the second view."),
    _Setting("--own-decoder/--shared-decoder", bool, "r-mae", "--own-decoder",
             "Give the second view a decoder of its own, or decode both views with the same one."),
    _Setting("--stop-gradient", bool, "r-mae", "",
             "Treat the decoded second view as a fixed target of the first one."),
    _Setting("--head", click.Choice(["decoder", "light"]), "c-mae", "decoder",
             "Module that computes embeddings: the decoder of MAE, or two layers and mask tokens in the encoder."),
    _Setting("--temperature", float, "c-mae", "0.2", "Temperature of InfoNCE."),
)  # fmt: skip


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `_SETTINGS` to a command, in their order."""
    for setting in reversed(_SETTINGS):
        command = setting.option()(command)
    return command


def _numbers(kind: type) -> Callable[[str], tuple[Any, ...]]:
    """The type of an option such as `0.2,1`, a tuple of numbers of one type."""

    def numbers(text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in text.split(",") if part)
        except ValueError:
            raise click.BadParameter(f"{text!r}: expected numbers separated by commas") from None

    return numbers


_SHARES, _SIDES = _numbers(float), _numbers(int)


@click.command()
@click.option(
    "--data",
    multiple=True,
    required=True,
    metavar="PATH",
    help="Folder tree, photograph, tar shard, glob, or range of shards such as photos-{00..12}.tar; may be repeated.",
)
@click.option("-o", "--out", required=True, metavar="RUN", help="Folder of the run.")
@click.option(
    "--objective",
    type=click.Choice(["gmae", "mae", "r-mae", "c-mae"]),
    default="gmae",
    help="What the model predicts: Gaussians that render the picture (gmae), the pixels of hidden patches (mae), the "
    "same pixels from two complementary views (r-mae), or which two views show the same picture (c-mae).",
)
@click.option(
    "--preset",
    default="tiny",
    help="Configuration of the model: nano, tiny, small, base, or paper. The last one is base with the published "
    "choices for queries, camera, masking, loss, background and optimiser, each of which another option can replace.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the preset, such as queries=128, gaussians_per_query=8, max_scale=1.0, or "
    "query_start=random for queries that start from random numbers instead of on a grid; may be repeated.",
)
@click.option("--samples", default=300_000, help="Number of pictures to train on.")
@click.option("--time-budget", type=float, metavar="MINUTES", help="Train for this time instead of --samples.")
@click.option("--batch-size", default=64, help="Pictures per step, over all processes.")
@click.option(
    "--resolution",
    "resolutions",
    type=_SIDES,
    metavar="PX,...",
    help="Side of the pictures. With several, such as 128,224, the pictures grow during training.  "
    "[default: the image size of the preset]",
)
@click.option(
    "--grow-at",
    type=_SHARES,
    help="Shares of the run after which the second and later resolutions begin.  [default: equal parts]",
)
@click.option(
    "--optimizer",
    type=click.Choice(["muon", "adamw"]),
    default="muon",
    help="Optimiser of the matrices in the transformer blocks. All other parameters are trained by AdamW.",
)
@click.option("--lr", default=1e-3, help="Peak learning rate of AdamW.")
@click.option("--muon-lr", default=0.02, help="Peak learning rate of Muon.")
@click.option("--weight-decay", default=0.05, help="Decoupled weight decay of matrices.")
@click.option("--warmup", default=0.02, help="Share of the run in which the learning rates rise.")
@click.option(
    "--cooldown",
    type=float,
    metavar="SHARE",
    help="Keep the learning rates at their peak until this last share of the run, in which they fall linearly to 0.  "
    "[default: half a cosine over the whole run]",
)
@click.option("--clip", default=1.0, help="Largest norm of the gradient.")
@click.option(
    "--mask-ratio",
    type=_SHARES,
    help="Share of the patches that are hidden. With two numbers, each step samples a share between them.  "
    "[default: 0,0.75 for gmae, 0.75 for the others]",
)
@_setting_options
@click.option(
    "--crop-scale", default="0.2,1", type=_SHARES, help="Smallest and largest share of a photograph in a crop."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "float32"]),
    default="auto",
    help="Arithmetic of the transformer; auto is bf16 where the hardware supports it.",
)
@click.option("--held-out", default=500, help="Photographs that are measured and never trained on; at most a tenth.")
@click.option(
    "--warm-start",
    metavar="MODEL",
    help="Begin with trained weights: those of a checkpoint of the same kind (a GMAE may have fewer blocks, or fewer "
    "Gaussians per query), or the encoder of any other checkpoint, of an official MAE .pth, or of timm:NAME.",
)
@click.option("--seed", default=0, help="Seed of weights, order, crops, masks and backgrounds.")
@click.option("--log-every", default=10, help="Steps between two lines of log.jsonl.")
@click.option("--save-every", default=60.0, help="Seconds between two states to resume from.")
@click.option("--evaluate-every", default=600.0, help="Seconds between two held-out evaluations.")
@click.option("--accumulate", default=1, metavar="N", help="Process every batch in N parts, which takes less memory.")
@click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    help="Compile the transformer blocks with torch.compile; auto does so on a GPU.",
)
@click.option("--shard-mb", type=float, metavar="MB", help="Split checkpoints into files of at most this size.")
@click.option("--resume", is_flag=True, help="Continue the run in --out from its last saved state.")
@cache_option
@device_option
@backend_option
def command(
    data: tuple[str, ...],
    out: str,
    changes: tuple[str, ...],
    device: str,
    resume: bool,
    warm_start: str | None,
    **options: Any,
) -> None:
    """Train a GMAE, or one of the models that it is compared with, on photographs.

    The folder RUN receives the log (log.jsonl), held-out pictures (samples.png) and the newest checkpoint (model/),
    which every --checkpoint option takes. An interrupted run continues with --resume. On several cores or GPUs:
    torchrun --nproc-per-node N -m gmae_tools pretrain ...
    See docs/pretraining.md.
    """
    if len(options["crop_scale"]) != 2:
        raise GmaeToolsError("--crop-scale takes two numbers")
    parsed = dict(map(_parse_change, changes))
    check_sources(data)
    if warm_start is not None and not resume:  # a resumed run has its own weights
        checkpoint_names.check(warm_start)

    from accelerate import PartialState

    from gmae_tools.pretrain.loop import MODEL_FOLDER, Execution, pretrain
    from gmae_tools.system.memory import keep_freed_memory

    config = _config(parsed, options, data=data, warm_start=warm_start)
    execution = Execution(**_of(Execution, options))
    folder = output_folder(out, MODEL_FOLDER, launched=True)
    when_interrupted(f"the same command with --resume continues the run in {folder}")
    keep_freed_memory()
    checkpoint = pretrain(config, folder, resume=resume, device=device, execution=execution)
    if PartialState().is_main_process:
        click.echo(checkpoint)


def _config(changes: dict[str, Any], options: dict[str, Any], **others: Any) -> PretrainConfig:
    """The configuration of a run by the `options` of the command; `changes` replace settings of the model's preset."""
    from gmae_tools.pretrain import paper
    from gmae_tools.pretrain.loop import PretrainConfig
    from gmae_tools.pretrain.objectives import OBJECTIVES
    from gmae_tools.pretrain.optimizers import OptimizerConfig
    from gmae_tools.pretrain.schedule import Schedule

    kind, preset = OBJECTIVES[options["objective"]], options["preset"]
    settings = _settings(kind, options)
    if preset == paper.PRESET:
        settings = _of(kind, paper.OBJECTIVE) | settings
        source, default = click.get_current_context().get_parameter_source, click.core.ParameterSource.DEFAULT
        published = paper.options(options["batch_size"])
        options = options | {name: value for name, value in published.items() if source(name) == default}
    model = kind.model_config.preset(preset, **changes, **_of(kind.model_config, settings))
    resolutions = (model.image_size,) if options["resolutions"] is None else options["resolutions"]
    equal_parts = tuple((i + 1) / len(resolutions) for i in range(len(resolutions) - 1))
    schedule = {
        "resolutions": resolutions,
        "grow_at": options["grow_at"] or equal_parts,
        "time_budget": None if options["time_budget"] is None else 60 * options["time_budget"],
    }
    return PretrainConfig(
        model=model,
        schedule=Schedule(**_of(Schedule, options) | schedule),
        objective=kind(**_of(kind, settings)),
        optimizer=OptimizerConfig(options["optimizer"], options["lr"], options["muon_lr"], options["weight_decay"]),
        **{name: options[name] for name in _RUN_OPTIONS},
        **others,
    )


def _settings(objective: type[Objective], options: dict[str, Any]) -> dict[str, Any]:
    """The settings of an objective, and of its model, that the options set; those of other objectives are refused."""
    from gmae_tools.camera import Camera

    given = [setting for setting in _SETTINGS if options[setting.name] is not None]
    asked = {setting.name: options[setting.name] for setting in given}
    if "camera" in asked:
        asked["camera"] = Camera(asked["camera"])
    known = _of(objective, asked) | _of(objective.model_config, asked)
    alien = [setting.flag for setting in given if setting.name not in known]
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


def _of(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values whose names are fields of a dataclass."""
    return {field.name: values[field.name] for field in fields(kind) if field.name in values}


def _parse_change(text: str) -> tuple[str, int | float | str]:
    """`queries=128` as ("queries", 128). A value that is no number stays a text, which the configuration checks."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise GmaeToolsError(f"--set {text}: expected KEY=VALUE, e.g. queries=128")
    try:
        return name, int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        return name, value
