"""What was made of a suspect opens again, in Distrust and in the code of its owner."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from safetensors.torch import load_file
from tests.suspects import MEAN, STD, owner
from torch import nn

from distrust import BadInput, load, measure, open_suspect, purify, save, scan, teach
from distrust.tensors import read_record

METHOD = "finetune[epochs=1,lr=0.001,flip=false,crop=0]"


@pytest.fixture(scope="module", params=["own", "original"])
def strange(request, tmp_path_factory):
    """A network of somebody's code."""
    return _cleaned(tmp_path_factory.mktemp("strange"), None, request.param)


@pytest.fixture(scope="module", params=["own", "original"])
def known(request, tmp_path_factory):
    """A network that is built by name."""
    return _cleaned(tmp_path_factory.mktemp("known"), "wrn10-1", request.param)


def _cleaned(home, name, keys):
    found = owner(home, name)
    suspect = open_suspect(found.weights, found[2:4], model=found.name, normalize=(MEAN, STD))
    made = purify(METHOD, suspect, trigger=found.backdoor)
    return found, made, made.save(home / keys, keys), keys


def _network(found):
    spec = importlib.util.spec_from_file_location("net", found.name.partition(":")[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make(3)


def test_a_strangers_model_opens_in_every_way(strange):
    found, made, file, keys = strange
    images = (found.train, found.test)
    with pytest.raises(BadInput, match="a Python file that would be run. Type --model .*net.py:make"):
        open_suspect(file, images)
    with pytest.raises(BadInput, match=r"Type model='.*net.py:make'\.$"):
        load(file)
    suspect = open_suspect(file, images, model=found.name)
    again = suspect.measure(found.backdoor)
    assert (again.acc, again.asr) == (made.after.acc, made.after.asr)
    assert scan(suspect, "neural_cleanse[steps=2]").measured.acc == made.after.acc
    assert measure(load(file, model=found.name), found.test).acc == made.after.acc
    network = _network(found)
    wrapped = nn.DataParallel(network) if keys == "original" else network
    wrapped.load_state_dict(load_file(file), strict=True)
    x = found.test.pixels()
    by_hand = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.allclose(network.eval()(by_hand), made.model(x), atol=1e-5)


def test_a_model_of_ours_opens_without_any_option(known):
    found, made, file, keys = known
    suspect = open_suspect(file, (found.train, found.test))
    again = suspect.measure(found.backdoor)
    assert (again.acc, again.asr) == (made.after.acc, made.after.asr)
    assert scan(suspect, "neural_cleanse[steps=2]").measured.acc == made.after.acc
    assert measure(load(file), found.test).acc == made.after.acc
    x = found.test.pixels()
    assert torch.equal(load(file)(x), made.model(x))
    original = torch.load(found.weights, weights_only=True)["state_dict"]
    if keys == "original":
        assert load_file(file).keys() == original.keys()
    else:
        load(file).load_state_dict(load_file(file), strict=True)


@pytest.mark.filterwarnings("ignore::distrust.flags.Flag")
def test_a_cleaned_model_can_be_cleaned_again_and_taught_from(strange, tmp_path):
    found, made, file, _ = strange
    again = purify(METHOD, file, images=(found.train, found.test), model=found.name)
    assert again.before.acc == made.after.acc
    twice = again.save(tmp_path / "twice")
    assert f"`{found.name}` beside the file" in twice.with_name("README.md").read_text()
    opened = open_suspect(twice, found[2:4], model=found.name)
    student = teach("wrn10-1", opened, epochs=1, batch_size=32)
    assert student.before.acc == again.after.acc == opened.measure().acc
    with pytest.raises(BadInput, match="no file whose names could be kept"):
        student.save(tmp_path / "student", keys="original")
    opened = open_suspect(student.save(tmp_path / "student"), found[2:4])
    assert opened.measure() == student.after


def test_what_a_file_holds_beside_the_network_is_kept_with_its_names(tmp_path):
    found = owner(tmp_path)
    content = torch.load(found.weights, weights_only=True)
    content["state_dict"] |= {"projector.weight": torch.ones(2, 2), "projector.bias": torch.zeros(2)}
    named = {k.replace("module.", "backbone."): v for k, v in content["state_dict"].items()}
    torch.save({"state_dict": named}, tmp_path / "more.pt")
    given = {"images": found[2:4], "model": found.name, "normalize": (MEAN, STD)}
    made = purify(METHOD, tmp_path / "more.pt", **given)
    file = made.save(tmp_path / "out", "original")
    kept = load_file(file)
    assert kept.keys() == named.keys() and torch.equal(kept["projector.weight"], torch.ones(2, 2))
    assert not torch.equal(kept["backbone.fc.weight"], named["backbone.fc.weight"])
    x = found.test.pixels()
    assert torch.equal(open_suspect(file, found[2:4], model=found.name).model(x), made.model(x))


def test_save_writes_a_strangers_own_names(tmp_path):
    found = owner(tmp_path)
    suspect = open_suspect(found.weights, found[2:4], model=found.name, normalize=(MEAN, STD))
    file = save(suspect.model, tmp_path / "m.safetensors")
    _network(found).load_state_dict(load_file(file), strict=True)
    assert torch.allclose(torch.tensor(read_record(file)["spec"]["normalize"]), torch.tensor([MEAN, STD]))
    x = found.test.pixels()
    assert torch.equal(load(file, model=found.name)(x), suspect.model(x))
