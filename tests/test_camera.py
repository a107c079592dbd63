"""Projection: the facts of GMAE's camera, gradients, and comparisons with independent computations in float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gmae_tools.camera import Camera, CameraKind, longest_axes, project, quats_to_rotations
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians

KINDS: tuple[CameraKind, ...] = ("gmae", "pinhole", "orthographic")
CAMERAS = {
    "gmae": Camera(),
    "pinhole": Camera("pinhole", distance=3.0, focal=2.5),
    "orthographic": Camera("orthographic", distance=8.0, focal=1.0),
}


def random_gaussians(k: int = 40, seed: int = 0, dtype: torch.dtype = torch.float64) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
        return (torch.rand(2, k, *shape, generator=generator, dtype=torch.float64) * (high - low) + low).to(dtype)

    scales = torch.exp(uniform(3, low=math.log(0.01), high=0.0))
    quats = torch.randn(2, k, 4, generator=generator, dtype=torch.float64).to(dtype)  # of any length
    return Gaussians(uniform(3), scales, quats, uniform(3, low=0), uniform(low=0))


def one(mean: tuple[float, float, float] = (0.0, 0.0, 0.0), scale: float | tuple[float, ...] = 1.0,
        quat: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0), dtype: torch.dtype = torch.float32) -> Gaussians:  # fmt: skip
    scales = torch.tensor([[scale if isinstance(scale, tuple) else (scale,) * 3]], dtype=dtype)
    means, quats = torch.tensor([[mean]], dtype=dtype), torch.tensor([[quat]], dtype=dtype)
    return Gaussians(means, scales, quats, torch.rand(1, 1, 3, dtype=dtype), torch.full((1, 1), 0.5, dtype=dtype))


def covariances(conics: torch.Tensor) -> np.ndarray:
    """`[..., 2, 2]` by numpy's inverse, from conics (a, b, c)."""
    a, b, c = conics.detach().double().numpy().transpose(2, 0, 1)
    return np.linalg.inv(np.stack([np.stack([a, b], -1), np.stack([b, c], -1)], -2))


