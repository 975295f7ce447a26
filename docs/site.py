"""What the documentation has as a site and not as files: a page for each method, the reference, and files beside docs/.

MkDocs calls these by name (https://www.mkdocs.org/user-guide/plugins/#events).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from distrust import _HOME
from distrust.study import read_cells
from distrust.study.axes import AXES

ROOT = Path(__file__).resolve().parents[1]
METHOD = re.compile(r"^### (\w+)/(\w+)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
OUTSIDE = re.compile(r"\]\(\.\./((?!\.\./)[\w./-]+)(?:#[\w-]+)?\)")  # links of pages to files beside docs/
CARD = re.compile(r"\]\((?:methods\.md)?#(\w+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here, and the files that pages point to."""
    found = results()
    for kind, name, text in METHOD.findall((ROOT / "docs" / "methods.md").read_text()):
        page = f"# {name}\n\n*{kind}*\n\n{_deeper(text)}\n{_where(kind, name, found[kind, name])}"
        files.append(File.generated(config, f"methods/{kind}/{name}.md", content=page))
    files.append(File.generated(config, "reference.md", content=reference()))
    pages = [file.content_string for file in files.documentation_pages() if file.abs_src_path]
    for path in sorted({match[1] for text in pages for match in OUTSIDE.finditer(text)}):
        if (ROOT / path).is_file():
            files.append(File.generated(config, _beside(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Send links to where things are in the site."""
    if page.file.src_uri == "methods.md":
        markdown = METHOD.sub(lambda found: f"- [{found[2]}](#{found[1]}{found[2]}): {_first(found[3])}\n", markdown)
    up = "../" * page.file.src_uri.count("/")
    methods = [file for file in files if file.src_uri.startswith("methods/")]
    cards = {f"{file.src_uri.split('/')[1]}{file.name}": file.src_uri for file in methods}

    def card(found: re.Match[str]) -> str:
        return f"]({up}{cards[found[1]]})" if found[1] in cards else found[0]

    return OUTSIDE.sub(lambda found: f"]({up}{_beside(found[1])})", CARD.sub(card, markdown))


def results() -> defaultdict[tuple[str, str], set[str]]:
    """Of each method, by kind and name, the studies that it stands in."""
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for folder in sorted((ROOT / "results").iterdir()):
        for cell in read_cells(folder):
            for name, axis in AXES.items():
                if axis.kind and cell.get(name):
                    found[axis.kind, cell[name].partition("[")[0]].add(folder.name)
    return found


def reference() -> str:
    """Every public name, by what its docstring says."""
    return "# In Python\n\n`import distrust as dt` has all of these.\n\n" + "\n".join(
        f"::: distrust.{module}.{name}\n" for name, module in _HOME.items()
    )


def _where(kind: str, name: str, studies: set[str]) -> str:
    """Links to what was measured of a method."""
    tables = {
        study: page.name
        for page in sorted((ROOT / "docs").glob("*.md"))
        for study in re.findall(r"<!-- results:([\w-]+) -->", page.read_text())
    }
    lines = [f"[{study}](../../{tables[study]})" for study in sorted(studies) if study in tables]
    board = f'<a href="../../../board/methods/{kind}-{name}.html">its page on the board</a>'
    return f"Measured in: {', '.join(lines)}; {board}.\n" if lines else ""


def _first(text: str) -> str:
    return text.strip().partition("\n")[0]


def _deeper(text: str) -> str:
    """A section's links, from two folders further down."""
    return re.sub(r"\]\((?!https?:|#)", "](../../", text)


def _beside(path: str) -> str:
    """Where a file beside docs/ lies in the site; what is no page there is text."""
    return f"{path}.txt" if path.endswith(".md") else path
