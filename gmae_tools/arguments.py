"""What callers from a notebook may pass for a number, a size or a path; anything else gets one sentence."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable

from gmae_tools.errors import GmaeToolsError


def path_name(given: object, what: str) -> str:
    """A path as text.

    Args:
        what: What it is of, such as `a file of Gaussians`.

    Raises:
        GmaeToolsError: It is none, or empty.
    """
    if not isinstance(given, (str, os.PathLike)) or not isinstance(text := os.fspath(given), str):
        raise GmaeToolsError(f"{type(given).__name__} is no path: give that of {what}")
    if not text:
        raise GmaeToolsError(f"the path is empty: give that of {what}")
    return text


def whole_number(given: object, what: str, least: int = 1) -> int:
    """A whole number of Python or NumPy, not a bool.

    Args:
        what: What the number is called in the message.
        least: The least that it may be.

    Raises:
        GmaeToolsError: It is none, or less than `least`.
    """
    try:
        number = operator.index(given)  # type: ignore[arg-type]  # which is what this finds out
    except TypeError:
        number = least - 1
    if isinstance(given, bool) or number < least:
        raise GmaeToolsError(f"{what} is {given!r}: use a whole number of {least} or more")
    return number


def whole_numbers(given: object, what: str) -> tuple[int, ...]:
    """One whole number of 1 or more, or several; arguments and errors as for `whole_number`."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        return (whole_number(given, what),)
    return tuple(whole_number(each, what) for each in given)


def picture_size(given: object, what: str = "size") -> tuple[int, int]:
    """Height and width of a picture in pixels.

    Raises:
        GmaeToolsError: They are not two whole numbers of 1 or more. What is too large is for the caller to say.
    """
    try:
        height, width = (whole_number(each, what) for each in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError, GmaeToolsError):
        raise GmaeToolsError(f"{what} is {given!r}: give height and width in pixels, such as (480, 640)") from None
    return height, width


def positive_number(given: object, what: str) -> float:
    """A finite number above 0.

    Raises:
        GmaeToolsError: It is none.
    """
    try:
        number = math.nan if isinstance(given, (bool, str)) else float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise GmaeToolsError(f"{what} is {given!r}: use a number above 0")
    return number
