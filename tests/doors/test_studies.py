"""Studies on what a user brings: any path, and what cannot be done is said before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .bring import refused

STUDY = """
name = "trial"
images = [{images}]
teacher = "{teacher}"
attack = [{attack}]
{more}

[budgets.cpu]
train = 100
test = 60
clean = 0.2
teacher = {{epochs = 1, batch_size = 50, augment = {{flip = false, crop = 0}}}}
student = {{epochs = 1, batch_size = 50}}
"""
MARKED = "'badnets[trigger=patch:white:2,target=1,rate=0.2]'"


def study(images="'few'", attack="'none'", more="", teacher="convnet2-w4", name="s.toml"):
    Path(name).write_text(STUDY.format(images=images, attack=attack, more=more, teacher=teacher))
    return name


def arrays(path, classes=3, least=None):
    """A set of noise in three classes, of which the last may have few images."""
    y = np.arange(150) % classes
    y = y if least is None else np.concatenate([y[y < classes - 1], [classes - 1] * least])
    draw = np.random.default_rng(0)
    x, test = (draw.integers(0, 256, (n, 3, 8, 8), np.uint8) for n in (len(y), 60))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x_train=x, y_train=y, x_test=test, y_test=np.arange(60) % classes)
    return path


def ran(distrust, *words):
    said = distrust("run", "s.toml", "--jobs", 1, *words, "--json")
    assert said.code == 0 and said.facts["failed"] == 0, said
    return said.facts


PLAIN = ["bilder/zwölf Bilder, neu.npz", "ネコ.npz", "a b.npz", "a=b.npz", "it's.npz"]


@pytest.mark.parametrize("path", PLAIN)
def test_a_path_stands_in_a_study_as_it_is(path, distrust):
    arrays(path)
    study(images=f'"{path}"')
    assert ran(distrust)["cells"] == 1


@pytest.mark.parametrize("path", ["data[v1].npz", "x[1]/y[2].npz", "x>y.npz", "[a.npz", "a>b[c].npz"])
def test_a_path_with_brackets_or_an_arrow_stands_in_quotes(path, distrust):
    arrays(path)
    study(images=f"'\"{path}\"'")
    assert ran(distrust)["ran"] > 0
    assert ran(distrust)["ran"] == 0, "the same stages again"


@pytest.mark.parametrize("path", ["data[v1].npz", "x>y.npz", "x[1]/y[2].npz"])
def test_the_quotes_that_a_message_advises_are_right(path, distrust):
    arrays(path)
    study(images=f"'{path}'")
    for words in (["run", "s.toml"], ["check", "s.toml"]):
        message = refused(distrust(*words), "quotes: ")
    advised = message.rpartition("quotes: ")[2].strip().removesuffix(".")
    study(images=f"'{advised}'")
    assert ran(distrust)["cells"] == 1


def test_a_pair_of_paths_with_arrows_moves_a_teacher(distrust):
    arrays("a>b.npz"), arrays("c>d.npz")
    study(images="""'"a>b.npz">"c>d.npz"'""", more='distiller = "kd"')
    assert ran(distrust)["cells"] == 1


UNFIT = {  # an attack → what is said of it on images of 8×8 in 10 classes
    "a trigger that is too large": ("'badnets[trigger=patch:white:24,target=1]'", ["24×24", "8×8"]),
    "an inset that is too wide": ("'badnets[trigger=patch:white:3,inset=6,target=1]'", ["inset 6", "8×8"]),
    "a class that there is not": ("'badnets[target=10]'", ["target=10 is no class", "0..9"]),
    "a pattern that there is not": ("'badnets[trigger=patch:pink,target=1]'", ["no pattern 'pink'"]),
    "a target of an attack on teachers": ("'none', 'cheatkd[target=12]'", ["target=12 is no class"]),
}


@pytest.mark.parametrize("situation", UNFIT)
@pytest.mark.parametrize("how", [["--dry-run"], []])
def test_an_attack_that_cannot_be_is_said_before_anything_is_trained(situation, how, distrust):
    attack, words = UNFIT[situation]
    study(attack=attack, more='distiller = "kd"')
    refused(distrust("run", "s.toml", "--jobs", 1, *how), *words)
    assert not list(Path("runs").rglob("record.json"))


def test_what_fits_is_planned_without_being_run(distrust):
    study(attack=MARKED)
    said = distrust("run", "s.toml", "--dry-run")
    assert said.code == 0 and said.err == "" and "to run" in said.out
    study(images="'nowhere'", attack=MARKED)
    refused(distrust("run", "s.toml", "--dry-run"), "no image set 'nowhere'")


@pytest.mark.parametrize("condenser", ["random[images_per_class=10]", "herding[images_per_class=10]"])
def test_more_images_than_a_class_has_are_named(condenser, distrust):
    arrays("uneven.npz", least=6)
    study(images="'uneven.npz'", more=f'condenser = "{condenser}"')
    said = distrust("run", "s.toml", "--jobs", 1)
    assert said.code == 2 and "2 (6). Ask for fewer" in said.out + said.err, said


TIED = '''
from torch import nn


class Tied(nn.Module):
    """A block under two names."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU())
        self.fc = nn.Linear(16, classes)
        self.again = self.body

    def forward(self, x):
        return self.fc(self.body(x))
'''


def test_a_block_under_two_names_is_stored_and_read_again(distrust):
    Path("net.py").write_text(TIED)
    study(attack=MARKED, teacher="net.py:Tied", more='defense = ["none", "finetune[epochs=1]"]')
    assert ran(distrust, "--allow-code", "net.py")["cells"] == 2


@pytest.mark.slow
def test_two_runs_on_one_store_at_once_agree(distrust):
    study(attack=MARKED)
    words = [sys.executable, "-c", "import distrust as dt; dt.run('s.toml', jobs=1)"]
    runs = [subprocess.Popen(words) for _ in range(2)]
    assert [run.wait(300) for run in runs] == [0, 0]
    assert ran(distrust)["ran"] == 0, "all that a third needs is there"


def test_a_model_at_chance_level_answers_no_question(distrust):
    arrays("noise.npz")
    study(images="'noise.npz'", attack=MARKED, more='defense = ["none", "finetune[epochs=1]"]')
    facts = ran(distrust)
    said = distrust("results", facts["results"], "--json", "--cells")
    assert all("chance-level" in cell["flags"] for cell in said.facts["cells"]), said.facts["cells"]
    assert facts["answer"].startswith("No badnets number can be believed")
