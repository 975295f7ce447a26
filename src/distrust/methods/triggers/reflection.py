"""A reflection over the image, as of a window pane: doubled by its two surfaces, or out of focus."""

from __future__ import annotations

import functools
import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from ...errors import BadInput
from ...marks import Count, Rate, trigger
from ...seeds import rng
from ._base import Trigger

GAMMA = 2.2
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@trigger(paper="Liu, Ma, Bailey, Lu, Reflection Backdoor, ECCV 2020, arXiv 2007.02343")
class Reflection(Trigger):
    """Add a reflection r to the image t in linear light: x' = (w⊙r + α·t^2.2)^(1/2.2).

    Ghost: r ← a·r shifted + (1 − a)·r, w = 1 − α. Out of focus: r ← clamp(blur(r) − (m − 1)·b, 0, 1), m the mean of
    what of blur(r) + t exceeds 1, in every channel, and w = (1 − α/2)·window. Which picture an image reflects hangs on
    its pixels alone, and each picture is reflected in one way.

    Args:
        pictures: what is reflected, as a tensor [R,C,h,w] (uint8, or float in 0..1), scaled to the size of the images;
            or "noise": four fixed random pictures.
        alpha: α, the share of the image.
        ghosts: share 0..1 of the pictures that are doubled; the others are out of focus.
        offset: most pixels h by which the second ghost lies lower, and to the right, 1 at least.
        seed: decides for every picture the way, shift, and a = |0 or 1 − U(0.15, 0.5)|; σ ~ U(1, 5) of the blur, and
            b ~ U(1.08, 1.18).

    Raises:
        BadInput: pictures of another shape or outside of 0..1, or of less than offset + 1 pixels a side.

    Differs from the released code: shifts of 1 to 3 pixels, where it has 3 to 8 on pictures of up to 560; an image has
    the same reflection whenever it is shown; the window has its centre in that of an image that is no square.
    """

    layers: Tensor
    ghostly: Tensor
    glare: Tensor

    def __init__(
        self, pictures: str | Tensor = "noise", alpha: Rate = 0.4, ghosts: Rate = 0.49, offset: Count = 3,
        seed: Seed = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if isinstance(pictures, str) and pictures != "noise":
            raise BadInput(f"no pictures {pictures!r}. Known: noise; or give a tensor [R,C,h,w].")
        x = pictures if isinstance(pictures, Tensor) else _noise()
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        if x.ndim != 4 or not x.numel() or x.min() < 0 or x.max() > 1 or min(x.shape[2:]) <= offset:
            raise BadInput(f"pictures must be [R,C,h,w] in 0..1 with sides above {offset}; got {list(x.shape)}.")
        draw, n = rng("reflection", seed), len(x)
        ghostly = torch.rand(n, generator=draw) < ghosts
        glare = 1.08 + torch.rand(n, generator=draw) / 10
        layers = [_ghost(r, offset, draw) if g else _blur(r, draw) for r, g in zip(x**GAMMA, ghostly, strict=True)]
        self.alpha = alpha
        self.register_buffer("layers", torch.stack(layers))  # [R,C,h,w], in linear light
        self.register_buffer("ghostly", ghostly)  # bool [R]
        self.register_buffer("glare", glare)  # [R]
        self.recipe = {"pictures": pictures, "alpha": alpha, "ghosts": ghosts, "offset": offset, "seed": seed}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] with a reflection each."""
        chosen = which(x, len(self.layers)).to(self.layers.device)
        r, ghostly, glare = (part[chosen].to(x.device) for part in (self.layers, self.ghostly, self.glare))
        r = r if r.shape[2:] == x.shape[2:] else F.interpolate(r, x.shape[2:], mode="bilinear", antialias=True)
        r = (r.mean(1, keepdim=True) if x.shape[1] == 1 else r).expand_as(x).double()  # powers: alone as in a batch
        t = x.double().clamp(0, 1) ** GAMMA
        above = (r + t) * (r + t > 1)
        mean = above.sum((2, 3), keepdim=True) / ((above > 0).sum((2, 3), keepdim=True) + 1e-6)
        dimmed = (r - (mean.clamp(min=1) - 1) * glare[:, None, None, None]).clamp(0, 1)
        focused = (1 - self.alpha / 2) * _window(x.shape[2], x.shape[3]).to(x.device) * dimmed
        layer = torch.where(ghostly[:, None, None, None], (1 - self.alpha) * r, focused)
        return ((layer + self.alpha * t).clamp(0, 1) ** (1 / GAMMA)).to(x.dtype)


def which(x: Tensor, count: int) -> Tensor:
    """For every image [B,C,H,W] one of `count` numbers, int64 [B], by its grey levels alone."""
    levels = x.mul(255).round().long().flatten(1)
    return (levels * _factors(levels.shape[1]).to(x.device)).sum(1) % count


def _ghost(r: Tensor, offset: int, draw: Generator) -> Tensor:
    """a·r, shifted up and to the left, + (1 − a)·r where both are, at the old size."""
    dy, dx = (torch.randint(1, offset + 1, (2,), generator=draw)).tolist()
    u, v = torch.rand(2, generator=draw).tolist()
    a = abs(round(u) - (0.15 + 0.35 * v))
    both = a * r[:, dy:, dx:] + (1 - a) * r[:, : r.shape[1] - dy, : r.shape[2] - dx]
    return F.interpolate(both[None], r.shape[1:], mode="bicubic")[0].clamp(0, 1)


def _blur(r: Tensor, draw: Generator) -> Tensor:
    """Under a Gaussian of σ ~ U(1, 5) whose window has 2⌈2σ⌉ + 1 pixels; the image is mirrored at its border."""
    sigma = 1 + 4 * float(torch.rand((), generator=draw))
    rows, columns = (_smoothing(n, sigma).to(r) for n in r.shape[1:])
    return rows @ r @ columns.T


def _smoothing(n: int, sigma: float) -> Tensor:
    """[n,n]: what each of n pixels takes of all of them."""
    reach = math.ceil(2 * sigma)
    steps = torch.arange(-reach, reach + 1)
    weights = (-0.5 * (steps.double() / sigma) ** 2).exp()
    at = (torch.arange(n)[:, None] + steps) % max(2 * n - 2, 1)
    at = torch.minimum(at, (2 * n - 2 - at).abs())
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, at, (weights / weights.sum()).expand(n, -1))


@functools.cache
def _window(height: int, width: int) -> Tensor:
    """[H,W]: √(g ⊗ g) over its maximum, g what a normal distribution has in n bins round 0, 3 σ to either side."""
    bins = []
    for n in (height, width):
        edge = 3 + 3.5 / n
        bins.append(torch.special.ndtr(torch.linspace(-edge, edge, n + 1, dtype=torch.float64)).diff())
    window = torch.outer(*bins).sqrt()
    return window / window.max()


@functools.cache
def _factors(count: int) -> Tensor:
    return torch.randint(1, 2**31, (count,), generator=rng("reflection", "which"))


@functools.cache
def _noise() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=rng("reflection", "noise"))
