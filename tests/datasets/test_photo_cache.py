"""The folder that all runs keep decoded photographs in: who writes there, what is listed, what is removed."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner, Result

from gmae_tools.cli import main
from gmae_tools.datasets.photo_cache import ENVIRONMENT, PhotoCache, cache_folder
from gmae_tools.errors import CannotWriteError, GmaeToolsError
from gmae_tools.system.files import take_turns

A, B = "a" * 24, "b" * 24  # contents
STATE = "9" * 24


def write(file: IO[bytes]) -> None:
    file.write(bytes(2_000_000))


@pytest.fixture
def cache(tmp_path: Path) -> PhotoCache:
    """Two caches, of which the first was used with two places of its photographs, last with `there`."""
    cache = PhotoCache(tmp_path / "cache")
    for number, (content, data) in enumerate([(A, ["/here"]), (B, ["/other", "/more"]), (A, ["/there"])]):
        cache.make(cache.path_of(content), write)
        cache.remember(str(number) * 24, cache.path_of(content), 7, data)
        os.utime(cache.folder / f"{str(number) * 24}.known", (1e9 + 60 * number,) * 2)
    return cache


def test_the_folder_is_the_one_chosen_or_of_the_environment_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder("~/chosen") == Path("/home/me/chosen")
    monkeypatch.setenv(ENVIRONMENT, "/environment")
    assert cache_folder() == Path("/environment")
    monkeypatch.delenv(ENVIRONMENT)
    assert cache_folder() == Path("/xdg/gmae-tools/photographs")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/me/.cache/gmae-tools/photographs")


def test_a_state_finds_its_cache_as_long_as_it_is_there(cache: PhotoCache) -> None:
    assert cache.find("0" * 24) == cache.find("2" * 24) == cache.path_of(A)
    assert cache.find("3" * 24) is None
    cache.path_of(A).unlink()
    assert cache.find("0" * 24) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cache": 3}', '{"cache": "../../x.cache", "photographs": 1}'])
def test_a_damaged_record_is_as_none(cache: PhotoCache, text: str) -> None:
    (cache.folder / f"{STATE}.known").write_text(text)
    assert cache.find(STATE) is None
    assert [entry.key for entry in cache.entries()] == [A, B]


def test_what_is_there_is_not_made_again(cache: PhotoCache) -> None:
    def refuse(file: IO[bytes]) -> None:
        raise AssertionError("made again")

    assert not cache.make(cache.path_of(A), refuse)


KILLED = """
import os, signal, sys
from pathlib import Path
from gmae_tools.datasets.photo_cache import PhotoCache
cache = PhotoCache(Path(sys.argv[1]))
cache.make(cache.path_of("c" * 24), lambda file: (file.write(bytes(3_000_000)), file.flush(),
                                                  os.kill(os.getpid(), signal.SIGKILL)))
