"""A method is one file: a defence that shrinks the suspect's weights, adds a little noise, and fine-tunes.

Give this file to any command as `--plugin examples/my_defense.py`; the method's name is the file's, my_defense.
"""

import copy

import torch
from torch import Generator, nn

import distrust as dt
from distrust.marks import Count, NonNegative, Positive, Rate, defense


@defense(paper="after Ash, Adams, On Warm-Starting Neural Network Training, NeurIPS 2020, arXiv 1910.08475")
def my_defense(
    model: nn.Module,
    clean: dt.ImageSet,
    *,
    keep: Rate = 0.7,
    noise: NonNegative = 0.01,
    epochs: Count = 10,
    lr: Positive = 0.05,
    batch_size: Count = 64,
    flip: bool = True,
    rng: Generator | None = None,
) -> nn.Module:
    """Shrink every weight, add noise, and fine-tune on the defender's images.

    Args:
        model: the suspect; it is not changed.
        clean: the defender's labelled images.
        keep: factor 0..1 on every weight; 1 with noise=0 is plain fine-tuning.
        noise: standard deviation of the noise added to every weight, ≥ 0.
        epochs: passes over the images.
        lr: maximum of the one-cycle schedule.
        batch_size: images a step.
        flip: mirror half of the images; false for digits and letters.
        rng: draws noise, order and augmentation.

    Differs from the paper: it shrinks and perturbs to train on, not to defend; this is an example, not a claim.
    """
    rng = rng or dt.rng("my_defense")
    start = copy.deepcopy(model)
    with torch.no_grad():
        for weight in start.parameters():
            weight.mul_(keep).add_(torch.randn(weight.shape, generator=rng).to(weight), alpha=noise)
    augment = dt.Augment(flip=flip, crop=2)
    return dt.fit(start, clean, epochs=epochs, lr=lr, batch_size=batch_size, augment=augment, rng=rng)


if __name__ == "__main__":
    train, clean, _ = dt.roles(dt.images("digits").train, clean=0.2, validation=0.1)
    test = dt.images("digits").test
    poisoned, backdoor = dt.attacks.badnets(train, target=5, rate=0.1, stamp="after")
    gentle = {"batch_size": 64, "augment": dt.Augment(flip=False, crop=2)}
    suspect = dt.fit(dt.model("wrn10-1", train), poisoned, epochs=5, **gentle)
    control = dt.fit(dt.model("wrn10-1", train), train, epochs=5, **gentle)
    print("before:", dt.measure(suspect, test, backdoor, control=control))
    cleaned = my_defense(suspect, clean, flip=False)
    control = my_defense(control, clean, flip=False)
    print("after: ", dt.measure(cleaned, test, backdoor, control=control, undefended=suspect))
