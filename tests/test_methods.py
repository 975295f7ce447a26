"""The registry: names and near misses, bounds, plug-ins, and versions."""

import dataclasses
import importlib.metadata
import re
import sys
import types
from pathlib import Path

import pytest

import distrust
from distrust.errors import BadInput, NotFound
from distrust.marks import Count, DefenseMark, attack, defense
from distrust.registry import PLUGIN, Method, Registry, registry

# --- names -------------------------------------------------------------------------------------------------


def test_methods_are_found_by_kind_and_by_name_alone():
    nad = registry.get("defenses", "nad")
    assert nad is registry.find("nad") is registry.kind("defenses")["nad"]
    assert nad.call is distrust.defenses.nad
    assert (nad.name, nad.mark.kind, nad.mark.on, nad.mark.null) == ("nad", "defenses", "classifier", False)
    assert registry.find("sig").mark.kind == "triggers", "a trigger and an attack share this name; the first kind wins"
    assert {"finetune", "none"} <= {n for n, m in registry.kind("defenses").items() if m.mark.null}


def test_a_mistyped_name_gets_its_near_matches_and_what_is_known():
    known = ", ".join(sorted(registry.kind("defenses")))
    with pytest.raises(NotFound) as caught:
        registry.get("defenses", "nda")
    assert str(caught.value) == f"no defense 'nda'. Did you mean 'nad'? Known: {known}. {PLUGIN}"
    with pytest.raises(NotFound, match=r"^no kind 'defences'\. Did you mean 'defenses'"):
        registry.kind("defences")
    with pytest.raises(NotFound, match=r"^no method 'badnet'\. Did you mean 'badnets'"):
        registry.find("badnet")
    with pytest.raises(NotFound, match=r"^no attack 'zzz'\. Known: "):
        registry.get("attacks", "zzz")


# --- options -----------------------------------------------------------------------------------------------


def test_options_are_keyword_only_arguments_without_what_the_caller_supplies():
    assert list(registry.get("defenses", "finetune").options)[:3] == ["epochs", "lr", "batch_size"]
    assert list(registry.get("triggers", "patch").options) == ["pattern", "size", "inset"]


def test_checked_options_are_all_options_with_their_types():
    assert registry.get("distillers", "kd").check({"temperature": "2"}) == {"temperature": 2.0, "weight": 0.9}
    nad = registry.get("defenses", "nad")
    assert nad.check({"beta": 0})["beta"] == 0 and nad.check({"beta": [1, 2]})["beta"] == [1, 2]


