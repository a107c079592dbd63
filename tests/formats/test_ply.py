"""PLY files of Gaussians: read back by another reader, written by others in every variant, refused in one line."""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import ply
from gmae_tools.formats.ply import PROPERTIES, SH_0
from gmae_tools.formats.viewpoint import Viewpoint
from gmae_tools.gaussians import Gaussians
from tests.some_gaussians import K, some_gaussians

CODES = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "float": "f", "double": "d"}
LITTLE, BIG, TEXT = "binary_little_endian", "binary_big_endian", "ascii"


@pytest.fixture
def gaussians() -> Gaussians:
    return some_gaussians()


def assert_same(back: Gaussians, expected: Gaussians) -> None:
    for name, tensor in vars(expected).items():
        torch.testing.assert_close(getattr(back, name), tensor, atol=2e-6, rtol=2e-6, msg=name)


# --- a writer that knows nothing but the format ------------------------------------------------------

Column = tuple[str, str, list]  # kind ("float", "list uchar int"), name, a value for each row


def vertex_columns(gaussians: Gaussians, kind: str = "float") -> list[Column]:
    means, scales, quats, colors, opacities = (tensor[0].double() for tensor in vars(gaussians).values())
    values = torch.cat(
        [means, (colors - 0.5) / SH_0, torch.logit(opacities)[:, None], scales.log(), quats], 1
    )  # fmt: skip
    return [(kind, name, column.tolist()) for name, column in zip(PROPERTIES, values.T, strict=True)]


def pack(kind: str, value: object, form: str) -> bytes:
    words = kind.split()
    values = [(words[-1], value)]
    if words[0] == "list":
        assert isinstance(value, list)
        values = [(words[1], len(value)), *((words[2], each) for each in value)]
    if form == TEXT:
        return " ".join(repr(each) for _, each in values).encode() + b" "
    return b"".join(struct.pack(("<" if form == LITTLE else ">") + CODES[code], each) for code, each in values)


def write(elements: dict[str, list[Column]], form: str = LITTLE, newline: str = "\n") -> bytes:
    header, body = ["ply", f"format {form} 1.0", "comment by another program", "obj_info none"], b""
    for element, columns in elements.items():
        count = len(columns[0][2]) if columns else 0
        header += [f"element {element} {count}", *(f"property {kind} {name}" for kind, name, _ in columns)]
        for row in range(count):
            body += b"".join(pack(kind, values[row], form) for kind, _, values in columns)
            body += b"\n" if form == TEXT else b""
    return newline.join([*header, "end_header", ""]).encode() + body


def camera_elements(fx: float, fy: float, cx: float, cy: float, width: int, height: int) -> dict[str, list[Column]]:
    """As apple/ml-sharp writes them behind the vertices, with all the elements that it has besides."""
    return {
        "extrinsic": [("float", "extrinsic", np.eye(4).ravel().tolist())],
        "intrinsic": [("float", "intrinsic", [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0])],
        "image_size": [("uint", "image_size", [width, height])],
        "frame": [("int", "frame", [1, K])],
        "disparity": [("float", "disparity", [0.1, 0.9])],
        "color_space": [("uchar", "color_space", [0])],
        "version": [("uchar", "version", [1, 5, 0])],
    }


FACES: list[Column] = [
    ("uchar", "flags", [1, 2, 3]), ("list uchar int", "vertex_indices", [[0, 1, 2], [], [3, 4, 5, 6]]),
    ("list ushort double", "more", [[0.5], [1.5, 2.5], []]), ("float", "area", [1.0, 2.0, 3.0]),
]  # fmt: skip


# --- round trips -------------------------------------------------------------------------------------


def test_it_comes_back(gaussians: Gaussians, tmp_path: Path) -> None:
    ply.write(tmp_path / "some.ply", gaussians)
    back, viewpoint = ply.read(tmp_path / "some.ply")
    assert viewpoint is None
    assert_same(back, gaussians)
    assert [path.name for path in tmp_path.iterdir()] == ["some.ply"]


