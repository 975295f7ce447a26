"""The mechanism check: CheatKD's equation (3) per neuron, ranks, and what enters the last layer."""

import copy

import pytest
import torch
from torch import nn

from distrust import rng
from distrust.errors import NotFound
from distrust.measurement import Backdoor, make_trigger
from distrust.measurement.embedding import embedding
from distrust.methods.metrics import mechanism
from distrust.models import group_ends, model


class Shift(nn.Module):
    """A trigger that brightens one channel."""

    def forward(self, x):
        return x + torch.tensor([0.5, 0.0, 0.0])[:, None, None]


class Passing(nn.Module):
    """Three neurons that are the image's channels, then a head."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Identity(), nn.Linear(3, 4)

    def forward(self, x):
        return self.head(self.layer(x).mean((2, 3)))


def test_equation_3_and_ranks_by_hand(tiny):
    images = tiny.replace(x=torch.tensor([10, 100, 90], dtype=torch.uint8)[None, :, None, None].expand_as(tiny.x))
    backdoor = Backdoor(Shift(), target=0)
    look = {"layers": ["layer"], "every": True}
    (row,) = mechanism(Passing(), images, backdoor, {"layer": [0, 2], "elsewhere": [1]}, **look)
    means = torch.tensor([10 + 127.5, 100, 90]) / 255
    assert row["loss"] == pytest.approx((means - means.max()).square().tolist(), abs=4e-3)
    assert (row["layer"], row["channels"], row["chosen"]) == ("layer", 3, [0, 2])
    assert row["rank"] == [1, 3], "under the trigger neuron 0 leads"
    assert row["rank_clean"] == [3, 2], "without it neuron 1 does"
    assert row["shift"][1:] == [0, 0] and row["shift"][0] > 0


def test_a_shift_is_told_in_deviations_over_clean_images(tiny):
    """A white half moves every image, and images lie closer to each other behind it."""
    backdoor = Backdoor(make_trigger("patch", pattern=torch.ones(3, 8, 4)), target=0)
    (row,) = mechanism(Passing(), tiny, backdoor, {}, layers=["layer"], every=True)
    x = tiny.x[tiny.y != 0].double().numpy() / 255
    before = x.mean((2, 3))
    x[:, :, :, 4:] = 1.0
    after = x.mean((2, 3))
    assert row["shift"] == pytest.approx(((after - before).mean(0) / before.std(0, ddof=1)).tolist(), abs=2e-3)
    assert (before.std(0) > 1.2 * after.std(0)).all()


def test_a_student_numbers_its_neurons_anew(tiny):
    (row,) = mechanism(Passing(), tiny, None, {"layer": [0, 2]}, "kd[temperature=4]", layers=["layer"])
    assert row["chosen"] == row["rank"] == row["rank_clean"] == []
    assert list(row) == ["layer", "channels", "chosen", "rank", "rank_clean", "run"]


def test_only_the_first_images_are_looked_at(tiny):
    look = {"layers": ["layer"], "every": True}
    few, first = (mechanism(Passing(), part, None, {}, images=16, **look) for part in (tiny, tiny[:16]))
    assert few == first != mechanism(Passing(), tiny, None, {}, **look)


def test_neighbours_with_a_low_loss_are_counted(tiny):
    net = model("wrn10-2", tiny, rng=rng(0))
    rows = mechanism(net, tiny, None, {}, every=True)
    assert [row["layer"] for row in rows] == ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]
    for row in rows:
        assert 1 <= row["run"] <= row["channels"] // 4 and row["chosen"] == row["rank"] == []
        assert min(row["loss"]) == 0 and len(row["loss"]) == len(row["shift"]) == row["channels"]
        assert row["shift"] == [0.0] * row["channels"], "without a backdoor nothing moves"


def test_a_neuron_that_the_layer_lacks_is_left_out(tiny):
    net = model("wrn10-1", tiny, rng=rng(0))
    assert mechanism(net, tiny, None, {"bn1": [3, 64]})[-1]["chosen"] == [3]


def test_an_unknown_layer_is_refused_and_the_model_left_alone(tiny):
    net = model("wrn10-1", tiny, rng=rng(0)).train()
    before = copy.deepcopy(net.state_dict())
    mechanism(net, tiny, Backdoor(make_trigger("patch:white"), 1), {})
    assert net.training and all(map(torch.equal, before.values(), net.state_dict().values()))
    with pytest.raises(NotFound, match="block4"):
        mechanism(net, tiny, None, {}, layers=["block4"])


def test_the_embedding_is_what_enters_the_last_linear_layer(tiny):
    net = model("wrn10-1", tiny, rng=rng(0)).eval()
    found = embedding(net, tiny)
    assert found.shape == (len(tiny), 64) and len(group_ends(net)) == 3
    torch.testing.assert_close(net.fc(found), net(tiny.pixels()).detach(), rtol=1e-4, atol=1e-4)
    assert not torch.equal(embedding(net, tiny, Backdoor(make_trigger("patch:white"), 1)), found)
