# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a photograph to your own detector's score
#
# Ten minutes with `gmae-tools`: a model turns a photograph into 3-D Gaussians that come in an order of depth, and everything
# else is read out of these Gaussians. At the end an edge detector of your own is scored as on BSDS500.
#
# On a hosted notebook, run the next line first; a machine without a GPU is enough.

# %% tags=["skip-execution"]
# %pip install --quiet gmae-tools

# %% [markdown]
# ## A photograph becomes a scene
#
# `load` takes the name of an embedded model, a folder, `hf://ORG/NAME`, or a `.ckpt` of the authors' code. `predict` takes a
# path, a PIL picture, an array or a tensor. The photograph here is the one that comes with the package; put a path of your own
# in its place.

# %%
from pathlib import Path

import gmae_tools as gt

photo = Path(gt.__file__).parent / "assets" / "demo.jpg"
model = gt.load("gmae-tiny")
scene = model.predict(photo)
scene

# %% [markdown]
# A `Scene` holds the Gaussians, the camera that sees them, the size of the picture, and the photograph. In a notebook it shows
# the photograph beside what the Gaussians draw.

# %%
scene.gaussians.means.shape, scene.camera.kind, (scene.height, scene.width)

# %% [markdown]
# ## Layers
#
# What do the nearest 64 Gaussians draw, and the nearest 256? And each eighth of them, alone?

# %%
layers = scene.layers(k=[64, 256, scene.k], n=8)
layers

# %%
for k, score in zip(layers.ks, layers.scores, strict=True):
    print(f"the nearest {k:5,}: {score.psnr:5.1f} dB, {score.coverage:4.0%} of the picture covered")

# %% [markdown]
# The pictures are tensors, `[number, 3, H, W]`, premultiplied by their alphas; `layers.sheet()` is the sheet as a PIL picture.

# %%
layers.pictures.firsts.shape, layers.pictures.layers.shape

# %% [markdown]
# ## Edges
#
# l@16 sorts the Gaussians into 16 layers, and finds edges where the layer of the pixels jumps, as in the paper. The regions of
# the strongest Gaussians do better; closed, they part the picture.

# %%
scene.edges("layers", layers=16)

# %%
scene.edges("closed-regions")

# %% [markdown]
# ## Figure and ground
#
# The Gaussians are grouped by colour, against those at the picture's border. `mask()` knows the mask, the probability behind
# it, and boxes.

# %%
mask = scene.mask()
mask

# %%
mask.mask.shape, mask.probability.max(), mask.boxes

# %% [markdown]
# ## Sharper
#
# Some steps of gradient descent fit the Gaussians to the photograph; their order of depth stays.

# %%
refined = scene.refine(20)
refined

# %% [markdown]
# ## Your own detector
#
# Whatever maps a photograph, uint8 RGB `[H, W, 3]`, to edges in [0, 1], `[H, W]`, can be scored by the boundary benchmark of
# BSDS500: exact matching, 33 thresholds. This one is the gradient of the luminance.

# %%
import numpy as np
from skimage.color import rgb2gray
from skimage.filters import sobel


def gradient(photo: np.ndarray) -> np.ndarray:
    strength = sobel(rgb2gray(photo))
    return strength / max(strength.max(), 1e-6)


def regions(photo: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(photo).edges("closed-regions"))


# %% [markdown]
# If the environment variable `GMAE_TOOLS_DATA` names a folder with BSDS500 (`gmae-tools datasets fetch bsds500` gets it), every
# tenth photograph of its validation set is taken. Otherwise six drawn pictures are laid out as BSDS500 is, with a
# flawless annotator: enough to see how it goes, but its scores mean nothing.

# %%
from PIL import Image
from scipy.io import savemat

from gmae_tools.datasets.bsds500 import BSDS500


def draw_dataset(root: Path, count: int = 6, side: int = 128) -> None:
    """Discs on a background, both with noise, and their outlines, in the folders and files of BSDS500."""
    chance = np.random.default_rng(0)
    for kind in ("images", "groundTruth"):
        (root / "BSDS500" / "data" / kind / "val").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        y, x = np.mgrid[:side, :side]
        (row, column), radius = chance.uniform(0.3, 0.7, 2) * side, chance.uniform(0.15, 0.3) * side
        disc = (y - row) ** 2 + (x - column) ** 2 < radius**2
        inner, outer = chance.uniform(0, 255, (2, 3))
        picture = np.where(disc[..., None], inner, outer) + chance.normal(0, 12, (side, side, 3))
        outline = disc & ~(np.roll(disc, 1, 0) & np.roll(disc, -1, 0) & np.roll(disc, 1, 1) & np.roll(disc, -1, 1))
        annotators = np.empty((1, 1), object)
        annotators[0, 0] = {"Segmentation": disc.astype(np.uint16) + 1, "Boundaries": outline.astype(np.uint8)}
        data = root / "BSDS500" / "data"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(data / "images" / "val" / f"{number}.jpg")
        savemat(data / "groundTruth" / "val" / f"{number}.mat", {"groundTruth": annotators})


# %%
from gmae_tools.benchmarks.pipeline import RunOptions
from gmae_tools.errors import GmaeToolsError

try:
    BSDS500().images("val")
    root, options = None, RunOptions(every=10, overwrite=True)
except GmaeToolsError as missing:
    print(missing)
    root, options = Path("drawn-data"), RunOptions(overwrite=True)
    draw_dataset(root)

# %%
results = [gt.evaluate_edges(detector, split="val", root=root, options=options) for detector in (gradient, regions)]
results[0]

# %%
import pandas as pd

pd.concat([each.to_pandas() for each in results]).round(3)

# %% [markdown]
# ODS chooses one threshold for all photographs, OIS the best for each, AP is the area under the curve. The maps and scores
# lie in `evaluations/`; a detector that has changed needs another name, or `overwrite=True`, as here.

# %%
figure = results[1].plot()
figure

# %% [markdown]
# ## Other people's Gaussians
#
# A `.ply` of 3-D Gaussian splatting or of ml-sharp, a `.splat`, or an `.npz` becomes a scene, too, and everything above works
# on it. Here it is the one that we write ourselves; a file that says nothing of its camera needs
# `gt.read(path, camera="pinhole", size=(480, 640))`.

# %%
scene.write("scene.ply")
other = gt.read("scene.ply")
other

# %%
other.layers(k=[64, 256], n=4)

# %% [markdown]
# The same on the command line, for whole folders: `gmae-tools layers`, `edges`, `segment`, `view`; each has `--help`.
