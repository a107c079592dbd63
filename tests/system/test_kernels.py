"""Kernels are compiled once: where the cache lies, and what makes it stale. Each case is a small package of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNEL = """
from gmae_tools.system.kernels import is_compiled, kernel
import factor

@kernel(depends_on=[factor])
def double(x):
    return x * factor.FACTOR
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "twice.py").write_text(KERNEL)
    (tmp_path / "factor.py").write_text("FACTOR = 2\n")
    return tmp_path


def run(package: Path, **environment: str) -> str:
    """Whether the kernel was compiled before, its answer, and how often it came from the cache."""
    hits = "sum(twice.double.stats.cache_hits.values())"
    code = f"import twice; print(twice.is_compiled(twice.double), twice.double(21), {hits})"
    repository = Path(__file__).resolve().parents[2]
    known = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env=known | {"PYTHONPATH": f"{package}{os.pathsep}{repository}"} | environment,
        cwd=package, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_kernel_is_compiled_once_and_again_when_what_it_depends_on_changes(package: Path) -> None:
    assert run(package) == "False 42 0"
    assert run(package) == "True 42 1"
    (package / "factor.py").write_text("FACTOR = 3\n")
    assert run(package) == "False 63 0"
    assert run(package) == "True 63 1"


def test_beside_a_read_only_package_the_cache_is_the_users(package: Path, tmp_path: Path) -> None:
    (package / "__pycache__").write_text("in the way of a folder, as permissions would be")
    home = {"XDG_CACHE_HOME": str(tmp_path / "user"), "HOME": str(tmp_path / "user")}
    assert run(package, **home) == "False 42 0"
    assert run(package, **home) == "True 42 1"
    assert list((tmp_path / "user").rglob("twice.double_*.nbi"))


def test_without_any_folder_it_is_compiled_in_every_process(package: Path) -> None:
    (package / "__pycache__").write_text("in the way")
    home = {"XDG_CACHE_HOME": "/dev/null/cache", "HOME": "/dev/null"}
    assert run(package, **home) == run(package, **home) == "False 42 0"
