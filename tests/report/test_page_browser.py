"""Pages about photographs in a real browser: pictures are compared with the renderer's, controls are used."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gmae_tools.camera import Camera, Splats, project
from gmae_tools.cli import main
from gmae_tools.gaussians import Gaussians
from gmae_tools.report.figures import depth_colors, depth_range
from gmae_tools.report.page import PageRequest, write_page
from gmae_tools.scene import Scene
from gmae_tools.splatting import Raster, rasterize

selenium = pytest.importorskip("selenium", reason="needs selenium")
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--window-size=1300,900", "--hide-scrollbars", "--disable-dev-shm-usage",
         "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # fmt: skip
K, HEIGHT, WIDTH, LAYERS = 150, 60, 90, 7
CAMERA = Camera(distance=4.0)
EVIL = "<img src=x onerror=alert(1)>"
PATIENCE = 20  # s
DRAWERS = {"webgl": "WebGL 2", "javascript": "JavaScript"}

# What is drawn: the page's mode, what is set there, and the depth ranks [from, to) that this means.
VIEWS = {
    "all": ("nearest", {"nearest": K}, (0, K)),
    "none": ("nearest", {"nearest": 0}, (0, 0)),
    "one": ("nearest", {"nearest": 1}, (0, 1)),
    "nearest 64": ("nearest", {"nearest": 64}, (0, 64)),
    "slab": ("slab", {"slab-from": 40, "slab-to": 97}, (40, 97)),
    "farthest": ("slab", {"slab-to": K, "slab-from": K - 1}, (K - 1, K)),
    "layer 1": ("layer", {"layer": 1}, (0, 22)),  # 150 = 3 x 22 + 4 x 21
    "layer 5": ("layer", {"layer": 5}, (87, 108)),
}
DEPTH_VIEWS = ("nearest 64", "slab", "layer 5")


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs Chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    options = ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])):  # which root cannot have
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=ChromeService(driver))
    yield chrome
    chrome.quit()


def scene(k: int = K) -> Gaussians:
    """Gaussians of all sorts: opaque ones that end pixels, faint ones, needles, some beyond the border, one behind."""
    generator = torch.Generator().manual_seed(k)
    scales = 0.05 + 0.9 * torch.rand(1, k, 3, generator=generator) ** 2
    scales[:, ::7, 0] = 0.01
    opacities = torch.rand(1, k, generator=generator)
    opacities[:, ::5] = 1.0
    opacities[:, ::11] = 0.003
    means = 2.4 * torch.rand(1, k, 3, generator=generator) - 1.2
    middles = torch.tensor([WIDTH / 2, HEIGHT / 2])  # some opaque ones right in a pixel's middle, where alpha is capped
    means[:, ::10, :2] = ((means[:, ::10, :2] * middles).round() + 0.5) / middles
    means[0, 0, 2] = -9
    quats = torch.randn(1, k, 4, generator=generator)
    return Gaussians(means, scales, quats, torch.rand(1, k, 3, generator=generator), opacities).sort_by_depth()


def photograph(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), (90, 140, 60), np.uint8)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(
        Scene(scene(), CAMERA, HEIGHT, WIDTH, photograph(HEIGHT, WIDTH)),
        PageRequest("gmae-test", LAYERS),
        path,
        "photo.jpg",
    )
    return path


@dataclass
class Visit:
    """A page that is open in a browser."""

    browser: Chrome

    def __getitem__(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def drawn(self, picture: str, start: int, end: int) -> np.ndarray:
        """The pixels, uint8 RGB `[H, W, 3]`, once these ranks are drawn at full resolution."""
        self.wait_for(lambda: self["render"].get_attribute("data-shown"), f"{picture} {start} {end} 1")
        return self.pixels("render")[..., :3]

    def pixels(self, canvas: str) -> np.ndarray:
        """What a canvas holds, uint8 RGBA `[H, W, 4]`."""
        png = self.browser.execute_script("return arguments[0].toDataURL()", self[canvas]).split(",")[1]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))

    def wait_for(self, read: Any, expected: object) -> None:
        end = time.monotonic() + PATIENCE
        while (value := read()) != expected and time.monotonic() < end:
            time.sleep(0.02)
        assert value == expected

    def choose(self, name: str, value: str) -> None:
        """A radio button."""
        self.browser.find_element(By.CSS_SELECTOR, f"input[name={name}][value={value}] + span").click()

    def slide(self, name: str, value: int) -> None:
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'));"
        self.browser.execute_script(script, self[name], value)

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def value(self, name: str) -> int:
        return int(self[name].get_property("value"))

    def point(self, x: int, y: int) -> None:
        """Move the mouse to the middle of a pixel."""
        frame = self["frame"]
        scale = frame.rect["width"] / WIDTH
        offset = [round((at + 0.5) * scale - side / 2) for at, side in
                  ((x, frame.rect["width"]), (y, frame.rect["height"]))]  # fmt: skip
        ActionChains(self.browser, duration=0).move_to_element_with_offset(frame, *offset).perform()

    def owner(self) -> str:
        return self["owner"].text


@contextlib.contextmanager
def visit(browser: Chrome, page: Path, fragment: str = "", **media: str) -> Iterator[Visit]:
    """Open a page; at the end nothing must have gone wrong in it."""
    features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")  # another fragment alone would not load it again
    browser.get_log("browser")
    browser.get(f"{page.as_uri()}#{fragment}")
    yield Visit(browser)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def expected(start: int, end: int) -> Raster:
    """The renderer's picture of the ranks [start, end)."""
    splats = project(scene(), CAMERA, HEIGHT, WIDTH)
    part = Splats(*(tensor[:, start:end] for tensor in vars(splats).values()))
    return rasterize(part, HEIGHT, WIDTH, background=torch.ones(3), depth=True, owners=True)


