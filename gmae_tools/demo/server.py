"""Serve the demo's page from memory, at one address; browsers load nothing from other servers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from gmae_tools.demo.gradio_there import require_gradio
from gmae_tools.system.ports import check_free

if TYPE_CHECKING:
    from gmae_tools.demo.exhibit import Workshop

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Gradio builds functions from text, in pages that it serves itself; pictures are part of the page.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'none'"
)
MOST_SENT = 30_000_000  # bytes of a request: a photograph of `exhibit.MOST_BYTES` in base 64, and a little
VISITORS = 200  # whose photographs are kept at a time, some 3 MB each; the one not seen for longest goes first


@contextmanager
def serve(workshop: Workshop, *, host: str, port: int) -> Iterator[str]:
    """Serve the page in threads of its own until the context ends, and yield its URL.

    Temporary files of gradio and Python go into one folder, which is removed when the context ends.

    Raises:
        GmaeToolsError: gradio is not installed, or the port is taken.
    """
    require_gradio()
    check_free(host, port)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gmae-tools-"))
        stack.enter_context(_temporary_files_in(folder))

        from starlette.middleware import Middleware

        from gmae_tools.demo.page import build, head, theme

        page = build(workshop)
        stack.callback(page.close, verbose=False)
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            inline=False,
            prevent_thread_lock=True,
            theme=theme(),
            head=head(),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            state_session_capacity=VISITORS,
            app_kwargs={"middleware": [Middleware(Guard)]},
        )
        yield f"http://{host}:{port}"


@contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    """Let Python and gradio make temporary files in a folder, and gradio report to nobody, while the context lasts."""
    names = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "0"}
    before, earlier = {name: os.environ.get(name) for name in names}, tempfile.tempdir
    os.environ.update(names)
    tempfile.tempdir = folder
    try:
        yield
    finally:
        tempfile.tempdir = earlier
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Guard:
    """An ASGI middleware in front of gradio that refuses uploads and keeps browsers from loading other servers.

    Photographs arrive as events, which stay in memory. Uploads would become files and are refused, and so are requests
    that are larger than any photograph.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = _refusal(scope)
        if status:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode("ascii")),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, with_policy)


def _refusal(scope: Message) -> int:
    """Return the HTTP status with which a request is refused, or 0."""
    if scope["method"] != "POST":
        return 0
    if scope["path"].rstrip("/").endswith("/upload"):
        return 403
    length = dict(scope["headers"]).get(b"content-length", b"")
    if not length.isdigit():
        return 411  # of unknown length
    return 413 if int(length) > MOST_SENT else 0
