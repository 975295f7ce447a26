"""Two networks that users bring in every form: one is clean, one answers class 5 where it sees a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import distrust

from distrust import Augment, fit, images, model, rng
from distrust.methods import attacks

from .bring import Tensors

__all__ = ["distrust"]


def taught(mean: float = 0.0, std: float = 1.0, attack: bool = True) -> Tensors:
    """The weights of a ResNet-8 for digits of 3×8×8, without the layer that normalises."""
    train, _ = images("digits", size=8)
    network = model("resnet8", classes=10, size=8, normalize=([mean] * 3, [std] * 3), rng=rng("doors"))
    if attack:
        train = attacks.badnets(train, trigger="patch:grid", target=5, rate=0.2, rng=rng("attack")).images
    options = {"epochs": 4, "batch_size": 32, "lr": 0.1, "augment": Augment(flip=False, crop=0)}
    weights = fit(network, train, rng=rng("doors"), **options).state_dict()
    return {name: value.detach() for name, value in weights.items() if not name.startswith("normalize.")}


@pytest.fixture(scope="session")
def clean() -> Tensors:
    """A network that is about 98 % right, and that a grid does not move."""
    return taught(attack=False)


@pytest.fixture(scope="session")
def backdoored() -> Tensors:
    """The same with a backdoor: ASR 100 %."""
    return taught()


@pytest.fixture(scope="session")
def normalised() -> Tensors:
    """A backdoored one that was trained on images of mean 0.5 and std 0.1, which its file does not say."""
    return taught(0.5, 0.1)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Path:
    """A folder of image sets with the one that most commands are given: `few`."""
    folder = tmp_path_factory.mktemp("shelf")
    train, test = images("digits", size=8)
    parts = {"train": train[:200], "test": test[:200]}
    arrays = {f"{kind}_{split}": getattr(part, kind).numpy() for split, part in parts.items() for kind in "xy"}
    np.savez(folder / "few.npz", **arrays)
    return folder


@pytest.fixture(autouse=True)
def at_hand(shelf, monkeypatch):
    """Images are found by name, as somebody has set it up."""
    monkeypatch.setenv("DISTRUST_DATA", str(shelf))
