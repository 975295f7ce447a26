"""What every method owes its reader, whatever its kind: a docstring, bounds, a paper, a short file."""

import inspect
import pickle
import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt

from distrust.errors import BadInput, NotFound
from distrust.marks import KINDS
from distrust.registry import Registry, registry

from . import PRODUCTS, quick

METHODS = {f"{kind}/{name}": method for kind in KINDS for name, method in registry.kind(kind).items()}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def unbounded(annotation: Any) -> bool:
    """Whether an option takes a number and says no limit to it."""
    if get_origin(annotation) is Annotated:
        base, *notes = get_args(annotation)
        limits = [limit for note in notes for limit in getattr(note, "metadata", [note])]
        bounded = any(isinstance(limit, Ge | Gt | Le | Lt) for limit in limits)
        return unbounded(base) and not (base in (int, float) and bounded)
    return annotation in (int, float) or any(unbounded(part) for part in get_args(annotation))


@every_method
def test_the_docstring_says_what_it_does_and_how_it_differs_from_the_paper(method):
    text = inspect.getdoc(method.call)
    assert method.summary.endswith("."), "the first line is one sentence"
    assert re.search(r"^Differs from the (paper|released code): \S", text, re.MULTILINE)
    assert method.mark.paper


@every_method
def test_every_option_is_documented(method):
    text = inspect.getdoc(method.call)
    arguments = re.search(r"^Args:\n(.*?)(?:\n\n\S|\Z)", text, re.MULTILINE | re.DOTALL)
    documented = re.findall(r"^    (\w+): \S", arguments[1], re.MULTILINE) if arguments else []
    assert documented == list(inspect.signature(method.call).parameters)


@every_method
def test_every_option_has_a_type_and_every_number_a_bound(method):
    for name, option in method.options.items():
        assert option.default is not option.empty, f"{name} has no default"
        assert option.annotation is not Any or not isinstance(option.default, int | float), f"{name} has no type"
        assert not unbounded(option.annotation), f"{name} has no bounds"


@every_method
def test_the_defaults_pass_their_own_checks(method):
    defaults = {name: option.default for name, option in method.options.items()}
    assert method.check({}) == method.check(defaults) == {k: v for k, v in defaults.items() if k not in method.tacit}
    assert method.tacit == {k: v for k, v in defaults.items() if k in method.tacit}


@every_method
def test_the_mark_leaves_the_function_picklable(method):
    assert pickle.loads(pickle.dumps(method.call)) is method.call


@every_method
def test_the_file_is_short(method):
    assert len(Path(inspect.getfile(method.call)).read_text().splitlines()) <= 150


@pytest.mark.parametrize("kind", ["attacks", "condensers", "defenses", "detectors"])
def test_its_contract_knows_what_to_give_it_and_how_to_make_it_quick(kind):
    for method in registry.kind(kind).values():
        assert set(method.inputs) <= {*PRODUCTS, "suspect"}, f"{method.name}: say in PRODUCTS what it is given"
        for name, value in method.check(quick(method)).items():
            counts = isinstance(value, int) and not isinstance(value, bool)
            assert not counts or value <= 32, f"{method.name}: {name}={value} is no quick run"


@pytest.mark.parametrize("kind", KINDS)
def test_methods_of_a_kind_do_not_import_each_other(kind):
    names = set(registry.kind(kind))
    for method in registry.kind(kind).values():
        code = Path(inspect.getfile(method.call)).read_text()
        assert not names & set(re.findall(r"^from \.(\w+) import", code, re.MULTILINE))


PLUGIN = '''
from distrust.marks import Count, defense

@defense(paper="Doe, Doing Nothing Often, 2026")
def again(model, clean, *, times: Count = 2, rng=None):
    """Return the model as it is, more than once."""
    for _ in range(times):
        model = model.eval()
    return model
'''


def test_a_new_file_is_found_and_its_options_are_checked(tmp_path):
    registry = Registry()
    (tmp_path / "again.py").write_text(PLUGIN)
    added = registry.add(tmp_path / "again.py")
    assert registry.get("defenses", "again") is registry.find("again") is added
    assert added.summary == "Return the model as it is, more than once."
    assert list(added.options) == ["times"]
    assert added.check({}) == {"times": 2} and added.check({"times": "3"}) == {"times": 3}
    with pytest.raises(BadInput, match=r"^again: times=0: input should be greater than or equal to 1\."):
        added.check({"times": 0})
    with pytest.raises(NotFound, match=r"^no option of again 'time'\. Did you mean 'times'\?"):
        added.check({"time": 1})
