"""Freed memory is used again without the system's help."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
