"""Servers that break off, stall and lie; archives that try to escape, to explode, or are damaged; full disks.

Everything is served and stored on this machine, and made from a seed.

- Downloads of random bytes, up to five calls each, from a server that for each request may hang up, stall, refuse,
  answer 503, ignore `Range`, send another range, announce too much or too little, nothing or nonsense, or never end.
  Asked of each call: the whole file, or one line; an earlier file under the same name stays until then, and nothing
  but the part lies beside it. After the troubles are over, two calls at most bring the file (one to find that the part
  is worthless).
- Archives (tar alone or in gzip, bzip2, xz) with hostile members (`..`, absolute names, links, devices, names twice or
  with zero bytes, negative sizes, long names of gigabytes, bombs), or with bytes flipped, cut off or spliced. Asked of
  each, within seconds and 1.5 GB: unpacked whole, with the right bytes where they have a checksum, or one line and
  nothing left; nothing is written elsewhere. The same bytes as a shard of photographs: listed, or one line.
- Disks that are full after a random number of bytes (files are limited in size) while something is downloaded,
  unpacked, packed or cached. Asked of each: one line, nothing temporary left, earlier results as they were; and with
  room the same call works.
- Once, a hub whose file names lead elsewhere and whose connections break, spoken to by the real client.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import re
import resource
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
from PIL import Image

from gmae_tools.datasets.download import download, unpack_tar
from gmae_tools.datasets.pack import pack
from gmae_tools.datasets.photos import PhotoStore, find_sources, list_photos
from gmae_tools.errors import GmaeToolsError
from tests.reliability.flaws import Flaw, require
from tests.reliability.outcome import Outcome, TimeBox

ROOT = Path(__file__).resolve().parents[2]

PART = "downloads"
MEMORY = 3 << 29  # bytes that unpacking may take: much less than a bomb would
PATIENCE = 60.0  # seconds that a batch of archives may take

_BATCH = 40  # archives for one process
_MOST_UNPACKED = 1 << 24  # bytes


def refusal(call: Callable[[], object]) -> str | None:
    """The one line in which a call refuses, None if it does what it is asked for.

    Raises:
        Flaw: it fails in another way.
    """
    try:
        call()
    except GmaeToolsError as error:
        require("\n" not in str(error), f"several lines: {error}")
        return str(error)
    except Exception as error:
        raise Flaw(f"{type(error).__name__}: {error}") from error
    return None


# --- servers -----------------------------------------------------------------------------------------

TROUBLES = (
    "hang up", "stall", "refuse", "503", "no range", "other range", "too long", "too short", "no length", "nonsense",
    "endless", "none",
)  # fmt: skip


class Server(ThreadingHTTPServer):
    """Serves `content`, with a random one of `troubles` for each request."""

    daemon_threads = True

    def __init__(self, content: bytes, chance: random.Random, troubles: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.chance, self.troubles = content, chance, troubles
        self.seen: list[str] = []  # the troubles there were

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.tgz"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients may leave."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        trouble = self.server.chance.choice(self.server.troubles)
        self.server.seen.append(trouble)
        content = self.server.content
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and trouble != "no range" else 0
        if trouble == "refuse":
            return None  # not a word
        if trouble == "503":
            return self.send_error(503)
        if asked and start >= len(content) and trouble != "no range":
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        body, size = content[start:], len(content)
        told: object = {"too long": size + 5000, "too short": max(start + 1, size - 5000)}.get(trouble, size)
        if asked and trouble != "no range":
            first = start + 7 if trouble == "other range" else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{told}")
        else:
            self.send_response(200)
        if trouble not in ("no length", "endless"):
            length = int(str(told)) - start
            self.send_header("Content-Length", "lots" if trouble == "nonsense" else str(length))
        self.end_headers()
        stop = self.server.chance.randrange(len(body) + 1) if trouble in ("hang up", "stall") else len(body)
        self.wfile.write(body[:stop])
        if trouble == "stall":
            threading.Event().wait(0.5)  # longer than clients here do
        while trouble == "endless":
            self.wfile.write(bytes(1 << 16))
        return None

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(content: bytes, chance: random.Random, troubles: tuple[str, ...]) -> Iterator[Server]:
    """A server until the context ends."""
    with Server(content, chance, troubles) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def try_download(seed: int, folder: Path, troubles: tuple[str, ...] = TROUBLES) -> None:
    """One file from a troubled server.

    Raises:
        Flaw: something is not as it should be.
    """
    chance = random.Random(seed)
    content = chance.randbytes(chance.choice([0, 1, 1000, 300_000, 1_000_000]))
    target = folder / "archive.tgz"
    earlier = chance.choice([None, b"earlier"])
    if earlier:
        target.write_bytes(earlier)

    def call() -> None:
        digest = hashlib.sha256(content).hexdigest()
        download(server.url, target, sha256=digest, attempts=2, timeout=0.2, max_bytes=2_000_000)

    def check(refused: str | None) -> bool:
        there = target.read_bytes() if target.exists() else None
        require(there == (earlier if refused else content), f"the file is not what it should be ({refused})")
        others = {path.name for path in folder.iterdir()} - {target.name}
        require(others <= ({"archive.tgz.part"} if refused else set()), f"left behind: {others}")
        return refused is None

    with mock.patch("time.sleep"), serve(content, chance, troubles) as server:
        for _ in range(5):
            if check(refusal(call)):
                return
        server.troubles = ("none",)
        if not check(refusal(call)):
            require(check(refusal(call)), "two calls to an honest server did not bring the file")


# --- archives ----------------------------------------------------------------------------------------

END = bytes(2 * tarfile.BLOCKSIZE)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes, "gz": lambda data: gzip.compress(data, mtime=0), "bz2": bz2.compress, "xz": lzma.compress,
}  # fmt: skip


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None
) -> bytes:
    """A header, which may lie about the size (also below 0), and its data."""
    info = tarfile.TarInfo(name[:90])
    info.type, info.linkname = kind, link
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = ((size if size is not None else len(data)) % 256**12).to_bytes(12, "big")
    header[124] |= 0x80  # base 256
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def described(records: dict[str, bytes], data: bytes = b"hi") -> bytes:
    """A member with extended properties."""
    text = b""
    for key, value in records.items():
        rest = b" " + key.encode() + b"=" + value + b"\n"
        size = len(rest) + 1
        while len(str(size)) + len(rest) != size:
            size = len(str(size)) + len(rest)
        text += str(size).encode() + rest
    return member("properties", text, tarfile.XHDTYPE) + member("described", data)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "parent": lambda: member("../../precious", b"gone"),
    "parent inside": lambda: member("a/../../../precious", b"gone"),
    "absolute": lambda: member("/tmp/gmae-tools-was-here", b"gone"),
    "backslash": lambda: member("..\\precious", b"gone"),
    "drive": lambda: member("c:/precious", b"gone"),
    "symbolic link": lambda: member("way", kind=tarfile.SYMTYPE, link="../..") + member("way/precious", b"gone"),
    "hard link": lambda: member("way", kind=tarfile.LNKTYPE, link="../../precious") + member("way", b"gone"),
    "device": lambda: member("null", kind=tarfile.CHRTYPE),
    "pipe": lambda: member("pipe", kind=tarfile.FIFOTYPE),
    "twice": lambda: member("a/0.bin", b"other"),
    "below a file": lambda: member("a/0.bin/b", b"other"),
    "negative size": lambda: member("back", size=-1024),
    "large size": lambda: member("large", size=1 << 50),
    "long name": lambda: member("name", kind=tarfile.GNUTYPE_LONGNAME, size=1 << 33),
    "slow properties": lambda: member("p", b"1" * (1 << 19), tarfile.XHDTYPE) + member("x"),
    "negative property": lambda: described({"size": b"-1024"}),
    "zero byte": lambda: described({"path": b"pre\0cious"}),
    "escaping property": lambda: described({"path": b"../../precious"}),
    "linking property": lambda: described({"linkpath": b"../../precious"}),
    "sparse nonsense": lambda: described({"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0"}),
    "sparse giant": lambda: described(
        {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"9" * 12, "GNU.sparse.name": b"g"},
        b"1\n0\n0\n".ljust(512, b"\0"),
    ),
    "unprintable": lambda: member("a\x1b[2Jb", b"gone"),
    "bomb": lambda: member("bomb", bytes(_MOST_UNPACKED + 1)),
    "bomb behind the end": lambda: END + bytes(_MOST_UNPACKED),
}  # fmt: skip
HARMLESS = ("linking property",)  # of no effect on a file, so that it may be unpacked


def try_archive(seed: int, folder: Path) -> str:
    """Unpack one archive into `folder`, and list it as a shard; returns what was done to it.

    Raises:
        Flaw: something is not as it should be.
    """
    chance = random.Random(seed)
    files = {f"a/{number}.bin": chance.randbytes(chance.randrange(3000)) for number in range(chance.randint(1, 5))}
    files["b.jpg"] = _photograph(chance)
    parts = [member(name, data) for name, data in files.items()]
    kind = chance.choice(list(PACKERS))
    harm = chance.choice([*HOSTILE, "none", "flip", "flip", "cut", "splice"])
    if harm in HOSTILE:
        parts.insert(chance.randint(1, len(parts)), HOSTILE[harm]())
    archive = folder / f"archive.{kind}"
    archive.write_bytes(_harmed(PACKERS[kind](b"".join(parts) + END), harm, chance))
    precious = folder / "precious"
    precious.write_bytes(b"precious")
    case = f"{harm} in {kind}"

    refused = refusal(lambda: unpack_tar(archive, folder / "deep" / "out", max_bytes=_MOST_UNPACKED))
    require(precious.read_bytes() == b"precious", f"{case}: wrote elsewhere")
    left = sorted(str(path.relative_to(folder / "deep")) for path in folder.glob("deep/**/*") if path.is_file())
    if refused:
        require(not left, f"{case}: half unpacked: {left}")
        require(harm != "none", f"{case}: {refused}")
    else:
        require(harm not in HOSTILE or harm in HARMLESS, f"{case}: unpacked {left}")
        if harm == "none" or kind != "tar":  # what has a checksum
            found = {name: (folder / "deep" / "out" / name).read_bytes() for name in files}
            require(found == files, f"{case}: other bytes")
    shard = archive.rename(folder / "shard.tar")
    listed = refusal(lambda: list_photos(find_sources([shard])))
    require(kind == "tar" or listed, f"{case}: a compressed shard was listed")
    for path in (folder / "deep", shard, precious):
        subprocess.run(["rm", "-rf", str(path)], check=True)
    require(not list(folder.iterdir()), f"{case}: left behind {list(folder.iterdir())}")
    return harm


def _photograph(chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(chance.getrandbits(32)).integers(0, 255, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "jpeg")
    return buffer.getvalue()


def _harmed(data: bytes, harm: str, chance: random.Random) -> bytes:
    changed = bytearray(data)
    if harm == "flip":
        for _ in range(chance.choice([1, 1, 3, 50])):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    elif harm == "cut":
        del changed[chance.randrange(len(changed)) :]
    elif harm == "splice":
        start, size = chance.randrange(len(changed)), chance.randrange(600)
        place = chance.randrange(len(changed))
        changed[place : place + chance.choice([0, size])] = changed[start : start + size]
    return bytes(changed)


def unpack_many(seed: int, count: int) -> list[str]:
    """Failures of `count` archives, each with the seed that makes it again."""
    failures = []
    with TemporaryDirectory() as folder:
        for each in range(seed, seed + count):
            try:
                place = Path(folder) / str(each)
                place.mkdir()
                try_archive(each, place)
            except Flaw as flaw:
                failures.append(f"archive {each}: {flaw}")
    return failures


def unpack_apart(seed: int, count: int) -> list[str]:
    """`unpack_many` in a process of its own, with little memory and little time."""
    command = [sys.executable, "-m", "tests.reliability.downloads", str(seed), str(count)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE + count, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [f"archives {seed} to {seed + count - 1}: no end"]
    if done.returncode:
        return [f"archives {seed} to {seed + count - 1}: {(done.stderr.splitlines() or ['died'])[-1]}"]
    failures: list[str] = json.loads(done.stdout)
    return failures


# --- full disks --------------------------------------------------------------------------------------


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file of this process can become longer than `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def try_full_disk(seed: int, folder: Path) -> None:
    """Run out of space once in each of the four, and try again with room.

    Raises:
        Flaw: something is not as it should be.
    """
    chance = random.Random(seed)
    photos = folder / "photos"
    photos.mkdir()
    for number in range(6):
        (photos / f"{number}.jpg").write_bytes(_photograph(chance))
    content = gzip.compress(b"".join(member(f"{n}.bin", chance.randbytes(4000)) for n in range(9)) + END)
    archive = folder / "archive.tgz"
    archive.write_bytes(content)
    with serve(content, chance, ("none",)) as server:
        calls: dict[str, Callable[[], object]] = {
            "download": lambda: download(server.url, folder / "download" / "file"),
            "unpack": lambda: unpack_tar(archive, folder / "unpack" / "out"),
            "pack": lambda: pack([photos], folder / "pack", shard_mb=0.005, progress=False),
            "cache": lambda: PhotoStore.open([photos], folder / "cache", progress=False),
        }
        for name, call in calls.items():
            place = folder / name
            place.mkdir()
            (place / "earlier").write_bytes(b"earlier")
            limit = chance.randrange(2000)
            with files_limited_to(limit):
                require(refusal(call), f"{name}: wrote beyond {limit} bytes")
            left = {path.name for path in place.iterdir()}
            require(left <= {"earlier", "file.part", "pack.json", "lock"}, f"{name}: left behind {left}")
            require(refusal(call) is None, f"{name}: does not work with room either: {refusal(call)}")
            require((place / "earlier").read_bytes() == b"earlier", f"{name}: an earlier file has changed")
            require(not list(place.glob(".*")), f"{name}: a temporary file is left")


# --- the hub -----------------------------------------------------------------------------------------

_ESCAPE = "model-/../../../../../../../escaped-of-1.safetensors"
_ASK = """
import sys
from gmae_tools import checkpoints
from gmae_tools.errors import GmaeToolsError
for name in sys.argv[1:]:
    try:
        checkpoints.find(name)
        print("fetched")
    except GmaeToolsError as error:
        print(str(error).replace("\\n", "<line>"))
