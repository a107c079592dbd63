"""The demo in a real browser, served by the command: what visitors do, and that nothing of it stays anywhere."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from gmae_tools.cli import main
from gmae_tools.demo.gradio_there import LEAST
from gmae_tools.demo.server import MOST_SENT, POLICY, Guard
from gmae_tools.formats import read
from tests.reliability.supply import least_version, requirements

HOST = "127.0.0.1"
PATIENCE = 120  # s, on a machine that does much else
RED, BLUE = (200, 30, 30), (30, 60, 200)


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1
    assert result.stderr == "error: the demo needs gradio: pip install 'gmae-tools[demo]'\n"


def test_an_old_gradio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "5.50.0")
    result = CliRunner().invoke(main, ["demo"])
    assert result.stderr == "error: the demo needs gradio 6.31 or newer, not 5.50.0: pip install 'gmae-tools[demo]'\n"


def test_the_bound_is_that_of_the_package() -> None:
    (asked,) = requirements()["extra demo"]
    assert least_version(asked) == ".".join(map(str, LEAST)), "else pip goes back to gradio 3 beside Pillow 13"


def test_the_space_has_the_gradio_that_is_tested(repository: Path) -> None:
    import yaml

    text = (repository / "app" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    assert f"gradio=={header['sdk_version']}" in (repository / "constraints.txt").read_text(encoding="utf-8").split()
    assert header["sdk"] == "gradio" and (repository / "app" / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60, "the hub refuses longer ones"
    assert "gmae-tools[demo]" in (repository / "app" / "requirements.txt").read_text(encoding="utf-8").splitlines()


# --- what stands before gradio ------------------------------------------------------------------------


def answer(method: str, path: str, *headers: tuple[bytes, bytes]) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers of what the guard answers, before an application that accepts everything."""
    sent: list[Any] = []

    async def accept(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(Guard(accept)(scope, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], dict(sent[0]["headers"])


def test_the_guard_takes_no_files_and_nothing_too_large() -> None:
    short, long = (b"content-length", b"10"), (b"content-length", str(MOST_SENT + 1).encode())
    assert answer("POST", "/gradio_api/upload", short)[0] == 403
    assert answer("POST", "/gradio_api/queue/join", long)[0] == 413
    assert answer("POST", "/gradio_api/queue/join")[0] == 411
    assert answer("POST", "/gradio_api/queue/join", short)[0] == 200
    status, headers = answer("GET", "/")
    assert status == 200 and headers[b"content-security-policy"].decode() == POLICY
    assert "http" not in POLICY, "no other host"


# --- in a browser --------------------------------------------------------------------------------------


@dataclass
class Server:
    """The command while it runs, and the folders in which it might leave something."""

    process: subprocess.Popen[str]
    address: str
    folder: Path

    def files(self) -> list[Path]:
        """Everything that it has written, wherever a program writes by itself."""
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture
def server(checkpoint: Path, tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="needs gradio")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "server"
    places = {"HOME": folder / "home", "TMPDIR": folder / "tmp", "XDG_CACHE_HOME": folder / "cache"}
    for place in (*places.values(), folder / "here"):
        place.mkdir(parents=True)
    root = Path(__file__).resolve().parents[2]
    places["MPLCONFIGDIR"] = tmp_path / "matplotlib"  # which lists the machine's fonts there, whoever visits
    environment = os.environ | {name: str(place) for name, place in places.items()} | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "gmae_tools", "demo", "--checkpoint", str(checkpoint), "--port", str(port)]
    with subprocess.Popen(
        command, cwd=folder / "here", env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().strip()
            assert address == f"http://{HOST}:{port}", process.stderr and process.stderr.read()
            yield Server(process, address, folder)
        finally:
            process.kill()


@dataclass
class Visitor:
    """A window of the browser on the demo."""

    chrome: Any
    address: str
    window: str

    def __enter__(self) -> Visitor:
        self.chrome.switch_to.window(self.window)
        return self

    def __exit__(self, *_: object) -> None: ...

    def find(self, selector: str) -> Any:
        return self.chrome.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return " ".join(self.find(selector).text.split())

    def picture(self, selector: str) -> np.ndarray:
        """What a part of the page shows, uint8 RGB `[H, W, 3]`."""
        source = self.find(f"{selector} img").get_attribute("src")
        return np.asarray(Image.open(io.BytesIO(b64decode(source.split(",")[1]))).convert("RGB"))

    def mean(self) -> np.ndarray:
        """Mean colour of the photograph that is shown."""
        return self.picture("#photograph").mean((0, 1))

    def drop(self, path: Path) -> None:
        self.find("#drop input[type=file]").send_keys(str(path))


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for: {what}"
        time.sleep(0.05)


@pytest.fixture
def chrome(tmp_path: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs Chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    for flag in ("--headless=new", "--window-size=1300,1000", "--disable-dev-shm-usage", *root):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    saved = {"behavior": "allow", "downloadPath": str(tmp_path / "saved")}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", saved)
    yield browser
    browser.quit()


def visitor(chrome: Any, address: str, *, new: bool = False) -> Visitor:
    if new:
        chrome.switch_to.new_window("window")
    chrome.get(address)
    visit = Visitor(chrome, address, chrome.current_window_handle)
    wait_for(lambda: chrome.find_elements("css selector", "#layers img"), "the page")
    return visit


def drawn(visit: Visitor) -> int:
    """How many Gaussians the picture is said to be of."""
    found = re.search(r"Nearest ([\d,]+) of", visit.text("#nearest"))
    return int(found[1].replace(",", "")) if found else 0


def flat(path: Path, color: tuple[int, int, int]) -> Path:
    Image.new("RGB", (120, 80), color).save(path)
    return path


@pytest.mark.slow
def test_two_visitors_and_nothing_stays(server: Server, chrome: Any, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    one = visitor(chrome, server.address)
    k = int(one.find("#k input[type=range]").get_attribute("max"))

    # A visitor drops a photograph; everything is shown of it.
    one.drop(flat(tmp_path / "red.png", RED))
    wait_for(lambda: np.allclose(one.mean(), RED, atol=4), "the photograph")
    assert one.text("#facts").startswith("Photograph red.png Model nano-random Gaussians")
    assert "120 × 80 px" in one.text("#photograph") and one.picture("#edges").shape == (80, 120, 3)
    assert len(one.chrome.find_elements("css selector", "#layers img")) == 8

    # The slider, by keyboard and by mouse; the picture follows.
    slider = one.find("#k input[type=range]")
    slider.send_keys(Keys.HOME)
    wait_for(lambda: one.text("#nearest").startswith(f"Nearest 1 of {k:,}"), "the nearest Gaussian alone")
    alone = one.picture("#nearest")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    wait_for(lambda: one.text("#nearest").startswith("Nearest 3 of"), "three Gaussians")
    ActionChains(chrome).drag_and_drop_by_offset(slider, slider.rect["width"] // 4, 0).perform()  # from the middle on
    wait_for(lambda: drawn(one) > k // 2, "most Gaussians")
    assert not np.array_equal(alone, one.picture("#nearest"))

    # A text is refused in a sentence, and what was there stays.
    (tmp_path / "notes.txt").write_text("just a few words")
    one.drop(tmp_path / "notes.txt")
    wait_for(lambda: one.text("#status") == "notes.txt: not a picture in a known format.", "the error")
    assert np.allclose(one.mean(), RED, atol=4)

    # Another visitor has another photograph, and neither sees the other's.
    two = visitor(chrome, server.address, new=True)
    assert two.text("#facts").startswith("Photograph demo.jpg") and two.text("#status") == ""
    two.drop(flat(tmp_path / "blue.png", BLUE))
    wait_for(lambda: np.allclose(two.mean(), BLUE, atol=4), "the other's photograph")
    with one:
        assert np.allclose(one.mean(), RED, atol=4)
        one.find("#save-ply button, button#save-ply").click()
        wait_for((tmp_path / "saved" / "red.ply").is_file, "the Gaussians")
    with two:
        two.find("#save-page button, button#save-page").click()
        wait_for((tmp_path / "saved" / "blue.html").is_file, "the page")
    assert read(tmp_path / "saved" / "red.ply").k == k
    assert "blue.png" in (tmp_path / "saved" / "blue.html").read_text(encoding="utf-8")

    # Nothing went to another host, nothing went wrong in the page, files are not taken.
    sent = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    called = {each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"}
    assert {url for url in called if not url.startswith(("data:", "blob:", server.address, "about:"))} == set()
    assert not [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    with pytest.raises(HTTPError, match="403"):
        urlopen(Request(f"{server.address}/gradio_api/upload", data=b"files"))

    # Nothing lies on the disk while the visitors are there, nor when the command has ended.
    assert server.files() == []
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(PATIENCE) == 130
    assert server.files() == [] and list((server.folder / "tmp").iterdir()) == []
