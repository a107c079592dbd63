"""Reading and writing pictures. Every unusual file is either read or refused in one line.

Pictures in memory are uint8 RGB arrays `[H, W, 3]`; tensors are float32 RGB in [0, 1], `[1, 3, H, W]`.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path
from gmae_tools.system.png import write_png
from gmae_tools.system.untrusted import decoding

if TYPE_CHECKING:  # importing torch takes a second, and most of this file does without
    import torch

_WRITTEN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
IMAGE_SUFFIXES = _WRITTEN_SUFFIXES | {".avif", ".heic", ".heif"}
# The formats of the suffixes; a file's format is recognised by its content. Pillow would also run Ghostscript on
# PostScript, and has decoders of formats that hardly anybody uses or tests. pillow-heif reads HEIC, Pillow does not.
IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # Pillow warns of decompression bombs above this; a quarter of a gigabyte of RGB

_SHRUNK = 2  # times as many pixels as the bound are allowed in a JPEG that is decoded at a fraction of its size
_OVERSHOOT = 0.25  # of bicubic interpolation beyond [0, 1], at most; values that are normalised go further
_STRIP_PIXELS = 1 << 20  # converted at a time
_LONGEST_LINE = 300  # characters
_MOST_PIPED = 1 << 29  # bytes that are read from a pipe, which might never end
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")  # of HEVC in a HEIF container
_AVIF_BRANDS = (b"avif", b"avis")
_LONGEST_BRANDS = 128  # bytes; files name about five brands of four bytes
_PREFIX = 16  # bytes by which Pillow recognises a format


def is_image_name(name: str) -> bool:
    """Whether the last part of a path has the suffix of a picture and is not hidden (as macOS's `._name.jpg` is)."""
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES


# --- reading -----------------------------------------------------------------------------------------


def read_image(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> np.ndarray:
    """Read a picture file as uint8 RGB `[H, W, 3]`, upright and in its own size. Of several frames the first is read.

    Args:
        path: A file in one of `IMAGE_FORMATS` or HEIC (which needs pillow-heif), of any mode; `to_rgb` says how it
            becomes RGB. A pipe is read to its end.
        max_pixels: Refuse larger pictures before anything is decoded; see `open_image`. Decoding takes 8 bytes a
            pixel, 16 for WebP.

    Raises:
        GmaeToolsError: The file is missing, empty, too large, damaged, or not a picture. The message is one line that
            names the file.
    """
    with open_image(path, max_pixels=max_pixels) as image:
        return to_rgb(image)


@contextmanager
def open_image(
    file: str | os.PathLike[str] | IO[bytes], *, max_pixels: int | None = None, side: int | None = None
) -> Iterator[Image.Image]:
    """Open a picture with Pillow. What goes wrong before the context ends, such as decoding, becomes a one-line error.

    Args:
        file: A path, with which the error then begins, or encoded bytes.
        max_pixels: Refuse pictures that are larger once decoded, and name the option that raises the bound. Without
            it, the bound is `MAX_PIXELS`. Pillow's own bound, which belongs to the whole process, does not apply.
        side: Decode a JPEG at 1/2, 1/4 or 1/8 of its size if none of its sides falls below this number of pixels.

    Raises:
        GmaeToolsError: As for `read_image`.
    """
    bound = max_pixels or MAX_PIXELS
    try:
        with _opened(file) as encoded, _recognised(encoded) as image:
            width, height = image.size
            if side and image.format in ("JPEG", "MPO"):  # others would take a thumbnail for the picture
                image.draft("RGB", (side, side))
            if image.width * image.height > bound or width * height > _SHRUNK * bound:
                problem = _too_large(width, height, bound)
                raise GmaeToolsError(problem + ", or raise --max-pixels" * bool(max_pixels))
            with decoding(image.format, encoded):
                yield image
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        name = f"{os.fspath(file)}: " if isinstance(file, (str, os.PathLike)) else ""
        raise GmaeToolsError(name + _unreadable(error)) from None


def _opened(file: str | os.PathLike[str] | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    """Open a file. Given a path, Pillow would map it, scramble a turned TIFF, and crash if the file is cut off."""
    if not isinstance(file, (str, os.PathLike)):
        return nullcontext(file)
    path = Path(file)
    if path.is_dir():
        raise GmaeToolsError("is a folder, not a picture")
    status = path.stat()
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        return _piped(path)
    if not stat.S_ISREG(status.st_mode):
        raise GmaeToolsError("is a terminal or another device; give a picture file, or send one through a pipe")
    if status.st_size == 0:
        raise GmaeToolsError("the file is empty")
    return _BoundedFile(io.FileIO(path))


def _piped(path: Path) -> IO[bytes]:
    """All bytes that come through a pipe, because decoders need to seek."""
    data = io.BytesIO()
    with path.open("rb") as pipe:
        while chunk := pipe.read(1 << 20):
            data.write(chunk)
            if data.tell() > _MOST_PIPED:
                raise GmaeToolsError(f"more than {_MOST_PIPED >> 20} MiB through a pipe; save it as a file first")
    if not data.tell():
        raise GmaeToolsError("nothing came through the pipe")
    data.seek(0)
    return data


def _recognised(encoded: IO[bytes]) -> Image.Image:
    """The picture in a file, by the format that its first bytes identify. Nothing is decoded yet."""
    head = encoded.read(_LONGEST_BRANDS)
    encoded.seek(0)
    brands: set[bytes] = set()  # of a file in a container of ISO media (HEIC, AVIF, films)
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[place : place + 4] for place in (8, *range(16, end, 4))}
    if brands.intersection(_HEIC_BRANDS):
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise GmaeToolsError("a HEIC picture; to read it, run pip install 'gmae-tools[heif]'") from None
        return HeifImageFile(encoded)  # without registering it with Pillow, which would concern the whole process
    # Pillow before 11.3 does not know the name of the feature, and would warn of it.
    if brands.intersection(_AVIF_BRANDS) and not ("avif" in features.modules and features.check("avif")):
        raise GmaeToolsError("an AVIF picture, which this Pillow cannot read; run pip install --upgrade pillow")
    # What `Image.open` does, without its bound on the number of pixels, which would be that of the whole process.
    for load in (Image.preinit, Image.init):  # the decoders of common formats, and only then the many others
        load()
        for image_format in IMAGE_FORMATS:
            opener, accepts = Image.OPEN.get(image_format, (None, None))
            accepted = opener and (accepts is None or accepts(head[:_PREFIX]))
            if opener and accepted and not isinstance(accepted, str):  # a text says why Pillow cannot read it
                encoded.seek(0)
                try:
                    return opener(encoded, "")
                except (SyntaxError, IndexError, TypeError, struct.error):  # it is of another format
                    continue
    raise UnidentifiedImageError


class _BoundedFile(io.BufferedReader):
    """A file opened for reading that allocates no more memory for a read than the file has bytes left."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:  # the length that a chunk claims to have
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def _unreadable(error: Exception) -> str:
    """What is wrong with a picture file, in one line."""
    if isinstance(error, GmaeToolsError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, UnidentifiedImageError):  # its own message shows the address of a buffer
        return "not a picture in a known format"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    return f"damaged picture ({one_line(error)})"


def _too_large(width: int, height: int, bound: int) -> str:
    return f"{width} x {height} is more than {bound:,} pixels; downscale it first"


def one_line(error: Exception) -> str:
    """The message of an exception without line breaks, or its type if it has none; see `printable`."""
    return printable(str(error)) or type(error).__name__


def printable(text: str) -> str:
    """A text from a file for use in a message: one line of limited length without control characters."""
    line = "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."


def to_rgb(image: Image.Image) -> np.ndarray:
    """A PIL picture of any mode as uint8 RGB `[H, W, 3]`, upright (EXIF rotation applied), composited over white.

    Samples of 16 bits or more and of floating point are scaled to 0..255; Pillow's own `convert` would clip them. Rows
    are converted a few at a time, because the copies that a conversion makes would take more memory than the picture.
    """
    image.load()  # completes the metadata
    ImageOps.exif_transpose(image, in_place=True)
    white = _white(image) if image.mode.startswith(("F", "I")) else None
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _strips(image):
        rows = _strip_to_rgb(strip) if white is None else _unit_to_uint8(_deep_samples(strip) / white)
        pixels[top : top + strip.height] = rows
    return pixels


def from_pil(image: Image.Image) -> np.ndarray:
    """A PIL picture as uint8 RGB `[H, W, 3]`; see `to_rgb`. The picture itself does not change.

    Raises:
        GmaeToolsError: It has more than `MAX_PIXELS` or no pixels, or its file is damaged or closed.
    """
    if not image.width or not image.height:
        raise GmaeToolsError(f"a picture of {image.width} x {image.height} pixels is empty")
    try:
        if image.width * image.height > MAX_PIXELS:
            raise GmaeToolsError(_too_large(image.width, image.height, MAX_PIXELS))
        return to_rgb(image.copy())
    except Exception as error:  # a lazily opened file is decoded here; see `open_image`
        raise GmaeToolsError(_unreadable(error)) from None


def from_array(array: np.ndarray) -> np.ndarray:
    """Pixels as uint8 RGB `[H, W, 3]`, a copy composited over white.

    Args:
        array: `[H, W]` or `[H, W, 1]` (grey), `[H, W, 3]` (RGB) or `[H, W, 4]` (RGB and straight alpha), uint8 or
            floating point in [0, 1], which is rounded to 8 bits.

    Raises:
        GmaeToolsError: The array has another shape, type or range.
    """
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)) or not array.size:
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        advice = "; array.transpose(1, 2, 0) moves channels from the front to the end" * first
        raise GmaeToolsError(f"a photograph is an array [H, W, 3] or [H, W], not {list(array.shape)}{advice}")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())  # NaN if any is
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
            raise GmaeToolsError(
                f"a photograph of floats lies in [0, 1], this one in [{low:g}, {high:g}]: scale it, or give uint8"
            )
        array = _unit_to_uint8(array.astype(np.float32))
    elif array.dtype != np.uint8:
        raise GmaeToolsError(f"a photograph is uint8 in 0..255 or floats in [0, 1], not {array.dtype}: convert it")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The first row of each strip of the picture, and the strip."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _strip_to_rgb(strip: Image.Image) -> np.ndarray:
    if strip.has_transparency_data:
        white = Image.new("RGBA", strip.size, "white")
        strip = Image.alpha_composite(white, strip.convert("RGBA"))
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _white(image: Image.Image) -> float:
    """The sample that is white in a deep picture: 1, 255 (both for floats only), 65,535, or else the maximum.

    The smallest of them that no sample exceeds is taken.
    """
    maximum = max(float(_deep_samples(strip).max()) for _, strip in _strips(image))
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    return next((white for white in usual if maximum <= white), maximum)


def _deep_samples(strip: Image.Image) -> np.ndarray:
    """Samples `[H, W, 1]`, float32 and finite."""
    return np.nan_to_num(np.asarray(strip)[..., None].astype(np.float32), posinf=0.0, neginf=0.0)


def _unit_to_uint8(values: np.ndarray) -> np.ndarray:
    """Floats from 0 (black) to 1 (white), clipped and rounded to uint8; NaN becomes black."""
    return np.rint(np.clip(np.nan_to_num(values), 0.0, 1.0) * 255.0).astype(np.uint8)


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
    """Write a picture, whole or not at all. The suffix decides the format (PNG, JPEG of quality 95, ...).

    Args:
        path: The file; missing folders are made.
        picture: An array `[H, W]` (grey), `[H, W, 3]` (RGB) or `[H, W, 4]` (RGB and straight alpha), or a tensor
            `[C, H, W]` or `[1, C, H, W]` with C = 1, 3 or 4. It is uint8, floating point in [0, 1] (clipped, NaN
            becomes black), or boolean.

    Raises:
        GmaeToolsError: The suffix is not a picture's, a JPEG would have to hold alpha, or the file cannot be written.
        ValueError: The array has another shape or type.
    """
    path = Path(path)
    pixels = _as_uint8(picture if isinstance(picture, np.ndarray) else _channels_last(picture))
    if path.suffix.lower() not in _WRITTEN_SUFFIXES:
        raise GmaeToolsError(f"{path}: cannot tell the picture format from the suffix; name it .png or .jpg")
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    if is_jpeg and pixels.ndim == 3 and pixels.shape[2] == 4:
        raise GmaeToolsError(f"{path}: JPEG cannot hold transparency; write a .png instead")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            if path.suffix.lower() == ".png":  # many times as fast as Pillow, and up to a quarter larger
                write_png(temporary, pixels)
            else:
                Image.fromarray(pixels).save(temporary, quality=95)  # which only JPEG and WebP have
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
