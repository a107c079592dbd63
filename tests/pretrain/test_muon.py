"""Muon, against torch's where torch has it, and against its definition."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gmae_tools.pretrain import muon
from gmae_tools.pretrain.muon import Muon, orthogonalise

SHAPES = [(24, 8), (8, 8), (8, 24), (24, 8)]


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch 2.9")
def test_the_steps_and_the_state_are_those_of_torch() -> None:
    """torch computes in bf16, with three digits."""
    ours, theirs = matrices(), matrices()
    optimizer = Muon([{"params": ours}], lr=0.1, weight_decay=0.05)
    reference = torch.optim.Muon([{"params": theirs}], lr=0.1, weight_decay=0.05)
    for seed in range(4):
        give_gradients(ours, seed)
        give_gradients(theirs, seed)
        if seed == 3:  # a run that torch's optimiser began, and ours goes on with
            optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
        optimizer.step()
        reference.step()
    for own, other, start in zip(ours, theirs, matrices(), strict=True):
        change = own.detach() - start.detach()
        assert float((own - other).detach().norm() / change.norm()) < 0.02 and float(change.abs().max()) > 0.1


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_one(shape: tuple[int, int], bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "has_bf16", lambda device: bf16)
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(2, *shape, generator=generator), full_matrices=False)
    scales = torch.linspace(0.2, 1, 8)
    found: Tensor = orthogonalise((u * scales) @ v * 30)
    assert found.dtype == (torch.bfloat16 if bf16 else torch.float32)
    turned = u.mT @ found.float() @ v.mT
    off = turned - torch.diag_embed(turned.diagonal(dim1=1, dim2=2))
    assert float(turned.diagonal(dim1=1, dim2=2).min()) > 0.6 and float(turned.max()) < 1.3
    assert float(off.abs().max()) < (0.02 if bf16 else 1e-4)


def test_matrices_without_a_gradient_stay() -> None:
    ours = matrices()
    give_gradients(ours[:1], 0)
    before = [parameter.detach().clone() for parameter in ours]
    Muon([{"params": ours}], lr=0.1, weight_decay=0.05).step()
    assert [bool((a == b).all()) for a, b in zip(ours, before, strict=True)] == [False, True, True, True]
