"""What a study does besides calling methods, on models whose answers can be written down: roles, choices, looks."""

import copy
import importlib

import pytest
import torch
from tests.golden.steps import double
from tests.study_fixture import plan
from torch import nn

from distrust import model, rng
from distrust.data import ImageSet
from distrust.measurement import Backdoor, make_trigger, measure
from distrust.seeds import spawn
from distrust.study.steps import STEPS

FILE = importlib.import_module("distrust.study.steps")
DIGITS = {"source": "digits", "size": 8, "held": 0.1, "validation": 0.05}


def step(name, *products, **given):
    return STEPS[name].call(*products, **given)


class Answers(nn.Module):
    """Right on the first so many images, wrong on others: its label is an image's first pixel, its number the next."""

    def __init__(self, right: int) -> None:
        super().__init__()
        self.right, self.scale = right, nn.Parameter(torch.ones(()))

    def forward(self, x):
        y, i = ((x[:, 0, 0, k] * 255 + 0.01).floor().long() for k in (0, 1))
        return self.scale * nn.functional.one_hot(torch.where(i < self.right, y, 1 - y), 2).float()


@pytest.fixture
def told():
    """20 images, whose pixels tell their labels and numbers."""
    x = torch.zeros(20, 1, 2, 2, dtype=torch.uint8)
    y = torch.arange(20) % 2
    x[:, 0, 0, 0], x[:, 0, 0, 1] = y, torch.arange(20)
    return ImageSet(x, y, ("a", "b"))


@pytest.mark.parametrize(
    ("right", "within", "chosen"),
    [
        ((15, 18, 20), 0.06, 1),  # the first that is good enough, not the best
        ((15, 16, 16), 0.06, 1),  # none is: the best, of equals the first
        ((15, 18, 20), 0.26, 0),
        ((None, 16, 20), 0.0, 2),  # one that failed
        ((20, 20, 20), 0.0, 0),
        ((None, 3, 2), 0.06, 1),
    ],
)
def test_the_first_candidate_within_the_limit_is_chosen_or_the_best(told, right, within, chosen):
    """The suspect is right on 19 of 20."""
    rows = [{"lr": lr} for lr in (0.3, 0.1, 0.01)]
    made = {f"candidate{i}": None if n is None else Answers(n) for i, n in enumerate(right)}
    found, notes = step("choose", Answers(19), told, candidates=rows, within=within, **made)
    assert found is made[f"candidate{chosen}"] and (notes["chosen"], notes["option"]) == (chosen, rows[chosen])
    assert notes["validation"]["before"] == pytest.approx(0.95)
    assert notes["validation"]["after"] == [None if n is None else pytest.approx(n / 20) for n in right]


# --- roles --------------------------------------------------------------------------------------------------


def role(name, seed=0, **more):
    return step("images", role=name, seed=seed, **DIGITS, **{"share": 0.1} | more)


def test_roles_are_disjoint_of_their_shares_and_other_seeds_have_others():
    train, clean, validation = (set(role(name).index.tolist()) for name in ("train", "clean", "validation"))
    assert not train & clean and not train & validation and not clean & validation
    assert (len(clean), len(validation)) == (round(0.1 * 1347), round(0.15 * 1347) - round(0.1 * 1347))
    assert len(train | clean | validation) == 1347
    assert set(role("clean", seed=1).index.tolist()) != clean
    assert torch.equal(role("test", seed=0).x, role("test", seed=1).x), "one test set for all seeds"
    test = {image.numpy().tobytes() for image in role("test").x}
    assert len(test) == 450


def test_fewer_images_lie_in_more_and_a_share_for_the_defender_is_of_the_whole_split():
    few, many = (role("train", most=n).index.tolist() for n in (50, 200))
    assert len(few) == 50 and set(few) < set(many) and few == sorted(few)
    share = role("clean", share=0.02).index.tolist()
    assert len(share) == round(0.02 * 1347) and set(share) < set(role("clean").index.tolist())
    assert set(role("train", seed=1, most=50).index.tolist()) != set(few)
    test = [role("test", seed=seed, most=60).index.tolist() for seed in (0, 1)]
    assert test[0] == test[1] and len(test[0]) == 60


