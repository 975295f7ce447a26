"""Distrust: what did the student inherit? The public names, loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "images": "sources",
    "ImageSet": "imageset",
    "Augment": "imageset",
    "roles": "imageset",
    "split": "imageset",
    "model": "models",
    "Normalize": "models",
    "taps": "models",
    "Taps": "models",
    "group_ends": "models",
    "fit": "training",
    "distill": "training",
    "watching": "training",
    "pretrain": "pretraining",
    "NeighbourMonitor": "pretraining",
    "Views": "views",
    "fit_head": "encoding",
    "Probe": "encoding",
    "Backdoor": "backdoor",
    "measure": "measurement",
    "Measurement": "measurement",
    "mechanism": "neurons",
    "stealth": "curator",
    "rng": "seeds",
    "save": "models",
    "load": "models",
    "save_set": "synthetic",
    "load_set": "synthetic",
    "recipe": "synthetic",
    "Siamese": "siamese",
    "DistrustError": "errors",
    "BadInput": "errors",
    "NotFound": "errors",
    "UnsafeFile": "errors",
    "StoreError": "errors",
    "Diverged": "errors",
    "Skip": "errors",
}
_KINDS = ("triggers", "attacks", "distillers", "condensers", "encoders", "heads", "defenses", "detectors")

__all__ = [*_HOME, *_KINDS, "__version__"]

if TYPE_CHECKING:
    from . import attacks, condensers, defenses, detectors, distillers, encoders, heads, triggers
    from .backdoor import Backdoor
    from .curator import stealth
    from .encoding import Probe, fit_head
    from .errors import BadInput, DistrustError, Diverged, NotFound, Skip, StoreError, UnsafeFile
    from .imageset import Augment, ImageSet, roles, split
    from .measurement import Measurement, measure
    from .models import Normalize, Taps, group_ends, load, model, save, taps
    from .neurons import mechanism
    from .pretraining import NeighbourMonitor, pretrain
    from .seeds import rng
    from .siamese import Siamese
    from .sources import images
    from .synthetic import load_set, recipe, save_set
    from .training import distill, fit, watching
    from .views import Views


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import distrust` and `distrust --help` stay quick."""
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    elif name in _KINDS:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'distrust' has no attribute {name!r}")
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
