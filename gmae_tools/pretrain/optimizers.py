"""Optimisers: AdamW as in MAE, or Muon for the blocks' matrices with AdamW for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import AdamW, Optimizer

from gmae_tools.pretrain.muon import Muon


@dataclass(frozen=True)
class OptimizerConfig:
    """Choice of the optimiser, peak learning rates and weight decay.

    Args:
        name: `muon`, with which small models learn faster, or `adamw`.
        lr: Peak learning rate of AdamW.
        muon_lr: Peak learning rate of Muon, for orthogonalised updates.
        weight_decay: Decoupled weight decay, applied to matrices only.
    """

    name: Literal["muon", "adamw"] = "muon"
    lr: float = 1e-3
    muon_lr: float = 0.02
    weight_decay: float = 0.05


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[Optimizer]:
    """One optimiser, or two for Muon, whose groups record their `peak_lr`; the model is on its device already."""
    matrices, block_matrices, others = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and ".blocks." in name and config.name == "muon":
            block_matrices.append(parameter)
        elif parameter.ndim >= 2 and name.endswith("weight"):
            matrices.append(parameter)
        else:
            others.append(parameter)
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay, "peak_lr": config.lr},
        {"params": others, "weight_decay": 0.0, "peak_lr": config.lr},
    ]
    fused = matrices[0].is_cuda or None  # one kernel for all parameters
    optimizers: list[Optimizer] = [AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=fused)]
    if block_matrices:
        group = {"params": block_matrices, "peak_lr": config.muon_lr}
        optimizers.append(Muon([group], config.muon_lr, config.weight_decay))
    return optimizers
