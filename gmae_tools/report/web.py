"""Functions for self-contained HTML pages, which fetch nothing and run no script but their own."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def asset(file: str, package: str = "gmae_tools.report") -> str:
    """The text of a file in the folder `assets/` of a package."""
    return (files(package) / "assets" / file).read_text(encoding="utf-8")


def policy(style: str, script: str | None = None) -> str:
    """A content security policy that allows this style, this script if any, and embedded pictures."""
    allowed = f" script-src {_hash(script)};" if script else ""
    return f"default-src 'none';{allowed} style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"


def encodable(text: str) -> str:
    """The text with `?` for characters that UTF-8 cannot encode, which file names may contain."""
    return text.encode("utf-8", "replace").decode("utf-8")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of a media type such as `image/png` as a data URI."""
    return f"data:{kind};base64,{to_base64(content)}"


def to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _hash(text: str) -> str:
    return f"'sha256-{to_base64(hashlib.sha256(text.encode('utf-8')).digest())}'"
