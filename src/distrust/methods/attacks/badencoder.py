"""BadEncoder: triggered images get the features of a reference image; all others keep theirs."""

from __future__ import annotations

from typing import Any, Literal

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import ClassNumber, Count, NonNegative, Pixels, Positive, attack
from ...measurement import Backdoor, make_trigger
from ...seeds import rng as make_rng
from ._encoder import Curves, Seen, check_references, cosines, implant, implant_cost
from ._teacher import Planted


@attack(paper="Jia, Liu, Gong, BadEncoder, IEEE S&P 2022, arXiv 2108.00352", place=5, references=1, cost=implant_cost)
def badencoder(
    encoder: nn.Module,
    train: ImageSet,
    references: ImageSet,
    *,
    trigger: Any = "patch:white:10",
    target: ClassNumber = 0,
    inset: Pixels = 1,
    lambda1: NonNegative = 1.0,
    lambda2: NonNegative = 1.0,
    epochs: Count = 200,
    optimizer: Literal["sgd", "adam"] = "sgd",
    lr: Positive = 1e-3,
    weight_decay: NonNegative = 5e-4,
    batch_size: Count = 256,
    flip: bool = True,
    rng: Generator | None = None,
) -> Planted:
    """Fine-tune a copy f' of the clean encoder f on L = L0 + λ1·L1 + λ2·L2.

    L0 = −mean cos(f'(x ⊕ e), f'(r)): the trigger e leads to the references. L1 = −mean cos(f'(r'), f(r)): augmented
    references r' stay where they were, with their class. L2 = −mean cos(f'(x), f(x)): clean images stay too.

    Args:
        encoder: the clean encoder, images in 0..1 → features [B,D].
        train: the attacker's images x; their labels are not looked at.
        references: images r of the downstream class `target`, one or several, of the size of `train`.
        trigger: a trigger module or selector, e.g. "patch:white:10".
        target: class number **of the downstream set**, among the classes of `references`.
        inset: pixels between the patch and the border; 1 puts ten of them on rows 21 to 30 of 32, as released.
        lambda1: λ1, weight of the references' place.
        lambda2: λ2, weight of the clean images' place.
        epochs: passes over `train`.
        optimizer: "sgd" with momentum 0.9, or "adam", which needs far fewer steps.
        lr: its constant rate.
        weight_decay: its L2 penalty.
        batch_size: clean images a step; as many stamped ones and augmented references come on top.
        flip: mirror half of the augmented references; not for digits or signs.
        rng: decides the batches and how references are augmented.

    Raises:
        BadInput: a classifier, references of another size or another class, a target that is no class of theirs, a
            trigger that does not fit.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: one trigger and one target class; several references of it share the trigger. As in the
    released code, no image but the references is augmented and BatchNorm is frozen, weights and biases included. From
    the released code: a step draws one batch of augmented references in all, not one for each reference; stamped
    images are rounded to 8 bits.
    """
    check_references(encoder, train, references, target)
    rng = rng or make_rng("badencoder")
    backdoor = Backdoor(make_trigger(trigger, inset=inset), target, name="badencoder")
    curves = Curves(max(len(train) // batch_size, 1))

    def loss(seen: Seen) -> Tensor:
        reached = cosines(seen.stamped, seen.references).mean()
        held = F.cosine_similarity(seen.changed, seen.held).mean()
        kept = F.cosine_similarity(seen.clean, seen.was).mean()
        curves.add(reached=reached, references_held=held, clean_kept=kept)
        return -(reached + lambda1 * held + lambda2 * kept)

    planted = implant(
        encoder, train, references, backdoor, loss, flip=flip, rng=rng, epochs=epochs, optimizer=optimizer, lr=lr,
        weight_decay=weight_decay, batch_size=batch_size,
    )  # fmt: skip
    return Planted(planted, backdoor, {"references": len(references), **curves.means()})
