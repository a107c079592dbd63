"""`gmae-tools --version`, and the completion of commands in shells; neither loads torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import gmae_tools
from gmae_tools import checkpoint_names
from gmae_tools.cli import _version, main


def test_names_every_version_and_the_weights() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0, result.output
    first, second, *checkpoints = result.stdout.splitlines()
    assert first == f"gmae-tools, version {gmae_tools.__version__}"
    assert second.startswith(f"torch {importlib.metadata.version('torch')}, Python 3.")
    weights = checkpoint_names.local_path("gmae-tiny") / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert f"checkpoint gmae-tiny, SHA-256 {digest}" in checkpoints


def test_says_so_where_there_is_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(_version.importlib.metadata, "version", missing)
    assert _version.describe_versions()[1].startswith("torch not installed, ")


def test_does_not_load_torch() -> None:
    code = "import sys; from gmae_tools.cli import main; main(['--version'], standalone_mode=False); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("gmae-tools la", "layers"), ("gmae-tools score ", "edges"), ("gmae-tools export --format s", "splat")],
)
def test_shells_complete_commands_options_and_choices(typed: str, expected: str) -> None:
    script = Path(sys.executable).parent / "gmae-tools"
    if not script.exists():
        pytest.skip("needs the console script")
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split(" ")) - 1)}
    environment = os.environ | {"_GMAE_TOOLS_COMPLETE": "bash_complete", **words}
    done = subprocess.run([str(script)], env=environment, capture_output=True, text=True, check=False)
    assert f"plain,{expected}" in done.stdout.splitlines(), done.stderr
