"""Several small networks of one architecture, trained as one: a GPU starts a kernel once for all of them."""

from __future__ import annotations

import copy
import json
import time
import timeit
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from ..data import ImageSet
from ..errors import BadInput, Diverged
from ..models import Normalize, called, check_fits
from ..seeds import spawn
from .fastest import MARGIN, _remembered, fastest, processor
from .loop import _Look, descend, fit
from .options import Training

DROPOUT = nn.modules.dropout._DropoutNd


def fit_together(
    models: Sequence[nn.Module],
    trains: Sequence[ImageSet],
    *,
    training: Training = Training(),
    rngs: Sequence[Generator],
    device: torch.device | str | None = None,
    together: bool | None = None,
) -> list[nn.Module]:
    """Train copies of the models as `fit` does each with its own images and generator, to rounding; in eval mode.

    All take the same steps at once: their weights are stacked, and one optimiser moves the stack. Each sees the
    batches that `fit` would give it. Where that is not faster than one after the other, they are fitted one by one.

    Args:
        models: of one architecture: images [B,C,H,W] in 0..1 → logits [B,K]. They are left as they were.
        trains: for each model its images, as many of one shape.
        training: how, for all of them.
        rngs: for each model what decides order and augmentation, which must draw from nothing else.
        device: where to train (default: where the first model is).
        together: whether to train them as one (default: as a short probe finds; never on a CPU).

    Raises:
        BadInput: models, images or generators that do not match each other, or dropout with together=True.
        Diverged: of one model, the loss became NaN, infinite, or 100 times what it was; names it, the step and the
            rate.
    """
    if not len(models) == len(trains) == len(rngs):
        raise BadInput(f"{len(models)} models, {len(trains)} image sets, {len(rngs)} generators. Give as many of each.")
    for model, train in zip(models, trains, strict=True):
        check_fits(model, train)
    device = torch.device(device or next(models[0].parameters()).device)
    wrong = _mismatch(models, trains)
    if together and wrong:
        raise BadInput(f"{wrong} Train them one by one.")
    if together is None:
        together = not wrong and pays(models, trains, training, device)
    if together:
        return _together(models, trains, training, rngs, device)
    alone = zip(models, trains, rngs, strict=True)
    return [fit(model, train, training=training, rng=rng, device=device) for model, train, rng in alone]


def pays(
    models: Sequence[nn.Module], trains: Sequence[ImageSet], training: Training, device: torch.device | str
) -> bool:
    """Whether the models train faster as one than one after the other, on this machine: measured once, then remembered.

    On a CPU they do not: one network fills its cores, and the stack's grouped convolutions are slower.
    """
    device, n, train = torch.device(device), len(models), trains[0]
    if device.type == "cpu" or n < 2:
        return False
    way = fastest(models[0], train, training, device)
    size = min(training.batch_size, len(train))
    shapes = [list(p.shape) for p in models[0].parameters()]
    context = ["grouped", type(models[0]).__qualname__, shapes, n, size, list(train.x.shape[1:]), way]
    machine = [str(device), torch.get_num_threads(), torch.__version__, processor(device)]
    few = training.changed(epochs=1, precision=way[0], memory_format=way[1])
    some = [images[:size] for images in trains]

    def measure() -> tuple[str, str]:
        alone = n * _seconds(models[:1], some[:1], few, device)
        try:
            both = _seconds(models, some, few, device)
        except torch.OutOfMemoryError:
            return "alone", "0"
        return "together" if alone > MARGIN * both else "alone", f"{alone / both:.2f}"

    answer = _remembered(json.dumps([context, machine]), measure)
    return answer is not None and answer[0] == "together"


def _mismatch(models: Sequence[nn.Module], trains: Sequence[ImageSet]) -> str | None:
    """Why they cannot be trained as one."""
    if not models:
        return "There is no model."
    for model in models:
        if any(isinstance(module, DROPOUT) and module.p > 0 for module in model.modules()):
            return f"{called(model)} has dropout, which would draw other numbers than it does alone."
        if _build(model) != _build(models[0]):
            return f"{called(model)} and {called(models[0])} are not built alike."
    for train in trains:
        if (len(train), train.x.shape[1:]) != (len(trains[0]), trains[0].x.shape[1:]):
            return f"{train.name} and {trains[0].name} have not as many images of one shape."
        if train.y.shape[1:] != trains[0].y.shape[1:]:
            return f"{train.name} and {trains[0].name} have not the same kind of labels."
    return None


