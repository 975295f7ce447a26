"""ABL: train anew on images that may be poisoned; those that are learnt first are isolated, and then unlearnt."""

from __future__ import annotations

from dataclasses import replace

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import PLAIN, Augment, ImageSet
from ...data.images import as_8_bit
from ...errors import BadInput
from ...marks import Count, Half, NonNegative, Positive, defense
from ...measurement import outputs
from ...models import check_fits
from ...seeds import rng as make_rng
from ...seeds import spawn
from ...training import Training, cross_entropy, loop
from .._costs import LOOK
from ._unlabelled import fresh

ANEW = Training(
    epochs=60, batch_size=64, weight_decay=1e-4, schedule="step", milestones=(40,), augment=Augment(cutout=3)
)


@defense(
    paper="Li, Lyu, Koren, Lyu, Li, Ma, Anti-Backdoor Learning, NeurIPS 2021, arXiv 2110.11571",
    cost=lambda options, n: (
        options["isolation_epochs"] + LOOK + (1 - options["isolate"]) * options["epochs"]
        + options["isolate"] * options["unlearn_epochs"]
    ) * n,
)  # fmt: skip
def abl(
    model: nn.Module,
    trained_on: ImageSet,
    *,
    isolate: Half = 0.01,
    level: NonNegative = 0.5,
    isolation_epochs: Count = 20,
    unlearn_epochs: Count = 20,
    unlearn_lr: Positive = 5e-4,
    training: Training = ANEW,
    rng: Generator | None = None,
) -> nn.Module:
    """From the training images, which purify lacks: train anew on sign(CE − γ) · CE; unlearn those of the lowest CE.

    These are isolated; the network trains on the others, and then climbs the CE of the isolated ones.

    Args:
        model: the suspect, of which the architecture and the normalisation are kept and no weight.
        trained_on: the images that the suspect was trained on, poisoned ones among them.
        isolate: share of the images that are taken to be poisoned, 0..0.5, rounded to a whole number.
        level: γ ≥ 0, near which the first training keeps the CE of a batch.
        isolation_epochs: passes of the first training, at a constant rate and without augmentation.
        unlearn_epochs: passes over the isolated images while their CE is climbed, likewise.
        unlearn_lr: the rate of the climb.
        training: how the others are trained on; with other `epochs` name `milestones` too.
        rng: decides the start, order and augmentation.

    Raises:
        BadInput: a share that rounds to less than two images, or a model that does not know how it was built.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: as in the released code, the sign is that of a batch's mean CE. From the released code: the
    images are shuffled in the first training too; there are 20 epochs of that and of the climb, as in the paper.
    """
    check_fits(model, trained_on)
    count = round(isolate * len(trained_on))
    if count < 2:
        few = f"isolate={isolate} of {len(trained_on)} images is {count}, and a step needs two"
        raise BadInput(f"{few}. Give {2 / len(trained_on):.2g} or more, or more images.")
    rng = rng or make_rng("abl")
    network, plain = fresh(model, spawn(rng)), replace(training, augment=PLAIN, schedule="constant")

    def near_gamma(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        loss = cross_entropy(model, x, y)
        return (loss - level).sign() * loss

    def climb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return -cross_entropy(model, x, y)

    loop(network, trained_on, near_gamma, replace(plain, epochs=isolation_epochs), rng=spawn(rng))
    logits, late = outputs(network, trained_on), trained_on.late
    if late is not None and late.rows.any():  # as they were in training
        logits[late.rows] = outputs(network, as_8_bit(late.trigger(trained_on.pixels(late.rows).cpu())))
    order = F.cross_entropy(logits, trained_on.y.cpu(), reduction="none").argsort(stable=True)
    isolated, others = (trained_on[rows.sort().values] for rows in (order[:count], order[count:]))
    loop(network, others, cross_entropy, training, rng=spawn(rng))
    return loop(network, isolated, climb, replace(plain, epochs=unlearn_epochs, lr=unlearn_lr), rng=spawn(rng))
