from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distrust.errors import BadInput, NotFound
from distrust.models import eval_mode, group_ends, layers, model, norm_at, resolve, taps
from distrust.seeds import rng


def batch(n=2, channels=3, size=16):
    return torch.rand(n, channels, size, size, generator=rng("batch"))


def hooks(net):
    return sum(len(module._forward_hooks) for module in net.modules())


def chain(inplace=False):
    """Somebody's flat chain: no containers at all."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=inplace),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


class Handmade(nn.Module):
    """Somebody's model: a stem that halves, blocks, in-place functions, and parts that taps cannot read."""

    def __init__(self, inplace=True):
        super().__init__()
        self.inplace_functions = inplace
        self.conv1 = nn.Conv2d(3, 4, 3, 2, 1)
        self.bn1 = nn.BatchNorm2d(4)
        self.stage1 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6))
        self.stage2 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.pair = nn.LSTM(8, 8)
        self.twice = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 5)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=self.inplace_functions)
        x = F.relu(self.stage1(x))
        x = self.stage2(x)
        x = x.mean((2, 3))
        x, _ = self.pair(x)
        return self.fc(self.twice(self.twice(x)))


def test_taps_read_what_a_manual_forward_gives():
    net, x = model("wrn16-1", classes=10), batch()
    with eval_mode(net), taps(net, ["block3", "block1", "block2.layer.0.bn1"]) as read:
        logits, features = read(x)
        stem = net.conv1(net.normalize(x))
        one = net.block1(stem)
        two = net.block2(one)
        three = net.block3(two)
        assert list(features) == ["block3", "block1", "block2.layer.0.bn1"]
        torch.testing.assert_close(features["block1"], one)
        torch.testing.assert_close(features["block3"], three)
        torch.testing.assert_close(features["block2.layer.0.bn1"], net.block2.layer[0].bn1(one))
        torch.testing.assert_close(logits, net(x))
    assert hooks(net) == 0


def test_taps_without_layers_and_twice():
    net, x = chain(), batch()
    with taps(net, []) as read:
        assert read(x).features == {}
    with eval_mode(net), taps(net, ["1"]) as read:
        first, second = read(x), read(x * 0)
        assert not torch.equal(first.features["1"], second.features["1"])


def test_gradients_flow_through_taps_also_when_copied():
    for inplace in (False, True):
        net = chain(inplace)
        with taps(net, ["1"]) as read:
            read(batch()).features["1"].square().sum().backward()
        assert net[0].weight.grad is not None and net[4].weight.grad is None


def test_an_in_place_relu_cannot_overwrite_a_feature():
    plain, inplace = chain(), chain(inplace=True)
    inplace.load_state_dict(plain.state_dict())
    with taps(plain, ["1", "2"]) as read:
        expected = read(batch())
    with taps(inplace, ["1", "2"]) as read:
        got = read(batch())
    assert got.features["1"].min() < 0  # a kept reference would show the ReLU's output here
    for path in ("1", "2"):
        torch.testing.assert_close(got.features[path], expected.features[path])
    torch.testing.assert_close(got.logits, expected.logits)


def test_an_in_place_function_is_refused():
    net = Handmade()
    with (
        pytest.raises(BadInput, match="'bn1' of Handmade was overwritten in place"),
        taps(net, ["bn1"]) as read,
    ):
        read(batch())
    assert hooks(net) == 0
    with taps(net, ["stage1", "conv1"]) as read:  # untouched outputs are fine
        assert list(read(batch()).features) == ["stage1", "conv1"]
    with taps(Handmade(inplace=False), ["bn1"]) as read:
        assert read(batch()).features["bn1"].min() < 0
    with torch.inference_mode(), taps(net, ["bn1"]) as read:  # no versions there, so features are copied
        assert read(batch()).features["bn1"].min() < 0


