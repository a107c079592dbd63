"""What the demo shows of a photograph: the readouts' own pictures, made in memory; what is dropped is checked."""

from __future__ import annotations

import io
import re
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmae_tools import checkpoints
from gmae_tools.demo import html
from gmae_tools.demo.exhibit import EDGES, MOST_BYTES, SIDE, Exhibit, Workshop, read_dropped
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import read

HEIGHT, WIDTH = 60, 90


def photograph(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], 2).astype(np.uint8)


def dropped(content: bytes) -> str:
    return b64encode(content).decode("ascii")


def encoded(picture: np.ndarray, form: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def workshop(checkpoint: Path) -> Workshop:
    return Workshop(checkpoints.load(checkpoint), "nano")


@pytest.fixture(scope="module")
def exhibit(workshop: Workshop) -> Exhibit:
    return workshop.exhibit(photograph(), "photo.png")


def test_shows_what_the_readouts_say(exhibit: Exhibit) -> None:
    scene = exhibit.scene
    depths = scene.gaussians.means[0, :, 2]
    assert (depths.diff() >= 0).all(), "nearest first"
    for k in (1, 7, scene.k):
        expected = scene.layers(k=[k], n=1).pictures
        white = expected.firsts[0] + 1 - expected.first_alphas[0]
        picture, quality = exhibit.nearest(k)
        assert np.abs(picture - white.clamp(0, 1).movedim(0, -1).numpy() * 255).max() <= 1
        assert quality == pytest.approx(scene.layers(k=[k], n=1).scores[0].psnr, abs=0.05)
    assert np.array_equal(exhibit.edges("regions"), np.asarray(scene.edges("regions").sheet()))
    assert not np.array_equal(exhibit.edges("l@4"), exhibit.edges("l@32"))
    assert exhibit.figure()[1] == scene.mask().mask.mean()


def test_every_edge_map_that_can_be_chosen_is_there(exhibit: Exhibit) -> None:
    assert EDGES[0] == "regions-and-photo" and {"l@32", "l@4", "render-gradient"} <= set(EDGES)
    assert {exhibit.edges(name).shape for name in EDGES} == {(HEIGHT, WIDTH, 3)}


def test_the_files_are_those_of_the_commands(exhibit: Exhibit, tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    path.write_bytes(exhibit.ply())
    found = read(path)
    assert (found.k, found.height, found.width) == (exhibit.scene.k, HEIGHT, WIDTH)
    assert b"photo.png" in exhibit.page() and b"Content-Security-Policy" in exhibit.page()


def test_a_large_photograph_is_made_smaller(workshop: Workshop) -> None:
    exhibit = workshop.exhibit(photograph(900, 1200), "large.png")
    assert (exhibit.scene.height, exhibit.scene.width) == (SIDE * 3 // 4, SIDE) and exhibit.size == (900, 1200)
    assert "1,200 × 900 px" in html.photograph(exhibit)


def test_pictures_are_part_of_the_page(exhibit: Exhibit) -> None:
    parts = [html.nearest(exhibit, 5), html.edges(exhibit, "regions"), html.photograph(exhibit)]
    for part in [*parts, *html.depth_and_layers(exhibit), html.figure_and_ground(exhibit)]:
        pictures = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', part)
        assert pictures and part.count("<img") == len(pictures)
        assert Image.open(io.BytesIO(b64decode(pictures[0]))).size[0] > 0
    assert html.nearest(exhibit, 10**6) == html.nearest(exhibit, exhibit.scene.k)


def test_names_are_inert(workshop: Workshop) -> None:
    evil = "<img src=x onerror=alert(1)>`${alert(1)}.png"
    for part in (html.facts(workshop.exhibit(photograph(), evil)), html.status(evil)):
        assert "<img" not in part and "&lt;img" in part


def test_reads_what_is_dropped() -> None:
    assert np.array_equal(read_dropped(dropped(encoded(photograph())), "photo.png"), photograph())


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (dropped(b"just a few words"), "notes.txt: not a picture in a known format"),
        (dropped(b""), "notes.txt: the file is empty"),
        ("not base 64!", "notes.txt: it did not arrive whole; drop it again"),
        (dropped(encoded(photograph())[:200]), "notes.txt: damaged picture"),
        ("A" * (MOST_BYTES * 4 // 3 + 8), "notes.txt: more than 20 MB; make it smaller first"),
    ],
    ids=["text", "empty", "garbled", "cut", "large"],
)
def test_refuses_what_is_no_photograph(data: str, problem: str) -> None:
    with pytest.raises(GmaeToolsError, match=re.escape(problem)):
        read_dropped(data, "notes.txt")


def test_refuses_too_many_pixels() -> None:
    with pytest.raises(GmaeToolsError, match=r"big.png: 90 x 60 is more than 1,000 pixels; downscale it first"):
        read_dropped(dropped(encoded(photograph())), "big.png", max_pixels=1000)
