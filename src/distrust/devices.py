"""Devices: say at once, and in words, that one cannot be used."""

from __future__ import annotations

import torch

from .errors import BadInput


def usable(device: str) -> str:
    """The name of a torch device, once it is known to be there.

    Raises:
        BadInput: torch does not know it, or this machine does not have it.
    """
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput(f"device {device!r} cannot be used here ({reason}). Type --device cpu.") from None
    return device
