"""Networks of every habit: what a stranger's module returns, in which precision, and how it fails."""

from __future__ import annotations

import pytest
import torch
from tests.habits import NETWORK
from tests.training_fixture import images

from distrust import judged, load, measure, model, open_suspect, purify, save, scan
from distrust.data import PLAIN
from distrust.errors import BadInput
from distrust.flags import Flag
from distrust.methods import distillers
from distrust.training import distill, fit

HABITS = (
    NETWORK
    + """
@dataclasses.dataclass
class Output:
    hidden: torch.Tensor
    logits: torch.Tensor


class Pair(Net):
    def end(self, h, logits):
        return h, logits


class Named(Net):
    def end(self, h, logits):
        return {"hidden": h, "logits": logits}


class Shaped(Net):
    def end(self, h, logits):
        return Output(h, logits)


class Aux(Net):
    def end(self, h, logits):
        return (logits, logits * 0) if self.training else logits


class Features(Net):
    def end(self, h, logits):
        return h, h


class Boom(Net):
    def forward(self, x):
        raise KeyError("input_ids")


class Two(Net):
    def forward(self, x, mask):
        return x


class Tied(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.again = self.fc


class Soft(Net):
    def end(self, h, logits):
        return logits.softmax(1)


def half(classes):
    return Net(classes).half()


def double(classes):
    return Net(classes).double()
"""
)


@pytest.fixture
def habit(tmp_path):
    (tmp_path / "net.py").write_text(HABITS)

    def make(name):
        return model(f"{tmp_path / 'net.py'}:{name}", images())

    return make


@pytest.mark.parametrize("name", ["Pair", "Named", "Shaped", "Aux", "half", "double", "Tied"])
@pytest.mark.filterwarnings("ignore::distrust.flags.Flag")
def test_what_a_network_returns_beside_logits_is_left_aside(name, habit):
    train = images()
    network = fit(habit(name), train, epochs=1, batch_size=16, augment=PLAIN, lr=0.01)
    assert network(train.pixels()).shape == (48, 3) and network(train.pixels()).dtype == torch.float32
    assert measure(network, train).n == 0
    distill(habit(name), network, train, loss=distillers.kd, epochs=1, batch_size=16, augment=PLAIN, lr=0.01)


def test_without_logits_a_network_is_refused_by_name(habit):
    with pytest.raises(BadInput, match=r"Features returns a tuple in which no tensor is \[B,3\].* wrap it"):
        measure(habit("Features"), images())


@pytest.mark.parametrize("name, why", [("Boom", "KeyError: 'input_ids'"), ("Two", "TypeError: .*mask")])
def test_a_forward_that_fails_is_told_in_one_sentence(name, why, habit):
    with pytest.raises(BadInput, match=f"cannot take 3×8×8 images: {why}"):
        measure(habit(name), images())


def test_tied_weights_are_saved_and_tied_again(habit, tmp_path):
    network = habit("Tied")
    again = load(save(network, tmp_path / "tied.safetensors"), model=network.spec["name"], classes=3, size=8)
    assert again.fc is again.again and torch.equal(again.fc.weight, network.fc.weight)


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"train": images(1)}])
def test_batch_norm_and_a_single_image_are_refused_before_any_work(change, habit):
    train = change.pop("train", images())
    with pytest.raises(BadInput, match="has BatchNorm, which needs two images a step"):
        fit(habit("Pair"), train, **{"epochs": 1, "batch_size": 16, **change})


def test_a_teacher_that_answers_with_probabilities_is_flagged(habit):
    with pytest.warns(Flag, match="probabilities"):
        distill(habit("Pair"), habit("Soft"), images(), loss=distillers.kd, epochs=1, batch_size=16, augment=PLAIN)


# suspects


@pytest.fixture
def trained(tmp_path):
    train = images(300, size=8)
    network = fit(model("resnet8", train), train, epochs=3, batch_size=16, augment=PLAIN, lr=0.05)
    torch.save(network.state_dict(), tmp_path / "stranger.pt")
    return tmp_path / "stranger.pt", train


def test_a_score_that_is_no_number_judges_nothing(trained):
    file, train = trained
    found = scan(open_suspect(file, (train, train), model="resnet8"), "neural_cleanse[steps=60]", threshold=3)
    assert found.judged
    spoilt = type(found.finding).of("neural_cleanse", torch.full((3,), float("nan")))
    assert not type(found)(spoilt, found.source, found.kind, found.images, 3.0).judged


def test_classes_of_the_images_need_not_be_those_of_the_model(trained):
    file, train = trained
    order = ("c", "x", "a", "b")
    wide = fit(
        model("resnet8", train, classes=4), renamed(train, order), epochs=3, batch_size=16, augment=PLAIN, lr=0.05
    )
    torch.save(wide.state_dict(), file)
    some = train[train.y != 1]
    suspect = open_suspect(file, (some, some), model="resnet8", classes=order)
    assert suspect.test.classes == order and set(suspect.test.y.tolist()) == {0, 2}
    assert suspect.measure().acc > 0.9
    with pytest.raises(BadInput, match="the classes given lack b"):
        open_suspect(file, (train, train), model="resnet8", classes=("a", "c", "d"))
    with pytest.raises(BadInput, match=r"has 4 classes, the images 3.*--classes"):
        open_suspect(file, (train, train), model="resnet8")


def renamed(images, order):
    place = torch.tensor([order.index(name) for name in images.classes])
    return images.replace(y=place[images.y], classes=order)


def test_what_is_made_from_a_stranger_says_that_its_origin_is_unknown(trained, tmp_path):
    file, train = trained
    made = purify("finetune[epochs=1]", file, images=(train, train), model="resnet8", fraction=0.2)
    card = (made.save(tmp_path / "out").parent / "README.md").read_text()
    assert "Origin unknown" in card and "No attack" not in card
    ours = purify("finetune[epochs=1]", tmp_path / "out" / "model.safetensors", images=(train, train), fraction=0.2)
    assert "Origin unknown" not in (ours.save(tmp_path / "again").parent / "README.md").read_text()


def test_a_model_at_chance_level_is_not_judged(trained):
    file, train = trained
    network = model("resnet8", train)
    torch.nn.init.zeros_(network.fc.weight)
    torch.save(network.state_dict(), file)
    found = open_suspect(file, (train, train), model="resnet8").measure()
    assert "chance-level" in found.flags and not judged(found)
    assert judged(open_suspect(trained_again(file, train), (train, train), model="resnet8").measure())


def trained_again(file, train):
    torch.save(fit(model("resnet8", train), train, epochs=3, batch_size=16, augment=PLAIN, lr=0.05).state_dict(), file)
    return file
