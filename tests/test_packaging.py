"""What a user gets by installing: every module imports, the console script exists, the wheel is complete."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import gmae_tools
from gmae_tools.cli import main

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(gmae_tools.__path__, "gmae_tools.")
    if not module.name.endswith("__main__")  # runs the command when imported, as it should
)


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name: str) -> None:
    assert importlib.import_module(name).__doc__, "every module says what it is for"


def test_importing_the_package_is_cheap() -> None:
    """Of this package nothing but its head, and of others nothing but the standard library."""
    code = "import sys; before = set(sys.modules); import gmae_tools; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert [name for name in loaded if name.startswith("gmae_tools")] == ["gmae_tools"]
    assert {name.split(".")[0] for name in loaded} <= {"gmae_tools", *sys.stdlib_module_names}


def test_console_script() -> None:
    (script,) = entry_points(group="console_scripts", name="gmae-tools")
    assert script.load() is main


def test_installed_version() -> None:
    assert version("gmae-tools") == gmae_tools.__version__


@pytest.fixture(scope="module")
def wheel_names(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files in a wheel built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=repository, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_has_the_package_and_its_data(repository: Path, wheel_names: set[str]) -> None:
    package = [
        path
        for path in (repository / "gmae_tools").rglob("*")
        if path.suffix in {".py", ".jpg", ".html", ".css", ".js"}
    ]
    assert package
    assert {path.relative_to(repository).as_posix() for path in package} <= wheel_names


def test_wheel_has_the_checkpoints_inside_the_package(repository: Path, wheel_names: set[str]) -> None:
    root = repository / "checkpoints"
    files = [path for path in root.rglob("*") if path.is_file()]
    expected = {f"gmae_tools/_checkpoints/{path.relative_to(root).as_posix()}" for path in files}
    found = {name for name in wheel_names if name.startswith("gmae_tools/_checkpoints/")}
    assert found == expected


def test_wheel_has_nothing_else(wheel_names: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel_names}
    assert top == {"gmae_tools", f"gmae_tools-{gmae_tools.__version__}.dist-info"}
