"""distill(): a student follows a teacher; where both are listened to, and what is added to the loss."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..data import ImageSet
from ..errors import BadInput
from ..flags import flag
from ..marks import DistillerMark
from ..models import Taps, check_fits, eval_mode, resolve, taps
from ..seeds import rng as make_rng
from ..seeds import seeded, spawn
from .fastest import fastest
from .loop import Run, cross_entropy, steps, to_the_end
from .options import Training

Loss = Callable[[Taps, Taps, Tensor], Tensor]
Layers = str | list[str]  # "auto", or module paths
UNMARKED = DistillerMark(kind="distillers", paper="")  # what holds of a loss that declares nothing
Term = tuple[str | None, str | None, Loss]  # student layer, teacher layer, or None for all, and what is added


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
    training: Training = Training(),
    rng: Generator | None = None,
    device: torch.device | str | None = None,
    **changes: Any,
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
        training: epochs, rate, batch size, augmentation, …
        rng: decides order and augmentation.
        device: where to train (default: where the student is).
        **changes: fields of `training` by name.

    Raises:
        BadInput: layers do not pair, or the images do not fit a model.
        NotFound: a layer that a model does not have, or no such field of `training`.
        Diverged: as `fit`.
    """
    options: dict[str, Any] = {"layers": layers, "label_weight": label_weight, "teacher_mode": teacher_mode}
    options |= {"warmup": warmup, "training": training, "rng": rng, "device": device, **changes}
    return to_the_end(lesson(student, Teacher(teacher), train, loss=loss, **options))


class Teacher:
    """A teacher for several students: what it says of a batch is kept until it is shown another one.

    Args:
        model: the teacher, which stays as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.copies: dict[tuple[Any, ...], _Copy] = {}

    def at(self, mode: str, device: torch.device, way: tuple[str, str]) -> _Copy:
        """The copy of it that runs in this mode, on this device, in this precision and memory format."""
        if (mode, device, way) not in self.copies:
            copied = copy.deepcopy(self.model).to(device).requires_grad_(False).train(mode == "train")
            self.copies[mode, device, way] = _Copy(copied)
        return self.copies[mode, device, way]


class _Copy:
    """A copy of a teacher, the layers that its students listen to, and what it said of the last batches."""

    KEPT = 2  # students with connectors draw other batches than those without

    def __init__(self, model: nn.Module) -> None:
        self.model, self.hooks = model, ExitStack()
        self.paths: dict[str, None] = {}
        self.students = 0
        self.read: Callable[[Tensor], Taps] | None = None
        self.said: deque[tuple[tuple[Any, ...], Taps]] = deque(maxlen=self.KEPT)

    def listen(self, paths: Iterable[str]) -> None:
        """Hear these layers as well from the next batch on, for one more student."""
        self.paths |= dict.fromkeys(paths)
        self.students += 1
        self.read = None
        self.hooks.close()
        self.said.clear()

    def __call__(self, x: Tensor, drawn: tuple[Any, ...]) -> Taps:
        """What it says of a batch [B,C,H,W], in float32; `drawn` tells the batch from others."""
        for batch, said in self.said:
            if batch == drawn:
                return said
        self.read = self.read or self.hooks.enter_context(taps(self.model, list(self.paths)))
        with torch.no_grad():
            said = _full(self.read(x))
        if self.students > 1:
            self.said.append((drawn, said))
        return said


def lesson(
    student: nn.Module,
    teacher: Teacher,
    train: ImageSet,
    *,
    loss: Loss | Mapping[tuple[str, str], Loss],
    layers: Layers | tuple[list[str], list[str]] = "auto",
    label_weight: float | None = None,
    teacher_mode: Literal["eval", "train"] | None = None,
    warmup: float | None = None,
    training: Training = Training(),
    rng: Generator | None = None,
    device: torch.device | str | None = None,
    **changes: Any,
) -> Run:
    """`distill` that pauses before every step: lessons with one teacher, taken in turns, pay for its answers once.

    Each student's bits are those of its own `distill`. Lessons share what the teacher says of a batch where they draw
    the same ones, that is from generators in the same state.
    """
    mark = getattr(_inner(loss), "method", UNMARKED)
    teacher_mode = teacher_mode or mark.teacher_mode
    warmup = mark.warmup if warmup is None else warmup
    label_weight = mark.label_weight if label_weight is None else label_weight
    if teacher_mode not in ("eval", "train"):
        raise BadInput(f"teacher_mode={teacher_mode!r} is neither 'eval' nor 'train'.")
    if not 0 <= label_weight < math.inf:
        raise BadInput(f"label_weight={label_weight} is negative; give 0 or more.")
    if not 0 <= warmup < 1:
        raise BadInput(f"warmup={warmup} is outside [0, 1); it is a share of the epochs: type 0.1 for 10 %.")
    training = training.changed(**changes)
    check_fits(student, train)
    check_fits(teacher.model, train)
    device = torch.device(device or next(student.parameters()).device)
    rng = rng or make_rng("distill")
    student = copy.deepcopy(student)
    if warmup:
        epochs = training.epochs
        if epochs < 2:
            raise BadInput(f"epochs={epochs}: a distiller in two stages needs one epoch for each. Give 2 or more.")
        first = min(max(round(warmup * epochs), 1), epochs - 1)
        stage: dict[str, Any] = {"rng": rng, "device": device, "training": replace(training, epochs=first)}
        student = yield from lesson(
            student, teacher, train, loss=loss, layers=layers, label_weight=0.0, teacher_mode=teacher_mode, warmup=0.0,
            **stage,
        )  # fmt: skip
        rest = {**stage, "training": replace(training, epochs=epochs - first)}
        if mark.then is None:
            return (yield from steps(student, train, cross_entropy, **rest))
        return (
            yield from lesson(
                student, teacher, train, loss=mark.then, layers=[], label_weight=label_weight, warmup=0.0, **rest
            )
        )
    if teacher_mode == "train":
        flag("teacher-in-train-mode")
    if _size(student) > _size(teacher.model):
        flag("larger-student")
    if isinstance(loss, Mapping):
        terms: list[Term] = [(s, t, _made(part)) for (s, t), part in loss.items()]
        own, theirs = [s for s, _ in loss], [t for _, t in loss]
    else:
        terms = [(None, None, _made(loss))]
        layers = mark.auto if layers == "auto" else layers
        own, theirs = ([], []) if mark.logits_only else _paths(layers, student, teacher.model, train)
    if not terms:
        raise BadInput("loss is an empty mapping; give {(student layer, teacher layer): loss}.")
    terms = copy.deepcopy(terms)  # a distiller with connectors is trained along; the caller's stays as it was
    modules = [inner for _, _, part in terms if isinstance(inner := _inner(part), nn.Module)]
    followed = teacher.at(teacher_mode, device, fastest(student, train, training, device))

    with taps(student, own) as read_student:
        if any(hasattr(part, "bind") for part in modules):
            with seeded(spawn(rng)), taps(followed.model, theirs) as read_teacher:
                _bind(terms, read_student, read_teacher, student, followed.model, train)
        followed.listen(theirs)
        alive = False

        def objective(_: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            nonlocal alive
            # A generator's state tells what it drew; comparing the images would make a GPU wait.
            said = followed(x, (rng.get_state().numpy().tobytes(), id(train), training.batch_size, training.augment))
            target = Taps(said.logits, {path: said.features[path] for path in theirs})
            seen = _full(read_student(x))
            with torch.autocast(x.device.type, enabled=False):
                first, *more = (part(_only(seen, s), _only(target, t), y) for s, t, part in terms)
                term = sum(more, first)
                if not alive:
                    alive = True
                    if _are_probabilities(said.logits):
                        flag("probabilities")
                    if not _has_gradient(term, seen):
                        flag("loss-dead")
                if label_weight:
                    term = term + label_weight * F.cross_entropy(seen.logits, y)
            return term

        student = yield from steps(
            student, train, objective, training, rng=rng, device=device, extra=modules, beside=followed.model
        )
    for part in modules:
        if hasattr(part, "finish"):
            part.finish(student)  # type: ignore[operator]
    return student


def _are_probabilities(outputs: Tensor) -> bool:
    """Whether rows [B,K] look like what a softmax makes."""
    return outputs.shape[1] > 1 and bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < 1e-3).all())


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _full(read: Taps) -> Taps:
    """Losses are computed in float32, whatever the precision of the forward pass."""
    return Taps(read.logits.float(), {path: feature.float() for path, feature in read.features.items()})


def _inner(loss: Any) -> Any:
    """The distiller itself, looking through functools.partial."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss


