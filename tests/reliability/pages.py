"""Pages and drawings about photographs whose names and metadata are code.

The names are what attackers try first (tags with `onerror`, quotes, comments, entities, templates, line breaks, text
that turns round, bytes that are no UTF-8); the photographs carry the like in EXIF, XMP and comments; the checkpoint's
folder, its notes and everything that a benchmark's configuration and scripts say carry them too.

`view`, `layers --html`, `export --format svg`, `density` and `report` make their files of them. Asked of each:

- as text: a page has the elements and attributes of a page about a harmless name, no others; a content security policy
  that allows nothing by default; no address but `data:`, places in the page and files beside it; and no byte of the
  metadata. A drawing has the elements of a harmless one, and no script, handler or address.
- in a browser, where there is one, with the policy and without it (which only escaping stands behind then): nothing
  opens a dialogue, no element is there that should not be, nothing is asked of any server, no file is read.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
from click.testing import CliRunner
from PIL import Image, PngImagePlugin

from gmae_tools.cli import main
from tests.reliability.flaws import Flaw, require
from tests.reliability.outcome import Outcome, TimeBox

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PART = "pages"
CODE = "<img src=x onerror=alert(1)>"
METADATA = "METADATA<script>alert(2)<\\/script><img src=y onerror=alert(2)>"
HARMLESS = "photo"
NAMES = (
    CODE,
    "<svg onload=alert(1)>",
    "<script>alert(1)<",
    "\"'><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)' x='",
    "--><img src=x onerror=alert(1)>",
    "]]><img src=x onerror=alert(1)>",
    "&lt;img src=x onerror=alert(1)&gt;",
    "&#60;script&#62;",
    "{{ 7 * 7 }}{% raw %}",
    "${alert(1)} $name $$ $data",
    "`;alert(1);`",
    "$x_1$ \\frac{$ %s {0} %(name)s",
    "javascript:alert(1)",
    "data:text&html,<script>alert(1)<",
    "\u202egpj.\u2066<b>",
    "line\nbreak\r\u2028<b>\x1b[31m\x07",
    "<" * 200,
    os.fsdecode(b"caf\xe9 \xff<b>"),
)

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless=new", "--hide-scrollbars", "--disable-dev-shm-usage", "--use-angle=swiftshader",
          "--enable-unsafe-swiftshader")  # fmt: skip
_ADDRESSES = ("src", "href", "srcset", "action", "formaction", "data", "poster", "background", "ping", "xlink:href")
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
_SVG = "{http://www.w3.org/2000/svg}"


# --- what is written ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """Pages and drawings about one name."""

    pages: list[Path]
    drawings: list[Path]


def write_all(name: str, folder: Path) -> Written:
    """Let every command that writes pages or drawings write them about a photograph and a checkpoint of this name."""
    photo = folder / f"{name}.jpg"
    photo.write_bytes(photograph("jpeg"))
    checkpoint = folder / encodable(name)  # safetensors knows no other names
    _save_checkpoint(checkpoint, name)
    common = [str(photo), "--checkpoint", str(checkpoint)]
    _run("view", *common, "-o", str(folder / "view"), "--layers", "2")
    _run("layers", *common, "-o", str(folder / "layers"), "--layers", "2", "--k", "all", "--html")
    _run("export", *common, "-o", str(folder / "export"), "--format", "svg")
    _run("density", *common, "-o", str(folder / "density"))
    config = _write_benchmark(name, folder / "benchmark")
    _run("report", str(config), "--checkpoint", str(checkpoint), "-o", str(folder / "report"), status=1)  # a part fails
    found = [path for path in folder.rglob("*") if path.suffix in (".html", ".svg")]
    pages = sorted(path for path in found if path.suffix == ".html")
    drawings = sorted(path for path in found if path.suffix == ".svg" and "benchmark" not in path.parts)
    require(len(pages) == 3 and len(drawings) == 3, f"{len(pages)} pages and {len(drawings)} drawings were written")
    return Written(pages, drawings)


def _run(*arguments: str, status: int = 0) -> None:
    """Run a command of `gmae-tools` in this process, and make sure of its exit code."""
    result = CliRunner().invoke(main, list(arguments), env={"GMAE_TOOLS_DATA": None})
    said = (result.stderr.strip().splitlines() or [""])[-1]
    require(result.exit_code == status, f"{arguments[0]} ends with {result.exit_code}: {said or result.exception!r}")


def photograph(form: str) -> bytes:
    """A small picture with metadata of all kinds that its format has."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    exif = Image.Exif()
    for tag in (0x010E, 0x010F, 0x013B, 0x8298):  # description, make, artist, copyright
        exif[tag] = METADATA
    options: dict[str, object] = {"exif": exif}
    if form == "jpeg":
        options |= {"comment": METADATA.encode(), "xmp": f"<x>{METADATA}</x>".encode()}
    if form == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("Title", METADATA)  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _save_checkpoint(folder: Path, name: str) -> None:
    import torch

    from gmae_tools import checkpoints
    from gmae_tools.model import GMAE, GMAEConfig

    torch.manual_seed(0)
    checkpoints.save(GMAE(GMAEConfig.preset("nano")), folder, training={"samples": encodable(name), "recipe": CODE})


