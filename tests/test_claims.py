"""How often a report claims what is not there, and finds what is: simulated studies that spread as ours do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from distrust.intervals import LEAST, chance_above, chance_below, claimed
from distrust.reporting.rows import Estimate, Row, given, is_teacher, over_seeds
from distrust.reporting.verdict import Verdict, alike, verdicts
from distrust.study import read_cells

SETTINGS = 40
CARRIES = 0.2
MIDDLE = (0.1, 0.4)  # carried on average, where runs spread most


@pytest.fixture(scope="module")
def committed() -> list[Estimate]:
    """Carried, of every committed row of three seeds or more that can be believed, and is of a student as verdicts are.

    Teachers that a defence cleaned spread more; what is said of them is a paired comparison, and no verdict.
    """
    folders = sorted(path for path in (Path(__file__).parents[1] / "results").iterdir() if path.is_dir())
    rows = [row for folder in folders for row in over_seeds(read_cells(folder)) if not given(row.axes, "detector")]
    found = [
        row.values["carried"]
        for row in rows
        if "carried" in row.values and not row.doubted and not is_teacher(row.axes)
    ]
    return [carried for carried in found if len(carried.values) >= LEAST]


def spreads(rows, low=-1.0, high=1.1) -> np.ndarray:
    """Standard deviations over seeds, of the rows that carry so much."""
    return np.array([np.std(one.values, ddof=1) for one in rows if low <= one.mean < high])


def row(values, **axes) -> Row:
    axes = {"attack": "badnets", "distiller": "kd", "student": "wrn16-1", "defense": "none", **axes}
    carried = Estimate.of([float(value) for value in values])
    return Row(axes, 1, {"carried": carried}, list(range(len(values))), 900, [], "done", [], [])


def claims(draw, spread, carried, seeds=3) -> np.ndarray:
    """Which settings a study says to have inherited, whose runs spread so about what is truly carried."""
    runs = [mean + draw.choice(spread) * draw.standard_normal(seeds) for mean in carried]
    said = verdicts([row(values, teacher=f"t{i}") for i, values in enumerate(runs)])
    return np.array([verdict in (Verdict.YES, Verdict.DRIFT) for verdict in said.values()])


def test_where_nothing_is_carried_few_studies_claim_an_inheritance(committed):
    draw = np.random.default_rng(0)
    for spread in (spreads(committed), spreads(committed, *MIDDLE), spreads(committed, high=0.05)):
        found = [claims(draw, spread, [0.0] * SETTINGS).any() for _ in range(200)]
        assert np.mean(found) <= 0.05


@pytest.mark.parametrize("carriers", [SETTINGS, SETTINGS // 2])
def test_carriers_of_twenty_points_are_found(committed, carriers):
    draw, truth = np.random.default_rng(1), np.arange(SETTINGS) < carriers
    found = np.array([claims(draw, spreads(committed), CARRIES * truth) for _ in range(100)])
    assert found[:, truth].mean() >= 0.8
    false = [(some & ~truth).sum() / max(some.sum(), 1) for some in found]
    assert np.mean(false) <= 0.05, "the false discovery rate"


def test_where_runs_spread_most_five_find_what_three_do_not(committed):
    draw, truth = np.random.default_rng(2), [CARRIES] * SETTINGS
    spread = spreads(committed, *MIDDLE)
    three, five = (np.mean([claims(draw, spread, truth, seeds) for _ in range(100)]) for seeds in (3, 5))
    assert 0.7 <= three < 0.8 < five


def test_chances_are_those_of_a_t_test():
    runs = [0.34, 0.40, 0.07]
    for bound in (0.0, 0.05, 0.5):
        assert chance_above(runs, bound) == pytest.approx(ttest_1samp(runs, bound, alternative="greater").pvalue)
        assert chance_below(runs, bound) == pytest.approx(ttest_1samp(runs, bound, alternative="less").pvalue)
    assert (chance_above([0.1] * 3), chance_above([0.1] * 3, 0.1), chance_below([0.1] * 3, 0.1)) == (0.0, 1.0, 1.0)


def test_claims_are_corrected_for_their_number():
    # Benjamini and Hochberg 1995, section 3.2: of these fifteen the first four are claimed, by Bonferroni three
    chances = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528]
    chances += [0.7590, 1.0000]
    assert claimed(chances) == [True] * 4 + [False] * 11
    draw = np.random.default_rng(4)
    for p in draw.beta(0.3, 1, (50, 30)):
        assert claimed(list(p)) == [one <= 0.05 for one in false_discovery_control(p)]
    assert claimed([0.04]) == [True] and claimed([0.04, 0.9]) == [False, False] and claimed([]) == []


def test_one_rule_judges_one_row_and_forty():
    clear, faint = [0.30, 0.32, 0.31], [0.02, 0.20, 0.16]  # p = 0.0002 and 0.05
    alone = row(faint)
    assert verdicts([alone])[alone] is Verdict.UNCLEAR
    fair = row([0.05, 0.20, 0.16])  # p = 0.04
    assert verdicts([fair])[fair] is Verdict.YES
    many = [row(clear), fair, *(row([-0.001, 0.0, 0.001 * i], teacher=f"t{i}") for i in range(30))]
    said = verdicts(many)
    assert said[many[0]] is Verdict.YES and said[fair] is Verdict.UNCLEAR and said[many[-1]] is Verdict.NO


def test_settings_that_gave_the_same_numbers_count_once():
    same = [row([0.3, 0.31, 0.29], attack=f"badnets[rate={rate}]") for rate in (0.02, 0.05)]
    other = row([0.3, 0.31, 0.28], attack="badnets[rate=0.1]")
    assert [len(rows) for rows in alike([*same, other])] == [2, 1]
    assert verdicts(same) == dict.fromkeys(same, Verdict.YES)


def test_fewer_runs_than_three_bear_no_verdict():
    one, two = row([0.9]), row([0.9, 0.91])
    assert verdicts([one, two]) == {one: Verdict.ONE_RUN, two: Verdict.TWO_RUNS}
