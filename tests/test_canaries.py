"""What every method and every part of the core computes on tiny data is what its version is recorded to compute."""

import importlib
import importlib.util
import inspect
import json
import re
from pathlib import Path
from types import FunctionType

import pytest
from tests import canaries, canary_core

from distrust.models.registry import FAMILIES
from distrust.registry import Registry, registry

NOW = canaries.versions()


@pytest.mark.parametrize("name", NOW)
def test_it_computes_what_its_version_computed(name):
    wrong = canaries.complaint(name, NOW[name], canaries.compute(name), canaries.load().get(name))
    assert wrong is None, wrong


def test_no_canary_has_outlived_what_it_watches():
    gone = sorted(canaries.load().keys() - NOW.keys())
    assert not gone, f"{', '.join(gone)} are no more: run `python -m tests.canaries`"


@pytest.mark.parametrize("pattern", FAMILIES)
def test_every_family_of_models_is_watched(pattern):
    known = FAMILIES[pattern].name
    assert any(re.fullmatch(known, name) for name in canary_core.FAMILIES), "add its smallest to canary_core.FAMILIES"


# --- a refactoring is silent, a change is not ---------------------------------------------------------------


def copy_of(name, folder, *changes):
    """A copy of a method's file with some text replaced, under the same name, as a method of its own."""
    kind, _, own = name.partition("/")
    file = Path(inspect.getfile(registry.get(kind, own).call))
    text = file.read_text()
    package = f"distrust.methods.{kind}"
    text = re.sub(
        r"^from (\.+\w*[\w.]*) import",
        lambda m: f"from {importlib.util.resolve_name(m[1], package)} import",
        text,
        flags=re.M,
    )
    for old, new in changes:
        text, count = re.subn(old, new, text)
        assert count, f"{name} has no {old!r}: plant this change elsewhere"
    (folder / file.name).write_text(text)
    return Registry().add(folder / file.name)


def said(name, method):
    """What is said of a method by its canary, without variants."""
    entry, values = canaries.load()[name], json.loads(json.dumps(canaries.canary(method, more=False)))
    known = {path: value for path, value in entry["values"].items() if not path.startswith("with ")}
    return canaries.complaint(name, method.mark.version, values, {**entry, "values": known})


REFACTORED = {
    "defenses/nad": [
        (r"\bweights\b", "gains"), (r"\bpaths\b", "places"), (r"\bteacher\b", "guide"), (r"\battention\b", "alike"),
        (r"from (distrust.methods.distillers._attention) import attention_loss", r"import \1 as far"),
        (r"\battention_loss\(", "far.attention_loss("), (r"Fine-tune the suspect", "First, fine-tune the suspect"),
    ],
    "distillers/dkd": [(r"alpha \* tckd \+ beta \* nckd", "beta * nckd + tckd * alpha"), ("_decouple", "_parts")],
}  # fmt: skip


@pytest.mark.parametrize("name", REFACTORED)
def test_a_refactoring_is_silent(name, tmp_path):
    assert said(name, copy_of(name, tmp_path, *REFACTORED[name])) is None


@pytest.mark.parametrize(
    "name", ["triggers/sig", "heads/linear", "detectors/decree", "condensers/dm", "objectives/vicreg"]
)
def test_so_is_a_mere_copy(name, tmp_path):
    assert said(name, copy_of(name, tmp_path)) is None


