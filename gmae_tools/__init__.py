"""Gaussian masked autoencoders: pretrain them, and see what their 3-D Gaussians say about a photograph.

    import gmae_tools as gt

    model = gt.load("gmae-tiny")  # a name, a folder, hf://ORG/NAME@REV, or a .ckpt of the authors' code
    scene = model.predict("photo.jpg")  # a path, PIL, array or tensor, or a list of them
    scene.layers(k=[32, 64], n=8).sheet().save("layers.png")
    scene.edges("closed-regions"), scene.mask(), scene.boxes(), scene.density(), scene.refine(50)
    gt.read("someone.ply").edges(layers=16)  # Gaussians from elsewhere
    gt.evaluate_edges(my_detector, "bsds500", split="val")  # anyone's detector
    gt.evaluate_masks(my_segmenter, "ecssd")

Importing this package loads nothing heavy: each of these names imports what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gmae_tools.benchmarks.evaluate import evaluate_edges, evaluate_masks
    from gmae_tools.camera import Camera
    from gmae_tools.checkpoints import load
    from gmae_tools.formats import read
    from gmae_tools.gaussians import Gaussians
    from gmae_tools.prediction import predict
    from gmae_tools.scene import Scene

__version__ = "0.1.0"

__all__ = ["Camera", "Gaussians", "Scene", "__version__", "evaluate_edges", "evaluate_masks", "load", "predict", "read"]

# No module may have one of these names: once imported, it would take its place.
_HOMES = {
    "Camera": "camera",
    "Gaussians": "gaussians",
    "Scene": "scene",
    "evaluate_edges": "benchmarks.evaluate",
    "evaluate_masks": "benchmarks.evaluate",
    "load": "checkpoints",
    "predict": "prediction",
    "read": "formats",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
