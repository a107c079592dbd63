"""What commands import: a slow module that a command does not need is an error. Each runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "accelerate", "cv2", "huggingface_hub.hf_api", "matplotlib", "pandas", "scipy.ndimage", "scipy.special",
    "scipy.stats", "skimage", "sympy", "timm", "torch._dynamo", "torchvision", "viser",
}  # fmt: skip
NEEDED = {
    "layers": {"huggingface_hub.hf_api"},
    "reconstruct": {"huggingface_hub.hf_api"},
    "export": {"huggingface_hub.hf_api", "scipy.special"},  # for rotations
    "edges": {"huggingface_hub.hf_api", "scipy.ndimage", "scipy.special", "skimage"},
    "segment": {"huggingface_hub.hf_api", "scipy.ndimage", "scipy.special", "skimage"},
    "view": {"huggingface_hub.hf_api", "scipy.ndimage", "scipy.special", "skimage"},
    "density": {"huggingface_hub.hf_api", "matplotlib", "scipy.ndimage", "scipy.special", "scipy.stats"},
}
# What some versions of libraries import however they are used: torch 2.6 sympy, scikit-image 0.24 matplotlib.
ON_THEIR_OWN = {
    "torch": ("import torch; torch.zeros(1, device='meta')", {"sympy"}),
    "skimage": ("import skimage.segmentation", {"matplotlib"}),
}
CODE = """
import json, sys
{code}
print("\\n" + json.dumps(sorted({heavy!r} & set(sys.modules))))
"""


def imported(code: str, folder: Path, repository: Path) -> set[str]:
    """The heavy modules that are imported once some code has run."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(code=code, heavy=HEAVY)],
        env={**os.environ, "PYTHONPATH": str(repository)}, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def on_their_own(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, set[str]]:
    """What each library imports here without this package."""
    folder = tmp_path_factory.mktemp("libraries")
    return {name: imported(code, folder, repository) & known for name, (code, known) in ON_THEIR_OWN.items()}


@pytest.mark.parametrize("command", list(NEEDED))
def test_a_command_imports_no_more_than_it_needs(
    command: str, checkpoint: Path, tmp_path: Path, repository: Path, on_their_own: dict[str, set[str]]
) -> None:
    photo = repository / "gmae_tools" / "assets" / "demo.jpg"
    arguments = [command, str(photo), "-o", "out", "--checkpoint", str(checkpoint)]
    code = f"from gmae_tools.cli import main; main({arguments!r}, standalone_mode=False)"
    brought = (modules for name, modules in on_their_own.items() if name in {"torch", *NEEDED[command]})
    assert imported(code, tmp_path, repository) <= NEEDED[command].union(*brought)


def test_the_model_imports_nothing_heavy_but_the_hub(tmp_path: Path, repository: Path) -> None:
    assert imported("import gmae_tools.model", tmp_path, repository) <= {"huggingface_hub.hf_api"}


def test_the_command_line_itself_imports_not_even_torch(tmp_path: Path, repository: Path) -> None:
    code = "import gmae_tools.cli, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    assert not imported(code, tmp_path, repository)


@pytest.mark.parametrize("chosen", [None, "2"])
def test_small_matrices_take_one_thread_unless_the_user_wants_more(
    chosen: str | None, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if chosen:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", chosen)
    code = f"import gmae_tools.cli, os; assert os.environ['OPENBLAS_NUM_THREADS'] == {chosen or '1'!r}"
    imported(code, tmp_path, repository)


@pytest.mark.parametrize("command", ["layers", "segment", "edges", "reconstruct"])
def test_what_torch_makes_is_spared_by_the_collector_of_garbage(
    command: str, checkpoint: Path, tmp_path: Path, repository: Path
) -> None:
    photo = repository / "gmae_tools" / "assets" / "demo.jpg"
    arguments = [command, str(photo), "-o", "out", "--checkpoint", str(checkpoint)]
    code = f"""
import gc, sys
seen = []
def watch(phase, info):
    seen.append("torch" in sys.modules and "torch._meta_registrations" not in sys.modules)
gc.callbacks.append(watch)
from gmae_tools.cli import main
main({arguments!r}, standalone_mode=False)
assert gc.isenabled() and gc.get_freeze_count() > 50_000
assert seen and not any(seen), "garbage was collected while torch was imported"
"""
    imported(code, tmp_path, repository)
