"""`.splat` files as antimatter15/splat defines them: 32 bytes (`RECORD`) for each Gaussian, and nothing else.

Colours and opacities are rounded to 8 bits. A unit quaternion q (w, x, y, z) is stored as 128 q + 128, in 8 bits, too.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.ply import MOST_GAUSSIANS
from gmae_tools.gaussians import Gaussians
from gmae_tools.system.files import atomic_path

RECORD = np.dtype([("position", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def write(path: str | os.PathLike[str], gaussians: Gaussians) -> None:
    """Write one set of Gaussians, as `perspective.for_viewers` returns it.

    They are sorted by volume times opacity, the largest first, for viewers that render while they load.

    Raises:
        GmaeToolsError: there is not exactly one set.
    """
    if gaussians.batch_size != 1:
        raise GmaeToolsError(f"a file holds one set of Gaussians, not {gaussians.batch_size}")
    order = torch.argsort(gaussians.scales[0].prod(-1) * gaussians.opacities[0], descending=True, stable=True)
    one = gaussians.select(order).detach().to("cpu")
    records = np.zeros((1, gaussians.k), RECORD)
    records["position"] = one.means.numpy()
    records["scales"] = one.scales.numpy()
    colors = torch.cat([one.colors, one.opacities[..., None]], -1) * 255
    rotations = torch.nn.functional.normalize(one.quats, dim=-1) * 128 + 128
    for name, values in (("rgba", colors), ("rotation", rotations)):
        records[name] = values.round().clamp(0, 255).byte().numpy()
    with atomic_path(path) as temporary:
        temporary.write_bytes(records.tobytes())


def read(path: str | os.PathLike[str]) -> Gaussians:
    """Read one set of Gaussians `[1, K]`, in the order, the units and the axes of the file.

    Raises:
        GmaeToolsError: the file is missing, or does not consist of whole records with finite numbers.
    """
    try:
        size = Path(path).stat().st_size
        if not size or size % RECORD.itemsize:
            raise GmaeToolsError(f"{path}: {size:,} bytes are no .splat file, which has {RECORD.itemsize} a Gaussian")
        if size > MOST_GAUSSIANS * RECORD.itemsize:
            raise GmaeToolsError(f"{path}: more than {MOST_GAUSSIANS:,} Gaussians")
        records = np.fromfile(path, RECORD)
    except OSError as error:
        raise GmaeToolsError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not (np.isfinite(records["position"]).all() and np.isfinite(records["scales"]).all()):
        raise GmaeToolsError(f"{path}: not a .splat file of Gaussians (it has NaN or infinite values)")
    names = ("position", "scales", "rgba", "rotation")
    means, scales, color, rotations = (records[name].astype(np.float32) for name in names)
    arrays = (means, scales, (rotations - 128) / 128, color[:, :3] / 255, color[:, 3] / 255)
    return Gaussians(*(torch.from_numpy(np.ascontiguousarray(array))[None] for array in arrays))
