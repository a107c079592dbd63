"""Every odd picture file is read as it looks, or refused in one line that names it."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from gmae_tools import images
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import open_image, read_image, resize, to_tensor, write_image
from gmae_tools.system.untrusted import protected

COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 255], [90, 60, 30]]], np.uint8)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_deep_png(path: Path, samples: np.ndarray) -> None:
    """A PNG of 16-bit samples `[H, W, 3]` by hand: Pillow writes none."""
    height, width, _ = samples.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(data)


# --- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif", ".webp"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(COLOURS).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    pixels = read_image(path)
    np.testing.assert_array_equal(pixels, COLOURS)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable


@pytest.mark.parametrize("name", ["colour.png", "colour.tif", "grey.tif"])  # Pillow would map the last one
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, name: str) -> None:
    """By the EXIF standard: where row 0 and column 0 of the stored picture lie in the picture as seen."""
    stored_from_seen: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda seen: seen,
        2: lambda seen: seen[:, ::-1],
        3: lambda seen: seen[::-1, ::-1],
        4: lambda seen: seen[::-1],
        5: lambda seen: seen.transpose(1, 0, 2),  # row 0 is the left side, column 0 the top
        6: lambda seen: seen.transpose(1, 0, 2)[::-1],  # row 0 is the right side, column 0 the top
        7: lambda seen: seen.transpose(1, 0, 2)[::-1, ::-1],  # row 0 is the right side, column 0 the bottom
        8: lambda seen: seen.transpose(1, 0, 2)[:, ::-1],  # row 0 is the left side, column 0 the bottom
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = np.repeat(COLOURS[..., :1], 3, 2) if "grey" in name else COLOURS
    stored = Image.fromarray(np.ascontiguousarray(stored_from_seen[orientation](seen)))
    (stored.convert("L") if "grey" in name else stored).save(tmp_path / name, exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / name), seen)


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 100, 51]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    np.testing.assert_allclose(read_image(tmp_path / "x.png")[0], [[200, 0, 0], [255] * 3, [244, 204, 224]], atol=1)


def test_grey_with_alpha_and_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 255], [0, 0], [128, 255]]], np.uint8), "LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png")[0], [[0] * 3, [255] * 3, [128] * 3])
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "p.png", transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png")[0], [[10, 20, 30], [255] * 3, [70, 80, 90]])


def test_a_jpeg_far_beyond_the_bound_is_refused_even_if_it_is_decoded_small(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "x.jpg")
    with open_image(tmp_path / "x.jpg", max_pixels=64 * 32, side=8) as image:
        assert image.size == (8, 8)
    with (
        pytest.raises(GmaeToolsError, match="64 x 64 is more than 2,047 pixels"),
        open_image(tmp_path / "x.jpg", max_pixels=64 * 32 - 1, side=8),
    ):
        pass


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_modes(tmp_path: Path, mode: str) -> None:
    """Saved losslessly in this mode, the picture still looks as Pillow says that it does."""
    image = Image.fromarray(COLOURS).convert(mode)
    image.save(tmp_path / "x.tif")
    np.testing.assert_allclose(read_image(tmp_path / "x.tif").astype(int), np.asarray(image.convert("RGB")), atol=2)


def test_cmyk_jpeg_has_the_right_colours(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 60, 20)).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "x.jpg")[8, 8].astype(int), [200, 60, 20], atol=4)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 257, 0x4040, 0x8080, 0xFFFF]], np.uint16)
    Image.fromarray(levels).save(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}")[0, :, 1], [0, 1, 0x40, 0x80, 0xFF])


def test_sixteen_bit_colour_is_scaled_not_clipped(tmp_path: Path) -> None:
    write_deep_png(tmp_path / "x.png", COLOURS.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), COLOURS)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0.0, 0.2, 1.0]], np.float32), [0, 51, 255]),
        (np.array([[0.0, 51.0, 255.0]], np.float32), [0, 51, 255]),
        (np.array([[-5.0, 0.2 * 1e6, 1e6]], np.float32), [0, 51, 255]),
        (np.array([[np.nan, 0.2, 1.0]], np.float32), [0, 51, 255]),
        (np.array([[0, 13107, 65535]], np.int32), [0, 51, 255]),
        (np.array([[0, 0, 0]], np.int32), [0, 0, 0]),
    ],
)
def test_float_and_long_tiffs_are_scaled(tmp_path: Path, samples: np.ndarray, expected: list[int]) -> None:
    Image.fromarray(samples).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif")[0, :, 0], expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 8000), (8000, 1), (8000, 2000)])
def test_one_pixel_and_8000_pixels(tmp_path: Path, shape: tuple[int, int]) -> None:
    Image.new("RGB", shape[::-1], (1, 2, 3)).save(tmp_path / "x.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(tmp_path / "x.png")
    assert pixels.shape == (*shape, 3)
    assert pixels[-1, -1].tolist() == [1, 2, 3]


def missing(path: Path) -> None:
    pass


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("This is no picture.\nAnd it has two lines.\n")


def truncated_jpeg(path: Path) -> None:
    Image.fromarray(noise(200, 200, 3)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:5000])


def truncated_png(path: Path) -> None:
    Image.fromarray(noise(200, 200, 3)).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:5000])


def damaged_png(path: Path) -> None:
    Image.fromarray(noise(50, 50, 3)).save(path, "PNG")
    data = bytearray(path.read_bytes())
    data[60:400] = b"\xff" * 340
    path.write_bytes(data)


def just_a_header(path: Path) -> None:
    path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00")


def bomb(side: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        """A valid PNG header of a gigantic picture."""
        write_deep_png(path, np.zeros((1, 1, 3), np.uint16))
        data = bytearray(path.read_bytes())
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path.write_bytes(data)

    return make


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (missing, "no such file"),
        (folder, "folder"),
        (empty, "empty"),
        (text, "not a picture"),
        (truncated_jpeg, "damaged.*truncated"),
        (truncated_png, "damaged"),
        (damaged_png, "damaged"),
        (just_a_header, "damaged|not a picture"),
        (bomb(10_000), "10000 x 10000 is more than 89,478,485 pixels"),
        (bomb(100_000), "more than 89,478,485 pixels"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, make: Callable[[Path], None], cause: str) -> None:
    path = tmp_path / "some name.jpg"
    make(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a second line
        with pytest.raises(GmaeToolsError, match=cause) as caught:
            read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_chunk_that_claims_to_be_long_takes_no_memory(tmp_path: Path) -> None:
    write_deep_png(tmp_path / "x.png", COLOURS.astype(np.uint16) * 257)
    data = (tmp_path / "x.png").read_bytes()
    start = data.index(b"IDAT") - 4
    (tmp_path / "x.png").write_bytes(data[:start] + b"\x7f\xff\xff\xff" + data[start + 4 :])
    code = f"""
