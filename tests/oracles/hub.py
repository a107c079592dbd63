"""A small imitation of the Hugging Face hub, spoken to by the real client over HTTP on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Files = dict[str, bytes]


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@dataclass
class Hub:
    """Repositories by `ORG/NAME`, revisions by branch, tag or commit."""

    repositories: dict[str, dict[str, Files]] = field(default_factory=dict)
    url: str = ""
    break_after: int | None = None  # bytes of an answer after which the connection breaks

    def commit(self, repository: str, revision: str, files: Files) -> None:
        revisions = self.repositories.setdefault(repository, {})
        revisions[revision] = revisions[_oid(json.dumps(sorted(files)).encode() + revision.encode())] = files

    def commit_hash(self, repository: str, revision: str) -> str:
        files = self.repositories[repository][revision]
        return next(
            r for r, f in self.repositories[repository].items() if f is files and re.fullmatch("[0-9a-f]{40}", r)
        )


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Answer at `hub.url` until the end, or until someone asks for `/down`."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        if self.path == "/down":
            self.server.shutdown()  # of the loop; this request has a thread of its own
            self.server.server_close()
            self._answer(200, {})
        elif match := re.match(r"/api/models/([^/]+/[^/?]+)(?:/(revision|tree)/([^/?]+))?", self.path):
            repository, what, revision = match[1], match[2], match[3] or "main"
            if (files := self._find(repository, revision)) is None:
                return
            if what == "tree":
                entries = [{"type": "file", "oid": _oid(c), "size": len(c), "path": p} for p, c in files.items()]
                self._answer(200, entries)
            else:
                siblings = [{"rfilename": path} for path in files]
                sha = self.hub.commit_hash(repository, revision)
                self._answer(200, {"id": repository, "sha": sha, "private": False, "tags": [], "siblings": siblings})
        elif match := re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", self.path):
            repository, revision, path = match.groups()
            if (files := self._find(repository, revision)) is None:
                return
            if path not in files:
                self._answer(404, {}, {"X-Error-Code": "EntryNotFound"})
                return
            sha = self.hub.commit_hash(repository, revision)
            self._answer(200, files[path], {"ETag": f'"{_oid(files[path])}"', "X-Repo-Commit": sha})
        else:
            self._answer(404, {})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            repository = f"{wanted['organization']}/{wanted['name']}"
            if repository.startswith("denied/"):
                self._answer(403, {"error": "You have no right to create a model under denied"})
                return
            self.hub.commit(repository, "main", {})
            self._answer(200, {"url": f"{self.hub.url}/{repository}"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif re.search(r"/preupload/", self.path):
            self._answer(200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                                         for f in json.loads(body)["files"]]})  # fmt: skip
        elif match := re.match(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {line["value"]["path"]: base64.b64decode(line["value"]["content"])
                     for line in lines if line["key"] == "file"}  # fmt: skip
            self.hub.commit(match[1], "main", files)
            self._answer(200, {"commitUrl": f"{self.hub.url}/{match[1]}/commit/1", "commitOid": "1" * 40})
        else:
            self._answer(404, {})

    def _find(self, repository: str, revision: str) -> Files | None:
        """The files, or None after a refusal."""
        if repository not in self.hub.repositories:
            self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in self.hub.repositories[repository]:
            self._answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        else:
            return self.hub.repositories[repository][revision]
        return None

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: self.hub.break_after])

    def log_message(self, format: str, *args: Any) -> None:
        pass
