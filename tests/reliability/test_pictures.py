"""The campaign of damaged pictures and bombs, in small; and that it notices what it should."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import PIL
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def part() -> ModuleType:
    return importlib.import_module("tests.reliability.pictures")


def test_mutated_files(part: ModuleType, tmp_path: Path) -> None:
    outcomes = list(part.mutations(part.TimeBox(60), 1, 600, tmp_path))
    assert [outcome.tried for outcome in outcomes] == [f"mutated {kind} files" for kind in part.FORMATS]
    for outcome in outcomes:
        assert (outcome.times, outcome.failures) == (100, ()), outcome
        assert "read" in outcome.note and "refused" in outcome.note  # neither all harmless nor all hopeless


def test_the_same_numbers_are_the_same_files(part: ModuleType) -> None:
    files = part.seeds()
    made = [part.mutation(files, 3, number) for number in range(60)]
    assert made == [part.mutation(part.seeds(), 3, number) for number in range(60)]
    assert made != [part.mutation(files, 4, number) for number in range(60)]


def test_seeds_can_be_read(part: ModuleType, tmp_path: Path) -> None:
    for kind, files in part.seeds().items():
        for data in files:
            (tmp_path / "x").write_bytes(data)
            assert part.try_file(tmp_path / "x") == part.Attempt("refused" if unreadable(tmp_path / "x") else "read"), (
                kind
            )


def unreadable(path: Path) -> bool:
    """Pillow before 13 cannot read the uncompressed YCbCr TIFF that it writes."""
    if int(PIL.__version__.split(".")[0]) >= 13:
        return False
    with Image.open(path) as image:
        ycbcr = getattr(image, "tag_v2", {}).get(262) == 6  # PhotometricInterpretation
        return ycbcr and image.info["compression"] == "raw"


def test_mended_checksums_are_right(part: ModuleType, tmp_path: Path) -> None:
    data = part.png(5, 5, 8, 2, (b"tEXt", b"a\0b"))
    spoilt = data.replace(b"a\0b", b"a\0c")
    assert part.with_checksums(data) == data
    assert part.with_checksums(spoilt) == part.png(5, 5, 8, 2, (b"tEXt", b"a\0c")) != spoilt


def test_bombs(part: ModuleType, tmp_path: Path) -> None:
    (outcome,) = part.bombs(part.TimeBox(60), tmp_path)
    assert (outcome.times, outcome.failures) == (len(part.BOMBS), ())
    assert int(outcome.note.split()[-2]) < 500  # MB


def test_pictures_as_large_as_is_allowed(part: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: part.LARGEST[name] for name in ("grey PNG of 16 bits", "RGBA WebP")}
    monkeypatch.setattr(part, "LARGEST", few)
    (outcome,) = part.largest(part.TimeBox(60), tmp_path, 700)
    assert (outcome.times, outcome.failures) == (2, ())


def test_what_a_command_takes_is_measured(part: ModuleType) -> None:
    run = part.measured("--version")
    assert run.code == 0 and run.errors == "" and run.seconds > 0
    assert 5e6 < run.peak < 1e9
    assert part.measured("layers").code == 2


def test_a_peak_is_that_of_the_process_itself(part: ModuleType) -> None:
    """Not of the one that has started it, with whose peak `getrusage` begins on Linux."""
    before = part.measured("--version").peak
    ballast = bytearray(os.urandom(1 << 20) * 300)
    assert part.measured("--version").peak < before + 50e6
    del ballast


# --- what it should notice -------------------------------------------------------------------------


def misbehave(number: int) -> object:
    """Attempts that go wrong in all ways, each in a worker of its own or after one that did."""
    from tests.reliability.workers import Attempt

    if number == 1:
        os.abort()
    if number == 2:
        time.sleep(60)
    if number == 3:
        print("a message", file=sys.stderr, flush=True)
    if number == 4:
        bytes(4_000_000_000)
    return Attempt("done", "wrong" if number == 5 else "")


def test_crashes_hangs_messages_and_greed_are_noticed(part: ModuleType, tmp_path: Path) -> None:
    tally = part.attempts(
        misbehave, lambda number: f"kind {number % 2}", 8, part.TimeBox(60), tmp_path, memory=10**9, seconds=1.0
    )
    assert sum(tally.answers.values()) == 8 and tally.times("kind 0") == tally.times("kind 1") == 4
    assert sorted(failure for _, failure in tally.failures) == [
        "number 1 (kind 1): its process ended with -6",
        "number 2 (kind 0): no answer in 1 s",
        "number 3 (kind 1): printed 'a message'",
        f"number 4 (kind 0): MemoryError:  (test_pictures.py:{line_of('bytes(4_')})",
        "number 5 (kind 1): wrong",
    ]
    assert tally.note("kind 0") == "done 2, hung 1, raised 1"


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if line.strip().startswith(text))


def test_nothing_is_tried_when_the_time_is_over(part: ModuleType, tmp_path: Path) -> None:
    assert not part.attempts(misbehave, str, 8, part.TimeBox(0), tmp_path, memory=10**9, seconds=1.0).answers


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("{path}: damaged picture", ""),
        ("damaged picture", "does not begin with the file"),
        ("{path}: two\nlines", "not a line"),
        ("{path}: \x1b[2J", "not a line"),
        ("{path}: " + "x" * 600, "not a line"),
    ],
)
def test_faults_of_a_line(part: ModuleType, tmp_path: Path, message: str, fault: str) -> None:
    found = part.fault_of(message.format(path=tmp_path), tmp_path)
    assert found.startswith(fault) and bool(found) == bool(fault)


def test_a_bomb_that_is_read_is_noticed(part: ModuleType, tmp_path: Path) -> None:
    harmless = part.Bomb("harmless", lambda: part.png(5, 5, 8, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "BOMBS", (harmless,))
        assert part.try_bomb(["harmless"], tmp_path, 0) == part.Attempt("read", "harmless: was read")


def test_wrong_pictures_are_noticed(part: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (5, 5)).save(tmp_path / "x.png")
    monkeypatch.setattr(part, "decode_photo", lambda *_: "two\nlines")
    assert part.try_file(tmp_path / "x.png").failure.startswith("photograph store: not a line")
    monkeypatch.setattr(part, "read_image", lambda *_: part.np.zeros((5, 5), part.np.uint8))
    assert part.try_file(tmp_path / "x.png").failure == "returned uint8 (5, 5)"


@pytest.mark.parametrize(
    ("peaks", "code", "failures"),
    [
        ([500, 400, 449], 0, [(), ()]),
        ([2500, 400, 401], 0, [("peak 2500 MB, 3 s",), ()]),
        ([500, 400, 451], 0, [(), ("peak 400 MB for 10 pictures, 451 MB for 200",)]),
        ([500, 400, 400], 1, [("exit code 1: error",), 2 * ("exit code 1: error",)]),
    ],
)
def test_greedy_and_failing_commands_are_noticed(
    part: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peaks: list[int], code: int, failures: object
) -> None:
    monkeypatch.setattr(part.TimeBox, "left", lambda _: 60.0)
    runs = iter(part.Measured(code, "error", 3.0, peak * 1_000_000) for peak in peaks)
    monkeypatch.setattr(part, "measured", lambda *_: next(runs))
    outcomes = list(part.command_line(part.TimeBox(61), tmp_path, (6, 8), (10, 10_000)))
    assert [outcome.failures for outcome in outcomes] == failures
    assert len(list((tmp_path / "small").iterdir())) == 200  # in 3 s ten, in a minute so many
