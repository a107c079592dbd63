"""Pages about photographs, without a browser: what is in them, what cannot get in, and the command that writes them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from gmae_tools.camera import Camera, project
from gmae_tools.cli import main
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.model import GMAEConfig
from gmae_tools.report.figures import COVERED
from gmae_tools.report.page import FIELDS, PageRequest, page_size, render_page, write_page
from gmae_tools.report.web import asset
from gmae_tools.scene import Scene
from gmae_tools.splatting import rules
from gmae_tools.zeroshot.figure_ground import foreground_mask, foreground_probability
from gmae_tools.zeroshot.names import HIERARCHY

K, HEIGHT, WIDTH = 40, 30, 44
EVIL = "<img src=x onerror=alert(1)>"
CAMERA = Camera()


def random_gaussians(k: int = K) -> Gaussians:
    torch.manual_seed(k)
    return Gaussians(
        2 * torch.rand(1, k, 3) - 1,
        0.2 + torch.rand(1, k, 3),
        torch.randn(1, k, 4),
        torch.rand(1, k, 3),
        torch.rand(1, k),
    )


def photograph(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 127 * (1 + np.sin(x / 9))], -1).astype(np.uint8)


def seen(gaussians: Gaussians, height: int = HEIGHT, width: int = WIDTH) -> Scene:
    return Scene(gaussians, CAMERA, height, width, photograph(height, width))


def page(name: str = "photo.jpg", request: PageRequest | None = None, gaussians: Gaussians | None = None) -> str:
    gaussians = random_gaussians() if gaussians is None else gaussians
    return render_page(seen(gaussians), request or PageRequest("gmae-test"), name)


def test_of_very_many_gaussians_it_shows_fewer_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmae_tools.report.page.MOST_SPLATS", 15)
    text = page()
    found = re.search(r"gmae-test, K = 40 Gaussians, joined to (\d+) for this page; photograph of 44 × 30 px", text)
    assert found and 1 <= int(found[1]) <= 15
    assert f'"k":{found[1]},' in text


@dataclass
class Parsed(HTMLParser):
    """Elements of a page as a browser sees them, and the text of some."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    inside: str | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[self.inside][-1] += data

    def attributes(self, name: str) -> list[str | None]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    def data(self) -> dict:
        return json.loads(self.texts["script"][0])


def parse(text: str) -> Parsed:
    parsed = Parsed()
    parsed.feed(text)
    parsed.close()
    return parsed


def picture(uri: str | None) -> Image.Image:
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


# --- contents ----------------------------------------------------------------------------------------


def test_the_page_composites_by_the_rules_of_the_renderer() -> None:
    data = parse(page()).data()
    assert data["rules"] == {
        "alphaMax": rules.ALPHA_MAX, "cutoff": -math.log(rules.ALPHA_MIN), "tile": rules.TILE,
        "transmittanceMin": rules.TRANSMITTANCE_MIN,
    }  # fmt: skip
    assert data["depthScale"]["covered"] == COVERED
    for script in ("splats.js", "webgl.js", "page.js"):
        assert not re.search(r"0\.99|log\(255|1e-4|0\.0001|TILE = \d", asset(script)), script


