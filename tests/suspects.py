"""A stranger's network, trained on normalised images, and the file that its owner saved."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from tests.training_fixture import images

from distrust import Backdoor, ImageSet, fit, model, rng
from distrust.data import PLAIN
from distrust.data.sources.published import STATISTICS
from distrust.methods import attacks, triggers

MEAN, STD = STATISTICS["cifar10"]
CODE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(8 * 16, classes)

    def forward(self, x):
        return self.fc(self.body(x))


def make(classes):
    return Net(classes)
"""


class Owner(NamedTuple):
    """What somebody hands over, with what was done to it."""

    weights: Path  # {"state_dict": {"module.…"}}
    name: str  # net.py:make
    train: ImageSet
    test: ImageSet
    backdoor: Backdoor


def owner(home: Path, name: str | None = None, lr: float = 0.05, size: int = 300) -> Owner:
    """Train a network that expects normalised images, with a backdoor, and save it as DataParallel does."""
    (home / "net.py").write_text(CODE)
    name = name or f"{home / 'net.py'}:make"
    train, test = images(size), images(198)
    backdoor = Backdoor(triggers.patch("white", size=3), target=1)
    poisoned = attacks.badnets(train, trigger="patch:white:3", target=1, rate=0.2, rng=rng("attack")).images
    network = model(name, classes=3, size=8, normalize=(MEAN, STD), rng=rng("owner"))
    made = fit(network, poisoned, epochs=12, batch_size=32, augment=PLAIN, lr=lr, rng=rng("owner"))
    inner = dict(made.named_children()).get("model", made)
    state = {f"module.{k}": v for k, v in inner.state_dict().items() if not k.startswith("normalize.")}
    torch.save({"state_dict": state, "epoch": 12}, home / "stranger.pt")
    return Owner(home / "stranger.pt", name, train, test, backdoor)


def folder(root: Path, images: ImageSet, split: str, names: dict[int, str]) -> Path:
    """The images of some classes as pictures, in folders of these names; "" for none."""
    for i, (x, y) in enumerate(zip(images.x, images.y.tolist(), strict=True)):
        if y in names:
            place = root / split / names[y]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.permute(1, 2, 0).numpy()).save(place / f"{i:04}.png")
    return root
