"""Edge detectors: functions from a photograph, uint8 RGB `[H, W, 3]`, to a soft map `[H, W]` in [0, 1].

The classical ones look at the photograph; those of `GaussianEdges` only at the Gaussians a model predicts from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import GMAE
from gmae_tools.splatting import Backend
from gmae_tools.zeroshot.contours import Gradient, close_contours, gradient, suppress_nonmaxima, thin_ridges
from gmae_tools.zeroshot.edges import CLOSED, DAMPING, READOUTS
from gmae_tools.zeroshot.views import Looks, Viewer, Watch

Detector = Callable[[np.ndarray], np.ndarray]

_CANNY_SIGMA, _CANNY_LOW, _CANNY_FULL = 1.4, 0.4, 500.0  # px, low / high threshold, high threshold at strength 1
RIDGE_SIGMA = 1.5  # px; views of a photograph agree on an edge to about a pixel
_HALF = 0.25
_REACH = 2  # px between the crests and the contours of the same map, at most
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
        self.model, self.looks, self.backend = model, looks or Looks(), backend
        self._viewer = Viewer(self.model, self.looks, backend=backend, watch=watch)

    def detector(self, readout: str, layers: Sequence[int]) -> Detector:
        """The detector of a readout's name (`GAUSSIAN`): views joined, then thinned to their crests (and closed).

        Args:
            layers: numbers of depth groups, for `layers`; their maps are averaged.
        """
        parts: list[tuple[int, ...]] = [(count,) for count in layers] if readout == "layers" else [()]

        end = close if readout in CLOSED else finish

        def detect(photo: np.ndarray) -> np.ndarray:
            return end(np.mean([self._strength(readout, part, photo) for part in parts], axis=0))

        return detect

    def _strength(self, readout: str, layers: tuple[int, ...], photo: np.ndarray) -> np.ndarray:
        read, camera, backend = (READOUTS | CLOSED)[readout], self.model.camera, self.backend
        return self._viewer.read(
            photo, (readout, layers), lambda g, h, w: read(g, camera, h, w, layers, backend=backend)
        )


def finish(strength: np.ndarray, sigma: float = RIDGE_SIGMA) -> np.ndarray:
    """Joined views `[H, W]` in [0, 1] thinned to their crests, and stretched.

    Stretching moves weak edges apart, which the benchmark's even thresholds would lump together; 0 and 1 stay.
    """
    return _stretch(thin_ridges(strength, sigma))


def close(strength: np.ndarray, sigma: float = RIDGE_SIGMA) -> np.ndarray:
    """The same crests, each as the mean of its own strength and of the contours that close around regions there.

    The views are thereby asked what they agree on over the whole photograph: which regions their edges keep apart.
    """
    crests = finish(strength, sigma)
    contours = _stretch(close_contours(strength, sigma, damping=DAMPING * strength.size))
    around = ndimage.maximum_filter(contours, 2 * _REACH + 1)
    return np.where(crests > 0, (crests + around) / 2, 0).astype(np.float32)


def _stretch(strength: np.ndarray) -> np.ndarray:
    return strength * (1 + _HALF) / (strength + _HALF)


def _grey(photo: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2gray

    grey: np.ndarray = rgb2gray(photo)
    return grey


def _unit(strength: np.ndarray) -> np.ndarray:
    return np.clip(strength, 0, 1).astype(np.float32)
