"""`gmae-tools view3d`: what a visitor's browser shows is the picture; the server starts and stops as it should."""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from gmae_tools.camera import Camera, project
from gmae_tools.cli import main
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.perspective import for_viewers
from gmae_tools.gaussians import Gaussians
from gmae_tools.report.view3d import serve
from gmae_tools.scene import Scene
from gmae_tools.splatting import rasterize

HOST = "127.0.0.1"
HEIGHT, WIDTH, K = 120, 192, 80
CAMERA = Camera("gmae", 8.0, 3.0)

HOME, ARROW_RIGHT = "\ue011", "\ue014"  # WebDriver's names of keys

needs_viser = pytest.mark.skipif(importlib.util.find_spec("viser") is None, reason="needs viser")


@pytest.fixture
def port() -> int:
    """One that is free."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture
def browser() -> Iterator[object]:
    """Headless Chromium with a window of the size of the picture."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, which drives the browser")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("headless=new", "no-sandbox", "use-angle=swiftshader", "enable-unsafe-swiftshader"):
        options.add_argument(f"--{argument}")
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield chrome
    chrome.quit()


def some() -> Gaussians:
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(1, K, *shape, generator=generator)

    return Gaussians(
        means=uniform(-0.9, 0.9, 3),
        scales=uniform(-2.0, 0.0, 3).exp(),
        quats=uniform(-1.0, 1.0, 4),
        colors=uniform(0.0, 1.0, 3),
        opacities=uniform(0.2, 1.0),
    )


def wait_for(condition: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too slow"
        time.sleep(0.05)


@needs_viser
def test_a_visitor_sees_the_picture(browser: object, port: int) -> None:
    gaussians = some()
    nearest = gaussians.sort_by_depth().select(slice(20))
    exported, view = for_viewers(Scene(gaussians, CAMERA, HEIGHT, WIDTH), 40.0)
    with serve(exported, view, host=HOST, port=port, title="picture", source="a test") as server:
        browser.get(f"http://{HOST}:{port}")  # type: ignore[attr-defined]
        wait_for(server.get_clients)
        (client,) = server.get_clients().values()
        wait_for(lambda: np.allclose(client.camera.position, (0, 0, -view.distance)))
        wait_for(lambda: abs(client.camera.fov - math.radians(view.fovs[1])) < 1e-3)

        def psnr(shown: Gaussians) -> float:
            """Of the visitor's picture, drawn by the browser, against ours of the Gaussians before they were moved."""
            splats = project(shown, CAMERA, HEIGHT, WIDTH)
            ours = rasterize(splats, HEIGHT, WIDTH, background=torch.ones(3)).image[0].movedim(0, -1).numpy()
            assert ours.std() > 0.05
            theirs = client.get_render(
                HEIGHT, WIDTH, wxyz=client.camera.wxyz, position=client.camera.position, fov=client.camera.fov,
                transport_format="png",
            )  # fmt: skip
            return float(-10 * np.log10(np.square(theirs[..., :3] / 255 - ours).mean()))

        wait_for(lambda: psnr(gaussians) > 35)  # sorting in the browser takes a moment
        thumb = browser.find_element("css selector", "[role=slider]")  # type: ignore[attr-defined]
        thumb.send_keys(HOME + ARROW_RIGHT * 19)
        wait_for(lambda: psnr(nearest) > 35)


@needs_viser
def test_a_taken_port_is_refused(port: int) -> None:
    scene = for_viewers(Scene(some(), CAMERA, HEIGHT, WIDTH))
    with socket.socket() as other:
        other.bind((HOST, port))
        other.listen()
        with (
            pytest.raises(GmaeToolsError, match=rf"cannot listen on {HOST}, port {port} .* choose another"),
            serve(*scene, host=HOST, port=port, title="", source=""),
        ):
            pass


@needs_viser
def test_command_serves_until_interrupted(checkpoint: Path, port: int, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(photo)
    command = [sys.executable, "-m", "gmae_tools", "view3d", photo, "--checkpoint", checkpoint, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stderr
            url = process.stdout.readline().strip()
            assert url == f"http://{HOST}:{port}"
            with urlopen(url) as page:
                assert re.search(b"<title>viser</title>", page.read(), re.IGNORECASE)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130
            assert process.stdout.read() == ""
            said = process.stderr.read().splitlines()  # on a slow machine also what is loaded
            assert said[-1] == "error: interrupted" and all(line.startswith("loading ") for line in said[:-1])
        finally:
            process.kill()


def test_without_viser_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    result = CliRunner().invoke(main, ["view3d", str(tmp_path / "photo.png")])
    assert result.exit_code == 1
    assert result.stderr == "error: the 3-D view needs viser: pip install 'gmae-tools[view3d]'\n"


@needs_viser
def test_a_missing_picture(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["view3d", str(tmp_path / "photo.png")])
    assert (result.exit_code, result.stderr) == (1, f"error: {tmp_path / 'photo.png'}: no such file\n")
