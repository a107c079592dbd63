"""What `pretrain --preset paper` sets: GMAE as it was published (arXiv 2501.03229), as far as that is known.

The model is the preset `paper` of `GMAEConfig`; here is what a run asks of it, and how it is optimised. What is said on
the command line comes before all of it. Where we still differ: the head has a bias, which starts footprints at a fifth
of the largest, since large ones optimise badly at first; and the decoder sees each patch with its own position, where
the authors' code has that of the patch before. Optimiser, rate and warm-up are MAE's (arXiv 2111.06377), which the
paper builds on; clipping, batches and augmentation are left as they are. Rotations and shear were read from code.
"""

from __future__ import annotations

from typing import Any

PRESET = "paper"

# Settings of objectives, also of those that GMAE is compared with.
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
    """Options of the command that are MAE's where nothing else is said."""
    return {"optimizer": "adamw", "lr": _BASE_LR * batch_size / _BASE_BATCH, "warmup": 0.1}
