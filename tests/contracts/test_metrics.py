"""What every metric promises: its range, None for None, nothing without its needs, and its place in a measurement."""

import copy
import functools
import itertools
import json
import math

import pytest
import torch
from torch import nn

from distrust import measure, model, rng
from distrust.data import ImageSet
from distrust.flags import heard
from distrust.measurement import Backdoor, Finding, Seen, make_trigger, planned, score
from distrust.measurement.scores import HEAVY, columns, metrics
from distrust.registry import registry
from distrust.study.axes import AXES

METRICS = registry.kind("metrics")
NOTES = {note for attack in registry.kind("attacks").values() for note in attack.mark.notes}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
BACKDOOR = Backdoor(make_trigger("patch:white:2"), 1)


def noise(n, name, size=8):
    """Float images of four classes, as a synthetic set has them."""
    x = torch.rand(n, 3, size, size, generator=rng("metrics", name, 0))
    return ImageSet(x, torch.arange(n) % 4, tuple("abcd"), name=name)


@functools.cache
def products(metric, seed=0):
    """Random ones of every name, for one metric; a test says that they are left alone."""
    draw = rng("products", seed)

    def seen():
        y, clean, triggered = torch.randint(4, (3, 60), generator=draw)
        return Seen(y, clean, triggered)

    def number():
        return float(torch.rand((), generator=draw))

    before = noise(24, "before", 32 if metric.mark.makes else 8)
    x = before.x.clone()
    x[torch.randperm(24, generator=draw)[:9]] = number()
    poisoned = before.replace(x=x)
    nets = [model("convnet3-w8", before, rng=rng("net", i)).eval() for i in range(3)]
    finding = Finding.of("random", torch.rand(4, generator=draw), p=number())
    made = {
        "seen": seen(), "control": seen(), "undefended": seen(), "teacher": seen(), "teacher_control": seen(),
        "target": 1, "finding": finding, "finding_control": finding, "records": [{"seconds": 100 * number()}],
        "model": nets[0], "teacher_model": nets[1], "control_model": nets[2], "backdoor": BACKDOOR,
        "test": before, "train": before, "clean": before, "before": before, "poisoned": poisoned,
        "suspect": poisoned, "cleaned": poisoned[torch.randperm(24, generator=draw)[:15]],
        "neurons": {"net.0": [1, 3]}, "distiller": "none", "carried": 2 * number() - 1, "teacher_carried": number(),
        "images": "digits", "attack": "badnets", "condenser": "none", "encoder": "none",
    }  # fmt: skip
    few = {"net_steps": 2, "archetype_steps": 2}
    return made | {name: call(before, **few, rng=rng("attack", seed)) for name, call in metric.mark.makes.items()}


def called(metric, seed=0, **changes):
    """The fields that a cell gets of it, all that it needs being there; with the flags that it raised."""
    given = {name: products(metric, seed)[name] for name in metric.inputs} | changes
    with heard() as flags:
        found = metric.call(**given)
    fields = score({}, place=metric.mark.place, on=metric.mark.on, known={metric.name: found}).values
    return fields, flags


@every_metric
@pytest.mark.parametrize("seed", range(4))
def test_values_lie_in_their_range_and_are_json(metric, seed):
    fields, _ = called(metric, seed)
    assert json.loads(json.dumps(fields)).keys() == fields.keys()
    for name, column in columns(metric).items():
        value = fields[name]
        assert (f"{name}_interval" in fields) == metric.mark.interval
        if column.heading == "Mechanism" or value is None:
            continue
        assert isinstance(value, int | float) and math.isfinite(value)
        assert (column.low is None or value >= column.low) and (column.high is None or value <= column.high)
        if metric.mark.interval:
            low, high = fields[f"{name}_interval"]
            assert low <= value <= high


