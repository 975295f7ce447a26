"""What the pages claim is borne by the cells: each claim is tied to a computed verdict, and to the runs behind it."""

import functools
import re
import tomllib
from pathlib import Path
from statistics import fmean

import pytest

from distrust.intervals import RATE, chance_above
from distrust.reporting.detection import detections
from distrust.reporting.labels import shortened
from distrust.reporting.rows import given, over_seeds
from distrust.reporting.text import listing
from distrust.reporting.verdict import comparisons, verdicts
from distrust.study import read_cells

ROOT = Path(__file__).resolve().parents[1]
HELD = tomllib.loads((ROOT / "tests" / "prose.toml").read_text())
PAGES = (
    "README.md",
    *(
        f"docs/{page}.md"
        for page in (
            *("results", "cheatkd", "clean-teacher", "distilled-sets", "encoders", "nad", "nad-attacks", "audit"),
            "subliminal",
        )
    ),
)
CLAIMS = re.compile(r"\b(inherits|inherited|did not inherit|cleans|beats|better|worse|best|as good|outdoes)\b")
NO_CLAIMS = ("cleans what it finds", "does NAD remove it better than", "should do no worse than", "best *test* ASR")


def text(page):
    """Without tables, code and headings, each paragraph and list item in one line."""
    found = (ROOT / page).read_text()
    for block in (
        r"<!-- (results|choices|neurons|map|headline|shelf|claims|verdicts)\b.*?<!-- /\1 -->",
        r"```.*?```",
        r"^# .*?$",
    ):
        found = re.sub(block, "", found, flags=re.DOTALL | re.MULTILINE)
    return "\n".join(" ".join(part.split()) for part in re.split(r"\n\n+|\n(?=- )", found))


@functools.cache
def cells(study):
    return read_cells(ROOT / "results" / study)


@functools.cache
def judged(study):
    return verdicts(over_seeds(cells(study)))


def row(study, detector=None, **axes):
    """The undefended students' row with these axes."""
    asked = {"detector": detector, **axes}
    (found,) = [one for one in judged(study) if all(given(one.axes, name) == value for name, value in asked.items())]
    return found


def tied(kind):
    return pytest.mark.parametrize("held", HELD[kind], ids=lambda held: f"{held['page']}: {held['says'][:40]}")


@tied("student")
def test_what_a_page_says_of_a_student_is_its_verdict(held):
    for axes in held["rows"]:
        one = row(held["study"], **axes)
        carried = [100 * value for value in one.values["carried"].values]
        assert judged(held["study"])[one] == held["verdict"]
        says = held["says"].format(runs=listing([f"{value:.0f}" for value in carried]), mean=f"{fmean(carried):.0f}")
        assert says in text(held["page"])


@tied("defense")
def test_what_a_page_says_of_a_defence_is_computed(held):
    results = [one for compared in comparisons(shortened(cells(held["study"]))) for one in compared.results]
    found = {one.defense: one for one in results if one.defense in held["names"]}
    assert held["says"] in text(held["page"]) and found.keys() == set(held["names"])
    for one in found.values():
        assert (one.cleans, one.standing) == (held.get("cleans", one.cleans), held.get("standing", one.standing))


@tied("detector")
def test_what_a_page_says_of_a_detector_is_counted(held):
    (one,) = [one for one in detections(shortened(cells(held["study"]))) if one.detector == held["name"]]
    assert [f"{share.hits} of {share.of}" for share in (one.found, one.alarms)] == held["counts"]
    assert held["says"] in text(held["page"])


def test_stamps_carry_more_than_poisoned_distillation_run_by_run():
    assert "carries less than such stamps" in text("docs/distilled-sets.md")
    attacks = ("stamp[how=appended,rate=0.1]", "poisoned_distillation[lr=0.02]")
    ours, theirs = (row("synthetic-defense", "patch_probe", condenser="dm[legal=true]", attack=one) for one in attacks)
    runs = zip(ours.values["carried"].values, theirs.values["carried"].values, strict=True)
    assert ours.seeds == theirs.seeds and chance_above([one - other for one, other in runs]) <= RATE


def test_distillers_are_more_accurate_than_labels_alone_run_by_run():
    assert "In every run each was more accurate than labels alone, but for FSP inside six" in text("docs/results.md")
    found = {}
    for one in over_seeds(cells("distillers")):
        runs = dict(zip(one.seeds, one.values["acc"].values, strict=True))
        found[one.axes["distiller"], one.axes["student"]] = runs
    alone = {student: found.pop(("kd[weight=0,label_weight=1]", student)) for student in ("wrn16-1", "wrn10-2")}
    more = {name: {acc > alone[student][seed] for seed, acc in runs.items()} for (name, student), runs in found.items()}
    assert more.pop("fsp") == {False} and len(more) == 11 and set.union(*more.values()) == {True}
    assert {name for (name, _), runs in found.items() if len(runs) == 2} == {"ab[label_weight=1]", "simkd[weight=30]"}


def parts(page):
    """Of every sentence of a page that a test holds, what stands between its numbers."""
    says = [held["says"] for kind in HELD.values() for held in kind if held["page"] == page]
    return {part for one in says for part in re.split(r"\{\w+\}", one) if len(part) > 12}


@pytest.mark.parametrize("page", PAGES)
def test_no_page_claims_what_no_test_holds(page):
    sentences = re.split(r"(?<=[.?!])[*`]*\s+|\n", re.sub(r"^#.*$", "", text(page), flags=re.MULTILINE))
    claims = [one for one in sentences if CLAIMS.search(one) and not any(words in one for words in NO_CLAIMS)]
    assert [one for one in claims if not any(part in one for part in parts(page))] == []


@pytest.mark.parametrize("page", [page for page in PAGES if "In short" in text(page)])
def test_each_headline_is_held_or_says_how_many_runs_it_has(page):
    short = re.split(r"^## (?!In short)", text(page).partition("In short")[2], flags=re.MULTILINE)[0]
    held, _, single = short.partition("\nOne run each")
    items = [one for one in held.splitlines() if one.startswith("- ")]
    assert len(items) > 3
    assert [one for one in items if not re.search(r"\bruns?\b", one) and not any(p in one for p in parts(page))] == []
