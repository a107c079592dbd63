"""Scores of boundaries and regions as metrics of `torchmetrics`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.boundaries import BoundaryProtocol, BoundaryScores
from gmae_tools.metrics.regions import RegionProtocol, RegionScores, score_regions
from gmae_tools.system.torchvision_ops import ensure_torchvision

ensure_torchvision()
pytest.importorskip("torchmetrics", reason="needs the extra torchmetrics")

from gmae_tools.adapters.torchmetrics import BoundaryMetric, RegionMetric  # noqa: E402

PROTOCOL = BoundaryProtocol(thresholds=5)


def maps(count: int, height: int = 24, width: int = 32) -> Tensor:
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(count))


def truths(count: int, height: int = 24, width: int = 32) -> Tensor:
    return maps(count + 10, height, width)[:count] > 0.9


def test_boundaries_over_batches_are_those_of_all_images() -> None:
    soft, annotators = maps(4), truths(8).unflatten(0, (4, 2))
    metric, expected = BoundaryMetric(PROTOCOL), BoundaryScores(PROTOCOL)
    metric.update(soft[:3, None], annotators[:3])
    metric.update([soft[3]], [list(annotators[3])])
    for index in range(4):
        expected.update(str(index), soft[index].numpy(), list(annotators[index].numpy()))
    result = expected.compute()
    assert {name: value.item() for name, value in metric.compute().items()} == pytest.approx(
        {name: getattr(result, name) for name in ("ods", "ois", "ap", "r50")}
    )


def test_a_single_annotator_and_mixed_sizes() -> None:
    metric = BoundaryMetric(PROTOCOL)
    metric.update([maps(1)[0], maps(1, 20, 20)[0]], [truths(1)[0], truths(1, 20, 20)[0]])
    again = BoundaryMetric(PROTOCOL)
    again.update(maps(1), truths(1)[:, None])
    again.update(maps(1, 20, 20), truths(1, 20, 20))
    assert metric.compute() == again.compute()


def test_regions_over_batches_are_those_of_all_images() -> None:
    soft, masks = maps(3), truths(3)
    metric, expected = RegionMetric(RegionProtocol(thresholds=20)), RegionScores(RegionProtocol(thresholds=20))
    metric.update(soft[:2, None], masks[:2, None])
    own = score_regions(soft[2].double().numpy(), masks[2].numpy(), metric.protocol).iou
    assert metric(soft[2:], masks[2:])["iou"].item() == pytest.approx(own)  # of the batch alone; it gathers, too
    for index in range(3):
        expected.update(str(index), soft[index].double().numpy(), masks[index].numpy())
    result, found = expected.compute(), metric.compute()
    assert {"max_f_beta", "mae", "s_measure", "e_measure", "iou"} <= set(found)
    for name, value in found.items():
        assert value.item() == pytest.approx(getattr(result, name))


@pytest.mark.parametrize("kind", [BoundaryMetric, RegionMetric])
def test_states_reset_merge_and_refuse(kind: type[BoundaryMetric] | type[RegionMetric]) -> None:
    one, two, both = kind(), kind(), kind()
    one.update(maps(2), truths(2))
    two.update(maps(3), truths(3))
    both.update(torch.cat([maps(2), maps(3)]), torch.cat([truths(2), truths(3)]))
    one.rows = [torch.cat([*one.rows, *two.rows])]  # as gathered from processes
    one._computed = None
    expected = both.compute()
    for name, value in one.compute().items():
        np.testing.assert_allclose(value, expected[name])
    with pytest.raises(GmaeToolsError, match="2 maps and 1 targets"):
        one.update(maps(2), truths(1))
    with pytest.raises(GmaeToolsError, match="scale it"):
        one.update(maps(1) * 255, truths(1))
    one.reset()
    with pytest.raises(GmaeToolsError, match="nothing to score"), pytest.warns(UserWarning, match="before"):
        one.compute()
