"""A stranger's files in Python: opened, measured, purified, distilled from and scanned."""

import json

import pytest
import torch

import distrust as dt
from distrust import model, open_suspect
from distrust.measurement import Backdoor, make_trigger

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


@pytest.fixture
def suspect(trained, digits, tmp_path):
    dt.save(trained, tmp_path / "stranger.safetensors")
    return open_suspect(tmp_path / "stranger.safetensors", (digits.train, digits.test))


@pytest.mark.filterwarnings("ignore::distrust.errors.Notice")
def test_a_model_that_statistics_would_put_right_is_not_cleared(suspect, monkeypatch):
    words = "--mean 0.5,0.5,0.5 --std 0.2,0.2,0.2"
    monkeypatch.setattr("distrust.auditing.checkpoint.hints", lambda suspect, found: [f"90.0% with {words}."])
    said = dt.scan(suspect, "random", threshold=1e9)
    assert not said.judged and not said.found and words in str(said), "it sees other images than it was trained on"
    assert dt.scan(suspect, "random", threshold=-1e9).judged, "a finding stays one"


def test_a_suspect_measures_as_its_model_does(suspect, digits, trained, tmp_path):
    backdoor = Backdoor(make_trigger("patch:grid"), 5, name="patch:grid")
    assert suspect.measure("patch:grid", target=5) == dt.measure(trained, digits.test, backdoor)
    assert suspect.measure().asr is None and suspect.measure().acc > 0.9
    fresh = model("wrn10-1", digits.train)
    dt.save(fresh, tmp_path / "twin.safetensors")
    by_file = suspect.measure(backdoor, control=tmp_path / "twin.safetensors")
    assert by_file == suspect.measure(backdoor, control=fresh) and by_file.base is not None
    assert not dt.verdict(by_file)
    with pytest.raises(dt.BadInput, match="target=10 is no class"):
        suspect.measure("sig", target=10)


def test_purify_leaves_the_suspect_and_writes_what_it_made(suspect, tmp_path):
    before = {k: v.clone() for k, v in suspect.model.state_dict().items()}
    lines = []
    method = "finetune[epochs=1,lr=0.1]"
    made = dt.purify(method, suspect, fraction=0.05, trigger="sig", target=1, tell=lines.append)
    assert all(torch.equal(v, before[k]) for k, v in suspect.model.state_dict().items())
    assert made.before == suspect.measure("sig", target=1) and made.flags == made.after.flags
    assert lines == ["finetune[epochs=1,lr=0.1] on 67 clean images of digits"] and "after:  ACC" in str(made)
    weights = made.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "record.json").read_text())["after"] == made.after.record()
    again = open_suspect(weights, (suspect.train, suspect.test))
    assert again.measure("sig", target=1).acc == made.after.acc
    file = dt.purify(method, suspect.source, images="digits", fraction=0.05, trigger="sig", target=1)
    assert (file.before, file.after) == (made.before, made.after)
    with pytest.raises(dt.BadInput, match="works on images; purify cleans a model"):
        dt.purify("range_clip", suspect)
    with pytest.raises(dt.BadInput, match="is not empty"):
        made.save(tmp_path / "out")


def test_teach_distils_from_a_suspect(suspect):
    made = dt.teach("wrn10-1", suspect, distiller="at", epochs=1, batch_size=64, flip=False, crop=1)
    assert made.before == suspect.measure() and made.model.spec["name"] == "wrn10-1"
    assert made.facts["student_measured"] == made.after.record() and "teacher: ACC" in str(made)


def test_scan_takes_a_suspect_or_a_set(suspect, digits):
    said = dt.scan(suspect, "neural_cleanse[steps=60]", threshold=-9)
    assert said.judged and said.found and said.kind == "classifier" and len(said.ranked) == 10
    assert said.ranked[0][1] == max(said.finding.scores) and "classes: " in str(said)
    probe = "patch_probe[network=convnet2-w4,networks=1,epochs=2,size=3,stride=6,images=8]"
    made = dt.scan(dt.condensers.random(digits.train, images_per_class=2), probe)
    assert made.kind == "synthetic" and not made.judged and "type --threshold" in str(made)
    with pytest.raises(dt.BadInput, match="looks at a synthetic set alone"):
        dt.scan(suspect, probe)
    with pytest.raises(dt.BadInput, match="shows clean images to the classifier"):
        dt.scan(digits.train, "neural_cleanse")


def test_a_device_that_is_not_here_is_refused_before_any_file_is_opened():
    with pytest.raises(dt.BadInput, match="device 'banana' cannot be used here"):
        open_suspect("nowhere.pt", "nowhere", device="banana")
    with pytest.raises(dt.BadInput, match="device 'banana'"):
        dt.plan("demo", device="banana")
