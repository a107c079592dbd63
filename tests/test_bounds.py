"""Bounds of dependencies: as wide as what works, so that installing this package turns no other package back."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.reliability.supply import RUNTIME, least_version, normal, requirements

# What others ask for of the packages that this one needs, by their metadata on PyPI, read on 2026-11-28.
NEIGHBOURS = {
    "gradio==5.50.0": [
        "huggingface-hub<2.0,>=0.33.5", "jinja2<4.0", "numpy<3.0,>=1.0", "pandas<3.0,>=1.0", "pillow<12.0,>=8.0",
    ],
    "gradio==6.31.0": [
        "huggingface-hub<3.0,>=1.16.0", "jinja2<4.0", "numpy<3.0,>=1.0", "pandas<4.0,>=1.0", "pillow<13.0,>=8.0",
    ],
    "nerfstudio==1.1.5": [
        "matplotlib>=3.6.0", "Pillow>=10.3.0", "scikit-image>=0.19.3", "timm==0.6.7", "torch>=1.13.1",
        "torchvision>=0.14.1",
    ],
}  # fmt: skip
# Its other packages are built for these versions of Python alone.
PYTHON = {"gradio==5.50.0": "3.13", "gradio==6.31.0": "3.13", "nerfstudio==1.1.5": "3.10"}

# The bounds that the package was tried at; what is told apart in constraints-oldest.txt says why.
OLDEST = Path(".github/constraints-oldest.txt")


def ours() -> dict[str, Requirement]:
    """What the package needs, by name."""
    return {normal(each.name): each for each in requirements()[RUNTIME]}


@pytest.mark.parametrize(("neighbour", "asked"), NEIGHBOURS.items(), ids=NEIGHBOURS)
def test_there_is_a_version_that_suits_both(neighbour: str, asked: list[str]) -> None:
    for text in asked:
        theirs = Requirement(text)
        needed = ours()[normal(theirs.name)].specifier
        both = needed & theirs.specifier
        assert any(both.contains(part.version) for part in both), f"{neighbour} asks for {theirs}, we for {needed}"


def test_nothing_that_is_needed_is_bounded_above() -> None:
    assert all(part.operator == ">=" for each in ours().values() for part in each.specifier)


def test_the_oldest_versions_that_ci_tries_are_the_bounds(repository: Path) -> None:
    lines = [line.partition("#") for line in (repository / OLDEST).read_text(encoding="utf-8").splitlines()]
    tried = {normal(Requirement(text).name): (Requirement(text), remark) for text, _, remark in lines if text.strip()}
    for name, needed in ours().items():
        oldest, remark = tried[name]
        least, bound = Version(least_version(oldest)), Version(least_version(needed))
        assert least == bound or (remark and least > bound), f"{oldest} is tried, not {needed}"


@pytest.mark.slow
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_all_resolve_together(neighbour: str, repository: Path, tmp_path: Path) -> None:
    """With the whole index, where there is one: metadata are read, nothing is installed."""
    if find_spec("uv") is None:
        pytest.skip("needs uv")
    wanted = tmp_path / "requirements.in"
    wanted.write_text("\n".join([neighbour, *(str(each) for each in ours().values())]), encoding="utf-8")
    resolve = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    resolve += ["--python-version", PYTHON[neighbour], "--python-platform", "x86_64-unknown-linux-gnu", str(wanted)]
    try:
        done = subprocess.run(resolve, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("needs an index of packages that answers")
    if done.returncode and re.search("Failed to fetch|error sending request|dns error|timed out|offline", done.stderr):
        pytest.skip("needs an index of packages")
    assert done.returncode == 0, done.stderr
    assert neighbour in done.stdout.splitlines()
