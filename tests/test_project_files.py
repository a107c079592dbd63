"""What stands beside the code says what is true: citation, changelog, guides for contributors, recipes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import gmae_tools
from tests.reliability.supply import RUNTIME, least_version, normal, requirements

ROOT = Path(__file__).resolve().parents[1]
# Where conda-forge has others than PyPI.
CONDA_NAMES = {"isal": "python-isal", "matplotlib": "matplotlib-base", "torch": "pytorch"}

pytestmark = pytest.mark.skipif(not (ROOT / "CITATION.cff").exists(), reason="needs a checkout")


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_citation_names_the_software_and_the_papers() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["title"] == "gmae-tools" and citation["license"] == "MIT"
    papers = {
        reference["url"].removeprefix("https://arxiv.org/abs/"): reference for reference in citation["references"]
    }
    assert set(papers) == {"2501.03229", "2111.06377", "2208.04164", "2409.06765"}
    for number, reference in papers.items():
        assert {"type": "doi", "value": f"10.48550/arXiv.{number}"} in reference["identifiers"]
        assert reference["title"] and reference["year"] and len(reference["authors"]) >= 2


def test_changelog_has_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+)\](?: - (\d{4}-\d{2}-\d{2}))?$", text, re.MULTILINE)
    assert len(headings) == text.count("\n## ")
    assert headings[0] == ("Unreleased", "") and all(date for _, date in headings[1:])
    assert gmae_tools.__version__ in dict(headings)
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/installing.md"])
def test_files_that_a_guide_names_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"`((?:\.github|conda|checkpoints|docs|evals|gmae_tools|tests)/[\w./-]*)`", text)
    named += [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert named
    missing = [path for path in named if not any((base / path).exists() for base in (ROOT, (ROOT / document).parent))]
    assert not missing


def test_conda_recipe_is_of_this_version_and_asks_for_the_same() -> None:
    recipe = read_yaml("conda/recipe.yaml")
    assert recipe["context"]["version"] == gmae_tools.__version__
    asked = dict(text.split(" >=") for text in recipe["requirements"]["run"])
    needed = {CONDA_NAMES.get(normal(each.name), each.name): least_version(each) for each in requirements()[RUNTIME]}
    assert asked == {"python": "3.10", **needed}


def test_docker_takes_what_the_wheel_is_built_from() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    assert kept == {"checkpoints", "gmae_tools", "constraints.txt", "LICENSE", "pyproject.toml", "README.md"}
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    needed = {normal(each.name) for each in requirements()[RUNTIME]}
    names = [name for line in pinned if line and line[0] != "#" and (name := Requirement(line).name) in needed]
    assert names
    assert all(re.search(rf"\b{name}\b", (ROOT / "Dockerfile").read_text(encoding="utf-8")) for name in names)


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_templates_are_yaml(path: Path) -> None:
    assert isinstance(read_yaml(str(path.relative_to(ROOT))), dict)
