"""`gmae-tools pretrain`: killed, interrupted or shared by two processes, a run keeps its loss curve."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from PIL import Image

from gmae_tools import checkpoints
from gmae_tools.cli import main
from gmae_tools.pretrain import loop

# Twelve steps of 8 pictures, of which the last half are larger; a line of the log every second step.
RUN = [
    "--preset", "nano", "--samples", "96", "--batch-size", "8", "--resolution", "32,48", "--log-every", "2",
    "--save-every", "0", "--precision", "float32", "--device", "cpu",
    "--optimizer", "muon",
]  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Details of a photograph that comes with scikit-image, one of them damaged."""
    folder = tmp_path_factory.mktemp("photographs")
    photo = Image.open(Path(skimage.data_dir) / "astronaut.png").convert("RGB")
    for i in range(11):
        photo.crop((30 * i, 20 * i, 30 * i + 200, 20 * i + 200)).resize((64, 64)).save(folder / f"detail-{i:02}.png")
    os.truncate(folder / "detail-00.png", 3000)
    return folder


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """accelerate keeps its first settings for the life of the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["pretrain", *map(str, arguments)])


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Another process that computes with as many threads as this one, so that it rounds alike."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def losses(out: Path) -> list[tuple[float, ...]]:
    """The loss curve: step, samples, picture size and loss of each line."""
    lines = [json.loads(line) for line in (out / loop.LOG_FILE).read_text().splitlines()]
    return [(line["step"], line["samples"], line["size"], line["loss"]) for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run without interruption."""
    AcceleratorState._reset_state(reset_partial_state=True)
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, invoke("--data", photographs, "--out", out, *RUN)


def test_a_run_prints_its_checkpoint_and_tells_of_skipped_photographs(whole: tuple[Path, Result]) -> None:
    out, result = whole
    assert (result.exit_code, result.stdout) == (0, f"{out / 'model'}\n")
    assert "9 photographs to train on, 1 held out, 1 skipped as unreadable (the first: detail-00.png: " in result.stderr
    assert "images/s" in result.stderr and "psnr " in result.stderr
    assert [line[:3] for line in losses(out)] == [(s, 8 * s, 32 if s <= 6 else 48) for s in (2, 4, 6, 8, 10, 12)]
    assert {path.name for path in out.iterdir()} == {
        "pretrain.json", "log.jsonl", "state.pt", "model", "samples.png"
    }  # fmt: skip
    assert json.loads((out / "model" / "config.json").read_text())["training"]["skipped"] == 1
    model = checkpoints.load(out / "model")
    with torch.no_grad():
        assert model(torch.rand(1, 3, 48, 48)).k == 64


# Dies by kill -9 while it writes the state of step 10: half of it is on disk, the log ahead of the last whole one.
KILLED = """
import os, signal, sys, torch
save = torch.save
def dying_save(state, path):
    if state["step"] == 10:
        path.write_bytes(b"half a state")
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, path)
torch.save = dying_save
from gmae_tools.cli import main
main()
"""


def test_a_killed_run_resumes_with_the_same_loss_curve(
    photographs: Path, whole: tuple[Path, Result], tmp_path: Path
) -> None:
    arguments = ["--data", photographs, "--out", tmp_path / "run", *RUN]
    killed = python("-c", KILLED, "pretrain", *arguments)
    assert killed.returncode == -9, killed.stderr
    assert [line[0] for line in losses(tmp_path / "run")] == [2, 4, 6, 8, 10]
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 8
    resumed = invoke(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert losses(tmp_path / "run") == losses(whole[0])
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (tmp_path / "run", whole[0])]
    assert weights[0] == weights[1]
    assert not list((tmp_path / "run").glob(".*"))  # the half state is gone


SMALL = [
    part for change in ("queries=16", "image_size=32", "patch_size=8", "width=48", "depth=1", "heads=3",
                        "decoder_width=48", "decoder_depth=1", "decoder_heads=3") for part in ("--set", change)
]  # fmt: skip


