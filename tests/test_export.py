"""Files for other programs: read back by other readers, drawn by another renderer, refused in one line."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor

from gmae_tools.camera import Camera, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.export import PLY_PROPERTIES, SH_0, read_ply, write_ply, write_splat, write_svg
from gmae_tools.gaussians import Gaussians
from gmae_tools.splatting import rasterize

K = 50
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def gaussians() -> Gaussians:
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(1, K, *shape, generator=generator)

    return Gaussians(
        means=uniform(-1.0, 1.0, 3),
        scales=uniform(-3.0, 0.5, 3).exp(),
        quats=torch.nn.functional.normalize(uniform(-1.0, 1.0, 4), dim=-1),
        colors=uniform(0.0, 1.0, 3),
        opacities=uniform(0.01, 1.0),
    )


# --- PLY ---------------------------------------------------------------------------------------------


def test_ply_comes_back(gaussians: Gaussians, tmp_path: Path) -> None:
    write_ply(tmp_path / "some.ply", gaussians)
    back = read_ply(tmp_path / "some.ply")
    for name, expected in vars(gaussians).items():
        torch.testing.assert_close(getattr(back, name), expected, atol=2e-6, rtol=2e-6, msg=name)
    assert [path.name for path in tmp_path.iterdir()] == ["some.ply"]


def test_ply_is_what_viewers_read(gaussians: Gaussians, tmp_path: Path) -> None:
    """Byte for byte, by a reader that knows nothing but the format."""
    write_ply(tmp_path / "some.ply", gaussians)
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


def test_ply_agrees_with_gsplats_writer(gaussians: Gaussians, tmp_path: Path) -> None:
    """Theirs has further harmonics and another order of properties."""
    exporter = pytest.importorskip("gsplat.exporter", reason="gsplat is an oracle of this test only")
    sent = [tensor[0] for tensor in vars(gaussians).values()]
    means, scales, quats, colors, opacities = sent
    data = exporter.export_splats(
        means, scales.log(), quats, torch.logit(opacities), (colors[:, None] - 0.5) / SH_0, torch.ones(K, 15, 3),
        format="ply",
    )  # fmt: skip
    (tmp_path / "theirs.ply").write_bytes(data)
    back = read_ply(tmp_path / "theirs.ply")
    for name, expected in vars(gaussians).items():
        torch.testing.assert_close(getattr(back, name), expected, atol=2e-6, rtol=2e-6, msg=name)


def test_ply_of_the_extremes_is_finite(gaussians: Gaussians, tmp_path: Path) -> None:
    with torch.no_grad():
        gaussians.opacities[0, :2] = torch.tensor([0.0, 1.0])
        gaussians.scales[0, 0, 0] = 0.0
        gaussians.quats[0, 0] *= 7
    write_ply(tmp_path / "some.ply", gaussians)
    back = read_ply(tmp_path / "some.ply")
    torch.testing.assert_close(back.opacities, gaussians.opacities, atol=2e-6, rtol=0)
    torch.testing.assert_close(back.scales, gaussians.scales, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(back.quats[0, 0], gaussians.quats[0, 0] / 7)


def ply(properties: list[tuple[str, str]], count: int, body: bytes, form: str = "binary_little_endian") -> bytes:
    lines = ["ply", f"format {form} 1.0", "comment by another program", f"element vertex {count}"]
    lines += [f"property {kind} {name}" for kind, name in properties]
    lines += ["element face 0", "property list uchar int vertex_indices", "end_header\r\n"]
    return "\r\n".join(lines).encode() + body


def test_ply_of_other_types_and_byte_order(tmp_path: Path) -> None:
    """Doubles and bytes, most significant byte first, a property that is none of ours, colours out of range."""
    names = [*reversed(PLY_PROPERTIES), "age"]
    kinds = ["uchar" if name == "age" else "double" for name in names]
    values = dict.fromkeys(PLY_PROPERTIES, 0.125) | {"age": 7, "f_dc_1": 9.0, "x": -3.0}
    body = b"".join(struct.pack(">B" if name == "age" else ">d", values[name]) for name in names)
    (tmp_path / "odd.ply").write_bytes(ply(list(zip(kinds, names, strict=True)), 1, body, "binary_big_endian"))
    back = read_ply(tmp_path / "odd.ply")
    assert back.means.tolist() == [[[-3.0, 0.125, 0.125]]]
    assert back.colors[0, 0].tolist() == pytest.approx([0.5 + 0.125 * SH_0, 1.0, 0.5 + 0.125 * SH_0])


WHOLE = [("float", name) for name in PLY_PROPERTIES]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no PLY header"),
        (b"plywood" * 100, "no PLY header"),
        (b"ply\nformat binary_little_endian 1.0\nend_header", "no PLY header"),
        (b"ply\nend_header\n", "an incomplete PLY header"),
        (ply(WHOLE, 1, b"0 " * 14, "ascii"), "format ascii; save it as binary_little_endian"),
        (ply(WHOLE[1:], 1, bytes(52)), "no property x"),
        (ply(WHOLE, 2, bytes(111)), "the file ends before its 2 vertices do"),
        (ply(WHOLE, 1, b"\xff" * 56), "it has NaN or infinite values"),
        (ply([("list uchar", "float x"), *WHOLE], 1, bytes(99)), "cannot read 'property list uchar float x'"),
        (ply([*WHOLE, ("quad", "x")], 1, bytes(99)), "cannot read 'property quad x'"),
        (ply([*WHOLE, WHOLE[0]], 1, bytes(99)), "not a PLY of 3-D Gaussians"),  # x twice
        (ply(WHOLE, 1, bytes(56)).replace(b"vertex 1", b"vertex one"), "not a PLY of 3-D Gaussians"),
        (ply(WHOLE, 1, bytes(56)).replace(b"vertex 1", b"thing 1"), "the first element is not vertex"),
    ],
)
def test_broken_ply_is_refused_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "broken.ply").write_bytes(data)
    with pytest.raises(GmaeToolsError) as caught:
        read_ply(tmp_path / "broken.ply")
    assert str(caught.value).startswith(f"{tmp_path / 'broken.ply'}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_ply(tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match="cannot be read"):
        read_ply(tmp_path / "nowhere.ply")


# --- .splat ------------------------------------------------------------------------------------------


def test_splat_comes_back_to_8_bits(gaussians: Gaussians, tmp_path: Path) -> None:
    """By the record that antimatter15/splat documents, most conspicuous first."""
    write_splat(tmp_path / "some.splat", gaussians)
    data = (tmp_path / "some.splat").read_bytes()
    assert len(data) == 32 * K
    importance = [
        math.prod(scales) * opacity
        for scales, opacity in zip(gaussians.scales[0].tolist(), gaussians.opacities[0].tolist(), strict=True)
    ]
    order = sorted(range(K), key=lambda index: -importance[index])
    means, scales, quats, colors, opacities = (tensor[0].tolist() for tensor in vars(gaussians).values())
    for index, values in zip(order, struct.iter_unpack("<6f8B", data), strict=True):
        assert values[:3] == pytest.approx(means[index])
        assert values[3:6] == pytest.approx(scales[index])
        assert [value / 255 for value in values[6:10]] == pytest.approx([*colors[index], opacities[index]], abs=0.002)
        assert [(value - 128) / 128 for value in values[10:]] == pytest.approx(quats[index], abs=0.004)


def test_splat_of_whole_turns_does_not_overflow(gaussians: Gaussians, tmp_path: Path) -> None:
    turned = Gaussians(**{**vars(gaussians), "quats": torch.eye(4)[torch.arange(K) % 4][None] * 3})
    write_splat(tmp_path / "some.splat", turned)
    stored = np.frombuffer((tmp_path / "some.splat").read_bytes(), np.uint8).reshape(K, 32)[:, 28:]
    assert sorted(map(tuple, np.unique(stored, axis=0).tolist())) == sorted(
        tuple(255 if axis == turn else 128 for axis in range(4)) for turn in range(4)
    )


# --- SVG ---------------------------------------------------------------------------------------------


def draw_svg(path: Path) -> np.ndarray:
    """A small renderer of the elements used, `[H, W, 3]`: painter's order, pixels sampled at their centres."""
    root = ElementTree.parse(path).getroot()
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    assert root.attrib["viewBox"] == f"0 0 {width} {height}"
    gradients = {element.attrib["id"]: element for element in root.iter(f"{SVG}radialGradient")}
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    picture = np.ones((height, width, 3))
    for circle in root.iter(f"{SVG}circle"):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", circle.attrib["transform"])]
        left, top, degrees, along, across = numbers
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        dx, dy = x - left, y - top
        radius = np.hypot((cos * dx + sin * dy) / along, (-sin * dx + cos * dy) / across)
        gradient = gradients[circle.attrib["fill"][5:-1]]
        stops = [stop.attrib for stop in gradient]
        offsets = [float(stop["offset"]) for stop in stops]
        levels = np.interp(
            radius / float(gradient.attrib["r"]), offsets, [float(stop["stop-opacity"]) for stop in stops]
        )
        alpha = levels * float(circle.attrib["fill-opacity"]) * (radius < float(circle.attrib["r"]))
        color = np.array([int(stops[0]["stop-color"][start : start + 2], 16) for start in (1, 3, 5)]) / 255
        picture += alpha[..., None] * (color - picture)
    return picture


