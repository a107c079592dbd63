"""PLY files of 3-D Gaussian splatting (Kerbl et al. 2023): one vertex is one Gaussian.

A vertex has x, y, z; f_dc_0 to f_dc_2, which are (colour - 1/2) / `SH_0`; opacity as its logit; scale_0 to scale_2 as
natural logarithms; and rot_0 to rot_3, a quaternion (w, x, y, z). `read` takes all three encodings of the format, with
elements and properties of any number, type and order.

The camera is in the elements that apple/ml-sharp writes: `intrinsic`, a 3 x 3 matrix in pixels; `extrinsic`, a 4 x 4
matrix from the world to the camera; `image_size`, width and height; and `color_space`, 0 for sRGB and 1 for linear RGB.
`write` adds an element `splatting` with the `blur` and the `shear_limit` of `Camera`, which is infinite for no limit.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import torch

from gmae_tools import __version__
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.viewpoint import Viewpoint, moved
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import one_line
from gmae_tools.system.files import atomic_path
from gmae_tools.system.kernels import kernel

SH_0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi)); colour = 1/2 + SH_0 f_dc
PROPERTIES = (
    *("x", "y", "z"),
    *("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacity",
    *("scale_0", "scale_1", "scale_2"),
    *("rot_0", "rot_1", "rot_2", "rot_3"),
)
MAGIC = b"ply"
MOST_GAUSSIANS = 1 << 25  # largest number of Gaussians that is read from a file; they take 2 GB of memory

_LEAST_OPACITY = 1e-6  # opacities are written between this and 1 minus this, because 0 and 1 have no finite logit
_LEAST_SCALE = 1e-12  # scene units, smallest scale that is written, because 0 has no logarithm

# --- writing -----------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], gaussians: Gaussians, viewpoint: Viewpoint | None = None) -> None:
    """Write a binary little-endian PLY of float32, without higher spherical harmonics.

    Args:
        path: the file to write.
        gaussians: one set, in the units of `viewpoint`; quaternions are written with unit length.
        viewpoint: `pinhole` camera and size of the picture, which are written behind the vertices in the elements of
            ml-sharp, where they do not disturb other programs; None to leave them out.

    Raises:
        GmaeToolsError: there is not exactly one set, or the camera is of another kind.
    """
    if gaussians.batch_size != 1:
        raise GmaeToolsError(f"a file holds one set of Gaussians, not {gaussians.batch_size}")
    one = gaussians.map(lambda tensor: tensor.detach().cpu().double())
    columns = [
        one.means,
        (one.colors - 0.5) / SH_0,
        torch.logit(one.opacities, _LEAST_OPACITY)[..., None],
        one.scales.clamp_min(_LEAST_SCALE).log(),
        torch.nn.functional.normalize(one.quats, dim=-1),
    ]
    extras = {} if viewpoint is None else _camera_elements(viewpoint)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment gmae-tools {__version__}",
        f"element vertex {gaussians.k}",
        *(f"property float {name}" for name in PROPERTIES),
    ]
    for name, values in extras.items():
        header += [f"element {name} {len(values)}", f"property {_NAMES[values.dtype.str[1:]]} {name}"]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write("".join(f"{line}\n" for line in [*header, "end_header"]).encode("ascii"))
        file.write(torch.cat(columns, -1).numpy().astype("<f4").tobytes())
        for values in extras.values():
            file.write(values.tobytes())


def _camera_elements(viewpoint: Viewpoint) -> dict[str, np.ndarray]:
    """Return the elements of ml-sharp by their names, little-endian."""
    camera, height, width = viewpoint.camera, viewpoint.height, viewpoint.width
    if camera.kind != "pinhole":
        raise GmaeToolsError(f"a PLY file says how a pinhole camera sees Gaussians, not one of kind {camera.kind}")
    focal_y = camera.focal if camera.focal_y is None else camera.focal_y
    intrinsic = np.eye(3)
    intrinsic[0, 0], intrinsic[0, 2] = camera.focal * width / 2, (camera.cx + 1) * width / 2
    intrinsic[1, 1], intrinsic[1, 2] = focal_y * height / 2, (camera.cy + 1) * height / 2
    extrinsic = np.eye(4)
    extrinsic[2, 3] = camera.distance
    return {
        "intrinsic": intrinsic.astype("<f4").ravel(),
        "extrinsic": extrinsic.astype("<f4").ravel(),
        "image_size": np.array([width, height], "<u4"),
        "color_space": np.zeros(1, "u1"),
        "splatting": np.array([camera.blur, camera.shear_limit or np.inf], "<f8"),
    }


# --- reading -----------------------------------------------------------------------------------------

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_NAMES = {kind: name for name, kind in _TYPES.items() if not name[-1].isdigit()}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_CAMERA = ("intrinsic", "extrinsic", "image_size", "color_space", "splatting")
_WANTED = {"vertex": PROPERTIES} | {name: (name,) for name in _CAMERA}
_MOST_NUMBERS = 16  # largest number of rows in an element of a camera
_LONGEST_HEADER, _LONGEST_LINE = 1 << 16, 1 << 20  # bytes
_ROWS = 1 << 16  # number of rows that are read at a time


@dataclass(frozen=True)
class _Property:
    """A number of type `kind` (NumPy's name), or a list of such numbers after its length of type `length_kind`."""

    name: str
    kind: str
    length_kind: str = ""


@dataclass(frozen=True)
class _Element:
    """An element of the file: `count` rows of properties."""

    name: str
    count: int
    properties: list[_Property]

    @property
    def precision(self) -> type[np.floating[Any]]:
        """The type as which numbers of the element are read."""
        return np.float32 if self.name == "vertex" else np.float64

    @property
    def has_lists(self) -> bool:
        return any(each.length_kind for each in self.properties)

    @property
    def least_bytes(self) -> int:
        """The size of a row in a binary file in bytes, with empty lists."""
        return sum(np.dtype(each.length_kind or each.kind).itemsize for each in self.properties)


def read(path: str | os.PathLike[str]) -> tuple[Gaussians, Viewpoint | None]:
    """Read a PLY of 3-D Gaussians from any program.

    Normals and higher spherical harmonics are ignored, so that colours do not depend on the direction of view. Colours
    are clipped to [0, 1], and converted to sRGB if the file says that they are linear.

    Returns:
        One set `[1, K]`, and the camera and the size of the picture, None if the file does not have them. With a camera
        the Gaussians are in its axes, at whose origin it stands and looks along +z; without one they are in the units
        and axes of the file.

    Raises:
        GmaeToolsError: the file is missing, damaged, or does not hold Gaussians.
    """
    try:
        with open(path, "rb") as file:
            order, elements = _read_header(file)
            last = max(index for index, element in enumerate(elements) if element.name in _WANTED)
            rows = {
                each.name: _read_rows(file, each, _WANTED.get(each.name, ()), order) for each in elements[: last + 1]
            }
        return _assemble(rows["vertex"], {name: values[:, 0] for name, values in rows.items() if name in _CAMERA})
    except OSError as error:
        raise GmaeToolsError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None
    except (ValueError, TypeError, OverflowError, GmaeToolsError) as error:
        raise GmaeToolsError(f"{path}: not a PLY of 3-D Gaussians ({one_line(error)})") from None


def _assemble(vertices: np.ndarray, extras: dict[str, np.ndarray]) -> tuple[Gaussians, Viewpoint | None]:
    """Make Gaussians from `PROPERTIES`, float32 `[K, 14]`, and the viewpoint from the elements of ml-sharp."""
    means, harmonics, logits, logs, quats = np.split(vertices, [3, 6, 7, 10], axis=1)
    with np.errstate(over="ignore"):
        from scipy.special import expit  # imported here because that takes a sixth of a second

        arrays = (means, np.exp(logs), quats, np.clip(0.5 + SH_0 * harmonics, 0, 1), expit(logits[:, 0]))
    bad = ~np.logical_and.reduce([np.isfinite(array).reshape(len(vertices), -1).all(1) for array in arrays])
    if bad.any():
        raise ValueError(f"{bad.sum():,} of its {len(bad):,} Gaussians have NaN or infinite values")
    if extras.get("color_space", np.zeros(1))[:1].any():
        arrays = (*arrays[:3], _to_srgb(arrays[3]), arrays[4])
    gaussians = Gaussians(*(torch.from_numpy(np.asarray(array, np.float32, "C"))[None] for array in arrays))
    if "intrinsic" not in extras or "image_size" not in extras:
        return gaussians, None
    intrinsic, size = extras["intrinsic"], extras["image_size"]
    extrinsic = extras.get("extrinsic", np.eye(4).ravel())
    if (len(intrinsic), len(size), len(extrinsic)) != (9, 2, 16):
        raise ValueError("its camera does not have 9 intrinsic numbers, 16 extrinsic ones and an image size of 2")
    fx, skew, cx, _, fy, cy, *_ = intrinsic.tolist()
    if skew:
        raise ValueError("its camera has slanted pixels")
    viewpoint = Viewpoint.of_pixels(fx, fy, cx, cy, int(size[1]), int(size[0]))
    if "splatting" in extras:
        blur, limit = extras["splatting"].tolist()
        own = replace(viewpoint.camera, blur=blur, shear_limit=None if limit == np.inf else limit)
        viewpoint = replace(viewpoint, camera=own)
    return moved(gaussians, extrinsic.reshape(4, 4)), viewpoint


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    """Convert linear RGB in [0, 1] to sRGB, as IEC 61966-2-1 defines it."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def _read_header(file: IO[bytes]) -> tuple[str, list[_Element]]:
    """Read NumPy's sign for the byte order, empty for text, and the elements in the order of the file."""
    lines: list[str] = []
    while not lines or lines[-1] != "end_header":
        data = file.readline(_LONGEST_HEADER - file.tell())
        if not data.endswith(b"\n") or (not lines and data.strip() != MAGIC):
            raise ValueError("no PLY header")
        lines.append(data.decode("ascii", "replace").strip())
    order: str | None = None
    elements: list[_Element] = []
    for line in lines[1:-1]:
        match line.split():
            case ["format", name, *_]:
                order = _ORDERS.get(name)
            case ["element", name, number] if number.isascii() and number.isdigit():
                elements.append(_Element(name, int(number), []))
            case ["property", "list", length, kind, name] if elements and length in _TYPES and kind in _TYPES:
                if _TYPES[length][0] == "f":
                    raise ValueError(f"cannot read {line!r}")
                elements[-1].properties.append(_Property(name, _TYPES[kind], _TYPES[length]))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append(_Property(name, _TYPES[kind]))
            case ["element" | "property", *_]:
                raise ValueError(f"cannot read {line!r}")
    _check_elements(order, elements)
    assert order is not None
    return order, elements


def _check_elements(order: str | None, elements: list[_Element]) -> None:
    counts = {element.name: element.count for element in elements}
    if order is None or "vertex" not in counts:
        raise ValueError("an incomplete PLY header")
    if len(counts) < len(elements):
        raise ValueError("two elements of one name")
    for element in elements:
        names = [each.name for each in element.properties if not each.length_kind]
        if element.name == "vertex" and "packed_position" in names:
            raise ValueError("compressed for SuperSplat; export it as an ordinary PLY")
        for name in _WANTED.get(element.name, ()):
            if names.count(name) != 1:
                raise ValueError(f"{'no' if name not in names else 'more than one'} property {name}")
    if not 0 < counts["vertex"] <= MOST_GAUSSIANS:
        raise ValueError(f"{counts['vertex']:,} Gaussians; from 1 to {MOST_GAUSSIANS:,} can be read")
    if any(counts.get(name, 0) > _MOST_NUMBERS for name in _CAMERA):
        raise ValueError("more numbers than a camera has")


def _read_rows(file: IO[bytes], element: _Element, names: tuple[str, ...], order: str) -> np.ndarray:
    """Read all rows of an element, and return the properties `names`, `[count, len(names)]`."""
    if not order:
        return _read_text(file, element, names)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if element.count * element.least_bytes > left:
        raise _ends_early(element)
    if element.has_lists:
        return _read_lists(file, element, names, order)
    if not names:
        file.seek(element.count * element.least_bytes, os.SEEK_CUR)
        return np.empty((0, 0), np.float32)
    sizes = [np.dtype(each.kind).itemsize for each in element.properties]
    place = {each.name: (order + each.kind, sum(sizes[:index])) for index, each in enumerate(element.properties)}
    formats, offsets = zip(*(place[name] for name in names), strict=True)
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": sum(sizes)})
    values = np.empty((element.count, len(names)), element.precision)
    for start in range(0, element.count, _ROWS):
        part = values[start : start + _ROWS]
        data = file.read(len(part) * dtype.itemsize)
        if len(data) < len(part) * dtype.itemsize:
            raise _ends_early(element)
        rows = np.frombuffer(data, dtype)
        with np.errstate(over="ignore"):  # a double that overflows float32 becomes infinite, which is refused later
            for column, name in enumerate(names):
                part[:, column] = rows[name]
    return values


def _ends_early(element: _Element) -> ValueError:
    return ValueError(f"the file ends before its {element.count:,} rows of {element.name!r} do")


def _read_lists(file: IO[bytes], element: _Element, names: tuple[str, ...], order: str) -> np.ndarray:
    """Do the same as `_read_rows` for a binary element with lists, where all lists before a number move its place."""
    start = file.tell()
    data = np.frombuffer(file.read(), np.uint8)
    lengths = np.array([np.dtype(each.length_kind).itemsize if each.length_kind else 0 for each in element.properties])
    sizes = np.array([np.dtype(each.kind).itemsize for each in element.properties])
    slots = np.array([
        names.index(each.name) if each.name in names and not each.length_kind else -1 for each in element.properties
    ])  # fmt: skip
    places = np.empty((element.count if names else 0, len(names)), np.int64)
    end = _walk(data, element.count, lengths, sizes, slots, order == ">", places)
    if end < 0:
        raise _ends_early(element)
    file.seek(start + end)
    values = np.empty(places.shape, element.precision)
    for each, slot, size in zip(element.properties, slots, sizes, strict=True):
        if slot >= 0:
            pieces = np.ascontiguousarray(data[places[:, slot, None] + np.arange(size)])
            with np.errstate(over="ignore"):
                values[:, slot] = pieces.view(order + each.kind)[:, 0]
    return values


@kernel()
def _walk(
    data: np.ndarray, count: int, lengths: np.ndarray, sizes: np.ndarray, slots: np.ndarray, big: bool,
    places: np.ndarray,
) -> int:  # fmt: skip
    """Find the places of numbers in `count` rows of lists and numbers.

    Args:
        data: bytes from the first row on.
        count: number of rows.
        lengths: for each property the bytes of a list's length; 0 if it is a number.
        sizes: for each property the bytes of a number.
        slots: for each property its column of `places`; -1 if it is not wanted.
        big: whether the file is big-endian.
        places: receives the place of each wanted number, int `[count, columns]`.

    Returns:
        The place behind the last row; -1 if the data end before.
    """
    place = 0
    for row in range(count):
        for index in range(len(sizes)):
            numbers = 1
            if lengths[index] > 0:
                if place + lengths[index] > len(data):
                    return -1
                numbers = 0
                for byte in range(lengths[index]):
                    numbers = 256 * numbers + data[place + (byte if big else lengths[index] - 1 - byte)]
                place += lengths[index]
            elif slots[index] >= 0:
                places[row, slots[index]] = place
            if numbers > (len(data) - place) // sizes[index]:
                return -1
            place += numbers * sizes[index]
    return place


def _read_text(file: IO[bytes], element: _Element, names: tuple[str, ...]) -> np.ndarray:
    """Do the same as `_read_rows` for a text file, in which each row is a line."""
    lines = _lines(file, element)
    if not names:
        deque(lines, maxlen=0)
        return np.empty((0, 0), np.float32)
    if element.has_lists:
        rows = [_numbers(line, element, names) for line in lines]
        return np.array(rows, element.precision).reshape(-1, len(names))
    order = [each.name for each in element.properties]
    columns = [order.index(name) for name in names]
    values = np.loadtxt(lines, element.precision, comments=None, usecols=columns, ndmin=2)
    if len(values) < element.count:  # `loadtxt` skips empty lines
        raise _ends_early(element)
    return values


def _lines(file: IO[bytes], element: _Element) -> Iterator[str]:
    for _ in range(element.count):
        line = file.readline(_LONGEST_LINE)
        if not line:
            raise _ends_early(element)
        if len(line) == _LONGEST_LINE:
            raise ValueError("a line of text that does not end")
        yield line.decode("ascii", "replace")


def _numbers(line: str, element: _Element, names: tuple[str, ...]) -> list[float]:
    """Read the properties `names` of a row of text that also has lists."""
    words = iter(line.split())
    found: dict[str, float] = {}
    try:
        for each in element.properties:
            if not each.length_kind:
                found[each.name] = float(next(words))
                continue
            for _ in range(int(next(words))):
                next(words)
    except StopIteration:
        raise ValueError(f"a row of {element.name!r} ends early") from None
    return [found[name] for name in names]