"""


def try_hub(folder: Path) -> None:
    """Fetch from a hub whose names lead elsewhere, whose connection breaks, and which is honest then.

    Raises:
        Flaw: something is not as it should be.
    """
    from tests.oracles.hub import Hub
    from tests.oracles.hub import serve as serve_hub

    hub, home = Hub(), folder / "home"
    files = {"config.json": b"{}", "model.safetensors": bytes(100_000)}
    hub.commit("org/evil", "main", {**files, _ESCAPE: b"gone"})
    hub.commit("org/cut", "main", files)

    def ask(*names: str) -> list[str]:
        surroundings = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
                        "HF_HUB_DOWNLOAD_TIMEOUT": "10", "PYTHONPATH": str(ROOT)}  # fmt: skip
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, *names], env=surroundings, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        require(asked.returncode == 0, f"hub: {(asked.stderr.splitlines() or ['died'])[-1]}")
        return asked.stdout.splitlines()

    with serve_hub(hub):
        for name, trouble in (("evil", None), ("cut", 50_000)):
            hub.break_after = trouble
            (said,) = ask(f"hf://org/{name}")
            refused = said.startswith(f"hf://org/{name}: cannot be fetched") and "<line>" not in said
            require(refused and "cannot be reached" not in said, f"hub, {name}: {said}")
        hub.break_after = None
        (mended,) = ask("hf://org/cut")
        require(mended == "fetched", f"hub, good again: {mended}")
    weights = [path for path in folder.rglob("*") if path.name == "model.safetensors" and "cut" in str(path)]
    require([path.read_bytes() for path in weights] == [files["model.safetensors"]], "hub: other bytes")
    escaped = [path for path in folder.rglob("*escaped*") if not path.is_relative_to(home)]
    require(not escaped, f"hub: wrote {escaped}")


# --- the part ----------------------------------------------------------------------------------------


def campaign(box: TimeBox, seed: int, data: Path | None) -> Iterator[Outcome]:
    """Downloads, archives, full disks, the hub."""
    first = seed * 1_000_003
    yield _repeat("downloads from troubled servers", try_download, box.share(0.3), first)
    yield _try_archives(box.share(0.6), first)
    yield _repeat("full disks while downloading, unpacking, packing, caching", try_full_disk, box.share(0.5), first)
    yield _repeat("fetched from a hub that breaks and lies", lambda _, folder: try_hub(folder), TimeBox(0), first)


def _repeat(tried: str, attempt: Callable[[int, Path], None], box: TimeBox, seed: int) -> Outcome:
    times, failures = 0, []
    while not box.over() or not times:
        with TemporaryDirectory() as folder:
            try:
                attempt(seed + times, Path(folder))
            except Flaw as flaw:
                failures.append(f"seed {seed + times}: {' '.join(str(flaw).split())}")
        times += 1
    return Outcome(PART, tried, times, tuple(failures))


def _try_archives(box: TimeBox, seed: int) -> Outcome:
    times, failures = 0, []
    while not box.over() or not times:
        failures += unpack_apart(seed + times, _BATCH)
        times += _BATCH
    return Outcome(PART, "hostile and damaged archives and shards", times, tuple(failures))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    print(json.dumps(unpack_many(*map(int, sys.argv[1:]))))
