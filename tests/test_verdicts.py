"""Each verdict by its rule: of students, of defences beside each other, of detectors."""

import re

import pytest
from tests.report_fixture import TEACHER, cell, defended, seeds

from distrust.reporting import Report, page
from distrust.reporting.answer import answer
from distrust.reporting.detection import detections
from distrust.reporting.rows import over_seeds
from distrust.reporting.text import share
from distrust.reporting.verdict import Standing, Verdict, comparisons, verdicts


@pytest.mark.parametrize(
    ("asrs", "more", "said"),
    [
        ((0.3, 0.31, 0.3), {"untriggered": 0.01}, Verdict.YES),
        ((0.3, 0.31, 0.3), {"untriggered": 0.29}, Verdict.DRIFT),
        ((0.02, 0.021, 0.02), {}, Verdict.NO),
        ((0.1, 0.9, 0.2), {}, Verdict.UNCLEAR),
        ((0.9,), {}, Verdict.ONE_RUN),
        ((0.9, 0.9), {}, Verdict.TWO_RUNS),
        ((0.9, 0.9, 0.9), {"flags": ["control-fires"]}, None),
        ((0.9, 0.9, 0.9), {"defense": "nad"}, None),
        ((0.9, 0.9, 0.9), {"distiller": "none", "student": None}, None),
    ],
)
def test_a_verdict_follows_one_rule(asrs, more, said):
    where = {"distiller": "kd", "student": "wrn16-1", **more}
    (row,) = over_seeds(seeds(*((0.9, asr) for asr in asrs), **where))
    assert verdicts([row]).get(row) is said


@pytest.mark.parametrize(("asr", "place", "said"), [(0.9, 1, "inherited"), (0.04, 1, None), (0.04, 3, "inherited")])
def test_a_student_of_a_teacher_that_learnt_nothing_has_no_verdict(asr, place, said):
    student = seeds(*((0.9, 0.3),) * 3, distiller="kd", student="wrn16-1", place=place)
    teacher, taught = over_seeds([*seeds(*((0.9, asr),) * 3, place=place), *student])
    assert verdicts([teacher, taught]).get(taught) == said


def runs(name, *acc_and_asr):
    return seeds(*acc_and_asr, defense=name)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([(0.88, 0.04)] * 3, [(0.88, 0.05)] * 3, Standing.AS_GOOD),
        ([(0.88, 0.04)] * 3, [(0.80, 0.05)] * 3, Standing.BETTER),
        ([(0.88, 0.40)] * 3, [(0.88, 0.05)] * 3, Standing.WORSE),
        ([(0.80, 0.04)] * 3, [(0.88, 0.05)] * 3, Standing.WORSE),
        ([(0.88, 0.04)] * 3, [(0.88, 0.90)] * 3, Standing.BETTER),
        ([(0.80, 0.04)] * 3, [(0.88, 0.90)] * 3, Standing.TRADE),
        ([(0.88, 0.90)] * 3, [(0.80, 0.04)] * 3, Standing.TRADE),
        ([(0.88, 0.04)] * 3, [(0.88, 0.0), (0.88, 0.9), (0.88, 0.0)], Standing.UNCLEAR),
        ([(0.88, 0.1), (0.88, 0.5), (0.88, 0.9)], [(0.88, 0.2), (0.88, 0.6), (0.88, 1.0)], Standing.BETTER),
        ([(0.88, 0.04)] * 2, [(0.88, 0.90)] * 2, Standing.FEW),
    ],
)
def test_a_defence_stands_beside_fine_tuning_by_paired_differences(ours, theirs, said):
    (found,) = comparisons(TEACHER + runs("nad", *ours) + runs("finetune", *theirs))
    nad = found.result("nad")
    assert (nad.rival, nad.standing) == ("finetune", said)
    pairs = list(zip(ours, theirs, strict=True))
    assert nad.less.values == pytest.approx([mine[1] - other[1] for mine, other in pairs])
    assert nad.more.values == pytest.approx([mine[0] - other[0] for mine, other in pairs])


def test_a_variant_stands_beside_its_own_method():
    (found,) = comparisons(TEACHER + defended("nad", 0.88, 0.04) + defended("nad[beta=0]", 0.88, 0.03))
    variant = found.result("nad[beta=0]")
    assert (variant.rival, variant.standing, found.result("nad").rival) == ("nad", Standing.AS_GOOD, None)


def test_a_defence_stands_beside_fine_tuning_on_the_same_images_at_the_same_place():
    few = {"clean": "0.01"}, {"at": "teacher", "clean": "0.01"}
    ways = ["[" + ",".join(f"{name}={value}" for name, value in way.items()) + "]" for way in few]
    names = [f"{name}{way}" for way in ways for name in ("nad", "finetune")] + ["nad[beta=0,clean=0.01]", "clp"]
    (found,) = comparisons(TEACHER + [cell for name in names for cell in defended(name, 0.88, 0.04)])
    rivals = {name: found.result(name).rival for name in names}
    assert rivals == {
        f"nad{ways[0]}": f"finetune{ways[0]}", f"nad{ways[1]}": f"finetune{ways[1]}", "clp": None,
        "nad[beta=0,clean=0.01]": f"finetune{ways[0]}", f"finetune{ways[0]}": None, f"finetune{ways[1]}": None,
    }  # fmt: skip


