"""Linear CKA: how much alike two sets of features of the same pictures are, up to rotation, scale and shift.

`MinibatchCKA` averages an unbiased estimate of HSIC over batches, so its expectation does not depend on the size of the
batches. The usual biased CKA does: for few pictures and many dimensions it goes to 1 even for unrelated features.
Sources: HSIC_1 of Song et al. (Feature selection via dependence maximization, JMLR 2012, eq. 5), in batches as Nguyen
et al. (arXiv 2010.15327, eq. 2); CKA of Kornblith et al. (arXiv 1905.00414).
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_BATCH = 4  # pictures; HSIC_1 compares four different ones
_CONSTANT = 1e-12  # variance over mean square, below which features are the same for all pictures


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - the letters of the papers
    """HSIC_1 `[...]` of two symmetric kernel matrices `[..., n, n]`, n >= 4; its expectation is HSIC itself.

    Unbiased means that it is below 0 now and then where nothing is in common.

    Raises:
        ValueError: fewer than four pictures.
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
    """Linear CKA of many pictures, a batch at a time; leading dimensions are pairs of feature sets side by side.

    Batches should be random, and of about equal size, since they count alike.
    """

    def __init__(self) -> None:
        self._terms: list[Tensor] = []  # for each batch HSIC of (x, y), (x, x) and (y, y): [3, ...]

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch.

        Args:
            x, y: features `[..., n, D]` and `[..., n, D']` of the same n >= 4 pictures, in any units.
        """
        k, l = _linear_kernel(x), _linear_kernel(y)  # noqa: E741
        self._terms.append(torch.stack([unbiased_hsic(k, l), unbiased_hsic(k, k), unbiased_hsic(l, l)]))

    def compute(self) -> Tensor:
        """CKA `[...]`, at most about 1; NaN where features are the same for all pictures."""
        return _ratio(torch.stack(self._terms).mean(0))

    def standard_error(self) -> Tensor:
        """Of `compute` `[...]`, by leaving out one batch after the other (jackknife); NaN for a single batch."""
        terms = torch.stack(self._terms)  # [batches, 3, ...]
        count = len(terms)
        if count < 2:
            return torch.full_like(terms[0, 0], torch.nan)
        left_out = torch.stack([_ratio((terms.sum(0) - term) / (count - 1)) for term in terms])
        return ((count - 1) * left_out.var(0, correction=0)).sqrt()


def _linear_kernel(x: Tensor) -> Tensor:
    """Inner products `[..., n, n]` of features less their mean, which HSIC_1 does not see but rounding does."""
    x = x.double()
    centred = x - x.mean(-2, keepdim=True)
    constant = centred.square().mean((-2, -1)) <= _CONSTANT * x.square().mean((-2, -1))
    centred = centred.masked_fill(constant[..., None, None], 0)
    return centred @ centred.mT


def _ratio(terms: Tensor) -> Tensor:
    """CKA `[...]` from the three HSIC `[3, ...]`."""
    across, own_x, own_y = terms
    return across / (own_x * own_y).sqrt()