# --- pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("drawer", DRAWERS)
def test_pictures_are_those_of_the_renderer(browser: Chrome, page: Path, drawer: str) -> None:
    """Within 2/255 at every pixel; expected depth within a step of its scale."""
    whole = expected(0, K)
    depths = depth_range(whole.depth[0, 0].numpy(), whole.alpha[0, 0].numpy())
    with visit(browser, page, f"renderer={drawer}") as opened:
        for name, (mode, values, ranks) in VIEWS.items():
            opened.choose("mode", mode)
            for slider, value in values.items():
                opened.slide(slider, value)
            raster = expected(*ranks)
            picture = raster.image[0].permute(1, 2, 0).numpy() * 255
            assert np.abs(opened.drawn("render", *ranks) - picture).max() <= 1, name
            if name not in DEPTH_VIEWS:
                continue
            opened.choose("picture", "depth")
            shown = opened.drawn("depth", *ranks).astype(int)
            alpha = raster.alpha[0, 0].numpy()
            wrong = np.abs(shown - depth_colors(raster.depth[0, 0].numpy(), alpha, *depths)).max(2) > 8
            assert wrong[np.abs(alpha - 0.5) > 1e-4].sum() == 0, name
            opened.choose("picture", "render")
        assert f"Drawn with {DRAWERS[drawer]} in" in opened["drawer"].text


def test_is_smooth_without_a_graphics_card(browser: Chrome, tmp_path: Path) -> None:
    """How long a picture of 1,024 Gaussians takes is printed (`pytest -rP`); 50 ms are asked for."""
    path = tmp_path / "page.html"
    write_page(Scene(scene(1024), CAMERA, 171, 256, photograph(171, 256)), PageRequest("gmae-test"), path, "photo.jpg")
    times = []
    with visit(browser, path) as opened:
        for k in range(1020, 1025):
            opened.slide("nearest", k)
            opened.drawn("render", 0, k)
            times.append(float(opened["render"].get_attribute("data-ms")))
        print(f"K = 1024 at 256 x 171 px: median {median(times):.1f} ms. {opened['drawer'].text}")
    assert median(times) < 500  # other work may share the machine


