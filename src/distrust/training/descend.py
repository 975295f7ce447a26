"""One step of a solver, for what trains by hand."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer


def descend(solver: Optimizer, loss: Tensor) -> None:
    """One step down the gradient of `loss`."""
    solver.zero_grad()
    loss.backward()
    solver.step()
