"""Segmenters, as methods of the benchmark: readouts of a model's Gaussians, and classical ones to compare them with.

A classical segmenter is a function from a photograph, uint8 RGB `[H, W, 3]`, to the probability `[H, W]` in [0, 1] that
a pixel belongs to the foreground. No method has ever seen a mask.
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

PRIOR_SIGMA = 0.25  # of the centre prior, in widths and heights of the picture
GRABCUT_MARGIN, _GRABCUT_ROUNDS = 0.1, 5  # of each side (0.05 to 0.25 tried on ECSSD-dev, odd ids); iterations
_SPECTRUM_SIDE, _SPECTRUM_SIGMA = 64, 2.5  # px of the picture whose spectrum is taken, and of the final blur there
_LEAST_SIDE = 8  # px; below that GrabCut has too few pixels for its mixtures of colours


def centre_prior(photo: np.ndarray) -> np.ndarray:
    """A Gaussian blob in the middle, whatever the picture: sigma a quarter of its width and height."""
    y, x = (np.exp(-((((np.arange(side) + 0.5) / side - 0.5) / PRIOR_SIGMA) ** 2) / 2) for side in photo.shape[:2])
    return np.outer(y, x).astype(np.float32)


def everything(photo: np.ndarray) -> np.ndarray:
    """Every pixel is foreground."""
    return np.ones(photo.shape[:2], np.float32)


def otsu(photo: np.ndarray) -> np.ndarray:
    """Otsu's threshold on luminance; the bright side is the foreground."""
    return _bright_side(photo).astype(np.float32)


def otsu_border(photo: np.ndarray) -> np.ndarray:
    """Otsu's threshold on luminance; the side with less of the border is the foreground, of equal ones the bright."""
    bright = _bright_side(photo)
    border = np.concatenate([bright[0], bright[-1], bright[1:-1, 0], bright[1:-1, -1]])
    return np.asarray(bright if border.mean() <= 0.5 else ~bright, np.float32)


def spectral_residual(photo: np.ndarray) -> np.ndarray:
    """Where the picture's spectrum departs from its own smooth course.

    Hou and Zhang, "Saliency detection: a spectral residual approach", CVPR 2007: log amplitudes less their 3 x 3 means,
    transformed back with the old phases, squared and blurred; then stretched to span 0 to 1.
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
    """OpenCV's GrabCut (Rother, Kolmogorov and Blake, 2004), started from a centred box; the box where it cannot start.

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
        cv2.setRNGSeed(0)  # its clusters of colours begin at random
        ground, figure = np.zeros((1, 65)), np.zeros((1, 65))  # mixtures of colours, made anew
        no_box = (0, 0, 0, 0)  # the labels have it
        cv2.grabCut(photo[..., ::-1].copy(), labels, no_box, ground, figure, _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)


CLASSICAL: dict[str, Predictor] = dict(
    zip(SEGMENTERS, (centre_prior, everything, otsu, otsu_border, spectral_residual, grabcut), strict=True)
)


@dataclass(frozen=True)
class RegionMethod(Method):
    """A segmenter by its name, one of `names.MASKS`, or anyone's function under a name of its own."""

    @classmethod
    def named(cls, name: str, model: ModelSource | None, looks: Looks) -> RegionMethod:
        """The segmenter of a name; a classical one leaves out the model."""
        return cls(name) if name in SEGMENTERS else cls(name, model, looks)

    @property
    def threshold(self) -> Threshold:
        """What makes its map a mask unless another threshold is asked for; 0.5 for anyone's function."""
        return 0.5 if self.function else MASK_THRESHOLDS[self.name]

    def settings(self) -> dict[str, object]:
        return {"method": self.name, **super().settings()}

    def of_views(self, views: Views) -> np.ndarray:
        return views.foreground(self.name)

    def classical(self) -> Predictor:
        return CLASSICAL[self.name]


def _grey(photo: np.ndarray) -> np.ndarray:
    """Luminance, uint8 `[H, W]`."""
    from skimage.color import rgb2gray

    return np.rint(rgb2gray(photo) * 255).astype(np.uint8)


def _bright_side(photo: np.ndarray) -> np.ndarray:
    return binarize(_grey(photo) / 255, "otsu")


def _enlarge(small: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map stretched to [0, 1], float32 `[height, width]`, bilinear."""
    from PIL import Image

    span = np.ptp(small)
    unit = (small - small.min()) / span if span > 0 else np.zeros_like(small)
    return np.asarray(Image.fromarray(unit.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
