"""What this package is built on: licences, bounds of versions, known weaknesses.

- Licences: those of all packages that `pip install gmae-tools` brings, directly or through others, and of those that
  its extras and its developers ask for, as far as they are installed here, from their own metadata. Each has to be one
  that is known to be permissive, or weakly protective (MPL-2.0), and to stand in docs/dependencies.md.
- Bounds: each dependency in pyproject.toml names the oldest version that will do, and what is installed is not older.
- Weaknesses: `pip-audit` asks for those of what is installed, where it is installed and its data can be had.

The table of docs/dependencies.md is written by

    python -m tests.reliability.supply

What is not installed where that is run keeps the licence that the table has.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from packaging.requirements import Requirement

from tests.reliability.outcome import Outcome, TimeBox

ROOT = Path(__file__).resolve().parents[2]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PART = "supply"
PAGE = ROOT / "docs" / "dependencies.md"
RUNTIME, INDIRECT, DEVELOPERS = "runtime", "through others", "developers"
GOOD = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "LLVM-exception",
    "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
}  # fmt: skip

# Where no licence expression is given (PEP 639): what classifiers and older fields mean.
_MEANINGS = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "FreeBSD": "BSD-2-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_EXPRESSION = re.compile(r"[A-Za-z0-9.-]+( (AND|OR|WITH) [A-Za-z0-9.-]+)*")
_ROW = re.compile(r"\| \[(?P<name>[\w.-]+)\]\(\S+\) \| (?P<licence>[^|]*) \| (?P<use>[^|]+) \| (?P<least>[^|]*) \|")
_CUDA = ("nvidia-", "cuda-")  # what PyTorch's builds for CUDA bring, under licences of NVIDIA's, as the page says
_SECONDS = 120  # that an audit may take


@dataclass(frozen=True)
class Package:
    """A line of the table: its name, what it is there for, the oldest version allowed, and its licence."""

    name: str
    use: str
    least: str
    licence: str = ""


def normal(name: str) -> str:
    """A package's name as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for by use: runtime, each extra, developers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {f"extra {name}": texts for name, texts in project["optional-dependencies"].items() if name != "dev"}
    uses = {RUNTIME: project["dependencies"], **extras, DEVELOPERS: project["optional-dependencies"]["dev"]}
    return {use: [Requirement(text) for text in texts] for use, texts in uses.items()}


def least_version(requirement: Requirement) -> str:
    """The oldest version that a requirement allows, empty if it names none."""
    return next((part.version for part in requirement.specifier if part.operator in (">=", "==")), "")


def packages() -> list[Package]:
    """Everything that pyproject.toml asks for, once, and what that brings along, with licences as far as known here."""
    found: dict[str, Package] = {}
    for use, wanted in requirements().items():
        for each in wanted:
            found.setdefault(normal(each.name), Package(each.name, use, least_version(each)))
    for each in requirements()[RUNTIME]:
        for name in sorted(name for name in brought_along(each) if not name.startswith(_CUDA)):
            found.setdefault(name, Package(name, INDIRECT, ""))
    return [replace(package, licence=licence_of(package.name)) for package in found.values()]


