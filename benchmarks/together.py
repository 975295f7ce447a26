"""Seven students of one teacher: what is gained by training them side by side, which pays for its forwards once?"""

from __future__ import annotations

from collections.abc import Iterator

import distrust as dt
from distrust.training import Teacher, lesson

from .measure import Row, Scale, compare
from .pictures import pictures

DISTILLERS = ("kd", "at", "fitnet", "rkd", "cc", "dkd", "dist")  # whose teacher is in eval mode
GOALS = {"one after the other": 1.6}
DONE = object()


def rows(scale: Scale) -> Iterator[Row]:
    """WRN-16-1 students of a WRN-16-2, one distiller each, on one stream of images."""
    batch = scale.of(128, 128, 16)
    images = pictures(scale.of(1280, 640, 64), scale.of(32, 32, 8))
    names = scale.of(("wrn16-2", "wrn16-1"), ("wrn16-2", "wrn16-1"), ("wrn10-2", "wrn10-1"))
    teacher, student = (dt.model(name, images).to(scale.device) for name in names)
    losses = [getattr(dt.distillers, name) for name in DISTILLERS]

    how = {"epochs": 1, "batch_size": batch}

    def apart() -> None:
        for loss in losses:
            dt.distill(student, teacher, images, loss=loss, rng=dt.rng("together"), **how)

    def together() -> None:
        shared = Teacher(teacher)
        runs = [lesson(student, shared, images, loss=loss, rng=dt.rng("together"), **how) for loss in losses]
        while runs:  # a step of each in turn
            runs = [run for run in runs if next(run, DONE) is not DONE]

    what = f"{len(losses)} students, {' → '.join(names)}, an epoch of {len(images)}"
    ways = {"side by side": together, "one after the other": apart}
    yield from compare(what, ways, GOALS, scale.rounds(3), device=scale.device)
