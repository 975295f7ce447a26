"""The carry-over board in a real browser, from files: what is shown, asked for, taken along, reached and read."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.board_fixture import HOSTILE, entry, runs, small, student, write
from tests.test_report_browser import CHROMIUM, browser

import distrust as dt
from distrust.reporting.text import percent

__all__ = ["browser"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
]

WIDTHS = [(1400, 900), (420, 860)]
LIGHTS = ["light", "dark"]

# Every text that is seen, with the least contrast that it may have: 4.5, large ones 3, as WCAG 2.2 AA asks.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  canvas.canvas.width = canvas.canvas.height = 1;
  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(channels(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const poor = [];
  let seen = 0;
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const node = words.currentNode.parentElement;
    const said = words.currentNode.data.trim();
    if (!said || !node.checkVisibility({ visibilityProperty: true }) || node.closest("script,option,.unseen")) continue;
    seen += 1;
    const style = getComputedStyle(node);
    const paper = behind(node);
    const pair = [light(over(channels(style.color), paper)), light(paper)].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 600);
    if (contrast < (large ? 3 : 4.5)) poor.push(`${node.tagName}.${node.className} ${said}: ${contrast.toFixed(2)}`);
  }
  return [seen, [...new Set(poor)]];
}"""
CONTROLS = 'a[href], button, input, select, summary, [tabindex="0"]'
# Each control that is seen, with its name as a screen reader would say it.
NAMES = f"""() => [...document.querySelectorAll('{CONTROLS}')].filter((node) => node.checkVisibility()).map((node) =>
  (node.getAttribute("aria-label") || node.labels?.[0]?.textContent || node.textContent).trim())"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A board of a study, an entry, and names that would be markup."""
    home = tmp_path_factory.mktemp("board")
    cells = [*small(), *student(HOSTILE, 0.9, 0.92, 0.91), *runs(0.5, 0.6, 0.7, attack="=1+1", study="formula")]
    cells += [one for i in range(30) for one in runs(0.9, 0.91, 0.92, attack=f"blend[rate={i / 100}]", study="many")]
    (home / "glue.json").write_text(json.dumps(entry()))
    dt.build_board(write(home / "results", cells), home / "site", entries=[home / "glue.json"], claims=None)
    return home / "site"


class Page:
    """A page of the site; nothing comes from elsewhere, and nothing is complained about."""

    def __init__(self, browser, site, width=1400, height=900, light="light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=light, accept_downloads=True
        )
        self.site, self.asked, self.complaints = site, [], []
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def __call__(self, name):
        self.page.goto("about:blank")
        self.page.goto(f"{self.site.as_uri()}/{name}")
        self.page.wait_for_selector("main:not([aria-busy])")
        return self.page

    def close(self):
        self.context.close()
        away = [url for url in self.asked if not url.startswith((self.site.as_uri(), "blob:", "about:", "data:"))]
        assert away == [] and self.complaints == []


@pytest.fixture
def at(browser, site):
    opened = Page(browser, site)
    yield opened
    opened.close()


def tile(page, attack, way):
    return page.locator(f'[data-tile="{attack}|{way}"]')


def lines(page):
    return page.locator("#list tbody tr")


def test_the_matrix_says_what_is_carried_and_what_was_not_run(at):
    page = at("index.html")
    kd = tile(page, "badnets", "kd")
    assert kd.inner_text().split("\n") == ["2×", "82.0", "80, 82, 84", "inherited"], "of two settings, the most"
    assert "carried 82.0 points (80.0, 82.0, 84.0), 3 seeds, n = 900; inherited; 2 settings" in kd.get_attribute(
        "aria-label"
    )
    assert tile(page, "badnets", "at").inner_text().split("\n")[-1] == "not inherited"
    assert tile(page, "badnets", "dkd").inner_text().split("\n")[-1] == "one run"
    assert tile(page, "badnets", "overhaul").inner_text() == "failed"
    assert "⚑" in tile(page, "sig", "teacher").inner_text() and "doubted" in tile(page, "sig", "teacher").get_attribute(
        "class"
    )
    hole = page.locator("#facets td.hole").first
    assert hole.inner_text() == "not run"
    heats = [one.evaluate("n => getComputedStyle(n).backgroundColor") for one in (hole, tile(page, "badnets", "at"))]
    assert heats[0] != heats[1], "no data never looks like a zero"