@every_metric
def test_the_same_products_give_the_same_values_and_are_left_alone(metric):
    given = products(metric)
    before = copy.deepcopy({name: given[name] for name in metric.inputs})
    state, modes = torch.get_rng_state(), [net.training for net in given["model"].modules()]
    first, second = (called(metric, **{name: given[name] for name in metric.inputs}) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    assert modes == [net.training for net in given["model"].modules()]
    for name, value in before.items():
        assert same(value, given[name]), name


def same(before, after):
    if isinstance(before, torch.Tensor):
        return torch.equal(before, after)
    if isinstance(before, ImageSet):
        return torch.equal(before.x, after.x) and torch.equal(before.y, after.y)
    if isinstance(before, nn.Module):
        return all(map(torch.equal, before.state_dict().values(), after.state_dict().values()))
    if isinstance(before, Seen):
        return all(map(same, before, after))
    return isinstance(before, Backdoor) or before == after


@every_metric
def test_what_it_needs_and_a_cell_lacks_makes_it_none_or_leaves_it_out(metric):
    where = {"place": metric.mark.place, "on": metric.mark.on}
    fields = set(called(metric)[0])
    given = {name: products(metric)[name] for name in metric.inputs}
    assert fields <= score(given, **where).values.keys()
    for name in metric.required:
        without = score({**given, name: None}, **where).values
        assert {without[field] for field in fields} == {None}
        absent = score({key: value for key, value in given.items() if key != name}, **where).values
        assert not fields & absent.keys()


@every_metric
def test_its_needs_have_known_names(metric):
    light = set(products(metric)) - set(HEAVY)
    own = {field for other in METRICS.values() for field in columns(other)}
    assert {*metric.inputs} <= {*light, *HEAVY, *NOTES, *AXES, *own, *metric.mark.makes}
    if heavy := {*metric.inputs} & {*HEAVY, *NOTES, *metric.mark.makes}:
        assert {*metric.inputs} - heavy <= {"target", *AXES}, "work of its own is given no answers"


def test_no_two_metrics_of_a_cell_fill_one_field():
    places, cleaned = (None, 1, 2, 3, 4, 5), (None, "classifier", "transfer", "synthetic", "encoder")
    for place, on in itertools.product(places, cleaned):
        fields = [field for metric in metrics(place, on) for field in columns(metric)]
        assert len(fields) == len(set(fields))


def test_only_what_needs_more_than_answers_is_planned():
    def names(*given, **where):
        return [metric.name for metric in planned(given, **where)]

    everything = (*HEAVY, "target", "seen", "control", *AXES)
    assert names(*everything) == []
    assert names(*everything, on="transfer") == ["sifting"]
    assert names(*everything, "neurons", place=2) == ["mechanism"] and names(*everything, place=2) == []
    assert names(*everything, place=3) == ["stealth"]
    assert names(*everything, place=4) == ["difference", "asr_archetypes", "base_archetypes"]
    assert names(*everything, on="classifier") == [], "it costs a training, and nobody asked"
    assert names(*everything, on="classifier", asked={"retune"}) == ["retune"]
    assert names(*everything, on="encoder", asked={"retune"}) == names(*everything, asked={"retune"}) == []
    assert names("model", "clean", "test", on="classifier", asked={"retune"}) == [], "no backdoor to come back"
    assert names("model", "backdoor", "before", place=4) == ["asr_archetypes"]
    assert names("model", "backdoor", place=4) == [], "nothing to draw archetypes from"


def test_what_was_planned_and_is_known_stands_in_the_cell():
    known = {"sifting": {"caught": 0.9, "lost": 0.1}, "stealth": None}
    found = score({"target": None}, place=3, on="transfer", known=known, seeds=3)
    assert found.caught == 0.9 and found.lost == 0.1
    assert found.poison_hits is None and "poison_hits" in found.values, "it failed, or was not run yet"
    elsewhere = score({"target": None}, known=known)
    assert "caught" not in elsewhere.values and "poison_hits" not in elsewhere.values


def test_a_stored_rate_is_a_rate_again():
    stored = json.loads(json.dumps(METRICS["asr"].call(products(METRICS["asr"])["seen"], 1)))
    found = score({}, known={"asr": stored})
    assert found.asr == stored[0] and found.asr_interval == tuple(stored[1])


PLUGIN = '''
from distrust.flags import flag
from distrust.measurement import Rate
from distrust.marks import Column, metric

@metric(paper="Doe, Metrics, 2026"{facts})
def {name}({inputs}):
    """Tell something new.

    Differs from the paper: not at all.
    """
    {body}
'''


@pytest.fixture
def plug(tmp_path, monkeypatch):
    """Register a metric from its parts, for one test."""
    monkeypatch.setattr(registry, "_kinds", {**registry._kinds, "metrics": dict(METRICS)})
    monkeypatch.setattr(registry, "files", [])

    def add(name, inputs, body, facts=""):
        file = tmp_path / f"{name}.py"
        file.write_text(PLUGIN.format(name=name, inputs=inputs, body=body, facts=facts and f", {facts}"))
        return registry.add(file)

    return add


def test_a_metric_in_one_file_appears_in_a_measurement(plug, tiny, net):
    plug("doubled", "asr, base=0.5", "return 2 * asr + base", "high=None, heading='Doubled'")
    plug("first", "model, test", "return Rate(0.25, (0.2, 0.3))", "interval=True, order=0")
    plug(
        "both",
        "seen",
        "return {'right': 3, 'wrong': None}",
        "fields={'right': Column(unit='count'), 'wrong': Column()}",
    )
    plug("elsewhere", "seen", "return 1", "place=4")
    plug("needy", "seen, moon", "return 1")
    plug("warned", "doubled", "flag('loss-dead'); return doubled / 2", "aside=True")
    found = measure(net, tiny, BACKDOOR, control=copy.deepcopy(net), seeds=3)
    assert list(found.values)[:4] == ["first", "first_interval", "acc", "acc_interval"]
    assert found.doubled == 2 * found.asr + found.base and found.warned == found.doubled / 2
    assert found.right == 3 and found.wrong is None and "loss-dead" in found.flags
    assert not {"elsewhere", "needy"} & found.values.keys()
    assert str(found).startswith("first 25.0 [20.0, 30.0] · ACC ")
    assert f"doubled {100 * found.doubled:.1f} · " in str(found) and "right 3" in str(found)
    assert "warned" not in str(found) and "<th>warned</th>" in found._repr_html_()
    assert json.loads(json.dumps(found.record()))["first_interval"] == [0.2, 0.3]
    assert "doubled" in measure(net, tiny).values and measure(net, tiny).doubled is None
    with pytest.raises(AttributeError, match="'moon'"):
        found.moon  # noqa: B018


def test_metrics_that_need_each_other_are_left_out(plug, tiny, net):
    plug("hen", "egg", "return egg")
    plug("egg", "hen", "return hen")
    assert not {"hen", "egg"} & measure(net, tiny).values.keys()


def test_a_warning_that_is_no_flag_goes_on(plug, tiny, net):
    plug("loud", "seen", "import warnings; warnings.warn('mind the step'); return 1")
    with pytest.warns(UserWarning, match="mind the step"):
        measure(net, tiny)
