"""Quick: a model to look through, as fast as it goes here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import ImageSet
from ..models import frozen
from .fastest import fastest
from .options import Training

BATCH = 32  # images, of which four batches have to be there before a probe pays


class _Quick(nn.Module):
    def __init__(self, model: nn.Module, bf16: bool) -> None:
        super().__init__()
        self.model, self.bf16 = model, bf16

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            said: Tensor = self.model(x)
        return said.float()


def quick(model: nn.Module, images: ImageSet) -> nn.Module:
    """A frozen copy that computes as `fastest` says: images [B,C,H,W] in 0..1 → float32 logits [B,K], with gradients.

    Where that is bfloat16, its answers are rounded to three digits: for searches, and for nothing that is reported of
    single images.

    Args:
        model: a classifier.
        images: by some of which its speed is measured, once.
    """
    device = next(model.parameters()).device
    precision, order = fastest(model, images, Training(batch_size=BATCH), device)
    copied = frozen(model)
    if order == "channels_last":
        copied = copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _Quick(copied, precision == "bf16")
