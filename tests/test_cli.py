"""Every command, called as a user calls it: its exit code, what stdout and stderr hold, and what it leaves behind."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from distrust import Augment, Backdoor, fit, images, load, model, rng, save, save_set
from distrust.auditing.checkpoint import write_artefact
from distrust.files import open_weights, read_record
from distrust.measurement import make_trigger
from distrust.methods import attacks, condensers, triggers
from distrust.registry import registry

[ENTRY] = entry_points(group="console_scripts", name="distrust")
MEASURED = {"acc", "asr", "asr_all", "base", "titg", "n", "flags"}


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict:
        """The one JSON object that stdout holds."""
        assert self.out.count("\n") == 1 and self.out.endswith("\n"), self.out
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def distrust(monkeypatch, capsys, tmp_path):
    """Call the installed entry point in this process, in a folder of its own; plug-ins last for one test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(registry, "_kinds", {kind: dict(known) for kind, known in registry._kinds.items()})
    monkeypatch.setattr(registry, "files", [])
    main = ENTRY.load()

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["distrust", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Said(stop.value.code, *capsys.readouterr())

    return call


def shell(*words: object, cwd: Path) -> Said:
    """The same in a process of its own, through the script that pip installed."""
    script = Path(sys.executable).with_name("distrust")
    found = subprocess.run([script, *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=300)
    return Said(found.returncode, found.stdout, found.stderr)


class Stranger(NamedTuple):
    """What somebody else hands us: pictures in class folders, and plain checkpoints trained on them."""

    images: Path
    attacked: Path  # under "state_dict", without the layer that normalises
    control: Path
    code: Path  # my.py with a factory


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Stranger:
    home = tmp_path_factory.mktemp("stranger")
    sets = images("digits", size=8, channels=1)
    for split, part in zip(("train", "test"), sets, strict=True):
        for i, (x, y) in enumerate(zip(part.x, part.y.tolist(), strict=True)):
            folder = home / "images" / split / str(y)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x[0].numpy()).save(folder / f"{i:04}.png")
    options = {"epochs": 2, "batch_size": 64, "augment": Augment(flip=False, crop=0)}
    poisoned = attacks.badnets(sets.train, trigger="patch:white:3", target=5, rate=0.1, rng=rng("attack"))
    for name, part in (("attacked", poisoned.images), ("control", sets.train)):
        made = model("wrn10-1", classes=10, channels=1, size=8, rng=rng("stranger"))
        state = fit(made, part, rng=rng("stranger"), **options).state_dict()
        plain = {k: v for k, v in state.items() if not k.startswith("normalize.")}
        torch.save({"state_dict": plain, "epoch": 2}, home / f"{name}.pt")
    (home / "my.py").write_text(
        "from distrust import model\n\n"
        "def factory(classes, channels, size):\n"
        "    return model('wrn10-1', classes=classes, channels=channels, size=size)\n"
    )
    return Stranger(home / "images", home / "attacked.pt", home / "control.pt", home / "my.py")


def folders(root: Path, source: Path, each: int = 2) -> Path:
    """A few of the pictures, to be spoilt."""
    for split in ("train", "test"):
        for folder in (source / split).iterdir():
            (root / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:each]:
                (root / split / folder.name / file.name).write_bytes(file.read_bytes())
    return root


STUDY = """
name = "trial"
teacher = "wrn10-1"
attack = ["none", "badnets[trigger=patch:white:3,target=5,rate=0.1]"]
defense = ["none", "finetune[epochs=1]"]

[budgets.cpu]
size = 8
train = 640
test = 60
clean = 0.1
teacher = {epochs = 2, batch_size = 64, augment = {flip = false, crop = 0}}
"""


class Ran(NamedTuple):
    folder: Path
    said: Said


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Ran:
    """A study that was run once, in a process of its own, with the default store."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "trial.toml").write_text(STUDY)
    return Ran(folder, shell("run", "trial.toml", "--jobs", 1, "--report", "page.html", "--json", cwd=folder))


# What every command promises


COMMANDS = ["demo", "run", "results", "report", "status", "why"]
COMMANDS += ["measure", "purify", "distill", "scan", "list", "show", "layers", "check"]


def test_help_lists_every_command_and_each_explains_itself(distrust):
    said = distrust("--help")
    assert said.code == 0 and all(f"  {name}" in said.out for name in COMMANDS)
    for name in COMMANDS:
        said = distrust(name, "-h")
        assert said.code == 0
        for option in ("--store", "--jobs", "--json", "--seed", "--device", "--quiet"):
            assert option in said.out


@pytest.mark.parametrize(
    "words, near",
    [
        ("", ""),
        ("mesure", "measure"),
        ("list --jsn", "--json"),
        ("--json list", "--json"),
        ("show", "method"),
        ("layers wrn10-1 --size 0", "--size"),
        ("list --jobs many", "--jobs"),
        ("run trial.toml --retry --force", "exclude"),
        ("run trial.toml --only-cached --force", "exclude"),
    ],
)
def test_wrong_usage_is_code_4_and_names_what_is_near(distrust, words, near):
    said = distrust(*words.split())
    assert said.code == 4 and near in said.err
    if "--json" not in words.split():
        assert said.out == ""
    told = distrust(*words.split(), "--json")
    assert told.code == 4 and told.facts["error"] == "Usage" and near in told.facts["message"] + told.err


@pytest.mark.parametrize(
    "words, kind, message",
    [
        ("run nowhere.toml", "NotFound", "nowhere.toml"),
        (
            "measure --images digit --trigger sig --target 0 --model {code}:factory",
            "NotFound",
            "Did you mean 'digits'?",
        ),
        ("measure --images digits --trigger sig --target 0 --weights no.pt --model wrn10-1", "NotFound", "no.pt"),
        ("measure --images digits --trigger sig --target 0", "BadInput", "Type --weights FILE"),
        ("measure --images digits --trigger sig --target 0 --model wrn10-1", "BadInput", "no weights are given"),
        ("measure --images digits --trigger sig --target 0 --weights {pt}", "BadInput", "Type --model"),
        ("measure --images digits --trigger sig --target 0 --weights {pt} --model wrm10-1", "NotFound", "'wrn16-1'"),
        ("measure --images digits --trigger sig --device banana", "BadInput", "device 'banana' cannot be used"),
        ("purify nda --images digits --out o", "NotFound", "no defense 'nda'. Did you mean 'nad'?"),
        ("purify nad[bta=0] --images digits --out o", "NotFound", "Did you mean 'beta'?"),
        ("purify nad[beta=-1] --images digits --out o", "BadInput", "greater than or equal to 0"),
        ("purify nad[ --images digits --out o", "BadInput", "selector 'nad['"),
        ("distill --images digits --student wrn10-1 --out o --distiller kdd", "NotFound", "Did you mean 'kd'"),
        ("list atacks", "NotFound", "Did you mean 'attacks'"),
        ("list model", "NotFound", "Did you mean 'models'"),
        ("show badnet", "NotFound", "Did you mean 'badnets'"),
        ("show defense/nad", "NotFound", "Did you mean 'defenses'"),
        ("layers wrn10", "NotFound", "no model 'wrn10'. Did you mean 'wrn10-1'"),
        ("layers wrn11-1", "BadInput", "Take wrn10-1 or wrn16-1"),
        ("results trail", "NotFound", "no results in"),
        ("report trail", "NotFound", "no results in"),
        ("report nowhere.toml", "NotFound", "nowhere.toml"),
        ("status --store nowhere://x", "StoreError", "Give a directory"),
        ("why abc", "NotFound", "no key"),
        ("check nowhere.pt", "NotFound", "nowhere.pt"),
        ("check nowhere.toml", "NotFound", "nowhere.toml"),
        ("check nowhere", "NotFound", "no image set 'nowhere'"),
        ("list --plugin nowhere.py", "NotFound", "no plug-in file"),
    ],
)
def test_an_error_is_code_2_with_its_name_and_what_to_type(distrust, stranger, words, kind, message):
    words = words.format(pt=stranger.attacked, code=stranger.code).split()
    said = distrust(*words)
    assert said.code == 2 and said.out == "" and said.err.startswith(f"{kind}: ") and message in said.err
    told = distrust(*words, "--json")
    assert told.code == 2 and told.facts["error"] == kind and message in told.facts["message"]
    assert not Path("o").exists()


PLUGIN = '''
from torch import Generator, nn
from distrust import Skip
from distrust.data import ImageSet
from distrust.registry import defense

@defense(paper="none")
def mine(model: nn.Module, clean: ImageSet, *, rng: Generator | None = None) -> nn.Module:
    """Stop."""
    raise {raised}
'''


@pytest.mark.parametrize(
    "raised, code, kind",
    [
        ("Skip('no labels')", 3, "Skip"),
        ("ZeroDivisionError('oh')", 2, "ZeroDivisionError"),  # a crash must not look like a finding
        ("KeyboardInterrupt", 2, "Interrupted"),
    ],
)
def test_what_stops_a_method_decides_the_code(distrust, stranger, raised, code, kind):
    Path("mine.py").write_text(PLUGIN.format(raised=raised))
    said = distrust(
        "purify", "mine", "--plugin", "mine.py", "--images", stranger.images, "--weights", stranger.attacked,
        "--model", "wrn10-1", "--out", "out", "--json",
    )  # fmt: skip
    assert said.code == code and said.facts["error"] == kind and kind in said.err
    assert not Path("out").exists()


# A checkpoint that Distrust did not make


def test_measure_a_plain_state_dict_without_and_with_its_control(distrust, stranger):
    words = ["measure", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images]
    words += ["--trigger", "patch:white:3", "--target", 5, "--key", "state_dict"]
    said = distrust(*words, "--json")
    found = said.facts
    assert said.code == 1 and set(found) >= MEASURED and said.err == ""
    assert found["base"] is None and found["carried"] is None and "no-control" in found["flags"]
    assert found["acc"] > 0.7 and found["asr"] > 0.7 and found["n"] > 400 - 50 and found["target"] == 5
    found = distrust(*words, "--control", stranger.control, "--json").facts
    assert 0 <= found["base"] < 0.5 and "no-control" not in found["flags"]
    assert found["carried"] == pytest.approx(found["asr"] - found["base"])
    human = distrust(*words, "--control", stranger.control)
    assert human.code == 1 and human.out.startswith("ACC ") and "carried" in human.out and "one-seed:" in human.out


def test_the_control_measured_as_a_suspect_is_no_finding(distrust, stranger):
    words = ["--weights", stranger.control, "--model", "wrn10-1", "--images", stranger.images]
    said = distrust("measure", *words, "--trigger", "patch:white:2", "--target", 5, "--control", stranger.control)
    assert said.code == 0 and "carried 0.0" in said.out


def test_measure_the_model_of_a_strangers_file(distrust, stranger):
    words = ["measure", "--images", stranger.images, "--model", f"{stranger.code}:factory", "--trigger", "sig"]
    found = distrust(*words, "--weights", stranger.attacked, "--target", 5, "--json").facts
    assert found["acc"] > 0.7 and set(found) >= MEASURED
    untrained = distrust(*words, "--target", 5, "--json").facts
    assert untrained["acc"] < 0.5 and untrained["model"] == f"{stranger.code}:factory"


def test_every_way_to_name_a_trigger(distrust, stranger, tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "key.png")
    saved = Backdoor(triggers.patch("white", size=3), target=5).save(tmp_path / "trigger.json")
    words = ["measure", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images, "--json"]
    by_name = distrust(*words, "--trigger", "patch:white:3", "--target", 5).facts
    by_file = distrust(*words, "--trigger", saved).facts
    assert by_file["asr"] == by_name["asr"] and by_file["target"] == 5
    assert distrust(*words, "--trigger", saved, "--target", 4).facts["target"] == 4
    for text in ("blend:key.png", "blend:key.png:0.5", "sig", "sig[delta=40]"):
        assert distrust(*words, "--trigger", text, "--target", 5).facts["asr"] != by_name["asr"]
    as_published = Backdoor(make_trigger("sig"), target=5, as_published=True).save(tmp_path / "off.json")
    assert "off-range-trigger" in distrust(*words, "--trigger", as_published).facts["flags"]


@pytest.mark.parametrize(
    "words, message",
    [
        ("--trigger patch:white:3", "leads to which class? Type --target 0..9"),
        ("--trigger patch:white:3 --target 10", "target=10 is no class; there are 10: 0..9"),
        ("--trigger patch:white:3 --target -1", "target=-1 is no class"),
        ("--trigger patch:white:30 --target 5", "does not fit on images of 8×8"),
        ("--trigger patch:pink --target 5", "no pattern 'pink'"),
        ("--trigger pach:white --target 5", "Did you mean 'patch'"),
        ("--trigger blend:no.png --target 5", "no picture no.png"),
        ("--trigger no.json", "no trigger file no.json"),
        ("--trigger sig --target 5 --size 0", "size of 1 or more"),
        ("--trigger sig --target 5 --key model", "no key in attacked.pt 'model'"),
        ("--trigger sig --target 5 --control no.pt", "no weights file no.pt"),
    ],
)
def test_measure_says_what_is_wrong_with_trigger_target_or_file(distrust, stranger, words, message):
    said = distrust(
        "measure", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images, *words.split()
    )
    assert said.code == 2 and said.out == "" and message in said.err


def test_a_checkpoint_of_another_architecture_is_answered_by_the_difference(distrust, stranger, tmp_path):
    words = ["measure", "--weights", stranger.attacked, "--images", stranger.images, "--trigger", "sig", "--target", 5]
    wider = distrust(*words, "--model", "wrn10-2")
    assert (
        wider.code == 2
        and "is not a wrn10-2:" in wider.err
        and "conv1.weight [16, 16, 3, 3], not [32, 16, 3, 3]" in wider.err
    )
    deeper = distrust(*words, "--model", "wrn16-1")
    assert deeper.code == 2 and "missing: block1.layer.1.bn1.weight" in deeper.err
    words[words.index(stranger.images)] = "digits"  # three channels, not one
    coloured = distrust(*words, "--model", "wrn10-1")
    assert coloured.code == 2 and "conv1.weight [16, 1, 3, 3], not [16, 3, 3, 3]" in coloured.err


def test_images_that_do_not_fit_the_model_are_refused(distrust, stranger, tmp_path):
    ours = write_artefact(tmp_path / "ours", model("wrn10-1", classes=10, channels=3, size=8), (), {})
    said = distrust("measure", "--weights", ours, "--images", stranger.images, "--trigger", "sig", "--target", 5)
    assert said.code == 2 and "takes 3 channels, the images have 1" in said.err
    Path("flat.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
    )
    words = ["measure", "--model", "flat.py:net", "--images", stranger.images, "--trigger", "sig", "--target", 5]
    assert distrust(*words).code in (0, 1)
    said = distrust(*words, "--size", 12)
    assert said.code == 2 and "1×12×12" in said.err


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_an_unsafe_file_is_an_error_to_measure_and_a_finding_to_check(distrust, stranger):
    torch.save({"state_dict": Evil()}, "evil.pt")
    said = distrust(
        "measure", "--weights", "evil.pt", "--model", "wrn10-1", "--images", stranger.images, "--trigger", "sig"
    )
    assert said.code == 2 and said.err.startswith("UnsafeFile: evil.pt needs") and "system" in said.err
    said = distrust("check", "evil.pt")
    assert said.code == 1 and said.out.startswith("UnsafeFile: ") and said.err == ""
    told = distrust("check", "evil.pt", "--json")
    assert told.code == 1 and told.facts["safe"] is False and "system" in told.facts["reason"]
    assert not Path("pwned").exists()


def test_a_file_does_not_choose_code_to_run(distrust, stranger, tmp_path):
    Path("trap.py").write_text("open('pwned', 'w')")
    spec = {"name": "trap.py:factory", "classes": 10, "channels": 1, "size": 8}
    save_file({"w": torch.zeros(1)}, "x.safetensors", {"distrust": json.dumps({"spec": spec})})
    said = distrust("measure", "--weights", "x.safetensors", "--images", stranger.images, "--trigger", "sig")
    assert said.code == 2 and "Type --model trap.py:factory" in said.err and not Path("pwned").exists()


def test_one_truncated_picture_is_named_and_nothing_is_written(distrust, stranger, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "cache"))
    spoilt = folders(tmp_path / "spoilt", stranger.images)
    file = sorted((spoilt / "test" / "7").iterdir())[1]
    file.write_bytes(file.read_bytes()[:60])
    weights = ["--weights", stranger.attacked, "--model", "wrn10-1", "--images", spoilt]
    for words in (
        ["measure", *weights, "--trigger", "sig", "--target", 5],
        ["purify", "finetune[epochs=1]", *weights, "--out", "out"],
        ["distill", "--student", "wrn10-1", "--epochs", 1, *weights, "--out", "out"],
        ["check", spoilt],
    ):
        said = distrust(*words)
        assert said.code == 2 and said.out == "" and f"test/7/{file.name}" in said.err and "cannot be read" in said.err
    assert not Path("out").exists() and not (tmp_path / "cache").exists()


# purify and distill


def test_purify_measures_before_and_after_and_writes_a_model_that_opens_by_itself(distrust, stranger):
    words = ["purify", "nad[epochs=1,teacher_epochs=1,lr=0.05]", "--weights", stranger.attacked, "--model", "wrn10-1"]
    words += ["--images", stranger.images, "--fraction", 0.05, "--out", "clean"]
    said = distrust(*words, "--trigger", "patch:white:3", "--target", 5, "--json")
    found = said.facts
    assert said.code == 0 and set(found["before"]) >= MEASURED and set(found["after"]) >= MEASURED
    assert found["before"]["asr"] > 0.7 and found["clean"] == round(0.05 * 1347)
    assert "on 67 clean images" in said.err
    assert sorted(p.name for p in Path("clean").iterdir()) == ["README.md", "model.safetensors", "record.json"]
    record = json.loads(Path("clean/record.json").read_text())
    assert record["options"]["lr"] == 0.05 and record["after"] == found["after"] and record["taint"] == []
    again = distrust(
        "measure", "--weights", "clean/model.safetensors", "--images", stranger.images,
        "--trigger", "patch:white:3", "--target", 5, "--json",
    )  # fmt: skip
    assert again.facts["asr"] == found["after"]["asr"] and again.facts["acc"] == found["after"]["acc"]
    assert "wrn10-1" in distrust("check", "clean/model.safetensors").out


def test_purify_without_a_trigger_measures_accuracy_alone_and_can_be_quiet(distrust, stranger):
    words = ["purify", "finetune[epochs=1]", "--weights", stranger.attacked, "--model", "wrn10-1"]
    words += ["--images", stranger.images, "--quiet"]
    said = distrust(*words, "--out", "a")
    assert said.code == 0 and said.err == "" and "ASR" not in said.out.partition("a/model")[0]
    assert said.out.startswith("before: ACC") and "\nafter:  ACC" in said.out and "a/model.safetensors" in said.out
    distrust(*words, "--out", "b")
    distrust(*words, "--out", "c", "--seed", 1)
    one, same, other = (Path(f"{name}/model.safetensors").read_bytes() for name in "abc")
    assert one == same != other


def test_scan_asks_a_detector_about_a_set_and_judges_by_threshold_or_null(distrust, tmp_path):
    made = condensers.random(images("digits")[0], images_per_class=2, rng=rng(0))
    save_set(made, tmp_path / "set.safetensors")
    torch.save({"data": [[3 * made.x - 1, made.y]]}, tmp_path / "res.pt")
    probe = "patch_probe[network=convnet2-w4,networks=1,epochs=2,size=3,stride=6,images=8{}]".format
    words = ["scan", tmp_path / "set.safetensors", "--detector"]
    said = distrust(*words, probe(""))
    assert said.code == 3 and "Nothing to compare it with: type --threshold" in said.out
    found = distrust(*words, probe(""), "--threshold", -9, "--json")
    assert found.code == 1 and found.facts["finding"] and len(found.facts["scores"]) == 10
    assert distrust(*words, probe(""), "--threshold", 9).code == 0
    with_null = distrust(*words, probe(",permutations=3"), "--json")
    assert with_null.code == int(with_null.facts["p"] == 0)
    strange = distrust("scan", tmp_path / "res.pt", "--detector", probe(""))
    assert strange.code == 2 and "Type units='normalised'" in strange.err
    opened = distrust("scan", tmp_path / "res.pt", "--detector", probe(""), "--units", "pixels", "--threshold", 9)
    assert opened.code == 0 and "Its pixels leave 0..1." in opened.out
    wrong = distrust(*words, "trigger_search")
    assert wrong.code == 2 and "trigger_search shows clean images to the classifier. Type --images" in wrong.err


def test_scan_asks_a_detector_about_a_model_on_clean_images(distrust, tmp_path):
    train, _ = images("digits")
    save(model("convnet2-w4", train, head=False), tmp_path / "encoder.safetensors")
    save(model("convnet2-w4", train), tmp_path / "classifier.safetensors")
    on_digits = ["--images", "digits", "--detector"]
    encoder, classifier = (["scan", tmp_path / f"{kind}.safetensors", *on_digits] for kind in ("encoder", "classifier"))
    said = distrust(*encoder, "decree[steps=2]")
    assert said.code == 3 and "decree: score" in said.out and "classes" not in said.out
    assert distrust(*encoder, "decree[steps=2]", "--threshold", -1).code == 1
    found = distrust(*classifier, "trigger_search[steps=2]", "--threshold", 1e9, "--json")
    assert found.code == 0 and len(found.facts["scores"]) == 10 and not found.facts["finding"]
    for words, answer in (
        ([*encoder, "patch_probe"], "Leave --images"),
        ([*classifier, "decree"], "is a classifier of 10 classes"),
        (["scan", tmp_path / "encoder.safetensors", "--model", "wrn16-1"], "decree shows clean images to the encoder"),
        (["scan", tmp_path / "none.safetensors", "--images", "digits"], "no weights file"),
    ):
        wrong = distrust(*words)
        assert wrong.code == 2 and answer in wrong.err


def test_purify_cleans_an_encoder_with_a_folder_of_images_without_labels(distrust, stranger, tmp_path):
    train, _ = images("digits")
    save(model("convnet2-w4", train, head=False), tmp_path / "encoder.safetensors")
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for i, x in enumerate(train.x[:60].permute(0, 2, 3, 1).numpy()):
        Image.fromarray(x).save(folder / f"{i}.png")
    mimic = "mimic[epochs=1,batch_size=16,mine_epochs=1,flip=false]"
    words = ["purify", mimic, "--weights", tmp_path / "encoder.safetensors", "--fraction", 0.5]
    said = distrust(*words, "--images", folder, "--out", "cleaned", "--json")
    assert said.code == 0 and "before" not in said.facts, said.err
    spec = load("cleaned/model.safetensors").spec
    assert spec == {"name": "convnet2-w4", "head": False, "channels": 3, "size": 16}
    labelled = distrust(*words, "--images", "digits", "--out", "measured", "--trigger", "patch:white:3", "--target", 5)
    assert labelled.code == 0 and "ASR" in labelled.out, "a linear head is measured where there are labels"
    wrong = distrust("purify", mimic, "--weights", stranger.attacked, "--images", stranger.images, "--out", "x")
    assert wrong.code == 2 and not Path("x").exists()
    words = ["measure", "--weights", tmp_path / "encoder.safetensors", "--images", "digits"]
    classifier = distrust(*words, "--trigger", "sig", "--target", 1)
    assert classifier.code == 2 and "is an encoder, which returns features" in classifier.err


def test_a_taken_out_is_refused_before_any_work(distrust, stranger):
    Path("taken").mkdir()
    Path("taken/mine.txt").write_text("mine")
    for words in (["purify", "nad"], ["distill", "--student", "wrn10-1"]):
        said = distrust(*words, "--images", "nowhere", "--weights", "nowhere.pt", "--out", "taken")
        assert said.code == 2 and "taken exists already and is not empty" in said.err
    assert [p.name for p in Path("taken").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "fraction, message", [(0.0001, "holds no image; ask for a larger share"), (0, "outside"), (1.5, "clean=1.5")]
)
def test_a_share_that_leaves_nothing_is_refused(distrust, stranger, fraction, message):
    said = distrust(
        "purify", "finetune", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images,
        "--fraction", fraction, "--out", "out",
    )  # fmt: skip
    assert said.code == 2 and message in said.err and not Path("out").exists()


def test_a_student_of_a_tainted_teacher_is_tainted_and_its_card_says_so(distrust, stranger, tmp_path):
    teacher = model("wrn10-1", classes=10, channels=1, size=8)
    teacher.load_state_dict({**teacher.state_dict(), **open_weights(stranger.attacked)})
    weights = write_artefact(tmp_path / "teacher", teacher, ("badnets",), {})
    assert weights.name == "model.tainted-badnets.safetensors"
    words = ["--weights", weights, "--images", stranger.images, "--epochs", 1, "--out", "student"]
    words += ["--trigger", "patch:white:3", "--target", 5]
    said = distrust("distill", "--student", "wrn10-1", "--distiller", "kd[temperature=2]", *words, "--json")
    found = said.facts
    assert said.code in (0, 1) and found["weights"] == "student/model.tainted-badnets.safetensors"
    assert found["teacher_measured"]["asr"] > 0.7 and set(found["student_measured"]) >= MEASURED
    assert said.code == int(found["student_measured"]["titg"] >= 0.10)
    assert read_record(found["weights"])["taint"] == ["badnets"]
    assert "**Tainted.** An attack is among this model's ancestors (badnets)" in Path("student/README.md").read_text()
    said = distrust("check", found["weights"])
    assert said.code == 0 and "TAINTED by badnets" in said.out
    purified = distrust("purify", "none", *words[:4], "--weights", found["weights"], "--out", "purified")
    assert purified.code == 0 and "purified/model.tainted-badnets.safetensors" in purified.out


def test_distill_tells_of_teacher_and_student(distrust, stranger):
    said = distrust(
        "distill", "--student", "wrn10-1", "--distiller", "at", "--weights", stranger.control, "--model", "wrn10-1",
        "--images", stranger.images, "--epochs", 1, "--out", "student", "--quiet",
    )  # fmt: skip
    assert said.code == 0 and said.err == "" and said.out.startswith("teacher: ACC") and "\nstudent: ACC" in said.out
    assert "No attack is known" in Path("student/README.md").read_text()


# list, show, layers, check


def test_list_and_show_know_every_method(distrust):
    found = distrust("list", "--json").facts
    assert {"triggers", "attacks", "distillers", "defenses", "models"} <= set(found)
    for kind in set(found) - {"models"}:
        assert set(distrust("list", kind, "--json").facts[kind]) == set(found[kind])
        for name, summary in found[kind].items():
            card = distrust("show", f"{kind}/{name}", "--json").facts
            assert (card["name"], card["kind"], card["summary"]) == (name, kind, summary) and card["differs"]
            assert all(option["about"] and option["bounds"] for option in card["options"])
            shown = distrust("show", f"{kind}/{name}")
            assert shown.code == 0 and card["paper"] in shown.out
    said = distrust("list")
    assert said.code == 0 and "attacks:\n  adba " in said.out and "  wrn{depth}-{width}" in said.out
    assert "Enters at place 1 (training data)" in distrust("show", "badnets").out
    assert distrust("show", "blend", "--json").facts["kind"] == "triggers"


def test_a_kind_is_listed_with_its_papers(distrust):
    said = distrust("list", "distillers").out
    assert said.count("\n") >= 23 and "arXiv 1503.02531" in said and "arXiv 1904.01866" in said
    assert len(distrust("list", "distillers", "--json").facts["distillers"]) == 11


def test_a_plugin_is_listed_and_shown(distrust):
    Path("mine.py").write_text(PLUGIN.format(raised="Skip('no')"))
    assert "mine" in distrust("list", "defenses", "--plugin", "mine.py", "--json").facts["defenses"]
    assert distrust("show", "mine", "--plugin", "mine.py").out.startswith("mine (defenses): Stop.")
    assert distrust("check", "mine.py", "--json").facts == {
        "file": "mine.py", "safe": True, "is": "method", "name": "mine", "text": "a method: mine (parsed, not run)"
    }  # fmt: skip


def test_layers_shows_paths_shapes_and_group_ends(distrust, stranger):
    found = distrust("layers", "wrn10-1", "--size", 8, "--channels", 1, "--classes", 5, "--json").facts
    rows = {row["path"]: row for row in found["layers"]}
    assert [p for p, row in rows.items() if row["group_end"]] == ["block1", "block2", "block3"]
    assert rows["block3"]["shape"] == [64, 2, 2] and rows["fc"]["shape"] == [5] and found["parameters"] > 70_000
    said = distrust("layers", f"{stranger.code}:factory")
    assert said.code == 0 and "● block3" in said.out and "64×8×8" in said.out


def test_check_says_what_a_file_is(distrust, stranger, tmp_path):
    Path("trial.toml").write_text(STUDY)
    Path("bad.toml").write_text(STUDY.replace("finetune", "finetuna"))
    Path("torn.pt").write_bytes(stranger.attacked.read_bytes()[:-400])
    Path("two.py").write_text("x = 1")
    saved = Backdoor(triggers.patch("white", size=3), target=5).save(tmp_path / "trigger.json")
    kinds = {"trial.toml": "study", saved: "trigger", stranger.attacked: "weights", stranger.images: "images"}
    for file, kind in kinds.items():
        told = distrust("check", file, "--json")
        assert told.code == 0 and told.facts["is"] == kind and told.facts["safe"] is True
        assert distrust("check", file).out == told.facts["text"] + "\n"
    assert distrust("check", "trial.toml", "--json").facts["cells"] == 4
    assert "1347 train, 450 test, 1×8×8, 10 classes" in distrust("check", stranger.images).out
    for file, message in {"bad.toml": "'finetune'", "torn.pt": "damaged", "two.py": "0 marked methods"}.items():
        said = distrust("check", file)
        assert said.code == 2 and message in said.err


# Studies


def test_run_prints_one_object_and_leaves_cells_and_a_report(ran):
    said = ran.said
    assert said.code == 0, said.err
    found = said.facts
    assert (found["study"], found["cells"], found["failed"], found["skipped"]) == ("trial", 4, 0, 0)
    assert found["ran"] == found["stages"] == found["to_run"] and found["cached"] == 0
    assert "[1/" in said.err and "done teacher" in said.err and "none → none" not in found["answer"]
    cells = [json.loads(p.read_text()) for p in (ran.folder / found["results"]).glob("*.json")]
    assert len(cells) == 4 and {c["state"] for c in cells} == {"done"}
    attacked = [c for c in cells if c["attack"] != "none"]
    assert all(c["base"] is not None and c["reproduce"].startswith("distrust run trial.toml") for c in attacked)
    page = (ran.folder / "page.html").read_text()
    assert "distrust run trial.toml --jobs 1 --report page.html --json" in page and "data:image/png" in page


def test_a_second_run_has_nothing_to_do(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    for mode in ((), ("--only-cached",), ("--retry",)):
        said = distrust("run", "trial.toml", "--jobs", 1, "--json", *mode)
        found = said.facts
        assert said.code == 0 and found["ran"] == found["to_run"] == 0 and found["cached"] == found["stages"]
        assert "0 to run, about 0 s" in said.err
    said = distrust("run", "trial.toml", "--jobs", 1, "--quiet")
    assert said.code == 0 and said.err == "" and said.out.startswith("attack") and "finetune" in said.out


def test_a_dry_run_tells_plan_and_cost_and_does_nothing(distrust):
    Path("trial.toml").write_text(STUDY)
    said = distrust("run", "trial.toml", "--dry-run", "--quiet")
    assert said.code == 0 and said.err == "" and "trial (cpu): 4 cells" in said.out and "to run, about" in said.out
    found = distrust("run", "trial.toml", "--dry-run", "--json", "--seeds", 2).facts
    assert found["cells"] == 8 and found["to_run"] == found["stages"]
    assert not Path("runs").exists()
    said = distrust("run", "trial.toml", "--only-cached", "--json")
    assert said.code == 3 and said.facts["ran"] == 0, "nothing is there to be judged"
    assert "not run yet" in distrust("run", "trial.toml", "--only-cached").out


def test_only_some_cells(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    ids = sorted(path.stem for path in Path("runs/results/trial").glob("*.json"))
    one = [name for name in ids if "badnets" in name][0]
    found = distrust("run", "trial.toml", "--jobs", 1, "--only", one, "--results", "one", "--json").facts
    assert found["cells"] == 1 and [path.stem for path in Path("one").glob("*.json")] == [one]
    expected = distrust("run", "trial.toml", "--jobs", 1, "--only", one, "--expect", "runs/results/trial", "--json")
    assert expected.code == 0 and expected.facts["differences"] == []
    said = distrust("run", "trial.toml", "--only", "nothing")
    assert said.code == 2 and "no cell of trial 'nothing'" in said.err


def test_expected_results_that_differ_are_a_finding(distrust, ran, monkeypatch, tmp_path):
    monkeypatch.chdir(ran.folder)
    words = ["run", "trial.toml", "--jobs", 1, "--expect"]
    assert distrust(*words, "runs/results/trial").code == 0
    for path in Path("runs/results/trial").glob("*.json"):
        cell = json.loads(path.read_text())
        (tmp_path / path.name).write_text(json.dumps({**cell, "acc": cell["acc"] / 2}))
    said = distrust(*words, tmp_path, "--json")
    assert said.code == 1 and len(said.facts["differences"]) == 4 and "acc" in said.facts["differences"][0]
    assert "expected" in distrust(*words, tmp_path).out
    assert distrust(*words, tmp_path / "nowhere").code == 2


def test_unknown_budgets_methods_and_bad_studies_stop_before_work(distrust):
    Path("trial.toml").write_text(STUDY)
    said = distrust("run", "trial.toml", "--budget", "cpuu")
    assert said.code == 2 and "Did you mean 'cpu'?" in said.err
    for old, new, message in (
        ("badnets", "badnet", "Did you mean 'badnets'"),
        ("rate=0.1", "rate=2", "less than or equal to 1"),
        ("wrn10-1", "wrn11-1", "Take wrn10-1"),
        ('name = "trial"', "name =", "is not TOML"),
        ("size = 8", "sise = 8", "sise"),
    ):
        Path("bad.toml").write_text(STUDY.replace(old, new))
        said = distrust("run", "bad.toml")
        assert said.code == 2 and message in said.err and said.out == ""
    assert not Path("runs").exists()


def test_failed_stages_are_told_and_retried(distrust):
    Path("mine.py").write_text(PLUGIN.format(raised="ValueError('broken')"))
    Path("trial.toml").write_text(STUDY.replace("finetune[epochs=1]", "mine"))
    words = ["run", "trial.toml", "--plugin", "mine.py", "--jobs", 1]
    first = distrust(*words, "--json")
    assert first.code == 2 and first.facts["failed"] > 0 and "failed defense mine" in first.err
    assert "ValueError: broken" in distrust(*words, "--quiet").out
    assert distrust(*words, "--json").facts["ran"] == 0
    dry = distrust(*words, "--retry", "--dry-run", "--json").facts
    assert 0 < dry["to_run"] < dry["stages"]
    again = distrust(*words, "--retry", "--json").facts
    assert 0 < again["ran"] <= dry["to_run"]
    status = distrust("status", "--json").facts
    assert status["by_kind"]["defense failed"] == 2 and "ValueError: broken" in distrust("status").out
    key = next(iter(status["failed"]))
    assert "ValueError: broken" in distrust("why", key).out


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(distrust, stranger, monkeypatch):
    Path("mine.py").write_text(PLUGIN.format(raised="Skip('not here')"))
    Path("trial.toml").write_text(STUDY.replace("finetune[epochs=1]", "mine"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    said = distrust("run", "trial.toml", "--plugin", "mine.py", "--jobs", 1, "--json")
    assert said.code == 0 and said.facts["skipped"] > 0 and "[1/" not in said.err
    assert "stages" in said.err and "Skip: not here" in said.err
    words = ["--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images, "--out", "out"]
    said = distrust("purify", "finetune[epochs=1]", *words)
    assert said.code == 0 and "finetune[epochs=1]: loss" in said.err


def test_a_remote_store_keeps_stages_and_the_cells_are_here(distrust):
    Path("small.toml").write_text(
        'name = "small"\nteacher = "wrn10-1"\n[budgets.cpu]\nsize = 8\ntrain = 64\ntest = 20\n'
    )
    words = ["small.toml", "--store", "memory://cli", "--jobs", 1, "--json"]
    found = distrust("run", *words).facts
    assert (
        found["ran"] == 2 and found["results"] == "results/small" and len(list(Path(found["results"]).iterdir())) == 1
    )
    assert distrust("run", *words).facts["cached"] == 2 and not Path("runs").exists()
    assert len(distrust("results", "small", "--json").facts["cells"]) == 1
    assert distrust("status", "--store", "memory://cli", "--json").facts["by_kind"] == {
        "predict done": 1,
        "teacher done": 1,
    }


def test_results_by_name_and_by_folder(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    by_name = distrust("results", "trial", "--json").facts
    by_folder = distrust("results", "runs/results/trial", "--json").facts
    assert by_name == by_folder and len(by_name["cells"]) == 4 and by_name["answer"]
    said = distrust("results", "trial")
    assert said.code == 0 and said.out.splitlines()[0].split()[:2] == ["attack", "distiller"] and "finetune" in said.out
    said = distrust("results", "trail")
    assert said.code == 2 and "Did you mean 'runs/results/trial'?" in said.err
    assert distrust("results", "trial", "--store", "elsewhere").code == 2


def test_a_report_from_a_study_file_a_folder_and_a_name(distrust, ran, monkeypatch, tmp_path):
    monkeypatch.chdir(ran.folder)
    for i, source in enumerate(("trial.toml", "runs/results/trial", "trial")):
        out = tmp_path / f"{i}.html"
        told = distrust("report", source, "--out", out, "--json")
        assert told.code == 0 and told.facts == {"report": str(out), "cells": 4}
        page = out.read_text()
        assert "trial" in page and "data:image/png" in page and f"distrust report {source}" in page
    monkeypatch.chdir(tmp_path)
    said = distrust("report", ran.folder / "runs/results/trial")  # neither the study nor the store is here
    assert (
        said.code == 0
        and said.out == "report.html: 4 cells\n"
        and "data:image/png" not in Path("report.html").read_text()
    )


def test_a_report_of_what_never_ran_says_so(distrust):
    Path("trial.toml").write_text(STUDY)
    assert distrust("report", "trial.toml", "--out", "r.html").code == 0
    assert "Nothing was measured" in Path("r.html").read_text()


def test_status_and_why(distrust, ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    found = distrust("status", "--json").facts
    assert (
        found["stages"] == ran.said.facts["stages"] and found["failed"] == {} and found["by_kind"]["teacher done"] == 2
    )
    assert f"runs: {found['stages']} stages" in distrust("status").out
    assert distrust("status", "--store", "empty", "--json").facts["stages"] == 0
    records = {p.parent.name: json.loads(p.read_text()) for p in Path("runs").glob("*/stage.json")}
    key = next(
        k for k, r in records.items() if r["kind"] == "predict" and "defense" in records[r["parents"][0]]["kind"]
    )
    told = distrust("why", key[:10], "--json").facts
    assert told["key"] == key and told["recipe"] == records[key]["recipe"]
    said = distrust("why", key[:10])
    assert said.code == 0 and said.out.startswith(key) and "← " in said.out and "teacher wrn10-1 on" in said.out
    wrong = distrust("why", ("0" if key[0] != "0" else "1") + key[1:])
    assert wrong.code == 2 and f"Did you mean '{key}'?" in wrong.err
    assert distrust("why", "").code == 2 and "Give more of it" in distrust("why", "").err


# Processes of their own


def test_the_script_answers_help_at_once_and_passes_codes_on(tmp_path, stranger):
    said = shell("--help", cwd=tmp_path)
    assert said.code == 0 and "purify" in said.out and said.err == ""
    assert shell("purify", cwd=tmp_path).code == 4
    said = shell(
        "measure", "--weights", stranger.attacked, "--model", "wrn10-1", "--images", stranger.images,
        "--trigger", "patch:white:3", "--target", 5, "--json", cwd=tmp_path,
    )  # fmt: skip
    assert said.code == 1 and said.facts["asr"] > 0.7 and said.err == ""
    said = shell("show", "nda", "--json", cwd=tmp_path)
    assert said.code == 2 and said.facts["error"] == "NotFound" and "Did you mean 'nad'" in said.err


def test_the_demo_answers_the_question_and_writes_a_report(distrust):
    said = distrust("demo", "--jobs", 1, "--quiet", "--json")
    found = said.facts
    assert said.code == 0 and said.err == "" and found["failed"] == 0
    assert found["answer"].startswith("From a backdoored teacher, no student showed the badnets backdoor;")
    page = Path("report.html").read_text()
    assert "distrust demo" in page and len(page) < 2_000_000
    assert len(list(Path("runs/results/demo").glob("*.json"))) == found["cells"] == 5
    assert distrust("demo", "--quiet", "--json").facts["ran"] == 0
    assert distrust("results", "demo", "--json").facts["answer"].startswith("From the badnets")
