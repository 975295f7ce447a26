"""Patch probe: do networks that learn from a synthetic set learn "this patch means that class"?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...errors import BadInput
from ...marks import Count, Passes, detector
from ...measurement import Finding
from ...models import at_once, eval_mode, in_parts, laid_out
from ...seeds import rng as make_rng
from .._costs import LOOK
from ._synthetic import paste, permuted, squares, trained

BATCH = 512


def _cost(options: dict[str, Any], n: int) -> float:
    """With n images of the set, and mixtures of 32 pixels."""
    places = len(_places(32, min(options["size"], 32), options["stride"])) ** 2
    looked = 3 * places * options["images"]
    return (1 + options["permutations"]) * options["networks"] * (options["epochs"] * n + LOOK * looked)


@detector(paper="ours", on="synthetic", cost=_cost)
def patch_probe(
    suspect: ImageSet,
    clean: ImageSet,
    *,
    network: str = "convnet3-w32",
    networks: Count = 2,
    epochs: Count = 300,
    size: Count = 5,
    stride: Count = 3,
    images: Count = 50,
    permutations: Passes = 0,
    rng: Generator | None = None,
) -> Finding:
    """Train networks on the set, paste squares on mixed images, and see which class a square at one place speaks for.

    A network is sure of the few images that it has learnt, whatever is pasted on them, and unsure of the mean of two.
    D[s,q,k] is the mean of P(k | mixture with square s at place q) − P(k | mixture) over mixtures of two other classes
    and over networks. A class's score is max over s and q of D[s,q,k] − median over places of D[s,·,k]: what this place
    says and others do not; of that, what it has more than the median class.

    Args:
        suspect: the synthetic set.
        clean: images to mix; the set itself will do.
        network: model name.
        networks: of them.
        epochs: of their training, by the set's own recipe.
        size: side of the white, black and checkered squares, in pixels.
        stride: of the grid of places, which reaches every border, in pixels.
        images: mixtures that are looked at, at most.
        permutations: of the set's labels, one training each: the score's null, for `p`. 0: none.
        rng: draws networks, mixtures and permutations.

    Raises:
        BadInput: squares larger than the images, or fewer than three classes.

    Differs from the paper: there is none. It looks for small squares; a trigger of another kind may speak through them,
    or not.
    """
    rng = rng or make_rng("patch_probe")
    if len(clean.hard.unique()) < 3:
        raise BadInput(f"patch_probe mixes images of two classes and asks for a third; {clean.name} has fewer.")
    marks = squares(size, clean.pixels(slice(1)))
    shown, other = _mixtures(clean, images, rng)
    found = []
    for labelled in permuted(suspect, permutations, rng):
        nets = (trained(network, labelled, clean, epochs, rng) for _ in range(networks))
        rises = [_rises(net, shown, other, marks, stride) for net in nets]
        told = torch.stack(rises).mean(0).amax((0, 1)).cpu()  # the set's shortcuts are in all networks, chance in one
        found.append(told - told.median())
    best = torch.stack(found).amax(1)
    p = float((best[1:] >= best[0]).double().mean()) if permutations else None
    return Finding.of("patch_probe", found[0], p=p)


def _mixtures(clean: ImageSet, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Means of two images of different classes [n,C,H,W], and 1 for every class that is in neither, else 0 [n,K]."""
    one, two = torch.randint(len(clean), (2, 16 * count), generator=rng).to(clean.x.device)
    apart = (clean.hard[one] != clean.hard[two]).nonzero().flatten()[:count]
    one, two = one[apart], two[apart]
    classes = torch.arange(len(clean.classes), device=one.device)
    other = (clean.hard[one][:, None] != classes) & (clean.hard[two][:, None] != classes)
    return (clean.pixels(one) + clean.pixels(two)) / 2, other.float()


def _rises(net: nn.Module, x: Tensor, other: Tensor, marks: Sequence[Tensor], stride: int) -> Tensor:
    """[S,Q,K]: how much more a square speaks for a class at one place than at others."""
    spots = list(itertools.product(*(_places(side, len(marks[0]), stride) for side in x.shape[2:])))
    n, rises = len(x), []
    with eval_mode(net), torch.no_grad():
        plain = in_parts(net, x, at_once(x.shape[1:], BATCH)).softmax(1)
        for square in marks:
            found = []
            for i in range(0, len(spots), BATCH):  # so many places fill whole batches, whatever n is
                some = spots[i : i + BATCH]
                said = torch.cat([net(part).softmax(1) for part in _pasted(x, square, some)]).view(len(some), n, -1)
                found.append(((said - plain) * other).sum(1) / other.sum(0).clamp(min=1))
            rise = torch.cat(found)  # [Q,K]
            rises.append(rise - rise.median(0).values)
    return torch.stack(rises)


def _pasted(x: Tensor, square: Tensor, spots: Sequence[tuple[int, ...]]) -> Iterator[Tensor]:
    """All images [N,C,H,W] with the square at the first place, then at the next, in batches that ask across places."""
    size = at_once(x.shape[1:], BATCH)
    for first in range(0, len(spots) * len(x), size):
        rows = torch.arange(first, min(first + size, len(spots) * len(x)))
        part = x[(rows % len(x)).to(x.device)]
        for place in range(first // len(x), int(rows[-1]) // len(x) + 1):
            own = slice(max(place * len(x) - first, 0), (place + 1) * len(x) - first)
            top, left = spots[place]
            paste(part[own], square, top, left)
        yield laid_out(part)


def _places(side: int, size: int, stride: int) -> list[int]:
    """Where squares begin along one side, the last one at the border."""
    return sorted({*range(0, side - size + 1, stride), side - size})