def _build(model: nn.Module) -> list[object]:
    """What models must have in common."""
    said = {name: "" if isinstance(m, Normalize) else m.extra_repr() for name, m in model.named_modules()}
    modules = [(name, type(module), said[name]) for name, module in model.named_modules()]
    return [modules, [(n, p.shape, p.dtype, p.requires_grad) for n, p in model.named_parameters()]]


class _Stack:
    """The models' weights and buffers [N,…], and their losses; a step of one is a step of all."""

    def __init__(self, models: Sequence[nn.Module], training: Training, number: str, device: torch.device) -> None:
        copies = [copy.deepcopy(model).to(device).train() for model in models]
        self.copies, (self.weights, self.buffers) = copies, stack_module_state(copies)  # type: ignore[arg-type]
        self.body = copy.deepcopy(copies[0]).to("meta")
        self.solver = training.solver([w for w in self.weights.values() if w.requires_grad])  # type: ignore[misc]
        self.cast = torch.autocast(device.type, torch.bfloat16) if number == "bf16" else nullcontext()
        self.losses = torch.func.vmap(self._loss)

    def _loss(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(self.body, (weights, buffers), (x,)).float(), y)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Losses [N] of images [N,B,C,H,W] and labels [N,B] or [N,B,K], and one step down all of them."""
        with self.cast:
            losses = self.losses(self.weights, self.buffers, x, y)
        descend(self.solver, losses.sum())  # a model's weights are in its own loss alone
        return losses.detach()

    def taken_apart(self) -> list[nn.Module]:
        """The models, each with its own weights and buffers."""
        with torch.no_grad():
            for i, model in enumerate(self.copies):
                for own, stacked in ((model.named_parameters(), self.weights), (model.named_buffers(), self.buffers)):
                    for name, tensor in own:
                        tensor.copy_(stacked[name][i])
        return [model.eval() for model in self.copies]


def _together(
    models: Sequence[nn.Module], trains: Sequence[ImageSet], training: Training, rngs: Sequence[Generator],
    device: torch.device,
) -> list[nn.Module]:  # fmt: skip
    number, _ = fastest(models[0], trains[0], training, device)
    stack = _Stack(models, training, number, device)
    steps = training.epochs * max(len(trains[0]) // training.batch_size, 1)
    plan = training.plan(stack.solver, steps)
    trains = [train.to(device) for train in trains]
    looks = [_Look(steps, plan) for _ in models]
    for look in looks[1:]:
        look.watcher = None  # who watches sees the first
    for rng in rngs:
        spawn(rng)  # which `fit` gives to dropout
    with torch.enable_grad():
        for _ in range(training.epochs):
            streams = zip(trains, rngs, strict=True)
            steps_of = [train.batches(training.batch_size, rng, training.augment) for train, rng in streams]
            for batches in zip(*steps_of, strict=True):
                x, y = (torch.stack(part) for part in zip(*batches, strict=True))
                _look(looks, stack.step(x, y))
                plan.step()
    _look(looks, None)
    return stack.taken_apart()


def _look(looks: Sequence[_Look], losses: Tensor | None) -> None:
    """Hand every model's loss to its look; at the end, None."""
    for i, look in enumerate(looks):
        try:
            look.finish() if losses is None else look(losses[i])
        except Diverged as error:
            raise Diverged(f"model {i + 1} of {len(looks)}: {error}") from None


def _seconds(
    models: Sequence[nn.Module], trains: Sequence[ImageSet], training: Training, device: torch.device
) -> float:
    """Of a step, once warm: of the stack, or of a single model in the memory format that `training` says."""
    x, y = (torch.stack(rows).to(device) for rows in zip(*((t.pixels(), t.y) for t in trains), strict=True))
    if len(models) > 1:
        stack = _Stack(models, training, training.precision, device)

        def step() -> None:
            stack.step(x, y)
    else:
        layout = torch.channels_last if training.memory_format == "channels_last" else torch.contiguous_format
        model = copy.deepcopy(models[0]).to(device, memory_format=layout).train()  # type: ignore[call-overload]
        solver = training.solver([p for p in model.parameters() if p.requires_grad])
        batch = x[0].contiguous(memory_format=layout)

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                loss = F.cross_entropy(model(batch).float(), y[0])
            descend(solver, loss)

    def waited() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.enable_grad():
        waited()
        return min(timeit.repeat(waited, number=1, repeat=5, timer=time.perf_counter))
