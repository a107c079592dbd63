"""What the tests of the scripts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """Scripts choose a number of threads, and accelerate keeps its first settings for the life of the process."""
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)
