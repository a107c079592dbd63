"""Downloads from a local server that breaks off, refuses or lies, and archives that try to escape."""

from __future__ import annotations

import hashlib
import io
import re
import resource
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from gmae_tools.datasets import download as module
from gmae_tools.datasets.download import download, unpack_tar
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import file_sha256

CONTENT = np.random.default_rng(0).bytes(1_000_003)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; the attributes say how well."""

    ranges = True  # whether it answers to Range
    break_after: int | None = None  # bytes of an answer after which it hangs up
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.asked: list[str | None] = []  # the Range header of every request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.tgz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        content, start = self.server.content, 0
        if self.server.status != 200:
            return self.send_error(self.server.status)
        if asked and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = None if self.server.break_after is None else start + self.server.break_after
        self.wfile.write(content[start:stop])
        return None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)


def test_download(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "archive.tgz"
    download(server.url, target, sha256=SHA256, progress=lambda *step: seen.append(step))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in target.parent.iterdir()] == ["archive.tgz"]


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.break_after = 300_000
    download(server.url, tmp_path / "archive", sha256=SHA256)
    assert (tmp_path / "archive").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_later_call_goes_on_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.part").write_bytes(CONTENT[:123_456])
    download(server.url, tmp_path / "archive", sha256=SHA256)
    assert (tmp_path / "archive").read_bytes() == CONTENT
    assert server.asked == ["bytes=123456-"]


def test_a_complete_part_only_gets_its_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.part").write_bytes(CONTENT)
    download(server.url, tmp_path / "archive", sha256=SHA256)
    assert (tmp_path / "archive").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.part").write_bytes(CONTENT + b"more")
    download(server.url, tmp_path / "archive", sha256=SHA256)
    assert (tmp_path / "archive").read_bytes() == CONTENT


def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "archive.part").write_bytes(b"x" * 1000)
    download(server.url, tmp_path / "archive", sha256=SHA256)
    assert (tmp_path / "archive").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(GmaeToolsError, match="checksum"):
        download(server.url, tmp_path / "archive", sha256=SHA256)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_said_at_once(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(GmaeToolsError, match="404"):
        download(server.url, tmp_path / "archive")
    assert len(server.asked) == 1


def test_a_server_that_brings_nothing_is_given_up_and_the_part_kept(server: Server, tmp_path: Path) -> None:
    server.break_after = 0
    (tmp_path / "archive.part").write_bytes(CONTENT[:1000])
    with pytest.raises(GmaeToolsError, match="run again"):
        download(server.url, tmp_path / "archive", attempts=3)
    assert len(server.asked) == 3
    assert (tmp_path / "archive.part").stat().st_size == 1000
    assert not (tmp_path / "archive").exists()


def test_no_server_and_no_address(tmp_path: Path) -> None:
    with Server() as gone:
        url = gone.url
    with pytest.raises(GmaeToolsError, match="cannot be fetched"):
        download(url, tmp_path / "archive", attempts=2)
    for url in ("archive.tgz", "http://[broken"):
        with pytest.raises(GmaeToolsError, match="no address"):
            download(url, tmp_path / "archive")


def test_a_full_disk_is_said_before_it_is_full(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SPARE", 1 << 60)
    with pytest.raises(GmaeToolsError, match="MB free"):
        download(server.url, tmp_path / "archive")


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file can become longer, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_on_the_way_keeps_what_has_arrived(server: Server, tmp_path: Path) -> None:
    with files_limited_to(400_000), pytest.raises(GmaeToolsError, match=r"archive\.part: .*make room and run again"):
        download(server.url, tmp_path / "archive", sha256=SHA256)
    assert len(server.asked) == 1
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [400_000]
    download(server.url, tmp_path / "archive", sha256=SHA256)
    assert server.asked[1:] == ["bytes=400000-"]


def test_no_more_is_fetched_than_was_announced_or_asked_for(server: Server, tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match="more than 500000 bytes"):
        download(server.url, tmp_path / "archive", max_bytes=500_000)
    assert (tmp_path / "archive.part").stat().st_size <= 500_000


def test_checksum_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


# --- archives -------------------------------------------------------------------------------------


def make_archive(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


def test_unpack_the_part_asked_for(tmp_path: Path) -> None:
    archive = make_archive(
        tmp_path / "a.tgz",
        special("top/data", tarfile.DIRTYPE),
        ("top/data/images/1.jpg", b"picture"),
        ("top/data/empty", b""),
        ("top/code/run.m", b"code"),
    )
    unpack_tar(archive, tmp_path / "out" / "data", inside="top/data")
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"data/images/1.jpg", "data/empty"}
    assert (tmp_path / "out" / "data" / "images" / "1.jpg").read_bytes() == b"picture"


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x"),
        ("top/../../evil", b"x"),
        ("/tmp/evil", b"x"),
        ("top\\..\\evil", b"x"),
        ("c:/evil", b"x"),
        special("top/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("top/link", tarfile.LNKTYPE, "top/file"),
        special("top/device", tarfile.CHRTYPE),
        special("top/pipe", tarfile.FIFOTYPE),
    ],
)
def test_archives_that_try_to_escape_are_refused(tmp_path: Path, member: tarfile.TarInfo | tuple[str, bytes]) -> None:
    archive = make_archive(tmp_path / "a.tgz", ("top/file", b"good"), member)
    with pytest.raises(GmaeToolsError, match="refusing to unpack"):
        unpack_tar(archive, tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())


def test_archives_too_large_damaged_or_of_something_else_are_refused(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tgz", ("top/file", b"x" * 100_000), ("top/noise", CONTENT))
    with pytest.raises(GmaeToolsError, match="more than"):
        unpack_tar(archive, tmp_path / "out", max_bytes=50_000)
    with pytest.raises(GmaeToolsError, match="right archive"):
        unpack_tar(archive, tmp_path / "out", inside="other")
    archive.write_bytes(archive.read_bytes()[:-10_000])
    with pytest.raises(GmaeToolsError, match="damaged"):
        unpack_tar(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


def test_an_archive_damaged_behind_its_last_file_is_refused(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tgz", ("file", CONTENT))
    data = bytearray(archive.read_bytes())
    data[-8] ^= 1  # of the checksum
    archive.write_bytes(data)
    with pytest.raises(GmaeToolsError, match="damaged"):
        unpack_tar(archive, tmp_path / "out")


def test_an_archive_damaged_between_two_files_is_not_taken_to_end_there(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("one", "two"):
            tar.addfile(tarfile.TarInfo(name))
    data = bytearray(archive.read_bytes())
    data[600] ^= 1  # of the second header
    archive.write_bytes(data)
    with pytest.raises(GmaeToolsError, match="damaged"):
        unpack_tar(archive, tmp_path / "out")


def test_a_full_disk_leaves_nothing_half_unpacked(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tgz", ("first", b"x"), ("second", CONTENT))
    with (
        files_limited_to(1000),
        pytest.raises(GmaeToolsError, match=r"a\.tgz cannot be unpacked in .*: File too large"),
    ):
        unpack_tar(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tgz", ("file", b"new"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_bytes(b"old")
    with pytest.raises(GmaeToolsError, match="exists already"):
        unpack_tar(archive, tmp_path / "out")
    assert (tmp_path / "out" / "file").read_bytes() == b"old"