def test_a_tile_opens_its_settings_and_a_setting_all_that_is_known(at):
    page = at("index.html")
    tile(page, "badnets", "kd").click()
    panel = page.locator("dialog[open]")
    assert "badnets → kd: 2 settings" in panel.inner_text()
    panel.locator("button.open", has_text="badnets → kd → wrn16-1").click()
    text = panel.inner_text()
    assert "(80.0, 82.0, 84.0)" in text and "[78.0, 82.0]" in text and "A paper, Table 1" in text
    assert re.search(r"distrust run studies/small.toml --budget cpu --only [0-9a-f]{12}\n", text)
    assert panel.locator(".chain").first.inner_text().split()[:2] == ["teacher", "wrn16-2"]
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0 and page.url.endswith("index.html")
    tile(page, "sig", "teacher").click()
    assert "The trigger also moves models that were never attacked" in panel.inner_text()


def test_asking_changes_matrix_list_and_address_and_the_address_brings_it_back(at):
    page = at("index.html")
    every = page.locator("#facets .tile").count()
    page.locator("[name=images]").select_option("cifar10")
    assert 0 < page.locator("#facets .tile").count() < every
    page.locator("[name=q]").fill("blend kd")
    page.locator("[name=view][value=list]").check()
    assert lines(page).count() == 1 and "blend" in lines(page).inner_text()
    page.locator("#list .sort", has_text="ACC").click()
    address = page.url
    assert {"images=cifar10", "q=blend+kd", "view=list", "sort=-acc"} == set(address.partition("#")[2].split("&"))
    page.locator("#again").click()
    assert page.url.endswith("index.html") and page.locator("#facets .tile").count() == every
    page = at(address.rpartition("/")[2])
    assert lines(page).count() == 1 and page.locator('th[aria-sort="descending"]').inner_text().startswith("ACC")
    page = at("index.html")
    tile(page, "badnets", "at").click()
    page = at(page.url.rpartition("/")[2])
    assert page.locator("#panel-title").inner_text() == "badnets → at → wrn16-1"
    page = at("index.html#images=nonsense&sort=nothing&view=list&line=99")
    assert lines(page).count() > 10, "a broken link shows all"


def test_a_list_sorts_with_what_is_missing_last(at):
    page = at("index.html#view=list")
    button = page.locator("#list .sort", has_text="Carried")
    for _ in range(2):
        button.click()
        shown = lines(page).locator("td:nth-child(4)").evaluate_all("cells => cells.map(c => c.firstChild.textContent)")
        numbers = [float(text.replace("−", "-")) for text in shown if re.match("[−0-9]", text)]
        assert shown[-1] in ("–", "failed") and len(numbers) > 10
        state = page.locator("#list th[aria-sort]").get_attribute("aria-sort")
        assert numbers == sorted(numbers, reverse=state == "descending")


def taken(page, name):
    with page.expect_download() as waited:
        page.locator(f'[data-take="{name}"]').click()
    return Path(waited.value.path()).read_bytes().decode(), waited.value.suggested_filename