"""


def test_what_a_killed_process_left_is_shown_and_removed_by_the_next(cache: PhotoCache) -> None:
    for clear in (lambda: cache.make(cache.path_of("c" * 24), write), lambda: cache.remove(["all"])):
        for path in cache.folder.glob("photos-c*"):
            path.unlink()
        killed = subprocess.run([sys.executable, "-c", KILLED, str(cache.folder)], check=False)
        assert killed.returncode == -9
        assert cache.unfinished_size() == 3_000_000 and not cache.path_of("c" * 24).exists()
        clear()
        assert cache.unfinished_size() == 0 and not list(cache.folder.glob(".*.tmp*"))


def test_another_process_that_builds_is_waited_for_and_left_alone(
    cache: PhotoCache, caplog: pytest.LogCaptureFixture
) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def slowly(file: IO[bytes]) -> None:
        file.write(bytes(1000))
        file.flush()
        at_work.set()
        assert go_on.wait(20)

    path = cache.path_of("c" * 24)
    made: dict[str, bool] = {}
    first = threading.Thread(target=lambda: made.update(first=cache.make(path, slowly)))
    second = threading.Thread(target=lambda: made.update(second=cache.make(path, write)))
    with caplog.at_level(logging.WARNING):
        first.start()
        assert at_work.wait(20)
        second.start()
        while not caplog.records:
            time.sleep(0.01)
    assert "another process is decoding photographs" in caplog.text
    assert len(cache.remove(["all"])) == 2
    assert cache.unfinished_size() == 1000  # not that of who is at work
    go_on.set()
    for thread in (first, second):
        thread.join()
    assert made == {"first": True, "second": False} and path.stat().st_size == 1000


def test_without_locks_it_goes_on_and_removes_only_what_is_old(
    cache: PhotoCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    old, new = (cache.folder / f".photos-{A}.{digit * 8}.tmp.cache" for digit in "12")
    for path in (old, new):
        path.write_bytes(b"part")
    os.utime(old, (0, 0))
    assert cache.make(cache.path_of("c" * 24), write)
    assert new.exists() and not old.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(cache: PhotoCache) -> None:
    def full(file: IO[bytes]) -> None:
        file.write(bytes(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CannotWriteError, match=r"No space left.*datasets cache.*--cache DIR") as caught:
        cache.make(cache.path_of("c" * 24), full)
    assert "\n" not in str(caught.value) and cache.unfinished_size() == 0


def test_a_folder_that_cannot_be_written_is_read_all_the_same(cache: PhotoCache) -> None:
    cache.folder.chmod(0o500)
    try:
        if os.access(cache.folder, os.W_OK):
            pytest.skip("needs a user other than root, who may write anywhere")
        assert cache.find("0" * 24) == cache.path_of(A)
        assert not cache.make(cache.path_of(A), write)
        cache.remember(STATE, cache.path_of(A), 7, ["/here"])
        with pytest.raises(CannotWriteError, match="name another folder with --cache"):
            cache.make(cache.path_of("c" * 24), write)
    finally:
        cache.folder.chmod(0o700)


def test_turns_end_with_the_context(tmp_path: Path) -> None:
    for _ in range(2):
        with take_turns(tmp_path / "lock", None) as first, take_turns(tmp_path / "lock", None) as second:
            assert first and not second


# --- the command ------------------------------------------------------------------------------------------


def invoke(cache: PhotoCache, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["datasets", "cache", "--cache", str(cache.folder), *arguments])


def test_lists_what_is_there(cache: PhotoCache) -> None:
    result = invoke(cache, "--format", "csv")
    first, second = csv.DictReader(io.StringIO(result.stdout))
    assert (first["key"], first["mb"], first["photographs"], first["data"]) == (A, "2.0", "7", "/there")
    assert (second["key"], second["data"]) == (B, "/other, /more")
    assert first["used"] > second["used"]
    assert result.stderr == f"4.0 MB in {cache.folder}\n"


def test_nothing_there_is_no_error_and_makes_nothing(tmp_path: Path) -> None:
    result = invoke(PhotoCache(tmp_path / "none"))
    assert (result.exit_code, result.stderr) == (0, f"0.0 MB in {tmp_path / 'none'}\n")
    assert invoke(PhotoCache(tmp_path / "none"), "--remove", "all").exit_code == 0
    assert not (tmp_path / "none").exists()


def test_removes_one_by_the_beginning_of_its_key_or_all(cache: PhotoCache) -> None:
    result = invoke(cache, "--remove", "bb")
    assert result.stderr.startswith("1 removed, 2.0 MB\n") and B not in result.stdout and A in result.stdout
    assert not cache.path_of(B).exists() and len(list(cache.folder.glob("*.known"))) == 2
    assert invoke(cache, "--remove", "all").exit_code == 0
    assert [path.name for path in cache.folder.iterdir()] == ["lock"]


@pytest.mark.parametrize(("key", "message"), [("d", "no cache begins with 'd'"), ("", "no cache begins with ''")])
def test_a_key_of_none_is_refused_and_nothing_removed(cache: PhotoCache, key: str, message: str) -> None:
    result = invoke(cache, "--remove", "bb", "--remove", key)
    assert result.exit_code == 1 and message in result.stderr and len(cache.entries()) == 2


def test_a_key_of_several_is_refused(cache: PhotoCache) -> None:
    cache.make(cache.path_of("a" * 23 + "0"), write)
    with pytest.raises(GmaeToolsError, match="2 caches begin with 'aa'"):
        cache.remove(["aa"])
