"""Files are written whole or not at all, on a full disk too; one run at a time writes into a folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gmae_tools.errors import CannotWriteError, GmaeToolsError
from gmae_tools.system import files
from gmae_tools.system.files import (
    atomic_path,
    check_writable,
    file_sha256,
    remove_leftovers,
    sole_run,
    still_there,
)

LIMIT = 1 << 14  # bytes of a file on the disk that is full
NOISE = np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)  # more bytes than that, however packed


@contextmanager
def full_disk() -> Iterator[None]:
    """What is written beyond LIMIT bytes of a file fails."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


def test_a_file_appears_whole(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.b.txt") as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".txt" and temporary.name.startswith(".a.b.")
        temporary.write_text("half")
        assert not (tmp_path / "a.b.txt").exists()
        temporary.write_text("whole")
    assert (tmp_path / "a.b.txt").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.b.txt"]


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), GmaeToolsError("theirs"), KeyboardInterrupt()])
def test_a_file_that_is_not_finished_does_not_appear(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a.txt").write_text("before")

    def write_half() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert caught.value is error, "what is no fault of the disk's stays as it is"
    assert (tmp_path / "a.txt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(NOISE.tobytes()),
    "numpy": lambda path: np.save(path.open("wb"), NOISE),
    "pillow": lambda path: Image.fromarray(NOISE).save(path, "png"),
    "torch": lambda path: torch.save({"a": torch.from_numpy(NOISE)}, path),
    "safetensors": lambda path: save_file({"a": torch.from_numpy(NOISE)}, path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_message_whatever_the_writer_raises(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "a.bin"
    target.write_text("before")
    with full_disk(), pytest.raises(CannotWriteError) as caught, atomic_path(target) as temporary:
        WRITERS[writer](temporary)
    assert str(caught.value) == f"{target}: cannot be written (File too large); see to its disk, and start again"
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_folder_that_is_gone_is_one_message(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(CannotWriteError, match=r"a\.txt: cannot be written \(No such file"):  # noqa: SIM117
        with atomic_path(folder / "a.txt"):
            folder.rename(tmp_path / "gone")
    assert not folder.exists()


def test_whether_a_folder_can_be_written(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(CannotWriteError, match=r"missing: cannot write there \(No such file"):
        check_writable(tmp_path / "missing")


def test_whether_a_folder_is_still_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    check = still_there(folder)
    check()
    folder.rename(tmp_path / "gone")
    with pytest.raises(CannotWriteError, match="cannot write there"):
        check()
    folder.mkdir()
    with pytest.raises(CannotWriteError, match="folder: has vanished, and with it what was written before"):
        check()


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    left = [".a.0123abcd.tmp.png", ".a.b.0123abcd.tmp", "inner/.a.0123abcd.tmp.png"]
    kept = [".a.tmp", ".a.0123abcd.png", "a.0123abcd.tmp.png", ".a.0123abcx.tmp.png", ".hidden"]
    for name in left + kept:
        (tmp_path / name).touch()
    remove_leftovers([tmp_path])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "inner"])
    remove_leftovers([tmp_path / "inner"])
    assert not list((tmp_path / "inner").iterdir())


def test_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_TURNOVER", 0.0)
    with (
        sole_run(tmp_path),
        pytest.raises(GmaeToolsError, match="another run is writing there; wait for its end"),
        sole_run(tmp_path),
    ):
        pass
    with sole_run(tmp_path) as descriptor:
        assert not os.get_inheritable(descriptor)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), sole_run(tmp_path):
        pass
    assert caplog.messages == [
        f"{tmp_path} cannot be locked (No locks available): see that no other run writes there"
    ]  # fmt: skip


def test_sha256_of_a_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than a block
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
