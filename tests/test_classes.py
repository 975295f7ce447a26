"""The images' classes need not be the model's: found by name, by a map, or replaced by the model's own answers."""

from __future__ import annotations

import pytest
import torch
from tests.suspects import MEAN, STD, folder, owner

from distrust import BadInput, NotFound, Skip, hints, judged, open_suspect, purify, scan, teach

GIVEN = {"normalize": (MEAN, STD)}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return owner(tmp_path_factory.mktemp("owner"))


@pytest.fixture(scope="module")
def few(found, tmp_path_factory):
    """Folders of two of the three classes, which have other names, in another order."""
    root = tmp_path_factory.mktemp("few")
    for split, images in (("train", found.train), ("test", found.test)):
        folder(root, images[: 60 if split == "test" else 90], split, {2: "apples", 0: "pears"})
    return root


@pytest.fixture(scope="module")
def loose(found, tmp_path_factory):
    return folder(tmp_path_factory.mktemp("loose"), found.train[:120], "", {0: "", 1: "", 2: ""})


@pytest.mark.parametrize(
    "text, names",
    [
        ("apples = 2\npears = 0\n", ("pears", "1", "apples")),
        ("pears,0\napples,2\n", ("pears", "1", "apples")),
        ("folder,class\napples,2\npears,0\nplums,1\n", ("pears", "1", "apples")),
        ("fruit a\nb=1\npears = fruit a\napples = c\n".replace("b=1\n", "b\nc\n"), ("fruit a", "b", "c")),
        ("pears\nstones\napples\n", ("pears", "stones", "apples")),
    ],
)
def test_classes_are_found_by_a_file(text, names, found, few, tmp_path):
    (tmp_path / "classes.txt").write_text(text)
    suspect = open_suspect(found.weights, few, model=found.name, classes=tmp_path / "classes.txt", **GIVEN)
    assert suspect.test.classes == names and set(suspect.test.y.tolist()) == {0, 2}
    assert suspect.measure(found.backdoor).acc > 0.9


def test_classes_are_found_by_a_mapping_in_python(found, few):
    suspect = open_suspect(found.weights, few, model=found.name, classes={"apples": 2, "pears": "0"}, **GIVEN)
    assert suspect.measure().acc > 0.9


def test_two_folders_may_be_one_class_and_a_control_is_opened_on_the_same_images(found, few):
    classes = {"apples": 2, "pears": 2}
    suspect = open_suspect(found.weights, few, model=found.name, classes=classes, **GIVEN)
    assert suspect.test.classes == ("0", "1", "apples/pears")
    assert suspect.measure(found.backdoor, control=found.weights).carried == 0


@pytest.mark.parametrize(
    "text, message",
    [
        ("apples = 2\n", "the classes given lack pears.*a line pears = CLASS"),
        ("apples = 2\npears = 3\n", "has no class 3 .numbers go from 0 to 2."),
        ("a\nb\nc\napples = c\npears = d\n", "has no class d .known: a, b, c."),
        ("apples = c\npears = a\n", "has no class c.*list its classes by name first"),
        ("pears\nstones\napples\npears\n", "name pears twice"),
        ("a\nb\nc\n", "the classes given lack apples, pears"),
    ],
)
def test_a_file_of_classes_that_does_not_fit_is_told(text, message, found, few, tmp_path):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(BadInput, match=message):
        open_suspect(found.weights, few, model=found.name, classes=tmp_path / "classes.txt", **GIVEN)
    with pytest.raises(NotFound, match="no file of classes nowhere.txt. Write one"):
        open_suspect(found.weights, few, model=found.name, classes="nowhere.txt", **GIVEN)


def test_a_cleaned_model_knows_its_classes_and_finds_some_of_them_by_name(found, few, tmp_path):
    method = "finetune[epochs=1,lr=0.001,flip=false,crop=0]"
    given = {"images": few, "model": found.name, "classes": {"apples": 2, "pears": 0}, **GIVEN}
    made = purify(method, found.weights, **given)
    assert "class-missing" in made.flags, "the defence saw two of three classes"
    file = made.save(tmp_path / "out")
    with pytest.warns(UserWarning, match="has 2 of the model's 3 classes, found by name"):
        again = open_suspect(file, few, model=found.name)
    assert again.test.classes == ("pears", "1", "apples") and again.measure().acc == made.after.acc


def test_own_answers_stand_for_labels_where_there_are_none(found, loose, few):
    suspect = open_suspect(found.weights, loose, model=found.name, **GIVEN)
    assert suspect.own and suspect.test.classes == ("0", "1", "2")
    fires = suspect.measure(found.backdoor)
    assert fires.acc is None and fires.asr > 0.8 and judged(fires), "ASR can be known"
    calm = suspect.measure("sig[delta=1]", target=0)
    assert calm.titg < 0.1 and not judged(calm), "nothing is cleared of a model whose accuracy nobody knows"
    assert "ACC is not known" in hints(suspect, calm)[0]
    assert open_suspect(found.weights, few, model=found.name, classes="own", **GIVEN).own


@pytest.mark.filterwarnings("ignore::distrust.errors.Notice", "ignore::distrust.flags.Flag")
def test_without_labels_a_student_can_be_taught_and_a_classifier_cleaned_by_what_needs_none(found, loose):
    suspect = open_suspect(found.weights, loose, model=found.name, **GIVEN)
    with pytest.raises(
        BadInput, match="finetune needs labels of the model's classes; .* --classes FILE. These need none: bnp, clp"
    ):
        purify("finetune", suspect)
    for name in ("bnp", "clp"):
        made = purify(name, suspect, trigger=found.backdoor)
        assert made.after.acc is made.after.undefended_acc is None and made.after.asr is not None
    student = teach("wrn10-1", suspect, epochs=1, batch_size=32, trigger=found.backdoor)
    assert student.after.acc is None and student.after.asr is not None
    said = scan(suspect, "neural_cleanse[steps=60]", threshold=1e9)
    assert not said.judged and "ACC is not known, so that nothing is cleared" in str(said)
    assert scan(suspect, "neural_cleanse[steps=60]", threshold=-9).judged


def test_where_the_number_of_classes_cannot_be_seen_it_is_asked_for(found, loose, tmp_path):
    (tmp_path / "conv.py").write_text(
        "from torch import nn\n\n\ndef make(classes):\n    return nn.Sequential(nn.Conv2d(3, classes, 8), nn.Flatten())"
    )
    name = f"{tmp_path / 'conv.py'}:make"
    torch.save({"0.weight": torch.zeros(3, 3, 8, 8), "0.bias": torch.zeros(3)}, tmp_path / "conv.pt")
    with pytest.raises(BadInput, match="how many classes .* cannot be seen from its weights. List them"):
        open_suspect(tmp_path / "conv.pt", loose, model=name)


def test_statistics_and_weights_that_are_missing_are_said(found):
    plain = open_suspect(found.weights, found[2:4], model=found.name)
    low = plain.measure()
    assert low.acc < 0.8 and "with --mean 0.4914,0.4822,0.4465 --std" in " ".join(hints(plain, low))
    bare = open_suspect(None, found[2:4], model=found.name)
    assert "chance-level" in bare.measure().flags
    for refused in (lambda: scan(bare), lambda: purify("finetune", bare), lambda: teach("wrn10-1", bare)):
        with pytest.raises(Skip, match="is at chance level on .* No weights were given"):
            refused()
