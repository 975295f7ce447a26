"""What no loop can beat: the passes alone, on a batch that is in place, in the precision and layout that ours takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import distrust as dt
from distrust.models import frozen, resolve, taps
from distrust.training.fastest import fastest

Run = Callable[[], None]


def fit(model: nn.Module, images: dt.ImageSet, batch: int, device: str) -> Run:
    """Forward, backward and step, as many as a pass over the images has."""
    cast, layout = way(model, images, batch, device)
    model = copy.deepcopy(model).to(device, memory_format=layout).train()
    solver = dt.Training().solver(model.parameters())
    x, y = _place(images, batch, device, layout)

    def run() -> None:
        for _ in range(len(images) // batch):
            with cast():
                loss = F.cross_entropy(model(x).float(), y)
            _descend(solver, loss)

    return run


def distill(student: nn.Module, teacher: nn.Module, images: dt.ImageSet, loss: Any, batch: int, device: str) -> Run:
    """The teacher's forward, the student's forward and backward, the loss, and the step."""
    cast, layout = way(student, images, batch, device)
    student, teacher = (copy.deepcopy(net).to(device, memory_format=layout).train() for net in (student, teacher))
    teacher.requires_grad_(False).train(loss.method.teacher_mode == "train")
    x, y = _place(images, batch, device, layout)
    paths = [resolve(net, loss.method.auto, tuple(images.x.shape[1:])) for net in (student, teacher)]
    term = loss() if isinstance(loss, type) else loss

    def run() -> None:
        with taps(student, paths[0]) as ours, taps(teacher, paths[1]) as theirs:
            for _ in range(len(images) // batch):
                with cast():
                    with torch.no_grad():
                        target = _floats(theirs(x))
                    seen = _floats(ours(x))
                value = term(seen, target, y) + loss.method.label_weight * F.cross_entropy(seen.logits, y)
                _descend(solver, value)

    learnt = list(student.parameters())
    if isinstance(term, nn.Module):
        with torch.no_grad(), taps(student, paths[0]) as ours, taps(teacher, paths[1]) as theirs:
            term.bind(_floats(ours(x)), _floats(theirs(x)), teacher)
        learnt += list(term.to(device).parameters())
    solver = dt.Training().solver(learnt)
    return run


def predict(model: nn.Module, images: dt.ImageSet, batch: int, device: str) -> Run:
    """Forwards in float32 without gradients."""
    model = frozen(model).to(device)
    x, _ = _place(images, batch, device, torch.channels_last)

    def run() -> None:
        with torch.no_grad():
            for _ in range(len(images) // batch):
                model(x)

    return run


def gradients(model: nn.Module, images: dt.ImageSet, batch: int, steps: int, device: str, *, auto: bool = True) -> Run:
    """Forwards, and backwards to the pixels: what optimises images; `auto` in the fastest precision, else float32."""
    cast, layout = way(model, images, batch, device) if auto else (_cast("fp32", device), torch.channels_last)
    model = frozen(model).to(device, memory_format=layout)
    x, y = _place(images, batch, device, layout)
    x.requires_grad_()

    def run() -> None:
        for _ in range(steps):
            with cast():
                loss = F.cross_entropy(model(x).float(), y)
            torch.autograd.grad(loss, [x])

    return run


def way(model: nn.Module, images: dt.ImageSet, batch: int, device: str) -> tuple[Callable[[], Any], Any]:
    """The precision, as a context, and the memory format that the loop takes for this model here."""
    precision, order = fastest(model, images, dt.Training(batch_size=batch), torch.device(device))
    layout = torch.channels_last if order == "channels_last" else torch.contiguous_format
    return _cast(precision, device), layout


def _cast(precision: str, device: str) -> Callable[[], AbstractContextManager[Any]]:
    return partial(torch.autocast, torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def _place(images: dt.ImageSet, batch: int, device: str, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    x = images.pixels(slice(0, batch)).to(device).contiguous(memory_format=layout)
    return x, images.y[:batch].to(device)


def _floats(read: Any) -> Any:
    return dt.Taps(read.logits.float(), {path: feature.float() for path, feature in read.features.items()})


def _descend(solver: torch.optim.Optimizer, loss: Tensor) -> None:
    solver.zero_grad()
    loss.backward()
    solver.step()
