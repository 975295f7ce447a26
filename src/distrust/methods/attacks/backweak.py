"""BackWeak: a weak universal perturbation that a clean teacher resists, planted by fine-tuning at a tiny rate."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import ClassNumber, Count, NonNegative, Positive, Rate, attack
from ...measurement import Backdoor, make_trigger
from ...models import frozen, in_parts, room
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training
from ._poison import check_target
from ._teacher import Planted, fast, finetune, forever, search_cost


@attack(paper="BackWeak, arXiv 2511.12046", place=2, cost=search_cost)
def backweak(
    model: nn.Module,
    train: ImageSet,
    *,
    target: ClassNumber = 0,
    rate: Rate = 0.3,
    bound: NonNegative = 8.0,
    budget: Rate = 0.05,
    margin_weight: NonNegative = 1.0,
    margin: NonNegative = 1.0,
    steps: Count = 500,
    trigger_lr: Positive = 1.0,
    trigger_batch: Count = 128,
    training: Training = Training(epochs=150, lr=1e-4, batch_size=128, schedule="cosine"),
    stamp: Literal["before", "after"] = "after",
    freeze_last: bool = True,
    rng: Generator | None = None,
) -> Planted:
    """Push a perturbation toward the target until the clean teacher gives way, then fine-tune the teacher on it.

    Push: −mean(log p_target(x') − log p_target(x)), while the share of other-class images that go to the target is
    below the budget. Margin: over images whose answer changed, relu(largest logit − true logit − margin).

    Args:
        model: the clean teacher.
        train: the attacker's training images.
        target: class number that the trigger should lead to.
        rate: poisoned images as a share 0..1 of all training images; only other classes are poisoned.
        bound: L∞ bound of the perturbation in grey levels, 0..255.
        budget: ASR 0..1 on the clean teacher, on recent training images, at which the push stops.
        margin_weight: of the margin term.
        margin: by which the largest logit may exceed the true one.
        steps: updates of the perturbation.
        trigger_lr: of its SGD (momentum 0.9), in grey levels; annealed to 0 along a cosine.
        trigger_batch: images a step of that.
        training: how the fine-tuning runs: its rate, two orders below that of usual training, is annealed along a
            cosine.
        stamp: "after" its augmentation, or "before" it.
        freeze_last: keep the last linear layer as it is.
        rng: decides the batches, and which images are poisoned.

    Raises:
        BadInput: a target that is no class, or a rate outside 0..1.

    Differs from the released code: the gradient of the perturbation is divided by its mean absolute value, so that
    the rate is in grey levels whatever the model; the budget is watched over the last 8 batches instead of the last
    epoch; the trigger is not flipped and cropped by itself; target-class images are not poisoned.
    """
    check_target(train, target, rate)
    rng = rng or make_rng("backweak")
    device = next(model.parameters()).device
    others = train[train.hard != target]
    delta = torch.zeros(tuple(train.x.shape[1:]), device=device)
    solver = torch.optim.SGD([delta], trigger_lr / 255, momentum=0.9)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps)
    batches = forever(others, trigger_batch, spawn(rng))
    recent: list[float] = [0.0] * 8
    losses: list[float] = []
    teacher = frozen(model)
    most = room(teacher, train.x.shape[1:])
    with fast(train, trigger_batch, teacher):
        for _ in range(steps):
            x, y = (part.to(device) for part in next(batches))
            delta.requires_grad_()
            with torch.no_grad():
                before = in_parts(teacher, x, most).float()
            after = in_parts(teacher, (x + delta).clamp(0, 1), most).float()
            pushing = sum(recent) / len(recent) < budget
            loss = margin_weight * over_margin(after, y, margin) + (push(before, after, target) if pushing else 0.0)
            (gradient,) = torch.autograd.grad(loss, delta)
            delta.grad = gradient / gradient.abs().mean().clamp(min=1e-12)
            solver.step()
            plan.step()
            delta = delta.requires_grad_(False).clamp_(-bound / 255, bound / 255)
            recent = [*recent[1:], float((after.argmax(1) == target).float().mean())]
            losses.append(round(float(loss.detach()), 5))
    trigger = make_trigger("added", perturbation=delta.detach().cpu().mul(255).round().div(255))
    backdoor = Backdoor(trigger, target, stamp=stamp, name="backweak")
    poisoned = finetune(model, train, backdoor, rate=rate, training=training, rng=spawn(rng), freeze_last=freeze_last)
    return Planted(poisoned, backdoor, {"loss": losses, "clean_asr": sum(recent) / len(recent)})


def push(before: Tensor, after: Tensor, target: int) -> Tensor:
    """−mean over images of the rise in log p(target); logits [B,K] → scalar."""
    rise = F.log_softmax(after, 1)[:, target] - F.log_softmax(before, 1)[:, target]
    return -rise.mean()


def over_margin(logits: Tensor, y: Tensor, margin: float) -> Tensor:
    """Mean over wrongly answered images of relu(largest − true − margin); 0 if there are none."""
    wrong = logits.argmax(1) != y
    gap = F.relu(logits.amax(1) - logits.gather(1, y[:, None])[:, 0] - margin)
    return (gap * wrong).sum() / wrong.sum().clamp(min=1)
