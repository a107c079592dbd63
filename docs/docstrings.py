"""What griffe asks while mkdocstrings reads docstrings: a description may be shared by several names.

The house style allows `height, width: in pixels.` in a docstring. Each name gets the description, so that its type
stands beside it, and so that griffe can tell whether there is such a parameter.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SHARED = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): ")


class SharedDescriptions(griffe.Extension):
    """Gives every name of `a, b: text` the text."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = separated(obj.docstring.value)


def separated(text: str) -> str:
    """A docstring in which every description has one name.

    >>> print(separated('Args:\\n    a, b: of both,\\n        and so on.\\n    c: alone.'))
    Args:
        a: of both,
            and so on.
        b: of both,
            and so on.
        c: alone.
    """
    lines = text.split("\n")
    result: list[str] = []
    while lines:
        line = lines.pop(0)
        found = SHARED.match(line)
        if not found:
            result.append(line)
            continue
        further = []
        while lines and lines[0].startswith(found["indent"] + " "):
            further.append(lines.pop(0))
        for name in found["names"].split(", "):
            result += [f"{found['indent']}{name}: {line[found.end() :]}", *further]
    return "\n".join(result)
