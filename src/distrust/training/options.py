"""Training, a frozen value: the options of the loop, checked once, passed on whole, and written down as JSON."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from ..data import PLAIN, Augment, ImageSet, Siamese
from ..data.augment import Change
from ..errors import BadInput, NotFound
from ..marks import Count, NonNegative, Passes, Positive
from ..selectors import checked, schema

HINT = "See `help(distrust.Training)`."
CHANGES = {"Augment": Augment, "Siamese": Siamese}
MACHINE = ("precision", "memory_format")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained: what `fit`, `distill`, `pretrain` and methods pass on to the loop.

    Args:
        epochs: passes over the images, ≥ 1.
        lr: learning rate, > 0; of one-cycle its maximum.
        batch_size: images a step; a short last batch is dropped.
        augment: flip, crop and cutout on each batch; `Siamese`, or any function (batch, generator) → batch; "none".
        optimizer: fused "sgd" or "adam".
        momentum: of SGD, 0..1.
        nesterov: Nesterov momentum in SGD.
        weight_decay: L2 penalty, ≥ 0.
        schedule: of the rate: "onecycle" (Smith, arXiv 1708.07120), "cosine" to 0, "step", or "constant".
        milestones: of "step": epochs, ≥ 0, after which the rate is multiplied by gamma.
        gamma: of "step", ≥ 0.
        precision: "fp32", "bf16" autocast, or "auto": what a short probe finds faster.
        memory_format: likewise.

    Raises:
        BadInput: a value of the wrong type or out of range.
    """

    epochs: Count = 10
    lr: Positive = 0.1
    batch_size: Count = 128
    augment: Change = Augment()
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 5e-4
    schedule: Literal["onecycle", "cosine", "step", "constant"] = "onecycle"
    milestones: tuple[Passes, ...] = ()
    gamma: NonNegative = 0.1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "augment", _change(self.augment))
        for name, value in checked(SCHEMA, vars(self), HINT).items():
            object.__setattr__(self, name, value)

    def changed(self, **given: Any) -> Training:
        """A copy with some fields changed; those of an `Augment` may be named too: `changed(lr=0.02, flip=False)`.

        Raises:
            NotFound: a field that there is not.
            BadInput: a value out of range, or a field of an `Augment` where another change is made.
        """
        moves = {name: given.pop(name) for name in MOVES if name in given}
        if moves:
            augment = _change(given.get("augment", self.augment))
            if not isinstance(augment, Augment):
                raise BadInput(f"{', '.join(moves)}: images are changed by {augment!r}. Give augment=Augment(…) whole.")
            given["augment"] = {**dataclasses.asdict(augment), **moves}
        for name in given:
            if name not in FIELDS:
                raise NotFound.among("option of training", name, {**FIELDS, **MOVES})
        return dataclasses.replace(self, **given)

    def plain(self) -> dict[str, Any]:
        """JSON-able; what concerns the machine alone is told only if it was asked for.

        Raises:
            BadInput: an augmentation that has no name.
        """
        kind = type(self.augment).__name__
        if kind not in CHANGES:
            raise BadInput(f"augment={self.augment!r} cannot be written down. Use {' or '.join(CHANGES)}.")
        told = {k: v for k, v in dataclasses.asdict(self).items() if k not in MACHINE or v != "auto"}
        told["augment"] |= {} if kind == "Augment" else {"kind": kind}
        return json.loads(json.dumps(told))

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Training:
        """What `plain` gave, or a part of it; missing fields have their defaults.

        Raises:
            NotFound: a field that there is not.
            BadInput: a value out of range.
        """
        return cls().changed(**plain)

    @property
    def fields(self) -> dict[str, inspect.Parameter]:
        """What a selector of a method sets; images that are taken as they are have no augmentation to set."""
        moves = {} if self.augment == PLAIN else {name: getattr(self.augment, name) for name in MOVES}
        found = {"epochs": self.epochs, "lr": self.lr, "batch_size": self.batch_size, **moves, **vars(self)}
        return {k: (FIELDS | MOVES)[k].replace(default=v) for k, v in found.items() if k != "augment"}

    @property
    def usual(self) -> tuple[str, ...]:
        """Epochs, rate, batch size, and the changes that this augmentation makes."""
        return ("epochs", "lr", "batch_size", *(name for name in MOVES if getattr(self.augment, name, None)))

    def solver(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of these parameters, fused."""
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay, fused=True)
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD(
            parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=nesterov, fused=True
        )

    def plan(self, solver: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """The rate as a function of the step, of so many."""
        kinds = torch.optim.lr_scheduler
        if self.schedule == "onecycle":
            return kinds.OneCycleLR(solver, self.lr, total_steps=steps + 1, cycle_momentum=False)
        if self.schedule == "cosine":
            return kinds.CosineAnnealingLR(solver, steps)
        if self.schedule == "step":
            return kinds.MultiStepLR(solver, [m * steps // self.epochs for m in self.milestones], self.gamma)
        return kinds.ConstantLR(solver, 1.0)


def _parameters(of: type) -> dict[str, inspect.Parameter]:
    hints = typing.get_type_hints(of, include_extras=True)
    return {k: p.replace(annotation=hints[k]) for k, p in inspect.signature(of).parameters.items()}


FIELDS, MOVES = _parameters(Training), _parameters(Augment)
SCHEMA, MOVE_SCHEMA = schema("training", FIELDS), schema("augment", MOVES)


def _change(given: Any) -> Any:
    """An augmentation from its plain form; everything else as it is."""
    if given == "none":
        return PLAIN
    if not isinstance(given, Mapping):
        return given
    kind, fields = given.get("kind", "Augment"), {k: v for k, v in given.items() if k != "kind"}
    if kind == "Augment":
        return Augment(**checked(MOVE_SCHEMA, fields, HINT, "augment: "))
    return Siamese(**{k: tuple(v) for k, v in fields.items()})


PROTOCOL = Training(
    epochs=1000, lr=0.01, batch_size=256, nesterov=False, schedule="step", milestones=(501,), augment=PLAIN
)  # fmt: skip


def recipe(images: ImageSet | None = None, **changes: Any) -> Training:
    """How a synthetic set wants to be trained on: its own recipe, or the field's, with changes.

    The field's, from the released code of Zhao et al. (DC, DSA, DM): 1000 epochs of SGD with momentum 0.9 and without
    Nesterov, rate 0.01, divided by 10 at half.

    Args:
        images: the set; None for the field's recipe.
        **changes: fields of `Training`; with other `epochs` the rate still falls at half, if no `milestones` are given.
    """
    if "epochs" in changes:
        changes = {"milestones": (changes["epochs"] // 2 + 1,), **changes}
    own = images.training if images else None
    return PROTOCOL.changed(**{**(own or {}), **changes})