import resource
from gmae_tools.images import read_image
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
print(read_image({str(tmp_path / "x.png")!r}).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MemoryError" not in done.stderr and "more memory" not in done.stderr
    assert done.stdout == "(2, 3, 3)\n" or "damaged" in done.stderr


def test_libtiff_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(noise(50, 50, 3)).save(tmp_path / "x.tif", compression="tiff_lzw")
    data = bytearray((tmp_path / "x.tif").read_bytes())
    data[200:300] = b"\xff" * 100
    (tmp_path / "x.tif").write_bytes(data)
    with Image.open(tmp_path / "x.tif") as image, pytest.raises(OSError):  # noqa: PT011
        image.load()
    assert capfd.readouterr().err  # Pillow alone
    with pytest.raises(GmaeToolsError, match="damaged"):
        read_image(tmp_path / "x.tif")
    assert capfd.readouterr().err  # a library call redirects nothing
    with protected(), pytest.raises(GmaeToolsError, match="damaged"):
        read_image(tmp_path / "x.tif")
    print("heard again", file=sys.stderr)
    assert capfd.readouterr().err == "heard again\n"


def test_flawed_metadata_do_no_harm(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    exif[0x0112] = 3
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(tmp_path / "x.jpg", exif=exif)
    data = bytearray((tmp_path / "x.jpg").read_bytes())
    first_entry = data.index(b"Exif\0\0") + 6 + 8 + 2  # after the TIFF header and the number of entries
    data[first_entry + 4 : first_entry + 8] = b"\x7f" * 4  # the length of the description
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.warns(UserWarning, match=r"larger than file|Truncated"), Image.open(tmp_path / "x.jpg") as image:
        image.getexif().get(0x010E)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with protected():
            assert (read_image(tmp_path / "x.jpg") == 77).all()


def test_max_pixels_is_the_callers(tmp_path: Path) -> None:
    Image.fromarray(noise(10, 10, 3)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(GmaeToolsError, match="10 x 10 is more than 99 pixels"):
        read_image(tmp_path / "x.png", max_pixels=99)


def test_a_caller_who_can_allow_more_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 45)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # Pillow refuses twice as many
    Image.fromarray(noise(10, 10, 3)).save(tmp_path / "x.png")
    for allowed, cause in (
        (None, "10 x 10 is more than 45 pixels; downscale it first"),
        (99, "10 x 10 is more than 99 pixels; downscale it first, or raise --max-pixels"),
    ):
        with pytest.raises(GmaeToolsError) as caught:
            read_image(tmp_path / "x.png", max_pixels=allowed)
        assert str(caught.value) == f"{tmp_path / 'x.png'}: {cause}"
    assert read_image(tmp_path / "x.png", max_pixels=100).shape == (10, 10, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB", "RGBA", "LA", "I;16", "I", "F"])
def test_converted_in_strips_it_is_the_same(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The brightest pixel of a deep picture, whose level counts in all strips, lies in the last one."""
    samples = np.linspace(0, 70_000, 45 * 50).reshape(45, 50)
    deep = {"I;16": samples.clip(0, 65_535).astype(np.uint16), "I": samples.astype(np.int32), "F": samples}
    image = Image.fromarray(deep[mode].astype(np.float32) if mode == "F" else deep[mode]) if mode in deep else None
    exif = Image.Exif()
    exif[0x0112] = 6
    (image or Image.fromarray(noise(45, 50, 4)).convert(mode)).save(tmp_path / "x.tif", exif=exif)
    whole = read_image(tmp_path / "x.tif")
    monkeypatch.setattr(images, "_STRIP_PIXELS", 400)
    assert whole.shape == (50, 45, 3) and whole.std() > 20
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), whole)


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would have Ghostscript draw it, whatever the file is called."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'executed'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    page = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "photo.jpg").write_text(page)
    with Image.open(tmp_path / "photo.jpg") as image:
        assert image.format == "EPS"
    with pytest.raises(GmaeToolsError, match="not a picture in a known format"):
        read_image(tmp_path / "photo.jpg")
    assert not (tmp_path / "executed").exists()


def write_scans(path: Path, count: int) -> None:
    """A progressive JPEG of `count` scans, the last of them again and again."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (10, 200, 30)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + (count - data.count(b"\xff\xda") + 1) * data[last:-2] + data[-2:])


def test_a_jpeg_of_endless_scans_is_refused(tmp_path: Path) -> None:
    """30 bytes each, which take a second each if the picture is large."""
    write_scans(tmp_path / "x.jpg", 100)
    assert read_image(tmp_path / "x.jpg")[5, 5].tolist() == pytest.approx([10, 200, 30], abs=4)
    write_scans(tmp_path / "x.jpg", 101)
    assert read_image(tmp_path / "x.jpg").shape == (64, 64, 3), "only a command counts scans"
    with protected(), pytest.raises(GmaeToolsError, match=r"x\.jpg: a JPEG of more than 100 scans"):
        read_image(tmp_path / "x.jpg")


def test_what_follows_a_jpeg_or_describes_it_are_no_scans(tmp_path: Path) -> None:
    """Telephones append a film, and metadata hold anything."""
    Image.new("RGB", (64, 64)).save(tmp_path / "x.jpg", comment=200 * b"\xff\xda", restart_marker_blocks=1)
    with (tmp_path / "x.jpg").open("ab") as file:
        file.write(200 * b"\xff\xda")
    with protected():
        assert read_image(tmp_path / "x.jpg").shape == (64, 64, 3)


def test_the_bundled_photograph(repository: Path) -> None:
    pixels = read_image(repository / "gmae_tools" / "assets" / "demo.jpg")
    assert pixels.shape == (300, 451, 3)
    assert 40 < pixels.std() < 60


def test_importing_does_not_import_torch() -> None:
    code = "import sys, gmae_tools.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- converting --------------------------------------------------------------------------------------


def test_to_tensor() -> None:
    tensor = to_tensor(COLOURS)
    assert tensor.shape == (1, 3, 2, 3)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert tensor[0, :, 1, 2].tolist() == pytest.approx([90 / 255, 60 / 255, 30 / 255])
    assert tensor[0, 1, 0].tolist() == [0.0, 1.0, 0.0]


def test_resize_is_antialiased() -> None:
    stripes = np.tile(np.array([[[0] * 3, [255] * 3]], np.uint8), (64, 32, 1))
    assert resize(stripes, 8, 8).shape == (8, 8, 3)
    np.testing.assert_allclose(resize(stripes, 32, 8).astype(int), 127.5, atol=6)
    np.testing.assert_array_equal(resize(COLOURS, 2, 3), COLOURS)


# --- writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 4)])
def test_png_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path, pixels = tmp_path / "new" / "x.png", noise(*shape)
    write_image(path, pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    write_image(path, pixels / 255.0)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    assert [file.name for file in path.parent.iterdir()] == ["x.png"]


def test_floats_are_clipped_and_rounded(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", np.array([[-1.0, 0.4999 / 255, 0.5001 / 255, 7.0, np.nan, np.inf]]))
    assert np.asarray(Image.open(tmp_path / "x.png"))[0].tolist() == [0, 0, 1, 255, 0, 255]
    write_image(tmp_path / "x.png", np.array([[False, True]]))
    assert np.asarray(Image.open(tmp_path / "x.png"))[0].tolist() == [0, 255]


@pytest.mark.parametrize("shape", [(3, 2, 3), (1, 3, 2, 3), (1, 4, 2, 3), (1, 2, 3), (1, 1, 2, 3)])
def test_tensors(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensor = torch.rand(shape, generator=torch.manual_seed(0), requires_grad=True)
    write_image(tmp_path / "x.png", tensor)
    written = np.asarray(Image.open(tmp_path / "x.png"))
    expected = tensor.detach().reshape(-1, 2, 3).permute(1, 2, 0).squeeze(2) * 255
    np.testing.assert_allclose(written, expected, atol=0.51)


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 1, 64)[None, :, None], (32, 64, 3))
    write_image(tmp_path / "x.JPG", smooth)
    np.testing.assert_allclose(read_image(tmp_path / "x.JPG"), smooth * 255, atol=3)


def test_unwritable_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match=r"x\.doc: .*name it \.png or \.jpg"):
        write_image(tmp_path / "x.doc", COLOURS)
    with pytest.raises(GmaeToolsError, match="transparency"):
        write_image(tmp_path / "x.jpg", noise(4, 4, 4))
    (tmp_path / "file").write_text("")
    with pytest.raises(GmaeToolsError, match="cannot be written"):
        write_image(tmp_path / "file" / "x.png", COLOURS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("picture", [noise(4), noise(4, 4, 2), noise(4, 4, 3).astype(int), noise(0, 4, 3)])
def test_other_arrays_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a picture is"):
        write_image(tmp_path / "x.png", picture)
    with pytest.raises(ValueError, match="a picture tensor is"):
        write_image(tmp_path / "x.png", torch.zeros(2, 3, 4, 4))


# --- what phones make, and pipes -----------------------------------------------------------------------


def gradient(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], -1).astype(np.uint8)


@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
def test_pictures_of_phones_are_read_upright(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "HEIF":
        heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif: pip install 'gmae-tools[heif]'")
    elif not ("avif" in features.modules and features.check("avif")):
        pytest.skip("needs a Pillow with AVIF: 11.3 or newer")
    picture = gradient(48, 80)
    path = tmp_path / f"photo.{form.lower()}"
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: the first row is what is to be the right column
    turned = Image.fromarray(np.rot90(picture).copy())
    if form == "HEIF":
        heif.from_pillow(turned).save(path, quality=95, exif=exif.tobytes())
    else:
        turned.save(path, quality=95, exif=exif.tobytes())
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)  # other libraries of this process may have added it
    found = read_image(path)
    assert found.shape == picture.shape
    assert np.abs(found.astype(int) - picture).max() < 12
    assert "HEIF" not in Image.OPEN  # Pillow, which is the whole process's, stays as it was
    with pytest.raises(GmaeToolsError, match=r"(80 x 48|48 x 80) is more than 100 pixels"):
        read_image(path, max_pixels=100)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(GmaeToolsError, match=r"damaged picture|not a picture"):
        read_image(path)


@pytest.mark.parametrize("brands", [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"heix\0\0\0\0"])
def test_heic_without_its_reader_says_what_to_install(
    brands: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "photo.heic"
    path.write_bytes((8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(100))
    with pytest.raises(GmaeToolsError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: a HEIC picture; to read it, run pip install 'gmae-tools[heif]'"


def test_avif_without_its_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmae_tools.images.features.check", lambda feature: False)
    path = tmp_path / "photo.avif"
    path.write_bytes((24).to_bytes(4, "big") + b"ftypavif" + bytes(112))
    with pytest.raises(GmaeToolsError, match="pip install --upgrade pillow"):
        read_image(path)


def through_a_pipe(tmp_path: Path, data: bytes) -> np.ndarray:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    try:
        return read_image(path)
    finally:
        writer.join()


def test_pipes_are_read_to_their_end(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)  # more than a pipe holds at a time
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(through_a_pipe(tmp_path, (tmp_path / "a.png").read_bytes()), picture)


def test_an_empty_pipe_an_endless_one_and_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GmaeToolsError, match="pipe: nothing came through the pipe"):
        through_a_pipe(tmp_path, b"")
    (tmp_path / "pipe").unlink()
    monkeypatch.setattr("gmae_tools.images._MOST_PIPED", 1000)
    with pytest.raises(GmaeToolsError, match="MiB through a pipe; save it as a file first"):
        through_a_pipe(tmp_path, bytes(2000))
    for device in ("/dev/null", "/dev/zero"):
        with pytest.raises(GmaeToolsError, match=f"{device}: is a terminal or another device"):
            read_image(device)


def test_formats_that_are_only_read(tmp_path: Path) -> None:
    for suffix in (".heic", ".avif"):
        with pytest.raises(GmaeToolsError, match="cannot tell the picture format"):
            write_image(tmp_path / f"x{suffix}", gradient(4, 4))
