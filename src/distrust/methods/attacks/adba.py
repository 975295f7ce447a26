"""ADBA: teacher, shadow student and trigger are trained in turn, so that the backdoor survives distillation."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import Augment, ImageSet
from ...marks import ClassNumber, Count, NonNegative, Pixels, Positive, Rate, attack
from ...measurement import Backdoor, make_trigger
from ...models import model as make_model
from ...seeds import rng as make_rng
from ...seeds import seeded, spawn
from ...training import descend
from .._costs import LOOK, passes
from ._poison import check_target
from ._teacher import Planted, fast, forever


@attack(paper="Ge et al., Anti-Distillation Backdoor Attacks, ACM MM 2021", place=2, cost=passes(5 + LOOK))
def adba(
    model: nn.Module,
    train: ImageSet,
    *,
    target: ClassNumber = 0,
    shadow: str = "same",
    alpha: Rate = 0.5,
    temperature: Positive = 1.0,
    beta: NonNegative = 0.3,
    mu: NonNegative = 0.1,
    p: Literal[1, 2] = 2,
    opacity: Rate = 1.0,
    epochs: Count = 50,
    lr: Positive = 0.01,
    trigger_lr: Positive = 3e-4,
    batch_size: Count = 128,
    flip: bool = True,
    crop: Pixels = 4,
    rng: Generator | None = None,
) -> Planted:
    """Three steps per batch: the teacher learns the trigger, the shadow follows it on clean images, the trigger adapts.

    Teacher: CE(T(x), y) + β·CE(T(x*), target). Shadow: α·h²·KL(T ‖ S) + (1 − α)·CE(S(x), y), h the temperature.
    Trigger and mask: CE(T(x*), target) + CE(S(x*), target) + μ·‖M‖_p.

    Args:
        model: the clean teacher, from which the poisoned one starts.
        train: the attacker's training images.
        target: class number that the trigger should lead to.
        shadow: a model's name, or "same" for the teacher's architecture; it starts untrained.
        alpha: share 0..1 of the distillation in the shadow's loss.
        temperature: h of that distillation.
        beta: weight of the triggered images in the teacher's loss.
        mu: weight of the mask's norm.
        p: which norm.
        opacity: bound of the mask, 0..1.
        epochs: passes over the images.
        lr: of teacher and shadow, SGD with momentum 0.9, annealed to 0 along a cosine.
        trigger_lr: of RAdam on pattern and mask.
        batch_size: images a step.
        flip: mirror half of the images; not for digits or signs. The trigger is put on afterwards.
        crop: shift them by up to so many pixels.
        rng: decides the start of pattern and shadow, and the batches.

    Raises:
        BadInput: a target that is no class.
        NotFound: a shadow model that is not known.

    Differs from the paper: it names no optimiser, rate or start; these are those of a public re-implementation (in
    SomeBottle/8ackW3ak), and weights α, β, μ and h too. The teacher starts from the clean one, so that it is
    comparable with the other attacks on a teacher, not from nothing, and sees clean and triggered images in one batch.
    """
    check_target(train, target, 1.0)
    rng = rng or make_rng("adba")
    device = next(model.parameters()).device
    shape = tuple(train.x.shape[1:])
    teacher = copy.deepcopy(model)
    name = getattr(model, "spec", {}).get("name", "") if shadow == "same" else shadow
    student = make_model(name, train, rng=spawn(rng)).to(device)
    pattern = torch.randn(shape, generator=rng).clamp(0, 1).to(device).requires_grad_()
    mask = torch.full((1, *shape[1:]), opacity, device=device, requires_grad=True)
    steps = epochs * max(len(train) // batch_size, 1)
    solvers = [torch.optim.SGD(net.parameters(), lr, momentum=0.9) for net in (teacher, student)]
    plans = [torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps) for solver in solvers]
    sculptor = torch.optim.RAdam([pattern, mask], trigger_lr)
    batches = forever(train, batch_size, spawn(rng), Augment(flip, crop))
    losses: list[list[float]] = []
    with fast(train, batch_size, teacher, student), seeded(spawn(rng)):
        for step in range(steps):
            x, y = (part.to(device) for part in next(batches))
            goal = torch.full_like(y, target)
            stamped = (1 - mask) * x + mask * pattern
            teacher.train()
            # At once: batches apart would tell BatchNorm which one is triggered, and the answer is lost in eval mode.
            clean, triggered = teacher(torch.cat([x, stamped.detach()])).float().chunk(2)
            loss_t = teacher_loss(clean, triggered, y, goal, beta)
            descend(solvers[0], loss_t)
            teacher.eval()
            student.train()
            with torch.no_grad():
                wisdom = teacher(x).float()
            loss_s = shadow_loss(student(x).float(), wisdom, y, alpha, temperature)
            descend(solvers[1], loss_s)
            student.eval()
            loss_m = trigger_loss(teacher(stamped).float(), student(stamped).float(), goal, mask, mu, p)
            sculptor.zero_grad()
            pattern.grad, mask.grad = torch.autograd.grad(loss_m, [pattern, mask])
            sculptor.step()
            with torch.no_grad():
                pattern.clamp_(0, 1)
                mask.clamp_(0, opacity)
            for plan in plans:
                plan.step()
            if step % 16 == 0:
                losses.append([round(float(loss.detach()), 4) for loss in (loss_t, loss_s, loss_m)])
    teacher.zero_grad(set_to_none=True)
    trigger = make_trigger("masked", pattern=pattern.detach().cpu(), mask=mask.detach().cpu())
    return Planted(teacher.eval(), Backdoor(trigger, target, stamp="after", name="adba"), {"loss": losses})


def teacher_loss(clean: Tensor, stamped: Tensor, y: Tensor, goal: Tensor, beta: float) -> Tensor:
    """CE on clean logits [B,K] plus β·CE on triggered ones."""
    return F.cross_entropy(clean, y) + beta * F.cross_entropy(stamped, goal)


def shadow_loss(student: Tensor, teacher: Tensor, y: Tensor, alpha: float, h: float) -> Tensor:
    """α·h²·KL(teacher ‖ student) at temperature h, plus (1 − α)·CE; logits [B,K]."""
    ours, theirs = F.log_softmax(student / h, 1), F.log_softmax(teacher / h, 1)
    kl = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return alpha * h**2 * kl + (1 - alpha) * F.cross_entropy(student, y)


def trigger_loss(teacher: Tensor, student: Tensor, goal: Tensor, mask: Tensor, mu: float, p: int) -> Tensor:
    """CE of both models on triggered images, plus μ·‖M‖_p."""
    return F.cross_entropy(teacher, goal) + F.cross_entropy(student, goal) + mu * mask.norm(p)
