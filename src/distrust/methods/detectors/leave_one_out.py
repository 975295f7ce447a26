"""Leave one out: how well do a class's other images explain the one that a network has not seen?"""

from __future__ import annotations

import torch
from torch import Generator

from ...data import ImageSet
from ...errors import BadInput
from ...marks import Count, detector
from ...measurement import Finding
from ...models import at_once, eval_mode, in_parts
from ...seeds import rng as make_rng
from ._synthetic import trained


@detector(
    paper="ours, after Koh, Liang, Understanding Black-box Predictions via Influence Functions, ICML 2017",
    on="synthetic", cost=lambda options, n: options["networks"] * options["epochs"] * n,
)  # fmt: skip
def leave_one_out(
    suspect: ImageSet,
    clean: ImageSet,
    *,
    network: str = "convnet3-w32",
    networks: Count = 10,
    epochs: Count = 300,
    rng: Generator | None = None,
) -> Finding:
    """Train without one image of every class, ask for the ones left out, and score a class by how sure the answer is.

    Synthetic images of one class are made to differ; a shortcut that they share explains each by the others. The score
    is mean P(own class | image left out), of that what it has more than the median class.

    Args:
        suspect: the synthetic set; two images a class at least.
        clean: lends the networks its normalisation.
        network: model name.
        networks: of them, each without its own image of every class; no more than a class has images.
        epochs: of their training, by the set's own recipe.
        rng: draws networks and which image is left out first.

    Raises:
        BadInput: a class has a single image.

    Differs from the paper: it estimates how a prediction changes without an image; here networks are trained without
    it, and asked about the image itself, since of several stamped images none matters alone.
    """
    rng = rng or make_rng("leave_one_out")
    rows = [(suspect.hard == k).nonzero().flatten() for k in range(len(suspect.classes))]
    least = min(len(own) for own in rows)
    if least < 2:
        raise BadInput(
            f"leave_one_out: {suspect.name} has {least} image of a class, and nothing would be left. It takes sets of "
            "two images a class at least; patch_probe takes any."
        )
    rows = [own[torch.randperm(len(own), generator=rng).to(own.device)] for own in rows]
    sure = torch.zeros(len(rows))
    count = min(networks, least)
    for i in range(count):
        out = torch.stack([own[i] for own in rows])
        kept = torch.ones(len(suspect), dtype=torch.bool, device=out.device)
        kept[out] = False
        net = trained(network, suspect[kept], clean, epochs, rng)
        with eval_mode(net), torch.no_grad():
            told = in_parts(net, suspect.pixels(out), at_once(suspect.x.shape[1:], len(out)))
            sure += told.softmax(1).diagonal().cpu() / count
    return Finding.of("leave_one_out", sure - sure.median(), notes={"sure": sure.tolist()})
