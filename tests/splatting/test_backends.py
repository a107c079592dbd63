"""What is said about backends, and the choice among them, on machines that are made up."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import numba
import pytest
import torch
from torch.utils import cpp_extension

from gmae_tools import diagnosis
from gmae_tools.errors import GmaeToolsError
from gmae_tools.splatting import backends
from gmae_tools.splatting.backends import choose_backend, describe_backends

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Choices are made once a process; here, once a test."""
    for cached in (backends.choose_backend, backends._gsplat_problem):
        cached.cache_clear()
    yield
    for cached in (backends.choose_backend, backends._gsplat_problem):
        cached.cache_clear()


def test_numba_that_may_not_compile_is_one_sentence(repository: Path, tmp_path: Path) -> None:
    """In a process of its own, since numba reads its settings once."""
    photo = repository / "gmae_tools" / "assets" / "demo.jpg"
    done = subprocess.run(
        [sys.executable, "-m", "gmae_tools", "layers", str(photo), "-o", "layers", "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": str(repository), "NUMBA_DISABLE_JIT": "1"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    advice = "unset NUMBA_DISABLE_JIT; --backend dense is slow, but works"
    problem = f"splatting backend cpu cannot render here: numba is told not to compile: {advice}"
    assert done.returncode == 1
    assert problem in done.stderr and "Traceback" not in done.stderr


def test_what_keeps_numba_from_compiling_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    for backend in ("cpu", "auto"):
        with pytest.raises(GmaeToolsError, match="unset NUMBA_DISABLE_JIT"):
            choose_backend(backend, "cpu")  # type: ignore[arg-type]
    assert choose_backend("dense", "cpu") == "dense"
    assert [status.usable for status in describe_backends() if status.name == "cpu"] == [False]
    assert diagnosis.try_defaults([])[1] is not None
    monkeypatch.setitem(sys.modules, "numba", None)  # as where it does not fit the installed numpy
    with pytest.raises(
        GmaeToolsError, match=r"cpu cannot render here: numba cannot be loaded \(import of numba halted"
    ):
        choose_backend("cpu", "cpu")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a CUDA GPU, its toolkit and gsplat, none of which is real; its folder of installed packages."""
    package = tmp_path / "gsplat"
    package.mkdir()
    spec = ModuleSpec("gsplat", None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "1.5.3")
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/cuda/bin/{name}")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", "/cuda")
    monkeypatch.setattr(cpp_extension, "is_ninja_available", lambda: True)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    return tmp_path


def put_kernels(monkeypatch: pytest.MonkeyPatch, kernels: object) -> None:
    """What the import of gsplat's compiled kernels finds."""
    module = types.ModuleType("gsplat.cuda._backend")
    module._C = kernels  # type: ignore[attr-defined]
    for name in ("gsplat", "gsplat.cuda"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", module)


def gsplat_status() -> backends.BackendStatus:
    return {status.name: status for status in describe_backends()}["gsplat"]


def test_the_backends_of_every_machine() -> None:
    statuses = {status.name: status for status in describe_backends()}
    assert list(statuses) == ["cpu", "gsplat", "dense"]
    assert statuses["cpu"].usable and statuses["dense"].usable


@pytest.mark.usefixtures("machine")
def test_gsplat_is_usable_where_nothing_is_missing() -> None:
    status = gsplat_status()
    assert status.usable and status.reason == "gsplat 1.5.3, compiles at first use, which takes minutes"


def test_what_was_compiled_or_came_compiled_is_found(machine: Path) -> None:
    built = backends._build_folder() / "gsplat_cuda.so"
    assert built.is_relative_to(machine / "extensions")
    built.touch()
    assert gsplat_status().reason == "gsplat 1.5.3, compiled"
    (machine / "gsplat" / "csrc.cpython-311-x86_64-linux-gnu.so").touch()
    assert gsplat_status().reason == "gsplat 1.5.3, prebuilt"


@pytest.mark.parametrize(
    ("where", "name", "value", "message"),
    [
        (torch.version, "cuda", None, "this torch is built without CUDA: install a CUDA build of it"),
        (torch.cuda, "is_available", lambda: False, "torch sees no CUDA GPU: check its driver with nvidia-smi"),
        (importlib.util, "find_spec", lambda _: None, "gsplat is not installed: pip install 'gmae-tools[cuda]'"),
        (importlib.metadata, "version", lambda _: "1.4.0", "gsplat 1.4.0 is too old: pip install 'gsplat>=1.5.3'"),
        (cpp_extension, "CUDA_HOME", None, "there is no nvcc: install the CUDA 13.0 toolkit and set CUDA_HOME"),
        (shutil, "which", lambda name, path=None: None if name == "nvcc" else name, "there is no nvcc: install the"),
        (shutil, "which", lambda name, path=None: None if name == "c++" else name, "compiler 'c++': install g++"),
        (cpp_extension, "is_ninja_available", lambda: False, "there is no ninja: pip install ninja"),
    ],
)
def test_what_is_missing_is_named_with_what_to_install(
    where: object, name: str, value: object, message: str, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, value)
    monkeypatch.delenv("CXX", raising=False)
    status = gsplat_status()
    assert not status.usable and message in status.reason
    with pytest.raises(GmaeToolsError) as refused:
        choose_backend("gsplat", CUDA)
    assert str(refused.value) == f"splatting backend gsplat cannot render here: {status.reason}"


def test_a_prebuilt_gsplat_needs_no_toolkit(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "gsplat" / "csrc.so").touch()
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    assert gsplat_status().usable
    put_kernels(monkeypatch, object())
    assert choose_backend("gsplat", CUDA) == "gsplat"
    assert not (machine / "extensions").exists()


@pytest.mark.usefixtures("machine")
def test_auto_takes_gsplat_for_what_is_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_kernels(monkeypatch, object())
    with caplog.at_level(logging.INFO, "gmae_tools.splatting.backends"):
        assert [choose_backend("auto", CUDA) for _ in range(3)] == ["gsplat"] * 3
        assert choose_backend("auto", torch.device("cpu")) == "cpu"
    assert caplog.messages == [  # each choice once
        "gsplat compiles its CUDA kernels; this takes minutes, but only the first time",
        "splatting by gsplat: the Gaussians are on cuda:0",
        "splatting by cpu: the Gaussians are on cpu",
    ]


@pytest.mark.usefixtures("machine")
def test_auto_warns_where_gsplat_cannot_be_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_kernels(monkeypatch, None)  # what gsplat finds where its own search for a toolkit fails
    assert [choose_backend("auto", CUDA) for _ in range(2)] == ["cpu"] * 2
    warnings = [record.message for record in caplog.records if "although" in record.message]
    assert len(warnings) == 1 and caplog.records[-1].levelno == logging.WARNING
    assert "splatting by cpu, although the Gaussians are on cuda:0: " in warnings[0]
    assert "install the CUDA 13.0 toolkit that this torch was built with" in warnings[0]


def test_a_compiler_that_fails_is_one_sentence(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what gsplat prints goes to stderr."""
    package = machine / "site" / "gsplat" / "cuda"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    failing = "print('compiling')\nraise RuntimeError(\"Error building extension 'gsplat_cuda'\\nnvcc: 300 lines\")"
    (package / "_backend.py").write_text(failing)
    for name in [name for name in sys.modules if name.split(".")[0] == "gsplat"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(machine / "site"))
    with pytest.raises(GmaeToolsError) as refused:
        choose_backend("gsplat", CUDA)
    assert "cannot be compiled or loaded (Error building extension 'gsplat_cuda'); install the" in str(refused.value)
    assert "\n" not in str(refused.value)
    printed = capsys.readouterr()
    assert printed.out == "" and "compiling" in printed.err
    for name in [name for name in sys.modules if name.split(".")[0] == "gsplat"]:
        del sys.modules[name]


def test_gsplat_does_not_draw_what_is_on_the_cpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GmaeToolsError, match="gsplat renders on a CUDA GPU, not on cpu: use --device cuda"):
        choose_backend("gsplat", "cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(GmaeToolsError, match="not on cpu: this torch is built without CUDA: install"):
        choose_backend("gsplat", "cpu")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(GmaeToolsError, match="'quantum' is unknown: use auto, cpu, gsplat or dense"):
        choose_backend("quantum", "cpu")


@pytest.mark.cuda
def test_gsplat_is_ready_on_this_machine() -> None:
    assert gsplat_status().usable, gsplat_status().reason
    assert choose_backend("gsplat", "cuda") == "gsplat"
    assert "compiles" not in gsplat_status().reason
