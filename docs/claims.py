"""Rewrite docs/claims.md and docs/claims.json from claims.toml and results/: `python docs/claims.py`.

A claim of a paper is held to checks. A check is a field of a row of a study, or how much it differs from the same field
of another row in the same runs, against a bound in points. A test checks that both files are up to date.
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from distrust.intervals import FEW, LEAST, needed, over_seeds
from distrust.reporting.markup import markdown
from distrust.reporting.rows import Estimate, finite, given, on_test
from distrust.reporting.text import percent, reach
from distrust.study import read_cells
from distrust.study.axes import TABLE
from distrust.study.cells import Cell

HERE = Path(__file__).parent
AXES = [axis.name for axis in TABLE]
HEAD = ("id", "claim", "where", "published", "measured here, points", "verdict", "study", "what differs")
USUAL = {"defense": None, "detector": None}  # of a row that does not name them; all other axes may be anything
HOLDS, FAILS, OPEN, FEWER = "holds", "does not hold", "cannot be told", "too few runs"
REPRODUCED, PART, NOT, UNTOLD, UNSETTLED, UNTESTABLE = (
    "reproduced", "in part", "not here", "cannot be told", "not settled", "not testable",
)  # fmt: skip


class Check(NamedTuple):
    """One comparison, and what came of it."""

    says: str
    study: str
    least: float | None  # in points; the claim asks for at least that much,
    most: float | None  # or for at most that much
    values: tuple[float, ...]  # in points, one a run

    @property
    def holds(self) -> str:
        """By the 95 % t-interval over runs: on the claimed side of the bound, on the other, or on both."""
        if len(self.values) < LEAST:
            return FEWER
        _, between = over_seeds(self.values)
        assert between
        low, high = between if self.least is not None else (-between[1], -between[0])
        bound = self.least if self.least is not None else -(self.most or 0.0)
        return HOLDS if low >= bound else FAILS if high < bound else OPEN

    @property
    def told(self) -> str:
        """Whether it holds and, where that cannot be told, about how many runs would tell."""
        if self.holds != OPEN:
            return self.holds
        runs = needed(self.values, self.least if self.least is not None else self.most or 0.0)
        return f"{OPEN}: {'more than 100' if runs is None else f'about {runs}'} runs would"

    @property
    def asked(self) -> str:
        """The bound in words."""
        bound = self.least if self.least is not None else self.most or 0.0
        return f"at {'least' if self.least is not None else 'most'} {percent(bound / 100)}"

    @property
    def measured(self) -> str:
        """Mean and runs, or the interval of five and more."""
        if not self.values:
            return "–"
        found = Estimate.of([value / 100 for value in self.values])
        runs = {1: " (one run)"}.get(len(self.values), f", {len(self.values)} runs" if len(self.values) >= FEW else "")
        return f"{percent(found.mean)} {reach(found)}".strip() + runs


class Claim(NamedTuple):
    """What a paper says, and what came of it here."""

    id: str
    paper: str
    where: str
    says: str
    published: str
    differs: str
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """From its checks, of which the first is its heart."""
        if not self.checks:
            return UNTESTABLE
        heart, *rest = (check.holds for check in self.checks)
        if heart == HOLDS:
            return REPRODUCED if set(rest) <= {HOLDS} else PART
        return {FAILS: NOT, OPEN: UNTOLD, FEWER: UNSETTLED}[heart]


def claims() -> list[Claim]:
    """All claims of claims.toml, in its order."""
    asked = tomllib.loads((HERE / "claims.toml").read_text())
    papers = asked["paper"]
    return [
        Claim(
            one["id"], papers[one["id"].rpartition("-")[0]]["name"], one.get("where", ""), one["says"],
            one.get("published", "–"), one["differs"], tuple(_check(check) for check in one.get("check", ())),
        )
        for one in asked["claim"]
    ]  # fmt: skip


def _check(asked: Mapping[str, Any]) -> Check:
    folder, field = HERE.parent / "results" / asked["study"], asked.get("field", "carried")
    if not folder.is_dir():  # planned, not run
        return Check(asked["says"], asked["study"], asked.get("least"), asked.get("most"), ())
    cells = _cells(folder)
    values = _by_seed(cells, asked["row"], field)
    if "than" in asked:
        other = _by_seed(cells, asked["than"], field)
        values = {seed: values[seed] - other[seed] for seed in values if seed in other}
    elif "beside" in asked:
        other = _by_seed(cells, asked["row"], asked["beside"])
        values = {seed: values[seed] - other[seed] for seed in values if seed in other}
    points = tuple(100 * value for _, value in sorted(values.items()))
    return Check(asked["says"], asked["study"], asked.get("least"), asked.get("most"), points)


@functools.cache
def _cells(folder: Path) -> list[Cell]:
    return read_cells(folder)


def _by_seed(cells: list[Cell], row: Mapping[str, Any], field: str) -> dict[int, float]:
    """The field's mean over the cells of a row, one a run; a row may name several attacks, heads, …

    Raises:
        LookupError: the study has no such row, or one of them is not finished in a run that others have.
    """
    asked = {**USUAL, **row}
    some = [cell for cell in cells if all(_is(given(cell, axis), asked[axis]) for axis in AXES if axis in asked)]
    if not some:
        raise LookupError(f"no cells of {row}")
    runs: dict[int, dict[str, float]] = {}
    for cell in some:
        if not on_test(cell) and finite(cell.get(field)):
            runs.setdefault(cell["seed"], {})["|".join(str(cell.get(axis)) for axis in AXES)] = cell[field]
    most = max(map(len, runs.values()), default=0)
    return {seed: sum(values.values()) / most for seed, values in runs.items() if len(values) == most}


def _is(value: str | None, asked: Any) -> bool:
    return value in asked if isinstance(asked, list) else value == asked


def page() -> str:
    """docs/claims.md."""
    asked, told = tomllib.loads((HERE / "claims.toml").read_text()), claims()
    counts = {
        name: sum(claim.verdict == name for claim in told)
        for name in (REPRODUCED, PART, NOT, UNTOLD, UNSETTLED, UNTESTABLE)
    }
    shown = [(f"*{name}*", str(count)) for name, count in counts.items() if count]
    parts = [asked["head"].strip() + "\n", markdown(("verdict", "claims"), shown)]
    for key, paper in asked["paper"].items():
        own = [_line(claim) for claim in told if claim.id.rpartition("-")[0] == key]
        parts += [
            f"## {paper['name']}\n",
            paper["cite"].strip() + "\n",
            markdown(HEAD, own),
        ]
    return "\n".join(parts)


def _line(claim: Claim) -> tuple[str, ...]:
    """A claim as the page's table shows it."""
    measured = "<br>".join(f"{check.says}, {check.asked}: {check.measured}, *{check.told}*" for check in claim.checks)
    studies = dict.fromkeys(check.study for check in claim.checks)
    run = "<br>".join(f"[`{study}`](../studies/{study}.toml)" for study in studies)
    said = f"*{claim.verdict}*"
    return claim.id, claim.says, claim.where or "–", claim.published, measured or "–", said, run or "–", claim.differs


