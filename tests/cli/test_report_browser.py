"""The report page in a real browser: no request, sorting, filtering, details, dark and light, phones, print."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers_runs import make_run

from recbench.experiment.report import make_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# RECBENCH_BROWSER names a Chromium or Chrome that is not on the path.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_BROWSER = os.environ.get("RECBENCH_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_PHONE = 390
_PATIENCE_MS = 120_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        _BROWSER is None, reason="needs Chromium: install it, or name one in the environment variable RECBENCH_BROWSER"
    ),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a leaderboard of five methods, one of them with a long name, and a try-out."""
    from recbench.contracts.protocol import Protocol

    folder = tmp_path_factory.mktemp("browser")
    log = [{"step": n, "loss": 1 / n} for n in range(1, 20)]
    for name, quality in (("sasrec", 0.3), ("gru4rec", 0.2), ("caser", 0.1), ("popularity", 0.0)):
        make_run(folder / "runs", name, quality=quality, train_log=log)
    make_run(folder / "runs", "plugin.of-some-laboratory.with-a-very-long-name", quality=0.4)
    make_run(folder / "runs", "sasrec", protocol=Protocol(limit_test=20))
    make_report(folder / "runs", folder / "report", ("html",))
    return folder / "report" / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra 'dev'")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_BROWSER, args=_FLAGS, timeout=_PATIENCE_MS)
        yield browser
        browser.close()


class Visit:
    """One page with what it asked for and complained about."""

    def __init__(self, browser: Browser, index: Path, **context: object) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})  # type: ignore[arg-type]
        self.context.set_default_timeout(_PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(index.as_uri())

    @property
    def board(self) -> str:
        """Selector of the first leaderboard's table."""
        return ".group > section[id$='-leaderboard'] table >> nth=0"

    def labels(self) -> list[str]:
        """Return the methods of the first leaderboard that are seen, in order."""
        rows = self.page.locator(self.board).locator("tbody tr:not([hidden]) th")
        return [text.strip() for text in rows.all_inner_texts()]


@pytest.fixture
def visit(browser: Browser, index: Path) -> Iterator[Visit]:
    visit = Visit(browser, index)
    yield visit
    visit.context.close()


def test_nothing_is_asked_for_and_nothing_complains(visit: Visit, index: Path) -> None:
    visit.page.locator("button.entry").first.click()
    assert [url for url in visit.requests if url != index.as_uri() and not url.startswith("data:")] == []
    assert visit.complaints == []


def test_sorting_changes_the_order_and_says_so(visit: Visit) -> None:
    before = visit.labels()
    header = visit.page.locator(visit.board).locator("thead th", has_text="Method")
    assert header.get_attribute("aria-sort") == "none"
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert visit.labels() == sorted(before) != before
    # By the keyboard, too.
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert visit.labels() == sorted(before, reverse=True)
    metric = visit.page.locator(visit.board).locator("thead th", has_text="NDCG@10 item")
    metric.locator("button").click()
    assert metric.get_attribute("aria-sort") == "descending"
    assert header.get_attribute("aria-sort") == "none"
    assert visit.labels() == before


def test_the_filter_hides_rows(visit: Visit) -> None:
    box = visit.page.locator(".filter input").first
    box.fill("rec sasrec")
    assert visit.labels() == ["sasrec"]
    assert visit.page.locator(".filter output").first.inner_text() == "1 of 5 rows"
    box.fill("")
    assert len(visit.labels()) == 5


def test_details_open_and_close(visit: Visit) -> None:
    button = visit.page.locator("button.entry", has_text="gru4rec").first
    panel = visit.page.locator(f"#{button.get_attribute('popovertarget')}")
    assert not panel.is_visible()
    button.click()
    assert panel.is_visible()
    assert "recbench run --config" in panel.inner_text()
    visit.page.keyboard.press("Escape")
    assert not panel.is_visible()


def test_more_columns_on_request(visit: Visit) -> None:
    column = visit.page.locator(visit.board).locator("thead th", has_text="MRR@20 item")
    assert not column.is_visible()
    visit.page.locator(".more-switch input").first.check()
    assert column.is_visible()


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_dark_by_the_system_and_by_the_button(browser: Browser, index: Path) -> None:
    light, dark = Visit(browser, index, color_scheme="light"), Visit(browser, index, color_scheme="dark")
    assert background(light.page) != background(dark.page)
    button = light.page.locator("#theme")
    assert button.inner_text() == "Colours: as the system"
    for words in ("Colours: light", "Colours: dark"):
        button.click()
        assert button.inner_text() == words
    assert background(light.page) == background(dark.page)
    ink = "getComputedStyle(document.querySelector('.chart svg text')).fill"
    assert light.page.evaluate(ink) == dark.page.evaluate(ink)
    light.context.close()
    dark.context.close()


def test_a_phone_never_scrolls_sideways(browser: Browser, index: Path) -> None:
    phone = Visit(browser, index, viewport={"width": _PHONE, "height": 844}, is_mobile=True, has_touch=True)
    width = "document.documentElement.scrollWidth"
    assert phone.page.evaluate(width) == _PHONE
    phone.page.locator(".more-switch input").first.check()
    assert phone.page.evaluate(width) == _PHONE
    assert phone.page.evaluate("document.querySelector('nav details').open") is False
    phone.context.close()


def test_without_javascript_all_can_be_read(browser: Browser, index: Path) -> None:
    plain = Visit(browser, index, java_script_enabled=False)
    assert len(plain.labels()) == 5
    assert not plain.page.locator("#theme").is_visible()
    assert not plain.page.locator(".filter").first.is_visible()
    plain.page.locator("button.entry").first.click()
    assert plain.page.locator(".panel:popover-open").is_visible()
    plain.context.close()


def test_printed_pages_are_light_and_leave_out_what_cannot_be_used(browser: Browser, index: Path) -> None:
    page = Visit(browser, index, color_scheme="dark")
    page.page.emulate_media(media="print")
    assert background(page.page) == "rgb(255, 255, 255)"
    assert not page.page.locator("nav").is_visible()
    assert not page.page.locator(".tools").first.is_visible()
    page.context.close()
