"""Which output of a network is its logits, and what can be known of it before any work."""

from __future__ import annotations

import pytest
import torch
from tests.habits import NETWORK
from tests.training_fixture import images

from distrust import BadInput, NotFound, Skip, measure, model, open_suspect, purify, teach
from distrust.data import PLAIN
from distrust.training import fit

HABITS = (
    NETWORK
    + """
Pair = collections.namedtuple("Pair", "hidden logits")


@dataclasses.dataclass(slots=True)
class Slots:
    hidden: torch.Tensor
    out: torch.Tensor


class ModelOutput(collections.OrderedDict):  # as transformers has it
    pass


class Named(Net):
    def end(self, h, logits):
        return Pair(h, logits)


class Slotted(Net):
    def end(self, h, logits):
        return Slots(h, logits)


class Transformers(Net):
    def end(self, h, logits):
        return ModelOutput(hidden_states=(h, h), logits=logits)


class Nested(Net):
    def end(self, h, logits):
        return [h, ((h,), [h, logits])]


class Pooled(Net):
    def end(self, h, logits):
        return logits[:, :, None, None]


class Auxiliary(Net):
    def end(self, h, logits):
        return {"aux": 0 * logits, "out": logits}


class Losses(Net):
    def end(self, h, logits):
        return {"loss": logits.sum(), "logits": logits, "aux": 0 * logits} if self.training else logits


class Autocast(Net):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.fc(self.body(x))


def brain(classes):
    return Net(classes).bfloat16()


class Second(Net):
    def forward(self, x, mask):
        return self.fc(self.body(x))


class OnlyTrain(Net):
    def end(self, h, logits):
        if not self.training:
            raise RuntimeError("no centre crop is set")
        return logits


class OnlyEval(Net):
    def end(self, h, logits):
        if self.training:
            raise KeyError("targets")
        return logits


def frozen(classes):
    return Net(classes).requires_grad_(False)
"""
)
GIVEN = {"epochs": 1, "batch_size": 16, "augment": PLAIN, "lr": 0.01}


@pytest.fixture
def code(tmp_path):
    (tmp_path / "net.py").write_text(HABITS)
    return f"{tmp_path / 'net.py'}:{{}}".format


@pytest.mark.parametrize(
    "name", ["Named", "Slotted", "Transformers", "Nested", "Pooled", "Losses", "Autocast", "brain"]
)
def test_logits_are_found_in_whatever_a_network_returns(name, code):
    train, plain = images(), model(code("Net"), images())
    network = model(code(name), train)
    network.load_state_dict(plain.state_dict())
    x = train.pixels()
    close = 1e-5 if name != "Autocast" else 0.05
    assert torch.allclose(network.eval()(x).float(), plain.eval()(x), atol=close)
    assert measure(fit(network, train, **GIVEN), train).n == 0


@pytest.mark.parametrize(
    "name, output", [("Named", "logits"), ("Named", "1"), ("Nested", "1.1.1"), ("Losses", "logits")]
)
def test_an_output_can_be_named_by_key_attribute_or_place(name, output, code):
    train = images()
    network, plain = model(code(name), train, output=output), model(code(name), train)
    x = train.pixels()
    assert torch.equal(network.eval()(x), plain.eval()(x))
    again = model(**network.spec)
    assert again.spec == network.spec and network.spec["output"] == output
    assert torch.equal(network.train()(x), plain.train()(x)) and measure(fit(network, train, **GIVEN), train).n == 0


def test_of_several_outputs_the_first_is_taken_until_one_is_named(code, tmp_path):
    train = images(300)
    network = fit(model(code("Auxiliary"), train, output="out"), train, **{**GIVEN, "epochs": 8})
    torch.save(network.state_dict(), tmp_path / "a.pt")
    given = {"model": code("Auxiliary"), "images": (train, train)}
    assert open_suspect(tmp_path / "a.pt", output="out", **given).measure().acc > 0.6
    with pytest.raises(Skip, match="several outputs .* the first is taken: aux, out. Type --output"):
        open_suspect(tmp_path / "a.pt", **given).checked()
    with pytest.raises(NotFound, match="no output of Auxiliary 'main'. Known: aux, out"):
        open_suspect(tmp_path / "a.pt", output="main", **given)
    with pytest.raises(BadInput, match="returns nothing beside its logits"):
        model("resnet8", train, output="out")


@pytest.mark.parametrize(
    "name, why", [("Second", "missing 1 required .*'mask'"), ("OnlyTrain", "no centre crop is set")]
)
def test_a_forward_that_fails_is_told_with_advice_that_fits(name, why, code):
    with pytest.raises(BadInput, match=f"cannot take 3×8×8 images: .*{why}.* Mend its forward") as raised:
        measure(model(code(name), images()), images())
    assert "Build it for them" not in str(raised.value)


@pytest.mark.parametrize(
    "name, why", [("OnlyEval", "KeyError: 'targets'"), ("frozen", "none of its parameters asks for a gradient")]
)
def test_what_cannot_be_trained_is_refused_before_any_work(name, why, code, tmp_path):
    train = images(300)
    network = fit(model(code("Net"), train), train, **{**GIVEN, "epochs": 8})
    torch.save(network.state_dict(), tmp_path / "a.pt")
    told = []
    with pytest.raises(BadInput, match=f"cannot be trained: {why}"):
        purify("finetune", tmp_path / "a.pt", images=(train, train), model=code(name), tell=told.append)
    assert not told, "no candidate was tried"
    suspect = open_suspect(tmp_path / "a.pt", (train, train), model=code("Net"))
    with pytest.raises(BadInput, match=f"cannot be trained: {why}"):
        teach(code(name), suspect, epochs=1)
