"""A step's passes recorded as a CUDA graph: a small network's step on a GPU is launches and little else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..models.modes import spec_of

MANY = 300  # steps from which on a recording, which takes about as long as so many launches, pays
WARM = 3  # passes before a recording, in which libraries choose their kernels


def recordable(model: nn.Module, device: torch.device) -> bool:
    """Whether the passes always do the same: on a GPU, a network of ours that draws nothing.

    A stranger's forward may choose, or draw, in Python, of which a graph would keep the first outcome.
    """
    ours = ":" not in spec_of(model).get("name", ":")
    draws = any(isinstance(module, nn.modules.dropout._DropoutNd) for module in model.modules())
    return device.type == "cuda" and ours and not draws


class Recorded:
    """The forward and backward passes of a loss, which each call replays: new gradients lie on the parameters.

    Gradients must not be cleared between calls: each overwrites those of the last.

    Args:
        model: on the GPU, in train mode; `recordable`. Its buffers are left as they are.
        loss: (model, x, y) → scalar, without a choice of its own, and under autocast if it wants that, with
            `cache_enabled=False`.
        x: images like those of every call, [B,C,H,W].
        y: labels like those of every call.
    """

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Tensor, Tensor], Tensor], x: Tensor, y: Tensor):
        before = [buffer.clone() for buffer in model.buffers()]
        self.x, self.y, self.graph = x.clone(), y.clone(), torch.cuda.CUDAGraph()
        aside, usual = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(usual)
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                model.zero_grad(set_to_none=True)
                loss(model, self.x, self.y).backward()
            model.zero_grad(set_to_none=True)  # the graph makes gradients of its own
        usual.wait_stream(aside)
        with torch.cuda.graph(self.graph):
            self.loss = loss(model, self.x, self.y)
            self.loss.backward()
        self.loss = self.loss.detach()
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss on a batch."""
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.loss.clone()