def test_the_frontier_is_of_what_is_left_and_its_price_and_null_rows_win_nothing():
    some = {"nad": (0.88, 0.04), "mimic": (0.86, 0.02), "prune": (0.85, 0.03), "clp": (0.89, 0.5)}
    cells = TEACHER + [c for name, numbers in some.items() for c in defended(name, *numbers)]
    (found,) = comparisons(cells)
    assert [one.defense for one in found.frontier] == ["nad", "mimic", "clp"], "prune is dearer and leaves more"
    (found,) = comparisons([cell for cell in cells if cell["seed"] < 2])
    assert found.frontier == [], "two runs"
    (found,) = comparisons(cells + defended("finetune", 0.9, 0.0))
    assert found.frontier == [] and found.special.defense == "mimic"
    (found,) = comparisons(TEACHER + defended("scratch", 0.9, 0.0) + defended("mimic", 0.86, 0.5))
    assert found.special.defense == "mimic", "training anew is no defence"


def test_a_defence_earns_nothing_where_the_attack_was_weak():
    weak = [{**c, "attack": "sig"} for c in TEACHER + defended("nad", 0.88, 0.04, flags=["attack-weak"])]
    assert comparisons(weak) == []
    (found,) = comparisons(weak + TEACHER + defended("nad", 0.88, 0.4))
    assert found.models == 3 and found.result("nad").carried.mean == pytest.approx(0.39)


def test_what_cleans_is_shown_and_a_destroyed_model_is_not_clean():
    lucky = runs("clp", (0.88, 0.94), (0.88, 0.0), (0.88, 0.95))
    (found,) = comparisons(TEACHER + defended("nad", 0.88, 0.04) + lucky)
    assert [one.cleans for one in found.results] == [True, False]
    (found,) = comparisons(TEACHER + defended("prune", 0.3, 0.0, flags=["acc-floor"]))
    assert (found.results[0].floored, found.results[0].cleans) == (3, False)
    (found,) = comparisons(TEACHER[:2] + defended("nad", 0.88, 0.04)[:2])
    assert found.results[0].cleans is None


def test_a_defence_with_fewer_seeds_does_not_cut_the_others_down_to_its_own():
    single = [c for c in defended("nad[epochs=5]", 0.88, 0.01) if c["seed"] == 0]
    cells = TEACHER + defended("nad", 0.88, 0.04) + single
    (found,) = comparisons(cells)
    assert (found.models, found.seeds, found.rare, found.special.defense) == (3, 3, 1, "nad")
    assert "1 with fewer seeds" in page(Report("t", cells))


def scored(attack, seed, score, control, suspect=0):
    found = {"detector": "probe", "score": score, "score_control": control, "suspect": suspect, "target": 0}
    return cell(attack=attack, seed=seed, **found)


def test_a_suspect_is_judged_by_the_clean_ones_of_the_other_half_of_the_seeds():
    rows = [scored(a, s, 5 + s + (a == "b"), s / 4, suspect=int(a == "b")) for a in "ab" for s in range(4)]
    rows[0] = scored("a", 0, 0.6, 0.0)  # lies between the clean ones: 0, 0.25, 0.5, 0.75
    (found,) = detections(rows)
    assert (found.attacked, found.clean, found.named) == (8, 4, (4, 8)), "a shared control counts once"
    assert found.auroc == pytest.approx((7 * 4 + 3) / 32)
    assert found.level == pytest.approx(1 / 3), "two clean ones a half resolve no less"
    assert found.found == (7, 8), "beside 0.25 and 0.75, 0.6 has p = 2/3"
    assert found.alarms == (1, 4), "0.75 beside 0 and 0.5"
    assert "The detector probe tells attacked from clean with an AUROC of 0.97." in answer(rows)
    line = re.search(r"<td>probe</td>.*?</tr>", page(Report("t", rows)), re.DOTALL)[0]
    assert "7 of 8 [52.9, 97.8]" in line and "33.3" in line
    (alone,) = detections(rows[:1])
    assert (alone.level, alone.found) == (None, None)


def test_with_clean_suspects_enough_the_level_is_five_percent():
    rows = [scored(f"a{i}", s, 2.0, i / 19) for s in (0, 1) for i in range(19)]
    looks = [{**row, "teacher": row["attack"]} for row in rows]
    (found,) = detections(looks)
    assert (found.clean, found.level, found.found, found.alarms) == (38, 0.05, (38, 38), (0, 38))
    few = [look for look in looks if look["seed"] == 0 or look["attack"] != "a0"]
    assert detections(few)[0].level == pytest.approx(1 / 19)


def test_shares_are_counts_with_wilsons_interval():
    (found,) = detections([scored("a", s, 1.0, 0.0, suspect=int(s > 1)) for s in range(9)])
    assert share(found.named) == "2 of 9 [6.3, 54.7]" and share(None) == "–"
