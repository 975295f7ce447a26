"""What the detectors of synthetic sets share: the set under other labels, networks trained on it, and small squares."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...errors import BadInput
from ...models import model as make_model
from ...seeds import spawn
from ...training import fit, recipe


def permuted(suspect: ImageSet, permutations: int, rng: Generator) -> list[ImageSet]:
    """The set, and behind it so many times the same images with its labels in a random order: the null."""
    orders = [torch.arange(len(suspect)), *(torch.randperm(len(suspect), generator=rng) for _ in range(permutations))]
    return [suspect.replace(y=suspect.y[order.to(suspect.y.device)]) for order in orders]


def trained(network: str, suspect: ImageSet, clean: ImageSet, epochs: int, rng: Generator) -> nn.Module:
    """A network that normalises as clean images ask for, trained on the set by the set's own recipe."""
    start = make_model(network, clean, rng=spawn(rng))
    training = recipe(suspect, epochs=epochs)
    return fit(start, suspect, training=training, rng=spawn(rng), device=suspect.x.device)


def squares(size: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A white, a black and a checkered square [size,size], to be pasted on images [N,C,H,W].

    Raises:
        BadInput: they are larger than the images.
    """
    if size > min(x.shape[2:]):
        raise BadInput(f"size={size}: images are {x.shape[2]}×{x.shape[3]}. Give a smaller square.")
    board = (torch.arange(size)[:, None] + torch.arange(size)).remainder(2).to(x)
    return torch.ones_like(board), torch.zeros_like(board), board


def paste(x: Tensor, square: Tensor, top: int, left: int) -> None:
    """Put a square on images [C,H,W] or [N,C,H,W], in place."""
    x[..., top : top + len(square), left : left + len(square)] = square
