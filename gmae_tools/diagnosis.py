"""What this machine has, what of it works, and what is missing; `gmae-tools doctor` prints it."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import platform
import re
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from gmae_tools import __version__
from gmae_tools.camera import Splats, project
from gmae_tools.checkpoint_names import DEFAULT
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import one_line
from gmae_tools.prediction import has_bf16, predict_gaussians, resolve_device
from gmae_tools.splatting import Renderer, choose_backend, rasterize
from gmae_tools.splatting.backends import BackendStatus, describe_backends, find_nvcc
from gmae_tools.system.processes import cores

PICTURE_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3

_LIBRARIES = ("numpy", "timm", "accelerate", "numba", "scipy", "scikit-image", "gsplat")
_SIDE, _SPLATS = 64, 128  # side in px and number of splats of the scene that the self test renders


@dataclass(frozen=True)
class Device:
    """A processor or GPU: its name in torch, and a description."""

    name: str
    description: str


@dataclass(frozen=True)
class Trial:
    """The result of rendering a small scene, compared with the dense reference on the same device."""

    backend: Renderer
    device: str
    picture: float = math.nan  # largest difference of a value of the picture
    gradient: float = math.nan  # largest norm of the difference of a gradient, relative to the norm of the gradient
    first_seconds: float = math.nan  # of the first rendering, including compilation
    milliseconds: float = math.nan  # of a later one, forward and backward
    problem: str | None = None  # why it failed


@dataclass(frozen=True)
class Folder:
    """A folder that keeps files for later runs."""

    purpose: str
    path: str
    writable: bool


@dataclass(frozen=True)
class Diagnosis:
    """The content of the report of `gmae-tools doctor`."""

    versions: dict[str, str]  # by name, or why something cannot be used
    devices: list[Device]
    backends: list[BackendStatus]
    trials: list[Trial]
    checkpoints: list[str]  # names of the embedded ones
    folders: list[Folder]
    default: str  # checkpoint, device and backend of commands by default, in words
    problem: str | None  # why these do not work here

    def to_dict(self) -> dict[str, object]:
        """The content in plain types for JSON, which has no NaN."""
        document = asdict(self)
        for trial in document["trials"]:
            trial |= {key: None for key, value in trial.items() if value != value}
        return document


def diagnose() -> Diagnosis:
    """Examine this machine, and render with every usable backend; gsplat may be compiled for that."""
    from gmae_tools import checkpoint_names

    backends = describe_backends()
    trials = [try_backend(status.name) for status in backends if status.usable]
    found = versions(), devices(), backends, trials, checkpoint_names.embedded(), folders()
    return Diagnosis(*found, *try_defaults(trials))


def versions() -> dict[str, str]:
    """Versions of everything on which results or speed depend."""
    nvcc = find_nvcc()
    return {
        "gmae-tools": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "torchvision": _torchvision(),
        **{name: _version(name) for name in _LIBRARIES},
        "opencv": _optional("cv2", "canny and grabcut need", "opencv"),
        "pillow-heif": _optional("pillow_heif", "pictures in HEIC need", "heif"),
        "CUDA of torch": torch.version.cuda or "none",
        "CUDA toolkit": _nvcc_version(nvcc) if nvcc else "none",
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torchvision() -> str:
    """The version of torchvision, and whether its compiled operators fit this torch; nothing here needs them."""
    from gmae_tools.system.torchvision_ops import ensure_torchvision

    try:
        ensure_torchvision()
        import torchvision

        torchvision.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    except ImportError:
        return "not installed"
    except (RuntimeError, NotImplementedError):
        unfit = "" if ensure_torchvision() else "; not built for this torch, so timm can be imported by gmae-tools only"
        return f"{_version('torchvision')}, without its compiled operators (not needed{unfit})"
    return _version("torchvision")


def _optional(module: str, use: str, extra: str) -> str:
    """The version of an optional module, or what needs it and how to install it."""
    try:
        return str(importlib.import_module(module).__version__)
    except ImportError as error:
        return f"not usable ({one_line(error)}); {use} it: pip install 'gmae-tools[{extra}]'"


def _nvcc_version(nvcc: str) -> str:
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{nvcc} does not run ({one_line(error)})"
    release = re.search(r"release ([\d.]+)", said)
    return f"{release[1] if release else 'unknown'} ({nvcc})"


def devices() -> list[Device]:
    """The processor, and all CUDA GPUs that torch finds."""
    bf16 = "bf16" if has_bf16(torch.device("cpu")) else "no bf16"
    found = [Device("cpu", f"{_processor()}, {cores()} cores, of which torch uses {torch.get_num_threads()}, {bf16}")]
    for index in range(torch.cuda.device_count()):
        gpu, device = torch.cuda.get_device_properties(index), torch.device("cuda", index)
        memory = f"{gpu.total_memory / 2**30:.1f} GiB, capability {gpu.major}.{gpu.minor}"
        found.append(Device(str(device), f"{gpu.name}, {memory}, {'bf16' if has_bf16(device) else 'no bf16'}"))
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def folders() -> list[Folder]:
    """The folders of compiled kernels and downloaded checkpoints."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from torch.utils.cpp_extension import get_default_build_root

    from gmae_tools.splatting import kernels

    extensions = os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()
    paths = {"compiled CUDA kernels": extensions, "checkpoints from the hub": HF_HUB_CACHE}
    if hasattr(kernels.composite, "stats"):  # missing if numba is told not to compile
        paths = {"compiled CPU kernels": kernels.composite.stats.cache_path, **paths}
    return [Folder(purpose, str(path), _is_writable(Path(path))) for purpose, path in paths.items()]


