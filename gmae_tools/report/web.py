"""What all pages share: they hold everything they need, fetch nothing, and run nothing that came with the data."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def asset(file: str, package: str = "gmae_tools.report") -> str:
    """The text of a file in the folder `assets/` of a package."""
    return (files(package) / "assets" / file).read_text(encoding="utf-8")


def policy(style: str, script: str | None = None) -> str:
    """A content security policy: only this style, this script if any, and pictures that the page itself holds."""
    allowed = f" script-src {_hash(script)};" if script else ""
    return f"default-src 'none';{allowed} style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"


def encodable(text: str) -> str:
    """The text without what UTF-8 cannot hold, which file names may."""
    return text.encode("utf-8", "replace").decode("utf-8")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of a media type such as `image/png` as an address that a page can hold."""
    return f"data:{kind};base64,{to_base64(content)}"


def to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _hash(text: str) -> str:
    return f"'sha256-{to_base64(hashlib.sha256(text.encode('utf-8')).digest())}'"