def test_the_papers_preset_sets_what_was_published(photographs: Path, tmp_path: Path) -> None:
    common = ["--data", photographs, "--preset", "paper", *SMALL, "--samples", 8, "--batch-size", 8, "--resolution",
              32, "--precision", "float32", "--device", "cpu"]  # fmt: skip
    assert invoke(*common, "--out", tmp_path / "run").exit_code == 0
    kept = json.loads((tmp_path / "run" / "pretrain.json").read_text())
    objective, model, optimizer = kept["objective"], kept["model"], kept["optimizer"]
    assert (objective["mask_ratio"], objective["loss_on"], objective["background"]) == ([0.75, 0.75], "masked", "white")
    assert (objective["slot_depth_weight"], objective["error"], objective["whole"]) == (0, "mse", 0)
    assert (model["max_scale"], model["gaussians_per_query"]) == (1, 1)
    assert (model["query_start"], model["rotations"], model["camera"]["shear"]) == ("random", "shoemake", True)
    assert (optimizer["name"], optimizer["lr"], kept["schedule"]["warmup"]) == ("adamw", 1.5e-4 * 8 / 256, 0.1)
    AcceleratorState._reset_state(reset_partial_state=True)
    changed = ["--background", "random", "--lr", 0.001, "--mask-ratio", 0.5]
    assert invoke(*common, "--out", tmp_path / "other", *changed).exit_code == 0
    other = json.loads((tmp_path / "other" / "pretrain.json").read_text())
    assert (other["objective"]["background"], other["objective"]["loss_on"]) == ("random", "masked")
    assert (other["objective"]["mask_ratio"], other["optimizer"]["lr"]) == ([0.5, 0.5], 0.001)
    AcceleratorState._reset_state(reset_partial_state=True)
    others = common[:4] + common[6:]  # which have no queries
    assert invoke(*others, "--out", tmp_path / "mae", "--objective", "mae").exit_code == 0


def interrupt_at(patch: pytest.MonkeyPatch, step: int) -> None:
    train_step = loop._Run._train_step

    def interrupted_step(self: loop._Run, *arguments: Any) -> torch.Tensor:
        if self.step == step:
            raise KeyboardInterrupt
        return train_step(self, *arguments)

    patch.setattr(loop._Run, "_train_step", interrupted_step)


def test_ctrl_c_says_how_to_go_on(photographs: Path, whole: tuple[Path, Result], tmp_path: Path) -> None:
    arguments = ["--data", photographs, "--out", tmp_path / "run", *RUN]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 5)
        result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (130, "")
    assert "interrupted at step 5: the same command with --resume continues from step 4\n" in result.stderr
    assert invoke(*arguments, "--resume").exit_code == 0
    assert losses(tmp_path / "run") == losses(whole[0])


def assert_same_curve(actual: Path, expected: Path) -> None:
    one, other = np.array(losses(expected)), np.array(losses(actual))
    np.testing.assert_array_equal(other[:, :3], one[:, :3])
    np.testing.assert_allclose(other[:, 3], one[:, 3], rtol=1e-4)
    assert np.ptp(one[:, 3]) > 0.1 * one[:, 3].mean()  # of a curve that moves


def test_accumulation_keeps_the_loss_curve_and_resumes_a_run_without(
    photographs: Path, whole: tuple[Path, Result], tmp_path: Path
) -> None:
    arguments = ["--data", photographs, "--out", tmp_path / "run", *RUN]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 5)
        assert invoke(*arguments).exit_code == 130
    assert invoke(*arguments, "--resume", "--accumulate", 4, "--shard-mb", 0.15).exit_code == 0
    assert_same_curve(tmp_path / "run", whole[0])
    shards = list((tmp_path / "run" / "model").glob("model-*-of-*.safetensors"))
    assert len(shards) > 1 and max(shard.stat().st_size for shard in shards) <= 150_000
    assert checkpoints.load(tmp_path / "run" / "model").config == checkpoints.load(whole[0] / "model").config