PLANTED = {
    "beta the other way round": ("defenses/nad", r"list\(beta\)", "list(beta)[::-1]"),
    "the suspect as its own teacher": ("defenses/nad", r"model, guide, clean", "model, model, clean"),
    "cross-entropy left out": ("defenses/nad", "label_weight=1.0", "label_weight=0.0"),
    "another default": ("defenses/nad", r"Power = 2\.0", "Power = 1.9"),
    "another random stream": ("defenses/nad", r"rng = (rng or make_rng\(.nad.\))", r"rng = spawn(\1)"),
    "a mask that is not clamped": ("attacks/cheatkd", r"mask\.clamp_\(0, opacity\)", "mask.clamp_(0, 1)"),
    "the trigger's goal off by a tenth": ("attacks/cheatkd", r"= gain \*", "= 1.1 * gain *"),
    "a term too small": ("objectives/vicreg", r"self.covariance \* apart", "0.9 * self.covariance * apart"),
    "temperature once, not squared": ("distillers/dkd", r"temperature\*\*2", "temperature"),
    "a fact of the mark": ("distillers/kd", r"label_weight=0\.1", "label_weight=0.2"),
    "the sign of a term": ("detectors/decree", r"m\.sum\(\) - alike", "m.sum() + alike"),
    "a wave a quarter on": ("triggers/sig", r"torch\.sin", "torch.cos"),
    "away from the suspect": ("defenses/mimic", r"- clone \* alike", "+ clone * alike"),
    "all layers alike": ("defenses/mimic", r"GAIN \*", "0 * GAIN *"),
    "sums without shift": ("heads/linear", r"- scaled @ mean", "+ 0 * scaled @ mean"),
    "a threshold at the median": ("defenses/clp", r"bound\.mean\(\)", "bound.median()"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_change_of_a_method_is_noticed(what, tmp_path):
    name, *change = PLANTED[what]
    wrong = said(name, copy_of(name, tmp_path, change))
    assert wrong, f"{name}: {what} was not noticed"
    word = name.rpartition("/")[2]
    assert wrong.startswith(f"{word} computes something else than version 1 did")
    assert f"put it back, or raise version= in its mark and run `python -m tests.canaries {name}`" in wrong


SHARED = {  # what → a method that shows it, a private module, and what is planted there
    "a class more that is stamped": ("attacks/badnets", "attacks._poison", "else ~own", "else own | ~own"),
    "a count rounded down": ("attacks/badnets", "attacks._poison", r"round\(rate", "int(rate"),
    "a mean for a sum": ("condensers/dm", "condensers._moments", r"\.square\(\)\.sum", ".square().mean"),
    "another momentum": ("condensers/dm", "condensers._canvas", r"momentum=0\.5", "momentum=0.6"),
}  # fmt: skip


@pytest.mark.parametrize("what", SHARED)
def test_a_planted_change_of_what_methods_share_is_noticed(what, monkeypatch):
    name, module, *change = SHARED[what]
    plant(monkeypatch, importlib.import_module(f"distrust.methods.{module}"), change)
    wrong = said(name, registry.get(*name.split("/")))
    assert wrong, f"{name}: {what} was not noticed"


def test_a_refactoring_of_what_methods_share_is_silent(monkeypatch):
    changes = (r"\bown\b", "those"), (r"round\(rate \* of\)", "round(of * rate)")
    plant(monkeypatch, importlib.import_module("distrust.methods.attacks._poison"), *changes)
    assert said("attacks/badnets", registry.get("attacks", "badnets")) is None


CORE = {  # what → part, module of distrust, and what is planted there
    "a schedule that stands still": ("loop", "training.loop", r"plan\.step\(\)", "pass"),
    "another split of the streams": ("loop", "training.loop", r"Draws\(spawn\(rng\)\)", "Draws(rng)"),
    "labels at half weight": ("distill", "training.distill", r"label_weight \* F", "0.5 * label_weight * F"),
    "a teacher in another mode": ("distill", "training.distill", "train.mode == .train..", "train(mode != 'train')"),
    "one view twice": ("pretrain", "training.pretrain", r"\[views\(x, rng\), views", "[views(x, rng)] * 2 or [views"),
    "features of another length": ("probing", "training.probing", r"normalize\(torch\.cat", "normalize(2 + torch.cat"),
    "the other half mirrored": ("augment", "data.augment", r"< 0\.5", "> 0.5"),
    "an order that is not drawn": ("images", "data.base", r"randperm\(n, generator=rng\)", "arange(n)"),
    "contrast off": ("siamese", "data.siamese", r"\(c \+ CONTRAST\)", "(c + 0.49)"),
    "a crop that is a little wider": ("views", "data.views", r"area \* r\)", "area * r * 1.02)"),
    "the least likely class": ("predict", "measurement.predict", r"argmax", "argmin"),
    "channels in reverse": ("model", "models.families.wrn", r"self\.bn1\(x\)", "self.bn1(x.flip(1))"),
}  # fmt: skip


@pytest.mark.parametrize("what", CORE)
def test_a_planted_change_of_the_core_is_noticed(what, monkeypatch):
    part, module, old, new = CORE[what]
    plant(monkeypatch, importlib.import_module(f"distrust.{module}"), (old, new))
    name = f"core/{part}"
    wrong = canaries.complaint(name, NOW[name], canaries.compute(name), canaries.load()[name])
    assert wrong, f"{name}: {what} was not noticed"
    assert wrong.startswith(f"{part} computes something else") and f"raise CORE[{part!r}]" in wrong


def plant(monkeypatch, module, *changes):
    """Replace text of a module and give every function of it the code that comes of that."""
    text = Path(inspect.getfile(module)).read_text()
    for old, new in changes:
        text, count = re.subn(old, new, text)
        assert count, f"{module.__name__} has no {old!r}: plant this change elsewhere"
    space = {**vars(module), "__name__": module.__name__}
    exec(compile(text, module.__file__, "exec"), space)
    for scope, changed in [(vars(module), space), *((vars(c), vars(space[n])) for n, c in classes(module))]:
        for name, value in list(scope.items()):
            if isinstance(value, FunctionType) and value.__module__ == module.__name__ and not value.__closure__:
                monkeypatch.setattr(value, "__code__", changed[name].__code__)


def classes(module):
    return [(n, c) for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__]


# --- the three answers, and the record ----------------------------------------------------------------------


def test_a_raised_version_asks_for_a_record_and_a_lowered_one_is_refused():
    entry = canaries.load()["heads/knn"]
    values = entry["values"]
    assert canaries.complaint("heads/knn", 1, values, entry) is None
    assert canaries.complaint("heads/knn", 2, values, entry).endswith("run `python -m tests.canaries heads/knn`.")
    assert "versions only rise" in canaries.complaint("heads/knn", 1, values, {**entry, "version": 2})
    assert canaries.complaint("heads/new", 1, values, None) == (
        "heads/new has no canary: run `python -m tests.canaries heads/new`."
    )


def test_what_moves_with_the_core_is_not_blamed_on_the_method():
    entry = canaries.load()["heads/knn"]
    moved = {**entry["values"], "bank buffers": ["288 numbers", 1.0, 2.0, 3.0, 4.0]}
    assert "the core has another version" in canaries.complaint("heads/knn", 1, moved, {**entry, "core": 0})


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """A record of its own, of one canary."""
    monkeypatch.setattr(canaries, "FILE", tmp_path / "canaries.json")
    canaries.save(
        {"heads/knn": json.loads(Path(canaries.__file__).with_name("canaries.json").read_text())["heads/knn"]}
    )
    return canaries.FILE


def test_recording_refuses_other_values_under_the_same_version(own_file):
    entries = canaries.load()
    entries["heads/knn"]["values"]["bank buffers"][1] *= 1.1
    canaries.save(entries)
    before = own_file.read_text()
    (refused,) = canaries.record(["knn"])
    assert refused.startswith("knn computes something else than version 1 did") and own_file.read_text() == before


def test_recording_takes_a_raised_version_and_forgets_what_is_no_more(own_file, monkeypatch):
    entries = canaries.load()
    entries["heads/knn"]["values"]["bank buffers"][1] *= 1.1
    canaries.save({**entries, "heads/gone": entries["heads/knn"]})
    monkeypatch.setattr(canaries, "versions", lambda: {"heads/knn": 2})
    assert canaries.record(["knn"]) == [] and list(canaries.load()) == ["heads/knn"]
    assert canaries.load()["heads/knn"]["version"] == 2


def test_recording_again_changes_not_a_byte(own_file):
    before = own_file.read_text()
    assert canaries.record(["heads/knn"]) == [] and own_file.read_text() == before