def brought_along(requirement: Requirement, known: set[str] | None = None) -> set[str]:
    """Names of what a requirement brings along, itself included, as far as it is installed here."""
    known = set() if known is None else known
    name = normal(requirement.name)
    distribution = find(name)
    if name in known or distribution is None:
        return known
    known.add(name)
    for text in distribution.requires or []:
        further = Requirement(text)
        if further.marker is None or any(further.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
            brought_along(further, known)
    return known


def find(name: str) -> Distribution | None:
    """What is installed under a name."""
    try:
        return importlib.metadata.distribution(name)
    except PackageNotFoundError:
        return None


def licence_of(name: str) -> str:
    """The licence of an installed package as an expression, empty if its metadata do not say it in a few words."""
    distribution = find(name)
    if distribution is None:
        return ""
    about = distribution.metadata
    classifiers = [text.rpartition(" :: ")[2] for text in about.get_all("Classifier") or [] if "License ::" in text]
    expression, short = ("".join(about.get_all(field) or []) for field in ("License-Expression", "License"))
    known = [_MEANINGS[text] for text in (*classifiers, short) if text in _MEANINGS]
    candidates = [expression, short, *known]
    return next((text for text in candidates if _EXPRESSION.fullmatch(text) and _is_good(text)), candidates[0])


def _is_good(expression: str) -> bool:
    return bool(expression) and set(re.split(r" (?:AND|OR|WITH) ", expression)) <= GOOD


# --- the page ----------------------------------------------------------------------------------------

_INTRODUCTION = """\
# What this package is built on

`pip install gmae-tools` brings the packages marked {runtime}, which bring others; extras (`gmae-tools[cuda]`, ...)
bring more. Licences are as their own metadata name them. None of this code is copied into the package. Wheels may hold
further libraries with licences of their own: PyTorch's for CUDA come with NVIDIA's, pillow-heif's with libheif and
libde265 (LGPL) and the encoder x265 (GPL), which nothing here uses.

| package | licence | needed for | at least |
|---|---|---|---|
"""


def page() -> str:
    """docs/dependencies.md."""
    before = read_table(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    order = [*requirements(), INDIRECT]
    rows = []
    for each in sorted(packages(), key=lambda each: (order.index(each.use), normal(each.name))):
        old = before.get(normal(each.name))
        licence = each.licence or (old.licence if old else "")
        rows.append(
            f"| [{each.name}](https://pypi.org/project/{each.name}/) | {licence} | {each.use} | {each.least} |\n"
        )
    return _INTRODUCTION.format(runtime=RUNTIME) + "".join(rows)


def read_table(text: str) -> dict[str, Package]:
    """The lines of the table by normal names."""
    rows = (Package(row["name"], row["use"], row["least"], row["licence"]) for row in _ROW.finditer(text))
    return {normal(row.name): row for row in rows}


# --- the part ----------------------------------------------------------------------------------------


def campaign(box: TimeBox, seed: int, data: Path | None) -> Iterator[Outcome]:
    """Licences, bounds, weaknesses."""
    table = read_table(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    everything = packages()
    installed = [each for each in everything if find(each.name)]
    note = f"{len(installed)} of {len(everything)} are installed here"
    yield Outcome(PART, "licences of dependencies", len(everything), tuple(wrong_licences(everything, table)), note)
    yield Outcome(PART, "bounds of versions", len(everything), tuple(wrong_bounds(requirements())))
    yield audit([each.name for each in installed], min(_SECONDS, box.left()))


def wrong_licences(everything: list[Package], table: Mapping[str, Package]) -> Iterator[str]:
    """What lacks a licence that is known to be good, or its place in the table."""
    for each in everything:
        row = table.get(normal(each.name))
        licence = each.licence or (row.licence if row else "")
        if not _is_good(licence):
            yield f"{each.name} ({each.use}): its licence is {licence or 'unknown'}"
        if each.use == INDIRECT:
            continue  # which of them there are depends on the versions of the others
        if row is None or (row.use, row.least) != (each.use, each.least):
            yield f"{each.name} ({each.use}, at least {each.least}) is not so in docs/dependencies.md: write it anew"


def wrong_bounds(wanted: Mapping[str, list[Requirement]]) -> Iterator[str]:
    """What names no oldest version, and what is installed in a version that is not allowed."""
    for use, each in ((use, each) for use, requirements in wanted.items() for each in requirements):
        if not least_version(each):
            yield f"{each.name} ({use}) may be as old as it likes"
        distribution = find(each.name)
        if distribution and not each.specifier.contains(distribution.version, prereleases=True):
            yield f"{each} is asked for, {distribution.version} is installed"


def audit(names: list[str], seconds: float) -> Outcome:
    """Known weaknesses of installed packages, by pip-audit."""
    tried = "known weaknesses of what is installed"
    program = shutil.which("pip-audit")
    if not program:
        return Outcome(PART, tried, 0, (), "pip-audit is not installed")
    asked = "".join(f"{name}=={_public_version(name)}\n" for name in names)
    options = ["--requirement", "/dev/stdin", "--no-deps", "--disable-pip", "--timeout", "20"]
    options += ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [program, *options], input=asked, capture_output=True, text=True, timeout=max(1.0, seconds), check=False
        )
        answers = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return Outcome(PART, tried, 0, (), "pip-audit's data cannot be had here")
    return audited(answers)


def audited(answers: list[dict[str, object]]) -> Outcome:
    """What pip-audit says about each package."""
    tried = "known weaknesses of what is installed"
    known = [answer for answer in answers if "vulns" in answer]
    failures = tuple(
        f"{answer['name']} {answer['version']}: {weakness['id']}"
        for answer in known
        for weakness in answer["vulns"]  # type: ignore[attr-defined]
    )
    if not known:
        return Outcome(PART, tried, 0, (), "pip-audit's data cannot be had here")
    return Outcome(PART, tried, len(known), failures, f"{len(answers) - len(known)} more are unknown to pip-audit")


def _public_version(name: str) -> str:
    """The version without what a build adds to it, such as `+cpu`."""
    return importlib.metadata.version(name).partition("+")[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
