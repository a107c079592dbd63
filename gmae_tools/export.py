"""Gaussians as files for other programs: PLY and .splat for viewers of 3-D Gaussians, SVG for browsers and drawing.

PLY and .splat hold Gaussians as a perspective viewer wants them, from `perspective.in_perspective`; SVG holds the
splats of the picture itself. `Gaussians.save` keeps all as it is.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from gmae_tools import __version__
from gmae_tools.camera import Splats
from gmae_tools.errors import GmaeToolsError
from gmae_tools.files import atomic_path
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import one_line

# --- PLY ---------------------------------------------------------------------------------------------

SH_0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi)); colour = 1/2 + SH_0 f_dc
PLY_PROPERTIES = (
    *("x", "y", "z"),
    *("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacity",
    *("scale_0", "scale_1", "scale_2"),
    *("rot_0", "rot_1", "rot_2", "rot_3"),
)
_PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_PLY_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 1 << 16  # bytes
_LEAST_OPACITY = 1e-6  # also of what opacities lack to 1: the ends have no finite logit
_LEAST_SCALE = 1e-12  # scene units; 0 has no logarithm


def write_ply(path: str | os.PathLike[str], gaussians: Gaussians) -> None:
    """Write the PLY of 3-D Gaussian splatting (Kerbl et al. 2023), binary and little-endian.

    A vertex is a Gaussian: x, y, z; f_dc_0..2, (colour - 1/2) / `SH_0`; opacity as its logit; scale_0..2 as natural
    logarithms; rot_0..3, a unit quaternion (w, x, y, z). All are float32; there are no further harmonics.

    Args:
        gaussians: one set, as `in_perspective` makes them for viewers.
    """
    _check_one(gaussians)
    one = gaussians.map(lambda tensor: tensor.detach().cpu().double())
    columns = [
        one.means,
        (one.colors - 0.5) / SH_0,
        torch.logit(one.opacities, _LEAST_OPACITY)[..., None],
        one.scales.clamp_min(_LEAST_SCALE).log(),
        torch.nn.functional.normalize(one.quats, dim=-1),
    ]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment gmae-tools {__version__}",
        f"element vertex {gaussians.k}",
        *(f"property float {name}" for name in PLY_PROPERTIES),
        "end_header",
    ]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write("".join(f"{line}\n" for line in header).encode("ascii"))
        file.write(torch.cat(columns, -1).numpy().astype("<f4").tobytes())


def read_ply(path: str | os.PathLike[str]) -> Gaussians:
    """Read a binary PLY of 3-D Gaussian splatting, by `write_ply` or others.

    Other properties (normals, higher harmonics) are left out; colours are clipped to [0, 1].

    Returns:
        One set `[1, K]`, in the units of the file.

    Raises:
        GmaeToolsError: the file is missing, damaged, text, or not of Gaussians.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise GmaeToolsError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        vertices = _ply_vertices(data)
    except (ValueError, TypeError) as error:
        raise GmaeToolsError(f"{path}: not a PLY of 3-D Gaussians ({one_line(error)})") from None
    means, harmonics, logits, logs, quats = np.split(vertices, [3, 6, 7, 10], axis=1)
    return Gaussians(
        *(
            torch.from_numpy(array.astype(np.float32))[None]
            for array in (means, np.exp(logs), quats, np.clip(0.5 + SH_0 * harmonics, 0, 1), expit(logits[:, 0]))
        )
    )


def _ply_vertices(data: bytes) -> np.ndarray:
    """`PLY_PROPERTIES` of all vertices, float64 `[K, 14]`.

    Raises:
        ValueError: the data are something else; says what.
    """
    count, dtype, start = _ply_header(data)
    missing = [name for name in PLY_PROPERTIES if name not in (dtype.names or ())]
    if missing:
        raise ValueError(f"no property {missing[0]}")
    if len(data) - start < count * dtype.itemsize:
        raise ValueError(f"the file ends before its {count} vertices do")
    vertices = np.frombuffer(data, dtype, count, start)
    values = np.stack([vertices[name].astype(np.float64) for name in PLY_PROPERTIES], 1)
    if not np.isfinite(values).all():
        raise ValueError("it has NaN or infinite values")
    return values


def _ply_header(data: bytes) -> tuple[int, np.dtype[np.void], int]:
    """How many vertices, of which properties, from which byte on.

    Raises:
        ValueError: not such a header.
    """
    end = data.find(b"end_header", 0, _LONGEST_HEADER)
    start = data.find(b"\n", end) + 1
    if not data.startswith(b"ply") or end < 0 or start == 0:
        raise ValueError("no PLY header")
    order, element, count = "", "", -1
    properties: list[tuple[str, str]] = []
    for line in data[:end].decode("ascii", "replace").splitlines()[1:]:
        match line.split():
            case ["format", name, *_] if name in _PLY_ORDERS:
                order = _PLY_ORDERS[name]
            case ["format", name, *_]:
                raise ValueError(f"format {name}; save it as binary_little_endian")
            case ["element", name, number]:
                if not element and name != "vertex":
                    raise ValueError("the first element is not vertex")
                element, count = name, int(number) if name == "vertex" else count
            case ["property", kind, name] if element == "vertex" and kind in _PLY_TYPES:
                properties.append((name, order + _PLY_TYPES[kind]))
            case ["property", *_] if element == "vertex":
                raise ValueError(f"cannot read {line.strip()!r}")
    if not order or count < 0:
        raise ValueError("an incomplete PLY header")
    return count, np.dtype(properties), start


