"""The report in a real browser: Debian's chromium, driven by Playwright."""

import shutil

import pytest
from playwright.sync_api import sync_playwright
from tests.report_fixture import example_report

from distrust.reporting import page as render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET, headless=True)
        yield started
        started.close()


@pytest.fixture
def report(browser, tmp_path):
    """The page, opened from a file. What it asks for or complains about is collected, and must be nothing."""
    file = tmp_path / "report.html"
    file.write_text(render(example_report()), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert complaints == []


def test_it_answers_in_a_sentence_and_shows_the_map(report):
    assert "students inherited a backdoor" in report.locator("#answer .lead").inner_text()
    assert report.locator("#map button.tile").count() > 10


def test_a_click_on_a_cell_opens_it(report):
    report.locator("#map .facet").first.locator("button.tile").nth(1).click()
    panel = report.locator("dialog[open]")
    assert "badnets → kd → wrn16-1 · no defence" in panel.inner_text()
    assert "distrust run studies/example.toml --only badnets/kd/wrn16-1/none --seed 0" in panel.inner_text()
    assert panel.locator("img").count() >= 3, "clean, triggered, difference"
    report.keyboard.press("Escape")
    assert report.locator("dialog[open]").count() == 0


def test_a_flag_is_explained_where_it_is_raised(report):
    report.locator('button.tile[title*="acc-floor"]').first.click()
    assert "It gets no credit." in report.locator("dialog[open]").inner_text()


def test_published_numbers_stand_beside_ours_where_they_belong(report):
    report.locator('button.tile[title*="badnets → teacher, defence nad"]').click()
    assert "asr_all, best epoch on test" in report.locator("dialog[open]").inner_text()
    report.keyboard.press("Escape")
    report.locator('button.tile[title*="badnets → kd → wrn16-1, defence nad"]').click()
    assert "asr_all, best epoch on test" not in report.locator("dialog[open]").inner_text()


def test_tables_filter_and_sort(report):
    table = report.locator("table#rows")
    name = table.get_attribute("id")
    search = report.locator(f'[data-filter="{name}"]')
    search.fill("blend nad")
    shown = table.locator("tbody tr:visible")
    assert 0 < shown.count() < table.locator("tbody tr").count()
    assert all("blend" in line and "nad" in line for line in shown.all_inner_texts())
    search.fill("")
    head = table.locator("th", has=report.locator("button.sort", has_text="ASR")).first
    column = head.evaluate("th => th.cellIndex")
    head.locator("button").click()
    values = table.locator("tbody tr").evaluate_all(f"rows => rows.map(r => r.cells[{column}].dataset.v)")
    numbers = [float(v) for v in values if v not in ("", "None", None)]
    assert numbers == sorted(numbers) and len(numbers) > 10


def test_it_turns_dark(report):
    colour = "getComputedStyle(document.body).backgroundColor"
    before = report.evaluate(colour)
    report.locator("#theme").click()
    assert report.evaluate(colour) != before


def test_a_narrow_screen_does_not_scroll_sideways(report):
    report.set_viewport_size({"width": 400, "height": 800})
    assert report.evaluate("document.documentElement.scrollWidth") <= 400
