"""Settings of the memory of a process: freed memory, and garbage."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gmae_tools.system.memory import imports_not_collected

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the GNU C library alone can be told to")
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


def test_imports_are_neither_collected_now_nor_looked_at_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "many_objects.py").write_text("made = [[] for _ in range(5000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    frozen = gc.get_freeze_count()
    with imports_not_collected():
        import many_objects  # type: ignore[import-not-found]

        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(many_objects.made)
    del sys.modules["many_objects"]


def test_garbage_is_still_collected_where_nothing_is_imported() -> None:
    frozen = gc.get_freeze_count()
    with imports_not_collected():
        pass
    assert gc.get_freeze_count() == frozen


def test_the_collector_comes_back_after_a_failed_import() -> None:
    with pytest.raises(ModuleNotFoundError), imports_not_collected():
        import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    with imports_not_collected():
        pass
    assert not gc.isenabled()
