"""Labels and parts of photographs: from folders and names, in trees and shards, always the same."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmae_tools.datasets.labelled import describe, find_labelled, label_of
from gmae_tools.errors import GmaeToolsError


def picture() -> bytes:
    text = io.BytesIO()
    Image.new("RGB", (8, 8)).save(text, "PNG")
    return text.getvalue()


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture())


def names_of(label: str, count: int, pattern: str = "{label}/{number:04}.png") -> list[str]:
    return [pattern.format(label=label, number=number) for number in range(count)]


def test_parts_that_are_there_are_taken(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "val/cat/1.png", "val/owl/7.png")
    data = find_labelled([tmp_path], "folder")
    assert data.classes == ["cat", "dog", "owl"]
    found = {
        (photo.path.relative_to(tmp_path.resolve()).as_posix(), data.classes[label], bool(part))
        for photo, label, part in zip(data.photos, data.labels, data.is_validation, strict=True)
    }
    assert found == {
        ("train/cat/1.png", "cat", False), ("train/dog/1.png", "dog", False), ("train/dog/2.png", "dog", False),
        ("val/cat/1.png", "cat", True), ("val/owl/7.png", "owl", True),
    }  # fmt: skip
    assert data.split == "train/ and val/" and data.largest_class == 0.5
    assert describe(data) == "3 to learn from, 2 for validation; cat 2, dog 2, owl 1"


def test_a_fifth_is_for_validation_by_name(tmp_path: Path) -> None:
    put(tmp_path / "a", *names_of("cat", 150), *names_of("dog", 150))
    data = find_labelled([tmp_path / "a"], "folder")
    assert 0.13 < data.is_validation.mean() < 0.27
    held = {photo.name for photo, part in zip(data.photos, data.is_validation, strict=True) if part}
    put(tmp_path / "a", *names_of("owl", 20))
    more = find_labelled([tmp_path / "a"], "folder")
    assert held <= {photo.name for photo, part in zip(more.photos, more.is_validation, strict=True) if part}


def test_shards_with_labels_in_names(tmp_path: Path) -> None:
    for shard, label in (("0.tar", "in1k"), ("1.tar", "nette-2")):
        with tarfile.open(tmp_path / shard, "w") as tar:
            for name in names_of(label, 30, "{label}-{number}.png"):
                member = tarfile.TarInfo(name)
                member.size = len(picture())
                tar.addfile(member, io.BytesIO(picture()))
    data = find_labelled([tmp_path], "prefix")
    assert data.classes == ["in1k", "nette-2"] and np.bincount(data.labels).tolist() == [30, 30]
    with pytest.raises(GmaeToolsError, match="try --labels prefix"):
        find_labelled([tmp_path], "folder")


def test_limit_chooses_the_same_and_leaves_both_parts(tmp_path: Path) -> None:
    put(tmp_path, *names_of("cat", 100), *names_of("dog", 100))
    few, more = (find_labelled([tmp_path], "folder", limit) for limit in (60, 90))
    assert len(few.photos) == 60 and {photo.name for photo in few.photos} <= {photo.name for photo in more.photos}
    assert 3 < few.is_validation.sum() < 25 and len(set(few.labels.tolist())) == 2
    assert len({few.fingerprint, more.fingerprint, find_labelled([tmp_path], "folder", 60).fingerprint}) == 2


def test_fingerprint_sees_a_photograph_that_changed(tmp_path: Path) -> None:
    put(tmp_path, *names_of("cat", 20), *names_of("dog", 20))
    before = find_labelled([tmp_path], "folder").fingerprint
    (tmp_path / "cat" / "0003.png").write_bytes(picture() + b" ")
    assert find_labelled([tmp_path], "folder").fingerprint != before


@pytest.mark.parametrize(
    ("name", "labelling", "label"),
    [
        ("cat/1.jpg", "folder", "cat"),
        ("x.tar/cat/1.jpg", "folder", "cat"),
        ("x.tar/caltech-12.webp", "prefix", "caltech"),
        ("a-b/c-d-1.jpg", "prefix", "c-d"),
    ],
)
def test_label_of(name: str, labelling: str, label: str) -> None:
    assert label_of(name, labelling) == label  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "labelling"),
    [("1.jpg", "folder"), ("x.tar/1.jpg", "folder"), ("cat/1.jpg", "prefix"), ("-1.jpg", "prefix")],
)
def test_no_label(name: str, labelling: str) -> None:
    with pytest.raises(GmaeToolsError, match="try --labels"):
        label_of(name, labelling)  # type: ignore[arg-type]


def test_what_cannot_be_probed(tmp_path: Path) -> None:
    put(tmp_path, *names_of("cat", 20))
    with pytest.raises(GmaeToolsError, match="all photographs are 'cat'"):
        find_labelled([tmp_path], "folder")
    put(tmp_path / "few", "cat/1.png", "dog/1.png")
    with pytest.raises(GmaeToolsError, match="2 photographs are too few"):
        find_labelled([tmp_path / "few"], "folder")