def test_svg_is_the_picture(gaussians: Gaussians, tmp_path: Path) -> None:
    height, width = 40, 64
    splats = project(gaussians, Camera("gmae", 8.0, 3.0), height, width)
    write_svg(tmp_path / "some.svg", splats, height, width)
    ours = rasterize(splats, height, width, background=torch.ones(3)).image[0].movedim(0, -1).numpy()
    drawn = draw_svg(tmp_path / "some.svg")
    assert ours.std() > 0.1
    assert -10 * math.log10(np.square(drawn - ours).mean()) > 45
    assert np.abs(drawn - ours).max() < 0.02


def test_svg_names_any_photograph(gaussians: Gaussians, tmp_path: Path) -> None:
    splats = project(gaussians, Camera(), 10, 10)
    write_svg(tmp_path / "some.svg", splats, 10, 10, title="<b>&\udcff\x07\n猫.jpg")
    title = ElementTree.parse(tmp_path / "some.svg").getroot().find(f"{SVG}title")
    assert title is not None and title.text == "<b>&\ufffd\ufffd\ufffd猫.jpg"


def test_svg_leaves_out_what_is_not_drawn(gaussians: Gaussians, tmp_path: Path) -> None:
    with torch.no_grad():
        gaussians.opacities[0, 10:] = 0.5 / 255
    write_svg(tmp_path / "some.svg", project(gaussians, Camera(), 10, 10), 10, 10)
    root = ElementTree.parse(tmp_path / "some.svg").getroot()
    assert len(list(root.iter(f"{SVG}circle"))) == len(list(root.iter(f"{SVG}radialGradient"))) == 10


# --- all ---------------------------------------------------------------------------------------------


def test_a_file_holds_one_set(gaussians: Gaussians, tmp_path: Path) -> None:
    two = Gaussians.stack([gaussians, gaussians])
    with pytest.raises(GmaeToolsError, match="one set of Gaussians, not 2"):
        write_ply(tmp_path / "two.ply", two)
    with pytest.raises(GmaeToolsError, match="one set of Gaussians, not 2"):
        write_splat(tmp_path / "two.splat", two)
    with pytest.raises(GmaeToolsError, match="one set of Gaussians, not 2"):
        write_svg(tmp_path / "two.svg", project(two, Camera(), 8, 8), 8, 8)
    assert not list(tmp_path.iterdir())
