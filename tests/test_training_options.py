"""Training: a frozen value, checked when it is made, written down as JSON, and a selector's fields."""

import dataclasses
import json

import pytest
from tests.contracts import same_bits

from distrust import Augment, BadInput, NotFound, Siamese, Training, defenses, fit, recipe, rng
from distrust.data import PLAIN
from distrust.registry import registry

SIAMESE = Siamese((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), ("color", "crop"))


def test_it_is_frozen_equal_by_value_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Training().lr = 1
    assert {Training(lr=0.2), dataclasses.replace(Training(), lr=0.2)} == {Training(lr=0.2)} != {Training()}


@pytest.mark.parametrize(
    "given, said",
    [
        ({"epochs": 0}, "epochs=0: input should be greater than or equal to 1. See `help(distrust.Training)`."),
        ({"lr": float("nan")}, "lr=nan: input should be a finite number."),
        ({"schedule": "linear"}, "schedule='linear': input should be 'onecycle', 'cosine', 'step' or 'constant'."),
        ({"milestones": [-1]}, "milestones=[-1]: input should be greater than or equal to 0."),
        ({"augment": 3}, "augment=3: input should be callable."),
        ({"augment": {"crop": -1}}, "augment: crop=-1: input should be greater than or equal to 0."),
        ({"augment": {"kind": "Siamese", "mean": [0], "std": [1], "operations": ["turn"]}}, "Siamese has no operation"),
    ],
)
def test_a_value_out_of_range_is_named_and_told_what_it_may_be(given, said):
    for make in (lambda **given: Training(**given), Training().changed, Training.of):
        with pytest.raises(BadInput) as caught:
            make(given) if make == Training.of else make(**given)
        assert str(caught.value).startswith(said)


def test_a_field_that_there_is_not_gets_its_near_matches(tiny, net):
    with pytest.raises(NotFound, match=r"^no option of training 'epoch'\. Did you mean 'epochs'"):
        fit(net, tiny, epoch=1)
    with pytest.raises(NotFound, match=r"^no option of augment 'flp'\. Did you mean 'flip'"):
        Training(augment={"flp": False})


def test_fields_of_the_augmentation_may_be_changed_by_name():
    gentle = Training().changed(lr=0.02, flip=False, crop=2)
    assert gentle == Training(lr=0.02, augment=Augment(flip=False, crop=2))
    assert Training().changed(augment="none", cutout=3).augment == Augment(flip=False, crop=0, cutout=3)
    with pytest.raises(BadInput, match=r"^flip: images are changed by Siamese"):
        Training(augment=SIAMESE).changed(flip=False)


@pytest.mark.parametrize(
    "training",
    [
        Training(),
        Training(augment=PLAIN, milestones=(2, 4), schedule="step", precision="fp32"),
        Training(augment=SIAMESE, optimizer="adam", lr=1e-3),
        recipe(epochs=300),
    ],
)
def test_there_is_a_way_to_json_and_back(training):
    plain = json.loads(json.dumps(training.plain()))
    assert plain == training.plain() and Training.of(plain) == training
    assert ("precision" in plain) == (training.precision != "auto") and "memory_format" not in plain
    assert plain["augment"].get("kind") == ("Siamese" if training.augment == SIAMESE else None)


def test_plain_forms_of_the_augmentation_and_parts_are_read():
    assert Training.of({"augment": "none"}).augment == PLAIN
    assert Training.of({"augment": {"flip": False}}).augment == Augment(flip=False)
    assert Training.of({"augment": {"kind": "Augment", "crop": 2}}).augment == Augment(crop=2), "as older sets have it"
    with pytest.raises(BadInput, match="cannot be written down"):
        Training(augment=lambda x, rng: x).plain()


# --- as options of a method --------------------------------------------------------------------------------


def test_a_selector_sets_its_fields_beside_the_methods_own_options():
    nad = registry.get("defenses", "nad")
    assert {"beta", "epochs", "lr", "flip", "crop", "cutout", "weight_decay", "milestones"} <= nad.options.keys()
    assert nad.options["weight_decay"].default == 1e-4 and "augment" not in nad.options
    made = nad.made(nad.check({"lr": 0.02, "flip": False, "milestones": [3], "teacher_epochs": 2}))
    want = defenses.nad.training.changed(lr=0.02, flip=False, milestones=(3,))
    assert made.keywords["training"] == want and made.keywords["teacher_epochs"] == 2 and "lr" not in made.keywords
    with pytest.raises(NotFound, match=r"^no option of nad 'epoch'\. Did you mean 'epochs'"):
        nad.check({"epoch": 1})
    with pytest.raises(BadInput, match=r"^nad: momentum=1: input should be less than 1\. Type `distrust show nad`"):
        nad.check({"momentum": 1})


def test_a_recipe_holds_the_usual_fields_and_others_only_where_they_are_set():
    finetune = registry.get("defenses", "finetune")
    usual = {"epochs": 10, "lr": 0.1, "batch_size": 64, "flip": True, "crop": 4, "cutout": 3}
    assert finetune.check({}) == finetune.check({"momentum": 0.9, "milestones": [2]}) == usual
    assert finetune.check({"momentum": 0.5}) == {**usual, "momentum": 0.5}
    assert "cutout" not in registry.get("attacks", "implant").check({})
    assert registry.get("attacks", "implant").check({"cutout": 2})["cutout"] == 2


def test_what_draws_views_of_its_own_has_no_augmentation_to_set():
    bcu = registry.get("defenses", "bcu")
    assert {"epochs", "optimizer", "flip"} <= bcu.options.keys() and not {"crop", "cutout"} & bcu.options.keys()
    assert "flip" in bcu.made(bcu.check({"flip": False})).keywords, "its own"


def test_the_whole_in_python_is_the_fields_in_a_selector(tiny, net):
    finetune = registry.get("defenses", "finetune")
    fields = {"epochs": 1, "batch_size": 16, "flip": False, "optimizer": "adam", "lr": 1e-3}
    whole = defenses.finetune(net, tiny, training=defenses.finetune.training.changed(**fields), rng=rng(0))
    assert same_bits(whole.state_dict(), finetune.made(finetune.check(fields))(net, tiny, rng=rng(0)).state_dict())
    other = finetune.made(finetune.check({**fields, "weight_decay": 0.1}))(net, tiny, rng=rng(0))
    assert not same_bits(whole.state_dict(), other.state_dict()), "a field that a card does not list is used too"
