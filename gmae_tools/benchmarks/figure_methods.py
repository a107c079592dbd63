"""Segmenters: functions from a photograph, uint8 RGB `[H, W, 3]`, to the probability of figure `[H, W]` in [0, 1].

The classical ones look at the photograph, or not even that; those of `GaussianFigure` only at the Gaussians a model
predicts from it. None has ever seen a mask.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import resize
from gmae_tools.metrics.regions import Threshold, binarize
from gmae_tools.model import GMAE
from gmae_tools.splatting import Backend
from gmae_tools.zeroshot.figure_ground import METHODS
from gmae_tools.zeroshot.views import Looks, Views, Watch, look

Segmenter = Callable[[np.ndarray], np.ndarray]

PRIOR_SIGMA = 0.25  # of the centre prior, in widths and heights of the picture
GRABCUT_MARGIN, _GRABCUT_ROUNDS = 0.1, 5  # of each side (0.05 to 0.25 tried on ECSSD-dev, odd ids); iterations
_SPECTRUM_SIDE, _SPECTRUM_SIGMA = 64, 2.5  # px of the picture whose spectrum is taken, and of the final blur there
_LEAST_SIDE = 8  # px; below that GrabCut has too few pixels for its mixtures of colours


def centre_prior(photo: np.ndarray) -> np.ndarray:
    """A Gaussian blob in the middle, whatever the picture: sigma a quarter of its width and height."""
    y, x = (np.exp(-((((np.arange(side) + 0.5) / side - 0.5) / PRIOR_SIGMA) ** 2) / 2) for side in photo.shape[:2])
    return np.outer(y, x).astype(np.float32)


def everything(photo: np.ndarray) -> np.ndarray:
    """All figure."""
    return np.ones(photo.shape[:2], np.float32)


def otsu(photo: np.ndarray) -> np.ndarray:
    """Otsu's threshold on luminance; the bright side is the figure."""
    return _bright_side(photo).astype(np.float32)


def otsu_border(photo: np.ndarray) -> np.ndarray:
    """The same; the side that has the smaller part of the picture's border is the figure, the bright one if equal."""
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


CLASSICAL: dict[str, Segmenter] = {
    "centre-prior": centre_prior,
    "everything": everything,
    "otsu": otsu,
    "otsu-border": otsu_border,
    "spectral-residual": spectral_residual,
    "grabcut": grabcut,
}
NAMES = (*METHODS, *CLASSICAL)

# The threshold that makes each one's probability its mask: a level, or Otsu's of each map. (That of the readouts of the
# Gaussians is in the probability: they are calibrated so that 0.5 is Otsu's threshold of their scores.)
THRESHOLDS: dict[str, Threshold] = {**dict.fromkeys(NAMES, 0.5), "spectral-residual": "otsu"}


class GaussianFigure:
    """Segmenters of one model; they share what they find out about the photograph at hand.

    Args:
        model: in evaluation mode.
        looks: scales and mirroring to average over, and refinement; by default the whole photograph once.
        backend: that draws the Gaussians; see `splatting.rasterize`.
        watch: of `views.look`.
    """

    def __init__(self, model: GMAE, looks: Looks | None = None, backend: Backend = "auto", watch: Watch = iter) -> None:
        self.model, self.looks, self.backend, self.watch = model, looks or Looks((1,)), backend, watch
        self._seen: tuple[np.ndarray, Views] | None = None

    def segmenter(self, method: str) -> Segmenter:
        """The segmenter of one of `zeroshot.figure_ground.METHODS`."""
        return lambda photo: self._look(photo).foreground(method)

    def _look(self, photo: np.ndarray) -> Views:
        if self._seen is None or self._seen[0] is not photo:
            self._seen = photo, look(self.model, photo, self.looks, backend=self.backend, watch=self.watch)
        return self._seen[1]


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