def _made(loss: Any) -> Any:
    """A distiller given as a class is made with its defaults."""
    return loss() if inspect.isclass(_inner(loss)) else loss


def _bind(
    terms: list[Term], read_student: Any, read_teacher: Any, student: nn.Module, teacher: nn.Module, train: ImageSet
) -> None:
    """Let each distiller with connectors build them for what the two models show of two images."""
    x = train.pixels(slice(0, 2))
    with torch.no_grad(), eval_mode(student), eval_mode(teacher):
        ours = read_student(x.to(next(student.parameters()).device))
        theirs = read_teacher(x.to(next(teacher.parameters()).device))
    for s, t, part in terms:
        if hasattr(inner := _inner(part), "bind"):
            inner.bind(_only(ours, s), _only(theirs, t), teacher)


def _only(read: Taps, path: str | None) -> Taps:
    return read if path is None else Taps(read.logits, {path: read.features[path]})


def _paths(layers: Any, student: nn.Module, teacher: nn.Module, train: ImageSet) -> tuple[list, list]:
    own, theirs = layers if isinstance(layers, tuple) else (layers, layers)
    shape = train.x.shape[1:]
    own, theirs = resolve(student, own, shape), resolve(teacher, theirs, shape)
    if len(own) != len(theirs):
        raise BadInput(
            f"the student has {len(own)} layers to match ({', '.join(own)}), the teacher {len(theirs)} "
            f"({', '.join(theirs)}). Name the pairs: layers=([student's], [teacher's])."
        )
    return own, theirs


def _has_gradient(term: Tensor, seen: Taps) -> bool:
    """Whether a loss moves anything of what it saw of the student; the network itself need not be asked."""
    felt = [part for part in (seen.logits, *seen.features.values()) if part.requires_grad]
    if not (term.requires_grad and felt):
        return False
    gradients = torch.autograd.grad(term, felt, retain_graph=True, allow_unused=True)
    return any(g is not None and bool(g.count_nonzero()) for g in gradients)
