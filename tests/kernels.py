"""Calls that compile every numba kernel; what is compiled stays on disk for all processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def render() -> None:
    """The renderer forward and backward, with and without the gradient of the order."""
    import torch

    from gmae_tools.camera import Splats
    from gmae_tools.splatting import Rules, rasterize

    def leaf(*shape: int) -> torch.Tensor:
        return torch.full((1, 8, *shape), 0.5, requires_grad=True)

    splats = Splats(leaf(2), torch.tensor([0.1, 0.0, 0.1]).repeat(1, 8, 1), leaf(), leaf(3), leaf())
    for temperature in (None, 0.05):
        rasterize(splats, 32, 32, rules=Rules(order_temperature=temperature), backend="cpu").image.sum().backward()


def read_maps() -> None:
    """The boundary benchmark, and the contours of the readouts."""
    from gmae_tools.metrics.boundaries import BoundaryProtocol, count_boundaries
    from gmae_tools.zeroshot.contours import close_contours, gradient, suppress_nonmaxima

    line = np.zeros((24, 24))
    line[:, 9:12] = 0.7
    count_boundaries(line, [line > 0], BoundaryProtocol(3))
    suppress_nonmaxima(gradient(line, 1.0))
    close_contours(line, 1.5)


CALLS: tuple[Callable[[], None], ...] = (render, read_maps)