def test_what_cannot_be_tapped():
    net = Handmade()
    with pytest.raises(NotFound, match="no layer of wrn16-1 'block4'. Did you mean"):
        taps(model("wrn16-1", classes=2), ["block4"]).__enter__()
    with pytest.raises(NotFound, match="no layer of Handmade ''"), taps(net, [""]):
        pass
    with pytest.raises(BadInput, match="'unused' of Handmade did not run"), taps(net, ["unused"]) as read:
        read(batch())
    with pytest.raises(BadInput, match="'pair' of Handmade returns a tuple"), taps(net, ["pair"]) as read:
        read(batch())
    with pytest.raises(RuntimeError), taps(net, ["conv1"]) as read:
        read(batch(channels=1))
    assert hooks(net) == 0


def test_a_module_that_runs_twice_gives_its_last_output():
    net = Handmade().eval()
    with taps(net, ["twice"]) as read:
        logits, features = read(batch())
    torch.testing.assert_close(net.fc(features["twice"]), logits)


def test_taps_leave_modes_alone():
    net = chain()
    net[1].eval()
    with taps(net, ["1"]) as read:
        read(batch())
        assert net.training and not net[1].training


def test_eval_mode_restores_each_module_also_after_an_error():
    net = chain()
    net[1].eval()
    with pytest.raises(KeyError), eval_mode(net) as inside:
        assert inside is net and not any(module.training for module in net.modules())
        raise KeyError
    assert [module.training for module in net] == [True, False] + [True] * 7


