"""A slice of `python -m tests.fuzz`, and what it has to find."""

from tests.fuzz import FOUND, Case, call, fuzz

from distrust.cli import command


def test_what_is_broken_ends_in_a_sentence():
    cases = list(fuzz(65, seed=1))
    assert not [case for case in cases if case.faults]
    assert len(cases) == 65 and {0, 2} < {case.code for case in cases}, "some are as good as sound"


def test_a_fault_is_counted(monkeypatch):
    assert Case("", 0, [], 7, command.DEFECT, 31, 2**32, True).faults == [*FOUND]

    def broken(*_: object) -> None:
        raise KeyError("model")

    monkeypatch.setattr(command, "inert", broken)
    assert call(["list"]).faults[0] == "defects"
