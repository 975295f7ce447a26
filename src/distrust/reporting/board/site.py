"""Site: the board as a folder of pages that need no server and load nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from ... import __version__
from ...bounds import bounded
from ...errors import BadInput, NotFound
from ...files import draft, replaceable
from ...flags import MEANING
from ...marks import KINDS
from ...registry import registry
from .. import text
from ..answer import sentences
from ..data import packed
from ..detection import detections
from ..rows import describe
from .lines import Board, Line, Source, gather, pictures, published, told

MARK = b'<meta name="generator" content="Distrust'
VIEWS = ("clean", "triggered", "difference")
CLAIM = ("id", "paper", "says", "where", "published", "differs", "verdict", "checks")


class Site(NamedTuple):
    """A board that was written; printed, what it shows.

    Args:
        out: its folder; open index.html in it.
        pages: how many.
        cells: of all studies.
        lines: rows over seeds, each measurement once.
        studies: how many, those of entries too.
        entries: of others.
        size: of all files in bytes, pictures too.
    """

    out: Path
    pages: int
    cells: int
    lines: int
    studies: int
    entries: int
    size: int

    def __str__(self) -> str:
        said = f"{text.count(self.cells, 'cell')} of {self.studies} studies, {self.entries} by others"
        return f"{self.out / 'index.html'}: {said}; {text.count(self.pages, 'page')}, {self.size / 1e6:.1f} MB"


def build_board(
    results: str | Path = "results",
    out: str | Path = "site/board",
    *,
    entries: Iterable[str | Path] | None = None,
    claims: str | Path | None = None,
    overwrite: bool = False,
) -> Site:
    """Write the carry-over board: a matrix attack × distiller, and a page for each study, method and paper.

    Args:
        results: a folder of cells, or of such folders.
        out: the folder of the site; what an earlier call wrote there is replaced, other files stay.
        entries: files of others or folders of them, as `submit` writes them (default: the folder ./entries, if any).
        claims: papers' claims and what came of them (default: docs/claims.json, if that is here).
        overwrite: replace an index.html that is no page of ours.

    Raises:
        NotFound: there is no such folder or file, or no finished cell.
        BadInput: an entry breaks the form or the protocol; claims are none; `out` has somebody else's index.html.
        StoreError: the site cannot be written.
    """
    out = Path(out)
    replaceable(out / "index.html", overwrite)
    entries = [Path("entries")] if entries is None and Path("entries").is_dir() else [*(entries or ())]
    board = gather(results, entries)
    site = _Pages(board, _claims(claims))
    made = site.made()
    for name, data in made.items():  # the front page last, so that it never leads nowhere
        with draft(out / name) as file:
            file.write_bytes(data)
    for old in {*out.glob("*/*.html"), *out.glob("pictures/*.png")} - {out / name for name in made}:
        if old.suffix == ".png" or MARK in old.read_bytes()[:4096]:
            old.unlink()
    return Site(
        out, sum(name.endswith(".html") for name in made), sum(len(source.cells) for source in board.sources),
        len(board.unique), len(board.sources), len({id(s.entry) for s in board.sources if s.entry}),
        sum(map(len, made.values())),
    )  # fmt: skip


def _claims(path: str | Path | None) -> list[dict[str, Any]]:
    """The papers' claims: as docs/claims.py writes them."""
    file = Path(path or "docs/claims.json")
    if not file.is_file():
        if path:
            raise NotFound.among("file of claims", str(file), map(str, file.parent.glob("*.json")))
        return []
    try:
        found = json.loads(bounded(file, "record"))
        return [{name: one[name] for name in CLAIM} for one in found]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{file} holds no claims. Give what `python docs/claims.py` writes, docs/claims.json.") from None


