"""An attack that does nothing carries exactly 0, end to end, in every lane: both arms draw the same, image for image.

Its trigger gives every image back and nothing is poisoned; the attacked arm is carried out for itself all the same.
"""

import pytest
from tests.study_fixture import BUDGET, plan, two_classes

from distrust.study import Store, run, score_cells

ATTACK = '''
import copy
from torch import Generator, nn
from distrust.data import ImageSet
from distrust.marks import ClassNumber, attack
from distrust.measurement import Backdoor, make_trigger
from distrust.methods.attacks._poison import Poisoned
from distrust.methods.attacks._teacher import Planted

@attack(paper="none", place={place})
def nothing({parameters}, *, target: ClassNumber = 0, rng: Generator | None = None) -> object:
    """Change nothing.

    Args:
        target: class number.
    """
    backdoor = Backdoor(make_trigger("blend[alpha=0]"), target, name="nothing")
    return {returns}
'''
PLACES = {
    1: ("train: ImageSet", "Poisoned(train, backdoor)"),
    2: ("model: nn.Module, train: ImageSet", "Planted(copy.deepcopy(model).eval(), backdoor, {})"),
    3: ("teacher: nn.Module, transfer: ImageSet", "Poisoned(transfer, backdoor)"),
    4: ("synthetic: ImageSet", "Poisoned(synthetic, backdoor)"),
    5: ("encoder: nn.Module, train: ImageSet", "Planted(copy.deepcopy(encoder).eval(), backdoor, {})"),
}
SHORT = {"epochs": 1, "batch_size": 32, "precision": "fp32", "memory_format": "contiguous"}
TEACHER = {"distiller": "kd", "defense": ["none", "nad"]}
SYNTHETIC = {"condenser": "random", "student": "convnet2-w4", "defense": ["none", "smooth"]}
ENCODER = {"encoder": "simclr", "teacher": "convnet2-w4", "student": "knn", "defense": ["none", "finetune_ssl"]}
BUDGETS = BUDGET | {
    "train": 80, "clean": 0.1, "views": {"flip": False}, "teacher": SHORT, "student": SHORT,
    "defense": {"nad": SHORT | {"teacher_epochs": 1, "flip": False}, "finetune_ssl": {"epochs": 1, "batch_size": 8}},
}  # fmt: skip
LANES = {
    "poisoned images, a teacher and its student": (1, TEACHER),
    "a poisoned teacher and its student": (2, TEACHER),
    "a poisoned transfer set": (3, {"distiller": "kd", "defense": ["none", "consistency"]}),
    "poisoned images, condensed": (1, SYNTHETIC),
    "a poisoned synthetic set": (4, SYNTHETIC),
    "an encoder of poisoned images": (1, ENCODER),
    "a poisoned encoder": (5, ENCODER),
    "a teacher that moves to other images": (1, {"distiller": "kd", "student": "wrn10-1"}),
}


@pytest.mark.parametrize("lane", LANES)
def test_an_attack_that_does_nothing_carries_nothing(lane, tmp_path, plugin):
    place, changes = LANES[lane]
    parameters, returns = PLACES[place]
    plugin(ATTACK.format(place=place, parameters=parameters, returns=returns), name="nothing")
    budget = BUDGETS
    if "moves" in lane:
        changes = changes | {"images": f"digits>{two_classes(tmp_path / 'set')}[channels=3]"}
        budget = budget | {"clean": 0.2, "validation": 0.2, "transfer": SHORT | {"batch_size": 8}}
        budget |= {"student": SHORT | {"batch_size": 8}}
    made = plan(attack="nothing[target=1]", budgets={"cpu": budget}, **changes)
    store = Store(tmp_path / "store")
    outcome = run(made, store)
    assert outcome.failed == 0, [r.get("error") for r in outcome.records.values()]
    cells = score_cells(made, store, outcome)
    for planned, cell in zip(made.cells, cells, strict=True):
        ours, control = (planned.arms[arm]["model"] for arm in ("ours", "control"))
        assert ours.key != control.key and ours.taint == ("nothing",) and control.taint == ()
        assert cell["carried"] == 0.0 and cell["asr"] == cell["base"] == cell["untriggered"], cell["id"]
        assert cell["acc"] == cell["acc_control"] and cell["titg"] == 0.0
        if place in (1, 2) and "teacher_carried" in cell:
            assert cell["teacher_carried"] in (0.0, None)
    assert len(cells) == len(made.cells) > 0
