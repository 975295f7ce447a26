"""Predict: what a model gives images, clean or under a trigger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..data.images import ImageSet, floats
from ..errors import BadInput
from ..models import at_once, eval_mode

if TYPE_CHECKING:
    from .backdoor import Backdoor

BATCH = 128


def outputs(model: nn.Module, images: ImageSet | Tensor, backdoor: Backdoor | None = None) -> Tensor:
    """What `model` gives the images, stamped first if a backdoor is given: logits or features [N,K] on the CPU.

    Raises:
        BadInput: some of it is not a number, so that nothing can be judged.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x = images.x if isinstance(images, ImageSet) else images
    found = []
    with eval_mode(model), torch.no_grad():
        for part in x.split(at_once(x.shape[1:], BATCH)):
            part = floats(part.to(device))
            part = backdoor.stamp_on(part) if backdoor else part
            part = part.contiguous(memory_format=torch.channels_last)  # faster by half; float32 all the same
            found.append(model(part).cpu())
    said = torch.cat(found)
    if wrong := int(said.isnan().flatten(1).any(1).sum()):
        raise BadInput(
            f"the model's answers to {wrong} of {len(said)} images are not numbers (NaN), so nothing can be judged. "
            "Look at its weights, or train it again at a lower rate."
        )
    return said


def predict(model: nn.Module, images: ImageSet | Tensor, backdoor: Backdoor | None = None) -> Tensor:
    """Class numbers int64 [N] on the CPU that `model` gives the images, stamped first if a backdoor is given."""
    return outputs(model, images, backdoor).argmax(1)


def accuracy(model: nn.Module, images: ImageSet) -> float:
    """The share 0..1 of clean images that `model` is right on: what a choice on validation images goes by."""
    return float((predict(model, images) == images.hard.cpu()).float().mean())
