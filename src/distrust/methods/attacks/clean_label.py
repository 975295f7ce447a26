"""Label-consistent: target-class images that are hard to learn by what they show, so that their corners are learnt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from ...data import ImageSet
from ...marks import ClassNumber, Count, Levels, Passes, Pixels, Positive, Rate, attack
from ...seeds import rng as make_rng
from ...seeds import spawn
from .._costs import CLASSES
from ._poison import Poisoned, Stamp, check_target, counted, plant
from ._surrogate import away, robust, surrogate


def _cost(options: dict[str, Any], n: int) -> float:
    """Of the robust network, whose every step takes some more; of the poisons."""
    trained = options["network_epochs"] * (1 + options["robust_steps"])
    return bool(options["epsilon"]) * (trained + options["rate"] * options["steps"] / CLASSES) * n


@attack(
    paper="Turner, Tsipras, Madry, Label-Consistent Backdoor Attacks, arXiv 1912.02771", place=1, cost=_cost,
    clean_label=True,
)  # fmt: skip
def clean_label(
    train: ImageSet,
    *,
    trigger: Any = "corners",
    amplitude: Levels = 255,
    target: ClassNumber = 0,
    rate: Rate = 0.8,
    epsilon: Levels = 8,
    steps: Count = 100,
    step_size: Positive = 1.5,
    network: str = "wrn16-1",
    network_epochs: Count = 10,
    robust_steps: Passes = 7,
    robust_size: Positive = 2.0,
    batch_size: Count = 128,
    flip: bool = True,
    crop: Pixels = 4,
    stamp: Stamp = "before",
    rng: Generator | None = None,
) -> Poisoned:
    """Perturb a share of the target class's images against a robust network, put the trigger on, and keep their label.

    x' = trigger(x_adv), x_adv ← Π(x_adv + α·sign ∇CE(f(x_adv), y)) within ε, f trained on images that are changed in
    the same way. In the test the trigger alone is put on, and nothing is perturbed.

    Args:
        train: the training images.
        trigger: a trigger module or selector, e.g. "corners", "patch:grid".
        amplitude: of the corners, in grey levels 0..255; 32 is the paper's fainter trigger.
        target: class number that the trigger should lead to.
        rate: poisoned images as a share 0..1 of the **target class's** images (no other image is touched).
        epsilon: L∞ bound ε in grey levels, for the poisons and for the robust network; 0 leaves the trigger alone, and
            trains no network.
        steps: of a poison's perturbation.
        step_size: α, in grey levels.
        network: name of the network that the attacker trains on the same images.
        network_epochs: passes of that training.
        robust_steps: by how many steps an image is changed in it; with 0 it is a usual network.
        robust_size: of such a step, in grey levels.
        batch_size: images perturbed together.
        flip: of that training: mirror half of the images; not for digits or signs.
        crop: shift them by up to so many pixels.
        stamp: the trigger "before" augmentation or "after" it; the perturbation always before.
        rng: decides the network, and which images are poisoned.

    Raises:
        BadInput: a target that is no class, a rate outside 0..1 or of no image, a trigger that does not fit.
        NotFound: no such network.

    Differs from the paper: ε, steps and their size are those of BackdoorBench's code, without a random start; the
    robust network's size and schedule, and the share, are ours. The paper's other perturbation, by interpolation
    between images in the latent space of a generator, is left out.
    """
    check_target(train, target, rate)
    counted(rate, own := int((train.hard == target).sum()), own)
    rng = rng or make_rng("clean_label")
    bound, change = epsilon / 255, None
    if epsilon and rate:
        net = surrogate(
            network, train, epochs=network_epochs, flip=flip, crop=crop, rng=spawn(rng),
            objective=robust(bound, robust_steps, robust_size / 255),
        )  # fmt: skip

        def change(rows: Tensor) -> Tensor:
            parts = zip(train.pixels(rows).split(batch_size), train.y[rows].split(batch_size), strict=True)
            return torch.cat([away(net, x, y, bound=bound, steps=steps, size=step_size / 255) for x, y in parts])

    return plant(
        "clean_label", train, trigger=trigger, target=target, rate=rate, stamp=stamp, rng=rng, clean_label=True,
        change=change, amplitude=amplitude,
    )  # fmt: skip
