"""Edge detectors: functions from a photograph, uint8 RGB `[H, W, 3]`, to a soft map `[H, W]` in [0, 1].

The classical ones look at the photograph; those of `GaussianEdges` only at the Gaussians a model predicts from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import GMAE
from gmae_tools.splatting import Backend
from gmae_tools.zeroshot.contours import Gradient, gradient, suppress_nonmaxima
from gmae_tools.zeroshot.edges import CLOSED, READOUTS, RIDGE_SIGMA
from gmae_tools.zeroshot.views import Looks, Views, Watch, look

Detector = Callable[[np.ndarray], np.ndarray]

_CANNY_SIGMA, _CANNY_LOW, _CANNY_FULL = 1.4, 0.4, 500.0  # px, low / high threshold, high threshold at strength 1
_CANNY_LEVELS = np.arange(1, 100) / 100  # the thresholds of the benchmark


def sobel(photo: np.ndarray) -> np.ndarray:
    """Sobel magnitude of the grey picture (scikit-image) times 2, without non-maximum suppression."""
    from skimage.filters import sobel as magnitude

    return _unit(2 * magnitude(_grey(photo)))


def sobel_nms(photo: np.ndarray) -> np.ndarray:
    """The same with non-maximum suppression."""
    from skimage.filters import sobel_h, sobel_v

    down, across = sobel_h(_grey(photo)), sobel_v(_grey(photo))
    norm = np.maximum(np.hypot(across, down), 1e-12)
    return _unit(2 * suppress_nonmaxima(Gradient(norm / np.sqrt(2), across / norm, down / norm)))


def soft_canny(photo: np.ndarray) -> np.ndarray:
    """Magnitude of Gaussian derivatives (sigma 2 px) of the grey picture times 5, with non-maximum suppression."""
    return _unit(5 * suppress_nonmaxima(gradient(_grey(photo), 2.0)))


def canny(photo: np.ndarray) -> np.ndarray:
    """OpenCV's Canny, swept: a pixel holds the highest t at which it is an edge (sigma 1.4 px, high 500 t, low 200 t).

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
        strength[cv2.Canny(smooth, _CANNY_LOW * high, high) > 0] = level + 0.002  # passes `>= level` when rounded
    return strength


CLASSICAL: dict[str, Detector] = {"sobel": sobel, "sobel-nms": sobel_nms, "canny": canny, "soft-canny": soft_canny}
GAUSSIAN = (*READOUTS, *CLOSED)
NAMES = (*GAUSSIAN, *CLASSICAL)

# How each detector thins its maps before they are scored: results are not comparable without it.
SUPPRESSION = {
    "sobel": "none",
    "sobel-nms": "along the gradient",
    "canny": "OpenCV's, along the gradient",
    "soft-canny": "along the gradient",
    **dict.fromkeys(GAUSSIAN, f"crests of the joined views, sigma {RIDGE_SIGMA:g} px"),
}


class GaussianEdges:
    """Edge detectors of one model; they share what they find out about the photograph at hand.

    Args:
        model: in evaluation mode.
        looks: scales and mirroring to average over, and refinement.
        backend: that draws the Gaussians; see `splatting.rasterize`.
        watch: of `views.look`.
    """

    def __init__(self, model: GMAE, looks: Looks | None = None, backend: Backend = "auto", watch: Watch = iter) -> None:
        self.model, self.looks, self.backend, self.watch = model, looks or Looks(), backend, watch
        self._seen: tuple[np.ndarray, Views] | None = None

    def detector(self, readout: str, layers: Sequence[int]) -> Detector:
        """The detector of a readout's name (`GAUSSIAN`): views joined, then thinned to their crests (and closed).

        Args:
            layers: numbers of depth groups, for `layers`; their maps are averaged.
        """
        return lambda photo: self._look(photo).edges(readout, layers)

    def _look(self, photo: np.ndarray) -> Views:
        if self._seen is None or self._seen[0] is not photo:
            self._seen = photo, look(self.model, photo, self.looks, backend=self.backend, watch=self.watch)
        return self._seen[1]


def _grey(photo: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2gray

    grey: np.ndarray = rgb2gray(photo)
    return grey


def _unit(strength: np.ndarray) -> np.ndarray:
    return np.clip(strength, 0, 1).astype(np.float32)
