"""A library call leaves its process as it was; what a command does to its process ends with the command."""

from __future__ import annotations

import copy
import gc
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from PIL import Image, ImageFile, PngImagePlugin

from gmae_tools import checkpoints
from gmae_tools.cli import main
from gmae_tools.datasets.photos import PhotoStore
from gmae_tools.images import read_image
from gmae_tools.model import GMAEConfig
from gmae_tools.pretrain.loop import PretrainConfig, pretrain
from gmae_tools.pretrain.optimizers import OptimizerConfig
from gmae_tools.pretrain.schedule import Schedule
from gmae_tools.system.processes import in_processes
from gmae_tools.system.untrusted import is_protected, protected


def state_of_process() -> dict[str, Any]:
    """What a library has no business to change."""
    gc.collect()  # files whose last reference is gone
    descriptors = Path("/proc/self/fd")
    places = {number: os.readlink(descriptors / number) for number in os.listdir(descriptors) if int(number) <= 2}
    limits = (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_STACK)
    return {
        "descriptors": places,
        "limits": [resource.getrlimit(each) for each in limits],
        "signals": {each: signal.getsignal(each) for each in signal.valid_signals()},
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "hooks": (sys.unraisablehook, sys.excepthook, sys.stdout, sys.stderr),
        "warnings": copy.copy(warnings.filters),
        "handlers": [list(logging.getLogger(name).handlers) for name in ("", "PIL")],
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK),
        "folder": os.getcwd(),
        "torch": (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
            torch.serialization.get_safe_globals(),
        ),
        "numpy": np.geterr(),
    }


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Photographs of several formats, some of them damaged."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for name in ("a.png", "b.jpg", "c.tif", "d.webp"):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(pixels).save(folder / "damaged.tif", compression="tiff_lzw")
    data = bytearray((folder / "damaged.tif").read_bytes())
    data[200:300] = b"\xff" * 100
    (folder / "damaged.tif").write_bytes(data)
    return folder


def train(folder: Path) -> None:
    config = PretrainConfig(
        (str(folder),), GMAEConfig.preset("nano", image_size=32), Schedule(16, resolutions=(32,)),
        batch_size=8, optimizer=OptimizerConfig("adamw"), held_out=1, precision="float32",
    )  # fmt: skip
    pretrain(config, folder / "run", device="cpu")


CALLS: dict[str, Callable[[Path, Path], object]] = {
    "read_image": lambda folder, _: [read_image(folder / name, max_pixels=1 << 28) for name in ("a.png", "c.tif")],
    "PhotoStore.open": lambda folder, _: PhotoStore.open([folder], folder / "cache", progress=False),
    "checkpoints.load": lambda _, checkpoint: checkpoints.load(checkpoint),
    "pretrain": lambda folder, _: train(folder),
}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", CALLS)
def test_a_library_call_changes_nothing_in_its_process(name: str, photographs: Path, checkpoint: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    before, random = state_of_process(), torch.get_rng_state()
    CALLS[name](photographs, checkpoint)
    assert state_of_process() == before
    assert not is_protected()
    if name == "pretrain":
        assert torch.equal(torch.get_rng_state(), random), "although a run has a seed"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_command_leaves_its_process_as_it_was(photographs: Path, checkpoint: Path, tmp_path: Path) -> None:
    before = state_of_process()
    arguments = ["layers", str(photographs), "-o", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1 and "damaged.tif: damaged picture" in result.stderr
    assert state_of_process() == before


def protected_here(_: int) -> bool:
    return is_protected()


def test_workers_of_a_command_are_protected() -> None:
    assert list(in_processes(protected_here, range(2), 1, 1)) == [False, False]
    with protected():
        assert list(in_processes(protected_here, range(2), 1, 1)) == [True, True]
