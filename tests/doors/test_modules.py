"""Networks of every habit, through every command: nothing fails after the work that could have failed before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import distrust as dt

from .bring import IMAGES, JUDGED, ON, TRIGGER, caught, kept, refused, under

HABITS = '''
import dataclasses

import torch
from torch import nn

from distrust import model


class Base(nn.Module):
    """A ResNet-8 whose weights are those of the file."""

    def __init__(self, classes):
        super().__init__()
        self.net = model("resnet8", classes=classes, size=8)

    def forward(self, x):
        return self.end(x, self.net(x))


class Plain(Base):
    def end(self, x, logits):
        return logits


@dataclasses.dataclass
class Output:
    hidden: torch.Tensor
    logits: torch.Tensor


class Pair(Base):
    def end(self, x, logits):
        return logits, x


class Behind(Base):
    def end(self, x, logits):
        return x.flatten(1), logits


class Named(Base):
    def end(self, x, logits):
        return {"loss": None, "logits": logits}


class Shaped(Base):
    def end(self, x, logits):
        return Output(x, logits)


class Aux(Base):
    def end(self, x, logits):
        return Output(logits * 0, logits) if self.training else logits


class Features(Base):
    def end(self, x, logits):
        return x.flatten(1), x


class Soft(Base):
    def end(self, x, logits):
        return logits.softmax(1)


class Nan(Base):
    def end(self, x, logits):
        return logits / 0 - logits / 0


class Boom(Base):
    def forward(self, x):
        raise KeyError("input_ids")


class Two(Base):
    def forward(self, x, mask):
        return x


class Tied(Plain):
    def __init__(self, classes):
        super().__init__(classes)
        self.again = self.net.fc


def half(classes):
    return Plain(classes).half()


def bfloat(num_classes):
    return Plain(num_classes).bfloat16()


def double(classes, channels, size):
    return Plain(classes).double()


def other(depth):
    return Plain(depth)


def nothing(classes):
    return "a network"


def broken(classes):
    raise ZeroDivisionError("oh")
'''
PLAIN = {"mean": 0.0, "std": 1.0}
WITH = ["--weights", "weights.pt", *IMAGES]
FAST = ["--fraction", 0.5]


@pytest.fixture(autouse=True)
def brought(backdoored, tmp_path, monkeypatch):
    """The file of somebody's networks, and weights of them."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(HABITS)
    own = under("net.", backdoored | {f"normalize.{k}": torch.full((1, 3, 1, 1), v) for k, v in PLAIN.items()})
    kept(own)
    kept({**own, "again.weight": own["net.fc.weight"], "again.bias": own["net.fc.bias"]}, "tied.pt")


TAKEN = ["Plain", "Pair", "Behind", "Named", "Shaped", "Aux", "half", "bfloat", "double"]


@pytest.mark.parametrize("name", TAKEN)
def test_whatever_a_network_returns_beside_its_logits_it_is_judged_by_them(name, distrust):
    caught(distrust("measure", "--model", f"net.py:{name}", *WITH, *TRIGGER, "--json"))


@pytest.mark.parametrize("name", ["Pair", "Aux", "Named", "half"])
def test_it_can_be_purified_and_what_is_written_opens(name, distrust):
    model = ["--model", f"net.py:{name}"]
    said = distrust("purify", "finetune[epochs=1,lr=0.0001]", *model, *WITH, *TRIGGER, *FAST, "--out", "made", "--json")
    assert said.code == 0 and said.facts["after"]["acc"] > 0.9, said
    again = distrust("measure", *model, "--weights", said.facts["weights"], *IMAGES, *TRIGGER, "--json").facts
    assert again["acc"] == said.facts["after"]["acc"] and again["asr"] == said.facts["after"]["asr"]


def test_tied_weights_are_kept_once_and_open_as_tied(distrust):
    words = ["--model", "net.py:Tied", "--weights", "tied.pt", *IMAGES, *TRIGGER]
    caught(distrust("measure", *words, "--json"))
    said = distrust("purify", "finetune[epochs=1,lr=0.0001]", *words, *FAST, "--out", "made", "--json")
    assert said.code == 0, said
    again = distrust(
        "measure", "--model", "net.py:Tied", "--weights", said.facts["weights"], *IMAGES, *TRIGGER, "--json"
    )
    assert again.facts["acc"] == said.facts["after"]["acc"]
    network = dt.load(said.facts["weights"], model="net.py:Tied", classes=10, size=8)
    assert network.again is network.net.fc


