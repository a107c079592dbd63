"""Finding pictures: each once whatever links lead to it, and nothing passed over without a word."""

from __future__ import annotations

import logging
import os
import tarfile
from pathlib import Path

import pytest

from gmae_tools.datasets.photos import find_sources, list_photos
from gmae_tools.errors import GmaeToolsError
from gmae_tools.finding import find_images, matching_paths, walk


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "b.jpg",
        "a.PNG",
        "notes.txt",
        "._a.png",
        "c[1].webp",
        "sub/d.tiff",
        "sub/e.jpeg",
        "folder.jpg/f.bmp",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def knot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photographs, one of them below, links to both, and links to folders that lead round in circles."""
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "top.jpg").touch()
    (tmp_path / "b" / "deep" / "low.jpg").touch()
    (tmp_path / "again.jpg").symlink_to("top.jpg")
    for number in range(3):  # Python's own `**` goes round 3 ** 40 times
        (tmp_path / "b" / f"up{number}").symlink_to("..")
    (tmp_path / "alias").symlink_to("b/deep")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("gallery")
@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["."], ["a.PNG", "b.jpg", "c[1].webp"]),
        (["sub", "b.jpg"], ["sub/d.tiff", "sub/e.jpeg", "b.jpg"]),
        (["*"], ["a.PNG", "b.jpg", "c[1].webp"]),
        (["*.jpg", "*.jpg", "b.jpg"], ["b.jpg"]),
        (["**/*.[jt]*"], ["b.jpg", "sub/d.tiff", "sub/e.jpeg"]),
        (["**"], ["a.PNG", "b.jpg", "c[1].webp", "folder.jpg/f.bmp", "sub/d.tiff", "sub/e.jpeg"]),
        (["s*/**/*.tiff"], ["sub/d.tiff"]),
        (["c[1].webp"], ["c[1].webp"]),
        (["notes.txt"], ["notes.txt"]),  # named outright: to be read, and refused, by itself
    ],
)
def test_find_images(inputs: list[str], expected: list[str]) -> None:
    assert [path.as_posix() for path in find_images(inputs)] == expected


@pytest.mark.parametrize("inputs", [[], ["nowhere.jpg"], ["*.gif"], ["*.txt"], ["b.jpg", "empty"], ["**/*.gif"]])
def test_an_input_that_matches_nothing(gallery: Path, inputs: list[str]) -> None:
    (gallery / "empty").mkdir()
    with pytest.raises(GmaeToolsError) as caught:
        find_images(inputs)
    assert "\n" not in str(caught.value)
    assert not inputs or inputs[-1] in str(caught.value)


@pytest.mark.parametrize("pattern", ["**/*.jpg", "{}/**/*.jpg", "**", "[a-c]*/../**/*.jpg"])
def test_links_in_circles_give_every_photograph_once(knot: Path, pattern: str) -> None:
    found = find_images([pattern.format(knot)])
    assert sorted(path.resolve() for path in found) == sorted([knot / "top.jpg", knot / "b" / "deep" / "low.jpg"])
    assert len(found) == 2


def test_two_names_of_one_file_are_one_picture(knot: Path) -> None:
    assert find_images(["top.jpg", "again.jpg", knot / "b" / "up0" / "top.jpg", "."]) == [Path("top.jpg")]
    found = find_images(["."], recursive=True)
    assert [path.resolve() for path in found] == [knot / "top.jpg", knot / "b" / "deep" / "low.jpg"]
    assert [source.path for source in find_sources(["."])] == [knot / "b" / "deep" / "low.jpg", knot / "top.jpg"]


def test_links_to_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    (tmp_path / "far" / "in").mkdir(parents=True)
    (tmp_path / "far" / "in" / "a.jpg").touch()
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "there").symlink_to("../far")
    place = tmp_path / "near" / "there" / "in"
    assert find_images([tmp_path / "near"], recursive=True) == [place / "a.jpg"]
    assert matching_paths(tmp_path / "near" / "**" / "*.jpg") == [place / "a.jpg"]


@pytest.mark.usefixtures("gallery")
def test_what_is_skipped_is_counted_by_suffix(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("x.jp2", "y.JP2", "z.ppm", "README", ".hidden"):
        Path(name).touch()
    find_images(["."])
    counts = "2 .jp2, 1 without suffix, 1 .txt, 1 .ppm"
    skipped, folders = caplog.messages
    assert skipped.startswith(".: skipped what is no picture: 2 .jp2, ")
    assert sorted(skipped.partition("picture: ")[2].split(", ")) == sorted(counts.split(", "))
    assert folders == ".: 2 folders inside are not entered; -r does that"
    caplog.clear()
    find_images(["sub"])
    find_images(["b.jpg", "notes.txt"])
    assert caplog.messages == []


@pytest.mark.usefixtures("gallery")
def test_recursion_leaves_out_hidden_folders_and_results(caplog: pytest.LogCaptureFixture) -> None:
    for folder in (".git", "layers"):
        Path(folder).mkdir()
        (Path(folder) / "x.png").touch()
    found = find_images(["."], recursive=True, without=Path("layers"))
    names = ["a.PNG", "b.jpg", "c[1].webp", "folder.jpg/f.bmp", "sub/d.tiff", "sub/e.jpeg"]
    assert [path.as_posix() for path in found] == names
    assert caplog.messages == [".: skipped what is no picture: 1 .txt"]
    assert find_images(["layers"], without=Path("layers")) == [Path("layers/x.png")]


def test_a_folder_of_folders_says_how_to_enter_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(GmaeToolsError, match=r"no pictures here; .*; -r also looks into the folder inside"):
        find_images([tmp_path])


def test_pipes_in_folders_are_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jpg").touch()
    os.mkfifo(tmp_path / "b.jpg")
    assert find_images([tmp_path]) == [tmp_path / "a.jpg"]
    assert [source.name for source in find_sources([tmp_path])] == ["a.jpg"]
    assert len(caplog.messages) == 2 and all("1 .jpg" in message for message in caplog.messages)
    with pytest.raises(GmaeToolsError, match="a pipe or a device, which cannot be read twice"):
        find_sources([tmp_path / "b.jpg"])


def test_trees_and_shards_say_what_they_skip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.heic", "deep/c.jp2", "deep/d.txt"):
        (tmp_path / "data" / name).touch()
    with tarfile.open(tmp_path / "data" / "e.tar", "w") as tar:
        for name in ("f.jpg", "f.json", "._f.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    with caplog.at_level(logging.WARNING):
        photos = list_photos(find_sources([tmp_path / "data"]))
    assert [photo.name for photo in photos] == ["a.jpg", "deep/b.heic", "e.tar/f.jpg"]
    tree, shards = caplog.messages
    assert tree.endswith(": skipped what is no picture, nor a .tar shard: 1 .jp2, 1 .txt")
    assert shards == "shards: skipped what is no picture: 1 .json"


def test_walk_enters_no_folder_twice(knot: Path) -> None:
    places = [folder.resolve() for folder, _ in walk(knot)]
    assert sorted(places) == sorted([knot, knot / "b", knot / "b" / "deep"])