_SCRIPT = '''"""How? CODE `CODE`

- CODE: CODE
"""
from pathlib import Path
results = Path(sys.argv[1])
print("CODE")
(results / "t.csv").write_text('CODE,b\\n"CODE",1\\n"<script>alert(1)</script>",2\\n', encoding="utf-8")
(results / "f.svg").write_text(
    '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="alert(3)"><script>alert(3)</script></svg>'
)
if len(sys.argv) > 2:
    sys.exit("CODE")
'''


def _write_benchmark(name: str, folder: Path) -> Path:
    """A configuration with a part that works and one that fails, both full of code."""
    folder.mkdir()
    text = encodable(name).replace("\\", "").replace("\n", " ").replace("\r", " ")
    quoted = json.dumps(f"{CODE} {''.join(char for char in text if char.isprintable())}", ensure_ascii=False)
    (folder / "script.py").write_text(_SCRIPT.replace("CODE", CODE), encoding="utf-8")
    (folder / "config.toml").write_text(
        f'title = {quoted}\n[[parts]]\nname = "works"\nquestion = {quoted}\nscript = "script.py"\n'
        f'arguments = "{{results}}"\ntables = [{{ file = "t.csv", caption = {quoted} }}]\n'
        f'figures = [{{ file = "f.svg", caption = {quoted} }}]\n'
        f'[[parts]]\nname = "fails"\nquestion = {quoted}\nscript = "script.py"\narguments = "{{results}} fail"\n',
        encoding="utf-8",
    )
    return folder / "config.toml"


