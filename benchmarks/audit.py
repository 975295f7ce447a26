"""How long does an audit's panel take, and does it grow with the number of classes and no faster?"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

import distrust as dt
from distrust.auditing.checkpoint import Suspect
from distrust.auditing.panel import PANEL, looked

from .measure import Row, Scale, number, ratio
from .pictures import pictures

SHOWN = 1000  # as many as an audit shows
GOALS = {"wrn16-1": 120.0, "resnet18": 600.0}  # seconds on two cores
FEW = ("l2_tac", "margin_fall[steps=4,images=2]", "twins[steps=4,images=2,epochs=1]")


def rows(scale: Scale) -> Iterator[Row]:
    """The panel, its fine-tuned copies included, of classifiers of 32 pixels that are not trained."""
    images = pictures(scale.of(SHOWN, SHOWN, 200), scale.of(32, 32, 8))
    panel = scale.of(PANEL["classifier"], PANEL["classifier"], FEW)
    for network in scale.of((*GOALS,), ("wrn16-1",), ("wrn10-1",)):
        seconds = [_seconds(network, images, panel) for _ in range(scale.rounds(1))]
        yield number(f"{network}, {len(images)} images of 10 classes", "the panel", seconds, GOALS.get(network))
    many = scale.of(1000, 100, 20)
    each = dict[str, list[float]]()
    for _ in range(scale.rounds(2)):
        for classes in (many, 10):
            names = tuple(map(str, range(classes)))
            of = images.replace(y=torch.arange(len(images)) % classes, classes=names)
            seconds_each = _seconds(scale.of("wrn16-1", "wrn16-1", "wrn10-1"), of, FEW) / classes
            each.setdefault(f"{classes} classes", []).append(seconds_each)
    yield ratio("a few steps of the panel, seconds a class", f"{many} classes", "10 classes", each, 1.0)


def _seconds(network: str, images: dt.ImageSet, panel: tuple[str, ...]) -> float:
    model = dt.model(network, images, rng=dt.rng("benchmark")).eval()
    suspect = Suspect(model, images, images, (), network, "pictures", own=True)
    began = time.perf_counter()
    found = looked(suspect, images, panel, 0, lambda line: None)
    assert len(found.findings) == len(panel), found.skipped
    return time.perf_counter() - began
