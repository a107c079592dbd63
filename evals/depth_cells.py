"""What is measured of depth itself, in parts that are kept: for `depth.py`, `scoreboard.py` and `depth_choices.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.color import rgb2gray

from evals.depth_consistency import depth_map
from evals.depth_ranks import (
    area_under_curve,
    common_share,
    distance_to_centre,
    height_in_frame,
    mean_of_others,
    rank_correlation,
    standard_ranks,
)
from evals.measurements import Cell, Development, Measured, error, means, names_digest
from gmae_tools.benchmarks.pipeline import ModelSource
from gmae_tools.benchmarks.regions import fit
from gmae_tools.datasets.saliency import PhotoAndMask, Saliency, Split, read_mask
from gmae_tools.images import read_image, resize
from gmae_tools.metrics.regions import score_regions
from gmae_tools.model import GMAE
from gmae_tools.prediction import predict_gaussians, predict_scene
from gmae_tools.zeroshot.figure_ground import NEAR_SIGMA, foreground_probability

SIDE = 96  # px of the depth maps
ORDER = (
    "luminance",
    "height",
    "centre",
    "common",
    "auc",
    "auc_mean",
    "auc_rest",
    "auc_smooth",
    "depth_iou",
)  # of depth itself
ODS = ("l16", "l8", "l16_tiles", "l8_tiles", "depth_edges", "regions")
MEASURES = dict.fromkeys((*ORDER, *ODS, "flip", "shift", "other"), 3) | {"psnr": 2, "psnr_masked": 2}
# Columns of the table in CSV: each measure and its standard error, and what the ODS are of.
COLUMNS: dict[str, int | None] = {"candidate": None} | {
    name: decimals for measure, decimals in MEASURES.items() for name in (measure, f"{measure}_se")
} | {"every": None, "thresholds": None, "looks": None}  # fmt: skip


@dataclass(frozen=True)
class DepthMaps:
    """What depth goes with in the photographs of BSDS500 val."""

    photographs: Development

    def settings(self) -> dict[str, Any]:
        return {"cell": "depth-maps", "photographs": self.photographs.digest(), "side": SIDE}

    def measure(self, source: ModelSource, folder: Path) -> Measured:
        model = source.model
        places = {"height": height_in_frame(SIDE, SIDE), "centre": distance_to_centre(SIDE, SIDE)}
        samples: dict[str, list[float]] = {name: [] for name in ("luminance", *places)}
        maps = []
        for path in self.photographs.photos():
            photo = read_image(path)
            depth = small_depth(model, photo)
            against = {"luminance": rgb2gray(resize(photo, SIDE, SIDE)), **places}
            for name, other in against.items():
                samples[name].append(rank_correlation(depth, other))
            maps.append(standard_ranks(depth))
        share, share_error = common_share(np.stack(maps))
        return Measured(with_errors(samples) | {"common": share, "common_se": share_error}, samples)


@dataclass(frozen=True)
class Nearness:
    """Whether what is near is the figure, on a half of ECSSD."""

    data: str
    root: str | None = None
    split: Split = "odd"
    every: int = 1

    def settings(self) -> dict[str, Any]:
        names = names_digest([pair.name for pair in self._pairs()])
        return {"cell": "nearness", "split": self.split, "photographs": names, "side": SIDE, "blur": NEAR_SIGMA}

    def _pairs(self) -> list[PhotoAndMask]:
        return Saliency(self.data, self.root).pairs(self.split)[:: self.every]

    def measure(self, source: ModelSource, folder: Path) -> Measured:
        model = source.model
        maps, smooth, figures, overlaps = [], [], [], []
        for pair in self._pairs():
            photo, truth = read_image(pair.photo), read_mask(pair.mask)
            scene = predict_scene(model, photo)
            nearness = -depth_map(scene.gaussians, model.camera, SIDE, SIDE)[0]
            maps.append(standard_ranks(nearness))
            smooth.append(standard_ranks(ndimage.gaussian_filter(nearness, NEAR_SIGMA * SIDE, mode="nearest")))
            figures.append(fit(truth.astype(float), SIDE, SIDE) >= 0.5)
            found = foreground_probability(scene, method="depth")
            overlaps.append(score_regions(fit(found, *truth.shape), truth).iou)
        near, blurred = np.stack(maps), np.stack(smooth)
        common = mean_of_others(near)
        samples = {
            name: [area_under_curve(one, figure) for one, figure in zip(scores, figures, strict=True)]
            for name, scores in (
                ("auc", near),
                ("auc_mean", common),
                ("auc_rest", near - common),
                ("auc_smooth", blurred - mean_of_others(blurred)),
            )
        } | {"depth_iou": overlaps}
        return Measured(with_errors(samples), samples)


def small_depth(model: GMAE, photo: np.ndarray) -> np.ndarray:
    """Expected depth `[SIDE, SIDE]` of the Gaussians of a photograph, uint8 RGB `[H, W, 3]`."""
    depth: np.ndarray = depth_map(predict_gaussians(model, photo), model.camera, SIDE, SIDE)[0]
    return depth


def with_errors(samples: Mapping[str, list[float]]) -> dict[str, float]:
    """The mean of each figure over the pictures, and its standard error under `<name>_se`."""
    return means(dict(samples)) | {f"{name}_se": error(np.array(values)) for name, values in samples.items()}


def depth_cells(bsds: str | None, ecssd: str, every: int = 1, split: Split = "odd") -> dict[str, Cell]:
    """What is measured of depth itself."""
    return {"depth-maps": DepthMaps(Development(bsds)), "nearness": Nearness(ecssd, bsds, split, every)}
