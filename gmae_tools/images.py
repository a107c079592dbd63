"""Reading and writing pictures; every odd file is either handled or refused in one line.

Pictures in memory are uint8 RGB arrays `[H, W, 3]`; tensors are float32 RGB in [0, 1], `[1, 3, H, W]`.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path

if TYPE_CHECKING:  # importing torch takes a second, and most of this file does without
    import torch

_WRITTEN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
IMAGE_SUFFIXES = _WRITTEN_SUFFIXES | {".avif", ".heic", ".heif"}
# Those of the suffixes, whatever a file's name: Pillow would also run Ghostscript on a page of PostScript, and has
# decoders of formats that hardly anybody uses nor tests. HEIC, which Pillow does not read, is read by pillow-heif.
IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # above which Pillow warns of decompression bombs; a quarter of a gigabyte of RGB

_STRIP_PIXELS = 1 << 20  # converted at a time
_LONGEST_LINE = 300  # characters
_MOST_PIPED = 1 << 29  # bytes that are read from a pipe, which might never end
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")  # of HEVC in a HEIF container
_AVIF_BRANDS = (b"avif", b"avis")
_LONGEST_BRANDS = 128  # bytes; files name about five brands of four bytes
_MOST_SCANS = 100  # of a JPEG, as libtiff allows; encoders make about ten
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # of JPEG, which begins a segment; others lie among the pixels
# Pillow logs some of what it raises, which Python prints unless there is a handler; those of an application still hear.
logging.getLogger("PIL").addHandler(logging.NullHandler())
_STDERR = threading.Lock()  # who holds it has redirected the process's stderr
_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"


def is_image_name(name: str) -> bool:
    """Whether the last part of a path looks like a picture; hidden files do not (macOS's `._name.jpg`)."""
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES


# --- reading -----------------------------------------------------------------------------------------


def read_image(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> np.ndarray:
    """Read a picture file as uint8 RGB `[H, W, 3]`, upright, in its own size; the first frame of several.

    Args:
        path: a file in one of `IMAGE_FORMATS` or HEIC (which needs pillow-heif), of any mode; see `to_rgb` for how it
            becomes RGB. A pipe is read to its end.
        max_pixels: refuse larger pictures before decoding anything; see `open_image`. Decoding takes 8 bytes a pixel,
            of WebP 16.

    Raises:
        GmaeToolsError: missing, empty, too large, damaged, or not a picture; one line that names the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of size, which `max_pixels` decides, and of flawed metadata
        with open_image(path, max_pixels=max_pixels) as image:
            return to_rgb(image)


@contextmanager
def open_image(
    file: str | os.PathLike[str] | IO[bytes], *, max_pixels: int | None = None, side: int | None = None
) -> Iterator[Image.Image]:
    """A picture opened by Pillow; what goes wrong before the context ends, in decoding above all, is told in one line.

    Args:
        file: a path, which then stands before what is wrong; or encoded bytes.
        max_pixels: refuse pictures that are larger once decoded, and name the option that raises the bound; by default
            larger than `MAX_PIXELS`. Pillow's own bound, which is the process's, follows if it is lower.
        side: decode a JPEG at 1/2, 1/4 or 1/8 of its size if none of its sides falls below so many pixels.

    Raises:
        GmaeToolsError: as for `read_image`.
    """
    bound = max_pixels or MAX_PIXELS
    too_large = f"more than {bound:,} pixels; downscale it first" + ", or raise --max-pixels" * bool(max_pixels)
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, bound)
    try:
        with _opened(file) as encoded, _recognised(encoded) as image:
            if side and image.format in ("JPEG", "MPO"):  # others would take a thumbnail for the picture
                image.draft("RGB", (side, side))
            if image.width * image.height > bound:
                raise GmaeToolsError(f"{image.width} x {image.height} is {too_large}")
            if image.format in ("JPEG", "MPO"):
                _check_scans(image)
            with _silent_libtiff() if image.format == "TIFF" else nullcontext():
                yield image
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        problem = f"far {too_large}" if isinstance(error, Image.DecompressionBombError) else _unreadable(error)
        name = f"{os.fspath(file)}: " if isinstance(file, (str, os.PathLike)) else ""
        raise GmaeToolsError(name + problem) from None


def _opened(file: str | os.PathLike[str] | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    """The bytes of a file. Of a path, Pillow would map them, and scramble a turned TIFF or crash if they grow fewer."""
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
    """All bytes that come through a pipe: decoders go back and forth in a file, which a pipe cannot."""
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
    """The picture in a file, whose format its first bytes tell; nothing is decoded yet.

    Raises:
        GmaeToolsError: reading this format takes a package that is not installed.
    """
    head = encoded.read(_LONGEST_BRANDS)
    encoded.seek(0)
    brands = _brands(head)
    if any(brand in brands for brand in _HEIC_BRANDS):
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise GmaeToolsError("a HEIC picture; to read it, run pip install 'gmae-tools[heif]'") from None
        return HeifImageFile(encoded)  # not registered with Pillow, which belongs to the whole process
    if any(brand in brands for brand in _AVIF_BRANDS) and not _reads_avif():
        raise GmaeToolsError("an AVIF picture, which this Pillow cannot read; run pip install --upgrade pillow")
    return Image.open(encoded, formats=IMAGE_FORMATS)


def _reads_avif() -> bool:
    return "avif" in features.modules and features.check("avif")  # Pillow before 11.3 warns of a name it does not know


def _brands(head: bytes) -> list[bytes]:
    """What a file in a container of ISO media (HEIC, AVIF, films) says that it is, the major brand first."""
    if head[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[place : place + 4] for place in (8, *range(16, end, 4))]


class _BoundedFile(io.BufferedReader):
    """A file opened for reading that sets aside no more memory for a read than it has bytes left."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:  # as long as a chunk claims to be
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


@contextmanager
def _silent_libtiff() -> Iterator[None]:
    """Keep libtiff from printing: it tells errors on the process's stderr, though they are raised, too."""
    with _STDERR, open(os.devnull, "wb") as nowhere:
        try:
            stderr = os.dup(2)
        except OSError:  # closed
            yield
            return
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _check_scans(image: Image.Image) -> None:
    """Refuse a JPEG that passes over its pixels very often; a scan of a few bytes may take a second."""
    file: IO[bytes] = image.fp  # type: ignore[attr-defined]
    file.seek(0)
    data = file.read()
    if data.count(_SCAN) > _MOST_SCANS and _scans(data) > _MOST_SCANS:
        raise GmaeToolsError(f"a JPEG of more than {_MOST_SCANS} scans; if it can be trusted, save it anew")


def _scans(data: bytes) -> int:
    """Number of scans before a JPEG ends; what follows, such as a film, may look like more."""
    count, place = 0, 0
    while (marker := _MARKER.search(data, place)) and marker[0] != _END:
        count += marker[0] == _SCAN
        place = marker.end()
        if marker[0] != _START:  # all other segments say how long they are
            place += int.from_bytes(data[place : place + 2], "big")
    return count


def _unreadable(error: Exception) -> str:
    """What is wrong with a picture file, in a line."""
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


def one_line(error: Exception) -> str:
    """The message of an exception without line breaks, or its type if it has none; see `printable`."""
    return printable(str(error)) or type(error).__name__


def printable(text: str) -> str:
    """A text out of a file for a message: one line, not too much of it, and nothing that a terminal would obey."""
    line = "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."


def to_rgb(image: Image.Image) -> np.ndarray:
    """A PIL picture of any mode as uint8 RGB `[H, W, 3]`, upright (EXIF rotation applied), alpha laid on white.

    Samples of 16 bits or more and of floating point are scaled to 0..255; Pillow's own `convert` would clip. Rows are
    converted a few at a time, since the copies that a conversion makes would take more memory than the picture.
    """
    image.load()  # only then all metadata are known
    ImageOps.exif_transpose(image, in_place=True)
    white = _white(image) if _is_deep(image) else None
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _strips(image):
        pixels[top : top + strip.height] = _strip_to_rgb(strip) if white is None else _deep_to_uint8(strip, white)
    return pixels


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture in strips, and the row at which each begins."""
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


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _white(image: Image.Image) -> float:
    """The sample that is white in a deep picture: the first bound of 1, 255 (floats), 65,535 or else the maximum."""
    maximum = max(float(_deep_samples(strip).max()) for _, strip in _strips(image))
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    return next((white for white in usual if maximum <= white), maximum)


def _deep_samples(strip: Image.Image) -> np.ndarray:
    """Samples `[H, W, 1]`, float32 and finite."""
    return np.nan_to_num(np.asarray(strip)[..., None].astype(np.float32), posinf=0.0, neginf=0.0)


def _deep_to_uint8(strip: Image.Image, white: float) -> np.ndarray:
    """Levels of grey `[H, W, 1]`."""
    return _unit_to_uint8(_deep_samples(strip) / white)


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
    if path.suffix.lower() not in _WRITTEN_SUFFIXES:
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
