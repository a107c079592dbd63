"""The pictures of the README and of the site, drawn anew: one command for all of them.

- Those of the gallery are what the commands on its page write: a line `<!-- picture: NAME.jpg of FILE -->` before a
  block of `docs/gallery.md` says which file, of the last folder named by `--out`. The commands stand nowhere else.
- `overview` shows the readouts of one photograph side by side; `cameras` and `order` explain conventions.
- The page on which one can take a photograph apart is photographed in Chromium; its picture stays as it is where there
  is none (Debian: apt install chromium chromium-driver).

    python -m evals.benchmarks.readme_pictures
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from PIL import Image

from evals.common import ROOT, run_gmae_tools
from gmae_tools import checkpoints
from gmae_tools.camera import Camera, CameraKind, project
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import resize
from gmae_tools.model import GMAE
from gmae_tools.report.contact_sheet import Panel, Section, contact_sheet
from gmae_tools.report.edges import ink
from gmae_tools.report.figures import depth_colors, depth_range
from gmae_tools.report.segment import overlay
from gmae_tools.scene import Scene
from gmae_tools.system.files import atomic_path
from gmae_tools.zeroshot.layers import render_layers

GALLERY, CUP = ROOT / "docs" / "gallery.md", ROOT / "docs" / "photos" / "coffee.jpg"
PICTURE = re.compile(r"^<!-- picture: (\S+\.jpg) of (\S+) -->\n+```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LARGEST = 150_000  # bytes of a picture
WIDEST = 1600  # px
VIEW = "view.jpg"  # the only one that needs a browser
WINDOW = 1200, 620  # px
POINTED_AT = 0.576, 0.284  # of the width and the height: the coffee
PANEL = 240  # px, width of a picture of the overview
BLACK, GREY = "0.1", "0.6"  # of figures


@dataclass(frozen=True)
class GalleryPicture:
    """A picture of the gallery: its name, the file that it is made of, and the commands that write that file."""

    name: str
    file: str
    commands: list[list[str]]

    @property
    def folder(self) -> str:
        """Where the last command writes."""
        return self.commands[-1][self.commands[-1].index("--out") + 1]


def gallery(text: str) -> list[GalleryPicture]:
    """The pictures that the text of the gallery asks for."""
    found = []
    for name, file, block in PICTURE.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("gmae-tools ")]
        found.append(GalleryPicture(name, file, commands))
    return found


@click.command()
@click.option("--checkpoint", default="gmae-tiny", show_default=True, help="The model of all pictures.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "images", help="Folder for the pictures."
)
def main(checkpoint: str, out: Path) -> None:
    """Draw them into the folder."""
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    model = checkpoints.load(checkpoint)
    keep(overview(model), out / "overview.jpg")
    keep(cameras(), out / "cameras.jpg")
    keep(order(), out / "order.jpg")
    with working_folder() as work:
        for picture in gallery(GALLERY.read_text(encoding="utf-8")):
            for arguments in picture.commands:
                run_gmae_tools(*arguments, "--checkpoint", checkpoint)
            made = work / picture.folder / picture.file
            if picture.name == VIEW:
                page, made = made, work / "view.png"
                if not photograph_page(page, made):
                    continue
            keep(Image.open(made), out / picture.name)


@contextmanager
def working_folder() -> Iterator[Path]:
    """A temporary folder to work in, from which the commands of the gallery find the photographs."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("docs", "gmae_tools"):
            Path(temporary, name).symlink_to(ROOT / name)
        os.chdir(temporary)
        try:
            yield Path(temporary)
        finally:
            os.chdir(before)


def keep(picture: Image.Image, path: Path) -> None:
    """Write a picture, as good as the limit of its size allows."""
    picture = picture.convert("RGB")
    if picture.width > WIDEST:
        size = WIDEST, round(picture.height * WIDEST / picture.width)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    with atomic_path(path) as temporary:
        for quality in range(90, 30, -5):
            picture.save(temporary, "jpeg", quality=quality, optimize=True, progressive=True)
            if temporary.stat().st_size <= LARGEST:
                break
    click.echo(path)


