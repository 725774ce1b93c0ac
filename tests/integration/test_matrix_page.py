# SPDX-License-Identifier: Apache-2.0
"""The matrix's page in a real browser: on a phone, on a desk, in the dark and on paper."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from pypdf import PdfReader

from recipe.follow.matrix.html import NAMES, as_html
from recipe.follow.matrix.store import load
from recipe.follow.matrix.table import Matrix
from recipe.follow.matrix.text import SYMBOLS, WANTS_WORK
from tests.recipe.matrices import hard_matrix, tall_matrix
from tests.recipe.world import Checkout

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
CHECKS = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")
PHONE, DESK = (360, 740), (1280, 800)
# An A4 sheet less the margins of the page's own style, in CSS pixels.
PORTRAIT, LANDSCAPE = (703, 1031), (1031, 703)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A page with what it did besides: requests, and messages of the console."""

    page: Page
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def ask(self, call: str) -> Any:
        return self.page.evaluate(f"() => {{ {CHECKS}; return checks.{call}; }}")


@dataclass(frozen=True, kw_only=True)
class Written:
    """A matrix and the file that its page is in."""

    matrix: Matrix
    path: Path

    @property
    def url(self) -> str:
        return self.path.as_uri()


Open = Callable[..., AbstractContextManager[Opened]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Root in a container has no sandbox and little shared memory.
        args = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["real", "hard"])
