"""The settings of `pretrain --preset paper`: GMAE as published (arXiv 2501.03229), as far as that is known.

The model is the preset `paper` of `GMAEConfig`; the objective and the optimiser are set here. Options on the command
line take precedence. Two differences remain. The head has a bias, which starts footprints at a fifth of the largest,
because large ones optimise badly at first. The decoder sees each patch with its own position; in the authors' code it
is that of the previous patch. Optimiser, learning rate and warm-up are those of MAE (arXiv 2111.06377), on which the
paper builds; clipping, batches and augmentation keep their defaults. Rotations and shear follow the authors' code.
"""

from __future__ import annotations

from typing import Any

PRESET = "paper"

# Settings of all objectives; each objective takes those that it has.
OBJECTIVE: dict[str, Any] = {
    "mask_ratio": (0.75, 0.75),
    "whole": 0.0,
    "error": "mse",
    "loss_on": "masked",
    "background": "white",
    "slot_depth_weight": 0.0,
    "occlusion_gradient": 0.0,
    "size_depth_weight": 0.0,
    "region_depth_weight": 0.0,
}

_BASE_LR, _BASE_BATCH = 1.5e-4, 256


def options(batch_size: int) -> dict[str, Any]:
    """Options of the command for which MAE's values become the defaults."""
    return {"optimizer": "adamw", "lr": _BASE_LR * batch_size / _BASE_BATCH, "warmup": 0.1}
