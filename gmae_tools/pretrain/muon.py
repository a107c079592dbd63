"""Muon for any version of torch, as fast on processors without bf16 as on others.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). `torch.optim.Muon`, which torch
has since 2.9, always computes in bf16. Where a processor merely emulates bf16, that took most of a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gmae_tools.system.devices import has_bf16

MOMENTUM = 0.95
_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_TINY = 1e-7


class Muon(Optimizer):
    """Momentum whose updates are orthogonalised; the state and the defaults are those of `torch.optim.Muon`.

    Args:
        params: Groups of matrices `[M, N]`.
        lr: Learning rate; the update of a matrix with more rows than columns is the root of their ratio as large.
        weight_decay: Decoupled weight decay.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change all parameters that have a gradient."""
        for group in self.param_groups:
            alike = defaultdict(list)  # matrices of one shape, which are orthogonalised together
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for (rows, columns), parameters in alike.items():
                updates = orthogonalise(torch.stack([self._momentum(parameter) for parameter in parameters]))
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, parameter: Tensor) -> Tensor:
        """Nesterov's momentum, before it is orthogonalised."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        assert parameter.grad is not None
        buffer.lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(buffer, MOMENTUM)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices `[B, M, N]` near 1 by five Newton-Schulz steps.

    All but the smallest end between about 0.7 and 1.2. The result is bf16 where the hardware has it, else float32.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x.to(torch.bfloat16 if has_bf16(matrices.device) else torch.float32)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_TINY)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
