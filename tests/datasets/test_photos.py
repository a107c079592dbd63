"""The photograph cache: what it finds and survives."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmae_tools.datasets import photos
from gmae_tools.datasets.photos import PhotoStore, center_crop, held_out_split, prefetch
from gmae_tools.errors import GmaeToolsError


def picture(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """A folder with images in a tree, two shards, and what is none of either."""
    root = tmp_path / "mixture"
    (root / "tree" / "deep").mkdir(parents=True)
    (root / "tree" / "a.png").write_bytes(encoded(picture(0)))
    (root / "tree" / "deep" / "b.PNG").write_bytes(encoded(picture(1)))
    (root / "tree" / "._a.png").write_bytes(b"resource fork")
    (root / "tree" / "notes.txt").write_text("no picture")
    write_tar(root / "s-00.tar", {"./c.png": encoded(picture(2)), "c.json": b"{}", "x/d.e.png": encoded(picture(3))})
    write_tar(root / "s-01.tar", {"f.png": encoded(picture(4))})
    return root


def store_of(tmp_path: Path, *sources: str | Path, max_side: int = 256) -> PhotoStore:
    return PhotoStore.open(sources, tmp_path / "cache", max_side=max_side, progress=False)


def test_folder_tree_and_shards_hold_exactly_their_photographs(mixture: Path, tmp_path: Path) -> None:
    store = store_of(tmp_path, mixture)
    assert store.names == [
        "s-00.tar/c.png", "s-00.tar/x/d.e.png", "s-01.tar/f.png", "tree/a.png", "tree/deep/b.PNG"
    ]  # fmt: skip
    assert len(store) == 5
    assert store.skipped == []
    for index, seed in enumerate([2, 3, 4, 0, 1]):
        np.testing.assert_array_equal(store.photo(index), picture(seed))


@pytest.mark.parametrize("pattern", ["s-*.tar", "s-{00..01}.tar", "**/*.tar"])
def test_shards_are_named_by_globs_and_ranges(mixture: Path, tmp_path: Path, pattern: str) -> None:
    store = store_of(tmp_path, f"{mixture}/{pattern}")
    assert store.names == ["s-00.tar/c.png", "s-00.tar/x/d.e.png", "s-01.tar/f.png"]


def test_order_and_repetition_of_sources_are_of_no_account(mixture: Path, tmp_path: Path) -> None:
    sources = [mixture / "tree", mixture / "s-01.tar", mixture / "s-00.tar", mixture / "tree" / "a.png"]
    one, other = store_of(tmp_path, *sources), store_of(tmp_path, *reversed(sources), sources[0])
    assert one.names == other.names
    assert one.path == other.path
    assert len(one) == 5


def test_sources_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(encoded(picture(len(folder))))
    store = store_of(tmp_path, tmp_path / "one", tmp_path / "two")
    assert len(set(store.names)) == 2
    assert all(name.endswith(f"{folder}/a.png") for name, folder in zip(store.names, ("one", "two"), strict=True))


def test_corrupt_photographs_are_skipped_and_counted(mixture: Path, tmp_path: Path) -> None:
    (mixture / "tree" / "text.jpg").write_text("no picture")
    (mixture / "tree" / "empty.jpg").write_bytes(b"")
    write_tar(
        mixture / "s-02.tar",
        {"cut.jpg": encoded(picture(5, 200, 200), "JPEG")[:3000], "g.png": encoded(picture(6))},
    )
    store = store_of(tmp_path, mixture)
    assert sorted(name for name, _ in store.skipped) == [
        "s-02.tar/cut.jpg",
        "tree/empty.jpg",
        "tree/text.jpg",
    ]
    assert all(reason and "\n" not in reason for _, reason in store.skipped)
    assert len(store) == 6
    np.testing.assert_array_equal(store.photo(store.names.index("s-02.tar/g.png")), picture(6))
    np.testing.assert_array_equal(store.photo(store.names.index("tree/a.png")), picture(0))
    assert store_of(tmp_path, mixture).skipped == store.skipped


@pytest.mark.parametrize("name", ["../../evil.png", "a/../../evil.png", "/evil.png"])
def test_names_in_shards_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "shard.tar", {"a.png": encoded(picture(0)), name: encoded(picture(1))})
    with pytest.raises(GmaeToolsError, match=r"shard.tar: refusing to unpack the name '[./a]*evil.png'"):
        store_of(tmp_path, tmp_path / "shard.tar")


def test_a_damaged_shard_is_not_taken_to_be_a_short_one(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "shard.tar", {"a.png": b"", "b.png": encoded(picture(1))})
    data = bytearray(shard.read_bytes())
    data[600] ^= 1  # of the second header
    shard.write_bytes(data)
    with pytest.raises(GmaeToolsError, match=r"shard.tar: damaged tar"):
        store_of(tmp_path, shard)


def test_large_photographs_are_downscaled_and_small_ones_left_alone(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 900).astype(np.uint8)
    large = np.broadcast_to(ramp[None, :, None], (600, 900, 3))
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "large.jpg").write_bytes(encoded(np.ascontiguousarray(large), "JPEG"))
    (folder / "small.png").write_bytes(encoded(picture(1, 10, 7)))
    store = store_of(tmp_path, folder, max_side=90)
    assert store.photo(0).shape == (60, 90, 3)
    expected = large.reshape(60, 10, 90, 10, 3).mean((1, 3))
    np.testing.assert_allclose(store.photo(0)[:, 2:-2], expected[:, 2:-2], atol=3)
    np.testing.assert_array_equal(store.photo(1), picture(1, 10, 7))


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    grey = Image.fromarray(np.full((8, 8), 100, dtype=np.uint8))
    grey.save(folder / "grey.png")
    grey.convert("CMYK").save(folder / "inks.jpg")
    Image.fromarray(np.full((8, 8), 100 * 257, dtype=np.uint16)).save(folder / "sixteen.png")
    store = store_of(tmp_path, folder)
    for index in range(3):
        assert store.photo(index).shape == (8, 8, 3)
        np.testing.assert_allclose(store.photo(index).astype(int), 100, atol=2)


def test_a_second_opening_decodes_nothing(mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store_of(tmp_path, mixture)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(photos, "decode_photo", refuse)
    again = store_of(tmp_path, mixture)
    assert again.names == first.names
    np.testing.assert_array_equal(again.photo(3), first.photo(3))


def test_a_second_opening_reads_nothing_but_states(
    mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store_of(tmp_path, mixture)

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(photos, "_digest", refuse)
    monkeypatch.setattr(photos, "list_photos", refuse)
    again = store_of(tmp_path, mixture)
    assert (again.path, first.made, again.made) == (first.path, True, False)


@pytest.mark.parametrize("change", ["moved", "copied", "touched"])
def test_what_is_the_same_elsewhere_shares_a_cache(mixture: Path, tmp_path: Path, change: str) -> None:
    first = store_of(tmp_path, mixture)
    elsewhere = mixture
    if change == "touched":
        os.utime(mixture / "tree" / "a.png", ns=(1, 1))
    else:
        elsewhere = tmp_path / "elsewhere"
        (shutil.move if change == "moved" else shutil.copytree)(mixture, elsewhere)
    again = store_of(tmp_path, elsewhere)
    assert (again.path, again.names, again.made) == (first.path, first.names, False)
    assert len(list(first.path.parent.glob("photos-*"))) == 1


def test_another_photograph_of_the_same_size_and_date_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "photos" / "a.bmp"
    file.parent.mkdir()
    stores = []
    for seed in (1, 2):
        file.write_bytes(encoded(picture(seed), "BMP"))
        os.utime(file, ns=(1, 1))
        stores.append(store_of(tmp_path, file.parent))
    np.testing.assert_array_equal(stores[1].photo(0), picture(2))
    np.testing.assert_array_equal(stores[0].photo(0), picture(1))


def test_photographs_that_change_while_they_are_decoded_are_no_cache(
    mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = photos.decode_photo

    def and_change(photo: photos.Photo, max_side: int) -> np.ndarray | str:
        (mixture / "tree" / "a.png").write_bytes(encoded(picture(9)))
        return decode(photo, max_side)

    monkeypatch.setattr(photos, "decode_photo", and_change)
    with pytest.raises(GmaeToolsError, match="changed while they were decoded; start again"):
        store_of(tmp_path, mixture)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


@pytest.mark.parametrize("change", ["max_side", "content", "name", "more"])
def test_a_change_of_sources_rebuilds(mixture: Path, tmp_path: Path, change: str) -> None:
    first = store_of(tmp_path, mixture)
    file = mixture / "tree" / "a.png"
    if change == "content":
        file.write_bytes(encoded(picture(9, 5, 5)))
    elif change == "name":
        file.rename(file.with_name("z.png"))
    elif change == "more":
        (mixture / "tree" / "z.png").write_bytes(encoded(picture(9)))
    again = store_of(tmp_path, mixture, max_side=10 if change == "max_side" else 256)
    assert again.path != first.path
    assert len(again) == 5 + (change == "more")
    if change == "content":
        np.testing.assert_array_equal(again.photo(again.names.index("tree/a.png")), picture(9, 5, 5))


def test_killed_while_decoding_then_built_again(mixture: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from gmae_tools.datasets import photos\n"
        "photos.decode_photo = lambda photo, side: os.kill(os.getpid(), signal.SIGKILL)\n"
        "photos.PhotoStore.open([sys.argv[1]], sys.argv[2], progress=False)\n"
    )
    cache = tmp_path / "cache"
    killed = subprocess.run([sys.executable, "-c", program, str(mixture), str(cache)], check=False)
    assert killed.returncode < 0
    assert len(list(cache.glob(".*.tmp.cache"))) == 1
    store = store_of(tmp_path, mixture)
    assert len(store) == 5 and store.made
    assert not list(cache.glob(".*.tmp*")) and len(list(cache.glob("photos-*"))) == 1


def test_two_openings_at_once(mixture: Path, tmp_path: Path) -> None:
    stores: list[PhotoStore] = []
    threads = [threading.Thread(target=lambda: stores.append(store_of(tmp_path, mixture))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 4 and sum(store.made for store in stores) == 1
    for store in stores:
        np.testing.assert_array_equal(store.photo(0), picture(2))


def no_sources(_: Path) -> list[str]:
    return []


def empty_folder(tmp_path: Path) -> list[str]:
    (tmp_path / "empty").mkdir()
    return [str(tmp_path / "empty")]


def missing(tmp_path: Path) -> list[str]:
    return [str(tmp_path / "nowhere" / "*.tar")]


def only_corrupt(tmp_path: Path) -> list[str]:
    (tmp_path / "x.jpg").write_text("no picture")
    return [str(tmp_path / "x.jpg")]


def shard_of_text(tmp_path: Path) -> list[str]:
    (tmp_path / "x.tar").write_text("no tar at all")
    return [str(tmp_path / "x.tar")]


def shard_without_photographs(tmp_path: Path) -> list[str]:
    return [str(write_tar(tmp_path / "y.tar", {"readme.txt": b"hello"}))]


def compressed_shard(tmp_path: Path) -> list[str]:
    return [str(write_tar(tmp_path / "z.tar.gz", {"a.png": encoded(picture(0))}, "w:gz"))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_sources, "no input"),
        (empty_folder, "no photographs"),
        (missing, "no such file"),
        (only_corrupt, "none of 1 photographs can be read"),
        (shard_of_text, "damaged tar"),
        (shard_without_photographs, "no photographs inside"),
        (compressed_shard, "decompress"),
    ],
)
def test_unusable_sources_are_one_line(tmp_path: Path, make: Callable[[Path], list[str]], message: str) -> None:
    with pytest.raises(GmaeToolsError, match=message) as caught:
        store_of(tmp_path, *make(tmp_path))
    assert "\n" not in str(caught.value)
    cache = tmp_path / "cache"
    assert not cache.exists() or [path.name for path in cache.iterdir()] == ["lock"]


def test_a_damaged_cache_is_named(mixture: Path, tmp_path: Path) -> None:
    path = store_of(tmp_path, mixture).path
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(GmaeToolsError, match=r"damaged cache.*delete it"):
        store_of(tmp_path, mixture)


def test_held_out_by_the_digest_of_the_base_name() -> None:
    names = [f"shard-{i % 3}.tar/{i:05d}.jpg" for i in range(2000)]
    train, held_out = held_out_split(names, 100)
    digests = [hashlib.sha256(name.split("/")[-1].encode()).hexdigest() for name in names]
    assert sorted(held_out) == sorted(np.argsort(digests)[:100])
    assert sorted([*train, *held_out]) == list(range(2000))


def test_held_out_whatever_order_shard_or_size() -> None:
    names = [f"{i}.jpg" for i in range(3000)]
    moved = [f"other.tar/{name}" for name in np.random.default_rng(0).permutation(names)]
    chosen = {names[i] for i in held_out_split(names, 50)[1]}
    assert {moved[i].split("/")[-1] for i in held_out_split(moved, 50)[1]} == chosen
    assert len(held_out_split(names)[1]) == 300
    assert len(held_out_split(names[:9])[1]) == 0
    assert [len(part) for part in held_out_split([])] == [0, 0]


def test_center_crop_is_the_central_square() -> None:
    photo = picture(0, 30, 50)
    np.testing.assert_array_equal(center_crop(photo, 30), photo[:, 10:40])
    assert center_crop(photo, 16).shape == (16, 16, 3)
    tall = picture(1, 51, 20)
    np.testing.assert_array_equal(center_crop(tall, 20), tall[15:35])


def test_prefetch_keeps_order_runs_ahead_and_only_so_far() -> None:
    made: list[int] = []
    several_made = threading.Event()

    def items():  # type: ignore[no-untyped-def]
        for number in range(20):
            made.append(number)
            if number == 3:
                several_made.set()
            yield number

    ahead = prefetch(items(), depth=4)
    assert next(ahead) == 0
    assert several_made.wait(5)
    assert len(made) <= 5
    assert list(ahead) == list(range(1, 20))
    assert list(prefetch([], depth=2)) == []


def test_prefetch_passes_errors_on_in_their_place() -> None:
    def items():  # type: ignore[no-untyped-def]
        yield 1
        yield 2
        raise GmaeToolsError("broken")

    ahead = prefetch(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(GmaeToolsError, match="broken"):
        next(ahead)


def test_prefetch_ends_its_thread_when_closed() -> None:
    ahead = prefetch(iter(range(1000)), depth=3)
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_real_shards(shared_data: Path, tmp_path: Path) -> None:
    """The first hundred photographs of one."""
    with tarfile.open(shared_data / "pretrain" / "photos-0.tar") as whole, tarfile.open(tmp_path / "0.tar", "w") as few:
        for member in islice(whole, 100):
            few.addfile(member, whole.extractfile(member))
    store = PhotoStore.open([tmp_path / "0.tar"], tmp_path / "cache", max_side=64, progress=False)
    assert len(store) == 100
    assert store.skipped == []
    pictures = np.stack([center_crop(store.photo(i), 32) for i in range(64)])
    assert 60 < pictures.mean() < 190
    assert pictures.std() > 40