def test_what_is_taken_along_is_what_is_shown(at):
    page = at("index.html#view=list&defense=")
    page.locator("[name=three]").check()
    text, name = taken(page, "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert name == "the-carry-over-board.csv" and len(rows) == lines(page).count() > 10
    shown = lines(page).evaluate_all(
        "rows => rows.map(r => [1, 3, 5].map(i => r.cells[i].firstChild?.textContent ?? ''))"
    )
    written = [
        ["never attacked" if row["attack"] == "none" else row["attack"].removeprefix("'"),
         percent(float(row["carried"]) / 100) if row["carried"] else "–", str(len(row["seeds"].split()))]
        for row in rows
    ]  # fmt: skip
    assert written == shown, "the same lines, in the same order"
    assert [row["attack"] for row in rows if row["study"] == "formula"] == ["'=1+1"], "no formula for a spreadsheet"
    told = json.loads(taken(page, "json")[0])
    assert [one["carried"] for one in told] == [float(row["carried"]) if row["carried"] else None for row in rows]
    assert all(one["cells"] and one["command"].startswith("distrust run") for one in told)
    tex, name = taken(page, "latex")
    assert name.endswith(".tex") and tex.count(r"\\") == len(rows) + 1 and "kd[weight=2]" in tex
    assert tex.count("&") == 8 * (len(rows) + 1) and r"\toprule" in tex
    page.locator("[name=view][value=matrix]").check()
    matrix = list(csv.DictReader(io.StringIO(taken(page, "csv")[0])))
    assert len(matrix) == page.locator("#facets .tile").count()
    (kd,) = [row for row in matrix if (row["attack"], row["distiller"]) == ("badnets", "kd")]
    assert kd["settings"] == "2" and kd["carried"] == "82"


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("width, height", WIDTHS)
def test_every_page_fits_is_legible_and_can_be_reached_by_keyboard(browser, site, width, height, light):
    opened = Page(browser, site, width, height, light)
    pages = ["index.html", "index.html#view=list", "index.html#tile=badnets|kd", "studies/theirs-by-ada.html"]
    for name in [*pages, "methods/distillers-glue.html", "papers/a-paper.html"]:
        page = opened(name)
        wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen, f"{name} scrolls sideways"
        texts, poor = page.evaluate(CONTRAST)
        assert texts > 20 and poor == [], f"{name}: {poor}"
        names = page.evaluate(NAMES)
        assert len(names) > 3 and all(names), f"{name}: a control has no name"
    opened.close()


def test_tab_reaches_every_control(at):
    page = at("index.html#three=1")
    asked = f"""() => [...document.querySelectorAll('{CONTROLS}')].filter((node) => node.checkVisibility())
      .filter((node) => node.type !== "radio" || node.checked).length"""
    count, reached = page.evaluate(asked), set()
    page.evaluate("[...document.querySelectorAll('*')].forEach((node, i) => { node.dataset.at = i; })")
    for _ in range(count + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.at"))
    assert count > 30 and len(reached - {page.evaluate("document.body.dataset.at")}) >= count
    tile(page, "badnets", "kd").focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog[open]").count() == 1 and page.evaluate("document.activeElement.id") == "panel-title"


def test_light_and_dark_can_be_chosen_and_stay(at):
    page = at("index.html")
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    page.locator("#theme").click()
    assert page.evaluate(paper) != before and page.locator("#theme").get_attribute("aria-pressed") == "true"


def test_names_are_text_in_every_view(at):
    for name in ("index.html", "index.html#view=list", "studies/small.html"):
        page = at(name)
        assert page.locator("script:not([src]):not([type])").count() == 0
        if "view" in name or "studies" in name:
            assert HOSTILE in page.locator("#list").inner_text()
    page = at("index.html")
    tile(page, "badnets", HOSTILE.replace('"', '\\"')).click()
    assert HOSTILE in page.locator("dialog[open]").inner_text()


def test_pictures_are_loaded_when_they_come_near(browser, site):
    opened = Page(browser, site)
    page = opened("studies/theirs-by-ada.html")
    assert page.locator('img[loading="lazy"]').count() == 3
    page.locator(".strip").scroll_into_view_if_needed()
    expect(page.locator("img").first).to_have_js_property("naturalWidth", 1)
    opened.close()


def test_the_board_of_all_committed_cells_can_be_read(browser, tmp_path, pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)
    dt.build_board("results", tmp_path / "site", entries=[])
    opened = Page(browser, tmp_path / "site")
    opened("index.html")
    assert opened.page.locator("#facets .tile").count() > 50
    wide, seen = opened.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    texts, poor = opened.page.evaluate(CONTRAST)
    assert wide <= seen and texts > 200 and poor == []
    opened.close()
