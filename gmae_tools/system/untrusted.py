"""Protection of a command against hostile files, and against the loss of Ctrl-C.

The protection affects the whole process (descriptors, filters of warnings, hooks). Therefore only the command line
switches it on, and library calls do not.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from gmae_tools.errors import GmaeToolsError

_MOST_SCANS = 100  # of a JPEG, the bound of libtiff; encoders make about ten
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # begins a segment of a JPEG; others are among the pixels
_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
_RETURNED = 0.05  # seconds after which a callback of compiled code has returned
# Modules whose warnings are about flawed metadata of pictures, and about old formats of weights.
_NOISY = r"PIL\b|torch\.(_utils|_weights_only_unpickler|serialization|storage)"

_protected = False
stderr_in_use = threading.RLock()  # held while the process's stderr is redirected, and by who prints to it meanwhile


def is_protected() -> bool:
    """Whether this process is inside `protected`."""
    return _protected


@contextmanager
def protected() -> Iterator[None]:
    """Until the context ends, drop the messages that decoders print, and refuse files made to occupy them for hours.

    Messages are dropped because a file that cannot be read is reported in one line, and one that can be read needs
    none: warnings and log records of Pillow, and what libtiff prints.
    """
    global _protected
    before, log, silence = _protected, logging.getLogger("PIL"), logging.NullHandler()
    log.addHandler(silence)  # without any handler Python prints errors; the handlers of an application still get them
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=_NOISY)
        _protected = True
        try:
            yield
        finally:
            _protected = before
            log.removeHandler(silence)


@contextmanager
def decoding(image_format: str | None, file: IO[bytes]) -> Iterator[None]:
    """Decode a picture inside this context; inside `protected` it is guarded, elsewhere nothing happens.

    A JPEG of more scans than any encoder makes is refused. The position in the file moves.
    """
    if _protected and image_format in ("JPEG", "MPO"):
        _check_scans(file)
    if _protected and image_format == "TIFF":
        with _silent_stderr():
            yield
    else:
        yield


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what compiled code prints on stderr: libtiff prints errors there, although it also returns them."""
    with stderr_in_use, open(os.devnull, "wb") as nowhere:
        try:
            stderr = os.dup(2)
        except OSError:  # stderr is closed
            yield
            return
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _check_scans(file: IO[bytes]) -> None:
    """Refuse a JPEG of very many scans, each of which may take a second although it has only a few bytes."""
    file.seek(0)
    data = file.read()
    if data.count(_SCAN) > _MOST_SCANS and _scans(data) > _MOST_SCANS:
        raise GmaeToolsError(f"a JPEG of more than {_MOST_SCANS} scans; if it can be trusted, save it anew")


def _scans(data: bytes) -> int:
    """Number of scans of a JPEG. What follows its end, such as a film, may look like more."""
    count, place = 0, 0
    while (marker := _MARKER.search(data, place)) and marker[0] != _END:
        count += marker[0] == _SCAN
        place = marker.end()
        if marker[0] != _START:  # the other segments begin with their length
            place += int.from_bytes(data[place : place + 2], "big")
    return count


@contextmanager
def no_interruption_lost() -> Iterator[None]:
    """Repeat Ctrl-C if it arrives in a callback of compiled code (numba), which drops or disguises the exception."""
    usual = sys.unraisablehook

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            usual(lost)
            return
        timer = threading.Timer(_RETURNED, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = raise_again
    try:
        yield
    except SystemError as disguise:  # "returned a result with an exception set"
        if isinstance(disguise.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        sys.unraisablehook = usual