# --- drawn here --------------------------------------------------------------------------------------


def overview(model: GMAE) -> Image.Image:
    """A photograph and what its Gaussians say about it, side by side."""
    scene = model.predict(CUP)
    height, width = round(PANEL * scene.height / scene.width), PANEL
    small = scene.resized(height, width)
    nearest = replace(
        small, photo=None, gaussians=small.gaussians.sort_by_depth().map(lambda part: part[:, : scene.k // 2])
    )
    edges = model.look(CUP).edges("regions-and-photo")
    found = scene.mask()
    panels = [
        Panel(resize(scene.picture(), height, width), "photograph"),
        Panel(replace(small, photo=None).picture(), f"{scene.k:,} Gaussians"),
        Panel(nearest.picture(), f"the nearest {nearest.k:,}"),
        Panel(depth_picture(small), "their depth", depth_scale=True),
        Panel(ink(edges, height, width), "edges"),
        Panel(resize(overlay(scene.picture(), found.mask), height, width), "figure"),
    ]
    sheet = contact_sheet("", "", [Section("", panels)])
    top = next(row for row in range(len(sheet)) if (sheet[row] != sheet[0, 0]).any()) - 12
    return Image.fromarray(sheet[top:])


def depth_picture(scene: Scene) -> np.ndarray:
    """Expected depth in colours, uint8 RGB `[H, W, 3]`."""
    pictures = render_layers(scene, [scene.k], 1)
    depth, alpha = (part.detach().squeeze().numpy() for part in (pictures.depth, pictures.alpha))
    return depth_colors(depth, alpha, *depth_range(depth, alpha))


def cameras() -> Image.Image:
    """The same row of Gaussians, one behind the other, as the three kinds of cameras see them."""
    places = torch.tensor([[-0.5, -0.5, -0.6], [-0.18, -0.12, -0.2], [0.15, 0.22, 0.2], [0.45, 0.58, 0.6]])
    gaussians = balls(places, 0.16)
    figure = Figure(figsize=(10, 2.7), layout="constrained")
    kinds: dict[CameraKind, str] = {
        "gmae": "gmae: places stay, sizes shrink",
        "pinhole": "pinhole: both in perspective",
        "orthographic": "orthographic: neither",
    }
    for axes, (kind, title) in zip(figure.subplots(1, 3), kinds.items(), strict=True):
        # So near that perspective shows; models have their camera 8 units away.
        splats = project(gaussians, Camera(kind, distance=2.0, focal=2.0, blur=0.0), 200, 300)
        draw_splats(axes, splats.means[0], splats.conics[0], [f"z = {place[2]:+.1f}" for place in places.tolist()])
        axes.set(xlim=(0, 300), ylim=(200, 0), title=title, xlabel="x (px)", aspect="equal")
        axes.title.set_fontsize(11)
    return as_picture(figure)


def order() -> Image.Image:
    """Two Gaussians of the same shape in either order: what is nearer covers what is farther."""
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    orange, blue = [0.9, 0.45, 0.1], [0.15, 0.4, 0.8]
    shown = {"orange nearer (z = -0.5)": (-0.5, 0.5), "blue nearer (z = -0.5)": (0.5, -0.5)}
    columns = figure.subplots(1, 3)
    for axes, (title, (left, right)) in zip(columns, shown.items(), strict=False):
        gaussians = balls(torch.tensor([[-0.2, 0.0, left], [0.2, 0.0, right]]), 2.0, [orange, blue], opacity=0.95)
        picture = Scene(gaussians, Camera(), 100, 150).picture()
        axes.imshow(picture, extent=(-1, 1, 1, -1), aspect="auto")
        axes.set(title=title, xlabel="x (half widths)", ylabel="y (half heights)")
    pixels = columns[2]
    pixels.set(xlim=(0, 4), ylim=(3, 0), aspect="equal", xticks=range(5), yticks=range(4))
    pixels.set(title="pixel centres lie at +0.5", xlabel="x (px)", ylabel="y (px)")
    pixels.grid(color=GREY, linewidth=0.5)
    xs, ys = np.meshgrid(np.arange(4) + 0.5, np.arange(3) + 0.5)
    pixels.plot(xs.ravel(), ys.ravel(), ".", color=BLACK)
    pixels.annotate("(0.5, 0.5)", (0.5, 0.5), (0.55, 0.42), fontsize=8)
    for axes in columns:
        axes.title.set_fontsize(11)
    return as_picture(figure)


def balls(
    means: torch.Tensor, scale: float, colors: list[list[float]] | None = None, opacity: float = 1.0
) -> Gaussians:
    """Round Gaussians at `means` `[K, 3]`."""
    count = len(means)
    return Gaussians(
        means=means[None],
        scales=torch.full((1, count, 3), scale),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4),
        colors=torch.tensor(colors or [[0.5, 0.5, 0.5]] * count)[None],
        opacities=torch.full((1, count), opacity),
    )


def draw_splats(axes: Any, means: torch.Tensor, conics: torch.Tensor, labels: list[str]) -> None:
    """Ellipses of one standard deviation around `means` `[K, 2]`, of inverse covariances `conics` `[K, 3]`."""
    for index, ((x, y), (a, b, c), label) in enumerate(zip(means.tolist(), conics.tolist(), labels, strict=True)):
        variances, directions = np.linalg.eigh(np.linalg.inv([[a, b], [b, c]]))
        angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
        color = f"C{index}"
        axes.add_patch(
            Ellipse((x, y), 2 * variances[1] ** 0.5, 2 * variances[0] ** 0.5, angle=angle, alpha=0.5, color=color)
        )
        axes.plot(x, y, ".", color=BLACK)
        axes.annotate(label, (x + variances[1] ** 0.5, y), (4, -3), textcoords="offset points", fontsize=8)


def as_picture(figure: Figure) -> Image.Image:
    """A Matplotlib figure as a picture."""
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))