@pytest.mark.parametrize(
    "name, given, message",
    [
        ("kd", {"temperature": 0}, "kd: temperature=0: input should be greater than 0."),
        ("kd", {"weight": float("inf")}, "kd: weight=inf: input should be a finite number."),
        ("badnets", {"rate": 1.5}, "badnets: rate=1.5: input should be less than or equal to 1."),
        ("badnets", {"stamp": "during"}, "badnets: stamp='during': input should be 'before' or 'after'."),
        ("nad", {"beta": -5}, "nad: beta=-5: input should be greater than or equal to 0."),
        ("nad", {"beta": [1, -5]}, "nad: beta=[1, -5]: input should be greater than or equal to 0."),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(name, given, message):
    with pytest.raises(BadInput) as caught:
        registry.find(name).check(given)
    assert str(caught.value) == f"{message} Type `distrust show {name}` for its options."


def test_a_mistyped_option_gets_its_near_matches():
    with pytest.raises(NotFound, match=r"^no option of nad 'bta'\. Did you mean 'beta'"):
        registry.find("nad").check({"bta": 1})
    with pytest.raises(NotFound, match="^no option of none 'lr'"):
        registry.find("none").check({"lr": 1})


# --- plug-ins ----------------------------------------------------------------------------------------------


def test_a_plugin_must_exist_and_hold_a_method(tmp_path):
    fresh = Registry()
    with pytest.raises(NotFound, match="no plug-in file"):
        fresh.add(tmp_path / "missing.py")
    (tmp_path / "empty.py").write_text("from distrust.methods.defenses import nad  # somebody else's\n")
    with pytest.raises(BadInput, match=r"^empty\.py holds no marked method\. Put a mark above a function"):
        fresh.add(tmp_path / "empty.py")


def test_several_methods_of_a_plugin_have_their_own_names_and_a_single_one_that_of_the_file(tmp_path):
    fresh = Registry()
    source = "\n@{}(paper='a')\ndef {}(suspect, clean): 'A trial.'\n"
    start = "from distrust.marks import defense, detector\n"
    (tmp_path / "two.py").write_text(start + source.format("defense", "a") + source.format("detector", "b"))
    assert fresh.add(tmp_path / "two.py").name == "a" and fresh.find("b").mark.kind == "detectors"
    (tmp_path / "single.py").write_text(start + source.format("defense", "c"))
    assert fresh.add(tmp_path / "single.py").name == "single"
    with pytest.raises(NotFound, match=r"no defense 'two'.* One in a file of yours takes --plugin FILE\.py\."):
        fresh.get("defenses", "two")


def test_an_installed_package_adds_methods_by_entry_point(monkeypatch):
    @defense(paper="Doe, 2026", on="encoder")
    def polish(model, clean, *, passes: Count = 3, rng=None):
        """Polish it."""

    module = types.ModuleType("doe_polish")
    module.polish = polish
    monkeypatch.setitem(sys.modules, "doe_polish", module)

    def entry_points(group):
        assert group == "distrust.methods"
        return [importlib.metadata.EntryPoint("polish", "doe_polish:polish", group)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    fresh = Registry()
    found = fresh.get("defenses", "polish")
    assert found.call is polish and found.mark == DefenseMark(kind="defenses", paper="Doe, 2026", on="encoder")
    assert found.check({}) == {"passes": 3} and found.summary == "Polish it."
    assert "polish" not in fresh.kind("attacks") and "nad" in fresh.kind("defenses")


# --- versions --------------------------------------------------------------------------------------------


def method_in(path: Path, text: str | None = None) -> Method:
    """A method that says it was defined in the file at `path`, which need not be importable."""
    if text is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    scope: dict = {}
    exec(compile("def call(): ...", str(path), "exec"), scope)
    return Method(path.stem, DefenseMark(kind="defenses", paper="a paper"), scope["call"])


CODE = 'def f(x):\n    """Double it."""\n    return 2 * x\n'


@pytest.mark.parametrize(
    "change, same",
    [
        ("# a comment\n" + CODE, True),
        ('"""A module docstring."""\n\n\n' + CODE, True),
        (CODE.replace("Double it.", "Twice."), True),
        (CODE.replace('    """Double it."""\n', ""), True),
        (CODE.replace("2 * x", "(2 *\n  x)"), True),
        (CODE.replace("2 * x", "3 * x"), False),
        (CODE.replace("x", "y"), False),
        (CODE + "import math\n", False),
        (CODE.replace("return 2 * x", "return 'Double it.'"), False),
    ],
)
def test_of_a_method_from_outside_the_code_counts_but_no_comment_docstring_or_layout(tmp_path, change, same):
    before, after = method_in(tmp_path / "a" / "m.py", CODE), method_in(tmp_path / "b" / "m.py", change)
    assert (before.version == after.version) is same and before.version.startswith("1:")


def test_a_method_of_the_package_has_the_version_that_its_mark_says():
    nad = registry.get("defenses", "nad")
    assert nad.version == "1"
    raised = dataclasses.replace(nad, mark=dataclasses.replace(nad.mark, version=2))
    assert raised.version == "2"


@pytest.mark.parametrize(
    "facts, said",
    [
        ({"place": 7}, "@attack: place: input should be 1, 2, 3, 4 or 5"),
        ({}, "@attack: place: field required"),
        ({"place": 1, "warmup": 0.3}, "@attack: warmup: unexpected keyword argument. Its facts: paper, version, null"),
        ({"place": 1, "on": "encoder"}, "@attack: on: unexpected keyword argument"),
    ],
)
def test_a_mark_takes_only_the_facts_of_its_kind(facts, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        attack(paper="none", **facts)
