"""Models by name: what they are built for, normalisation, checks, strangers' models, and files."""

from __future__ import annotations

import copy
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tests.pictures import EVERY, pictures
from torch import nn

from distrust.errors import BadInput, NotFound
from distrust.models import Normalize, check_fits, eval_mode, families, load, model, save
from distrust.seeds import rng


@pytest.mark.parametrize("name", EVERY)
def test_same_generator_same_bits(name):
    def build(seed):
        return model(name, classes=5, rng=rng(seed, "net")).state_dict()

    before = torch.random.get_rng_state()
    one, two, other = build(1), build(1), build(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    torch.rand(3)  # the default stream does not depend on the global one
    fixed = model(name, classes=5).state_dict()
    assert all(torch.equal(value, fixed[key]) for key, value in model(name, classes=5).state_dict().items())


@pytest.mark.parametrize("name", EVERY)
def test_the_spec_builds_it_again(name):
    net = model(name, pictures(), rng=rng("a"))
    again = model(**json.loads(json.dumps(net.spec)))
    again.load_state_dict(net.state_dict())
    x = pictures().pixels()
    with eval_mode(net), eval_mode(again):
        assert torch.equal(net(x), again(x))
    assert copy.deepcopy(net).spec == net.spec


def test_normalisation_is_inside_and_of_the_images():
    images = pictures(n=7)
    net = model("wrn10-1", images)
    pixels = images.pixels()
    torch.testing.assert_close(net.normalize.mean, pixels.mean((0, 2, 3), keepdim=True))
    torch.testing.assert_close(net.normalize.std, pixels.std((0, 2, 3), keepdim=True, correction=0))
    torch.testing.assert_close(Normalize.of(images.replace(x=pixels)).state_dict(), net.normalize.state_dict())
    normal = net.normalize(pixels)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert not [name for name, _ in net.named_parameters() if "normalize" in name]
    assert {"normalize.mean", "normalize.std"} <= net.state_dict().keys()
    assert "mean=[0.5" in repr(model("wrn10-1", classes=2, channels=1, normalize=([0.5], [0.2])).normalize)

    raw = model("wrn10-1", classes=4)
    raw.load_state_dict(net.state_dict() | raw.normalize.state_dict(prefix="normalize."))
    with eval_mode(net), eval_mode(raw):
        torch.testing.assert_close(net(pixels), raw(normal))  # the identity leaves images alone


def test_a_constant_channel_does_not_divide_by_zero():
    flat = pictures(channels=2).replace(x=torch.full((8, 2, 4, 4), 7, dtype=torch.uint8))
    assert Normalize.of(flat).std.flatten().tolist() == [1, 1]


def test_bad_normalisations():
    with pytest.raises(BadInput, match="one mean and one positive std"):
        Normalize([0.5, 0.5], [1.0])
    with pytest.raises(BadInput, match="positive std"):
        Normalize([0.5], [0.0])
    with pytest.raises(BadInput, match="1 channels, the images 3"):
        model("wrn10-1", classes=2, normalize=([0.5], [0.5]))


def test_unknown_names_get_near_matches():
    with pytest.raises(NotFound, match="no model 'wrm16-1'. Did you mean 'wrn16-1'"):
        model("wrm16-1", classes=10)
    for name in ("wrn16-0", "resnet", "convnet3-w", "timm:", "", "wrn16-1x", "resnet20-224", "mobilenet-32"):
        with pytest.raises(NotFound, match="no model"):
            model(name, classes=10)


def test_classes_must_be_known():
    with pytest.raises(BadInput, match="how many classes"):
        model("wrn10-1")
    assert model("wrn10-1", pictures(), classes=9).spec["classes"] == 9


def test_families_say_what_there_is():
    assert {"wrn{depth}-{width}[-s2]", "resnet{18..152}[-224]", "FILE.py:FACTORY", "timm:NAME"} <= families().keys()
    assert all(line and "\n" not in line for line in families().values())


def test_check_fits():
    net = model("wrn10-1", classes=10)
    net.train()
    net.bn1.eval()
    before = copy.deepcopy(net.state_dict())
    for channels in (1, 4):  # one channel would broadcast
        with pytest.raises(BadInput, match=f"takes 3 channels, the images have {channels}. Build it"):
            check_fits(net, pictures(channels=channels, classes=10, n=10))
    with pytest.raises(BadInput, match="convnet2-w8, built for 3×32×32 images, cannot take 3×16×16 images"):
        check_fits(model("convnet2-w8", classes=4), pictures())
    with pytest.raises(BadInput, match=r"returns \(10,\) per image; images has 4 classes"):
        check_fits(net, pictures())
    check_fits(net, pictures(classes=10, n=10))
    assert net.training and net.block1.training and not net.bn1.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    with pytest.raises(BadInput, match="Sequential cannot take"):
        check_fits(nn.Sequential(nn.Flatten(), nn.Linear(5, 4)), pictures())
    with pytest.raises(BadInput, match="returns a tuple"):
        check_fits(nn.MaxPool2d(2, return_indices=True), pictures())


MINE = """
import torch
from torch import nn
from helper import WIDTH

def make(classes, size=32):
    head = nn.Linear(WIDTH * (size - 2) ** 2, classes)
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.ReLU(), nn.Flatten(), head)

class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

def other(num_classes=2): return nn.Linear(1, num_classes)
def needy(classes, dropout): return None
def nothing(): return "a string"
def broken(): raise KeyError("oops")
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "helper.py").write_text("WIDTH = 5\n")
    (tmp_path / "mine.py").write_text(MINE)
    yield tmp_path / "mine.py"
    sys.modules.pop("helper", None)


def test_a_model_from_a_file(mine):
    images, name = pictures(), f"{mine}:make"
    path, before = list(sys.path), torch.random.get_rng_state()
    net = model(name, images, rng=rng(1))
    assert torch.equal(torch.random.get_rng_state(), before) and sys.path == path
    check_fits(net, images)
    assert not hasattr(net, "normalize")  # it gets images in [0, 1]
    assert net.spec == {"name": name, "classes": 4, "channels": 3, "size": 16}
    assert torch.equal(net[0].weight, model(name, images, rng=rng(1))[0].weight)
    assert isinstance(model(f"{mine}:Net", classes=3), nn.Linear)
    assert model(f"{mine}:other", classes=3).out_features == 3
    assert not list(mine.parent.glob("__pycache__/mine*"))

    wrapped = model(name, images, rng=rng(1), normalize=([0.5] * 3, [0.25] * 3))
    assert list(dict(wrapped.named_children())) == ["normalize", "model"]
    x = images.pixels()
    torch.testing.assert_close(wrapped(x), net((x - 0.5) / 0.25))
    again = model(**json.loads(json.dumps(wrapped.spec)))
    again.load_state_dict(wrapped.state_dict())


def test_what_can_be_wrong_with_a_file(mine):
    with pytest.raises(NotFound, match="no file.*Did you mean '.*mine.py'"):
        model(f"{mine.parent}/mein.py:make", classes=2)
    with pytest.raises(NotFound, match="no factory in .*mine.py 'maek'. Did you mean 'make'"):
        model(f"{mine}:maek", classes=2)
    with pytest.raises(BadInput, match="missing a required argument: 'dropout'.*give its other arguments defaults"):
        model(f"{mine}:needy", classes=2)
    with pytest.raises(BadInput, match="made a str"):
        model(f"{mine}:nothing", classes=2)
    with pytest.raises(BadInput, match="broken failed: KeyError: 'oops'"):
        model(f"{mine}:broken", classes=2)
    mine.write_text("def (")
    with pytest.raises(BadInput, match="mine.py failed: SyntaxError"):
        model(f"{mine}:make", classes=2)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_that_is_not_installed(library, monkeypatch):
    monkeypatch.delitem(sys.modules, library, raising=False)

    class Nowhere:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == library:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Nowhere, *sys.meta_path])
    with pytest.raises(BadInput, match=f"Type: pip install {library}"):
        model(f"{library}:resnet18", classes=2)


def test_models_of_libraries(monkeypatch):
    timm, torchvision = ModuleType("timm"), ModuleType("torchvision")
    timm.is_model = lambda name: name == "vit"
    timm.list_models = lambda: ["vit"]
    timm.create_model = lambda name, pretrained, num_classes, in_chans: nn.Conv2d(in_chans, num_classes, 1)
    torchvision.models = SimpleNamespace(
        list_models=lambda module: ["resnet18"],
        get_model=lambda name, weights, num_classes: nn.Linear(3, num_classes),
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    assert model("timm:vit", classes=7, channels=1).weight.shape == (7, 1, 1, 1)
    assert model("torchvision:resnet18", classes=7).out_features == 7
    with pytest.raises(NotFound, match="no timm model 'vot'. Did you mean 'vit'"):
        model("timm:vot", classes=7)
    with pytest.raises(NotFound, match="no torchvision model"):
        model("torchvision:resnet19", classes=7)


def test_a_saved_model_comes_back_with_its_bits(tmp_path):
    made = model("wrn10-1", classes=3, channels=1, size=8)
    again = load(save(made, tmp_path / "m.safetensors"))
    assert again.spec == made.spec and not again.training
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_strangers_weights_need_the_models_name(tmp_path):
    torch.save(model("wrn10-1", classes=3).state_dict(), tmp_path / "m.pt")
    with pytest.raises(BadInput, match="does not say which model it is"):
        load(tmp_path / "m.pt")
    assert load(tmp_path / "m.pt", model="wrn10-1", classes=3).spec["classes"] == 3