@pytest.mark.parametrize("broken", ["missing", "lost"])
def test_draws_on_without_webgl(browser: Chrome, page: Path, broken: str) -> None:
    script = """const real = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, options) {
          if (kind !== "webgl2") return real.call(this, kind, options);
          return window.gl = BROKEN ? null : real.call(this, kind, options);
        };""".replace("BROKEN", str(broken == "missing").lower())
    hook = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        with visit(browser, page, "renderer=webgl") as opened:
            opened.drawn("render", 0, K)
            if broken == "lost":
                assert "WebGL 2" in opened["drawer"].text
                browser.execute_script("gl.getExtension('WEBGL_lose_context').loseContext()")
            opened.slide("nearest", 64)
            picture = expected(0, 64).image[0].permute(1, 2, 0).numpy() * 255
            assert np.abs(opened.drawn("render", 0, 64) - picture).max() <= 1
            assert "JavaScript" in opened["drawer"].text
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", hook)


def test_layers_on_top(browser: Chrome, page: Path) -> None:
    with visit(browser, page) as opened:
        assert not opened.pixels("marks").any()
        opened["show-figure"].click()
        opened["show-edges"].click()
        opened["show-centres"].click()
        opened.wait_for(lambda: bool(opened.pixels("marks").any()), True)
        visible = [image.get_attribute("alt") for image in browser.find_elements(By.CSS_SELECTOR, ".frame img")
                   if image.is_displayed()]  # fmt: skip
        assert visible == ["Edges at l@32", "Figure and ground"]
        opened.choose("picture", "photograph")
        browser.execute_script(
            "arguments[0].value = 4; arguments[0].dispatchEvent(new Event('change'))", opened["edges"]
        )
        caption = f"Photograph. Centres of all K = {K} Gaussians, z = "
        assert opened["caption"].text.startswith(caption)
        assert opened["caption"].text.endswith("Edges at l@4. Figure and ground. gmae-test.")


# --- controls ----------------------------------------------------------------------------------------


