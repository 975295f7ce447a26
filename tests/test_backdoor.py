"""Backdoor: what counts as a hit, what is written down, and the words that make a trigger."""

import hashlib
import json
import pickle

import pytest
import torch
from PIL import Image
from torch import nn

from distrust import ImageSet, rng
from distrust.errors import BadInput, NotFound
from distrust.measurement.backdoor import Backdoor, make_trigger, trigger_files
from distrust.measurement.predict import BATCH, predict
from distrust.methods import triggers

X = torch.rand(BATCH + 7, 3, 8, 8, generator=rng("x"))  # more than one batch


class Corner(nn.Module):
    """Class 1 where the last pixel is bright, else class 0; unless it trains, when it always says 2."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.BatchNorm2d(3).eval()

    def forward(self, x):
        bright = (x[:, :, -1, -1].mean(1) > 0.9).float()
        return torch.stack([1 - bright, bright, torch.full_like(bright, 9.0 * self.training)], 1)


class Raise(nn.Module):
    """Adds more than 1; registered nowhere."""

    def forward(self, x):
        return x + 1.5


# --- predict and hit ---------------------------------------------------------------------------------------


def test_predict_gives_the_class_of_every_image_whatever_their_type():
    raw = (X * 255).round().to(torch.uint8)
    expected = (raw[:, :, -1, -1].float().mean(1) / 255 > 0.9).long()
    images = ImageSet(raw, torch.zeros(len(raw), dtype=torch.int64), ("a", "b", "c"))
    for form in (raw, raw.float() / 255, images):
        assert torch.equal(predict(Corner(), form), expected)
    assert 0 < expected.sum() < len(expected)


def test_hit_says_which_stamped_images_are_called_the_target():
    white = triggers.patch("white")
    assert Backdoor(white, 1).hit(Corner(), X).tolist() == [True] * len(X)
    assert Backdoor(white, 0).hit(Corner(), X).tolist() == [False] * len(X)
    beside = Backdoor(triggers.patch("white", inset=1), 1)  # leaves the last pixel as it is
    assert torch.equal(beside.hit(Corner(), X), predict(Corner(), X) == 1)


def test_looking_changes_neither_modes_nor_images_nor_the_grad_mode():
    model, before = Corner(), X.clone()
    Backdoor(triggers.patch(), 1).hit(model, X)
    assert model.training and not model.frozen.training
    assert torch.equal(X, before) and torch.is_grad_enabled()


def test_as_published_keeps_pixels_that_no_file_can_hold():
    assert Backdoor(Raise(), 0).stamp_on(X).max() == 1
    assert torch.equal(Backdoor(Raise(), 0, as_published=True).stamp_on(X), X + 1.5)


def test_a_backdoor_is_frozen_and_picklable():
    backdoor = Backdoor(triggers.patch(), 1)
    with pytest.raises(AttributeError):
        backdoor.target = 2
    assert torch.equal(pickle.loads(pickle.dumps(backdoor)).stamp_on(X), backdoor.stamp_on(X))


# --- save and load -----------------------------------------------------------------------------------------

EXAMPLES = [
    Backdoor(triggers.patch("white", size=2, inset=1), 3, stamp="after", name="badnets"),
    Backdoor(triggers.patch(torch.rand(3, 2, 4, generator=rng(1))), 0),
    Backdoor(triggers.blend(alpha=0.3), 1),
    Backdoor(triggers.blend(torch.rand(3, 5, 6, generator=rng(2))), 1, as_published=True),
    Backdoor(triggers.sig(delta=40.0), 2),
]


@pytest.mark.parametrize("backdoor", EXAMPLES, ids=lambda backdoor: str(backdoor.trigger))
def test_what_is_saved_loads_again(backdoor, tmp_path):
    path = backdoor.save(tmp_path / "new folder" / "mine")
    assert path == tmp_path / "new folder" / "mine.json"
    read = Backdoor.load(path)
    facts = ("target", "rule", "stamp", "name", "as_published")
    assert [getattr(read, k) for k in facts] == [getattr(backdoor, k) for k in facts]
    assert type(read.trigger) is type(backdoor.trigger)
    assert torch.equal(read.stamp_on(X), backdoor.stamp_on(X))
    assert read.dump() == backdoor.dump()


def test_a_name_with_a_dot_stays_a_name(tmp_path):
    first, second = (Backdoor(triggers.patch(), target).save(tmp_path / f"run.{target}") for target in (1, 2))
    assert (first.name, second.name) == ("run.1.json", "run.2.json")
    assert [Backdoor.load(p).target for p in (first, second)] == [1, 2]
    assert Backdoor(triggers.patch(), 1).save(tmp_path / "other.json").name == "other.json"


def test_a_trigger_that_nothing_could_rebuild_is_not_saved(tmp_path):
    with pytest.raises(BadInput, match="Raise is no registered trigger, so it cannot be written down. Known: "):
        Backdoor(Raise(), 0).save(tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def test_a_missing_record_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"no trigger file .*mine\.json\. Give the \.json that"):
        Backdoor.load(tmp_path / "mine.json")


def changed(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"target": 1}'),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.with_suffix(".safetensors").unlink(),
        lambda path: path.with_suffix(".safetensors").write_bytes(b"junk"),
        lambda path: changed(path, options=[1]),
        lambda path: changed(path, target="truck"),
        lambda path: changed(path, target=-1),
    ],
    ids=[
        "half",
        "list",
        "short",
        "bytes",
        "no tensors",
        "bad tensors",
        "options",
        "word as target",
        "target -1",
    ],
)
def test_a_damaged_record_is_refused_by_name(damage, tmp_path):
    path = Backdoor(triggers.blend(torch.rand(3, 4, 4)), 1).save(tmp_path / "mine")
    damage(path)
    with pytest.raises(BadInput, match=r"mine\.json is not a backdoor's record .*Write one with"):
        Backdoor.load(path)


def test_a_record_of_unknown_things_says_what_is_known(tmp_path):
    path = Backdoor(triggers.sig(), 1).save(tmp_path / "mine")
    changed(path, options={"delta": -5})
    with pytest.raises(BadInput, match="sig: delta=-5: input should be greater than or equal to 0"):
        Backdoor.load(path)
    changed(path, options={"dleta": 5})
    with pytest.raises(NotFound, match="no option of sig 'dleta'. Did you mean 'delta'"):
        Backdoor.load(path)
    changed(path, trigger="sgi")
    with pytest.raises(NotFound, match="no trigger 'sgi'. Did you mean 'sig'"):
        Backdoor.load(path)


# --- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("patch", triggers.patch()),
        ("patch:grid", triggers.patch("grid")),
        ("patch:white:3", triggers.patch("white", 3)),
        ("patch:white:3:2", triggers.patch("white", 3, 2)),
        ("patch:white:3[inset=1]", triggers.patch("white", 3, 1)),
        ("patch[pattern=checker,size=4]", triggers.patch("checker", 4)),
        ("blend", triggers.blend()),
        ("blend:noise:0.1", triggers.blend("noise", 0.1)),
        ("sig[frequency=3]", triggers.sig(frequency=3)),
    ],
)
def test_a_trigger_is_made_from_words(text, expected):
    made = make_trigger(text)
    assert made.recipe == expected.recipe and torch.equal(made(X), expected(X))


def test_defaults_fill_only_what_the_words_leave_open_and_the_trigger_has():
    assert make_trigger("patch:white", inset=2, alpha=0.5).recipe == {
        "pattern": "white",
        "size": 3,
        "inset": 2,
    }
    assert make_trigger("patch:white[inset=1]", inset=2).recipe["inset"] == 1
    assert make_trigger("patch:white:3:1", inset=2).recipe["inset"] == 1


def test_a_module_is_a_trigger_as_it_is():
    trigger = Raise()
    assert make_trigger(trigger, inset=2) is trigger


def test_a_saved_backdoor_gives_its_trigger(tmp_path):
    path = Backdoor(triggers.patch("white", 2), 1).save(tmp_path / "trigger")
    assert torch.equal(make_trigger(str(path))(X), triggers.patch("white", 2)(X))


def test_a_picture_file_is_blended_over_the_images(tmp_path):
    picture = torch.randint(256, (8, 8, 3), generator=rng("picture"), dtype=torch.uint8)
    Image.fromarray(picture.numpy()).save(tmp_path / "key.png")
    made = make_trigger(f"blend:{tmp_path}/key.png", alpha=0.5)
    torch.testing.assert_close(made(X), 0.5 * X + 0.5 * picture.permute(2, 0, 1) / 255)


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("pach:grid", NotFound, "no trigger 'pach'. Did you mean 'patch'?"),
        ("patch:white[sze=3]", NotFound, "no option of patch 'sze'. Did you mean 'size'"),
        ("patch:gird", BadInput, "no pattern 'gird'. Known: grid, white, black, checker"),
        ("patch:white:0", BadInput, "patch: size='0': input should be greater than or equal to 1"),
        ("patch:white:3:0:1", BadInput, "has 4 words; patch takes pattern, size, inset"),
        ("patch[size=[2,3]]", BadInput, "stands for 2 selectors"),
        ("blend:missing.png", NotFound, "no picture missing.png"),
        ("missing.json", NotFound, "no trigger file missing.json"),
    ],
)
def test_wrong_words_are_refused_with_what_is_known(text, error, message):
    with pytest.raises(error) as caught:
        make_trigger(text)
    assert message in str(caught.value)


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "key.png").write_text("no picture")
    with pytest.raises(BadInput, match=r"key\.png is not a readable picture"):
        make_trigger(f"blend:{tmp_path}/key.png")


def test_the_files_that_a_trigger_reads_are_known_by_their_contents(tmp_path):
    key, record = tmp_path / "key.png", Backdoor(EXAMPLES[1].trigger, 1).save(tmp_path / "trigger")
    Image.new("RGB", (2, 2)).save(key)

    def sha(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    tensors = record.with_suffix(".safetensors")
    assert trigger_files(f"blend:{key}") == {"key.png": sha(key)}
    assert trigger_files(str(record)) == {"trigger.json": sha(record), "trigger.safetensors": sha(tensors)}
    assert trigger_files("patch:white:3") == trigger_files(Raise()) == {}
