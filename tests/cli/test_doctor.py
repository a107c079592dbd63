"""`gmae-tools doctor` on this machine, and on ones with something amiss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from gmae_tools import cli, diagnosis
from gmae_tools.camera import Splats
from gmae_tools.diagnosis import devices, folders, try_backend, versions
from gmae_tools.splatting import dense
from gmae_tools.splatting.backends import BackendStatus


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["doctor", *arguments])


def test_all_is_well_here() -> None:
    result = doctor()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[-1].startswith("by default: gmae-tiny on ") and lines[-1].endswith(": works")
    for expected in (
        "torch ",
        "numba ",
        "gsplat ",
        "cpu ",
        "dense ",
        "compiled CPU kernels",
        "checkpoints: gmae-nano, gmae-tiny",
    ):
        assert any(line.startswith(expected) for line in lines), expected
    assert f"torch          {torch.__version__}" in lines
    assert sum(line.endswith("as the reference") for line in lines) >= 1


def test_json_says_the_same() -> None:
    report = json.loads(doctor("--format", "json").stdout)
    assert report["problem"] is None
    assert {backend["name"] for backend in report["backends"]} == {"cpu", "gsplat", "dense"}
    trials = {trial["backend"]: trial for trial in report["trials"]}
    assert 0 < trials["cpu"]["picture"] < 1e-5 and 0 < trials["cpu"]["gradient"] < 1e-4
    assert trials["cpu"]["first_seconds"] > 0 and trials["cpu"]["milliseconds"] > 0
    assert all(folder["path"] for folder in report["folders"])


def test_a_backend_that_draws_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "ALPHA_MIN", 0.02)  # now the reference disagrees
    trial = try_backend("cpu")
    assert trial.problem == "renders a different picture than the dense reference" and trial.picture > 1e-3
    result = doctor()
    if not torch.cuda.is_available():
        assert result.exit_code == 1
        assert result.stdout.endswith("rendered by cpu: renders a different picture than the dense reference\n")


def test_a_backend_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(splats: Splats, *_: object, **__: object) -> Tensor:
        raise OSError("libcudart.so.13: cannot open\nshared object")

    monkeypatch.setattr(diagnosis, "rasterize", fail)
    trial = try_backend("cpu")
    assert trial.problem is not None and "libcudart.so.13: cannot open" in trial.problem and "\n" not in trial.problem
    report = diagnosis.Diagnosis({}, [], [], [trial], [], [], "", None).to_dict()
    assert json.loads(json.dumps(report, allow_nan=False))["trials"][0]["picture"] is None


def test_without_its_checkpoint_nothing_works_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "DEFAULT", "gmae-lost")
    monkeypatch.setattr(diagnosis, "describe_backends", lambda: [BackendStatus("cpu", False, "no reason")])
    result = doctor()
    assert result.exit_code == 1
    assert "by default: gmae-lost on " in result.stdout and "no checkpoint 'gmae-lost'" in result.stdout


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'timm'")

    monkeypatch.setattr(diagnosis, "diagnose", fail)
    result = doctor()
    assert result.exit_code == 1
    assert (
        result.stderr == "error: a part of gmae-tools is missing (No module named 'timm'): install it again with pip\n"
    )


def test_versions_devices_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_LIBRARIES", ("numpy", "no-such-package"))
    found = versions()
    assert found["no-such-package"] == "not installed" and found["numpy"][0].isdigit()
    assert found["torchvision"] == "not installed" or found["torchvision"][0].isdigit()
    assert devices()[0].name == "cpu" and " cores, of which torch uses " in devices()[0].description
    assert len(devices()) == 1 + torch.cuda.device_count()
    blocked = tmp_path / "file"
    blocked.touch()
    for path, writable in ((tmp_path / "new" / "deep", True), (blocked / "below", False)):
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(path))
        place = next(folder for folder in folders() if folder.purpose == "compiled CUDA kernels")
        assert (place.path, place.writable) == (str(path), writable)


def test_verbose_says_what_was_chosen() -> None:
    from gmae_tools.splatting import choose_backend

    for arguments, said in (([], False), (["-v"], True)):
        choose_backend.cache_clear()
        result = CliRunner().invoke(cli.main, [*arguments, "doctor"])
        assert ("info: splatting by " in result.stderr) == said
