"""Ports on which pages are served."""

from __future__ import annotations

import socket

from gmae_tools.errors import GmaeToolsError


def check_free(host: str, port: int) -> None:
    """Refuse a port that is taken, where servers would silently take another, or end in a traceback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise GmaeToolsError(
                f"cannot listen on {host}, port {port} ({error.strerror}); choose another with --port"
            ) from None