def test_it_is_what_viewers_read(gaussians: Gaussians, tmp_path: Path) -> None:
    """Byte for byte, by a reader that knows nothing but the format."""
    ply.write(tmp_path / "some.ply", gaussians)
    header, body = (tmp_path / "some.ply").read_bytes().split(b"end_header\n", 1)
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert f"element vertex {K}" in lines
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert [line for line in lines if line.startswith("property")] == [f"property float {name}" for name in names]
    assert len(body) == K * 14 * 4
    means, scales, quats, colors, opacities = (tensor[0].tolist() for tensor in vars(gaussians).values())
    for index, values in enumerate(struct.iter_unpack("<14f", body)):
        assert values[:3] == pytest.approx(means[index])
        assert [0.5 + 0.28209479177387814 * value for value in values[3:6]] == pytest.approx(colors[index], abs=1e-6)
        assert 1 / (1 + math.exp(-values[6])) == pytest.approx(opacities[index])
        assert [math.exp(value) for value in values[7:10]] == pytest.approx(scales[index])
        assert values[10:] == pytest.approx(quats[index])


def test_it_agrees_with_gsplats_writer(gaussians: Gaussians, tmp_path: Path) -> None:
    """Theirs has further harmonics and another order of properties."""
    exporter = pytest.importorskip("gsplat.exporter", reason="needs gsplat, an oracle of this test only")
    means, scales, quats, colors, opacities = (tensor[0] for tensor in vars(gaussians).values())
    data = exporter.export_splats(
        means, scales.log(), quats, torch.logit(opacities), (colors[:, None] - 0.5) / SH_0, torch.ones(K, 15, 3),
        format="ply",
    )  # fmt: skip
    (tmp_path / "theirs.ply").write_bytes(data)
    assert_same(ply.read(tmp_path / "theirs.ply")[0], gaussians)


