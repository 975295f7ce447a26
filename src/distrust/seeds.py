"""Seeds: one explicit generator per thing that may vary, derived from names, never from global state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator


def rng(*parts: object) -> Generator:
    """A CPU generator seeded by SHA-256 of `parts`: `rng(3, "student")` is the same stream everywhere."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def spawn(parent: Generator) -> Generator:
    """A fresh generator drawn from `parent`, so that two consumers cannot disturb each other's stream."""
    return Generator().manual_seed(int(torch.randint(2**62, (), generator=parent)))


@contextmanager
def seeded(source: Generator) -> Iterator[None]:
    """Let code that only knows the global generator (initialisers, dropout) draw from `source`; then restore."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        seed = int(torch.randint(2**62, (), generator=source))
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        yield
