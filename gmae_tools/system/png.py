"""PNG files written fast, and strip by strip if need be, so that any picture needs the memory of a few rows."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from isal import isal_zlib

from gmae_tools.system.files import atomic_path

_COLOR_TYPES = {1: 0, 3: 2, 4: 6}  # channels: grey, RGB, RGBA
_UP = 2  # PNG's filter "difference to the row above", which is fast and suits smooth pictures
_LEVEL = 1  # of ISA-L; a quarter of the time of zlib's level 1, a twentieth of that of level 6 and a sixth more bytes


class PngWriter:
    """Writes rows of a picture as an 8-bit PNG; `channels` is 1 (grey), 3 (RGB) or 4 (RGB and straight alpha)."""

    def __init__(self, file: BinaryIO, height: int, width: int, channels: int) -> None:
        self._file = file
        self._above = np.zeros(width * channels, np.uint8)
        self._stream = isal_zlib.compressobj(_LEVEL)
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0))

    def write(self, rows: np.ndarray) -> None:
        """Append uint8 rows `[h, W, C]`."""
        rows = rows.reshape(len(rows), -1)
        filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
        filtered[:, 0] = _UP
        np.subtract(rows[0], self._above, out=filtered[0, 1:])  # modulo 256, as PNG requires
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
        self._above = rows[-1].copy()
        self._chunk(b"IDAT", self._stream.compress(filtered.data))

    def finish(self) -> None:
        """Write the rest. The file is a valid PNG only after this."""
        self._chunk(b"IDAT", self._stream.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, data: bytes) -> None:
        checksum = isal_zlib.crc32(data, isal_zlib.crc32(name))
        self._file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum))


@contextmanager
def png_writer(path: str | os.PathLike[str], height: int, width: int, channels: int) -> Iterator[PngWriter]:
    """A `PngWriter` for `path`, which appears, whole, when the context ends without an exception."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        writer = PngWriter(file, height, width, channels)
        yield writer
        writer.finish()


def write_png(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write a whole picture, uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]`, into a file that need not appear at once."""
    height, width, channels = (*picture.shape, 1)[:3]
    with open(path, "wb") as file:
        writer = PngWriter(file, height, width, channels)
        writer.write(picture)
        writer.finish()
