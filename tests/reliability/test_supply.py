"""Licences, bounds and weaknesses of dependencies; and that those that are wrong are noticed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

Requirement = pytest.importorskip("packaging.requirements", reason="needs packaging").Requirement


@pytest.fixture(scope="module")
def supply() -> ModuleType:
    from tests.reliability import supply

    return supply


def test_every_dependency_is_in_the_table_with_a_good_licence(supply: ModuleType) -> None:
    table = supply.read_table(supply.PAGE.read_text(encoding="utf-8"))
    assert {"torch", "numba", "pillow", "gsplat", "pytest"} <= set(table)
    assert list(supply.wrong_licences(supply.packages(), table)) == []


def test_every_dependency_is_bounded_and_what_is_installed_fits(supply: ModuleType) -> None:
    assert list(supply.wrong_bounds(supply.requirements())) == []


def test_what_others_bring_along_is_found(supply: ModuleType) -> None:
    found = {each.name: each for each in supply.packages()}
    assert found["torch"].use == supply.RUNTIME
    assert found["llvmlite"].use == supply.INDIRECT  # by numba
    assert "pysocks" not in found  # by an extra of selenium's urllib3


@pytest.mark.parametrize(
    ("licence", "good"),
    [("MIT", True), ("BSD-3-Clause AND Apache-2.0 WITH LLVM-exception", True), ("GPL-3.0-only", False),
     ("MIT OR GPL-2.0", False), ("", False), ("Proprietary", False)],
)  # fmt: skip
def test_licences_that_will_do(supply: ModuleType, licence: str, good: bool) -> None:
    package = supply.Package("some.thing", supply.RUNTIME, "1.0", licence)
    found = list(supply.wrong_licences([package], {"some-thing": package}))
    assert (found == []) == good


def test_a_table_that_is_not_up_to_date_is_noticed(supply: ModuleType) -> None:
    package = supply.Package("thing", supply.RUNTIME, "1.0", "MIT")
    for table in ({}, {"thing": replace(package, least="0.9")}, {"thing": replace(package, use="extra other")}):
        (line,) = supply.wrong_licences([package], table)
        assert "not so in docs/dependencies.md" in line
    # What is not installed has the licence of the table.
    assert list(supply.wrong_licences([replace(package, licence="")], {"thing": package})) == []


def test_versions_that_are_not_bounded_or_too_old_are_noticed(supply: ModuleType) -> None:
    wanted = {supply.RUNTIME: [Requirement("numpy"), Requirement("torch>=99"), Requirement("pillow<99,>=1.0")]}
    unbounded, too_old = supply.wrong_bounds(wanted)
    assert unbounded.startswith("numpy (runtime)") and too_old.startswith("torch>=99 is asked for")


def test_the_page_is_a_table_of_everything(supply: ModuleType) -> None:
    table = supply.read_table(supply.page())
    assert set(table) >= {supply.normal(each.name) for each in supply.packages()}
    assert all(row.licence for row in table.values())


# --- weaknesses --------------------------------------------------------------------------------------


def pip_audit(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program of that name on the path."""
    program = folder / "pip-audit"
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_weaknesses_are_failures(supply: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"dependencies": [
        {"name": "numpy", "version": "1.0", "vulns": [{"id": "X-1"}, {"id": "X-2"}]},
        {"name": "pillow", "version": "2.0", "vulns": []},
        {"name": "torch", "skip_reason": "unknown"},
    ]}  # fmt: skip
    script = (
        f"import sys\nassert 'numpy==' in sys.stdin.read()\nimport json\nprint(json.dumps({answer!r}))\nsys.exit(1)\n"
    )
    pip_audit(tmp_path, monkeypatch, script)
    outcome = supply.audit(["numpy", "pillow", "torch"], 20.0)
    assert (outcome.times, outcome.failures) == (2, ("numpy 1.0: X-1", "numpy 1.0: X-2"))
    assert outcome.note.startswith("1 more")


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ("print('no network')\n", "cannot be had"),
        ("import time\ntime.sleep(60)\n", "cannot be had"),
        (
            "import json\nprint(json.dumps({'dependencies': [{'name': 'numpy', 'skip_reason': 'x'}]}))\n",
            "cannot be had",
        ),
        (None, "not installed"),
    ],
)
def test_without_data_it_says_so(
    supply: ModuleType, script: str | None, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        pip_audit(tmp_path, monkeypatch, script)
    outcome = supply.audit(["numpy"], 1.0)
    assert (outcome.times, outcome.failures) == (0, ()) and note in outcome.note
