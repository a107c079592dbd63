"""Whether gradio, which serves the demo, is installed; found out without loading torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from gmae_tools.errors import GmaeToolsError

LEAST = 6  # major version; older ones have no components whose events carry what a visitor drops on them


def require_gradio() -> None:
    """Make sure that gradio is there, before any work.

    Raises:
        GmaeToolsError: it is not, or too old.
    """
    if importlib.util.find_spec("gradio") is None:
        raise GmaeToolsError("the demo needs gradio: pip install 'gmae-tools[demo]'")
    version = importlib.metadata.version("gradio")
    if int(version.split(".")[0]) < LEAST:
        raise GmaeToolsError(f"the demo needs gradio {LEAST}, not {version}: pip install 'gmae-tools[demo]'")
