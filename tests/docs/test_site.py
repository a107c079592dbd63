"""The site: it builds without warnings, asks for nothing from elsewhere, and shows what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

import gmae_tools
from evals.benchmarks.readme_pictures import open_browser
from evals.common import RESULTS
from evals.quoted import TABLES
from gmae_tools.cli import main

for package in ("material", "mkdocstrings"):
    pytest.importorskip(package, reason="needs the extra docs")

PATIENCE = 60  # s, of a browser on a busy machine
PICTURE_LIMIT = 150_000  # bytes
LOADING = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
PAGES_LINKED = {"alternate", "canonical", "next", "prev"}  # `link` elements that load nothing


class Loaded(HTMLParser):
    """Addresses that a browser would load by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "link" and given.get("rel") in PAGES_LINKED:
            return
        if address := given.get(LOADING.get(tag, "")):
            self.found.append(address)


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning fails the build, above all a link or an anchor that leads nowhere."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(repository), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.found
        assert [address for address in parser.found if re.match(r"(\w+:)?//", address)] == []
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert re.findall(r"url\(\s*['\"]?(?:\w+:)?//[^)]*|@import[^;]*//[^;]*", text) == []


@pytest.mark.slow
def test_search_works_from_a_disk_and_a_browser_loads_nothing_from_elsewhere(site: Path) -> None:
    with open_browser() as browser:
        if browser is None:
            pytest.skip("needs Chromium with chromedriver and selenium")
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.wait import WebDriverWait

        wait = WebDriverWait(browser, PATIENCE)
        browser.set_window_size(1500, 1000)
        for page in ("index.html", "api/scene.html"):
            browser.get((site / page).as_uri())
            query = browser.find_element(By.CSS_SELECTOR, "input.md-search__input")
            wait.until(lambda _, query=query: query.is_displayed())
            query.send_keys("pixel centres")
            found = wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, ".md-search-result__item"))
            assert found
            loaded = browser.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
            assert [address for address in loaded if not address.startswith(("file:", "data:"))] == []
            assert [line for line in browser.get_log("browser") if line["source"] == "network"] == []


@pytest.mark.slow
def test_tables_of_results_are_on_their_pages(site: Path, repository: Path) -> None:
    used = set()
    for page in ("results", "checkpoints"):
        text = (site / f"{page}.html").read_text(encoding="utf-8")
        source = (repository / "docs" / f"{page}.md").read_text(encoding="utf-8")
        used |= set(re.findall(r"<!-- table: (\S+) -->", source))
        assert "<!-- table" not in text and "<table>" in text
    assert used == set(TABLES) - {"summary"}
    csv = (RESULTS / "bsds500-test.csv").read_text(encoding="utf-8")
    ods = float(re.search(r"^closed-regions,,\"1,2,3,4\",([\d.]+)", csv, re.MULTILINE)[1])  # type: ignore[index]
    assert f'<td style="text-align: right;">{ods:.3f}</td>' in (site / "results.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command_line_is_whole(site: Path) -> None:
    text = (site / "command-line.html").read_text(encoding="utf-8")

    def check(command: click.Command, path: str) -> None:
        assert f'id="{path.replace(" ", "-")}"' in text or path == "gmae-tools"
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[-1] in text, f"{path} {parameter.opts}"
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                inner = command.get_command(click.Context(command), name)
                assert inner is not None
                check(inner, f"{path} {name}")

    check(main, "gmae-tools")


@pytest.mark.slow
def test_the_api_has_the_front_door(site: Path) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    for name in set(gmae_tools.__all__) - {"__version__"}:
        home = getattr(gmae_tools, name).__module__
        assert f'id="{home}.{name}"' in text


def test_pictures_are_small_and_all_are_used(repository: Path) -> None:
    folder = repository / "docs" / "images"
    pages = [repository / "README.md", *(repository / "docs").rglob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    pictures = list(folder.iterdir())
    assert pictures
    assert [path.name for path in pictures if path.stat().st_size > PICTURE_LIMIT] == []
    assert [path.name for path in pictures if f"images/{path.name})" not in text] == []
