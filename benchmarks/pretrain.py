"""What do views cost? A SimCLR step beside the bare forward and backward on two views that are already there.

python benchmarks/pretrain.py [--images N] [--rounds R] [--out FILE]

WRN-16-1 without its head, batches of 256, 32×32 noise; only the time matters. `pretrain` also draws and makes both
views of every image, compares all pairs of a batch behind a projector, and steps.
"""

from __future__ import annotations

import torch
from ratio import asked, compare

import distrust as dt
from distrust.training.fastest import fastest

NETWORK, BATCH = "wrn16-1", 256
GOAL = 1.25  # pretrain / bare passes: the step reaches 0.8 of their speed


def bare(images: dt.ImageSet, start: torch.nn.Module, x: torch.Tensor) -> None:
    """As many forwards and backwards of two resident views, as fast as the processor has them, and nothing else."""
    blind, training = images.replace(y=torch.zeros_like(images.y)), dt.Training(batch_size=BATCH)
    number, order = fastest(start, blind, training, torch.device("cpu"))
    layout = torch.channels_last if order == "channels_last" else torch.contiguous_format
    net = start.to(memory_format=layout).train()
    x = x.contiguous(memory_format=layout)
    for _ in range(len(images) // BATCH):
        net.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=number == "bf16"):
            net(x).float().square().mean().backward()


def main() -> None:
    """Measure both once a round, in turn."""
    wanted = asked(__doc__.partition("\n")[0], 1024, "pretrain")
    x = torch.randint(256, (wanted.images, 3, 32, 32), dtype=torch.uint8, generator=dt.rng("benchmark"))
    images = dt.ImageSet(x, torch.arange(wanted.images) % 10, tuple("abcdefghij"))
    start = dt.model(NETWORK, images, head=False)
    both = torch.rand(2 * BATCH, 3, 32, 32, generator=dt.rng("views"))
    ways = {
        "pretrain": lambda: dt.pretrain(start, images, loss=dt.objectives.simclr, epochs=1, batch_size=BATCH),
        "bare passes": lambda: bare(images, start, both),
    }
    what = f"seconds for {len(images) // BATCH} SimCLR steps of {NETWORK}, {BATCH} images each in two views"
    compare(what, ways, GOAL, wanted.rounds, wanted.out)


if __name__ == "__main__":
    main()
