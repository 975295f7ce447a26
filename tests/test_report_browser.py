"""The report in a real browser: Debian's chromium, driven by Playwright."""

import contextlib
import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch
from playwright.sync_api import sync_playwright
from tests.report_fixture import cell, example_report, large_report

from distrust import Audit, Shelf, measure
from distrust.auditing.shelf import Look
from distrust.measurement import Finding
from distrust.reporting import Report
from distrust.reporting import page as render
from distrust.reporting.text import percent

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET, headless=True)
        yield started
        started.close()


@contextlib.contextmanager
def opened(browser, file, at=""):
    """The page, opened from a file. What it asks for or complains about is collected, and must be nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri() + at)
    page.wait_for_selector("main:not([aria-busy])")
    yield page
    context.close()
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert complaints == []


@pytest.fixture
def report(browser, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(render(example_report()), encoding="utf-8")
    with opened(browser, file) as page:
        yield page


@pytest.fixture(scope="module")
def thousand():
    return large_report()


@pytest.fixture(scope="module")
def large_file(thousand, tmp_path_factory):
    file = tmp_path_factory.mktemp("large") / "report.html"
    file.write_text(render(thousand), encoding="utf-8")
    return file


@pytest.fixture
def large(browser, large_file):
    """A page of 1,000 cells, its table of cells open and on the screen."""
    with opened(browser, large_file) as page:
        page.locator("summary", has_text="1000 models").press("Enter")  # a pointer may miss it while pictures come in
        page.locator("#cells thead").scroll_into_view_if_needed()
        yield page


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


def test_the_address_opens_a_cell_and_a_cell_has_its_address(browser, tmp_path):
    hostile = [cell(id=f"a b&c=#%/{seed}", attack="<i>", seed=seed, untriggered=0.123, base=0.077) for seed in (0, 1)]
    file = tmp_path / "report.html"
    file.write_text(render(Report("t", [*hostile, cell(id="other")])), encoding="utf-8")
    with opened(browser, file) as page:
        panel = page.locator("dialog[open]")
        page.locator(".tile").first.click()
        panel.wait_for()
        first = page.url
        assert "untriggered 12.3 % control 7.7 %" in " ".join(panel.locator(".bars").inner_text().split())
        panel.locator("summary", has_text="Seed 1").click()
        panel.locator("details", has_text="Seed 1").get_by_role("link").click()
        assert page.url != first and panel.locator("details[open] summary").all_inner_texts() == ["Seed 1 · 12.0 s"]
        at = page.url.removeprefix(file.as_uri())
        page.go_back()
        panel.locator("details[open]", has_text="Seed 0").wait_for()
        page.keyboard.press("Escape")
        page.wait_for_url(file.as_uri())
    with opened(browser, file, at) as page:
        panel = page.locator("dialog[open]")
        panel.locator("details[open]", has_text="Seed 1").wait_for()
        assert "<i> → teacher" in panel.inner_text()
        page.evaluate("location.hash = '#cell=nobody'")
        panel.wait_for(state="detached")
        page.wait_for_url(file.as_uri())


def test_what_is_carried_stays_in_sight_in_the_table_over_seeds(large):
    large.set_viewport_size({"width": 420, "height": 800})
    table = large.locator("#rows")
    table.scroll_into_view_if_needed()
    seen = """table => {
        const [box, cell] = [table.parentElement, table.querySelector("tbody:not(.far) td.pinned")]
            .map((node) => node.getBoundingClientRect());
        return cell.left >= box.left - 1 && cell.right <= box.right + 1;
    }"""
    for left in (0, 600, 10_000):
        table.evaluate("(table, left) => table.parentElement.scrollTo(left, 0)", left)
        assert table.evaluate(seen)
    assert table.evaluate("table => table.parentElement.scrollLeft") > 600, "there was something to scroll"


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
    search.scroll_into_view_if_needed()
    table.locator("tbody:not(.far) tr").first.wait_for()
    every = table.locator("tbody tr").count()
    search.fill("blend nad")
    shown = table.locator("tbody tr:visible")
    assert 0 < shown.count() < every
    assert all("blend" in line and "nad" in line for line in shown.all_inner_texts())
    search.fill("")
    assert table.locator("tbody tr").count() == every
    asrs = column(table, "ASR")
    table.locator("button.sort", has_text="ASR").first.click()
    numbers = [float(text) for text in column(table, "ASR") if text != "–"]
    assert numbers == sorted(numbers) and len(numbers) > 10 and column(table, "ASR") != asrs


def column(table, heading):
    """What stands large in the cells of a column that are in the document."""
    names = table.locator("thead th button").all_text_contents()
    cells = f"rows => rows.map(row => row.cells[{names.index(heading)}].firstChild.textContent)"
    return table.locator("tbody:not(.far) tr").evaluate_all(cells)


def test_of_a_thousand_lines_those_near_the_screen_are_drawn(large):
    lines = large.locator("table.lines tbody tr")
    assert 10 < lines.count() < 200
    assert large.locator("#cells").get_attribute("aria-rowcount") == "1001"
    large.locator("#h-flags").scroll_into_view_if_needed()
    last = large.locator('#cells tr[aria-rowindex="1001"]')
    last.wait_for()
    assert "attack4" in last.inner_text() and "review" in last.inner_text()
    assert large.locator('#cells tr[aria-rowindex="2"]').count() == 0
    assert lines.count() < 200
    large.locator("#cells thead").scroll_into_view_if_needed()
    large.locator('#cells tr[aria-rowindex="2"]').wait_for()
    assert lines.count() < 200


def test_columns_keep_their_width_while_lines_come_and_go(large):
    widths = "table => [...table.tHead.rows[0].cells].map(th => th.getBoundingClientRect().width)"
    before = large.locator("#cells").evaluate(widths)
    large.locator("#h-flags").scroll_into_view_if_needed()
    large.locator('#cells tr[aria-rowindex="1001"]').wait_for()
    assert large.locator("#cells").evaluate(widths) == pytest.approx(before, abs=1)


def test_a_filter_finds_a_far_line_and_a_click_opens_it(large, thousand):
    (wanted,) = [c for c in thousand.cells if c["id"] == "attack3/overhaul/wrn16-1/nad[beta=100]/seed4"]
    line = large.locator("#cells tbody tr")
    assert line.filter(has_text="attack3").count() == 0, "not among the lines that are drawn"
    large.locator('[data-filter="cells"]').fill(f"attack3 overhaul beta=100 {percent(wanted['asr'])}")
    assert large.locator('[data-count="cells"]').inner_text() == "1 of 1000"
    line.locator("button.open").click()
    panel = large.locator("dialog[open]")
    assert "attack3 → overhaul → wrn16-1 · nad[beta=100]" in panel.inner_text()
    assert wanted["reproduce"] in panel.inner_text()
    assert all(key in panel.inner_text() for key in wanted["keys"].values()), "its lineage"
    strip = panel.locator("img")
    assert strip.count() == 12 and strip.evaluate_all("all => all.every(image => image.naturalWidth === 64)")


def test_all_lines_are_sorted_and_numbers_are_written_as_in_python(large, thousand):
    table = large.locator("#cells")
    button = table.locator("button.sort", has_text="ACC").first
    button.click()
    accs = sorted((c["acc"] for c in thousand.cells), reverse=True)
    shown = column(table, "ACC")
    assert len(shown) >= 40 and shown == [percent(acc) for acc in accs[: len(shown)]], "the best first"
    button.click()
    (worst, *_) = column(table, "ACC")
    assert worst == percent(accs[-1])
    bounds = {"[{}, {}]".format(*map(percent, c["acc_interval"])) for c in thousand.cells if c["acc"] == accs[-1]}
    assert table.locator("tbody tr").first.locator("td.num small").first.inner_text() in bounds


def test_ties_are_written_as_in_python(browser, tmp_path):
    values = [0.12125, 0.1225, 0.1275, 0.0625, 0.4345, 0.0005, 0.03125]
    cells = [cell(seed=seed, acc=value, carried=-value) for seed, value in enumerate(values)]
    file = tmp_path / "report.html"
    file.write_text(render(Report("ties", cells)), encoding="utf-8")
    with opened(browser, file) as page:
        page.locator("summary", has_text="7 models").click()
        page.locator("#cells tbody:not(.far) tr").first.wait_for()
        assert column(page.locator("#cells"), "ACC") == [percent(value) for value in values]
        assert column(page.locator("#cells"), "Carried") == [percent(-value) for value in values]


def test_all_lines_go_to_paper(large):
    large.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert large.locator("#rows tbody tr").count() == 200 and large.locator("#cells tbody tr").count() == 1000
    assert large.locator("tbody.far").count() == 0
    large.evaluate("dispatchEvent(new Event('afterprint'))")
    assert large.locator("table.lines tbody tr").count() < 200


def test_the_data_can_be_saved(large, thousand):
    with large.expect_download() as waiting:
        large.locator("#save").click()
    assert waiting.value.suggested_filename == "large.json"
    assert json.loads(waiting.value.path().read_text())["cells"] == thousand.cells


def test_it_turns_dark(report):
    colour = "getComputedStyle(document.body).backgroundColor"
    before = report.evaluate(colour)
    report.locator("#theme").click()
    assert report.evaluate(colour) != before


def test_a_narrow_screen_does_not_scroll_sideways(browser, tmp_path):
    """Neither the page, nor the drawer, nor a map of six attacks and defences with long options."""
    attacks = ("badnets", "blend", "clean_label", "refool", "sig", "trojan")
    names = ("none", "nad[clean=0.01,epochs=100,mine_epochs=100]", "finepruning", *(f"d{i}" for i in range(9)))
    cells = [cell(attack=attack, defense=name, carried=-0.331) for attack in attacks for name in names]
    file = tmp_path / "report.html"
    file.write_text(render(Report("t", cells)), encoding="utf-8")
    with opened(browser, file) as page:
        page.set_viewport_size({"width": 420, "height": 800})
        wide = "nodes => nodes.filter(node => node.scrollWidth > node.clientWidth).length"
        assert page.locator("html, .facet").evaluate_all(wide) == 0
        labels = page.locator(".facet th[scope=col]").evaluate_all(
            "all => all.map(th => th.getBoundingClientRect()).map(box => [box.left, box.right])"
        )
        assert len(labels) == 6 and all(one[1] <= two[0] for one, two in itertools.pairwise(labels))
        page.locator(".tile").nth(7).click()
        assert page.locator("dialog[open]").evaluate_all(wide) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_of_an_audit_is_read_without_scrolling_sideways(browser, tmp_path, tiny, width, scheme):
    looks = tuple(Look({"random": float(i)}) for i in range(19))
    finding = Finding.of("random", torch.tensor([0.0, 99.0, 1.0, 2.0]))
    perturbation = {"perturbation": torch.full((3, 8, 8), 0.1)}
    found = replace(finding, trigger=perturbation).backdoor
    compared = Shelf("mine", looks).compared(Look({"random": 99.0}))
    command = f"distrust distill --weights {'deep/' * 30}model.safetensors"
    made = Audit(
        "suspicious", f"{compared}.", "<b>model.pt", "classifier", (finding,), compared, Shelf("mine", looks),
        found=found, effect=measure(Always(), tiny, found, control=Never()), next=(command,), images=tiny,
    )  # fmt: skip
    made.save(tmp_path / "out")
    with opened(browser, tmp_path / "out" / "audit.html") as page:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.inner_text("h1") == "suspicious <b>model.pt"
        assert "Most suspicious class: bee, number 1." in page.inner_text("main")
        assert page.get_by_role("img").evaluate("image => image.naturalWidth") > 90
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        assert command in page.inner_text("pre")


class Always(torch.nn.Module):
    """Says class 1 to everything."""

    def forward(self, x):
        return torch.nn.functional.one_hot(torch.ones(len(x), dtype=torch.int64), 4).float()


class Never(torch.nn.Module):
    """Says class 0 to everything."""

    def forward(self, x):
        return torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 4).float()