def test_the_extremes_are_finite(gaussians: Gaussians, tmp_path: Path) -> None:
    with torch.no_grad():
        gaussians.opacities[0, :2] = torch.tensor([0.0, 1.0])
        gaussians.scales[0, 0, 0] = 0.0
        gaussians.quats[0, 0] *= 7
    ply.write(tmp_path / "some.ply", gaussians)
    back, _ = ply.read(tmp_path / "some.ply")
    torch.testing.assert_close(back.opacities, gaussians.opacities, atol=2e-6, rtol=0)
    torch.testing.assert_close(back.scales, gaussians.scales, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(back.quats[0, 0], gaussians.quats[0, 0] / 7)


def test_a_pinhole_comes_back(gaussians: Gaussians, tmp_path: Path) -> None:
    """From wherever it stands on the axis: the Gaussians are then in its own axes."""
    camera = Camera("pinhole", 3.0, 2.5, 0.1, focal_y=4.0, cx=0.1, cy=-0.2)
    ply.write(tmp_path / "some.ply", gaussians, Viewpoint(camera, 40, 64))
    back, viewpoint = ply.read(tmp_path / "some.ply")
    assert viewpoint is not None and (viewpoint.height, viewpoint.width) == (40, 64)
    assert viewpoint.camera.distance == 0 and viewpoint.camera.blur == 0.1 and viewpoint.camera.shear_limit is None
    ours, theirs = project(gaussians, camera, 40, 64), project(back, viewpoint.camera, 40, 64)
    torch.testing.assert_close(theirs.means, ours.means, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(theirs.conics, ours.conics, atol=1e-4, rtol=1e-4)
    with pytest.raises(GmaeToolsError, match="not one of kind gmae"):
        ply.write(tmp_path / "other.ply", gaussians, Viewpoint(Camera(), 40, 64))


# --- files of others ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [LITTLE, BIG, TEXT])
@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_encoding(gaussians: Gaussians, tmp_path: Path, form: str, kind: str, newline: str) -> None:
    (tmp_path / "some.ply").write_bytes(write({"vertex": vertex_columns(gaussians, kind)}, form, newline))
    assert_same(ply.read(tmp_path / "some.ply")[0], gaussians)


@pytest.mark.parametrize("form", [LITTLE, BIG, TEXT])
def test_any_order_of_elements_and_properties(gaussians: Gaussians, tmp_path: Path, form: str) -> None:
    """Normals and harmonics among the properties, elements with lists before, and the camera before and behind."""
    others: list[Column] = [("float", name, [9.0] * K) for name in ("nx", "ny", "nz", "f_rest_0", "f_rest_44")]
    others += [("uchar", "age", [7] * K), ("short", "nx", [1] * K)]  # of two that nobody wants one name is no problem
    columns = [*reversed(vertex_columns(gaussians)), *others]
    shuffled = [columns[index] for index in np.random.default_rng(0).permutation(len(columns))]
    camera = camera_elements(30.0, 40.0, 32.0, 25.0, 64, 50)
    elements = {
        "intrinsic": camera.pop("intrinsic"), "face": FACES, "nothing": [], "vertex": shuffled, "edge": FACES[:1],
        **camera,
    }  # fmt: skip
    (tmp_path / "some.ply").write_bytes(write(elements, form))
    back, viewpoint = ply.read(tmp_path / "some.ply")
    assert_same(back, gaussians)
    assert viewpoint is not None
    camera_ = viewpoint.camera
    assert (viewpoint.width, viewpoint.height, camera_.focal, camera_.focal_y) == (64, 50, 30 / 32, 40 / 25)
    assert (camera_.kind, camera_.cx, camera_.cy, camera_.shear_limit) == ("pinhole", 0.0, 0.0, 1.3)


@pytest.mark.parametrize("form", [LITTLE, BIG, TEXT])
def test_vertices_with_lists(gaussians: Gaussians, tmp_path: Path, form: str) -> None:
    chance = np.random.default_rng(0)
    lists = [chance.integers(0, 100, chance.integers(0, 4)).tolist() for _ in range(K)]
    columns = vertex_columns(gaussians)
    columns.insert(5, ("list uchar short", "neighbours", lists))
    columns.append(("list uint double", "weights", [[float(each) for each in row] for row in lists]))
    (tmp_path / "some.ply").write_bytes(write({"vertex": columns, **camera_elements(9, 9, 4, 4, 8, 8)}, form))
    back, viewpoint = ply.read(tmp_path / "some.ply")
    assert_same(back, gaussians)
    assert viewpoint is not None


def test_ml_sharps_layout(gaussians: Gaussians, tmp_path: Path) -> None:
    """A photograph of 1,536 x 1,024 px: a point of the scene is seen where its intrinsic matrix says."""
    elements = {"vertex": vertex_columns(gaussians), **camera_elements(1400.0, 1400.0, 768.0, 512.0, 1536, 1024)}
    (tmp_path / "sharp.ply").write_bytes(write(elements))
    back, viewpoint = ply.read(tmp_path / "sharp.ply")
    assert viewpoint is not None and (viewpoint.height, viewpoint.width) == (1024, 1536)
    splats = project(back, viewpoint.camera, 1024, 1536)
    x, y, z = gaussians.means[0].T
    before = z > 0.1
    expected = torch.stack([1400 * x / z + 768, 1400 * y / z + 512], -1)
    torch.testing.assert_close(splats.means[0][before], expected[before], atol=1e-2, rtol=1e-5)
    assert (splats.opacities[0][z < 0] == 0).all()


def test_a_camera_that_stands_elsewhere(gaussians: Gaussians, tmp_path: Path) -> None:
    """The extrinsic matrix leads from the world to the camera, centres and axes alike."""
    turn, shift = Rotation.from_rotvec([0.3, -0.7, 0.4]), np.array([0.5, -0.25, 4.0])
    extrinsic = np.eye(4)
    extrinsic[:3, :3], extrinsic[:3, 3] = turn.as_matrix(), shift
    elements = {"vertex": vertex_columns(gaussians), **camera_elements(50.0, 50.0, 32.0, 32.0, 64, 64)}
    elements["extrinsic"] = [("double", "extrinsic", extrinsic.ravel().tolist())]
    (tmp_path / "some.ply").write_bytes(write(elements))
    back, _ = ply.read(tmp_path / "some.ply")
    np.testing.assert_allclose(back.means[0], turn.apply(gaussians.means[0].numpy()) + shift, atol=1e-5)
    quats = (np.roll(tensor[0].numpy(), -1, axis=-1) for tensor in (back.quats, gaussians.quats))
    found, given = map(Rotation.from_quat, quats)
    assert (found * (turn * given).inv()).magnitude().max() < 1e-5


def test_linear_colors_become_srgb(gaussians: Gaussians, tmp_path: Path) -> None:
    elements = {"vertex": vertex_columns(gaussians), "color_space": [("uchar", "color_space", [1])]}
    (tmp_path / "linear.ply").write_bytes(write(elements))
    back, _ = ply.read(tmp_path / "linear.ply")
    linear = gaussians.colors.double()
    expected = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    torch.testing.assert_close(back.colors.double(), expected, atol=1e-5, rtol=0)


def test_infinite_logits_are_the_ends(gaussians: Gaussians, tmp_path: Path) -> None:
    """As ml-sharp writes an opacity of 1 and a scale of 0."""
    columns = vertex_columns(gaussians)
    columns[6][2][:2] = [math.inf, -math.inf]
    columns[7][2][0] = -math.inf
    (tmp_path / "some.ply").write_bytes(write({"vertex": columns}))
    back, _ = ply.read(tmp_path / "some.ply")
    assert back.opacities[0, :2].tolist() == [1.0, 0.0] and back.scales[0, 0, 0] == 0


def test_colors_are_clipped(gaussians: Gaussians, tmp_path: Path) -> None:
    columns = vertex_columns(gaussians)
    columns[3][2][:2] = [9.0, -9.0]
    (tmp_path / "some.ply").write_bytes(write({"vertex": columns}))
    assert ply.read(tmp_path / "some.ply")[0].colors[0, :2, 0].tolist() == [1.0, 0.0]


ELEMENT = st.lists(
    st.tuples(st.sampled_from([*CODES, "list uchar int", "list uint double"]), st.integers(0, 3)), max_size=4
)


@settings(max_examples=40)
@given(st.lists(ELEMENT, max_size=3), st.lists(ELEMENT, max_size=3), st.sampled_from([LITTLE, BIG]), st.data())
def test_whatever_stands_around_the_vertices(
    tmp_path_factory: pytest.TempPathFactory, before: list, after: list, form: str, data: st.DataObject
) -> None:
    def element(properties: list[tuple[str, int]]) -> list[Column]:
        rows = data.draw(st.integers(0, 3))
        return [
            (kind, f"p{index}", [[1] * (length + row) if kind.startswith("list") else length for row in range(rows)])
            for index, (kind, length) in enumerate(properties)
        ]

    gaussians = some_gaussians(3)
    elements = {f"before{index}": element(properties) for index, properties in enumerate(before)}
    elements["vertex"] = vertex_columns(gaussians)
    elements |= {f"after{index}": element(properties) for index, properties in enumerate(after)}
    elements |= camera_elements(9.0, 9.0, 4.0, 4.0, 8, 8)
    path = tmp_path_factory.mktemp("around") / "some.ply"
    path.write_bytes(write(elements, form))
    back, viewpoint = ply.read(path)
    assert_same(back, gaussians)
    assert viewpoint is not None and viewpoint.camera.focal == 9 / 4


# --- refusals ----------------------------------------------------------------------------------------


def plain(properties: list[tuple[str, str]], count: int | str, body: bytes, form: str = LITTLE) -> bytes:
    lines = ["ply", f"format {form} 1.0", f"element vertex {count}"]
    lines += [f"property {kind} {name}" for kind, name in properties]
    return "\n".join([*lines, "end_header", ""]).encode() + body


WHOLE = [("float", name) for name in PROPERTIES]
LISTS = b"element face %b\nproperty list uint int vertex_indices\nelement vertex 1"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no PLY header"),
        (b"plywood" * 100, "no PLY header"),
        (b"ply\n" + b"comment " * (1 << 16), "no PLY header"),
        (b"ply\nformat binary_little_endian 1.0\nend_header", "no PLY header"),
        (b"ply\nend_header\n", "an incomplete PLY header"),
        (plain(WHOLE, 1, bytes(56), "morse"), "an incomplete PLY header"),
        (plain(WHOLE, 1, bytes(56)).replace(b"vertex", b"thing"), "an incomplete PLY header"),
        (plain(WHOLE[1:], 1, bytes(52)), "no property x"),
        (plain([("uint", "packed_position")], 1, bytes(4)), "compressed for SuperSplat; export it as an ordinary PLY"),
        (plain(WHOLE, 2, bytes(111)), "the file ends before its 2 rows of 'vertex' do"),
        (plain(WHOLE, 10**7, bytes(111)), "the file ends before its 10,000,000 rows"),
        (plain(WHOLE, 10**18, bytes(111)), "Gaussians; from 1 to 33,554,432 can be read"),
        (plain(WHOLE, 0, b""), "0 Gaussians; from 1"),
        (plain(WHOLE, -1, bytes(56)), "cannot read 'element vertex -1'"),
        (plain(WHOLE, "9" * 5000, bytes(56)), "not a PLY of 3-D Gaussians"),
        (plain(WHOLE, "one", bytes(56)), "cannot read 'element vertex one'"),
        (plain(WHOLE, 1, b"\xff" * 56), "1 of its 1 Gaussians have NaN or infinite values"),
        (plain(WHOLE, 1, struct.pack("<14f", *[0] * 7, 1e9, *[0] * 6)), "1 of its 1 Gaussians"),  # of such a scale
        (plain([("list uchar", "float x"), *WHOLE[1:]], 1, bytes(99)), "no property x"),
        (plain([("list float", "float x"), *WHOLE], 1, bytes(99)), "cannot read 'property list float float x'"),
        (plain([*WHOLE, ("quad", "x")], 1, bytes(99)), "cannot read 'property quad x'"),
        (plain([*WHOLE, WHOLE[0]], 1, bytes(99)), "more than one property x"),
        (plain(WHOLE, 1, bytes(56)).replace(b"end_header", b"element vertex 1\nend_header"), "two elements"),
        (plain(WHOLE, 1, bytes(59)).replace(b"element vertex 1", LISTS % b"1"), "the file ends before its 1 rows of"),
        (plain(WHOLE, 1, b"\xff" * 99).replace(b"element vertex 1", LISTS % b"1"), "the file ends before"),
        (plain(WHOLE, 1, bytes(99)).replace(b"element vertex 1", LISTS % b"99999999"), "the file ends before"),
        (plain(WHOLE, 2, b"0 " * 14 + b"\n", TEXT), "the file ends before its 2 rows"),
        (plain(WHOLE, 2, (b"0 " * 14 + b"\n") * 1 + b"\n\n", TEXT), "the file ends before its 2 rows"),
        (plain(WHOLE, 1, b"0 " * 13 + b"\n", TEXT), "not a PLY of 3-D Gaussians"),
        (plain(WHOLE, 1, b"0 " * 13 + b"zero\n", TEXT), "not a PLY of 3-D Gaussians"),
        (plain(WHOLE, 1, b"0" * (1 << 21), TEXT), "a line of text that does not end"),
    ],
)  # fmt: skip
def test_broken_files_are_refused_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "broken.ply").write_bytes(data)
    with pytest.raises(GmaeToolsError) as caught:
        ply.read(tmp_path / "broken.ply")
    assert str(caught.value).startswith(f"{tmp_path / 'broken.ply'}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intrinsic": [("float", "intrinsic", [1.0] * 4)]}, "9 intrinsic numbers"),
        ({"image_size": [("uint", "image_size", [8])]}, "image size of 2"),
        ({"image_size": [("uint", "image_size", [8, 0])]}, "cannot be rendered"),
        ({"image_size": [("uint", "image_size", [1 << 31, 1 << 31])]}, "cannot be rendered"),
        ({"extrinsic": [("float", "extrinsic", [1.0] * 16)]}, "no rotation and translation"),
        ({"extrinsic": [("float", "extrinsic", [1.0] * 17)]}, "more numbers than a camera has"),
        ({"intrinsic": [("float", "intrinsic", [1.0] * 9)]}, "slanted pixels"),
        ({"intrinsic": [("float", "intrinsic", [0.0] * 9)]}, "must be positive"),
        ({"intrinsic": [("float", "intrinsic", [math.nan] * 9)]}, "slanted pixels"),
        ({"intrinsic": [("float", "matrix", [1.0] * 9)]}, "no property intrinsic"),
        ({"splatting": [("double", "splatting", [0.3])]}, "not a PLY of 3-D Gaussians"),
        ({"splatting": [("double", "splatting", [-0.3, 1.3])]}, "blur must not be negative"),
    ],
)
def test_impossible_cameras_are_refused(
    gaussians: Gaussians, tmp_path: Path, change: dict[str, list[Column]], message: str
) -> None:
    elements = {"vertex": vertex_columns(gaussians), **camera_elements(9.0, 9.0, 4.0, 4.0, 8, 8), **change}
    (tmp_path / "broken.ply").write_bytes(write(elements))
    with pytest.raises(GmaeToolsError, match=message) as caught:
        ply.read(tmp_path / "broken.ply")
    assert "\n" not in str(caught.value)


@settings(max_examples=200)
@given(st.integers(0, 2000), st.binary(min_size=1, max_size=8), st.sampled_from([LITTLE, BIG, TEXT]))
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, damage: bytes, form: str
) -> None:
    gaussians = some_gaussians(4)
    whole = write(
        {"face": FACES, "vertex": vertex_columns(gaussians), **camera_elements(9.0, 9.0, 4.0, 4.0, 8, 8)}, form
    )
    path = tmp_path_factory.mktemp("damaged") / "some.ply"
    for data in (whole[:place], whole[:place] + damage + whole[place + len(damage) :]):
        path.write_bytes(data)
        with suppress(GmaeToolsError):  # nothing else
            ply.read(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.ply", tmp_path):
        with pytest.raises(GmaeToolsError, match="cannot be read"):
            ply.read(path)


def test_a_file_holds_one_set(gaussians: Gaussians, tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match="one set of Gaussians, not 2"):
        ply.write(tmp_path / "two.ply", Gaussians.stack([gaussians, gaussians]))
    assert not list(tmp_path.iterdir())
