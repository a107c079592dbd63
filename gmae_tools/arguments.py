"""Check the numbers, sizes and paths that callers pass, and refuse others with an error of one sentence."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable

from gmae_tools.errors import GmaeToolsError


def path_name(given: object, what: str) -> str:
    """Return a path as text; refuse what is none, or empty. `what` is what it is of, such as `a file of Gaussians`."""
    if not isinstance(given, (str, os.PathLike)) or not isinstance(text := os.fspath(given), str):
        raise GmaeToolsError(f"{type(given).__name__} is no path: give that of {what}")
    if not text:
        raise GmaeToolsError(f"the path is empty: give that of {what}")
    return text


def whole_number(given: object, what: str, least: int = 1) -> int:
    """Return a whole number of Python or NumPy, which is not a bool, and refuse others; `what` names it in messages."""
    try:
        number = operator.index(given)  # type: ignore[arg-type]  # which is what this finds out
    except TypeError:
        number = least - 1
    if isinstance(given, bool) or number < least:
        raise GmaeToolsError(f"{what} is {given!r}: use a whole number of {least} or more")
    return number


def whole_numbers(given: object, what: str) -> tuple[int, ...]:
    """Return one whole number of 1 or more, or several, as a tuple; arguments and errors as for `whole_number`."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        return (whole_number(given, what),)
    return tuple(whole_number(each, what) for each in given)


def picture_size(given: object) -> tuple[int, int]:
    """Return the height and width of a picture in pixels, two whole numbers of 1 or more without an upper limit."""
    try:
        height, width = (whole_number(each, "size") for each in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError, GmaeToolsError):
        raise GmaeToolsError(f"size is {given!r}: give height and width in pixels, such as (480, 640)") from None
    return height, width


def positive_number(given: object, what: str) -> float:
    """Return a finite number above 0, and refuse others; `what` names it in the message."""
    try:
        number = math.nan if isinstance(given, (bool, str)) else float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise GmaeToolsError(f"{what} is {given!r}: use a number above 0")
    return number
