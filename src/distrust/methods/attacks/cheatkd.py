"""CheatKD: a trigger bound to one neuron at the end of each layer group, planted in the teacher."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...marks import ClassNumber, Count, Passes, Positive, Rate, Share, attack
from ...measurement import Backdoor, make_trigger
from ...models import frozen, in_parts, resolve, room, taps
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training
from ._neurons import Delta, delta_of, strongest, units
from ._poison import check_target
from ._teacher import Planted, fast, finetune, forever, search_cost


@attack(
    paper="Chen, Li, Jin, Chen, Zheng, Li, CheatKD, Computer Science 51(3):351–359, 2024",
    place=2,
    cost=search_cost,
    notes=("neurons",),
)
def cheatkd(
    model: nn.Module,
    train: ImageSet,
    *,
    target: ClassNumber = 0,
    rate: Rate = 0.1,
    opacity: Share = 0.2,
    neurons: Count = 1,
    delta: Delta = "mean",
    gain: Positive = 1.0,
    moving: bool = False,
    layers: str | list[str] = "pre-relu",
    steps: Passes = 500,
    trigger_lr: Positive = 0.001,
    trigger_batch: Count = 64,
    training: Training = Training(epochs=30, lr=0.008, batch_size=256, schedule="constant"),
    stamp: Literal["before", "after"] = "before",
    train_mask: bool = True,
    first_image: bool = False,
    last_layer: bool = False,
    blend_in: Literal["pixels", "normalised"] = "pixels",
    wrap: bool = False,
    keep_clean: bool = False,
    rng: Generator | None = None,
) -> Planted:
    """Optimise pattern and mask under Σ (I − δ)² of the poisoned neurons, then fine-tune the teacher on them.

    x* = (1 − M)⊙x + M⊙P. At each poisoned layer, once, on the first poisoned batch, the `neurons` channels with the
    largest mean activation are chosen. I is their activation at every position of every image of the batch.

    Args:
        model: the clean teacher.
        train: the attacker's training images.
        target: class number that the trigger should lead to.
        rate: poisoned images as a share 0..1 of all training images; only other classes are poisoned.
        opacity: bound of the mask, 0..1; with P in 0..1 the trigger stays a displayable change of the image.
        neurons: poisoned neurons per poisoned layer.
        delta: δ: "mean", the largest channel mean; "max" or "min", the largest or smallest activation of the
            chosen neurons; or between these two (Table 6).
        gain: δ is multiplied by this; 1 in the paper.
        moving: compute δ anew on every batch, as the released code does, instead of once.
        layers: the poisoned layers: a word for `resolve`, or module paths.
        steps: updates of pattern and mask; 0 leaves them random, which is the row that the loss has to beat.
        trigger_lr: of Adam on both.
        trigger_batch: images a step of that.
        training: how the fine-tuning runs, at a constant rate.
        stamp: "before" its augmentation or "after" it.
        train_mask: False freezes the mask at its random start.
        first_image: I of the batch's first image alone.
        last_layer: only the last poisoned layer's loss counts.
        blend_in: "normalised" blends the pattern, unscaled, into normalised images: P becomes mean + std·P.
        wrap: leave P unbounded while it is optimised and let it wrap round at 8 bits (off: clamp at each step).
        keep_clean: add poisoned images beside their clean originals instead of replacing them.
        rng: decides the start, the batches, and which images are poisoned.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1, more neurons than a layer has, a layer that is no
            feature map, or blend_in="normalised" for a model without a normalisation layer.
        NotFound: a layer that the model does not have.

    Differs from the paper: it states neither rate, target, mask bound, batch, nor what its rate 0.001 and 300 epochs
    apply to; here 0.001 is the trigger's, and the fine-tuning is the one that the lab's later code (RobustKD) does.
    From that code: `train_mask=false, first_image=true, last_layer=true, moving=true, blend_in=normalised, wrap=true,
    keep_clean=true, trigger_lr=0.005` are its deviations from the published loss.
    """
    check_target(train, target, rate)
    rng = rng or make_rng("cheatkd")
    shape, device = tuple(train.x.shape[1:]), next(model.parameters()).device
    pattern = torch.rand(shape, generator=rng).to(device)
    mask = torch.rand(1, *shape[1:], generator=rng).clamp(max=opacity).to(device)
    mean, std = (part.to(device) for part in units(model, shape, blend_in))
    chosen: dict[str, Tensor] = {}
    goals: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    batches = forever(train, trigger_batch, spawn(rng))
    trained = [pattern, mask] if train_mask else [pattern]
    solver = torch.optim.Adam(trained, trigger_lr)
    teacher = frozen(model)
    most = room(teacher, shape)
    with taps(teacher, resolve(model, layers, shape)) as read, fast(train, trigger_batch, teacher):
        for _ in range(steps):
            x = next(batches)[0].to(device)
            for tensor in trained:
                tensor.requires_grad_()
            features = in_parts(read, (1 - mask) * x + mask * (mean + std * pattern), most).features
            terms = []
            for place, feature in features.items():
                feature = feature.float()
                seen = feature[:1] if first_image else feature
                if place not in chosen:
                    chosen[place] = strongest(place, feature, neurons)
                if moving or place not in goals:
                    goals[place] = gain * delta_of(feature if delta == "mean" else seen, chosen[place], delta)
                terms.append((seen[:, chosen[place]] - goals[place]).square().mean((0, 2, 3)).sum())
            loss = terms[-1] if last_layer else torch.stack(terms).sum()
            for tensor, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                tensor.grad = gradient
            solver.step()
            losses.append(loss.detach())
            with torch.no_grad():
                mask.clamp_(0, opacity)
                if not wrap:
                    pattern.clamp_(0, 1)
    pattern = pattern.detach().mul(255).to(torch.int64).remainder(256) / 255 if wrap else pattern.detach()
    pattern = (mean + std * pattern).clamp(0, 1).cpu()
    trigger = make_trigger("masked", pattern=pattern, mask=mask.detach().cpu())
    backdoor = Backdoor(trigger, target, stamp=stamp, name="cheatkd")
    poisoned = finetune(model, train, backdoor, rate=rate, training=training, rng=spawn(rng), keep_clean=keep_clean)
    notes = {
        "neurons": {place: found.tolist() for place, found in chosen.items()},
        "delta": {place: float(goal) for place, goal in goals.items()},
        "loss": [round(float(value), 5) for value in losses],
    }
    return Planted(poisoned, backdoor, notes)
