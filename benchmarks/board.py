"""How long does the board of all committed cells take to build, how large is it, and how soon does it open?"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .measure import Row, Scale, number

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys, distrust as dt; print(dt.build_board(sys.argv[1], sys.argv[2]).size)"


def rows(scale: Scale) -> Iterator[Row]:
    """Each build by a process of its own, as `make board` does it; opened in Debian's chromium, if it is there."""
    seconds, megabytes = [], []
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        results.mkdir()
        for one in sorted((ROOT / "results").iterdir())[: scale.of(10**6, 8, 1)]:
            (results / one.name).symlink_to(one)
        for turn in range(scale.rounds(3) + 1):
            site, began = Path(folder) / str(turn), time.monotonic()
            said = subprocess.run(
                [sys.executable, "-c", BUILD, results, site], cwd=ROOT, capture_output=True, text=True, check=True
            )
            seconds.append(time.monotonic() - began)
            megabytes.append(int(said.stdout) / 1e6)
        yield number("the board", "built", seconds[1:], 20.0)  # the first one fills the cache
        yield number("the board", "size", megabytes[1:], 3.0, "MB")
        if chromium := shutil.which("chromium"):
            yield number("the board", "opened", _opened(chromium, site / "index.html", scale.rounds(3)), 1.0)


def _opened(chromium: str, page: Path, rounds: int) -> list[float]:
    """Seconds until its fields are there, in a browser that runs; the first time does not count."""
    from playwright.sync_api import sync_playwright

    seconds = []
    with sync_playwright() as playwright:
        tab = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        for _ in range(rounds + 1):
            tab.goto("about:blank")
            began = time.monotonic()
            tab.goto(page.as_uri())
            tab.wait_for_selector("#facets .tile")
            seconds.append(time.monotonic() - began)
        tab.context.browser.close()
    return seconds[1:]
