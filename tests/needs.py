"""What some tests need, and are skipped without."""

from __future__ import annotations

import pytest

from gmae_tools.formats.torch_files import reads_safely


def safe_torch() -> None:
    """Skip the test where torch is too old for the package to read a `.pth` or `.ckpt` file."""
    if not reads_safely():
        pytest.skip("needs torch 2.10, which reads a .pth or .ckpt safely")
