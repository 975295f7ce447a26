"""Seeds: one explicit generator per thing that may vary, derived from names, never from global state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor


def rng(*parts: object) -> Generator:
    """A CPU generator seeded by SHA-256 of `parts`: `rng(3, "student")` is the same stream everywhere."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def spawn(parent: Generator) -> Generator:
    """A fresh generator drawn from `parent`, so that two consumers cannot disturb each other's stream."""
    return Generator().manual_seed(int(torch.randint(2**62, (), generator=parent, device="cpu")))


@contextmanager
def seeded(source: Generator) -> Iterator[None]:
    """Let code that only knows the global generator (initialisers, dropout) draw from `source`; then restore."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        seed = int(torch.randint(2**62, (), generator=source, device="cpu"))
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        yield


class Draws:
    """What one run draws from the global generator: inside `with` it goes on where it stopped; then others' is back.

    Args:
        source: decides what is drawn.
    """

    def __init__(self, source: Generator) -> None:
        with seeded(source):
            self.own = _states()

    def __enter__(self) -> None:
        self.others = _states()
        _set_states(self.own)

    def __exit__(self, *error: object) -> None:
        self.own = _states()
        _set_states(self.others)


def _states() -> tuple[Tensor, list[Tensor]]:
    """Of the CPU's global generator, and of each GPU's."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_states(states: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
