"""The scores of boundaries and regions as metrics of `torchmetrics`, which joins batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.boundaries import BoundaryCounts, BoundaryProtocol, BoundaryScores, count_boundaries
from gmae_tools.metrics.regions import RegionMetrics, RegionProtocol, RegionScores, score_regions
from gmae_tools.system.torchvision_ops import ensure_torchvision

ensure_torchvision()  # torchmetrics imports it
try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError:
    raise ImportError("torchmetrics is missing; run pip install 'gmae-tools[torchmetrics]'") from None

_CURVES = ("precision", "recall", "f_beta", "e_measure")
_NUMBERS = tuple(each.name for each in fields(RegionMetrics) if each.name not in (*_CURVES, "hit"))

Maps = Tensor | Sequence[Tensor]


class _ByImage(Metric):
    """A metric whose state has one row of numbers for each image."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    rows: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def _add(self, row: np.ndarray) -> None:
        self.rows.append(torch.from_numpy(row)[None].to(self.device))

    def _images(self) -> list[np.ndarray]:
        return list(dim_zero_cat(self.rows).cpu().numpy()) if len(self.rows) else []


class BoundaryMetric(_ByImage):
    """ODS, OIS, AP and R50 of soft boundary maps, as `metrics.boundaries` computes them.

    Args:
        protocol: how the scores are computed.
        options: options of `torchmetrics.Metric`.

    Example:
        >>> metric = BoundaryMetric()
        >>> metric.update(maps, truths)
        >>> metric.compute()
        {'ods': tensor(0.6710), 'ois': tensor(0.6900), 'ap': tensor(0.6400), 'r50': tensor(0.7700)}
    """

    def __init__(self, protocol: BoundaryProtocol | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.protocol = protocol or BoundaryProtocol()

    def update(self, preds: Maps, target: Tensor | Sequence[Tensor | Sequence[Tensor]]) -> None:
        """Count the matched pixels of images.

        Args:
            preds: maps in [0, 1]: `[B, H, W]`, `[B, 1, H, W]`, or a list of `[H, W]`.
            target: for each map the boundary maps of its annotators, bool `[A, H, W]`, a list of `[H, W]`, or `[H, W]`
                for a single annotator.

        Raises:
            GmaeToolsError: there are not as many targets as maps, shapes differ, or a map is not in [0, 1].
        """
        for soft, truths in _pairs(preds, target):
            annotators = [truths] if isinstance(truths, Tensor) and truths.ndim == 2 else list(truths)
            counts = count_boundaries(_plane(soft), [_plane(truth) for truth in annotators], self.protocol)
            self._add(np.stack(counts.arrays()))

    def compute(self) -> dict[str, Tensor]:
        """Return the scores of all images so far, each in [0, 1].

        Raises:
            GmaeToolsError: there is no image.
        """
        scores = BoundaryScores(self.protocol)
        for number, counts in enumerate(self._images()):
            scores.add(str(number), BoundaryCounts(*counts))
        result = scores.compute()
        return {name: torch.tensor(getattr(result, name)) for name in ("ods", "ois", "ap", "r50")}


class RegionMetric(_ByImage):
    """F-beta, S-measure, E-measure, IoU, accuracy and MAE of foreground maps, as `metrics.regions` computes them.

    Args:
        protocol: how the scores are computed.
        options: options of `torchmetrics.Metric`.
    """

    def __init__(self, protocol: RegionProtocol | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.protocol = protocol or RegionProtocol()

    def update(self, preds: Maps, target: Maps) -> None:
        """Score images.

        Args:
            preds: probabilities of foreground in [0, 1]: `[B, H, W]`, `[B, 1, H, W]`, or a list of `[H, W]`.
            target: masks of the maps, bool, in the same form.

        Raises:
            GmaeToolsError: there are not as many masks as maps, shapes differ, or a map is not in [0, 1].
        """
        for soft, truth in _pairs(preds, target):
            found = score_regions(_plane(soft), _plane(truth), self.protocol)
            self._add(np.concatenate([np.atleast_1d(getattr(found, name)) for name in (*_CURVES, *_NUMBERS)]))

    def compute(self) -> dict[str, Tensor]:
        """Return the scores of all images so far, each in [0, 1]; all but `mae` are better if higher.

        Raises:
            GmaeToolsError: there is no image.
        """
        scores, count = RegionScores(self.protocol), self.protocol.thresholds
        for number, row in enumerate(self._images()):
            curves: dict[str, Any] = dict(zip(_CURVES, row[: len(_CURVES) * count].reshape(-1, count), strict=True))
            numbers: dict[str, Any] = dict(zip(_NUMBERS, map(float, row[len(_CURVES) * count :]), strict=True))
            scores.add(f"{number:09}", RegionMetrics(**curves, **numbers))
        result = scores.compute().to_dict()
        return {name: torch.tensor(value) for name, value in result.items() if isinstance(value, float)}


def _pairs(preds: Sequence[Any] | Tensor, target: Sequence[Any] | Tensor) -> list[tuple[Any, Any]]:
    if len(preds) != len(target):
        raise GmaeToolsError(f"{len(preds)} maps and {len(target)} targets: give one target for each map")
    return list(zip(preds, target, strict=True))


def _plane(values: Tensor) -> np.ndarray:
    """Turn a tensor `[H, W]` or `[1, H, W]` into an array `[H, W]`."""
    values = torch.as_tensor(values).detach().cpu()
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    return (values.double() if values.is_floating_point() else values).numpy()
