"""Segmenters as methods of the benchmark: readouts of a model's Gaussians, and classical ones for comparison.

A classical segmenter is a function from a photograph, uint8 RGB `[H, W, 3]`, to the probability `[H, W]` in [0, 1] that
a pixel belongs to the foreground. No method is trained with masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from gmae_tools.benchmarks.names import MASK_THRESHOLDS, SEGMENTERS
from gmae_tools.benchmarks.pipeline import Method, ModelSource, Predictor
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import resize
from gmae_tools.metrics.regions import Threshold, binarize
from gmae_tools.zeroshot.views import Looks, Views

PRIOR_SIGMA = 0.25  # standard deviation of the centre prior, in widths and heights of the picture
GRABCUT_MARGIN = 0.1  # share of each side outside of the first box; 0.05 to 0.25 were tried on ECSSD-dev, odd ids
_GRABCUT_ROUNDS = 5  # iterations
_SPECTRUM_SIDE, _SPECTRUM_SIGMA = 64, 2.5  # px, shorter side of the picture whose spectrum is taken; blur at the end
_LEAST_SIDE = 8  # px, below which GrabCut has too few pixels for its mixtures of colours


def centre_prior(photo: np.ndarray) -> np.ndarray:
    """Return a Gaussian blob in the middle of every picture, with a sigma of a quarter of its width and height."""
    y, x = (np.exp(-((((np.arange(side) + 0.5) / side - 0.5) / PRIOR_SIGMA) ** 2) / 2) for side in photo.shape[:2])
    return np.outer(y, x).astype(np.float32)


def everything(photo: np.ndarray) -> np.ndarray:
    """Take every pixel for foreground."""
    return np.ones(photo.shape[:2], np.float32)


def otsu(photo: np.ndarray) -> np.ndarray:
    """Apply Otsu's threshold to luminance, and take the bright side for foreground."""
    return _bright_side(photo).astype(np.float32)


def otsu_border(photo: np.ndarray) -> np.ndarray:
    """Apply Otsu's threshold to luminance, and take the side with less of the picture's border for foreground.

    If both sides have an equal part of the border, the bright one is foreground.
    """
    bright = _bright_side(photo)
    border = np.concatenate([bright[0], bright[-1], bright[1:-1, 0], bright[1:-1, -1]])
    return np.asarray(bright if border.mean() <= 0.5 else ~bright, np.float32)


def spectral_residual(photo: np.ndarray) -> np.ndarray:
    """Compute where the spectrum of the picture differs from its own local mean.

    Source: Hou and Zhang, "Saliency detection: a spectral residual approach" (CVPR 2007). The 3 x 3 means of the log
    amplitudes are subtracted from them; the result is transformed back with the original phases, squared, blurred and
    stretched to span 0 to 1.
    """
    height, width = photo.shape[:2]
    scale = _SPECTRUM_SIDE / min(height, width)
    small = resize(_grey(photo), *(max(1, round(side * scale)) for side in (height, width))).astype(float)
    spectrum = np.fft.fft2(small)
    amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = amplitude - ndimage.uniform_filter(amplitude, 3, mode="wrap")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return _enlarge(ndimage.gaussian_filter(saliency, _SPECTRUM_SIGMA), height, width)


def grabcut(photo: np.ndarray) -> np.ndarray:
    """Run OpenCV's GrabCut (Rother, Kolmogorov and Blake, 2004) from a centred box.

    For pictures that are too small for it, the box itself is returned.

    Raises:
        GmaeToolsError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise GmaeToolsError("grabcut needs OpenCV: pip install 'gmae-tools[opencv]'") from None
    height, width = photo.shape[:2]
    top, left = round(height * GRABCUT_MARGIN), round(width * GRABCUT_MARGIN)
    labels = np.full((height, width), cv2.GC_BGD, np.uint8)
    labels[top : height - top, left : width - left] = cv2.GC_PR_FGD
    if min(height, width) >= _LEAST_SIDE:
        cv2.setRNGSeed(0)  # GrabCut initialises its clusters of colours at random
        back, front = np.zeros((1, 65)), np.zeros((1, 65))  # mixtures of colours, which GrabCut overwrites
        no_box = (0, 0, 0, 0)  # the labels contain the box
        cv2.grabCut(photo[..., ::-1].copy(), labels, no_box, back, front, _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)


CLASSICAL: dict[str, Predictor] = dict(
    zip(SEGMENTERS, (centre_prior, everything, otsu, otsu_border, spectral_residual, grabcut), strict=True)
)


@dataclass(frozen=True)
class RegionMethod(Method):
    """A segmenter: one of `names.MASKS`, or the user's function under another name."""

    @classmethod
    def named(cls, name: str, model: ModelSource | None, looks: Looks) -> RegionMethod:
        """Make the segmenter of one of `names.MASKS`. Classical ones ignore model and looks."""
        return cls(name) if name in SEGMENTERS else cls(name, model, looks)

    @property
    def threshold(self) -> Threshold:
        """The default threshold that turns the map into a mask; 0.5 for a user's function."""
        return 0.5 if self.function else MASK_THRESHOLDS[self.name]

    def settings(self) -> dict[str, object]:
        return {"method": self.name, **super().settings()}

    def of_views(self, views: Views) -> np.ndarray:
        return views.foreground(self.name)

    def classical(self) -> Predictor:
        return CLASSICAL[self.name]


def _grey(photo: np.ndarray) -> np.ndarray:
    """Compute the luminance of a photograph, uint8 `[H, W]`."""
    from skimage.color import rgb2gray

    return np.rint(rgb2gray(photo) * 255).astype(np.uint8)


def _bright_side(photo: np.ndarray) -> np.ndarray:
    return binarize(_grey(photo) / 255, "otsu")


def _enlarge(small: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretch a map to [0, 1], and resize it bilinearly to float32 `[height, width]`."""
    from PIL import Image

    span = np.ptp(small)
    unit = (small - small.min()) / span if span > 0 else np.zeros_like(small)
    return np.asarray(Image.fromarray(unit.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
