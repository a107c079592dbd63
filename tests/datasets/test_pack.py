"""Packing photographs: the same shards whatever happened on the way, none too large, and readable as training data."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import skimage
from click.testing import CliRunner, Result
from PIL import Image, features

from gmae_tools.cli import main
from gmae_tools.datasets import pack as pack_module
from gmae_tools.datasets.pack import pack
from gmae_tools.datasets.photos import PhotoStore, find_sources, list_photos
from gmae_tools.errors import GmaeToolsError

needs_webp = pytest.mark.skipif(not features.check("webp"), reason="needs a Pillow with WebP")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty details of a photograph in two folders, two of one stem; two files that are none."""
    folder = tmp_path_factory.mktemp("photographs")
    photo = Image.open(Path(skimage.data_dir) / "astronaut.png").convert("RGB")
    for i in range(30):
        place = folder / ("a" if i < 20 else "b")
        place.mkdir(exist_ok=True)
        photo.crop((10 * i, 5 * i, 10 * i + 200, 5 * i + 150)).save(place / f"{i:02}.jpg", quality=95)
    photo.crop((0, 0, 50, 80)).save(folder / "b" / "20.png")
    (folder / "a" / "05.jpg").write_text("no photograph")
    (folder / "b" / "zz.jpg").write_bytes(b"")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def members(folder: Path) -> list[list[str]]:
    shards = []
    for path in sorted(folder.glob("photos-*.tar")):
        with tarfile.open(path) as tar:
            shards.append(tar.getnames())
    return shards


@pytest.fixture(scope="module")
def packed(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    result = pack([photographs], out, shard_mb=0.03, max_side=96, kind="jpeg", progress=False)
    assert (result.photographs, result.skipped) == (30, 2)
    assert result.example is not None and result.example[0] == "a/05.jpg"
    assert result.shards == len(members(out)) > 3
    return out


def test_all_photographs_in_order_with_names_of_their_own(photographs: Path, packed: Path) -> None:
    names = [name for shard in members(packed) for name in shard]
    expected = [f"{'a' if i < 20 else 'b'}/{i:02}.jpg" for i in range(30) if i not in (5, 20)]
    assert names == [*expected[:19], "b/20.jpg.jpg", "b/20.png.jpg", *expected[19:]]


def test_shards_are_full_but_not_over(packed: Path) -> None:
    sizes = [path.stat().st_size for path in sorted(packed.glob("*.tar"))]
    assert max(sizes) <= 30_000
    assert min(sizes[:-1]) > 30_000 - 2 * tarfile.RECORDSIZE  # the padding, and a photograph


def test_what_was_packed_is_what_training_reads(photographs: Path, packed: Path, tmp_path: Path) -> None:
    store = PhotoStore.open([packed], tmp_path, progress=False)
    originals = PhotoStore.open([photographs], tmp_path, max_side=96, progress=False)
    assert len(store) == 30 and store.skipped == []
    np.testing.assert_array_equal(np.sort(store.shapes, 0), np.sort(originals.shapes, 0))
    name = next(i for i, name in enumerate(store.names) if name.endswith("a/07.jpg"))
    difference = store.photo(name).astype(float) - originals.photo(originals.names.index("a/07.jpg"))
    assert np.abs(difference).mean() < 5


# Dies by kill -9 while it encodes the photograph that is named.
KILLED = """
import os, signal, sys
from pathlib import Path
from gmae_tools.datasets import pack
encode = pack._encode
def dying_encode(photo, *arguments):
    if photo.name == "a/17.jpg":
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(photo, *arguments)
pack._encode = dying_encode
import gmae_tools.datasets.photos as photos
photos.DECODING_CHUNK = 4
pack.pack([sys.argv[1]], Path(sys.argv[2]), shard_mb=0.03, max_side=96, kind="jpeg", progress=False)
"""


def test_killed_and_called_again_it_makes_the_same_shards(photographs: Path, packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(photographs), str(out)], check=False)
    assert killed.returncode == -9
    there = len(members(out))
    assert 0 < there < len(members(packed))
    result = pack([photographs], out, shard_mb=0.03, max_side=96, kind="jpeg", progress=False)
    assert (result.photographs, result.skipped, result.shards) == (30, 2, len(members(packed)))
    assert contents(out) == contents(packed)


