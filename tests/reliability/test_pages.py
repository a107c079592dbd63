"""The campaign's part of pages and drawings, with some of the names; and that it notices what it should."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def campaign() -> ModuleType:
    from tests.reliability import pages

    return pages


@pytest.fixture(scope="module")
def harmless(campaign: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return campaign.write_all(campaign.HARMLESS, tmp_path_factory.mktemp("harmless"))


@pytest.fixture(scope="module")
def browser(campaign: ModuleType) -> Iterator[Any]:
    with campaign.open_browser() as chrome:
        if chrome is None:
            pytest.skip("needs selenium, Chromium and chromedriver (Debian: apt install chromium chromium-driver)")
        yield chrome


@pytest.mark.parametrize("index", [10, 16, 18])  # a template, line breaks, bytes that are no UTF-8
def test_pages_and_drawings_take_names_and_metadata_for_text(
    campaign: ModuleType, harmless: Any, index: int, tmp_path: Path
) -> None:
    assert campaign.check_name(campaign.NAMES[index], harmless, tmp_path, None) == 6


def test_they_are_inert_in_a_browser(campaign: ModuleType, harmless: Any, browser: Any, tmp_path: Path) -> None:
    """With their content security policy and without."""
    assert campaign.check_name(campaign.CODE, harmless, tmp_path, browser) == 6


# --- what has to be noticed --------------------------------------------------------------------------


def spoil(path: Path, old: str, new: str, folder: Path) -> Path:
    """A copy in which something is replaced."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    spoilt = folder / path.name
    spoilt.write_text(text.replace(old, new, 1), encoding="utf-8")
    return spoilt


@pytest.mark.parametrize(
    ("old", "new", "flaw"),
    [
        ("</h1>", "<img src=x onerror=alert(1)></h1>", "other elements"),
        ("default-src 'none'", "default-src *", "policies"),
        ("script-src 'sha256", "script-src 'unsafe-inline' 'sha256", "allows much"),
        ('href="data:,"', 'href="https://example.org/icon"', "address"),
        ("</h1>", "METADATA</h1>", "metadata"),
    ],
)
def test_a_bad_page_is_found_out(
    campaign: ModuleType, harmless: Any, old: str, new: str, flaw: str, tmp_path: Path
) -> None:
    page = next(path for path in harmless.pages if path.parent.name == "view")
    spoilt = spoil(page, old, new, tmp_path).read_text(encoding="utf-8")
    with pytest.raises(sys.modules["tests.reliability.flaws"].Flaw, match=flaw):
        campaign.check_page(spoilt, page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("old", "new", "flaw"),
    [
        ("</svg>", "<script>alert(1)</script></svg>", "other elements"),
        ("<circle ", '<circle onload="alert(1)" ', "onload"),
        ("<title>", "<title>&evil;", "not XML"),
    ],
)
def test_a_bad_drawing_is_found_out(
    campaign: ModuleType, harmless: Any, old: str, new: str, flaw: str, tmp_path: Path
) -> None:
    drawing = next(path for path in harmless.drawings if path.parent.name == "export")
    with pytest.raises(sys.modules["tests.reliability.flaws"].Flaw, match=flaw):
        campaign.check_drawing(spoil(drawing, old, new, tmp_path).read_bytes(), drawing.read_bytes())


@pytest.mark.parametrize(
    ("new", "flaw"),
    [
        ("<img src=x onerror=alert(1)>", "a dialogue opens|fetched"),
        ('<img src="http://127.0.0.1:9/x.png">', "fetched"),
        ("<p>more</p>", "other elements"),
    ],
)
def test_what_happens_in_a_browser_is_noticed(
    campaign: ModuleType, harmless: Any, browser: Any, new: str, flaw: str, tmp_path: Path
) -> None:
    """Also where only the policy stands in the way."""
    page = next(path for path in harmless.pages if path.parent.name == "report")
    with pytest.raises(sys.modules["tests.reliability.flaws"].Flaw, match=flaw):
        campaign.check_in_browser(browser, spoil(page, "</h1>", f"</h1>{new}", tmp_path), page)
