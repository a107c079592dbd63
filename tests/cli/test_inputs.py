"""What every command that takes pictures does with pipes, links, folders, and files that it cannot read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, features

from gmae_tools.cli import main
from gmae_tools.images import read_image

COMMANDS = ("density", "edges", "export", "layers", "reconstruct", "segment", "view")
TABLES = ("density", "layers", "reconstruct", "segment", "view")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    y, x = np.mgrid[:30, :44]
    path = tmp_path / "photos" / "a.png"
    Image.fromarray(np.stack([5 * x, 8 * y, x + y], -1).astype(np.uint8)).save(path)
    return path


def run(command: str, checkpoint: Path, *arguments: object) -> Result:
    options = ["--checkpoint", str(checkpoint), "--max-pixels", "100000"]
    return CliRunner().invoke(main, [command, *map(str, arguments), *options])


@contextmanager
def stdin(data: bytes) -> Iterator[None]:
    """A pipe with so many bytes as the standard input of this process."""
    there, here = os.pipe()
    os.write(here, data)
    os.close(here)
    before = os.dup(0)
    os.dup2(there, 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(there)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_picture_comes_through_a_pipe(command: str, checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    for name in ("-", "/dev/stdin"):
        with stdin(photo.read_bytes()):
            result = run(command, checkpoint, name, "-o", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert result.stdout
    with stdin(b""):
        result = run(command, checkpoint, "-", "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: /dev/stdin: nothing came through the pipe\n"


def test_a_pipeline_of_the_shell(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    gmae_tools = f"{sys.executable} -m gmae_tools export --checkpoint {checkpoint} --format npz"
    for number, line in enumerate((f"cat {photo} | {gmae_tools} -", f"{gmae_tools} <(cat {photo})")):
        out = tmp_path / str(number)
        done = subprocess.run(["bash", "-c", f"{line} -o {out}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(list(out.glob("*.npz"))) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_links_do_not_multiply_pictures(
    command: str, checkpoint: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photo.parent / "up").symlink_to("..")
    (photo.parent / "again.png").symlink_to("a.png")
    monkeypatch.chdir(tmp_path)
    out = tmp_path.parent / f"{tmp_path.name}-out"
    done = run(command, checkpoint, "**/*.png", "photos/a.png", "photos/up/photos/a.png", "-o", out)
    assert done.exit_code == 0, done.output
    assert {path.stem for path in out.iterdir()}.isdisjoint({"again", "a_png", "a_png_2"})
    count = done.stdout.count("photos/a.png")
    assert count == run(command, checkpoint, "photos/a.png", "-o", out).stdout.count("photos/a.png")


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_passed_over_is_named(command: str, checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    for name in ("b.jp2", "c.jp2", "d.ppm", "sub/e.png"):
        (photo.parent / name).parent.mkdir(exist_ok=True)
        (photo.parent / name).write_bytes(photo.read_bytes())
    result = run(command, checkpoint, photo.parent, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stderr == (
        f"warning: {photo.parent}: skipped what is no picture: 2 .jp2, 1 .ppm\n"
        f"warning: {photo.parent}: the folder inside is not entered; -r does that\n"
    )
    deep = run(command, checkpoint, photo.parent, "-r", "-o", photo.parent / "out")
    again = run(command, checkpoint, photo.parent, "-r", "-o", photo.parent / "out")  # its own results are no input
    assert deep.stderr.count("warning") == again.stderr.count("warning") == 1
    assert (deep.exit_code, deep.stdout) == (0, again.stdout)
    assert len(list((photo.parent / "out").glob("e*"))) == len(list((photo.parent / "out").glob("a*")))


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_readable_prints_nothing(command: str, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no picture")
    for form in ("table", "csv", "json") if command in TABLES else (None,):
        options = ["--format", form] if form else []
        result = run(command, checkpoint, tmp_path / "x.jpg", "-o", tmp_path / "out", *options)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"error: {tmp_path / 'x.jpg'}: not a picture in a known format\n"


def test_a_phones_folder(checkpoint: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEIC and AVIF are read; without pillow-heif, it is said what to install, and the rest is done."""
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif: pip install 'gmae-tools[heif]'")
    picture = Image.open(photo)
    heif.from_pillow(picture).save(photo.parent / "IMG_1.HEIC", quality=90)
    others = 1
    if "avif" in features.modules and features.check("avif"):  # Pillow since 11.3
        picture.save(photo.parent / "b.avif", quality=90)
        others = 2
    assert np.abs(read_image(photo.parent / "IMG_1.HEIC").astype(int) - read_image(photo)).mean() < 4
    assert (
        run("layers", checkpoint, photo.parent, "-o", tmp_path / "out", "--k", "all").stdout.count("all") == others + 1
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    result = run("layers", checkpoint, photo.parent, "-o", tmp_path / "out", "--k", "all")
    assert (result.exit_code, result.stdout.count("all")) == (1, others)
    message = "a HEIC picture; to read it, run pip install 'gmae-tools[heif]'"
    assert result.stderr == f"error: {photo.parent / 'IMG_1.HEIC'}: {message}\n"


@pytest.mark.parametrize("command", ["layers", "edges", "reconstruct"])
def test_an_empty_name_is_not_the_current_folder(command: str, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photo.parent)
    result = CliRunner().invoke(main, [command, "", "-o", "out"])
    assert result.exit_code == 1
    assert "error: an empty name was given in the place of a file or folder; name one" in result.stderr
