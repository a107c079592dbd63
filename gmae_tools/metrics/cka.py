"""Linear CKA: similarity of two sets of features of the same pictures, up to rotation, scale and shift.

`MinibatchCKA` averages an unbiased estimate of HSIC over batches, so its expectation does not depend on the size of the
batches. The usual CKA is biased: for few pictures and many dimensions it approaches 1 even for unrelated features.

Sources: HSIC_1 of Song et al. (Feature selection via dependence maximization, JMLR 2012, eq. 5), in batches as Nguyen
et al. (arXiv 2010.15327, eq. 2); CKA of Kornblith et al. (arXiv 1905.00414).
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_BATCH = 4  # pictures, because HSIC_1 compares four different ones
_CONSTANT = 1e-12  # ratio of variance to mean square below which features count as equal for all pictures


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - the letters of the papers
    """HSIC_1 `[...]` of two symmetric kernel matrices `[..., n, n]`, n >= 4, an unbiased estimate of HSIC.

    Because it is unbiased, it is sometimes negative for unrelated features.

    Raises:
        ValueError: There are fewer than four pictures.
    """
    n = k.shape[-1]
    if n < LEAST_BATCH:
        raise ValueError(f"HSIC needs at least {LEAST_BATCH} pictures in a batch, not {n}")
    off_diagonal = 1 - torch.eye(n, dtype=k.dtype, device=k.device)
    k, l = k * off_diagonal, l * off_diagonal  # noqa: E741
    rows_k, rows_l = k.sum(-1), l.sum(-1)  # [..., n]
    trace = (k * l).sum((-2, -1))
    product_of_sums = rows_k.sum(-1) * rows_l.sum(-1) / ((n - 1) * (n - 2))
    sum_of_product = 2 / (n - 2) * (rows_k * rows_l).sum(-1)
    return (trace + product_of_sums - sum_of_product) / (n * (n - 3))


class MinibatchCKA:
    """Linear CKA of many pictures, batch by batch. Leading dimensions are independent pairs of feature sets.

    Batches should be random and of about equal size, because each has the same weight.
    """

    def __init__(self) -> None:
        self._terms: list[Tensor] = []  # HSIC of (x, y), (x, x) and (y, y) of each batch, [3, ...]

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch.

        Args:
            x, y: Features `[..., n, D]` and `[..., n, D']` of the same n >= 4 pictures.
        """
        k, l = _linear_kernel(x), _linear_kernel(y)  # noqa: E741
        self._terms.append(torch.stack([unbiased_hsic(k, l), unbiased_hsic(k, k), unbiased_hsic(l, l)]))

    def compute(self) -> Tensor:
        """CKA `[...]`, at most about 1; NaN if features are equal for all pictures."""
        return _ratio(torch.stack(self._terms).mean(0))

    def standard_error(self) -> Tensor:
        """Standard error of `compute` `[...]` by the jackknife over batches; NaN for a single batch."""
        terms = torch.stack(self._terms)  # [batches, 3, ...]
        count = len(terms)
        if count < 2:
            return torch.full_like(terms[0, 0], torch.nan)
        left_out = torch.stack([_ratio((terms.sum(0) - term) / (count - 1)) for term in terms])
        return ((count - 1) * left_out.var(0, correction=0)).sqrt()


def _linear_kernel(x: Tensor) -> Tensor:
    """Inner products `[..., n, n]` of features minus their mean. HSIC_1 ignores the mean, rounding errors do not."""
    x = x.double()
    centred = x - x.mean(-2, keepdim=True)
    constant = centred.square().mean((-2, -1)) <= _CONSTANT * x.square().mean((-2, -1))
    centred = centred.masked_fill(constant[..., None, None], 0)
    return centred @ centred.mT


def _ratio(terms: Tensor) -> Tensor:
    """CKA `[...]` of the three HSIC `[3, ...]`."""
    across, own_x, own_y = terms
    return across / (own_x * own_y).sqrt()
