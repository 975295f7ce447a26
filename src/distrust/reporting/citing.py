"""Citing: BibTeX entries for Distrust, a study and a cell, with versions that name exactly what was cited."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from .. import __version__
from ..errors import BadInput, NotFound, Skip
from ..registry import registry
from ..study.axes import TABLE
from ..study.cells import Cell
from .export import version_of
from .labels import read
from .markup import latex, plain_key
from .text import count

AUTHOR, LICENSE, TITLE = "The Distrust developers", "Apache-2.0", "What did the student inherit?"
OWN = ("ours", "none", "")  # of methods that no paper stands behind


def bibtex(cells: Sequence[Cell] = (), cell: str = "") -> str:
    """Entries for Distrust, for the study of these cells, and for one of them; papers of its methods as comments.

    The version of a cell is a digest of all that it holds, that of a study one of its finished cells' versions.

    Args:
        cells: of one study, as in `Results.cells`; none: Distrust alone.
        cell: the id of one of them, or its beginning.

    Raises:
        NotFound: no cell has such an id, with what is near.
        BadInput: several ids begin so.
        Skip: no cell has a number.
    """
    entries = [
        _entry("distrust", author=f"{{{AUTHOR}}}", title=f"{{Distrust}}: {TITLE}", note=f"Version {__version__}")
    ]
    if cells:
        done = [one for one in cells if one["state"] == "done"]
        study = cells[0]["study"]
        if not done:
            raise Skip(f"{study} has no number yet that could be cited. Type: distrust run {study}.toml")
        entries.append(_study(study, done))
        if cell:
            entries.append(_cell(study, _one(done, study, cell)))
        entries += _papers(done)
    return "\n\n".join(entries)


def _study(study: str, cells: Sequence[Cell]) -> str:
    version = hashlib.sha256("".join(sorted(map(version_of, cells))).encode()).hexdigest()[:12]
    budgets = ", ".join(dict.fromkeys(one["budget"] for one in cells))
    seeds = count(len({one["seed"] for one in cells}), "seed")
    note = f"Version {version}: {count(len(cells), 'cell')}, {seeds}, budget {budgets}; {_measured(cells)}"
    return _entry(f"distrust-{study}", key=latex(study), title=f"{{{latex(study)}}}: a study", note=latex(note))


def _cell(study: str, cell: Cell) -> str:
    keys = ", ".join(f"{kind} {key[:12]}" for kind, key in cell["keys"].items())
    flags = f"; flags {', '.join(cell['flags'])}" if cell["flags"] else ""
    note = (
        f"Version {version_of(cell)}: seed {cell['seed']}{flags}; stages {keys or 'not recorded'}; {_measured([cell])}"
    )
    title = f"{{{latex(cell['id'])}}}: a cell of {{{latex(study)}}}"
    return _entry(f"distrust-{study}-{cell['id']}", key=latex(cell["id"]), title=title, note=latex(note))


def _measured(cells: Sequence[Cell]) -> str:
    """The versions of Distrust that the cells name; those of old name none."""
    told = sorted({str((one.get("env") or {}).get("distrust") or "") for one in cells})
    return f"measured with Distrust {', '.join(version or 'of a version that is not recorded' for version in told)}"


def _one(cells: Sequence[Cell], study: str, asked: str) -> Cell:
    found = [one for one in cells if one["id"] == asked] or [one for one in cells if one["id"].startswith(asked)]
    if not found:
        raise NotFound.among(f"cell of {study}", asked, (one["id"] for one in cells))
    if len(found) > 1:
        raise BadInput(
            f"{len(found)} cells of {study} begin with {asked!r}, {found[0]['id']} among them. Give more of it."
        )
    return found[0]


def _papers(cells: Sequence[Cell]) -> list[str]:
    """A comment for each method with a paper; BibTeX would take an @ there for an entry."""
    said: dict[str, None] = {}
    for axis in TABLE:
        known = registry.marks(axis.kind) if axis.kind else {}
        for name in dict.fromkeys(read(one[axis.name]).name for one in cells if one.get(axis.name)):
            if name in known and known[name].paper not in OWN:
                said[f"% {name}: {known[name].paper}".replace("@", "(at)")] = None
    lines = [" ".join(line.splitlines()) for line in said]
    return ["\n".join(["% Cite the papers of its methods, too:", *lines])] if lines else []


def _entry(named: str, /, **facts: str) -> str:
    lines = "".join(f"  {name} = {{{' '.join(text.splitlines())}}},\n" for name, text in facts.items())
    return f"@misc{{{plain_key(named)},\n{lines}}}"
