"""Write SVG files of ellipses with gradients, for browsers and drawing programs. They cannot be read."""

from __future__ import annotations

import math
import os
from xml.sax.saxutils import escape

import numpy as np
import torch

from gmae_tools.camera import Splats
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path

_ALPHA_MIN = 1 / 255  # the renderer leaves out parts of a splat below this alpha
_REACH = math.sqrt(-2 * math.log(_ALPHA_MIN))  # standard deviations at which a splat of opacity 1 has this alpha
# The stops of a gradient in standard deviations. They are closer where exp(-r^2 / 2) bends more, so that linear
# interpolation between them is wrong by less than a grey level of 255.
_STOPS = np.array([0, 0.17, 0.35, 0.55, 0.81, 1.28, 1.56, 1.82, 2.08, 2.37, 2.74, _REACH])


def write(path: str | os.PathLike[str], splats: Splats, height: int, width: int, *, title: str = "") -> None:
    """Write the splats of a picture as an SVG of ellipses on white, the farthest first.

    Each ellipse has a radial gradient that falls off like the Gaussian and ends where the renderer leaves it out. A
    unit of length is a pixel of the picture, for which `project` has made the splats.

    Raises:
        GmaeToolsError: there is not exactly one set.
    """
    if len(splats.means) != 1:
        raise GmaeToolsError(f"a file holds one set of Gaussians, not {len(splats.means)}")
    seen = torch.argsort(splats.depths[0], stable=True).flip(0)
    seen = seen[splats.opacities[0, seen] > _ALPHA_MIN]
    means, conics, colors, opacities = (
        tensor[0, seen].detach().cpu().double().numpy()
        for tensor in (splats.means, splats.conics, splats.colors, splats.opacities)
    )
    a, b, c = conics.T
    inverse, axes = np.linalg.eigh(np.stack([a, b, b, c], 1).reshape(-1, 2, 2))  # ascending: the longer axis first
    sigmas = inverse**-0.5  # along the longer and the shorter axis in pixels, [K, 2]
    angles = np.degrees(np.arctan2(axes[:, 1, 0], axes[:, 0, 0]))  # of the longer axis, from x towards y
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
    """Return the element of a radial gradient: a Gaussian around the origin, with deviation 1 and one colour."""
    stops = "".join(
        f'<stop offset="{stop / _REACH:.4g}" stop-color="{fill}" stop-opacity="{math.exp(-0.5 * stop * stop):.4g}"/>'
        for stop in _STOPS
    )
    return (
        f'<radialGradient id="g{index}" gradientUnits="userSpaceOnUse" cx="0" cy="0" r="{_REACH:.5g}">'
        f"{stops}</radialGradient>\n"
    )
