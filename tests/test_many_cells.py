"""Studies of very many cells: counted without making them, planned in blocks, run block by block. Counts and bytes."""

import itertools
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from tests.study_fixture import study

import distrust as dt
from distrust.registry import Method
from distrust.study import make_plan, read_cells, read_study
from distrust.study import plan as planning
from distrust.study.estimate import Speed
from distrust.study.plan import Grid
from distrust.study.sample import sample

STUDY = """
name = "small"
seeds = 2
teacher = "wrn10-1"
attack = ["none", "badnets[trigger=patch:white:3,target=5,rate=[0.1,0.2]]"]
[budgets.cpu]
size = 8
train = 64
test = 60
teacher = {epochs = 1, batch_size = 64}
"""


def grid(rates, temperatures, epochs, **changes):
    """Attacks × losses × defences, three names of each."""
    return study(
        attack=["none", "cheatkd", f"badnets[rate=[{','.join(str((i + 1) / 1000) for i in range(rates))}]]"],
        distiller=["kd", "at", f"kd[temperature=[{','.join(map(str, range(1, temperatures + 1)))}]]"],
        defense=["none", "nad", f"finetune[epochs=[{','.join(map(str, range(1, epochs + 1)))}]]"],
        **changes,
    )


@pytest.fixture
def blocks(monkeypatch):
    """Sets how many cells a block has."""
    return lambda cells: monkeypatch.setattr(planning, "BLOCK", cells)


def held(make):
    """Bytes that the making of something took at most, and what was made."""
    tracemalloc.start()
    made = make()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, made


# planning


def test_cells_are_counted_without_being_made():
    many = grid(18, 18, 48)
    assert Grid(grid(1, 1, 1)).checked  # which imports the methods
    peak, counted = held(lambda: Grid(many))
    assert counted.cells == 20 * 20 * 50 and counted.large
    assert peak < 200 * counted.cells, "a number for each, and no cell"
    peak, checked = held(lambda: counted.checked)
    assert len(checked.cells) < 150 and peak < 10_000_000


def test_a_plan_in_blocks_is_the_plan_and_takes_no_more_than_a_block(blocks):
    some = grid(3, 3, 3, seeds=4)
    whole = make_plan(some)
    blocks(50)
    parts = Grid(some)
    peak, _ = held(lambda: Counter(len(block.cells) for block in parts.blocks()))
    assert peak < held(lambda: make_plan(some))[0] / 2
    made = list(parts.blocks())
    assert {len(block.cells) for block in made[:-1]} == {52} and len(made) == 10
    assert [cell.id for block in made for cell in block.cells] == [cell.id for cell in whole.cells]
    assert {key: stage.label for block in made for key, stage in block.stages.items()} == {
        key: stage.label for key, stage in whole.stages.items()
    }
    assert [cell.keys for block in made for cell in block.cells] == [cell.keys for cell in whole.cells]


def test_what_cells_share_is_made_and_checked_once(monkeypatch):
    checks, check = Counter(), Method.check
    monkeypatch.setattr(Method, "check", lambda self, given: checks.update([self.name]) or check(self, given))
    made = make_plan(grid(4, 4, 4, seeds=5))
    assert len(made.cells) == 6 * 6 * 6 * 5
    assert checks["kd"] <= 5 and checks["finetune"] == 4 and checks["badnets"] == 4 and sum(checks.values()) < 40
    calls = {id(stage.call) for stage in made.stages.values()}
    assert len(calls) < 60 < len(made.stages) / 20


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"defense": ["none", "finetune[epochs=[1,2,3,0]]"]}, "finetune: epochs=0"),
        ({"distiller": ["kd", "kd[temperature=[1,2,3]]", "kd[heat=3]"]}, "no option of kd 'heat'"),
        ({"student": ["same", "wrn10-1", "wrn16-1", "wrn17-1"]}, "wrn17-1"),
        ({"attack": ["none", "badnets", "transfer_poison"], "distiller": ["kd", "at", "none"]}, "poisons a transfer"),
        ({"defense": ["none", "nad", "finetune", "mimic"]}, "works on an encoder"),
        ({"defense": ["none", "nad", "finetune[clean=[0.02,0.06]]"]}, "held for defenders"),
        ({"attack": ["none", "badnets[rate=[0.1,0.2]]", "badnets[rate=tune(0.1,0.2)]"]}, "only a defence's options"),
    ],
)
def test_one_wrong_entry_stops_a_large_study_too(changes, message, blocks):
    usual = {"attack": ["none", "badnets"], "distiller": ["kd", "at"], "defense": ["none", "nad"], "seeds": 3}
    blocks(4)
    with pytest.raises(dt.DistrustError, match=message) as large:
        assert Grid(study(**usual | changes)).checked
    with pytest.raises(dt.DistrustError, match=message) as small:
        make_plan(study(**usual | changes))
    assert type(large.value) is type(small.value)


def test_only_names_cells_before_they_are_planned(blocks):
    some = grid(3, 3, 3, seeds=2)
    blocks(10)
    ids = [cell.id for cell in Grid(some).whole().cells]
    for only in ("digits-wrn10-1-badnets", ids[7], ids[7][:-1]):
        parts = Grid(some, only)
        assert [c.id for b in parts.blocks() for c in b.cells] == [id for id in ids if id.startswith(only)]
        assert parts.cells == sum(id.startswith(only) for id in ids)
    with pytest.raises(dt.NotFound, match="no cell of trial 'digit5'"):
        Grid(some, "digit5")


