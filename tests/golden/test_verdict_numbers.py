"""What verdicts are counted from, by hand: a suspect's p, and what a defence that destroyed a model leaves."""

from distrust.reporting.detection import _called, detections
from distrust.reporting.verdict import _left


def test_a_suspects_p_counts_itself_among_the_clean_ones_of_the_other_half():
    """One of three clean suspects scores as high: p = (1 + 1) / (3 + 1)."""
    halves = [[9.0, 9.0], [1.0, 2.0, 4.0]]
    assert [_called([(0, 3.0)], halves, level).hits for level in (0.4, 0.5)] == [0, 1]


def test_a_model_that_was_destroyed_carries_what_it_carried_before():
    before = {"seed": 0, "carried": 0.8, "flags": []}
    for flags, left in (([], 0.1), (["acc-floor"], 0.8)):
        assert _left([(before, {"seed": 0, "carried": 0.1, "flags": flags})]) == {0: left}


def test_a_tie_counts_half():
    look = {"detector": "any", "attack": "badnets", "score": 1.0, "score_control": 1.0, "suspect": 0, "target": 0}
    (found,) = detections([look | {"seed": seed} for seed in (0, 1)])
    assert found.auroc == 0.5 and (found.attacked, found.clean) == (2, 2)
