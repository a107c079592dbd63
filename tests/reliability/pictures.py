"""Whatever a file holds, the reader of pictures answers with a picture or with one line.

- Mutated files: small JPEG, PNG, WebP, TIFF, GIF and BMP pictures of many kinds (progressive, animated, 16-bit,
  compressed in all ways, with EXIF and colour profiles), with bits flipped, pieces cut out, repeated or taken from
  another file; checksums of PNG are made right again half of the time, so that damage gets past them. Each goes through
  the reader of photographs and through the decoder of photograph stores, in processes that may map 2 GB; taking longer
  than a minute, printing anything, a crash or a refusal for lack of memory is a failure.
- Bombs: small files that claim, or hold, far more than they should, which must be refused for what they are.
- Pictures as large as the default limit allows, which must be read with less than 2 GB of memory.
- `gmae-tools layers` on a photograph of 8,000 x 6,000 px, below 2 GB; and on folders of few and of many small ones,
  10,000 if there is time, whose peaks must not be more than 50 MB apart.
"""

from __future__ import annotations

import io
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from gmae_tools.datasets.photos import Photo, decode_photo
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import MAX_PIXELS, read_image
from gmae_tools.system.untrusted import protected
from tests.reliability.mutations import mutated
from tests.reliability.outcome import Outcome, TimeBox
from tests.reliability.workers import Attempt, attempts, fault_of

_ROOT = Path(__file__).resolve().parents[2]

PART = "pictures"
FORMATS = ("JPEG", "PNG", "WebP", "TIFF", "GIF", "BMP")
FILES = 100_000
MEMORY = 2_000_000_000  # bytes
PATIENCE = 60.0  # seconds for a file
SIDE = 256  # px, of a photograph store
LARGE = (6000, 8000)  # height and width in px of the photograph that `layers` is given
FEW, MANY = 200, 10_000  # pictures in a folder
GROWTH = 50_000_000  # bytes, from few to many


def campaign(box: TimeBox, seed: int, data: Path | None) -> Iterator[Outcome]:
    """Bombs and large pictures first, mutated files for half of the time that is left, then the command line."""
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        folder = Path(name)
        yield from bombs(box, folder)
        yield from largest(box.share(0.3), folder)
        yield from mutations(box.share(0.6), seed, FILES, folder, data)
        yield from command_line(box, folder, LARGE, (FEW, MANY))


# --- mutated files -----------------------------------------------------------------------------------


def mutations(box: TimeBox, seed: int, count: int, folder: Path, data: Path | None = None) -> Iterator[Outcome]:
    """`count` files, as many of each format, while there is time."""
    files = seeds(data)
    task = partial(try_mutation, files, seed, folder)
    tally = attempts(task, format_of, count, box, folder, memory=MEMORY, seconds=PATIENCE)
    for kind in FORMATS:
        failures = tuple(f"seed {seed}, {failure}" for failure in tally.failures_of(kind))
        yield Outcome(
            PART, f"mutated {kind} files", tally.times(kind), failures, f"{tally.note(kind)}, peak {tally.peak} MB"
        )


def format_of(number: int) -> str:
    """The format of the file of this number."""
    return FORMATS[number % len(FORMATS)]


def mutation(files: dict[str, list[bytes]], seed: int, number: int) -> tuple[str, bytes]:
    """The file of this number: what was done to it, and its bytes."""
    rng = random.Random(f"{seed} {number}")
    kind = format_of(number)
    others = files[kind] if rng.random() < 0.5 else [each for group in files.values() for each in group]
    how, data = mutated(rng, rng.choice(files[kind]), others)
    if kind == "PNG" and rng.random() < 0.5:
        how, data = f"{how}, checksums mended", with_checksums(data)
    return how, data


