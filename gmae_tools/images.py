"""Finding, reading and writing pictures; every odd file is either handled or refused in one line.

Pictures in memory are uint8 RGB arrays `[H, W, 3]`; tensors are float32 RGB in [0, 1], `[1, 3, H, W]`.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gmae_tools.errors import GmaeToolsError
from gmae_tools.files import atomic_path

if TYPE_CHECKING:  # importing torch takes a second, and most of this file does without
    import torch

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
MAX_PIXELS = 89_478_485  # Pillow's own bound for decompression bombs; a quarter of a gigabyte of RGB


# --- finding -----------------------------------------------------------------------------------------


def is_image_name(name: str) -> bool:
    """Whether the last part of a path looks like a picture; hidden files do not (macOS's `._name.jpg`)."""
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES


def matching_paths(text: str | os.PathLike[str]) -> list[Path]:
    """What `text` names: an existing file or folder, or else, sorted, the matches of a glob (`**` recursive).

    Raises:
        GmaeToolsError: nothing.
    """
    path = Path(text).expanduser()
    if os.path.lexists(path):
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        raise GmaeToolsError(f"{text}: no such file or folder")
    return [Path(match) for match in matches]


def find_images(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The pictures meant by command-line arguments, each once, in the order of `inputs`.

    A file is taken whatever its name. A folder stands for the pictures directly inside it (not for those of
    its subfolders, where earlier results may lie), a glob for its matches; `DIR/**/*.jpg` walks a tree. In
    folders and globs pictures are told by suffix (`IMAGE_SUFFIXES`, in any case), and sorted.

    Raises:
        GmaeToolsError: an input matches no picture, or there is no input.
    """
    found = dict.fromkeys(path for text in inputs for path in _images_of(text))
    if not found:
        raise GmaeToolsError("no pictures given; name files, folders or globs")
    return list(found)


def _images_of(text: str | os.PathLike[str]) -> list[Path]:
    paths = matching_paths(text)
    if paths == [Path(text).expanduser()]:
        if not paths[0].is_dir():
            return paths
        paths = sorted(paths[0].iterdir())
    images = [path for path in paths if is_image_name(path.name) and not path.is_dir()]
    if not images:
        raise GmaeToolsError(f"{text}: no pictures here; looked for {' '.join(sorted(IMAGE_SUFFIXES))}")
    return images


# --- reading -----------------------------------------------------------------------------------------


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a picture file as uint8 RGB `[H, W, 3]`, upright, in its own size; the first frame of several.

    Args:
        path: any format Pillow knows, any mode; see `to_rgb` for how it becomes RGB.
        max_pixels: refuse larger pictures before decoding anything (Pillow stops at twice the default).

    Raises:
        GmaeToolsError: missing, empty, too large, damaged, or not a picture; one line that names the file.
    """
    path = Path(path)
    if path.is_dir():
        raise GmaeToolsError(f"{path}: is a folder, not a picture")
    try:
        if path.stat().st_size == 0:
            raise GmaeToolsError(f"{path}: the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size, which `max_pixels` decides, and of flawed metadata
            with Image.open(path) as image:
                if image.width * image.height > max_pixels:
                    size = f"{image.width} x {image.height}"
                    raise GmaeToolsError(f"{path}: {size} is more than {max_pixels:,} pixels; downscale it first")
                return np.array(to_rgb(image))
    except GmaeToolsError:
        raise
    except FileNotFoundError:
        raise GmaeToolsError(f"{path}: no such file") from None
    except PermissionError:
        raise GmaeToolsError(f"{path}: no permission to read it") from None
    except UnidentifiedImageError:
        raise GmaeToolsError(f"{path}: not a picture in a known format") from None
    except Image.DecompressionBombError:
        raise GmaeToolsError(f"{path}: far more than {max_pixels:,} pixels; downscale it first") from None
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise GmaeToolsError(f"{path}: damaged picture ({one_line(error)})") from None


def one_line(error: Exception) -> str:
    """The message of an exception without line breaks, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """A PIL picture of any mode as 8-bit RGB, upright (EXIF rotation applied), alpha laid on white.

    Samples of 16 bits or more and of floating point are scaled to 0..255; Pillow's own `convert` would clip.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_deep_to_uint8(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _deep_to_uint8(samples: np.ndarray) -> np.ndarray:
    """Samples `[H, W]` as uint8. White is the first bound of 1, 255 (floats), 65,535 or else the maximum."""
    values = np.nan_to_num(samples.astype(np.float32), posinf=0.0, neginf=0.0)
    maximum = float(values.max())
    usual_peaks = (1.0, 255.0, 65535.0) if samples.dtype.kind == "f" else (65535.0,)
    peak = next((peak for peak in usual_peaks if maximum <= peak), maximum)
    return _unit_to_uint8(values / peak)


def _unit_to_uint8(values: np.ndarray) -> np.ndarray:
    """Floats, 0 black and 1 white, clipped and rounded to uint8; NaN is black."""
    levels: np.ndarray = np.rint(np.clip(np.nan_to_num(values), 0.0, 1.0) * 255.0)
    return levels.astype(np.uint8)


# --- converting --------------------------------------------------------------------------------------


def to_tensor(picture: np.ndarray) -> torch.Tensor:
    """uint8 `[H, W, 3]` as float32 `[1, 3, H, W]` in [0, 1]."""
    import torch

    return torch.tensor(picture).permute(2, 0, 1)[None].float().div_(255.0).contiguous()


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 `[H, W, 3]` (or `[H, W]`) to `height` x `width` pixels, bicubic and antialiased."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


# --- writing -----------------------------------------------------------------------------------------


def write_image(path: str | os.PathLike[str], picture: np.ndarray | torch.Tensor) -> None:
    """Write a picture, whole or not at all; the suffix decides the format (PNG or JPEG of quality 95, ...).

    Args:
        path: the file; missing folders are made.
        picture: an array `[H, W]` (grey), `[H, W, 3]` (RGB) or `[H, W, 4]` (RGB and straight alpha), or a
            tensor `[C, H, W]` or `[1, C, H, W]` with C = 1, 3 or 4. uint8, floating point in [0, 1] (clipped,
            NaN is black), or boolean.

    Raises:
        GmaeToolsError: the suffix is not a picture's, JPEG is to hold alpha, or the file cannot be written.
        ValueError: another shape or type of array.
    """
    path = Path(path)
    pixels = _as_uint8(picture if isinstance(picture, np.ndarray) else _channels_last(picture))
    if not is_image_name(path.name):
        raise GmaeToolsError(f"{path}: cannot tell the picture format from the suffix; name it .png or .jpg")
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    if is_jpeg and pixels.ndim == 3 and pixels.shape[2] == 4:
        raise GmaeToolsError(f"{path}: JPEG cannot hold transparency; write a .png instead")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            Image.fromarray(pixels).save(temporary, quality=95)  # PNG and the like ignore the quality
    except OSError as error:
        raise GmaeToolsError(f"{path}: cannot be written ({one_line(error)})") from None


def _channels_last(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().cpu().float().numpy() if tensor.is_floating_point() else tensor.cpu().numpy()
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim != 3:
        raise ValueError(f"a picture tensor is [C, H, W] or [1, C, H, W], not {list(tensor.shape)}")
    return array[0] if len(array) == 1 else array.transpose(1, 2, 0)


def _as_uint8(picture: np.ndarray) -> np.ndarray:
    if picture.ndim < 2 or picture.shape[2:] not in ((), (3,), (4,)) or not picture.size:
        raise ValueError(f"a picture is [H, W], [H, W, 3] or [H, W, 4], not {list(picture.shape)}")
    if picture.dtype.kind == "f" or picture.dtype == bool:
        return _unit_to_uint8(picture.astype(np.float32))
    if picture.dtype != np.uint8:
        raise ValueError(f"a picture is uint8, floating point or boolean, not {picture.dtype}")
    return np.ascontiguousarray(picture)
