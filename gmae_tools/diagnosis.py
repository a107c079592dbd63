"""What there is on this machine, what of it works, and what is missing: the facts behind `gmae-tools doctor`."""

from __future__ import annotations

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
_SIDE, _SPLATS = 64, 128  # of the scene that the self test draws


@dataclass(frozen=True)
class Device:
    """A processor or GPU, in words."""

    name: str
    description: str


@dataclass(frozen=True)
class Trial:
    """What came of drawing a small scene, compared with the dense reference on the same device.

    Attributes:
        picture: largest difference of a value of the picture.
        gradient: largest difference of a tensor's gradient, relative to its norm.
        first_seconds: what the first drawing took, with whatever had to be compiled.
        milliseconds: what a later one took, forward and backward.
        problem: why it failed, or None.
    """

    backend: Renderer
    device: str
    picture: float = math.nan
    gradient: float = math.nan
    first_seconds: float = math.nan
    milliseconds: float = math.nan
    problem: str | None = None


@dataclass(frozen=True)
class Folder:
    """A folder in which something is kept for later runs."""

    purpose: str
    path: str
    writable: bool


@dataclass(frozen=True)
class Diagnosis:
    """All that `gmae-tools doctor` says.

    Attributes:
        versions: by name; what is missing says so.
        devices, backends, trials, folders: see there.
        checkpoints: names of those that came with the package.
        default: checkpoint, device and backend that commands take by default, in words.
        problem: why that does not work here, None if it does.
    """

    versions: dict[str, str]
    devices: list[Device]
    backends: list[BackendStatus]
    trials: list[Trial]
    checkpoints: list[str]
    folders: list[Folder]
    default: str
    problem: str | None

    def to_dict(self) -> dict[str, object]:
        """Plain types, for JSON; no number is NaN there."""
        document = asdict(self)
        for trial in document["trials"]:
            trial |= {key: None for key, value in trial.items() if value != value}
        return document


def diagnose() -> Diagnosis:
    """Look at everything, and draw with every backend that is usable; gsplat may have to be compiled for that."""
    from gmae_tools import checkpoint_names

    backends = describe_backends()
    trials = [try_backend(status.name) for status in backends if status.usable]
    found = versions(), devices(), backends, trials, checkpoint_names.embedded(), folders()
    return Diagnosis(*found, *try_defaults(trials))


def versions() -> dict[str, str]:
    """Of everything that results or speed depend on."""
    nvcc = find_nvcc()
    return {
        "gmae-tools": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "torchvision": _torchvision(),
        **{name: _version(name) for name in _LIBRARIES},
        "opencv": _opencv(),
        "pillow-heif": _heif(),
        "CUDA of torch": torch.version.cuda or "none",
        "CUDA toolkit": _nvcc_version(nvcc) if nvcc else "none",
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torchvision() -> str:
    """Its version, and whether its compiled operators fit this torch; nothing here needs them."""
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


def _opencv() -> str:
    try:
        import cv2
    except ImportError as error:
        return f"not usable ({one_line(error)}); canny and grabcut need it: pip install 'gmae-tools[opencv]'"
    return cv2.__version__


def _heif() -> str:
    try:
        import pillow_heif
    except ImportError as error:
        return f"not usable ({one_line(error)}); pictures in HEIC need it: pip install 'gmae-tools[heif]'"
    return pillow_heif.__version__


def _nvcc_version(nvcc: str) -> str:
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{nvcc} does not run ({one_line(error)})"
    release = re.search(r"release ([\d.]+)", said)
    return f"{release[1] if release else 'unknown'} ({nvcc})"


def devices() -> list[Device]:
    """The processor, and every CUDA GPU that torch sees."""
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
    """Where compiled kernels and fetched checkpoints are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from torch.utils.cpp_extension import get_default_build_root

    from gmae_tools.splatting import kernels

    extensions = os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()
    paths = {"compiled CUDA kernels": extensions, "checkpoints from the hub": HF_HUB_CACHE}
    if hasattr(kernels.composite, "stats"):  # where numba may compile
        paths = {"compiled CPU kernels": kernels.composite.stats.cache_path, **paths}
    return [Folder(purpose, str(path), _is_writable(Path(path))) for purpose, path in paths.items()]


def _is_writable(folder: Path) -> bool:
    """Whether files can be written there, or the folder be made where it is missing."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return existing.is_dir() and os.access(existing, os.W_OK)


def try_backend(backend: Renderer) -> Trial:
    """Draw with one backend where it draws best, gsplat on a GPU and the others on the CPU."""
    device = "cuda" if backend == "gsplat" else "cpu"
    try:
        truth = _draw("dense", device)
        start = time.perf_counter()
        drawn = _draw(backend, device)
        middle = time.perf_counter()
        _draw(backend, device)
        end = time.perf_counter()
    except Exception as error:  # a broken installation raises anything
        return Trial(backend, device, problem=one_line(error))
    picture = (drawn[0] - truth[0]).abs().max().item()
    gradient = max(((a - b).norm() / b.norm()).item() for a, b in zip(drawn[1:], truth[1:], strict=True))
    wrong = not (picture < PICTURE_TOLERANCE and gradient < GRADIENT_TOLERANCE)
    problem = "draws something else than the dense reference" if wrong else None
    return Trial(backend, device, picture, gradient, middle - start, 1e3 * (end - middle), problem)


def _draw(backend: Renderer, device: str) -> list[Tensor]:
    """The picture of the test's scene, and the gradients of its mean square."""
    splats = _scene(device)
    inputs = [t.requires_grad_() for t in (splats.means, splats.conics, splats.colors, splats.opacities)]
    image = rasterize(splats, _SIDE, _SIDE, background=torch.ones(3), backend=backend).image
    return [tensor.cpu() for tensor in (image.detach(), *torch.autograd.grad(image.square().mean(), inputs))]


def _scene(device: str) -> Splats:
    """Round and elliptic splats all over the picture, always the same."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        numbers = torch.rand(1, _SPLATS, *shape, generator=generator, dtype=torch.float32)
        return (low + (high - low) * numbers).to(device)

    a, c = uniform(0.01, 0.5), uniform(0.01, 0.5)
    conics = torch.stack([a, uniform(-0.8, 0.8) * (a * c).sqrt(), c], -1)
    return Splats(uniform(0, _SIDE, 2), conics, uniform(7, 9), uniform(0, 1, 3), uniform(0.1, 0.9))


def try_defaults(trials: list[Trial]) -> tuple[str, str | None]:
    """What commands take by default: checkpoint, device and backend in words, and why that does not work, if so."""
    import numpy as np

    from gmae_tools import checkpoints

    device = resolve_device("auto")
    default = f"{DEFAULT} on {device}"
    try:
        drawer = choose_backend("auto", device)
        default = f"{default}, drawn by {drawer}"
        model = checkpoints.load(DEFAULT, device=device)
        splats = project(predict_gaussians(model, np.full((32, 48, 3), 128, np.uint8)), model.camera, 32, 48)
        rasterize(splats, 32, 48, background=torch.ones(3), backend=drawer)
    except GmaeToolsError as error:
        return default, str(error)
    return default, next((trial.problem for trial in trials if trial.backend == drawer), None)