def with_checksums(data: bytes) -> bytes:
    """A PNG with the checksums that its chunks ought to have."""
    place, mended = 8, bytearray(data)
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + size
        if end + 4 > len(data):
            break
        mended[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(mended)


def try_mutation(files: dict[str, list[bytes]], seed: int, folder: Path, number: int) -> Attempt:
    """Both readers on the file of this number."""
    how, data = mutation(files, seed, number)
    path = folder / f"picture-{os.getpid()}"
    path.write_bytes(data)
    attempt = try_file(path)
    return Attempt(attempt.answer, f"{how}: {attempt.failure}") if attempt.failure else attempt


def try_file(path: Path) -> Attempt:
    """Both readers on a file: whether it was read or refused, and what was wrong with that."""
    failure, answer = "", "read"
    with protected():
        try:
            failure = _fault_of_picture(read_image(path), MAX_PIXELS)
        except GmaeToolsError as error:
            failure, answer = _fault_of_refusal(str(error), path), "refused"
        stored = decode_photo(Photo("photo", path), SIDE)
    if isinstance(stored, str):
        fault = _fault_of_refusal(f"{path}: {stored}", path)
    else:
        fault = _fault_of_picture(stored, SIDE**2)
    return Attempt(answer, failure or (f"photograph store: {fault}" if fault else ""))


def _fault_of_refusal(message: str, path: Path) -> str:
    return "asked for more than 2 GB" if "more memory" in message else fault_of(message, path)


def _fault_of_picture(picture: np.ndarray, most: int) -> str:
    good = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and 0 < picture.size <= 3 * most
    return "" if good else f"returned {picture.dtype} {picture.shape}"


def seeds(data: Path | None = None) -> dict[str, list[bytes]]:
    """Small pictures of every kind by format; with `data`, a few of the smallest JPEG photographs in there too."""
    y, x = np.mgrid[:40, :60]
    noise = np.random.default_rng(0).integers(0, 40, (40, 60, 3))
    rgb = Image.fromarray((np.stack([4 * x, 5 * y, 2 * (x + y)], -1) * 0.8 + noise).astype(np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(rgb.getchannel(0))
    grey, bilevel, palette, deep = rgb.convert("L"), rgb.convert("1"), rgb.quantize(16), np.asarray(rgb.convert("I"))
    short, single = Image.fromarray((deep * 257).astype(np.uint16)), Image.fromarray(deep.astype(np.float32) / 255)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    exif.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    told = {"exif": exif, "icc_profile": _patched(profile, 24, "12x")}  # of no time
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "compressed " * 20, zip=True)
    text.add_itxt("Title", "a title")
    frames = {"save_all": True, "append_images": [rgb.rotate(90), grey.convert("RGB")]}
    tiffs = [(rgb, how) for how in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")]
    tiffs += [(bilevel, "group3"), (bilevel, "group4")]
    tiffs += [(each, "tiff_lzw") for each in (short, single, rgba, palette)]
    tiffs += [(rgb.convert(mode), "raw") for mode in ("CMYK", "LAB", "YCbCr", "LA", "L")]
    files = {
        "JPEG": [
            _saved(rgb, "JPEG"), _saved(rgb, "JPEG", progressive=True, **told), _saved(grey, "JPEG", quality=30),
            _saved(rgb.convert("CMYK"), "JPEG"), _saved(rgb, "JPEG", subsampling=0, restart_marker_blocks=2, **told),
            _saved(rgb, "MPO", save_all=True, append_images=[grey.convert("RGB")]),
        ],
        "PNG": [
            *(_saved(each, "PNG") for each in (rgb, rgba, grey, bilevel, short, rgba.convert("LA"))),
            _saved(palette, "PNG", transparency=3), _saved(rgb, "PNG", pnginfo=text, **told),
            _saved(rgb, "PNG", **frames),
        ],
        "WebP": [
            _saved(rgb, "WEBP"), _saved(rgba, "WEBP", lossless=True), _saved(rgba, "WEBP", quality=30, **told),
            _saved(rgb, "WEBP", **frames),
        ],
        "TIFF": [
            *(_saved(each, "TIFF", compression=compression) for each, compression in tiffs),
            _saved(rgb, "TIFF", big_tiff=True, **told), _saved(rgb, "TIFF", compression="tiff_lzw", **frames),
            _saved(rgb, "TIFF", tiffinfo={278: 3}, compression="tiff_lzw"),
        ],
        "GIF": [
            _saved(palette, "GIF"), _saved(rgb, "GIF", interlace=0), _saved(rgb, "GIF", **frames),
            _saved(palette, "GIF", transparency=2, comment=b"a comment"),
        ],
        "BMP": [_saved(each, "BMP") for each in (rgb, grey, bilevel, palette, rgba)],
    }  # fmt: skip
    if data:
        found = sorted(data.rglob("*.jpg"), key=lambda path: (path.stat().st_size, path))
        files["JPEG"] += [path.read_bytes() for path in found[:20]]
    return files


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# --- bombs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bomb:
    """A file by its content; `limit`: it must be refused for its size, and the way to raise the limit be named."""

    name: str
    make: Callable[[], bytes]
    limit: bool = True


def bombs(box: TimeBox, folder: Path, chosen: Sequence[Bomb] | None = None) -> Iterator[Outcome]:
    """Each bomb, in a process of little memory; and that a raised limit lets a large picture through."""
    chosen = BOMBS if chosen is None else chosen
    task = partial(try_bomb, [bomb.name for bomb in chosen], folder)
    tally = attempts(task, lambda _: "bombs", len(chosen), box, folder, memory=MEMORY // 2, seconds=PATIENCE)
    yield Outcome(
        PART, "bombs", tally.times("bombs"), tally.failures_of("bombs"), f"{tally.note('bombs')}, peak {tally.peak} MB"
    )


def try_bomb(names: Sequence[str], folder: Path, number: int) -> Attempt:
    """The bomb of this number."""
    bomb = next(bomb for bomb in BOMBS if bomb.name == names[number])
    path = folder / f"bomb-{number}"
    path.write_bytes(bomb.make())
    attempt = try_file(path)
    failure = attempt.failure
    if bomb.limit and not failure:
        try:
            read_image(path, max_pixels=MAX_PIXELS)
            failure = "was read"
        except GmaeToolsError as error:
            told = f"more than {MAX_PIXELS:,} pixels; downscale it first, or raise --max-pixels"
            failure = "" if told in str(error) else f"was refused for something else: {error}"
    path.unlink()
    return Attempt(attempt.answer, f"{bomb.name}: {failure}" if failure else "")


def png(height: int, width: int, depth: int, color: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of zeros, of any size in little memory; `chunks` (name, content) stand before the pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row = bytes(1 + -(-width * channels * depth // 8))
    packer = zlib.compressobj(1)
    pixels = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    return png_of(struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0), *chunks, (b"IDAT", pixels))


def png_of(header: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def _small(kind: str, **options: object) -> bytes:
    return _saved(Image.new("RGB", (16, 16), (200, 100, 50)), kind, **options)


def _patched(data: bytes, place: int, form: str, *values: int) -> bytes:
    new = struct.pack(form, *values)
    return data[:place] + new + data[place + len(new) :]


def _jpeg_of_size(side: int) -> bytes:
    data = _small("JPEG")
    return _patched(data, data.index(b"\xff\xc0") + 5, ">HH", side, side)


def _tiff_of_size(side: int) -> bytes:
    """Width and height in the directory: tags 256 and 257, of type 3 (short) or 4 (long)."""
    data = _small("TIFF", compression="tiff_adobe_deflate")
    for tag in (256, 257):
        entry = re.search(struct.pack("<H", tag) + b"[\x03\x04]\\x00\x01\\x00\\x00\\x00", data)
        assert entry
        data = _patched(data, entry.start() + 2, "<HII", 4, 1, side)
    return data


def _webp_of_size() -> bytes:
    """An extended header with the largest canvas, then a picture."""
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6 + _small("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _jpeg_of_scans(count: int) -> bytes:
    """The last scan of a progressive JPEG again and again."""
    data = _saved(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    return data[:-2] + count * data[data.rindex(b"\xff\xda") : -2] + data[-2:]


def _tiff_in_circles() -> bytes:
    """A directory whose next one is itself."""
    data = _small("TIFF")
    start = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[start : start + 2], "little")
    return _patched(data, start + 2 + 12 * entries, "<I", start)


def _zeros(megabytes: int) -> bytes:
    """So many zeros, compressed."""
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(megabytes)), packer.flush()])


_DOT = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
_HUGE = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)
_DOT_PIXELS = (b"IDAT", zlib.compress(b"\0\0"))

BOMBS = (
    Bomb("a PNG of 30,000 x 30,000", lambda: png(30_000, 30_000, 1, 0)),
    Bomb("a PNG of 10,000 x 10,000", lambda: png(10_000, 10_000, 8, 0)),
    Bomb("the header of a PNG of 2^31 - 1 squared", lambda: png_of(_HUGE, _DOT_PIXELS)),
    Bomb("the header of a JPEG of 65,500 squared", lambda: _jpeg_of_size(65_500)),
    Bomb("the header of a GIF of 65,535 squared", lambda: _patched(_small("GIF"), 6, "<HH", 65_535, 65_535)),
    Bomb("the header of a BMP of 100,000 squared", lambda: _patched(_small("BMP"), 18, "<ii", 100_000, 100_000)),
    Bomb("the header of a TIFF of 60,000 squared", lambda: _tiff_of_size(60_000)),
    Bomb("the header of a WebP of 16,777,216 squared", _webp_of_size, False),
    Bomb("a JPEG of 30,000 scans", lambda: _jpeg_of_scans(30_000), False),
    Bomb("a PNG with 200 MB of text", lambda: png_of(_DOT, (b"zTXt", b"a\0\0" + _zeros(200)), _DOT_PIXELS), False),
    Bomb("a PNG with a profile of 200 MB", lambda: png_of(_DOT, (b"iCCP", b"a\0\0" + _zeros(200)), _DOT_PIXELS), False),
    Bomb("a PNG of 300,000 chunks", lambda: png_of(_DOT, *([(b"teST", b"")] * 300_000), _DOT_PIXELS), False),
    Bomb("a PNG of a pixel and 200 MB", lambda: png_of(_DOT, (b"IDAT", _zeros(200))), False),
    Bomb("a TIFF in circles", _tiff_in_circles, False),
)  # fmt: skip


# --- large pictures ----------------------------------------------------------------------------------

_SIDE = int(MAX_PIXELS**0.5)
_GREY_PALETTE = (b"PLTE", bytes(range(256)) * 3), (b"tRNS", bytes(range(256)))
LARGEST: dict[str, Callable[[int], bytes]] = {
    "grey PNG": lambda side: png(side, side, 8, 0),
    "grey PNG of 16 bits": lambda side: png(side, side, 16, 0),
    "PNG with palette and alpha": lambda side: png(side, side, 8, 3, *_GREY_PALETTE),
    "RGB PNG": lambda side: png(side, side, 8, 2),
    "RGBA PNG": lambda side: png(side, side, 8, 6),
    "progressive JPEG": lambda side: _saved(Image.new("RGB", (side, side)), "JPEG", progressive=True),
    "TIFF of numbers": lambda side: _saved(Image.new("F", (side, side)), "TIFF", compression="tiff_lzw"),
    "RGBA WebP": lambda side: _saved(Image.new("RGBA", (side, side)), "WEBP", method=0, quality=0),
}


def largest(box: TimeBox, folder: Path, side: int = _SIDE) -> Iterator[Outcome]:
    """Pictures as large as is allowed, each read in less than 2 GB."""
    failures: list[str] = []
    peak = done = 0
    path = folder / "large"
    for name, make in LARGEST.items():
        if box.over():
            break
        path.write_bytes(make(side))
        task = partial(read_large, path, side)
        tally = attempts(task, str, 2, box, folder, memory=MEMORY, seconds=PATIENCE, processes=1)
        failures += [f"{name}: {failure}" for _, failure in tally.failures]
        peak, done = max(peak, tally.peak), done + (len(tally.answers) == 2)
    if peak * 1e6 >= MEMORY:
        failures.append(f"{peak} MB")
    yield Outcome(PART, f"pictures of {side:,} x {side:,} px", done, tuple(failures), f"peak {peak} MB")


def read_large(path: Path, side: int, number: int) -> Attempt:
    """Photographs (0) and photograph stores (1) read it."""
    picture = decode_photo(Photo("photo", path), SIDE) if number else read_image(path)
    expected = (min(side, SIDE),) * 2 if number else (side, side)
    good = not isinstance(picture, str) and picture.shape[:2] == expected
    return Attempt("read" if good else "wrong", "" if good else f"answered {picture}")


# --- the command line --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A command that has ended: its exit code, its errors, seconds, and the most memory it had in use, in bytes."""

    code: int
    errors: str
    seconds: float
    peak: int


_MEASURED = """
import sys
from tests.reliability.workers import peak_memory
from gmae_tools.cli import main
try:
    main(sys.argv[1:])
finally:
    print(peak_memory())
"""


def measured(*arguments: object) -> Measured:
    """Run `gmae-tools` with these arguments in a process of its own."""
    start = time.monotonic()
    path = str(_ROOT)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    peak = int(done.stdout.split()[-1]) if done.stdout else 0  # of a process that was killed nothing is known
    return Measured(done.returncode, done.stderr, time.monotonic() - start, peak)


def command_line(
    box: TimeBox, folder: Path, shape: tuple[int, int], counts: tuple[int, int], checkpoint: str | None = None
) -> Iterator[Outcome]:
    """`layers` on one large photograph, then on folders of few and of many small ones."""
    height, width = shape
    photo = folder / "photo.jpg"
    y, x = np.ogrid[:height, :width]
    Image.fromarray(np.stack(np.broadcast_arrays(x % 256, y % 256, (x + y) % 256), -1).astype(np.uint8)).save(photo)
    run = measured("layers", photo, "-o", folder / "layers", *(["--checkpoint", checkpoint] if checkpoint else []))
    failures = [f"exit code {run.code}: {run.errors}"] if run.code else []
    note = f"peak {run.peak / 1e6:.0f} MB, {run.seconds:.0f} s"
    failures += [note] if run.peak >= MEMORY else []
    yield Outcome(PART, f"layers on a photograph of {width:,} x {height:,} px", 1, tuple(failures), note)

    yield from _folders(box, folder, *counts)


def _folders(box: TimeBox, folder: Path, few: int, many: int) -> Iterator[Outcome]:
    """`layers` on a folder of few pictures, then of `many`, or of as many as there is time for."""
    nano, source = folder / "nano", folder / "small"
    save_nano(nano)
    source.mkdir()
    command = ("layers", source, "-o", folder / "out", "--checkpoint", nano, "--k", "all", "--layers", 1)
    _fill(source, few)
    first = measured(*command)
    many = max(few, min(many, int(few * box.left() / first.seconds)))
    _fill(source, many)
    second = measured(*command)
    failures = [f"exit code {run.code}: {run.errors}" for run in (first, second) if run.code]
    peaks = f"peak {first.peak / 1e6:.0f} MB for {few:,} pictures, {second.peak / 1e6:.0f} MB for {many:,}"
    failures += [peaks] if second.peak - first.peak > GROWTH else []
    yield Outcome(PART, "layers on folders of small pictures", 2, tuple(failures), peaks)


def _fill(folder: Path, count: int) -> None:
    """Make so many pictures, unless they are there."""
    for number in range(len(list(folder.iterdir())), count):
        Image.fromarray(np.full((48, 64, 3), number % 256, np.uint8)).save(folder / f"{number:05}.png")


def save_nano(folder: Path) -> None:
    """A checkpoint of the smallest preset, with random weights."""
    from gmae_tools import checkpoints
    from gmae_tools.model import GMAE, GMAEConfig

    checkpoints.save(GMAE(GMAEConfig.preset("nano")), folder)