def test_two_processes_have_the_loss_curve_of_one(
    photographs: Path, whole: tuple[Path, Result], tmp_path: Path
) -> None:
    """To rounding, which differs because each process adds up its half of a batch first; with all parts of the loss."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    arguments = ["--data", photographs, "--out", tmp_path / "run", *RUN, "--accumulate", 2]
    done = python(*torchrun, "-m", "gmae_tools", "pretrain", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run' / 'model'}\n"  # said once
    assert_same_curve(tmp_path / "run", whole[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "no-such-folder"], "no-such-folder"),
        (["--preset", "huge"], "preset 'huge' is unknown: use one of nano, tiny, small, base"),
        (["--set", "queries"], "--set queries: expected KEY=VALUE"),
        (["--set", "queries="], "--set queries=: expected KEY=VALUE"),
        (["--set", "queries=many"], "queries is 'many', must be a whole number above 0"),
        (["--set", "query_start=circle"], "query_start is 'circle', must be grid or random"),
        (["--set", "camera=pinhole"], "camera is 'pinhole', must be a Camera"),
        (["--set", "queries=2.5"], "queries is 2.5, must be a whole number above 0"),
        (["--set", "wdith=3"], "wdith"),
        (["--set", "name=3"], "name"),
        (["--mask-ratio", "0.5,0.6,0.7"], "--mask-ratio takes one or two numbers"),
        (["--mask-ratio", ""], "--mask-ratio takes one or two numbers"),
        (["--mask-ratio", "0.99"], "masking ratio 0.99..0.99: must lie within 0..0.95"),
        (["--crop-scale", "0.5"], "--crop-scale takes two numbers"),
        (["--resolution", "100"], "resolution 100 is not a multiple of the patch size 16"),
        (["--resolution", ""], "at least one resolution"),
        (["--grow-at", "0.5,0.6"], "2 resolutions need 1 values of grow-at"),
        (["--time-budget", "0"], "positive time budget"),
        (["--samples", "0"], "positive number of samples"),
        (["--accumulate", "3"], "batch size 8 cannot be shared by 1 processes x 3 accumulated parts"),
        (["--accumulate", "0"], "batch size 8 cannot be shared"),
        (["--backend", "gsplat"], "gsplat renders on a CUDA GPU"),
        (["--device", "abacus"], "device 'abacus' is not available here"),
        (["--warm-start", "no-such.pth"], "no-such.pth: no such file"),
    ],
    ids=lambda value: "-" if isinstance(value, str) else " ".join(value),
)
def test_bad_input_ends_in_one_line(photographs: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    data = [] if "--data" in arguments else ["--data", photographs]
    result = invoke(*data, "--out", tmp_path / "run", *RUN, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert result.stderr.endswith(f"{errors[0]}\n") and "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "pretrain.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--mask-ratio", "half"], ["--optimizer", "sgd"], ["--samples", "x"], ["--out"], ["--loss-on", "none"]],
)
def test_wrong_usage_exits_with_2(photographs: Path, tmp_path: Path, arguments: list[str]) -> None:
    assert invoke("--data", photographs, "--out", tmp_path / "run", *arguments).exit_code == 2


def test_only_unreadable_photographs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").write_text("not a photograph")
    result = invoke("--data", tmp_path / "data", "--out", tmp_path / "run", *RUN)
    assert result.exit_code == 1
    assert "error: none of 1 photographs can be read; the first: a.jpg: " in result.stderr


def test_out_is_a_file(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    result = invoke("--data", photographs, "--out", tmp_path / "run", *RUN)
    assert result.exit_code == 1 and result.stderr.startswith("error: --out ")
    assert (tmp_path / "run").read_text() == "mine"


def test_options_reach_the_configuration(photographs: Path, tmp_path: Path) -> None:
    """All options at values that are not their defaults, as they are kept in `pretrain.json`."""
    arguments = [
        "--preset", "nano", "--set", "queries=9", "--set", "max_scale=1.5", "--set", "query_start=random",
        "--samples", "8", "--batch-size", "4",
        "--resolution", "32,48,64", "--grow-at", "0.5,0.6", "--optimizer", "adamw", "--lr", "0.002",
        "--muon-lr", "0.01", "--weight-decay", "0.1", "--warmup", "0.3", "--cooldown", "0.4", "--clip", "0.5",
        "--mask-ratio", "0.75", "--loss-on", "masked",
        "--background", "white", "--slot-depth-weight", "0.5", "--whole", "0.25", "--error", "psnr",
        "--nested-weight", "0.125", "--gradient-weight", "0.75", "--crop-scale", "0.3,0.9", "--precision", "float32",
        "--occlusion-gradient", "0.02", "--size-depth-weight", "0.004", "--region-depth-weight", "0.005",
        "--camera", "orthographic",
        "--held-out", "0", "--seed", "7", "--log-every", "1", "--save-every", "5", "--evaluate-every", "6",
        "--device", "cpu",
    ]  # fmt: skip
    result = invoke("--data", photographs, "--data", photographs, "--out", tmp_path / "run", *arguments)
    assert result.exit_code == 0, result.stderr
    kept = json.loads((tmp_path / "run" / "pretrain.json").read_text())
    assert (kept["model"]["queries"], kept["model"]["max_scale"], kept["model"]["width"]) == (9, 1.5, 48)
    assert kept["model"]["query_start"] == "random" and kept["model"]["camera"]["kind"] == "orthographic"
    assert kept["schedule"] == {
        "samples": 8, "time_budget": None, "warmup": 0.3, "resolutions": [32, 48, 64], "grow_at": [0.5, 0.6],
        "cooldown": 0.4,
    }  # fmt: skip
    assert kept["objective"] == {
        "name": "gmae", "mask_ratio": [0.75, 0.75], "whole": 0.25, "error": "psnr", "loss_on": "masked",
        "background": "white", "slot_depth_weight": 0.5, "nested_weight": 0.125, "gradient_weight": 0.75,
        "occlusion_gradient": 0.02, "size_depth_weight": 0.004, "region_depth_weight": 0.005,
        "normalise_targets": False,
    }  # fmt: skip
    assert kept["optimizer"] == {"name": "adamw", "lr": 0.002, "muon_lr": 0.01, "weight_decay": 0.1}
    rest = {name: kept[name] for name in kept.keys() - {"model", "schedule", "objective", "optimizer"}}
    assert rest == {
        "data": [str(photographs)] * 2, "batch_size": 4, "crop_scale": [0.3, 0.9], "clip": 0.5, "precision": "float32",
        "held_out": 0, "warm_start": None, "seed": 7, "log_every": 1, "save_every": 5.0, "evaluate_every": 6.0,
    }  # fmt: skip
    assert "no photographs are held out" in result.stderr


@pytest.mark.parametrize(("changes", "size"), [([], 64), (["--set", "image_size=32"], 32)])
def test_pictures_have_the_size_of_the_preset(photographs: Path, tmp_path: Path, changes: list[str], size: int) -> None:
    arguments = ["--preset", "nano", "--samples", "8", "--batch-size", "8", "--device", "cpu", *RUN[-2:], *changes]
    result = invoke("--data", photographs, "--out", tmp_path / "run", *arguments)
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "run" / "pretrain.json").read_text())["schedule"]["resolutions"] == [size]


def test_runs_share_their_decoded_photographs_and_say_where_they_are(photographs: Path, tmp_path: Path) -> None:
    moved, cache = tmp_path / "moved", tmp_path / "cache"
    shutil.copytree(photographs, moved)
    arguments = ["--preset", "nano", "--samples", "8", "--batch-size", "8", "--device", "cpu", *RUN[-2:]]
    said = []
    for number, (data, place) in enumerate([(photographs, ["--cache", cache]), (moved, ["--cache", cache])]):
        result = invoke("--data", data, "--out", tmp_path / f"run-{number}", *arguments, *place)
        assert result.exit_code == 0, result.stderr
        said += [line for line in result.stderr.splitlines() if "of decoded photographs" in line]
    (file,) = cache.glob("photos-*.cache")
    assert said == [f"0.1 MB of decoded photographs {how}: {file}" for how in ("made", "used again")]


def test_no_room_for_decoded_photographs_is_one_line(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    result = invoke("--data", photographs, "--out", tmp_path / "run", *RUN, "--cache", tmp_path / "cache")
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 1 and line.startswith(f"error: {tmp_path / 'cache'}: cannot write")
    assert line.endswith("name another folder with --cache or GMAE_TOOLS_CACHE")


def test_fewer_held_out_than_asked_for_are_told(photographs: Path, tmp_path: Path) -> None:
    result = invoke("--data", photographs, "--out", tmp_path / "run", *RUN, "--held-out", "4", "--samples", "8")
    assert result.exit_code == 0, result.stderr
    assert "; at most a tenth of all is held out, so not 4\n" in result.stderr