REFUSED = {  # a factory → what is said of it
    "Features": ["returns a tuple", "wrap it"],
    "Boom": ["KeyError: 'input_ids'"],
    "Two": ["TypeError", "mask"],
    "Nan": ["NaN"],
    "other": ["depth", "give its other arguments defaults"],
    "nothing": ["made a str, no torch.nn.Module"],
    "broken": ["ZeroDivisionError: oh"],
    "missing": ["no factory in net.py 'missing'", "Plain"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_classifier_of_these_images_is_told_in_one_sentence(name, distrust):
    refused(distrust("measure", "--model", f"net.py:{name}", *WITH, *TRIGGER), *REFUSED[name])
    refused(distrust("purify", "finetune", "--model", f"net.py:{name}", *WITH, "--out", "made"), *REFUSED[name])
    assert not Path("made").exists()


@pytest.mark.parametrize("name", ["Boom", "Two"])
def test_layers_tells_it_too(name, distrust):
    refused(distrust("layers", f"net.py:{name}", "--size", 8), *REFUSED[name])


def test_the_wrapper_that_is_advised_is_right(distrust):
    message = refused(distrust("measure", "--model", "net.py:Features", *WITH, *TRIGGER))
    body = message.rpartition("wrap it: ")[2].strip().rstrip(".").replace("self.inner(x)[0]", "self.inner(x)[1]")
    body = body.replace(": return", ":\n        return")
    with Path("net.py").open("a") as file:
        file.write(
            "\n\nclass Late(Base):\n    def end(self, x, logits):\n        return x.flatten(1), logits\n"
            "\n\nclass Wrapped(nn.Module):\n    def __init__(self, classes):\n        super().__init__()\n"
            f"        self.inner = Late(classes)\n\n    def {body}\n"
        )
    kept({f"inner.{name}": value for name, value in torch.load("weights.pt").items()}, "wrapped.pt")
    words = ["measure", "--model", "net.py:Wrapped", "--weights", "wrapped.pt", *IMAGES, *TRIGGER]
    caught(distrust(*words, "--json"))


@pytest.mark.parametrize("method", ["finetune[batch_size=1]", "nad[batch_size=1]"])
def test_batch_norm_and_one_image_a_step_are_refused_before_any_work(method, distrust):
    message = refused(
        distrust("purify", method, *WITH, "--model", "net.py:Plain", "--out", "made"), "two images a step"
    )
    assert "batch_size" in message and not Path("made").exists()


def test_a_short_last_batch_of_one_image_is_no_failure(distrust):
    words = ["--model", "net.py:Plain", *WITH, "--fraction", 0.5, "--out", "made"]
    assert distrust("purify", "finetune[epochs=1,batch_size=99]", *words).code == 0
    assert Path("made").exists()


@pytest.mark.filterwarnings("always::distrust.flags.Flag")
def test_a_teacher_of_probabilities_is_flagged(distrust):
    words = ["--model", "net.py:Soft", *WITH, "--student", "resnet8", "--epochs", 1, "--out", "made"]
    assert "\nprobabilities: The teacher's outputs are probabilities" in "\n" + distrust("distill", *words).err


def test_a_library_that_is_not_there_is_told_with_what_to_type(distrust):
    message = refused(distrust("measure", "--model", "torchvision:resnet18", *WITH, *TRIGGER))
    assert message.rstrip().endswith("Type: pip install torchvision")


STUDENTS = ["simkd", "ab"]


@pytest.mark.filterwarnings("ignore::distrust.flags.Flag")
@pytest.mark.parametrize("distiller", STUDENTS)
def test_a_student_is_a_teacher_without_any_option(distiller, backdoored, distrust):
    kept(backdoored, "teacher.pt")
    fast = ["--epochs", 2, "--batch-size", 64, "--crop", 0]
    first = distrust(
        "distill", "--weights", "teacher.pt", *ON, "--student", "resnet8", "--distiller", distiller, *fast,
        "--out", "first", "--json",
    )  # fmt: skip
    assert first.code == 0, first
    weights = first.facts["weights"]
    second = distrust(
        "distill", "--weights", weights, *IMAGES, "--student", "resnet8", *fast, "--out", "second", "--json"
    )
    assert second.code == (3 if "chance-level" in second.facts["student_measured"]["flags"] else 0), second
    measured = distrust("measure", "--weights", weights, *IMAGES, *TRIGGER, "--json").facts
    assert measured["acc"] == first.facts["student_measured"]["acc"]


def test_unlabelled_images_of_elsewhere_are_told_what_they_lack(backdoored, distrust):
    from PIL import Image

    Path("ood").mkdir()
    for i in range(10):
        Image.new("RGB", (8, 8), (20 * i,) * 3).save(f"ood/{i}.png")
    words = ["--weights", kept(backdoored, "ten.pt"), "--model", "resnet8", "--images", "ood", "--out", "made"]
    refused(distrust("purify", "finetune", *words), "finetune needs labels of the model's classes", "--classes FILE")
    assert not Path("made").exists()


def test_what_purify_writes_of_a_normalised_stranger_opens_without_an_option(normalised, distrust):
    words = ["--weights", kept(normalised, "raw.pt"), *JUDGED, "--mean", "0.5,0.5,0.5", "--std", "0.1,0.1,0.1"]
    said = distrust("purify", "finetune[epochs=1,lr=0.0001]", *words, *FAST, "--out", "made", "--json")
    again = distrust("measure", "--weights", said.facts["weights"], *IMAGES, *TRIGGER, "--json").facts
    assert said.code == 0 and again["acc"] == said.facts["after"]["acc"] > 0.9
    assert "Origin unknown" in Path("made/README.md").read_text()
