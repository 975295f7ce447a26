"""Seven students of one teacher: what is gained by training them side by side, which pays for its forwards once?"""

from __future__ import annotations

from collections.abc import Iterator

import distrust as dt

from .measure import Row, Scale, compare, number, timed
from .pictures import pictures

DISTILLERS = ("kd", "at", "fitnet", "rkd", "cc", "dkd", "dist")  # whose teacher is in eval mode
GOALS = {"one after the other": 1.6}
together = None  # (students, teacher, images, losses, batch) → students: the call that trains them side by side


def rows(scale: Scale) -> Iterator[Row]:
    """WRN-16-1 students of a WRN-16-2, one distiller each, on one stream of images."""
    batch = scale.of(128, 128, 16)
    images = pictures(scale.of(1280, 640, 64), scale.of(32, 32, 8))
    names = scale.of(("wrn16-2", "wrn16-1"), ("wrn16-2", "wrn16-1"), ("wrn10-2", "wrn10-1"))
    teacher, student = (dt.model(name, images).to(scale.device) for name in names)
    losses = [getattr(dt.distillers, name) for name in DISTILLERS]

    def apart() -> None:
        for loss in losses:
            dt.distill(student, teacher, images, loss=loss, epochs=1, batch_size=batch, rng=dt.rng("together"))

    what = f"{len(losses)} students, {' → '.join(names)}, an epoch of {len(images)}"
    ways = {"one after the other": apart}
    if together is None:
        yield number(what, "one after the other", timed(ways, scale.rounds(1))["one after the other"], None)
        return
    ways = {"side by side": lambda: together([student] * len(losses), teacher, images, losses, batch), **ways}
    yield from compare(what, ways, GOALS, scale.rounds(3), device=scale.device)
