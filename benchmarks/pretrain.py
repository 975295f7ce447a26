"""What does a SimCLR step cost, views included, beside a forward and backward of two views that are in place?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

import distrust as dt

from .bare import way
from .measure import Row, Scale, compare
from .pictures import pictures

GOAL = 0.8


def rows(scale: Scale) -> Iterator[Row]:
    """WRN-16-1 without its head. Ours also makes both views, compares all pairs behind a projector, and steps."""
    batch, side = scale.of(256, 256, 16), scale.of(32, 32, 8)
    images = pictures(scale.of(1024, 1024, 64), side)
    start = dt.model(scale.of("wrn16-1", "wrn16-1", "wrn10-1"), images, head=False)
    both = torch.rand(2 * batch, 3, side, side, generator=dt.rng("views"))

    def bare() -> None:
        cast, layout = way(start, images.replace(y=torch.zeros_like(images.y)), batch, "cpu")
        net, x = start.to(memory_format=layout).train(), both.contiguous(memory_format=layout)
        for _ in range(len(images) // batch):
            net.zero_grad(set_to_none=True)
            with cast():
                net(x).float().square().mean().backward()

    ways = {
        "pretrain": lambda: dt.pretrain(start, images, loss=dt.objectives.simclr, epochs=1, batch_size=batch),
        "bare passes": bare,
    }
    yield from compare(f"an epoch of {len(images)}, batch {batch}", ways, {"bare passes": GOAL}, scale.rounds(3))