def record() -> list[dict[str, Any]]:
    """docs/claims.json: the same as plain values."""
    return [
        {
            **claim._asdict(),
            "verdict": claim.verdict,
            "checks": [
                {**c._asdict(), "holds": c.holds, "command": f"distrust run studies/{c.study}.toml"}
                for c in claim.checks
            ],
        }
        for claim in claims()
    ]


def text() -> str:
    """The file of `record`."""
    return json.dumps(record(), indent=1, ensure_ascii=False) + "\n"


def readme(old: str) -> str:
    """The README with its lines of the claims that matter most, by `top`."""
    told, top = {claim.id: claim for claim in claims()}, tomllib.loads((HERE / "claims.toml").read_text())["top"]
    lines = [(told[id].paper, told[id].says, told[id].published, f"*{told[id].verdict}*") for id in top]
    table = markdown(("paper", "claim", "published", "here"), lines)
    head, begin, rest = old.partition("<!-- claims -->\n")
    _, end, tail = rest.partition("<!-- /claims -->")
    return f"{head}{begin}{table}{end}{tail}"


if __name__ == "__main__":
    (HERE / "claims.md").write_text(page())
    (HERE / "claims.json").write_text(text())
    (HERE.parent / "README.md").write_text(readme((HERE.parent / "README.md").read_text()))
