"""Settings of the memory of a process: freed memory, and garbage."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gmae_tools.system.memory import imports_not_collected

ROOT = Path(__file__).parents[2]
_SCRIPT = """
import resource, sys
import numpy as np
from gmae_tools.system.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(20_000_000)  # 160 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library, which alone can be told to")
def test_freed_memory_is_kept() -> None:
    faults = {}
    for how in ("keep", "return"):
        call = [sys.executable, "-c", _SCRIPT, how]
        faults[how] = int(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    assert faults["keep"] < 10 < faults["return"]


@pytest.fixture(autouse=True)
def nothing_stays_frozen() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


_IMPORT = """
import gc
from gmae_tools.system.memory import imports_not_collected
with imports_not_collected():
    import json
    assert not gc.isenabled()
assert gc.isenabled() and gc.get_freeze_count() == 0, "frozen without torch"
with imports_not_collected():
    import torch
assert gc.isenabled() and gc.get_freeze_count() >= len(torch.made), "not frozen"
frozen, later = gc.get_freeze_count(), [[] for _ in range(5000)]
with imports_not_collected():
    import wave
assert gc.get_freeze_count() == frozen, "frozen twice"
"""


def test_only_what_is_there_after_the_first_import_of_torch_is_spared(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("made = [[] for _ in range(5000)]\n")
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT], env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_collector_comes_back_after_a_failed_import() -> None:
    with pytest.raises(ModuleNotFoundError), imports_not_collected():
        import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    with imports_not_collected():
        pass
    assert not gc.isenabled()
