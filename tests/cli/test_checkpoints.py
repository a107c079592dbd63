"""`gmae-tools checkpoints`: what is listed, exported and uploaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gmae_tools import checkpoints
from gmae_tools.cli import main
from gmae_tools.system.torchvision_ops import ensure_torchvision


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["checkpoints", *map(str, arguments)])


def test_lists_what_came_along_and_what_is_named(checkpoint: Path) -> None:
    listed = json.loads(call("list", "--format", "json").stdout)
    tiny = next(row for row in listed if row["name"] == "gmae-tiny")
    assert tiny == {
        "name": "gmae-tiny", "model": "GMAE", "image_size": 224, "encoder": "6 x 192, patch 16",
        "parameters": 4689742, "samples": 39712,
    }  # fmt: skip
    (row,) = json.loads(call("list", checkpoint, "--format", "json").stdout)
    assert row["image_size"] == 64 and row["samples"] is None
    assert call("list", "nowhere").stderr.startswith("error: no checkpoint 'nowhere'")


def test_export_prints_a_program_that_loads(checkpoint: Path, tmp_path: Path) -> None:
    """In a new process, where nothing has made up for a torchvision that does not fit this torch."""
    out = tmp_path / "new folder" / "encoder.safetensors"
    result = call("export", "--timm", checkpoint, "-o", out)
    assert result.exit_code == 0, result.output
    assert "encoder = timm.create_model('vit_" in result.stdout and str(out) in result.stdout
    assert ("ensure_torchvision" in result.stdout) == (not ensure_torchvision())
    code = f"{result.stdout}\nprint(encoder.cls_token.flatten()[:4].tolist())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = checkpoints.load_any(checkpoint).encoder.cls_token.flatten()[:4].tolist()
    assert json.loads(done.stdout) == pytest.approx(expected)


def test_export_refuses(checkpoint: Path, tmp_path: Path) -> None:
    assert call("export", checkpoint, "-o", tmp_path / "x.pth").exit_code == 2
    result = call("export", "--timm", checkpoint, "-o", tmp_path / "x.onnx")
    assert result.exit_code == 1 and "name it *.safetensors or *.pth" in result.stderr
    assert not list(tmp_path.iterdir())


def test_push_uploads(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `checkpoints.push` does is tested there, with a hub."""
    asked: list[tuple[object, ...]] = []

    def push(folder: str, repository: str, *, private: bool) -> str:
        asked.append((folder, repository, private))
        return f"hf://{repository}"

    monkeypatch.setattr(checkpoints, "push", push)
    result = call("push", checkpoint, "me/mine", "--private")
    assert (result.exit_code, result.stdout) == (0, "hf://me/mine\n")
    assert asked == [(str(checkpoint), "me/mine", True)]
    assert call("push", "nowhere", "me/mine").exit_code == 2
