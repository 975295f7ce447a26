"""The page of claims: its rule, that every row it names is there, and that it is up to date."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from distrust.intervals import needed

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from claims import FAILS, FEWER, HOLDS, OPEN, Check, Claim, _by_seed, _cells, claims, page, readme, text  # noqa: E402

TOLD = claims()
ASKED = tomllib.loads((ROOT / "docs" / "claims.toml").read_text())


@pytest.mark.parametrize(
    ("least", "most", "values", "holds"),
    [
        (5.0, None, (26.6, 54.3, 48.6), HOLDS),  # 43.2 ± 36.3: t of 2 is 4.303, the error 8.43
        (7.0, None, (26.6, 54.3, 48.6), OPEN),
        (85.0, None, (26.6, 54.3, 48.6), FAILS),
        (79.0, None, (26.6, 54.3, 48.6), OPEN),
        (None, 80.0, (26.6, 54.3, 48.6), HOLDS),
        (None, 6.0, (26.6, 54.3, 48.6), FAILS),
        (None, 0.0, (-1.0, -1.1), FEWER),
        (-5.0, None, (-4.0, -4.0, -4.0), HOLDS),
        (0.0, None, (), FEWER),
    ],
)
def test_a_check_holds_by_the_interval_over_its_runs(least, most, values, holds):
    assert Check("it", "study", least, most, values).holds == holds


@pytest.mark.parametrize(
    ("values", "bound", "runs"),
    [
        ((26.6, 54.3, 48.6), 7.0, 4),  # 3.182 · 14.6 / √4 = 23.2 < 36.2
        ((1.0, 2.0, 3.0), 1.0, 7),  # 2.571 / √6 = 1.05, 2.447 / √7 = 0.92
        ((1.0, 2.0, 3.0), 2.0, None),
        ((2.0, 2.0, 2.0), 1.0, 3),
    ],
)
def test_how_many_runs_would_tell(values, bound, runs):
    assert needed(values, bound) == runs
    told = Check("it", "study", bound, None, values).told
    assert told == {4: "cannot be told: about 4 runs would", 3: HOLDS}.get(runs, told)
    assert runs or told == "cannot be told: more than 100 runs would"


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([HOLDS, HOLDS], "reproduced"), ([HOLDS], "reproduced"),
        ([HOLDS, FAILS], "in part"), ([HOLDS, FEWER], "in part"),
        ([FAILS, HOLDS], "not here"), ([OPEN, HOLDS], "cannot be told"), ([FEWER, HOLDS], "not settled"),
        ([], "not testable"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_first_check(checks, verdict):
    values = {HOLDS: (9.0, 9.0, 9.0), FAILS: (1.0, 1.0, 1.0), OPEN: (1.0, 5.0, 9.0), FEWER: (9.0,)}
    made = tuple(Check("it", "study", 5.0, None, values[name]) for name in checks)
    assert Claim("cheatkd-1", "CheatKD", "", "it", "", "", made).verdict == verdict


def test_differences_are_taken_within_a_run_and_a_run_that_lacks_an_attack_is_left_out():
    def cell(attack, seed, carried, **more):
        return {"attack": attack, "seed": seed, "carried": carried, "defense": "none", **more}

    cells = [cell("a", 0, 0.5), cell("b", 0, 0.7), cell("a", 1, 0.1), cell("a", 2, 0.2, flags=["chosen-on-test"])]
    assert _by_seed(cells, {"attack": "a"}, "carried") == {0: 0.5, 1: 0.1}, "what was chosen on test images is no run"
    assert _by_seed(cells, {"attack": ["a", "b"]}, "carried") == {0: pytest.approx(0.6)}
    with pytest.raises(LookupError, match="no cells of"):
        _by_seed(cells, {"attack": "c"}, "carried")


def test_a_number_of_the_page_is_that_of_the_results():
    """CheatKD's first row by hand, from the files."""
    found = {}
    for cell in _cells(ROOT / "results" / "cheatkd-table2"):
        if (cell["attack"], cell["distiller"]) == ("cheatkd[trigger_lr=0.01]", "overhaul"):
            found[cell["seed"]] = 100 * (cell["asr"] - cell["base"])
    assert TOLD[0].checks[0].values == pytest.approx([found[seed] for seed in sorted(found)])
    assert TOLD[0].checks[2].values[0] == pytest.approx(0.3, abs=0.2)


def test_every_claim_is_of_a_paper_has_a_study_and_few_cannot_be_tested():
    assert len({claim.id for claim in TOLD}) == len(TOLD) and {claim.paper for claim in TOLD} == {
        paper["name"] for paper in ASKED["paper"].values()
    }
    for claim in TOLD:
        assert claim.differs and all((ROOT / "studies" / f"{check.study}.toml").is_file() for check in claim.checks)
        assert all((check.least is None) != (check.most is None) for check in claim.checks)
    assert sum(claim.verdict == "not testable" for claim in TOLD) <= len(TOLD) / 5


def test_the_page_and_the_readme_are_up_to_date():
    """`python docs/claims.py` writes them."""
    assert (ROOT / "docs" / "claims.md").read_text() == page()
    assert (ROOT / "docs" / "claims.json").read_text() == text() and len(json.loads(text())) == len(TOLD)
    told = (ROOT / "README.md").read_text()
    assert told == readme(told) and len(re.findall(r"^\| .* \| \*[a-z ]+\* \|$", told, re.MULTILINE)) == len(
        ASKED["top"]
    )