class _Pages:
    """Renders every page."""

    def __init__(self, board: Board, claims: list[dict[str, Any]]) -> None:
        self.board, self.claims = board, claims
        self.templates = Environment(
            loader=PackageLoader("distrust.reporting", ""), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self.templates.filters |= {"percent": text.percent, "count": text.count, "share": text.share}
        self.templates.globals |= {"version": __version__}
        named = {source: f"{source.name} by {source.by}" if source.by else source.name for source in board.sources}
        self.studies = _places("studies", named.values())
        self.page_of = {source: self.studies[name] for source, name in named.items()}
        stands = [pair for own in board.lines.values() for line in own for pair in line.stands()]
        looked = [("detectors", name) for source in board.sources for name in _detectors(source)]
        self.methods = _places("methods", [f"{kind}/{name}" for kind, name in dict.fromkeys(stands + looked)])
        self.papers = _papers(board.unique, claims)
        self.paper_pages = _places("papers", self.papers)
        self.strips = {source: pictures(source.entry) for source in board.sources}
        self.lines = {line: told(line, self.page_of[line.source]) for own in board.lines.values() for line in own}

    def made(self) -> dict[str, bytes]:
        """Every file by its name, the front page last."""
        own = files("distrust.reporting")
        read: Callable[..., bytes] = lambda *names: b"\n".join(own.joinpath(name).read_bytes() for name in names)  # noqa: E731
        strips = [strip for own in self.strips.values() for strip in own.values()]
        found = {
            "board.css": read("page.css", "board/board.css"), "board.js": read("common.js", "board/board.js"),
            **{_file(png): png for strip in strips for kind in VIEWS for png in strip[kind]},
        }  # fmt: skip
        found |= {self.page_of[source]: self.study(source) for source in self.board.sources}
        found |= {page: self.method(*name.split("/", 1)) for name, page in self.methods.items()}
        found |= {page: self.paper(name) for name, page in self.paper_pages.items()}
        return found | {"index.html": self.index()}

    def index(self) -> bytes:
        """The front page."""
        cells = [cell for line in self.board.unique for cell in line.row.cells]
        kinds = {kind: [n for n in self.methods if n.startswith(f"{kind}/")] for kind in KINDS}
        return self.page(
            "index", "", self.board.unique, "matrix", title="The carry-over board", said=sentences(cells),
            board=self.board, page_of=self.page_of, kinds={k: n for k, n in kinds.items() if n}, methods=self.methods,
            papers=self.papers, paper_pages=self.paper_pages, cells=sum(len(s.cells) for s in self.board.sources),
        )  # fmt: skip

    def study(self, source: Source) -> bytes:
        """The page of a study."""
        return self.page(
            "study", "../", self.board.lines[source], "list", title=source.name, source=source,
            said=sentences(source.cells), strips=self.pictured(source), detections=detections(source.cells),
        )  # fmt: skip

    def method(self, kind: str, name: str) -> bytes:
        """The page of a method: what it says of itself, and every line in which it stands."""
        lines = [line for line in self.board.unique if (kind, name) in line.stands()]
        entered = {
            facts.name: (facts, source)
            for source in self.board.sources
            for facts in (source.entry.methods if source.entry else ())
            if (facts.kind, facts.name) == (kind, name)
        }
        looked = [source for source in self.board.sources if kind == "detectors" and name in _detectors(source)]
        strips = {
            label: strip
            for source in self.board.sources
            for label, strip in self.pictured(source).items()
            if kind == "attacks" and label.partition("[")[0] == name
        }
        return self.page(
            "method", "../", lines, "list", title=name, kind=kind.removesuffix("s"), strips=strips,
            card=registry.cards(kind).get(name), mark=registry.marks(kind).get(name), entered=entered.values(),
            looked=[(source.name, self.page_of[source]) for source in looked],
        )  # fmt: skip

    def paper(self, name: str) -> bytes:
        """The page of a paper: its claims, and its numbers beside ours."""
        return self.page(
            "paper", "../", [], "list", title=name, claims=[one for one in self.claims if one["paper"] == name],
            beside=[(line, describe(line.row.axes), one) for line, one in self.papers[name]], pages=self.lines,
            studies=self.studies,
        )  # fmt: skip

    def page(self, template: str, root: str, lines: Collection[Line], view: str, **facts: Any) -> bytes:
        """One page: what stands in it, and the lines that its script shows."""
        shown = [self.lines[line] for line in lines]
        raised = Counter(flag for line in shown for flag in line["flags"])
        stages = {k: v for line in lines if line.source.entry for k, v in line.source.entry.lineage.items()}
        data = {
            "title": facts["title"], "root": root, "view": view, "lines": shown, "methods": self.methods,
            "glossary": {flag: meaning for flag, meaning in MEANING.items() if raised[flag]},
            "lineage": {key[:12]: {k: v for k, v in stage.items() if k != "parents"} for key, stage in stages.items()},
        }  # fmt: skip
        made = self.templates.get_template(f"board/{template}.html.j2")
        return made.render(root=root, data=packed(data), shown=len(shown), **facts).encode()

    def pictured(self, source: Source) -> dict[str, dict[str, list[str]]]:
        """The pictures of a study's triggers, by their files."""
        return {
            name: {kind: [*map(_file, strip[kind])] for kind in VIEWS} for name, strip in self.strips[source].items()
        }


def _file(png: bytes) -> str:
    return f"pictures/{hashlib.sha256(png).hexdigest()[:16]}.png"


def _detectors(source: Source) -> set[str]:
    return {cell["detector"].partition("[")[0] for cell in source.cells if (cell.get("detector") or "none") != "none"}


def _papers(lines: Iterable[Line], claims: Iterable[dict[str, Any]]) -> dict[str, list[tuple[Line, dict[str, Any]]]]:
    """Papers with claims, and sources of published numbers: the lines beside which these stand."""
    found: dict[str, list[tuple[Line, dict[str, Any]]]] = {one["paper"]: [] for one in claims}
    known = [*found]
    for line in lines:
        for one in published(line.row):
            source = one["source"] or "no source given"
            paper = next((name for name in known if source.startswith(name)), source.partition(",")[0])
            found.setdefault(paper, []).append((line, one))
    return found


def _places(folder: str, names: Iterable[str]) -> dict[str, str]:
    """A file for each name: letters and dashes of it, told apart where two names would share one."""
    taken: dict[str, str] = {}
    for name in dict.fromkeys(names):
        plain = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:60] or "x"
        slug = next(s for i in range(len(taken) + 1) if (s := f"{plain}-{i + 1}" if i else plain) not in taken.values())
        taken[name] = slug
    return {name: f"{folder}/{slug}.html" for name, slug in taken.items()}