def test_the_table_holds_exactly_what_the_renderer_gets() -> None:
    gaussians = random_gaussians()
    data = parse(page(gaussians=gaussians)).data()
    table = np.frombuffer(base64.b64decode(data["table"]), "<f4").reshape(len(FIELDS), K)
    rows = dict(zip(data["fields"], table, strict=True))
    gaussians = gaussians.sort_by_depth()
    splats = project(gaussians, CAMERA, HEIGHT, WIDTH)
    expected = {
        **dict(zip(("x", "y"), splats.means[0].T, strict=True)),
        **dict(zip("abc", splats.conics[0].T, strict=True)),
        **dict(zip(("red", "green", "blue"), splats.colors[0].T, strict=True)),
        **{f"scale_{axis}": gaussians.scales[0, :, axis] for axis in range(3)},
        "opacity": splats.opacities[0],
        "depth": splats.depths[0],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(rows[name], values.numpy(), err_msg=name)
    quats = np.stack([rows[f"quat_{axis}"] for axis in "wxyz"], 1)
    np.testing.assert_allclose(np.linalg.norm(quats, axis=1), 1, rtol=1e-6)
    cosine = (quats * gaussians.quats[0].numpy()).sum(1) / np.linalg.norm(gaussians.quats[0], axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-6)
    assert (np.diff(rows["depth"]) >= 0).all()


def test_says_checkpoint_and_numbers() -> None:
    text = page(request=PageRequest("gmae-test", layers=5, refine=30))
    parsed, data = parse(text), parse(text).data()
    assert "gmae-test, K = 40 Gaussians, refined in 30 steps; photograph of 44 × 30 px" in text
    assert (data["checkpoint"], data["k"], data["layers"], data["width"], data["height"]) == ("gmae-test", K, 5, 44, 30)
    assert parsed.texts["title"] == ["photo.jpg · gmae-tools"]
    assert data["depthScale"]["near"] < data["depthScale"]["far"]
    assert len(base64.b64decode(data["depthScale"]["colors"])) == 3 * 256


def test_pictures_of_the_page() -> None:
    images = {attributes.get("id") or attributes.get("data-layers"): picture(attributes["src"])
              for tag, attributes in parse(page()).elements if tag == "img"}  # fmt: skip
    assert set(images) == {"photograph", "figure", *map(str, HIERARCHY)}
    assert {image.size for image in images.values()} == {(WIDTH, HEIGHT)}
    photo = np.asarray(images.pop("photograph").convert("RGB"), float)
    assert np.abs(photo - photograph()).mean() < 4
    alphas = {name: np.asarray(image.convert("RGBA"))[..., 3] for name, image in images.items()}
    assert all(0 in alpha and alpha.max() == 255 for alpha in alphas.values())
    mask = foreground_mask(foreground_probability(seen(random_gaussians())))
    np.testing.assert_array_equal(alphas["figure"] == 0, mask)


def test_few_gaussians_have_few_layers() -> None:
    parsed = parse(page(gaussians=random_gaussians(5), request=PageRequest("x", layers=4)))
    assert parsed.attributes("data-layers") == ["4"]
    assert [attributes for tag, attributes in parsed.elements if tag == "option"] == [{"selected": None}]
    parsed = parse(page(gaussians=random_gaussians(2), request=PageRequest("x", layers=2)))
    assert parsed.attributes("data-layers") == []
    assert "disabled" in dict(parsed.elements)["select"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 451), (300, 451)), ((4000, 3000), (800, 600)), ((1, 9000), (1, 800)), ((7, 1), (7, 1))],
)
def test_size_of_the_pictures(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert page_size(*size) == expected


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 2)])
def test_odd_photographs(height: int, width: int) -> None:
    text = render_page(seen(random_gaussians(), height, width), PageRequest("x"), "odd.png")
    assert picture(dict(parse(text).elements)["img"]["src"]).size == (width, height)


def test_the_same_input_gives_the_same_page() -> None:
    assert page() == page()


def test_broken_gaussians_leave_nothing_behind(tmp_path: Path) -> None:
    gaussians = random_gaussians()
    gaussians.colors[0, 3, 1] = torch.nan
    with pytest.raises(GmaeToolsError, match="NaN"):
        write_page(seen(gaussians), PageRequest("x"), tmp_path / "page.html", "x.jpg")
    assert not list(tmp_path.iterdir())


