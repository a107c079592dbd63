"""The pictures of the README, drawn anew: what the commands write about the bundled photographs.

The photograph of the page on which one can walk through the Gaussians is taken in Chromium, and left as it is where
there is none (Debian: apt install chromium chromium-driver).

    python -m evals.benchmarks.readme_pictures
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from evals.common import PHOTO, ROOT, run_gmae_tools
from gmae_tools import checkpoints
from gmae_tools.system.files import atomic_path

CAT, CUP = PHOTO, ROOT / "docs" / "photos" / "coffee.jpg"
COUNTS = (32, 64, 128, 256, 512)  # of the nearest Gaussians
# The name of each, the command, and which of its files it is.
SHEETS = {
    "layers": (["layers", CAT], f"{CAT.stem}/sheet.png"),
    "edges": (["edges", CAT, "--readout", "layers", "--readout", "closed-regions"], "sheet.png"),
    "segment": (["segment", CUP], "sheet.png"),
}
DEPTH = "gmae-tiny-depth"  # the checkpoint of one more picture
WINDOW = 1200, 620  # px
POINTED_AT = 0.576, 0.284  # of the width and the height: the coffee


@click.command()
@click.option("--checkpoint", default="gmae-tiny", show_default=True)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "images", help="Folder for the pictures."
)
def main(checkpoint: str, out: Path) -> None:
    """Draw them into the folder."""
    out.mkdir(parents=True, exist_ok=True)
    all_of_them = checkpoints.load(checkpoint).config.k
    counts = ",".join([*(str(count) for count in COUNTS if count < all_of_them), "all"])
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name, (command, file) in SHEETS.items():
            extra = ["--k", counts] if name == "layers" else []
            run_gmae_tools(*command, *extra, "--checkpoint", checkpoint, "--out", work / name)
            keep(work / name / file, out / f"{name}.png")
        run_gmae_tools("layers", CUP, "--k", "64,256,512,all", "--checkpoint", DEPTH, "--out", work / "depth")
        keep(work / "depth" / CUP.stem / "sheet.png", out / "layers-depth.png")
        run_gmae_tools("view", CUP, "--checkpoint", checkpoint, "--out", work / "view")
        if photograph_page(next((work / "view").rglob("*.html")), work / "view.png"):
            keep(work / "view.png", out / "view.png")


def keep(made: Path, path: Path) -> None:
    with atomic_path(path) as temporary:
        shutil.copyfile(made, temporary)
    click.echo(path)


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
            click.echo("no Chromium with chromedriver and selenium: view.png stays as it is", err=True)
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