def expected_splats(gaussians: Gaussians, camera: Camera, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and covariances with scipy's rotations and numpy, one Gaussian at a time, by the definitions.

    The pinhole's covariance is J R S S R^T J^T, J being the derivative of the projection, taken numerically.
    """

    def pinhole(point: np.ndarray) -> np.ndarray:
        x, y, z = point
        z = z + camera.distance
        return np.array([width / 2 * (camera.focal * x / z + 1), height / 2 * (camera.focal * y / z + 1)])

    shape = gaussians.opacities.shape
    centres, results = np.empty((*shape, 2)), np.empty((*shape, 2, 2))
    for i, j in np.ndindex(*shape):
        mean, quat = gaussians.means[i, j].double().numpy(), gaussians.quats[i, j].double().numpy()
        rotation = Rotation.from_quat(np.roll(quat, -1)).as_matrix()  # scipy has w last
        covariance = rotation @ np.diag(gaussians.scales[i, j].double().numpy() ** 2) @ rotation.T
        if camera.kind == "pinhole":
            step = 1e-5
            columns = [(pinhole(mean + step * axis) - pinhole(mean - step * axis)) / (2 * step) for axis in np.eye(3)]
            jacobian, centre = np.stack(columns, 1), pinhole(mean)
        else:
            z = camera.distance + (mean[2] if camera.kind == "gmae" else 0)
            jacobian = np.array([[width / 2, 0, 0], [0, height / 2, 0]]) * camera.focal / z
            centre = np.array([width / 2 * (mean[0] + 1), height / 2 * (mean[1] + 1)])
        centres[i, j] = centre
        results[i, j] = jacobian @ covariance @ jacobian.T + camera.blur * np.eye(2)
    return centres, results


# --- the facts ------------------------------------------------------------------------------------


def test_footprint_of_the_default_camera() -> None:
    """14 px at 224 px, scale 1, in the middle of the cube; larger in front and smaller behind, as 1 / z."""
    for mean_z, sigma in ((0.0, 14.0), (-1.0, 16.0), (1.0, 112 / 9)):
        splats = project(one((0.0, 0.0, mean_z)), Camera(), 224, 224)
        covariance = covariances(splats.conics)[0, 0]
        np.testing.assert_allclose(covariance, (sigma**2 + 0.3) * np.eye(2), rtol=1e-6)
        assert float(splats.depths) == 8 + mean_z


def test_centres_of_the_default_camera_do_not_depend_on_depth() -> None:
    for z in (-1.0, 0.0, 0.9):
        means = project(one((-1.0, 0.5, z)), Camera(), 100, 200).means
        assert means.tolist() == [[[0.0, 75.0]]]  # the left edge; three quarters down


def test_the_blur_is_a_variance_in_pixels() -> None:
    for kind in KINDS:
        splats = project(one(scale=1e-6), dataclasses.replace(CAMERAS[kind], blur=0.3), 64, 64)
        np.testing.assert_allclose(covariances(splats.conics)[0, 0], 0.3 * np.eye(2), rtol=1e-6)


def test_a_pinhole_moves_centres_with_depth() -> None:
    camera = Camera("pinhole", distance=2.0, focal=2.0)
    for z, x in ((0.0, 150.0), (-1.0, 200.0), (2.0, 125.0)):
        assert project(one((0.5, 0.0, z)), camera, 200, 200).means.tolist() == [[[x, 100.0]]]


def test_an_orthographic_footprint_does_not_depend_on_depth() -> None:
    near, far = (project(one((0.0, 0.0, z)), CAMERAS["orthographic"], 224, 224) for z in (-1.0, 1.0))
    assert torch.equal(near.conics, far.conics)
    np.testing.assert_allclose(covariances(far.conics)[0, 0], (14**2 + 0.3) * np.eye(2), rtol=1e-6)
    assert near.depths < far.depths  # but depth still decides the order


@pytest.mark.parametrize("kind", KINDS)
def test_order_colours_and_opacities_are_kept(kind: CameraKind) -> None:
    gaussians = random_gaussians()
    splats = project(gaussians, CAMERAS[kind], 48, 64)
    assert torch.equal(splats.colors, gaussians.colors)
    assert torch.equal(splats.opacities, gaussians.opacities)
    torch.testing.assert_close(splats.depths, CAMERAS[kind].distance + gaussians.means[..., 2])


@pytest.mark.parametrize("kind", KINDS)
def test_the_cameras_axis_may_meet_the_picture_elsewhere(kind: CameraKind) -> None:
    gaussians = random_gaussians()
    before = project(gaussians, CAMERAS[kind], 30, 40)
    after = project(gaussians, dataclasses.replace(CAMERAS[kind], cx=0.1, cy=-0.2), 30, 40)
    torch.testing.assert_close(after.means - before.means, torch.tensor([2.0, -3.0]).expand_as(before.means).double())
    assert torch.equal(after.conics, before.conics)


# --- against independent computations ---------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (321, 481)])
def test_shear_agrees_with_its_definition(height: int, width: int) -> None:
    """J = f [[1/z, 0, -x/z^2], [0, 1/z, -y/z^2]] in half pictures, with x and y clamped to 1.3."""
    camera, gaussians = Camera("gmae", distance=3.0, focal=2.0, shear=True), random_gaussians()
    gaussians = dataclasses.replace(gaussians, means=gaussians.means * torch.tensor([2.0, 2.0, 1.0]))
    splats = project(gaussians, camera, height, width)
    assert torch.equal(splats.means, project(gaussians, dataclasses.replace(camera, shear=False), height, width).means)
    for i, j in np.ndindex(*gaussians.opacities.shape):
        x, y, z = gaussians.means[i, j].numpy() + np.array([0, 0, 3.0])
        x, y = np.clip([x, y], -1.3, 1.3)
        jacobian = 2.0 * np.array([[1 / z, 0, -x / z**2], [0, 1 / z, -y / z**2]]) * [[width / 2], [height / 2]]
        rotation = Rotation.from_quat(np.roll(gaussians.quats[i, j].numpy(), -1)).as_matrix()
        root = jacobian @ rotation @ np.diag(gaussians.scales[i, j].numpy())
        found = covariances(splats.conics)[i, j]
        np.testing.assert_allclose(found, root @ root.T + 0.3 * np.eye(2), rtol=1e-7)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (321, 481), (481, 321), (1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_splats_agree_with_the_definitions(kind: CameraKind, height: int, width: int) -> None:
    gaussians = random_gaussians()
    splats = project(gaussians, CAMERAS[kind], height, width)
    centres, expected = expected_splats(gaussians, CAMERAS[kind], height, width)
    np.testing.assert_allclose(splats.means.numpy(), centres, rtol=1e-9, atol=1e-9)
    scale = np.sqrt(np.einsum("...ii,...jj->...ij", expected, expected))  # of an entry: the product of both sigmas
    assert (np.abs(covariances(splats.conics) - expected) / scale).max() < 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_enough(kind: CameraKind) -> None:
    gaussians = random_gaussians(200, dtype=torch.float32)
    double = project(gaussians.map(torch.Tensor.double), CAMERAS[kind], 321, 481)
    single = project(gaussians, CAMERAS[kind], 321, 481)
    torch.testing.assert_close(single.means.double(), double.means, rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(single.conics.double(), double.conics, rtol=2e-4, atol=1e-6)


@given(angle=st.floats(0, math.pi), thinness=st.floats(-5, -1), depth=st.floats(-1, 1))
def test_needles_keep_an_accurate_determinant(angle: float, thinness: float, depth: float) -> None:
    """Where xx yy - xy^2 in float32 would be wrong by percents: a footprint of 1,000 px by the blur alone."""
    quat = (math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2))
    needle = one((0.0, 0.0, depth), (2.0, 10.0**thinness, 10.0**thinness), quat)
    single = project(needle, Camera(focal=40.0), 224, 224).conics.double()
    double = project(needle.map(torch.Tensor.double), Camera(focal=40.0), 224, 224).conics
    determinants = [(a * c - b * b).item() for a, b, c in (conics[0, 0] for conics in (single, double))]
    assert single.isfinite().all()
    torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-5)
    assert determinants[1] == pytest.approx(1 / np.linalg.det(covariances(double)[0, 0]), rel=1e-6)


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 1e-2))
def test_rotations_agree_with_scipy(quat: list[float]) -> None:
    w, x, y, z = quat
    expected = Rotation.from_quat([x, y, z, w]).as_matrix()
    actual = quats_to_rotations(torch.tensor(quat, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_the_length_and_sign_of_a_quaternion_do_not_matter() -> None:
    quats = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = quats_to_rotations(quats)
    torch.testing.assert_close(quats_to_rotations(-7.5 * quats), expected)
    assert torch.equal(quats_to_rotations(torch.zeros(4)), torch.eye(3))  # no rotation rather than NaN


# --- gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_parameter(kind: CameraKind) -> None:
    inputs = [getattr(random_gaussians(3), f.name).requires_grad_() for f in dataclasses.fields(Gaussians)]

    def splats(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = project(Gaussians(*tensors), CAMERAS[kind], 30, 50)
        return tuple(getattr(result, field.name) for field in dataclasses.fields(result))

    assert torch.autograd.gradcheck(splats, inputs)


@pytest.mark.parametrize(
    ("kind", "centre_moves", "footprint_changes"),
    [("gmae", False, True), ("pinhole", True, True), ("orthographic", False, False)],
)
def test_what_depth_gets_a_gradient_from(kind: CameraKind, centre_moves: bool, footprint_changes: bool) -> None:
    """Under an orthographic camera depth is not learnt: it only decides the order."""
    gaussians = random_gaussians()
    for output, expected in (("means", centre_moves), ("conics", footprint_changes)):
        means = gaussians.means.clone().requires_grad_()
        splats = project(dataclasses.replace(gaussians, means=means), CAMERAS[kind], 64, 64)
        ((getattr(splats, output) ** 2).sum() + 0 * means.sum()).backward()
        assert means.grad is not None
        assert (means.grad[..., 2] != 0).all() == expected
        assert (means.grad[..., 2] == 0).all() == (not expected)


# --- what cannot be seen ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_behind_the_camera_is_invisible_finite_and_without_gradient(kind: CameraKind) -> None:
    camera = dataclasses.replace(CAMERAS[kind], distance=0.5)
    gaussians = random_gaussians()
    z = torch.linspace(-1, 1, 40, dtype=torch.float64).expand(2, -1)
    gaussians = dataclasses.replace(gaussians, means=torch.cat([gaussians.means[..., :2], z[..., None]], -1))
    gaussians = gaussians.map(lambda t: t.clone().requires_grad_())
    splats = project(gaussians, camera, 64, 64)
    behind = z <= -0.5
    assert behind.any() and (splats.opacities[behind] == 0).all()
    assert torch.equal(splats.opacities[z > -0.48], gaussians.opacities[z > -0.48])
    for field in dataclasses.fields(splats):
        assert getattr(splats, field.name).isfinite().all(), field.name
    splats.opacities.sum().backward()
    assert gaussians.opacities.grad is not None and (gaussians.opacities.grad[behind] == 0).all()


@pytest.mark.parametrize("scale", [0.0, 1e-8, (1.0, 0.0, 0.0)], ids=["point", "almost a point", "line"])
def test_without_blur_what_has_no_area_is_invisible(scale: float | tuple[float, ...]) -> None:
    splats = project(one(scale=scale), Camera(blur=0.0), 64, 64)
    assert splats.opacities.item() == 0
    assert splats.conics.isfinite().all()
    assert project(one(scale=scale), Camera(), 64, 64).opacities.item() == 0.5  # the blur gives it one


@pytest.mark.parametrize("kind", KINDS)
def test_gaussians_of_any_size_look_the_same_beyond_the_picture(kind: CameraKind) -> None:
    """Where squares of squares overflow float32."""
    turn = (0.9, 0.1, 0.2, 0.3)
    expected = project(one(scale=(1e5, 0.3, 0.3), quat=turn, dtype=torch.float64), CAMERAS[kind], 64, 64).conics
    for scale in (1e6, 1e10, 1e20, 1e30, -1e30):
        needle = one(scale=(scale, 0.3, 0.3), quat=turn).map(lambda tensor: tensor.requires_grad_())
        conics = project(needle, CAMERAS[kind], 64, 64).conics
        torch.testing.assert_close(conics.double(), expected, rtol=1e-4, atol=1e-6)
        conics.sum().backward()
        assert needle.scales.grad is not None and needle.scales.grad.isfinite().all()
        everywhere = project(one(scale=scale, quat=turn), CAMERAS[kind], 64, 64)
        assert 0 <= everywhere.conics.abs().max() < 1e-6 and everywhere.opacities.item() == 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["scales", "quats"])
def test_what_is_no_number_is_not_hidden(field: str, value: float, kind: CameraKind) -> None:
    gaussians = random_gaussians(5)
    getattr(gaussians, field)[1, 3, 0] = value
    assert not project(gaussians, CAMERAS[kind], 64, 64).conics[1, 3].isfinite().all()


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "fisheye"}, "camera kind 'fisheye' is unknown: use gmae, pinhole or orthographic"),
        ({"distance": 0.0}, "must be positive"),
        ({"distance": math.nan}, "must be positive"),
        ({"distance": math.inf}, "must be positive"),
        ({"focal": -1.0}, "must be positive"),
        ({"blur": -0.1}, "must not be negative"),
        ({"cx": math.nan}, "cx and cy must be numbers, .* not nan"),
        ({"cy": "0"}, "cx and cy must be numbers, .* not '0'"),
        ({"shear": 1}, "shear is 1, must be false, or true for a gmae camera"),
        ({"kind": "pinhole", "shear": True}, "shear is True, must be false, or true for a gmae camera"),
    ],
)
def test_impossible_cameras_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message):
        Camera(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_axis_is_the_direction_of_a_needle(kind: CameraKind) -> None:
    """One axis is long: moved by it, the centre goes one standard deviation along the splat."""
    camera, (height, width) = CAMERAS[kind], (40, 90)
    for axis, scales in enumerate([(0.5, 1e-4, 1e-4), (1e-4, 0.5, 1e-4), (1e-4, 1e-4, 0.5)]):
        quat = Rotation.from_rotvec([0.3, 0.7, 0.4]) if axis == 2 else Rotation.from_rotvec([0, 0, 0.7])
        needle = one((0.1, 0.2, 0.3), scales, tuple(np.roll(quat.as_quat(), 1)), torch.float64)
        index, move = longest_axes(needle, camera, height, width)
        assert index.tolist() == [[axis]]
        moved = dataclasses.replace(needle, means=torch.cat([needle.means[..., :2] + move, needle.means[..., 2:]], -1))
        before, after = (project(gaussians, camera, height, width) for gaussians in (needle, moved))
        step = (after.means - before.means)[0, 0].numpy()
        if kind == "pinhole" and axis == 2:
            continue  # the needle points in depth, which the centre keeps: its splat is also sheared
        expected = covariances(before.conics)[0, 0] - camera.blur * np.eye(2)
        np.testing.assert_allclose(np.outer(step, step), expected, atol=0.01)


# --- pinholes of photographs --------------------------------------------------------------------------


def test_a_pinhole_knows_both_focal_lengths_and_its_centre() -> None:
    """A camera matrix in pixels sees the same point, and derivatives of it make the footprint."""
    fx, fy, cx, cy, height, width = 90.0, 130.0, 70.0, 33.0, 80, 150
    camera = Camera(
        "pinhole", 0.0, 2 * fx / width, 0.2, focal_y=2 * fy / height, cx=2 * cx / width - 1, cy=2 * cy / height - 1
    )
    mean, scales = np.array([0.4, -0.3, 2.5]), (0.3, 0.1, 0.2)
    turn = Rotation.from_rotvec([0.3, 0.7, 0.4])

    def see(point: np.ndarray) -> np.ndarray:
        return np.array([fx * point[0] / point[2] + cx, fy * point[1] / point[2] + cy])

    step = 1e-6
    jacobian = np.stack([(see(mean + step * axis) - see(mean - step * axis)) / (2 * step) for axis in np.eye(3)], 1)
    covariance = turn.as_matrix() @ np.diag(np.square(scales)) @ turn.as_matrix().T
    splats = project(one(tuple(mean), scales, tuple(np.roll(turn.as_quat(), 1)), torch.float64), camera, height, width)
    np.testing.assert_allclose(splats.means[0, 0], see(mean), rtol=1e-9)
    expected = jacobian @ covariance @ jacobian.T + 0.2 * np.eye(2)
    np.testing.assert_allclose(covariances(splats.conics)[0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_camera_leaves_out_changes_no_bit(kind: CameraKind) -> None:
    """The defaults, said in full, and the fields of an old configuration file."""
    camera, gaussians = CAMERAS[kind], random_gaussians(50)
    values = {"kind": kind, "distance": camera.distance, "focal": camera.focal, "blur": camera.blur}
    full = Camera(**values, focal_y=camera.focal if kind == "pinhole" else None, cx=0.0, cy=0.0)  # type: ignore[arg-type]
    for other in (Camera(**values), full):  # type: ignore[arg-type]
        for ours, theirs in zip(
            *(vars(project(gaussians, each, 40, 70)).values() for each in (camera, other)), strict=True
        ):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "pinhole", "focal_y": 0.0}, "focal_y is 0.0, must be None, or positive for a pinhole"),
        ({"kind": "pinhole", "focal_y": math.nan}, "focal_y is nan"),
        ({"kind": "pinhole", "focal_y": "wide"}, "focal_y is 'wide'"),
        ({"kind": "pinhole", "cx": math.nan}, "cx and cy must be"),
        ({"kind": "pinhole", "distance": -1.0}, "must be positive"),
        ({"kind": "orthographic", "distance": 0.0}, "must be positive"),
        ({"kind": "gmae", "focal_y": 2.0}, "focal_y is 2.0"),
        ({"kind": "gmae", "shear_limit": 1.3}, "shear_limit is 1.3"),
        ({"kind": "pinhole", "shear_limit": -1.3}, "shear_limit is -1.3"),
    ],
)
def test_impossible_pinholes_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message):
        Camera(**values)
