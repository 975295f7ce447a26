"""What every trigger shares: it remembers how it was made, so that it can be written down and rebuilt."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Trigger(nn.Module):
    """Images [B,C,H,W] in 0..1 → the same images with the trigger; `recipe` rebuilds it: `cls(**recipe)`."""

    recipe: dict[str, Any]

    def extra_repr(self) -> str:
        """Its options, without the pixels."""
        return ", ".join(f"{k}={v}" for k, v in self.recipe.items() if not isinstance(v, Tensor))
