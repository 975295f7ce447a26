"""fit() and distill(): the training loop, once. Precision, schedule, seeds and progress live here, nowhere else."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .errors import BadInput, Diverged
from .flags import flag
from .imageset import Augment, ImageSet
from .models import Taps, check_fits, eval_mode, resolve, taps
from .probe import fastest
from .seeds import rng as make_rng
from .seeds import seeded, spawn
from .siamese import Siamese
from .solvers import make_optimizer, make_schedule

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
Watcher = Callable[[int, int, float], None]
Loss = Callable[[Taps, Taps, Tensor], Tensor]
Layers = str | list[str]  # "auto", or module paths

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


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The default objective; labels are class numbers [B] or soft labels [B,K]."""
    return F.cross_entropy(model(x).float(), y)


def fit(
    model: nn.Module,
    train: ImageSet,
    *,
    objective: Objective = cross_entropy,
    rng: Generator | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> nn.Module:
    """Train a copy of `model` on `train` and return it in eval mode; `model` is left as it was.

    Args:
        model: images [B,C,H,W] in 0..1 → logits [B,K].
        train: the images; a trigger with stamp="after" is applied behind the augmentation.
        objective: (model, x, y) → scalar loss; default cross-entropy.
        rng: decides order and augmentation (default: a fixed stream).
        device: where to train (default: where the model is).
        **options: epochs, batch_size, optimizer, lr, … as `loop` lists them.

    Raises:
        BadInput: the images do not fit the model, or an option is out of range.
        Diverged: the loss became NaN, infinite, or 100 times what it was; names the step and the rate.
    """
    check_fits(model, train)
    student = copy.deepcopy(model)
    return loop(student, train, objective, rng=rng or make_rng("fit"), device=device, **options)


def distill(
    student: nn.Module,
    teacher: nn.Module,
    train: ImageSet,
    *,
    loss: Loss | Mapping[tuple[str, str], Loss],
    layers: Layers | tuple[list[str], list[str]] = "auto",
    label_weight: float | None = None,
    teacher_mode: Literal["eval", "train"] | None = None,
    warmup: float | None = None,
    rng: Generator | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> nn.Module:
    """Train a copy of `student` to follow `teacher` on `train`; both are left as they were.

    Args:
        student: the model to train.
        teacher: the model to follow; it sees the same augmented images.
        train: images and labels.
        loss: a distiller (student taps, teacher taps, y) → scalar, or a mapping
            {(student layer, teacher layer): distiller} whose terms are added.
        layers: module paths tapped in both, a pair of lists (student's, teacher's), a word that `resolve` knows,
            or "auto" = where the distiller declares to listen, for most of them the group ends.
        label_weight: weight of the cross-entropy on labels, ≥ 0 (default: what the distiller declares, or 1).
        teacher_mode: "eval", or "train" (BatchNorm then uses batch statistics; flagged). Default: as declared.
        warmup: of a distiller in two stages, the share 0..1 of the epochs in which the student follows this loss
            alone, without labels; 0 runs it in one stage (default: what the distiller declares). In the second
            stage the teacher is in eval mode.
        rng: decides order and augmentation.
        device: where to train (default: where the student is).
        **options: as for `loop`.

    Raises:
        BadInput: layers do not pair, or the images do not fit a model.
        NotFound: a layer that a model does not have.
        Diverged: as `fit`.
    """
    teacher_mode = teacher_mode or _declared(loss, "teacher_mode", "eval")
    warmup = _declared(loss, "warmup", 0.0) if warmup is None else warmup
    label_weight = _declared(loss, "label_weight", 1.0) if label_weight is None else label_weight
    if teacher_mode not in ("eval", "train"):
        raise BadInput(f"teacher_mode={teacher_mode!r} is neither 'eval' nor 'train'.")
    if not 0 <= label_weight < math.inf:
        raise BadInput(f"label_weight={label_weight} is negative; give 0 or more.")
    if not 0 <= warmup < 1:
        raise BadInput(f"warmup={warmup} is outside [0, 1); it is a share of the epochs: type 0.1 for 10 %.")
    check_fits(student, train)
    check_fits(teacher, train)
    device = torch.device(device or next(student.parameters()).device)
    rng = rng or make_rng("distill")
    if warmup:
        epochs = options.pop("epochs", 10)
        if epochs < 2:
            raise BadInput(f"epochs={epochs}: a distiller in two stages needs one epoch for each. Give 2 or more.")
        first = min(max(round(warmup * epochs), 1), epochs - 1)
        stage = {"teacher_mode": teacher_mode, "warmup": 0.0, "rng": rng, "device": device, **options}
        student = distill(student, teacher, train, loss=loss, layers=layers, label_weight=0.0, epochs=first, **stage)
        stage["epochs"] = epochs - first
        then = _declared(loss, "then", None)
        if then is not None:
            stage["teacher_mode"] = "eval"
            return distill(student, teacher, train, loss=then, layers=[], label_weight=label_weight, **stage)
        del stage["teacher_mode"], stage["warmup"]
        return fit(student, train, **stage)
    student = copy.deepcopy(student)
    teacher = copy.deepcopy(teacher).to(device).requires_grad_(False).train(teacher_mode == "train")
    if teacher_mode == "train":
        flag("teacher-in-train-mode")
    if _size(student) > _size(teacher):
        flag("larger-student")
    loss = copy.deepcopy(_made(loss))  # a distiller with connectors is trained along; the caller's stays as it was
    own, theirs = _paths(loss, layers, student, teacher, train)
    losses = [_inner(part) for part in (loss.values() if isinstance(loss, Mapping) else [loss])]
    modules = [part for part in losses if isinstance(part, nn.Module)]

    with taps(student, own) as read_student, taps(teacher, theirs) as read_teacher:
        if any(hasattr(part, "bind") for part in modules):
            with seeded(spawn(rng)):
                _bind(loss, read_student, read_teacher, student, teacher, train)
        alive = False

        def objective(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            nonlocal alive
            with torch.no_grad():
                target = _full(read_teacher(x))
            seen = _full(read_student(x))
            with torch.autocast(x.device.type, enabled=False):
                term = _term(loss, seen, target, y)
                if not alive:
                    alive = True
                    if not _has_gradient(term, student):
                        flag("loss-dead")
                if label_weight:
                    term = term + label_weight * F.cross_entropy(seen.logits, y)
            return term

        student = loop(student, train, objective, rng=rng, device=device, extra=modules, beside=teacher, **options)
    for part in modules:
        if hasattr(part, "finish"):
            part.finish(student)  # type: ignore[operator]
    return student


def loop(
    model: nn.Module,
    train: ImageSet,
    objective: Objective,
    *,
    rng: Generator,
    epochs: int = 10,
    batch_size: int = 128,
    optimizer: Literal["sgd", "adam"] = "sgd",
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
    schedule: Literal["onecycle", "cosine", "step", "constant"] = "onecycle",
    milestones: tuple[int, ...] = (),
    gamma: float = 0.1,
    augment: Augment | Siamese = Augment(),  # noqa: B008 - frozen
    device: torch.device | str | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto",
    extra: Iterable[nn.Module] = (),
    beside: nn.Module | None = None,
    monitor: Callable[[nn.Module], Any] | None = None,
) -> nn.Module:
    """Train `model` in place and return it in eval mode.

    Args:
        model: what is trained.
        train: the images.
        objective: (model, x, y) → scalar.
        rng: decides order and augmentation; also what dropout draws.
        epochs: passes over the images, ≥ 1.
        batch_size: images a step; a short last batch is dropped.
        optimizer: "sgd" or "adam".
        lr: learning rate, > 0; of one-cycle its maximum.
        momentum: of SGD, 0..1.
        nesterov: Nesterov momentum in SGD.
        weight_decay: L2 penalty, ≥ 0.
        schedule: "onecycle" (Smith, arXiv 1708.07120), "cosine" to 0, "step", or "constant".
        milestones: of "step": epochs after which the rate is multiplied by gamma.
        gamma: of "step".
        augment: flip, crop and cutout on each batch, or `Siamese`.
        device: default where the model is.
        precision: "fp32", "bf16" autocast, or what a short probe finds faster.
        memory_format: likewise.
        extra: modules trained along (connectors of a distiller).
        beside: a module that runs in every step without being trained (a teacher).
        monitor: called with `model` after every epoch; it may look, and must change and draw nothing.

    Raises:
        BadInput: an option is out of range.
        Diverged: names the step and the learning rate.
    """
    for name, given, good in [
        ("epochs", epochs, epochs >= 1),
        ("batch_size", batch_size, batch_size >= 1),
        ("lr", lr, 0 < lr < math.inf),
        ("momentum", momentum, 0 <= momentum < 1),
        ("weight_decay", weight_decay, 0 <= weight_decay < math.inf),
    ]:
        if not good:
            raise BadInput(f"{name}={given} is out of range; see `help(distrust.training.loop)`.")
    device = torch.device(device or next(model.parameters()).device)
    number, order = fastest(model, train, batch_size, device, precision, memory_format)
    layout = torch.channels_last if order == "channels_last" else torch.contiguous_format
    for module in (model, beside, *extra):
        if module is not None:
            module.to(device, memory_format=layout)  # type: ignore[call-overload]
    parameters = [p for module in (model, *extra) for p in module.parameters() if p.requires_grad]
    steps = epochs * max(len(train) // batch_size, 1)
    solver = make_optimizer(optimizer, parameters, lr, momentum, nesterov, weight_decay)
    plan = make_schedule(schedule, solver, lr, steps, [m * steps // epochs for m in milestones], gamma)
    cast = torch.autocast(device.type, torch.bfloat16) if number == "bf16" else nullcontext()
    train = train.to(device)
    look = _Look(steps, plan)

    model.train()
    with torch.enable_grad(), seeded(spawn(rng)):
        for _ in range(epochs):
            for x, y in train.batches(batch_size, rng, augment):
                with cast:
                    value = objective(model, x.contiguous(memory_format=layout), y)
                solver.zero_grad(set_to_none=True)
                value.backward()
                solver.step()
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


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _full(read: Taps) -> Taps:
    """Losses are computed in float32, whatever the precision of the forward pass."""
    return Taps(read.logits.float(), {path: feature.float() for path, feature in read.features.items()})


def _declared(loss: Any, name: str, default: Any) -> Any:
    """What the distiller's mark says."""
    return getattr(getattr(_inner(loss), "method", None), name, default)


def _inner(loss: Any) -> Any:
    """The distiller itself, looking through functools.partial."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss


def _made(loss: Any) -> Any:
    """A distiller given as a class is made with its defaults."""
    if isinstance(loss, Mapping):
        return {pair: _made(part) for pair, part in loss.items()}
    inner = _inner(loss)
    return loss() if inspect.isclass(inner) else loss


def _bind(loss: Any, read_student: Any, read_teacher: Any, student: nn.Module, teacher: nn.Module, train: ImageSet):
    """Let each distiller with connectors build them for what the two models show of two images."""
    x = train.pixels(slice(0, 2))
    with torch.no_grad(), eval_mode(student), eval_mode(teacher):
        ours = read_student(x.to(next(student.parameters()).device))
        theirs = read_teacher(x.to(next(teacher.parameters()).device))
    for (s, t), part in loss.items() if isinstance(loss, Mapping) else [((None, None), loss)]:
        part = _inner(part)
        if hasattr(part, "bind"):
            part.bind(_only(ours, s), _only(theirs, t), teacher)


def _only(read: Taps, path: str | None) -> Taps:
    return read if path is None else Taps(read.logits, {path: read.features[path]})


def _paths(loss: Any, layers: Any, student: nn.Module, teacher: nn.Module, train: ImageSet) -> tuple[list, list]:
    if isinstance(loss, Mapping):
        if not loss:
            raise BadInput("loss is an empty mapping; give {(student layer, teacher layer): loss}.")
        return [s for s, _ in loss], [t for _, t in loss]
    if _declared(loss, "logits_only", False):
        return [], []
    if layers == "auto":
        layers = _declared(loss, "auto", "groups")
    own, theirs = layers if isinstance(layers, tuple) else (layers, layers)
    shape = train.x.shape[1:]
    own, theirs = resolve(student, own, shape), resolve(teacher, theirs, shape)
    if len(own) != len(theirs):
        raise BadInput(
            f"the student has {len(own)} layers to match ({', '.join(own)}), the teacher {len(theirs)} "
            f"({', '.join(theirs)}). Name the pairs: layers=([student's], [teacher's])."
        )
    return own, theirs


def _term(loss: Any, student: Taps, teacher: Taps, y: Tensor) -> Tensor:
    if not isinstance(loss, Mapping):
        return loss(student, teacher, y)
    return sum(part(_only(student, s), _only(teacher, t), y) for (s, t), part in loss.items())  # type: ignore[return-value]


def _has_gradient(term: Tensor, student: nn.Module) -> bool:
    if not term.requires_grad:
        return False
    parameters = [p for p in student.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return any(g is not None and bool(g.count_nonzero()) for g in gradients)
