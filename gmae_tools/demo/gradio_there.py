"""Check whether gradio, which serves the demo, is installed, without loading torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from gmae_tools.errors import GmaeToolsError

LEAST = (6, 31)  # the version with which the page is tested; versions below 6.0 lack components that it needs


def require_gradio() -> None:
    """Raise a GmaeToolsError if gradio is missing or too old."""
    if importlib.util.find_spec("gradio") is None:
        raise GmaeToolsError("the demo needs gradio: pip install 'gmae-tools[demo]'")
    version = importlib.metadata.version("gradio")
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST:
        least = ".".join(map(str, LEAST))
        raise GmaeToolsError(f"the demo needs gradio {least} or newer, not {version}: pip install 'gmae-tools[demo]'")
