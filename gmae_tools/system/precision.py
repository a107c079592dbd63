"""The floating-point type of computations, which never depends on torch's default type."""

from __future__ import annotations

from functools import reduce
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bf16"]  # arithmetic of a transformer whose weights are float32


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if one of the tensors has it, else float32.

    Geometry and pictures need at least float32. In bfloat16, positions beyond 256 px would be rounded to every second
    pixel; in float16, the square of a footprint of 256 px would be infinite.
    """
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
