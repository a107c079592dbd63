"""Reading and writing pictures, whatever they are: every odd file is either handled or refused in one line.

Pictures in memory are uint8 RGB arrays `[H, W, 3]`; tensors are float32 RGB in [0, 1], `[1, 3, H, W]`.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def to_rgb(image: Image.Image) -> Image.Image:
    """A PIL picture of any mode as 8-bit RGB, upright (EXIF rotation applied), alpha laid on white.

    Samples of 16 bits or more and of floating point are scaled to 0..255; Pillow's own `convert` would clip.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_deep_to_uint8(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _deep_to_uint8(samples: np.ndarray) -> np.ndarray:
    """Samples `[H, W]` as uint8. White is 1 or 255 (floats) or 65,535, whichever bounds them; else the maximum."""
    values = np.nan_to_num(samples.astype(np.float32), posinf=0.0, neginf=0.0)
    maximum = float(values.max())
    usual_peaks = (1.0, 255.0, 65535.0) if samples.dtype.kind == "f" else (65535.0,)
    peak = next((peak for peak in usual_peaks if maximum <= peak), maximum)
    return np.rint(np.clip(values / peak, 0.0, 1.0) * 255.0).astype(np.uint8)