# --- photographed in a browser -----------------------------------------------------------------------


@contextmanager
def open_browser() -> Iterator[Any | None]:
    """Chromium without a window; None where there is none, no chromedriver, or no selenium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    try:
        from selenium.webdriver import Chrome, ChromeOptions, ChromeService
    except ImportError:
        program = None
    if not program or not driver:
        yield None
        return
    options = ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", *(["--no-sandbox"] if os.geteuid() == 0 else [])):  # which root cannot have
        options.add_argument(flag)
    chrome = Chrome(options=options, service=ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def photograph_page(page: Path, picture: Path) -> bool:
    """With half of the Gaussians, the figure's outline and one Gaussian pointed at; whether there is a browser."""
    with open_browser() as browser:
        if browser is None:
            click.echo("no Chromium with chromedriver and selenium: view.jpg stays as it is", err=True)
            return False
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.wait import WebDriverWait

        size = dict(zip(("width", "height"), WINDOW, strict=True))
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "deviceScaleFactor": 1, "mobile": False})
        browser.get(page.as_uri())
        nearest = browser.find_element(By.ID, "nearest")
        half = int(nearest.get_attribute("max") or 0) // 2
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        browser.execute_script(script, nearest, half)
        browser.find_element(By.ID, "show-figure").click()
        render = browser.find_element(By.ID, "render")
        x, y = ((share - 0.5) * render.size[side] for share, side in zip(POINTED_AT, ("width", "height"), strict=True))
        ActionChains(browser).move_to_element_with_offset(render, round(x), round(y)).perform()
        caption = browser.find_element(By.ID, "caption")
        WebDriverWait(browser, 20).until(lambda _: f"K = {half}" in caption.text and "Figure" in caption.text)
        return bool(browser.save_screenshot(picture))


if __name__ == "__main__":
    main()