# --- streams ------------------------------------------------------------------------------------------------


def test_a_seed_decides_start_and_order_whatever_the_images_are(tiny, monkeypatch):
    """So both arms of a study draw the same."""
    seen = []

    def fit(start, images, rng, device, **training):
        seen.append((start.conv1.weight.sum().item(), rng.get_state().numpy().tobytes()))
        return start

    monkeypatch.setattr(FILE, "fit", fit)
    for images in (tiny, tiny.replace(y=(tiny.y + 1) % 4)):
        for seed in (0, 1):
            step("teacher", images, network="wrn10-1", training={}, seed=seed, device=None)
    a, b, c, d = seen
    assert a == c and b == d and a[0] != b[0] and a[1] != b[1]


def test_student_and_teacher_of_a_network_start_apart(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(FILE, "fit", lambda start, images, **more: seen.append(start) or start)
    monkeypatch.setattr(FILE, "lesson", lambda start, *given, **more: seen.append(start) or iter(()))
    step("teacher", tiny, network="wrn10-1", training={}, seed=3, device=None)
    with pytest.raises(StopIteration):
        next(FILE._lessons(seen[0], tiny)(network="wrn10-1", loss=None, training={}, seed=3, device=None))
    assert not torch.equal(*(net.conv1.weight for net in seen))


def test_a_teacher_that_moves_keeps_all_but_its_last_layer(tiny, monkeypatch):
    monkeypatch.setattr(FILE, "fit", lambda start, images, **more: start)
    teacher = model("wrn10-1", tiny, rng=rng("moves"))
    two = tiny[tiny.y < 2]
    two = ImageSet(two.x, two.y, ("ant", "bee"))
    moved = step("transfer", teacher, two, training={}, seed=0, device=None)
    for name, value in teacher.state_dict().items():
        assert torch.equal(moved.state_dict()[name], value) == (not name.startswith("fc.")), name
    assert moved.fc.weight.shape[0] == 2


# --- looks --------------------------------------------------------------------------------------------------


def test_predictions_are_of_stamped_images_as_a_file_holds_them(told):
    """A trigger that adds 0.3 of a grey level to the number changes nothing once it is rounded; one of 0.7 does."""
    for size, moved in ((0.3, 0), (0.7, 1)):
        delta = torch.zeros(1, 2, 2)
        delta[0, 0, 1] = size / 255
        said = step("predict", Answers(10), told, Backdoor(make_trigger("added", perturbation=delta), 0))
        clean = step("predict", Answers(10), told)
        want = torch.where(torch.arange(20) + moved < 10, told.y, 1 - told.y)
        assert torch.equal(said["said"].long(), want) and torch.equal(said["y"].long(), told.y)
        assert torch.equal(clean["said"].long(), torch.where(torch.arange(20) < 10, told.y, 1 - told.y))


def test_a_measurement_asks_model_and_control_under_the_same_trigger(told):
    """The trigger adds 7 to an image's number, and who was right on the first 16 is right on the first 9."""
    delta = torch.zeros(1, 2, 2)
    delta[0, 0, 1] = 7 / 255
    backdoor = Backdoor(make_trigger("added", perturbation=delta), 0)
    found = measure(Answers(16), told, backdoor, control=Answers(20), undefended=Answers(12), seeds=3)
    others = [i for i in range(20) if i % 2]
    asr, base = (sum(i + 7 >= right for i in others) / 10 for right in (16, 20))
    assert (found.asr, found.base, found.untriggered) == pytest.approx((asr, base, 0.2))
    assert found.carried == pytest.approx(asr - base) and asr > base > 0.1
    assert (found.acc, found.acc_control, found.undefended_acc) == pytest.approx((0.8, 1.0, 0.6))
    assert found.undefended_asr == pytest.approx(sum(i + 7 >= 12 for i in others) / 10)


def test_features_have_length_one_and_a_head_predicts_from_them(tiny, encoder):
    shown = step("represent", encoder, tiny)["features"]
    want = double(encoder, False)(tiny.pixels().double())
    want = (want / (want * want).sum(1, keepdim=True).sqrt()).detach()
    torch.testing.assert_close(shown.double(), want, rtol=1e-3, atol=1e-4)
    trained = step("features", encoder, tiny)["features"]
    torch.testing.assert_close(trained.double(), want, rtol=1e-3, atol=1e-4)
    probe = nn.Module()
    probe.head = nn.Linear(64, 4)
    said = step("predict", probe, tiny, None, {"features": shown})["said"]
    assert torch.equal(said.long(), probe.head(shown).argmax(1))


def test_references_are_typical_images_of_the_target_class(tiny, encoder):
    found = step("references", encoder, tiny, target=2, count=3, seed=0)
    assert (found.y == 2).all() and len(found) == 3
    own = tiny[tiny.y == 2]
    seen = double(encoder, False)(own.pixels().double())
    seen = (seen / (seen * seen).sum(1, keepdim=True).sqrt()).detach()
    near = (seen @ seen.mean(0)).argsort(descending=True)[:3]
    assert found.index.tolist() == own.index[near].tolist()


def test_features_for_a_picture_are_of_clean_images_and_of_triggered_ones_of_other_classes(tiny, net):
    backdoor = Backdoor(make_trigger("patch:white:3"), 1)
    found = step("embed", net, tiny, backdoor, most=30)
    some = tiny[:30]
    assert torch.equal(found["y"], some.y) and len(found["triggered"]) == int((some.y != 1).sum())
    bare = double(net, False)
    bare.fc = nn.Identity()
    x = some.pixels().double()
    white = x[some.y != 1].clone()
    white[:, :, 5:, 5:] = 1
    torch.testing.assert_close(found["clean"].double(), bare(x).detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["triggered"].double(), bare(white).detach(), rtol=1e-3, atol=1e-4)


def test_victims_learn_by_the_sets_recipe_and_normalise_as_real_images_ask(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(FILE, "fit", lambda start, images, **more: seen.append((start, images, more)) or start)
    made = copy.copy(tiny[:8]).replace(x=tiny[:8].pixels() / 2, training={"lr": 0.03, "epochs": 40})
    step("victim", made, tiny, network="convnet2-w4", training={"epochs": 6}, seed=0, device=None)
    ((start, images, more),) = seen
    mean = (tiny.x.double() / 255).mean((0, 2, 3))
    torch.testing.assert_close(start.normalize.mean.flatten().double(), mean, rtol=1e-4, atol=1e-5)
    assert images is made and (more["training"].lr, more["training"].epochs) == (0.03, 6)


# --- plans and streams --------------------------------------------------------------------------------------


def test_options_are_chosen_on_validation_images_and_numbers_are_of_test_images():
    (cell,) = plan(attack="badnets", distiller="kd", defense="finetune[lr=tune(0.1,0.01)]").cells
    roles = {name: stage.call["options"]["role"] for name, stage in cell.final[-1].inputs.items() if "val" in name}
    assert roles == {"validation": "validation"}
    looked = {look.inputs["test"].call["options"]["role"] for pair in cell.seen.values() for look in pair if look}
    assert looked == {"test"}
    assert cell.final[-1].inputs["candidate0"].inputs["clean"].call["options"]["role"] == "clean"


def test_streams_of_other_names_and_spawned_ones_are_others():
    drawn = [torch.rand(4, generator=rng(*parts)) for parts in (("a", "bc"), ("ab", "c"), ("abc",), (1, 23), (12, 3))]
    parent = rng("parent")
    drawn += [torch.rand(4, generator=stream) for stream in (spawn(parent), spawn(parent), rng("parent"))]
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == len(drawn)