def encodable(text: str) -> str:
    """Text without what UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


# --- as text -----------------------------------------------------------------------------------------


@dataclass
class Elements(HTMLParser):
    """The elements of a page as a browser sees them."""

    found: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def outline(self) -> Counter[tuple[str, ...]]:
        """How many elements there are of each tag and names of attributes."""
        return Counter((tag, *sorted(attributes)) for tag, attributes in self.found)


def parse(page: str) -> Elements:
    """The elements of a page."""
    elements = Elements()
    elements.feed(page)
    elements.close()
    return elements


def check_page(page: str, harmless: str) -> None:
    """Compare a page with one about a harmless name.

    Raises:
        Flaw: it has what it should not have.
    """
    elements = parse(page)
    require(elements.outline() == parse(harmless).outline(), f"other elements: {_surplus(elements, parse(harmless))}")
    policies = [each["content"] for tag, each in elements.found if tag == "meta" and "http-equiv" in each]
    require(len(policies) == 1 and policies[0].startswith("default-src 'none';"), f"policies: {policies}")
    require("unsafe" not in policies[0] and "*" not in policies[0], f"a policy that allows much: {policies[0]}")
    require("http-equiv" in elements.found[[tag for tag, _ in elements.found].index("meta") + 1][1], "a late policy")
    for tag, attributes in elements.found:
        handlers = [name for name in attributes if name.startswith("on")]
        require(not handlers, f"{tag} has {handlers}")
        for name in set(attributes) & set(_ADDRESSES):
            address = attributes[name]
            good = address.startswith(("data:image/", "#")) or address == "data:," or _is_beside(address)
            require(good, f"{tag} has the address {address[:80]}")
    require("METADATA" not in page, "metadata are in the page")


def _surplus(elements: Elements, others: Elements) -> list[tuple[str, ...]]:
    return list((elements.outline() - others.outline()) + (others.outline() - elements.outline()))[:5]


def _is_beside(address: str) -> bool:
    """Whether it is the address of a table or a figure of the report."""
    return re.fullmatch(r"(tables|figures)/[A-Za-z0-9][\w.-]*", address) is not None


def check_drawing(drawing: bytes, harmless: bytes) -> None:
    """Compare an SVG with one about a harmless name.

    Raises:
        Flaw: it has what it should not have.
    """
    try:
        elements, others = (list(ElementTree.fromstring(text).iter()) for text in (drawing, harmless))
    except ElementTree.ParseError as error:
        raise Flaw(f"not XML: {error}") from error
    tags = {element.tag for element in elements}
    require(tags <= {element.tag for element in others}, f"other elements: {tags - {other.tag for other in others}}")
    require(not tags & {f"{_SVG}script", f"{_SVG}foreignObject", f"{_SVG}a"}, "a drawing with a script or a link")
    for element in elements:
        for name, value in element.attrib.items():
            require(not name.lower().startswith("on"), f"{element.tag} has {name}")
            if name.rpartition("}")[2] == "href":
                require(value.startswith(("#", "data:image/png;")), f"{element.tag} has the address {value[:80]}")
    require(b"METADATA" not in drawing and b"<!ENTITY" not in drawing, "metadata or entities are in the drawing")


# --- in a browser ------------------------------------------------------------------------------------


@contextmanager
def open_browser() -> Iterator[Chrome | None]:
    """A browser that notes what it fetches; None where there is none, or no selenium."""
    program, driver = next(filter(None, map(shutil.which, _BROWSERS)), None), shutil.which("chromedriver")
    try:
        from selenium.webdriver import Chrome, ChromeOptions, ChromeService
    except ImportError:
        program = None
    if not program or not driver:
        yield None
        return
    options = ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])):  # which root cannot have
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def look_at(browser: Chrome, path: Path) -> dict[str, int]:
    """Open a page or a drawing; returns how many elements of each tag are there.

    Raises:
        Flaw: it opens a dialogue, or fetches something.
    """
    from selenium.common.exceptions import UnexpectedAlertPresentException

    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    try:
        browser.get(path.as_uri())
        tags = browser.execute_async_script(_COUNT)
    except UnexpectedAlertPresentException as error:
        raise Flaw(f"a dialogue opens: {error.alert_text}") from error
    asked = [_request(entry["message"]) for entry in browser.get_log("performance")]
    allowed = ("data:", "about:", "blob:")
    others = {url for url in asked if url and not url.startswith(allowed)} - {path.as_uri()}
    require(not others, f"fetched {sorted(others)[:3]}")
    found: dict[str, int] = tags
    return found


# After a while, in which handlers of what failed to load would have run.
_COUNT = """const done = arguments[arguments.length - 1];
    setTimeout(() => {
      const tags = {};
      for (const element of document.querySelectorAll("*")) tags[element.tagName] = (tags[element.tagName] ?? 0) + 1;
      done(tags);
    }, 300);"""


def _request(message: str) -> str | None:
    event = json.loads(message)["message"]
    url: str | None = event["params"]["request"]["url"] if event["method"] == "Network.requestWillBeSent" else None
    return url


def check_in_browser(browser: Chrome, path: Path, harmless: Path) -> None:
    """Look at a page, with its policy and without, or at a drawing.

    Raises:
        Flaw: something happens that does not happen with a harmless name.
    """
    expected = look_at(browser, harmless)
    found = look_at(browser, path)
    if path.suffix == ".svg":  # in which text may be drawn, of more or fewer letters
        require(found.keys() <= expected.keys(), f"{path.name}: other elements: {found.keys() - expected.keys()}")
        return
    require(found == expected, f"{path.name}: other elements in the browser: {found.items() ^ expected.items()}")
    open_to_all, count = _POLICY.subn("", path.read_text(encoding="utf-8"))
    require(count == 1, "no policy to be taken away")
    bare = path.with_name("without-policy.html")
    bare.write_text(open_to_all, encoding="utf-8")
    found = look_at(browser, bare)
    found["META"] += 1
    require(found == expected, f"{path.name} without policy: other elements: {found.items() ^ expected.items()}")
    bare.unlink()


# --- the part ----------------------------------------------------------------------------------------


def check_name(name: str, harmless: Written, folder: Path, browser: Chrome | None) -> int:
    """Write and check everything about one name; returns the number of files.

    Raises:
        Flaw: something is not as it should be.
    """
    written = write_all(name, folder)
    for page, other in zip(written.pages, harmless.pages, strict=True):
        check_page(page.read_text(encoding="utf-8"), other.read_text(encoding="utf-8"))
    for drawing, other in zip(written.drawings, harmless.drawings, strict=True):
        check_drawing(drawing.read_bytes(), other.read_bytes())
    for path, other in zip(_all(written), _all(harmless), strict=True):
        if browser:
            check_in_browser(browser, path, other)
    return len(_all(written))


def _all(written: Written) -> list[Path]:
    return [*written.pages, *written.drawings]


def campaign(box: TimeBox, seed: int, data: Path | None) -> Iterator[Outcome]:
    """All names, as long as there is time; in a browser where there is one."""
    times, failures = 0, []
    with open_browser() as browser, TemporaryDirectory() as folder:
        harmless = write_all(HARMLESS, _new(Path(folder), "harmless"))
        for number in range(len(NAMES)):
            name = NAMES[(number + seed) % len(NAMES)]
            if box.over() and number:
                break
            try:
                times += check_name(name, harmless, _new(Path(folder), str(number)), browser)
            except Flaw as flaw:
                failures.append(f"name {name!r}: {' '.join(str(flaw).split())}")
    note = "in a browser too" if browser else "as text only: no Chromium with chromedriver and selenium here"
    yield Outcome(PART, "pages and drawings about names and metadata that are code", times, tuple(failures), note)


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name