# --- safety ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [f"{EVIL}.jpg", "</title></script><script>alert(1)</script>.png", "&lt;b&gt; $data ${script}.jpg", "\"'`.jpg"],
)
def test_names_are_text(name: str) -> None:
    parsed, plain = parse(page(name, PageRequest(name))), parse(page())
    assert [tag for tag, _ in parsed.elements] == [tag for tag, _ in plain.elements]
    assert parsed.texts["bdi"][0] == name
    assert parsed.texts["title"] == [f"{name} · gmae-tools"]
    assert parsed.data()["checkpoint"] == name
    assert parsed.texts["script"][1] == plain.texts["script"][1]


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    write_page(seen(random_gaussians()), PageRequest("x"), tmp_path / "a.html", "caf\udce9.jpg")
    assert "caf?.jpg" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_only_its_own_script_and_style_may_run() -> None:
    parsed = parse(page())
    (policy,) = [attributes["content"] for _, attributes in parsed.elements if attributes.get("http-equiv")]
    assert policy is not None
    directives = dict(part.split(maxsplit=1) for part in policy.split("; "))

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert directives == {
        "default-src": "'none'",
        "script-src": digest(parsed.texts["script"][1]),
        "style-src": digest(parsed.texts["style"][0]),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_fetches_nothing() -> None:
    text = page()
    parsed = parse(text)
    assert all((uri or "").startswith("data:") for name in ("src", "href") for uri in parsed.attributes(name))
    assert not re.search(r"https?://|@import|url\(", text)
    names = {name for _, attributes in parsed.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name == "style"}  # neither would be allowed


# --- commands ----------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "a.png", f"{EVIL}.jpg"):
        Image.fromarray(photograph()).save(folder / name)
    return folder


def test_view_writes_a_page_for_each_picture(photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    out, k = tmp_path / "out", GMAEConfig.preset("nano").k
    result = run(
        "view", photos, "-o", out, "--checkpoint", checkpoint, "--layers", 4, "--refine", 2, "--format", "json"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    rows = json.loads(result.stdout)
    assert [Path(row["page"]).name for row in rows] == [f"{EVIL}.html", "a_jpg.html", "a_png.html"]
    assert {path.name for path in out.iterdir()} == {Path(row["page"]).name for row in rows}
    for row in rows:
        text = Path(row["page"]).read_text(encoding="utf-8")
        assert parse(text).texts["bdi"][0] == Path(row["image"]).name
        assert f"nano-random, K = {k} Gaussians, refined in 2 steps" in text
        assert (row["k"], row["kilobytes"]) == (k, round(Path(row["page"]).stat().st_size / 1000))
        assert parse(text).data()["layers"] == 4


def test_view_goes_on_after_a_bad_picture(photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    result = run("view", photos / "broken.png", photos / "a.png", "-o", tmp_path, "--checkpoint", checkpoint)
    assert result.exit_code == 1
    assert result.stderr.count("error:") == 1 and "broken.png" in result.stderr
    assert result.stdout.splitlines()[2].split()[-1] == str(tmp_path / "a.html")
    assert not (tmp_path / "broken.html").exists()


def test_view_refuses_more_layers_than_gaussians(photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = run("view", photos, "-o", tmp_path / "out", "--checkpoint", checkpoint, "--layers", 100_000)
    assert result.exit_code == 1 and "--layers 100000: use 1 to" in result.stderr
    assert not (tmp_path / "out").exists()


def test_layers_writes_a_page_if_asked_to(photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("layers", photos / "a.jpg", "-o", tmp_path, "--checkpoint", checkpoint, "--layers", 3, "--k", "all")
    written = tmp_path / "a" / "view.html"
    assert run(*arguments, "--html").exit_code == 0
    parsed = parse(written.read_text(encoding="utf-8"))
    assert parsed.texts["bdi"][0] == "a.jpg" and parsed.data()["layers"] == 3
    gaussians = Gaussians.load(tmp_path / "a" / "gaussians.npz")
    table = np.frombuffer(base64.b64decode(parsed.data()["table"]), "<f4").reshape(len(FIELDS), -1)
    np.testing.assert_array_equal(table[FIELDS.index("red")], gaussians.colors[0, :, 0].numpy())
    assert run(*arguments).exit_code == 0
    assert not written.exists()  # it would show what the other files no longer do
