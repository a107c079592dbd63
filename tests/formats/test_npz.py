"""Archives of Gaussians: as predicted, or 2-D ones whose order stands for depth."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import npz
from gmae_tools.formats.viewpoint import Viewpoint
from gmae_tools.gaussians import Gaussians
from tests.some_gaussians import K, some_gaussians

CAMERA = Camera("gmae", 5.0, 2.0, 0.1)


@pytest.fixture
def gaussians() -> Gaussians:
    return some_gaussians()


def arrays(gaussians: Gaussians) -> dict[str, Any]:
    return {name: tensor[0].numpy() for name, tensor in vars(gaussians).items()}


def test_it_comes_back_with_its_camera(gaussians: Gaussians, tmp_path: Path) -> None:
    npz.write(tmp_path / "some.npz", gaussians, Viewpoint(CAMERA, 30, 50))
    back, viewpoint = npz.read(tmp_path / "some.npz")
    assert viewpoint == Viewpoint(CAMERA, 30, 50)
    for read in (back, Gaussians.load(tmp_path / "some.npz")):
        assert all(torch.equal(getattr(read, name), tensor) for name, tensor in vars(gaussians).items())
    with pytest.raises(GmaeToolsError, match="one set"):
        npz.write(tmp_path / "two.npz", Gaussians.stack([gaussians, gaussians]))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_others_save(gaussians: Gaussians, tmp_path: Path, save: Any) -> None:
    """Without the leading 1, in double precision and in Fortran's order, and what `Gaussians.save` writes."""
    save(tmp_path / "other.npz", **{n: np.asfortranarray(a.astype(np.float64)) for n, a in arrays(gaussians).items()})
    gaussians.save(tmp_path / "ours.npz")
    for name in ("other", "ours"):
        back, viewpoint = npz.read(tmp_path / f"{name}.npz")
        assert viewpoint is None
        assert all(torch.equal(getattr(back, field), tensor) for field, tensor in vars(gaussians).items())


# --- 2-D ---------------------------------------------------------------------------------------------


def flat(**changes: Any) -> dict[str, Any]:
    chance = np.random.default_rng(0)
    values = {
        "means": chance.uniform(0, 60, (K, 2)), "scales": chance.uniform(0.5, 9, (K, 2)),
        "angles": chance.uniform(-4, 4, K), "colors": chance.uniform(0, 1, (K, 3)),
        "opacities": chance.uniform(0, 1, K), "height": 40, "width": 64,
    }  # fmt: skip
    return {name: value for name, value in (values | changes).items() if value is not None}


def covariances(values: dict[str, Any]) -> np.ndarray:
    cos, sin = np.cos(values["angles"]), np.sin(values["angles"])
    turns = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    return turns @ (np.eye(2) * values["scales"][:, None] ** 2) @ turns.transpose(0, 2, 1)


@pytest.mark.parametrize("given", ["scales", "covariances"])
def test_flat_gaussians_are_seen_as_they_are(tmp_path: Path, given: str) -> None:
    """Places, shapes and order of a picture that is not square."""
    values = flat()
    expected = covariances(values)
    if given == "covariances":
        values = flat(scales=None, angles=None, covariances=expected)
    np.savez(tmp_path / "flat.npz", **values)
    back, viewpoint = npz.read(tmp_path / "flat.npz")
    assert viewpoint is not None and (viewpoint.height, viewpoint.width) == (40, 64)
    splats = project(back, viewpoint.camera, 40, 64)
    np.testing.assert_allclose(splats.means[0], values["means"], atol=1e-4)
    a, b, c = splats.conics[0].double().numpy().T
    inverse = np.linalg.inv(np.stack([a, b, b, c], -1).reshape(-1, 2, 2))
    np.testing.assert_allclose(inverse, expected, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(splats.opacities[0], values["opacities"], atol=1e-6)
    assert torch.equal(splats.depths[0].argsort(), torch.arange(K))


def test_flat_gaussians_may_lack_angles_and_opacities(tmp_path: Path) -> None:
    np.savez(tmp_path / "flat.npz", **flat(angles=None, opacities=None))
    back, _ = npz.read(tmp_path / "flat.npz")
    assert (back.opacities == 1).all()
    assert back.scales[..., :2].prod().isfinite()


# --- refusals ----------------------------------------------------------------------------------------


def saved(**values: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def solid(**changes: Any) -> bytes:
    return saved(**{name: value for name, value in (arrays(some_gaussians()) | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a zip file"),
        (b"PK\x03\x04 but no archive", "not a zip file"),
        (solid()[:3000], "not a zip file"),
        (solid(means=None), "no array 'means'"),
        (solid(quats=None), "no array 'quats'"),
        (solid(scales=np.ones((K, 2))), r"scales has shape \[50, 2\], expected \[50, 3\]"),
        (solid(scales=np.full((K, 3), -2.0)), "scales below 0; they may be logarithms"),
        (solid(opacities=np.full(K, 3.0)), "opacities beyond 0 to 1; they may not be activated"),
        (solid(means=np.full((K, 3), np.nan)), "means has NaN or infinite values"),
        (solid(means=np.full((K, 3), 1e300)), "means has NaN or infinite values"),
        (solid(means=np.array([object()])), "means is object"),
        (solid(means=np.zeros((0, 3))), "from 1 to 33,554,432 Gaussians"),
        (solid(camera=np.array("{"), height=3, width=3), "not an .npz of Gaussians"),
        (solid(camera=np.array('{"kind": "fisheye"}'), height=3, width=3), "camera kind 'fisheye' is unknown"),
        (solid(camera=np.array('{"lens": 1}'), height=3, width=3), "not an .npz of Gaussians"),
        (solid(camera=np.array("{}"), height=3, width=0), "cannot be rendered"),
        (solid(camera=np.array("{}"), height=3, width=2.5), "width is 2.5"),
        (saved(**flat(height=None)), "no array 'height'"),
        (saved(**flat(scales=np.full((K, 2), -1.0))), "scales below 0"),
        (saved(**flat(covariances=np.tile(-np.eye(2), (K, 1, 1)))), "covariances that are not positive"),
        (zipped("means.npy", b"no array"), "not an .npz of Gaussians"),
        (zipped("means.npy", header((10**9, 3)) + bytes(99)), "from 1 to 33,554,432 Gaussians"),
        (zipped("means.npy", header((1 << 24, 3)) + bytes(99)), "means ends early"),
        (zipped("means.npy", header((3, 3), "<V9") + bytes(99)), "means is"),
    ],
)
def test_broken_files_are_refused_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "broken.npz").write_bytes(data)
    with pytest.raises(GmaeToolsError, match=message) as caught:
        npz.read(tmp_path / "broken.npz")
    assert str(caught.value).startswith(f"{tmp_path / 'broken.npz'}: ") and "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match="no such file"):
        npz.read(tmp_path / "nowhere.npz")
    with pytest.raises(GmaeToolsError, match="cannot be read"):
        npz.read(tmp_path)
