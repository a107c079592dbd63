"""Edge detectors as methods of the benchmark: readouts of a model's Gaussians, and classical ones for comparison.

A classical detector is a function from a photograph, uint8 RGB `[H, W, 3]`, to a soft map `[H, W]` in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmae_tools.benchmarks.names import EDGE_DETECTORS, THRESHOLDS
from gmae_tools.benchmarks.pipeline import Method, ModelSource, Predictor
from gmae_tools.errors import GmaeToolsError
from gmae_tools.zeroshot.contours import Gradient, gradient, suppress_nonmaxima
from gmae_tools.zeroshot.edges import RIDGE_SIGMA, outline
from gmae_tools.zeroshot.histograms import histogram_gradient
from gmae_tools.zeroshot.names import EDGE_READOUTS, LAYERS
from gmae_tools.zeroshot.views import Looks, Views

_CANNY_SIGMA = 1.4  # px
_CANNY_LOW = 0.4  # the low threshold as a share of the high one
_CANNY_FULL = 500.0  # the high threshold at strength 1
_CANNY_LEVELS = np.arange(1, THRESHOLDS + 1) / (THRESHOLDS + 1)  # the thresholds of the benchmark


def sobel(photo: np.ndarray) -> np.ndarray:
    """Compute twice the Sobel magnitude of the grey picture (scikit-image), without non-maximum suppression."""
    from skimage.filters import sobel as magnitude

    return _unit(2 * magnitude(_grey(photo)))


def sobel_nms(photo: np.ndarray) -> np.ndarray:
    """Compute the Sobel magnitude as `sobel` does, with non-maximum suppression along the gradient."""
    from skimage.filters import sobel_h, sobel_v

    down, across = sobel_h(_grey(photo)), sobel_v(_grey(photo))
    norm = np.maximum(np.hypot(across, down), 1e-12)
    return _unit(2 * suppress_nonmaxima(Gradient(norm / np.sqrt(2), across / norm, down / norm)))


def soft_canny(photo: np.ndarray) -> np.ndarray:
    """Compute 5 times the Gaussian gradient (sigma 2 px) of the grey picture, with non-maximum suppression."""
    return _unit(5 * suppress_nonmaxima(gradient(_grey(photo), 2.0)))


def canny(photo: np.ndarray) -> np.ndarray:
    """Run OpenCV's Canny at all thresholds of the benchmark, and keep the highest at which a pixel is an edge.

    At the threshold t, the high threshold of Canny is 500 t and the low one 200 t, after a blur of 1.4 px.

    Raises:
        GmaeToolsError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise GmaeToolsError("canny needs OpenCV: pip install 'gmae-tools[opencv]'") from None
    smooth = cv2.GaussianBlur(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), (0, 0), _CANNY_SIGMA)
    strength = np.zeros(photo.shape[:2], np.float32)
    for level in _CANNY_LEVELS:  # edges at a higher threshold are edges at the lower ones too
        high = _CANNY_FULL * level
        strength[cv2.Canny(smooth, _CANNY_LOW * high, high) > 0] = level + 0.002  # stays `>= level` after rounding
    return strength


def histograms(photo: np.ndarray) -> np.ndarray:
    """Compute what `regions-and-photo` knows of the photograph itself, outlined as readouts are."""
    return outline(histogram_gradient(photo))


DETECTORS = (sobel, sobel_nms, canny, soft_canny, histograms)
CLASSICAL: dict[str, Predictor] = dict(zip(EDGE_DETECTORS, DETECTORS, strict=True))

# How each detector thins its maps before they are scored: results are not comparable without it.
SUPPRESSION = {
    "sobel": "none",
    "sobel-nms": "along the gradient",
    "canny": "OpenCV's, along the gradient",
    "soft-canny": "along the gradient",
    **dict.fromkeys(("histograms", *EDGE_READOUTS), f"surround suppressed, crests (sigma {RIDGE_SIGMA:g} px), closed"),
}


@dataclass(frozen=True)
class EdgeMethod(Method):
    """An edge detector: one of `names.EDGES`, or the user's function under another name.

    Attributes:
        layers: numbers N of depth groups for the readout `layers`, whose maps l@N are averaged; else None.
    """

    layers: tuple[int, ...] | None = None

    @classmethod
    def named(
        cls, name: str, model: ModelSource | None, looks: Looks, layers: tuple[int, ...] = (LAYERS,)
    ) -> EdgeMethod:
        """Make the detector of one of `names.EDGES`. Classical ones ignore model and looks, all but `layers` layers."""
        if name in EDGE_DETECTORS:
            return cls(name)
        return cls(name, model, looks, layers=layers if name == "layers" else None)

    @property
    def label(self) -> str:
        """The name in tables, files and sheets: `l@16` for the readout `layers` with 16 groups, else `name`."""
        return f"l@{','.join(map(str, self.layers))}" if self.layers else self.name

    @property
    def suppression(self) -> str | None:
        """How the maps are thinned before they are scored; None for a user's function, whose maps are not changed."""
        return None if self.function else SUPPRESSION[self.name]

    def settings(self) -> dict[str, object]:
        return {"readout": self.name, "layers": self.layers, **super().settings()}

    def of_views(self, views: Views) -> np.ndarray:
        return views.edges(self.name, self.layers or ())

    def classical(self) -> Predictor:
        return CLASSICAL[self.name]


def _grey(photo: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2gray

    return rgb2gray(photo)


def _unit(strength: np.ndarray) -> np.ndarray:
    return np.clip(strength, 0, 1).astype(np.float32)
