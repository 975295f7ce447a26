import torch

from distrust import model
from distrust.auditing.checkpoint import open_suspect

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
FACTORY = """
from torch import nn

def make(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes))
"""


def test_statistics_go_into_a_model_of_ours(tmp_path):
    network = model("wrn10-1", classes=10, size=8).eval()
    weights = {k: v for k, v in network.state_dict().items() if not k.startswith("normalize.")}
    torch.save(weights, tmp_path / "w.pt")
    given = {"model": "wrn10-1", "size": 8}
    suspect = open_suspect(tmp_path / "w.pt", "digits", normalize=(MEAN, STD), **given)
    plain = open_suspect(tmp_path / "w.pt", "digits", **given)
    x = suspect.test.pixels(slice(0, 4))
    by_hand = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.allclose(suspect.model(x), plain.model(by_hand), atol=1e-5)


def test_statistics_go_in_front_of_a_strangers_model(tmp_path):
    (tmp_path / "net.py").write_text(FACTORY)
    name = f"{tmp_path / 'net.py'}:make"
    network = model(name, classes=10, size=8)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    suspect = open_suspect(tmp_path / "w.pt", "digits", model=name, size=8, normalize=(MEAN, STD))
    x = suspect.test.pixels(slice(0, 4))
    by_hand = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.allclose(suspect.model(x), network(by_hand), atol=1e-5)
    assert model(**suspect.model.spec).normalize.mean.flatten().tolist() == [torch.tensor(v).item() for v in MEAN]