def written(
    request: pytest.FixtureRequest, real: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Written:
    path = tmp_path_factory.mktemp("page") / "matrix.html"
    if request.param == "hard":
        path.write_bytes(as_html(hard_matrix(), patchset="sm12x-patchset-v1:" + "ab" * 32))
        return Written(matrix=hard_matrix(), path=path)
    matrix = load(real.good("matrix", "--html", str(path), "--json").document)
    assert matrix is not None
    return Written(matrix=matrix, path=path)


@pytest.fixture
def opened(browser: Browser) -> Open:
    @contextmanager
    def open_page(url: str, size: tuple[int, int], **options: Any) -> Iterator[Opened]:
        viewport: Any = {"width": size[0], "height": size[1]}
        with browser.new_context(viewport=viewport, **options) as context:
            made = Opened(page=context.new_page())
            made.page.on("request", lambda request: made.requests.append(request.url))
            made.page.on("console", lambda message: made.messages.append(message.text))
            made.page.on("pageerror", lambda error: made.messages.append(str(error)))
            made.page.on("dialog", lambda dialog: made.messages.append(dialog.message))
            made.page.goto(url)
            yield made

    return open_page


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_it_fits_the_screen_and_a_finger(written: Written, opened: Open, size: Any) -> None:
    with opened(written.url, size, has_touch=True) as page:
        assert page.ask("overflow()")["page"] <= 0
        assert page.ask("small(14)") == []
        assert page.ask("narrow(24)") == []


def test_topics_and_releases_stay_in_view_while_the_table_scrolls(
    written: Written, opened: Open
) -> None:
    with opened(written.url, PHONE) as page:
        # As tall as the table, however many topics it has: this is about its left edge alone.
        tall = page.page.evaluate("document.querySelector('.scroll table').offsetHeight")
        page.page.set_viewport_size({"width": 360, "height": tall + 200})
        topics = page.ask("stuck('tbody th', 'left')")
        assert topics["moved"] > 100
        assert topics["off"] == []
        assert topics["seen"] == len(written.matrix.topics)
        page.page.set_viewport_size({"width": 360, "height": 300})
        releases = page.ask("stuck('thead tr:first-child th', 'top')")
        assert releases["moved"] > 50
        assert releases["off"] == []
        assert releases["seen"] > 1


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_every_link_leads_to_its_place(written: Written, opened: Open, size: Any) -> None:
    with opened(written.url, size) as page:
        assert page.ask("lost()") == []
        cell = page.page.locator("tbody td a").last
        cell.click()
        target = page.page.locator(":target")
        assert f"#{target.get_attribute('id')}" == cell.get_attribute("href")
        assert target.is_visible()


@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(written: Written, opened: Open, scheme: Any, media: Any) -> None:
    with opened(written.url, DESK, color_scheme=scheme) as page:
        page.page.emulate_media(media=media, color_scheme=scheme)
        paper = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light" or media == "print")
        assert page.ask("faint(4.5)") == []
        for state in {cell.state for cell in written.matrix.cells}:
            page.page.locator(f"td a.{state}").first.evaluate("link => link.click()")
            assert page.page.locator(":target").count() == 1
            assert page.ask("faint(4.5)") == []


def test_a_state_is_told_without_its_colour(written: Written, opened: Open) -> None:
    with opened(written.url, DESK) as page:
        told = page.ask("told()")
    cells = [cell for topic in written.matrix.topics for cell in written.matrix.row(topic)]
    assert len(told) == len(cells)
    for cell, row in zip(cells, told, strict=True):
        assert row["words"] == f"{cell.topic} on {cell.base}: {NAMES[cell.state]}"
        assert row["title"] == row["words"]
        assert row["symbol"] == SYMBOLS[cell.state]
    assert len(set(NAMES.values())) == len(set(SYMBOLS.values())) == len(NAMES)


def test_all_that_was_seen_is_told_and_what_to_type(written: Written, opened: Open) -> None:
    with opened(written.url, DESK) as page:
        told = page.ask("told()")
    cells = [cell for topic in written.matrix.topics for cell in written.matrix.row(topic)]
    for cell, row in zip(cells, told, strict=True):
        expected = [visible(line) for line in cell.evidence]
        if not any(cell.place in line for line in cell.evidence):
            expected.append(visible(f"first at {cell.place}"))
        assert Counter(row["lines"]) == Counter(expected)
        assert row["patch"] == (visible(f"by patches/{cell.patch}") if cell.patch else None)
        command = f"python build.py rebase --onto {cell.base}"
        assert (command in row["next"]) == (cell.state in WANTS_WORK)


def visible(text: str) -> str:
    """The text with every character that shows nothing written as Python would."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def test_it_asks_for_nothing_and_runs_nothing(written: Written, opened: Open) -> None:
    with opened(written.url, DESK) as page:
        page.page.mouse.move(400, 400)
        page.page.wait_for_load_state("networkidle")
        assert page.requests == [written.url]
        assert page.messages == []
        strange = page.page.locator("script, img, iframe, link, object, embed, svg, [onmouseover]")
        assert strange.count() == 0


@pytest.mark.parametrize("size", [PORTRAIT, LANDSCAPE], ids=["portrait", "landscape"])
def test_it_fits_a_sheet_of_paper(written: Written, opened: Open, size: Any) -> None:
    with opened(written.url, size, color_scheme="dark") as page:
        page.page.emulate_media(media="print")
        overflow = page.ask("overflow()")
        assert overflow["page"] <= 0
        assert overflow["table"] <= 0
        height = page.page.evaluate("document.documentElement.scrollHeight")
        pdf = PdfReader(BytesIO(page.page.pdf(format="A4", landscape=size == LANDSCAPE)))
    # What is kept together leaves some room at the end of a sheet.
    assert len(pdf.pages) <= 1.25 * height / size[1] + 1
    first = pdf.pages[0].extract_text()
    assert "topics by release" in first
    last_minor = written.matrix.bases[-1].removeprefix("v").rpartition(".")[0]
    assert last_minor in first.split()


def test_a_table_over_several_sheets_has_its_head_on_each(tmp_path: Path, opened: Open) -> None:
    path = tmp_path / "tall.html"
    path.write_bytes(as_html(tall_matrix(120), patchset="x"))
    with opened(path.as_uri(), PORTRAIT) as page:
        pdf = PdfReader(BytesIO(page.page.pdf(format="A4")))
    texts = [sheet.extract_text() for sheet in pdf.pages]
    sheets = [n for n, text in enumerate(texts) if re.search(r"^topic-\d+ *·", text, re.MULTILINE)]
    assert len(sheets) > 1
    assert all("1.0" in texts[n].split() and "1.1" in texts[n].split() for n in sheets)
