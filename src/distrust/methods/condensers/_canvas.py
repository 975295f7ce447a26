"""What the condensers share: synthetic images while they are learnt, real ones to learn from, and fresh networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet, as_8_bit
from ...data.siamese import OPERATIONS, Siamese
from ...errors import BadInput
from ...models import Normalize, refuse_batch_norm, resolve, taps
from ...models import model as make_model
from ...training import recipe

Init = Literal["real", "noise"]
Change = Callable[[Tensor], Tensor]


class Canvas:
    """Synthetic images, class after class, as a parameter in normalised units, in which the papers' rates are given.

    Args:
        train: real images with hard labels; a class each must lend at least `images_per_class` with init="real".
        images_per_class: of every class.
        init: "real" images, or standard normal "noise".
        legal: keep pixels within 0..1 after each step, and on 8 bits at the end.
        flip: whether mirrored images are of the same class: not for digits and signs.
        rng: draws the start.
        lr: of the images, if they are learnt.

    Raises:
        BadInput: soft labels, a trigger that is stamped later, or a class with too few images.
    """

    def __init__(
        self, train: ImageSet, images_per_class: int, *, init: Init, legal: bool, flip: bool, rng: Generator,
        lr: float = 1.0,
    ) -> None:  # fmt: skip
        self.train, self.legal, self.each = train, legal, images_per_class
        self.rows = rows_by_class(train, images_per_class)
        self.normalize = Normalize.of(train).to(train.x.device)
        self.y = torch.arange(len(self.rows), device=train.x.device).repeat_interleave(images_per_class)
        if init == "real":
            chosen = torch.cat([_some(rows, images_per_class, rng) for rows in self.rows])
            z = self.normalize(train.pixels(chosen))
        else:
            z = torch.randn(len(self.y), *train.x.shape[1:], generator=rng).to(train.x.device)
        self.z = z.requires_grad_()
        self.statistics = (_tuple(self.normalize.mean), _tuple(self.normalize.std))
        self.siamese = Siamese(*self.statistics, tuple(name for name in OPERATIONS if flip or name != "flip"))
        self.solver = torch.optim.SGD([self.z], lr, momentum=0.5)
        self._tidy()

    @property
    def x(self) -> Tensor:
        """The images [K·n,C,H,W] in pixel units, differentiable in `z`."""
        return self.normalize.inverse(self.z)

    @property
    def by_class(self) -> tuple[Tensor, ...]:
        """The same, class after class [n,C,H,W]."""
        return self.x.split(self.each)

    def step(self, loss: Tensor) -> None:
        """Move the images, and what else the solver has, down the loss; legal images stay in the gamut."""
        learnt = [part for group in self.solver.param_groups for part in group["params"]]
        for part, slope in zip(learnt, torch.autograd.grad(loss, learnt), strict=True):
            part.grad = slope
        self.solver.step()
        self._tidy()

    def _tidy(self) -> None:
        if self.legal:
            with torch.no_grad():
                self.z.copy_(self.normalize(self.x.clamp(0, 1)))

    def real(self, size: int, rng: Generator) -> list[Tensor]:
        """For every class, `size` random real images in pixel units, or all, if there are fewer."""
        return [self.train.pixels(_some(rows, size, rng)) for rows in self.rows]

    def changes(self, rng: Generator) -> list[Change]:
        """For every class, one random change that its real and synthetic images share."""
        return [self.siamese.shared(rng) for _ in self.rows]

    def network(self, name: str, rng: Generator) -> nn.Module:
        """A fresh network that normalises as this canvas does.

        Raises:
            BadInput: it has BatchNorm, whose statistics would tie the classes of a batch together.
        """
        net = make_model(
            name, classes=len(self.rows), channels=self.z.shape[1], size=tuple(self.z.shape[2:]), rng=rng,
            normalize=self.statistics,
        )  # fmt: skip
        return refuse_batch_norm(net).to(self.z.device).train()

    def finish(self, name: str, **training: Any) -> ImageSet:
        """The set, with the recipe by which its paper trains networks on it."""
        with torch.no_grad():
            x = as_8_bit(self.x) if self.legal else self.x.clone()
        return ImageSet(
            x, self.y, self.train.classes, f"{self.train.name}/{name}", taint=self.train.taint,
            off_range=not self.legal, training=recipe(**training).plain(),
        )  # fmt: skip


def rows_by_class(train: ImageSet, least: int) -> list[Tensor]:
    """Rows int64 of every class.

    Raises:
        BadInput: soft labels, a trigger that is stamped later, or a class with fewer than `least` images.
    """
    if train.y.ndim != 1:
        raise BadInput(f"{train.name} has soft labels; condensers take class numbers. Use train.replace(y=train.hard).")
    if train.late is not None:
        raise BadInput(f"{train.name} has a trigger that is stamped after augmentation. Attack with stamp='before'.")
    rows = [(train.y == k).nonzero().flatten() for k in range(len(train.classes))]
    short = {name: len(own) for name, own in zip(train.classes, rows, strict=True) if len(own) < max(least, 1)}
    if short:
        few = ", ".join(f"{name} ({count})" for name, count in list(short.items())[:5])
        raise BadInput(f"images_per_class={least}, but {train.name} has fewer of: {few}. Ask for fewer.")
    return rows


@contextmanager
def embedder(network: nn.Module, shape: Sequence[int]) -> Iterator[Any]:
    """Read what enters the last linear layer: images → [B,D]."""
    (place,) = resolve(network, "embedding", shape)
    with taps(network, [place]) as read:
        yield lambda x: read(x).features[place]


def _tuple(statistic: Tensor) -> tuple[float, ...]:
    return tuple(statistic.flatten().tolist())


def _some(rows: Tensor, count: int, rng: Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=rng)[:count].to(rows.device)]
