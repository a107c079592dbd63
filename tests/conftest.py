"""What several test modules share."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# The first call of a numba kernel compiles it, which no deadline per example allows for.
settings.register_profile("gmae-tools", parent=settings.default, deadline=None)
settings.load_profile("gmae-tools")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_photographs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded photographs of the tests do not stay in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GMAE_TOOLS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled_kernels() -> None:
    """Several processes that run the tests compile the kernels together, each another part of them."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        from tests.kernels import CALLS

        for call in CALLS[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]:
            call()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout the tests run in."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(repository: Path) -> Path:
    """The research data beside the checkout; the test is skipped where it is missing."""
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the research data in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano model whose Gaussians differ from each other and from picture to picture."""
    import torch

    from gmae_tools import checkpoints
    from gmae_tools.model import GMAE, GMAEConfig

    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano", max_scale=6.0))
    torch.nn.init.normal_(model.decoder.head.weight, std=0.4)
    folder = tmp_path_factory.mktemp("checkpoints") / "nano-random"
    checkpoints.save(model, folder)
    return folder


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No progress on stderr, however slow the machine is; tests of progress set their own patience."""
    monkeypatch.setattr("gmae_tools.cli._progress.PATIENCE", 3600.0)


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """The package, whatever torchvision is beside it, and whichever test comes first."""
    from gmae_tools.system.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    return importlib.import_module("timm")


@pytest.fixture(scope="session")
def pieces(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, its weights in several files."""
    from gmae_tools import checkpoints

    folder = tmp_path_factory.mktemp("checkpoints") / "nano-pieces"
    checkpoints.save(checkpoints.load(checkpoint), folder, max_shard_mb=0.2)
    assert not (folder / checkpoints.WEIGHTS_FILE).exists()
    return folder


def pytest_configure() -> None:
    """Let commands be interrupted even if the tests run in the background, where a shell has them ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `cuda` on a machine without a CUDA GPU."""
    marked = [item for item in items if "cuda" in item.keywords]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