def test_k_by_keyboard_and_mouse(browser: Chrome, page: Path) -> None:
    with visit(browser, page) as opened:
        slider = opened["nearest"]
        assert slider.aria_role == "slider" and slider.accessible_name.startswith("K,")
        for key, k in ((Keys.ARROW_LEFT, K - 1), (Keys.HOME, 0), (Keys.ARROW_RIGHT, 1), (Keys.END, K)):
            slider.send_keys(key)
            opened.drawn("render", 0, k)
            assert opened.value("nearest-number") == k
        assert opened["caption"].text.startswith(f"Render of all K = {K} Gaussians")
        drag = ActionChains(browser).move_to_element_with_offset(slider, slider.size["width"] // 2 - 8, 0)
        drag.click_and_hold().move_by_offset(-slider.size["width"] // 3, 0).release().perform()
        k = opened.value("nearest")
        assert 0.55 * K < k < 0.75 * K
        opened.drawn("render", 0, k)
        assert opened["caption"].text.startswith(f"Render of the nearest K = {k} of {K} Gaussians, z = ")
        assert slider.get_attribute("aria-valuetext").startswith(f"the nearest K = {k}")
        number = opened["nearest-number"]
        number.send_keys(Keys.CONTROL, "a")
        number.send_keys("9999", Keys.ENTER)
        opened.drawn("render", 0, K)
        assert opened.value("nearest-number") == K


def test_slab_by_mouse_and_keyboard(browser: Chrome, page: Path) -> None:
    with visit(browser, page) as opened:
        opened.choose("mode", "slab")
        width = opened["slab-from"].size["width"]
        for name, by in (("slab-from", width // 4), ("slab-to", -width // 4)):
            edge = (8 if by > 0 else width - 8) - width // 2
            drag = ActionChains(browser).move_to_element_with_offset(opened[name], edge, 0)
            drag.click_and_hold().move_by_offset(by, 0).release().perform()
        start, end = opened.value("slab-from"), opened.value("slab-to")
        assert 0.15 * K < start < 0.35 * K and 0.65 * K < end < 0.85 * K
        opened.drawn("render", start, end)
        opened.press(".")
        opened.drawn("render", start + 1, end + 1)
        opened["slab-from"].send_keys(Keys.END)  # not beyond the other
        opened.drawn("render", end, end + 1)
        assert f"rank {end + 1} of K = {K} Gaussians" in opened["caption"].text


def test_layers_by_keyboard(browser: Chrome, page: Path) -> None:
    with visit(browser, page) as opened:
        opened.press("l")
        opened.drawn("render", 0, 22)
        opened.press("..")
        opened.drawn("render", 44, 66)
        assert opened["caption"].text.startswith(f"Render of layer 3 of N = 7, ranks 45 to 66 of K = {K} Gaussians")
        opened["layers"].send_keys(Keys.CONTROL, "a")
        opened["layers"].send_keys("2", Keys.ENTER)
        opened.drawn("render", 75, 150)
        opened["frame"].click()  # out of the field, where keys are text
        opened.press(Keys.ESCAPE, "0", "3")
        opened.drawn("depth", 0, K)
        assert opened["caption"].text.startswith("Expected depth of all")
        opened.press("4", "c")
        assert opened["caption"].text.startswith("Centres of all")


def test_everything_can_be_reached_and_has_a_name(browser: Chrome, page: Path) -> None:
    with visit(browser, page) as opened:
        reached = []
        while True:
            opened.press(Keys.TAB)
            element = browser.switch_to.active_element
            if element.tag_name == "body":  # once around
                break
            reached.append(element.get_attribute("id") or element.get_attribute("name") or element.tag_name)
            assert element.accessible_name, reached
        wanted = ["frame", "picture", "mode", "nearest", "nearest-number", "show-edges", "edges", "show-figure"]
        assert reached[: len(wanted)] == wanted
        assert {"show-centres", "summary"} < set(reached)


def test_the_gaussian_of_a_pixel(browser: Chrome, page: Path) -> None:
    start, end = 30, 120
    raster, splats = expected(start, end), project(scene(), CAMERA, HEIGHT, WIDTH)
    assert raster.owner is not None and raster.owner_weight is not None
    with visit(browser, page) as opened:
        opened.choose("mode", "slab")
        opened.slide("slab-from", start)
        opened.slide("slab-to", end)
        for x, y in ((0, 0), (45, 30), (20, 50), (89, 59), (70, 11), (33, 24)):
            opened.point(x, y)
            owner, share = int(raster.owner[0, y, x]), float(raster.owner_weight[0, y, x])
            if owner < 0:
                assert opened.owner() == "No Gaussian here"
                continue
            opened.wait_for(opened.owner, f"Gaussian {start + owner + 1} of {K}")
            words = opened["parameters"].text.replace("−", "-")
            assert f"{round(100 * share)} % at {x}, {y}" in words
            assert f"Opacity\n{splats.opacities[0, start + owner]:.2f}" in words
            covariance = torch.linalg.inv(splats.conics[0, start + owner].double()[[0, 1, 1, 2]].view(2, 2))
            short, long = torch.linalg.eigvalsh(covariance).sqrt().tolist()
            axes = re.search(r"Footprint, 1 σ\n([\d.]+) × ([\d.]+) px", words)
            assert axes and np.allclose([float(axis) for axis in axes.groups()], [long, short], atol=0.06)
        owner = int(raster.owner[0, 24, 33])
        opened["frame"].click()  # in the middle, and held there
        held = opened.owner()
        assert held.endswith(", held")
        opened.point(33, 24)
        assert opened.owner() == held
        opened.press(Keys.ESCAPE)
        assert opened.owner() == "Point at the picture"
        opened.point(33, 24)
        opened.press("o")
        opened.drawn("render", start + owner, start + owner + 1)


def test_the_ellipse_is_that_of_the_gaussian(browser: Chrome, tmp_path: Path) -> None:
    """At two standard deviations, along and across a slanted needle."""
    angle, long, short = np.deg2rad(30), 0.5, 0.08
    quat = torch.tensor([[[np.cos(angle / 2), 0, 0, np.sin(angle / 2)]]], dtype=torch.float32)
    scales = torch.tensor([[[long, short, 0.1]]])
    needle = Gaussians(torch.zeros(1, 1, 3), scales, quat, torch.full((1, 1, 3), 0.5), torch.full((1, 1), 0.9))
    camera, side = Camera("orthographic", distance=1.0, blur=0.0), 100
    path = tmp_path / "needle.html"
    write_page(Scene(needle, camera, side, side, photograph(side, side)), PageRequest("x", 1), path, "needle.jpg")
    with visit(browser, path) as opened:
        opened["frame"].send_keys(Keys.ENTER)  # the middle
        opened.wait_for(opened.owner, "Gaussian 1 of 1, held")
        assert "25.0 × 4.0 px, 30°" in opened["parameters"].text
        ink = opened.pixels("marks")[..., 3] > 128
        y, x = (np.argwhere(ink).T + 0.5) / len(ink) * side - side / 2
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        assert np.abs(along).max() == pytest.approx(50, abs=1) and np.abs(across).max() == pytest.approx(8, abs=1)


# --- safety and looks --------------------------------------------------------------------------------


def test_a_hostile_file_name_is_inert(browser: Chrome, checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(photograph(20, 30)).save(tmp_path / f"{EVIL}.jpg")
    arguments = ["view", str(tmp_path / f"{EVIL}.jpg"), "-o", str(tmp_path), "--checkpoint", str(checkpoint)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    with visit(browser, tmp_path / f"{EVIL}.html") as opened:
        opened.wait_for(lambda: bool(opened["render"].get_attribute("data-shown")), True)  # an alert would raise
        assert browser.find_element(By.TAG_NAME, "h1").text == f"{EVIL}.jpg"
        assert browser.title == f"{EVIL}.jpg · gmae-tools"
        sources = browser.execute_script("return [...document.images].map((image) => image.src.slice(0, 11))")
        assert set(sources) == {"data:image/"}


def test_the_policy_stops_what_is_put_in(browser: Chrome, page: Path) -> None:
    script = """const script = document.createElement("script");
        script.textContent = "window.intruder = true";
        document.body.append(script);
        const image = new Image();
        image.onerror = () => arguments[1](window.intruder ?? false);
        image.src = arguments[0];"""
    with visit(browser, page), socket.create_server(("127.0.0.1", 0)) as server:
        assert browser.execute_async_script(script, f"http://127.0.0.1:{server.getsockname()[1]}/x.png") is False
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
        blocked = [entry["message"] for entry in browser.get_log("browser")]
        assert len(blocked) == 2 and all("Content Security Policy" in message for message in blocked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_is_readable(browser: Chrome, page: Path, scheme: str) -> None:
    """WCAG AA: text has a contrast of at least 4.5 to 1."""
    script = """const probe = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        const rgb = (color) => { probe.fillStyle = color; probe.fillRect(0, 0, 1, 1);
                                 return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3); };
        const behind = (element) => { const color = getComputedStyle(element).backgroundColor;
          return color === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : color; };
        return [...document.querySelectorAll("h1, header p, .caption, legend, .segments span, .numbers label, .muted,"
          + " .tops label, h2, summary, footer, kbd, dd")].map((element) =>
          [element.textContent, rgb(getComputedStyle(element).color), rgb(behind(element))]);"""
    with visit(browser, page, prefers_color_scheme=scheme) as opened:
        colors = browser.execute_script(script)
        assert len(colors) > 30
        for text, ink, paper in colors:
            light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, text
        body = luminance(
            browser.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")
        )
        assert body > 0.8 if scheme == "light" else body < 0.1
        assert opened["frame"].rect["height"] > 300


def test_fits_a_narrow_window(browser: Chrome, page: Path) -> None:
    size = browser.get_window_size()
    browser.set_window_size(600, 900)
    try:
        with visit(browser, page) as opened:
            frame = opened["frame"].rect
            assert frame["width"] / frame["height"] == pytest.approx(WIDTH / HEIGHT, rel=0.01) and frame["width"] > 400
            assert browser.execute_script("return document.body.scrollWidth <= innerWidth")
            opened["show-figure"].click()  # below the picture
    finally:
        browser.set_window_size(size["width"], size["height"])


def luminance(rgb: list[int]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    levels = np.array(rgb, float) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_saves_no_more_than_it_says(page: Path) -> None:
    """float32, 17 numbers a Gaussian."""
    (table,) = re.findall(r'"table":"([^"]+)"', page.read_text(encoding="utf-8"))
    assert len(base64.b64decode(table)) == 4 * 17 * K
