"""Digits: scikit-learn's bundled 8×8 images."""

from __future__ import annotations

import numpy as np

from .decode import fitted
from .parts import Part, Read, fixed_split


def read_digits(size: int, channels: int) -> Read:
    """All 1797 of them, resized; split by class, 25 % to test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # values 0..16 -> 0..255
    x = fitted(x, size, channels, "digits")
    train, test = fixed_split(bunch.target, 0.25, "digits")
    return Read(Part(x[train], bunch.target[train]), Part(x[test], bunch.target[test]))