def _is_writable(folder: Path) -> bool:
    """Whether files can be written in the folder, or it can be made if it is missing."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return existing.is_dir() and os.access(existing, os.W_OK)


def try_backend(backend: Renderer) -> Trial:
    """Render with one backend, gsplat on a GPU and the others on the CPU."""
    device = "cuda" if backend == "gsplat" else "cpu"
    try:
        truth = _render("dense", device)
        start = time.perf_counter()
        rendered = _render(backend, device)
        middle = time.perf_counter()
        _render(backend, device)
        end = time.perf_counter()
    except Exception as error:  # a broken installation raises anything
        return Trial(backend, device, problem=one_line(error))
    picture = (rendered[0] - truth[0]).abs().max().item()
    gradient = max(((a - b).norm() / b.norm()).item() for a, b in zip(rendered[1:], truth[1:], strict=True))
    wrong = not (picture < PICTURE_TOLERANCE and gradient < GRADIENT_TOLERANCE)
    problem = "renders a different picture than the dense reference" if wrong else None
    return Trial(backend, device, picture, gradient, middle - start, 1e3 * (end - middle), problem)


def _render(backend: Renderer, device: str) -> list[Tensor]:
    """The picture of the test scene, and the gradients of its mean square."""
    splats = _scene(device)
    inputs = [t.requires_grad_() for t in (splats.means, splats.conics, splats.colors, splats.opacities)]
    image = rasterize(splats, _SIDE, _SIDE, background=torch.ones(3), backend=backend).image
    return [tensor.cpu() for tensor in (image.detach(), *torch.autograd.grad(image.square().mean(), inputs))]


def _scene(device: str) -> Splats:
    """Round and elliptic splats all over the picture, the same ones in every call."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        numbers = torch.rand(1, _SPLATS, *shape, generator=generator, dtype=torch.float32)
        return (low + (high - low) * numbers).to(device)

    a, c = uniform(0.01, 0.5), uniform(0.01, 0.5)
    conics = torch.stack([a, uniform(-0.8, 0.8) * (a * c).sqrt(), c], -1)
    return Splats(uniform(0, _SIDE, 2), conics, uniform(7, 9), uniform(0, 1, 3), uniform(0.1, 0.9))


def try_defaults(trials: list[Trial]) -> tuple[str, str | None]:
    """The default checkpoint, device and backend in words, and why they do not work here, or None."""
    import numpy as np

    from gmae_tools import checkpoints

    device = resolve_device("auto")
    default = f"{DEFAULT} on {device}"
    try:
        renderer = choose_backend("auto", device)
        default = f"{default}, rendered by {renderer}"
        model = checkpoints.load(DEFAULT, device=device)
        splats = project(predict_gaussians(model, np.full((32, 48, 3), 128, np.uint8)), model.camera, 32, 48)
        rasterize(splats, 32, 48, background=torch.ones(3), backend=renderer)
    except GmaeToolsError as error:
        return default, str(error)
    return default, next((trial.problem for trial in trials if trial.backend == renderer), None)