@pytest.mark.parametrize(
    ("name", "size", "ends"),
    [
        ("wrn16-2", 32, {"block1": (32, 32, 32), "block2": (64, 16, 16), "block3": (128, 8, 8)}),
        ("wrn10-1", 16, {"block1": (16, 16, 16), "block2": (32, 8, 8), "block3": (64, 4, 4)}),
        ("resnet8", 32, {"layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8)}),
        (
            "resnet18",
            16,
            {"layer1": (64, 16, 16), "layer2": (128, 8, 8), "layer3": (256, 4, 4), "layer4": (512, 2, 2)},
        ),
        (
            "vgg-small",
            32,
            {"block0": (64, 32, 32), "block1": (128, 16, 16), "block2": (256, 8, 8), "block4": (512, 4, 4)},
        ),
        (  # flat: the ReLU before each pooling; what the last pooling leaves is the container's
            "convnet3-w8",
            32,
            {
                "features.2": (8, 32, 32),
                "features.6": (8, 16, 16),
                "features.10": (8, 8, 8),
                "features": (8, 4, 4),
            },
        ),
        ("convnet3-w8", 8, {"features.2": (8, 8, 8), "features.6": (8, 4, 4), "features.10": (8, 2, 2)}),
    ],
)
def test_group_ends_of_every_family(name, size, ends):
    net = model(name, classes=3, size=size)
    found = group_ends(net)
    assert found == ends
    assert list(found) == list(ends) == resolve(net, "auto")
    with taps(net, list(ends)) as read:
        assert {path: tuple(f.shape[1:]) for path, f in read(batch(size=size)).features.items()} == ends


def test_group_ends_of_strangers():
    assert group_ends(chain(), (3, 16, 16)) == {"2": (4, 16, 16), "5": (6, 8, 8)}
    # A stem alone at its size is no group where the model has blocks.
    assert group_ends(Handmade(), (3, 32, 32)) == {"stage1": (6, 8, 8), "stage2": (8, 4, 4)}
    # Wrapped with its normalisation, a model's paths begin with `model.`; the normalisation is no group.
    wrapped = nn.Sequential()
    wrapped.add_module("normalize", model("wrn10-1", classes=2).normalize)
    wrapped.add_module("model", chain())
    assert list(group_ends(wrapped, (3, 16, 16))) == ["model.2", "model.5"]
    assert group_ends(chain(), (3, 8, 16)) == {"2": (4, 8, 16), "5": (6, 4, 8)}


def test_looking_leaves_no_trace():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = chain()

        def forward(self, x):
            return F.dropout(self.net(x))

    net = Noisy()
    net.net[1].eval()
    before, state = torch.random.get_rng_state(), {k: v.clone() for k, v in net.state_dict().items()}
    group_ends(net)
    layers(net)
    with pytest.raises(BadInput, match="Noisy cannot take 1×8×8 images"):
        group_ends(net, (1, 8, 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert net.training and net.net[0].training and not net.net[1].training
    assert hooks(net) == 0 and torch.is_grad_enabled()


def test_layers_lists_every_module():
    rows = {row.path: row for row in layers(Handmade())}
    assert [row.path for row in layers(chain())] == [str(i) for i in range(9)]
    assert rows["conv1"] == ("conv1", "Conv2d", (4, 16, 16), 3 * 4 * 9 + 4, False)
    assert rows["stage1"].group_end and rows["stage1"].parameters == 4 * 6 * 9 + 6 + 12
    assert rows["fc"].shape == (5,)
    assert rows["unused"].shape is None and rows["pair"].shape is None


def test_resolve():
    net = model("wrn10-1", classes=2)
    assert resolve(net, ["block3", "conv1"]) == ["block3", "conv1"]
    assert resolve(net, "block3") == ["block3"]
    assert resolve(net, "auto", (3, 8, 8)) == ["block1", "block2", "block3"]
    with pytest.raises(NotFound, match="block33"):
        resolve(net, ["block33"])
    with pytest.raises(BadInput, match="layers=auto finds none"):
        resolve(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), "auto", (3, 2, 2))


def test_the_input_of_a_module_can_be_tapped_also_under_an_in_place_relu():
    plain, inplace = chain(), chain(inplace=True)
    inplace.load_state_dict(plain.state_dict())
    for net in (plain, inplace):
        with eval_mode(net), taps(net, ["2:input", "1"]) as read:
            features = read(batch()).features
        assert list(features) == ["2:input", "1"] and features["2:input"].min() < 0
        torch.testing.assert_close(features["2:input"], features["1"])
    assert hooks(plain) == 0 and not any(m._forward_pre_hooks for m in plain.modules())


@pytest.mark.parametrize(
    ("name", "before_relu", "stem", "last"),
    [
        ("wrn16-1", ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"], "block1:input", "fc:input"),
        ("resnet20", [f"layer{i}.2.relu:input" for i in (1, 2, 3)], "layer1:input", "fc:input"),
        ("resnet18", [f"layer{i}.1.relu:input" for i in (1, 2, 3, 4)], "layer1:input", "linear:input"),
        ("vgg-small", [f"block{i}.2:input" for i in (0, 1, 2, 4)], "block0:input", "classifier:input"),
    ],
)
def test_words_for_layers(name, before_relu, stem, last):
    """Where Overhaul listens: the next group's first norm of a WRN, the sum before the ReLU of a ResNet."""
    net = model(name, classes=10)
    assert resolve(net, "pre-relu") == before_relu
    assert resolve(net, "stem+groups") == [stem, *group_ends(net)]
    assert resolve(net, "embedding") == [last]
    assert resolve(net, "groups") == resolve(net, "auto") == list(group_ends(net))


def test_what_is_before_the_relu_is_the_relus_input():
    net = model("resnet20", classes=10)
    with eval_mode(net), taps(net, ["layer2.2.relu:input", "layer2"]) as read:
        features = read(batch()).features
    torch.testing.assert_close(features["layer2.2.relu:input"].relu(), features["layer2"])
    assert features["layer2.2.relu:input"].min() < 0


def test_a_model_without_a_linear_layer_has_no_embedding():
    with pytest.raises(BadInput, match="no linear layer, so layers=embedding finds none"):
        resolve(nn.Sequential(nn.Conv2d(3, 4, 3)), "embedding")


def test_the_norm_that_describes_a_feature():
    wrn, resnet = model("wrn16-1", classes=10), model("resnet8", classes=10)
    assert norm_at(wrn, "block2.layer.0.bn1") is wrn.block2.layer[0].bn1
    assert norm_at(resnet, "layer2.0.relu:input") is resnet.layer2[0].bn2, "not the shortcut's, which ran before"
    assert norm_at(model("convnet3-w8", classes=10), "features.2:input") is None, "a group norm is none"
    assert norm_at(wrn, "nowhere") is None
