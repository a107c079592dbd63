"""Small data sets with the folders and files of BSDS500 and of ECSSD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

VAL = "bsds500/images/val"


def add_example(root: Path, name: str, picture: np.ndarray, lines: np.ndarray, inside: np.ndarray) -> None:
    """Add a photograph to BSDS500 val, with an annotation, and to ECSSD, with a mask.

    Args:
        picture: uint8 `[H, W, 3]`.
        lines: the boundaries that the annotator drew, bool `[H, W]`.
        inside: what is in front, bool `[H, W]`.
    """
    cells = np.empty((1, 1), object)
    cells[0, 0] = {"Boundaries": lines.astype(np.uint8)}
    for part in (VAL, "bsds500/groundTruth/val", "ecssd-dev/images", "ecssd-dev/masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for part in (VAL, "ecssd-dev/images"):
        Image.fromarray(picture).save(root / part / f"{name}.jpg", quality=95)
    savemat(root / "bsds500" / "groundTruth" / "val" / f"{name}.mat", {"groundTruth": cells})
    Image.fromarray(inside.astype(np.uint8) * 255).save(root / "ecssd-dev" / "masks" / f"{name}.png")
