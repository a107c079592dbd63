"""Files that are almost what they seem: bytes changed, cut out, repeated, or taken from another file."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

_HEAD = 256  # bytes at the beginning, where most decisions of a reader are made
_TELLING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> tuple[str, bytes]:
    """How the file was changed, in words, and what became of it.

    Args:
        others: files to take pieces from.
    """
    names = rng.choices(list(_WAYS), k=rng.choice((1, 1, 2, 3)))
    for name in names:
        data = _WAYS[name](rng, data, rng.choice(others))
    return ", ".join(names), data


def _place(rng: random.Random, data: bytes) -> int:
    """Of a byte; half of the time near the beginning."""
    return rng.randrange(max(1, min(len(data), _HEAD) if rng.random() < 0.5 else len(data)))


def _flip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 2, 4, 16))):
        changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, data: bytes, other: bytes) -> bytes:
    place, count = _place(rng, data), rng.choice((1, 2, 8, 64))
    return data[:place] + rng.randbytes(count) + data[place + count :]


def _number(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One that readers may trust, in place of what is there."""
    form = rng.choice((">B", ">H", "<H", ">I", "<I"))
    size = struct.calcsize(form)
    place = _place(rng, data)
    return data[:place] + struct.pack(form, rng.choice(_TELLING) % (1 << (8 * size))) + data[place + size :]


def _cut(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)]


def _drop(rng: random.Random, data: bytes, other: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + data[place + rng.choice((1, 2, 4, 16, 256)) :]


def _repeat(rng: random.Random, data: bytes, other: bytes) -> bytes:
    place = _place(rng, data)
    piece = data[place : place + rng.choice((1, 4, 32, 512))]
    return data[:place] + piece * rng.choice((2, 3, 100)) + data[place:]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _behead(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The beginning of another file."""
    place = rng.choice((4, 8, 16, 32, 64))
    return other[:place] + data[place:]


_WAYS: dict[str, Callable[[random.Random, bytes, bytes], bytes]] = {
    "bits flipped": _flip,
    "bytes overwritten": _overwrite,
    "a number replaced": _number,
    "truncated": _cut,
    "bytes left out": _drop,
    "bytes repeated": _repeat,
    "spliced": _splice,
    "another's header": _behead,
}
