"""Fine-pruning: channels that sleep on clean images may be waiting for the trigger."""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn

from ...data import ImageSet
from ...errors import BadInput
from ...marks import Count, Part, Passes, Positive, defense
from ...models import at_once, called, check_encoder, eval_mode, resolve, taps
from ...seeds import rng as make_rng
from .._costs import LOOK
from ._channels import makers, silence
from ._unlabelled import learn

BATCH = 256


@defense(
    paper="Liu, Dolan-Gavitt, Garg, Fine-Pruning, RAID 2018, arXiv 1805.12185",
    on="encoder", cost=lambda options, n: 2 * (options["epochs"] + LOOK) * n,
)  # fmt: skip
def prune(
    encoder: nn.Module,
    clean: ImageSet,
    *,
    share: Part = 0.2,
    epochs: Passes = 0,
    temperature: Positive = 0.5,
    lr: Positive = 1e-3,
    batch_size: Count = 128,
    flip: bool = True,
    rng: Generator | None = None,
) -> nn.Module:
    """Remove the channels of the last group of layers that are least active on average, then fine-tune if asked to.

    Activity is the mean over images and positions behind the ReLU. A channel is removed by setting to 0 the weights of
    all layers that add to it, so the architecture stays.

    Args:
        encoder: the suspect.
        clean: the defender's images; labels are not looked at.
        share: of the channels, 0..1, rounded to a whole number.
        epochs: passes of fine-tuning with NT-Xent afterwards; 0 for none.
        temperature: τ of NT-Xent.
        lr: constant rate of Adam.
        batch_size: images a step of the fine-tuning.
        flip: mirror half of the views; not for digits or signs.
        rng: decides order and views of the fine-tuning; without one nothing is drawn.

    Raises:
        BadInput: a classifier, fewer images than a batch to fine-tune on, or channels that no layer's weights remove.
        Diverged: the loss exploded; lower lr.

    Differs from the paper: without labels there is no accuracy that says when to stop, so the share is given; the
    channels are those of a residual group as a whole, not of the last convolution; fine-tuning needs no labels.
    """
    check_encoder(encoder, clean)
    shape = clean.x.shape[1:]
    place = resolve(encoder, "pre-relu", shape)[-1]
    activity = _activity(encoder, place, clean)
    asleep = activity.argsort(stable=True)[: round(share * len(activity))]
    pruned = copy.deepcopy(encoder).eval()
    for layer in makers(pruned, place, shape):
        silence(layer, asleep)
    if _activity(pruned, place, clean)[asleep].any():
        raise BadInput(f"{called(encoder)}: no layer's weights remove the channels at {place!r}. Use another defence.")
    if epochs:  # a ReLU at 0 passes no gradient on, so what was removed stays removed
        pruned = learn(
            pruned, clean, temperature=temperature, flip=flip, rng=rng or make_rng("prune"),
            epochs=epochs, lr=lr, batch_size=batch_size,
        )  # fmt: skip
    return pruned


def _activity(encoder: nn.Module, place: str, clean: ImageSet) -> Tensor:
    """[C]: mean over images and positions of the ReLU of what comes by at `place`."""
    device = next(encoder.parameters()).device
    with taps(encoder, [place]) as read, eval_mode(encoder), torch.no_grad():
        batches = clean.batches(at_once(clean.x.shape[1:], BATCH))
        seen = (read(x.to(device)).features[place].float() for x, _ in batches)
        return torch.stack([part.relu().mean((2, 3)).sum(0) for part in seen]).sum(0) / len(clean)
