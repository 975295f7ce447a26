"""fit() and the training loop, once. Precision, schedule, seeds and progress live here, nowhere else."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Generator as Iteration
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..data import ImageSet
from ..errors import BadInput, Diverged
from ..models import called, check_fits
from ..seeds import Draws, spawn
from ..seeds import rng as make_rng
from .fastest import fastest
from .graphed import MANY, Recorded, recordable
from .options import Training

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
Watcher = Callable[[int, int, float], None]
Monitor = Callable[[nn.Module], Any]
Run = Iteration[None, None, nn.Module]  # pauses before every step, and ends with the model

CHECK_EVERY = 16  # steps between looks at the loss: each look waits for the device
EXPLODED = 100.0  # times the first window's loss

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Call `watcher(step, steps, loss)` now and then from every loop that runs inside this context."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def descend(solver: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the gradient of `loss`, for what trains by hand."""
    solver.zero_grad()
    loss.backward()
    solver.step()


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The default objective; labels are class numbers [B] or soft labels [B,K]."""
    return F.cross_entropy(model(x).float(), y)


def fit(
    model: nn.Module,
    train: ImageSet,
    *,
    training: Training = Training(),
    objective: Objective = cross_entropy,
    rng: Generator | None = None,
    device: torch.device | str | None = None,
    **changes: Any,
) -> nn.Module:
    """Train a copy of `model` on `train` and return it in eval mode; `model` is left as it was.

    Args:
        model: images [B,C,H,W] in 0..1 → logits [B,K].
        train: the images; a trigger with stamp="after" is applied behind the augmentation.
        training: epochs, rate, batch size, augmentation, …
        objective: (model, x, y) → scalar loss; default cross-entropy.
        rng: decides order and augmentation (default: a fixed stream).
        device: where to train (default: where the model is).
        **changes: fields of `training` by name: `fit(model, train, epochs=5, lr=0.02)`.

    Raises:
        BadInput: the images do not fit the model, or a field is out of range.
        NotFound: no such field.
        Diverged: the loss became NaN, infinite, or 100 times what it was; names the step and the rate.
    """
    check_fits(model, train)
    training = training.changed(**changes)
    return loop(copy.deepcopy(model), train, objective, training, rng=rng or make_rng("fit"), device=device)


def loop(
    model: nn.Module,
    train: ImageSet,
    objective: Objective,
    training: Training,
    *,
    rng: Generator,
    device: torch.device | str | None = None,
    extra: Iterable[nn.Module] = (),
    beside: nn.Module | None = None,
    monitor: Monitor | None = None,
    after: Callable[[], object] | None = None,
) -> nn.Module:
    """Train `model` in place and return it in eval mode.

    Args:
        model: what is trained.
        train: the images.
        objective: (model, x, y) → scalar.
        training: how.
        rng: decides order and augmentation; also what dropout draws.
        device: default where the model is.
        extra: modules trained along (connectors of a distiller).
        beside: a module that runs in every step without being trained (a teacher).
        monitor: called with `model` after every epoch; it may look, and must change and draw nothing.
        after: called after every step; it may put weights back to where they are allowed to be.

    Raises:
        Diverged: names the step and the learning rate.
    """
    return to_the_end(
        steps(
            model, train, objective, training, rng=rng, device=device, extra=extra, beside=beside, monitor=monitor,
            after=after,
        )
    )  # fmt: skip


def to_the_end(run: Run) -> nn.Module:
    """The model that a run of steps ends with."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def steps(
    model: nn.Module,
    train: ImageSet,
    objective: Objective,
    training: Training,
    *,
    rng: Generator,
    device: torch.device | str | None = None,
    extra: Iterable[nn.Module] = (),
    beside: nn.Module | None = None,
    monitor: Monitor | None = None,
    after: Callable[[], object] | None = None,
) -> Run:
    """`loop` that pauses before every step, so that several can be taken in turns; none disturbs another's bits."""
    device = torch.device(device or next(model.parameters()).device)
    number, order = fastest(model, train, training, device)
    layout = torch.channels_last if order == "channels_last" else torch.contiguous_format
    for module in (model, beside, *extra):
        if module is not None:
            module.to(device, memory_format=layout)  # type: ignore[call-overload]
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if norms and min(training.batch_size, len(train)) < 2:
        raise BadInput(
            f"{called(model)} has BatchNorm, which needs two images a step at least; here are {len(train)} images and "
            f"batch_size={training.batch_size}. Give 2 or more of both."
        )
    parameters = [p for module in (model, *extra) for p in module.parameters() if p.requires_grad]
    count = training.epochs * max(len(train) // training.batch_size, 1)
    solver = training.solver(parameters)
    plan = training.plan(solver, count)
    train = train.to(device)
    look = _Look(count, plan)
    draws = Draws(spawn(rng))

    # what looks into a network, as distillers do, sees nothing of passes that are replayed
    replays = objective is cross_entropy and count >= MANY and recordable(model, device)
    bf16 = torch.autocast(device.type, torch.bfloat16, cache_enabled=not replays)
    cast = bf16 if number == "bf16" else nullcontext()

    def passes(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with cast:
            return objective(model, x, y)

    recorded: Recorded | None = None
    model.train()
    for _ in range(training.epochs):
        for x, y in train.batches(training.batch_size, rng, training.augment):
            yield
            x = x.contiguous(memory_format=layout)
            with torch.enable_grad(), nullcontext() if replays else draws:
                if replays:
                    recorded = recorded or Recorded(model, passes, x, y)
                    value = recorded(x, y)
                    solver.step()
                else:
                    value = passes(model, x, y)
                    descend(solver, value)
            if after:
                after()
            look(value.detach())
            plan.step()
        if monitor:
            monitor(model)
    look.finish()
    model.zero_grad(set_to_none=True)
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


class _Look:
    """Looks at the loss every few steps: tells the watcher, and stops a run that has gone wrong."""

    def __init__(self, steps: int, plan: torch.optim.lr_scheduler.LRScheduler) -> None:
        self.steps, self.plan, self.done = steps, plan, 0
        self.first: float | None = None  # the loss that others are compared with
        self.pending: list[tuple[Tensor, float]] = []
        self.watcher = _watcher.get()

    def __call__(self, value: Tensor) -> None:
        self.pending.append((value, float(self.plan.get_last_lr()[0])))
        if len(self.pending) == CHECK_EVERY:
            self.finish()

    def finish(self) -> None:
        if not self.pending:
            return
        window = torch.stack([value for value, _ in self.pending]).float().tolist()
        for (_, lr), value in zip(self.pending, window, strict=True):
            self.done += 1
            self.first = max(value, 1.0) if self.first is None else self.first
            if not math.isfinite(value) or value > EXPLODED * self.first:
                raise Diverged(
                    f"the loss is {value:.3g} at step {self.done} of {self.steps}, learning rate {lr:.3g}. "
                    "Lower lr, or look at the images and labels."
                )
        self.pending.clear()
        if self.watcher:
            self.watcher(self.done, self.steps, sum(window) / len(window))
