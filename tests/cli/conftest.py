"""The command line, a stranger's files, and a study that ran."""

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from distrust import Augment, fit, images, model, rng
from distrust.methods import attacks
from distrust.registry import registry

from .said import STUDY, Said, shell

[ENTRY] = entry_points(group="console_scripts", name="distrust")


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


class Ran(NamedTuple):
    folder: Path
    said: Said


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Ran:
    """A study that was run once, in a process of its own, with the default store."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "trial.toml").write_text(STUDY)
    return Ran(folder, shell("run", "trial.toml", "--jobs", 1, "--report", "page.html", "--json", cwd=folder))