# estimates


@pytest.mark.parametrize(
    "changes",
    [
        {"attack": "badnets[rate=[0.1,0.2,0.3,0.4,0.5,0.6]]", "distiller": "kd[temperature=[1,2,3,4,5,6,7,8]]"},
        {"attack": ["none", "cheatkd", "badnets[rate=[0.1,0.2,0.3,0.4,0.5,0.6]]"], "defense": ["none", "nad"]},
        {"pair": ["wrn16-1>wrn10-1", "wrn10-1>mlp", "mlp>wrn10-1"], "defense": "finetune[epochs=[1,2,3,4,5]]"},
        {"distiller": ["none", "kd"], "student": ["same", "mlp", "convnet3"], "attack": ["none", "badnets"]},
        {"defense": ["none", "nad[lr=tune(0.1,0.01)]"], "detector": ["none", "random"], "attack": ["none", "badnets"]},
        {"grid": [{"attack": ["none", "badnets"]}, {"defense": "finetune[epochs=[1,2,3,4]]"}]},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_sample_stands_for_all_stages(changes, blocks):
    some = study(**{"distiller": "kd", "seeds": 6} | changes)
    exact = Counter(stage.kind for stage in make_plan(some).stages.values())
    blocks(10)
    parts = Grid(some)
    found = sample(parts, 30)
    assert len(found.plan.cells) < parts.cells
    told = Counter()
    for stage in found.plan.stages.values():
        told[stage.kind] += found.weights[stage.key]
    stages = found.plan.stages.values()
    if len(changes) == 2 and "none" not in changes.get("attack", "none"):  # a product of axes
        assert {kind: round(n) for kind, n in told.items()} == exact
    assert found.count(stages) == pytest.approx(sum(exact.values()), rel=0.1)
    all_of_it = Speed("cpu", 1).estimate(make_plan(some).stages.values())
    assert Speed("cpu", 1).estimate(stages, found.weights).images == pytest.approx(all_of_it.images, rel=0.25)


def test_a_small_study_is_its_own_sample():
    parts = Grid(study(attack=["none", "badnets"], seeds=2))
    found = sample(parts)
    assert found.plan is parts.checked and found.weights == {} and not parts.large
    assert [block for block in parts.blocks()] == [found.plan]


# runs


@pytest.fixture
def small(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(STUDY)
    return "small.toml"


def plain(cells):
    return {cell["id"]: {k: v for k, v in cell.items() if k not in ("seconds", "env", "reproduce")} for cell in cells}


def test_a_study_in_blocks_gives_the_cells_of_one_that_is_not_and_runs_each_stage_once(small, blocks):
    whole = dt.run(small, jobs=1, store="whole")
    blocks(2)
    told = Counter()
    planned = dt.plan(small, jobs=1, store="parts")
    assert planned.record()["cells"] == 6 and "estimated from 6 of the cells" in str(planned)
    found = planned.run(lambda event, stage, record: told.update([(event, stage.key)]))
    assert plain(read_cells("parts/results/small")) == plain(whole.cells) == plain(found.cells)
    ran = {key for (event, key), n in told.items() if event == "done" and n == 1}
    assert len(ran) == found.outcome.ran == whole.outcome.ran == len(make_plan(read_study(small)).stages)
    assert found.states == {"done": 6} and str(found) == "6 cells: 6 done; in parts/results/small"
    assert found.answer == whole.answer and found.failures == []
    again = dt.run(small, jobs=1, store="parts", mode="force")
    assert (again.outcome.ran, again.outcome.cached) == (whole.outcome.ran, 0), "what two blocks share is made once"
    seen = dt.run(small, jobs=1, store="parts", expect="whole/results/small")
    assert (seen.outcome.ran, seen.outcome.cached, seen.differences) == (0, whole.outcome.ran, ())
    for cell in Path("whole/results/small").glob("*.json"):
        cell.write_text(json.dumps(json.loads(cell.read_text()) | {"acc": 0.9}))
    assert len(dt.run(small, jobs=1, store="parts", expect="whole/results/small").differences) == 3
    assert plain(dt.plan(small, store="parts").look().cells) == plain(whole.cells)


def test_cells_of_blocks_that_are_over_are_there_when_a_run_is_interrupted(small, blocks):
    blocks(2)
    done = itertools.count()

    def tell(event, stage, record):
        if event == "start" and next(done) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dt.run(small, jobs=1, tell=tell)
    there = read_cells("runs/results/small")
    assert 2 <= len(there) < 6 and {cell["state"] for cell in there} == {"done"}
    found = dt.run(small, jobs=1)
    assert found.outcome.cached > 0 and found.states == {"done": 6}


def test_what_fails_in_a_block_is_told_once(small, blocks):
    blocks(2)
    text = STUDY.replace("epochs = 1, batch_size = 64", "epochs = 1, lr = 1e30")
    Path(small).write_text(text)
    whole = dt.run(small, jobs=1, store="whole")
    parts = dt.run(small, jobs=1, store="parts")
    assert parts.states == {"failed": 6} and len(parts.failures) == len(set(parts.failures)) >= 6
    assert (parts.outcome.ran, parts.outcome.failed) == (whole.outcome.ran, whole.outcome.failed)
    again = dt.run(small, jobs=1, store="parts", mode="retry")
    assert again.outcome.ran == again.outcome.failed == whole.outcome.failed