# --- .splat ------------------------------------------------------------------------------------------

SPLAT = np.dtype([("position", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def write_splat(path: str | os.PathLike[str], gaussians: Gaussians) -> None:
    """Write a .splat file as antimatter15/splat defined it: 32 bytes (`SPLAT`) for each Gaussian.

    Colours and opacities are rounded to 8 bits, and so are unit quaternions (w, x, y, z), as 128 q + 128. What matters
    most, by volume times opacity, comes first, for viewers that draw while they load.

    Args:
        gaussians: one set, as `in_perspective` makes them for viewers.
    """
    _check_one(gaussians)
    order = torch.argsort(gaussians.scales[0].prod(-1) * gaussians.opacities[0], descending=True, stable=True)
    one = gaussians.select(order).detach().to("cpu")
    records = np.zeros((1, gaussians.k), SPLAT)
    records["position"] = one.means.numpy()
    records["scales"] = one.scales.numpy()
    records["rgba"] = _bytes(torch.cat([one.colors, one.opacities[..., None]], -1) * 255)
    records["rotation"] = _bytes(torch.nn.functional.normalize(one.quats, dim=-1) * 128 + 128)
    with atomic_path(path) as temporary:
        temporary.write_bytes(records.tobytes())


def _bytes(values: Tensor) -> np.ndarray:
    rounded: np.ndarray = values.round().clamp(0, 255).to(torch.uint8).numpy()
    return rounded


# --- SVG ---------------------------------------------------------------------------------------------

_ALPHA_MIN = 1 / 255  # of the renderer: fainter parts of a splat are not drawn
_REACH = math.sqrt(-2 * math.log(_ALPHA_MIN))  # standard deviations from the centre to there at full opacity
# Of a gradient, standard deviations; denser where exp(-r^2 / 2) bends, so that the straight lines between them err by
# less than a grey level of 255.
_STOPS = np.array([0, 0.17, 0.35, 0.55, 0.81, 1.28, 1.56, 1.82, 2.08, 2.37, 2.74, _REACH])


def write_svg(path: str | os.PathLike[str], splats: Splats, height: int, width: int, *, title: str = "") -> None:
    """Write the splats of a picture as an SVG of ellipses on white, the farthest first.

    Each has a radial gradient that falls off as the Gaussian does, as far as the renderer draws it. A unit of length is
    a pixel of the picture.

    Args:
        splats: one set, from `project` for a picture of `height` x `width` pixels.
        title: for readers; any text.
    """
    _check_one(splats)
    seen = torch.argsort(splats.depths[0], stable=True).flip(0)
    seen = seen[splats.opacities[0, seen] > _ALPHA_MIN]
    means, conics, colors, opacities = (
        tensor[0, seen].detach().cpu().double().numpy()
        for tensor in (splats.means, splats.conics, splats.colors, splats.opacities)
    )
    sigmas, angles = _ellipses(conics)
    fills = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in np.rint(colors.clip(0, 1) * 255).astype(int)]
    radii = np.sqrt(2 * np.log(opacities / _ALPHA_MIN))
    title = escape("".join(char if char.isprintable() else "\ufffd" for char in title))
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}" role="img">\n<title>{title}</title>\n<defs>\n'
        )
        file.writelines(_gradient(index, fill) for index, fill in enumerate(fills))
        file.write('</defs>\n<rect width="100%" height="100%" fill="#fff"/>\n')
        for index, ((x, y), (along, across), angle) in enumerate(zip(means, sigmas, angles, strict=True)):
            file.write(
                f'<circle r="{radii[index]:.4g}" fill="url(#g{index})" fill-opacity="{opacities[index]:.4g}"'
                f' transform="translate({x:.2f} {y:.2f}) rotate({angle:.2f}) scale({along:.4g} {across:.4g})"/>\n'
            )
        file.write("</svg>\n")


def _gradient(index: int, fill: str) -> str:
    """The fall-off of a Gaussian of one standard deviation around the origin, in one colour."""
    stops = "".join(
        f'<stop offset="{stop / _REACH:.4g}" stop-color="{fill}" stop-opacity="{math.exp(-0.5 * stop * stop):.4g}"/>'
        for stop in _STOPS
    )
    return (
        f'<radialGradient id="g{index}" gradientUnits="userSpaceOnUse" cx="0" cy="0" r="{_REACH:.5g}">'
        f"{stops}</radialGradient>\n"
    )


def _ellipses(conics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations along the longer and the shorter axis `[K, 2]` in px, and the longer one's angle in degrees.

    Angles `[K]` turn from x to y: clockwise, as y points down.
    """
    a, b, c = conics.T
    inverse, axes = np.linalg.eigh(np.stack([a, b, b, c], 1).reshape(-1, 2, 2))  # ascending: the longer axis first
    return inverse**-0.5, np.degrees(np.arctan2(axes[:, 1, 0], axes[:, 0, 0]))


def _check_one(batch: Gaussians | Splats) -> None:
    if len(batch.means) != 1:
        raise GmaeToolsError(f"a file holds one set of Gaussians, not {len(batch.means)}")