def test_packed_already_nothing_is_decoded_but_what_cannot_be(
    photographs: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(packed)
    asked: list[str] = []
    encode = pack_module._encode
    monkeypatch.setattr(pack_module, "_encode", lambda photo, *rest: asked.append(photo.name) or encode(photo, *rest))
    result = pack([photographs], packed, shard_mb=0.03, max_side=96, kind="jpeg", progress=False)
    assert (result.photographs, result.skipped) == (30, 2)
    assert asked == ["b/zz.jpg"]
    assert contents(packed) == before


@needs_webp
def test_webp_is_smaller(photographs: Path, packed: Path, tmp_path: Path) -> None:
    pack([photographs], tmp_path / "out", max_side=96, progress=False)
    assert [name.endswith(".webp") for shard in members(tmp_path / "out") for name in shard] == [True] * 30
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert size < 0.9 * sum(path.stat().st_size for path in packed.glob("*.tar"))


def test_a_photograph_too_large_has_a_shard_of_its_own(photographs: Path, tmp_path: Path) -> None:
    result = pack([photographs / "b"], tmp_path, shard_mb=0.001, kind="jpeg", progress=False)
    assert result.shards == result.photographs == 11


def refused(photographs: Path, out: Path, **settings: object) -> str:
    with pytest.raises(GmaeToolsError) as caught:
        pack([photographs], out, progress=False, **settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_lies_in_the_folder_is_not_mixed_with_other_shards(
    photographs: Path, packed: Path, tmp_path: Path
) -> None:
    before = contents(packed)
    assert "other photographs or settings" in refused(photographs, packed, shard_mb=0.03, max_side=64, kind="jpeg")
    assert contents(packed) == before
    (tmp_path / "photos-00000.tar").write_bytes(b"")
    assert "other photographs or settings" in refused(photographs, tmp_path)


def test_a_gap_between_shards_is_refused(photographs: Path, tmp_path: Path) -> None:
    pack([photographs], tmp_path, shard_mb=0.03, max_side=96, kind="jpeg", progress=False)
    (tmp_path / "photos-00001.tar").unlink()
    assert "a shard is missing" in refused(photographs, tmp_path, shard_mb=0.03, max_side=96, kind="jpeg")


def test_a_damaged_shard_is_named(photographs: Path, packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "out")
    last = max((tmp_path / "out").glob("*.tar"))
    data = bytearray(last.read_bytes())
    data[:8] = bytes(8)  # of the name of its first photograph
    last.write_bytes(data)
    said = refused(photographs, tmp_path / "out", shard_mb=0.03, max_side=96, kind="jpeg")
    assert said.startswith(f"{last}: damaged tar") and "delete it and those that follow" in said


def test_a_full_disk_is_said_and_the_next_call_makes_the_same_shards(
    photographs: Path, packed: Path, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        said = refused(photographs, tmp_path, shard_mb=0.03, max_side=96, kind="jpeg")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "photos-00000.tar: cannot be written (File too large)" in said
    assert [path.name for path in tmp_path.iterdir()] == ["pack.json"]
    pack([photographs], tmp_path, shard_mb=0.03, max_side=96, kind="jpeg", progress=False)
    assert contents(tmp_path) == contents(packed)


@pytest.mark.parametrize("setting", [{"shard_mb": 0.0}, {"max_side": 0}, {"quality": 0}, {"quality": 101}])
def test_impossible_settings_are_refused(photographs: Path, tmp_path: Path, setting: dict[str, float]) -> None:
    assert "must be above 0" in refused(photographs, tmp_path / "out", **setting)
    assert not (tmp_path / "out").exists()


def test_shards_do_not_go_among_the_photographs(photographs: Path) -> None:
    assert "lies inside" in refused(photographs, photographs / "shards")
    assert len(list_photos(find_sources([photographs]))) == 32


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_text("no photograph")
    assert "none of 1 photographs can be read" in refused(tmp_path / "in", tmp_path / "out")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["datasets", "pack", *map(str, arguments)])


def test_the_command_says_what_is_there(photographs: Path, packed: Path, tmp_path: Path) -> None:
    arguments = ["--shard-mb", 0.03, "--max-side", 96, "--format", "jpeg", "--quality", 80]
    result = invoke(photographs, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 0, result.stderr
    count = len(members(packed))
    shards = os.path.join(str(tmp_path / "out"), f"photos-{{00000..{count - 1:05}}}.tar")
    assert result.stdout == f"30 photographs in {shards}\n"
    assert "2 skipped as unreadable (one: a/05.jpg: " in result.stderr
    assert contents(tmp_path / "out") == contents(packed)
    assert len(PhotoStore.open([shards], tmp_path / "cache", progress=False)) == 30
    result = invoke(tmp_path / "nowhere", "--out", tmp_path / "other")
    assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("error: ")
