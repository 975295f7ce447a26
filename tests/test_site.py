"""The documentation as a site: it builds without a warning, its links lead somewhere, and its search finds a method."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.test_report_browser import CHROMIUM, browser

import distrust as dt
from distrust.cards import card
from distrust.registry import registry

__all__ = ["browser"]

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert (built.returncode, built.stdout + built.stderr) == (0, "")
    return folder


def test_every_method_has_a_page_with_its_options_and_where_it_was_measured(site):
    for kind in ("attacks", "defenses", "distillers", "detectors"):
        for name, method in registry.kind(kind).items():
            page = (site / "methods" / kind / f"{name}.html").read_text()
            missing = [one["name"] for one in card(method)["options"] if f"<code>{one['name']}</code>" not in page]
            assert missing == [], f"{kind}/{name}"
    page = (site / "methods" / "defenses" / "nad.html").read_text()
    assert 'href="../../nad.html">nad-table1</a>' in page and "board/methods/defenses-nad.html" in page


def test_every_public_name_stands_in_the_reference(site):
    page = (site / "reference.html").read_text()
    for name in dt.__all__:
        if not name.startswith("__") and not hasattr(getattr(dt, name), "__path__"):  # a kind of methods has its pages
            assert re.search(rf'id="distrust\.[\w.]*\b{name}"', page), name


def test_studies_that_pages_point_to_are_there_and_nothing_names_a_path_of_ours(site):
    for page in site.glob("*.html"):
        for link in re.findall(r'href="((?:studies|examples|benchmarks)/[^"#]+)"', page.read_text()):
            assert (site / link).is_file(), f"{page.name} → {link}"
    assert (site / "studies" / "nad-table1.toml").read_text() == (ROOT / "studies" / "nad-table1.toml").read_text()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *said):
        pass


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(Silent, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
@pytest.mark.parametrize("light", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_the_search_finds_a_method_and_nothing_scrolls_sideways(browser, address, width, light):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=light)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    for name in ("index", "nad", "methods/defenses/nad", "reference"):
        page.goto(f"{address}/{name}.html")
        wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen, f"{name} scrolls sideways"
    assert page.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[light]
    page.goto(f"{address}/index.html?q=anti-distillation")  # as a link to a search has it
    page.locator(".md-search-result__link[href*='methods/attacks/adba.html']").first.wait_for()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    context.close()
