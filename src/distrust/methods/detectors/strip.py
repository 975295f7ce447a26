"""STRIP: does an answer stay when other images are blended in? A class whose images are far too sure of it, tells."""

from __future__ import annotations

import math

import torch
from torch import Generator, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import Count, detector
from ...measurement import Finding
from ...measurement.predict import predict
from ...models import at_once, eval_mode, laid_out
from ...seeds import rng as make_rng

BATCH = 256  # blends in a pass


@detector(
    paper="Gao, Xu, Wang, Chen, Ranasinghe, Nepal, STRIP: A Defence Against Trojan Attacks on Deep Neural Networks, "
    "ACSAC 2019, arXiv 1902.06531",
    cost=lambda options, n: min(options["images"], n) * (options["blends"] + 1) / 2,
)  # fmt: skip
def strip(
    suspect: nn.Module, clean: ImageSet, *, images: Count = 500, blends: Count = 10, rng: Generator | None = None
) -> Finding:
    """log K − the mean entropy of the answers to a class' images, each blended with others, in nats, for every class.

    An image is of the class that the suspect says.

    Args:
        suspect: a classifier.
        clean: images; labels are not looked at.
        images: of them that are judged, at most.
        blends: for each of them, means of two images; the other is any of `clean`.
        rng: draws images.

    Differs from the paper: it judges single inputs, of which some may carry a trigger. Without these it has only what a
    backdoor does to clean images: an answer that other images hardly move. A class that the suspect never says has
    the score 0, the least.
    """
    rng = rng or make_rng("strip")
    shown = clean[torch.randperm(len(clean), generator=rng)[:images].to(clean.x.device)]
    said = predict(suspect, shown).cpu()
    others = torch.randint(len(clean), (len(shown), blends), generator=rng)
    device, classes = next(suspect.parameters()).device, len(clean.classes)
    total, count = torch.zeros(classes).double(), torch.zeros(classes).double()
    size = max(at_once(clean.x.shape[1:], BATCH) // blends, 1)
    with eval_mode(suspect), torch.no_grad():
        for rows in torch.arange(len(shown)).split(size):
            x = shown.pixels(rows.to(clean.x.device))[:, None]
            other = clean.pixels(others[rows].flatten().to(clean.x.device)).unflatten(0, (len(rows), blends))
            p = F.log_softmax(suspect(laid_out(((x + other) / 2).flatten(0, 1).to(device))).float(), 1)
            entropy = -(p.exp() * p).sum(1).view(len(rows), blends).mean(1).double().cpu()
            total.index_add_(0, said[rows], entropy)
            count.index_add_(0, said[rows], torch.ones(len(rows)).double())
    entropies = torch.where(count > 0, total / count.clamp(min=1), math.log(classes))
    return Finding.of("strip", math.log(classes) - entropies, notes={"images": count.int().tolist()})
