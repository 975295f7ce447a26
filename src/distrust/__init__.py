"""Distrust: what did the student inherit? The public names, loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "images": "data.sources",
    "ImageSet": "data.images",
    "Augment": "data.augment",
    "roles": "data",
    "split": "data",
    "model": "models",
    "Normalize": "models",
    "taps": "models",
    "Taps": "models",
    "group_ends": "models",
    "Training": "training.options",
    "fit": "training.loop",
    "distill": "training.distill",
    "watching": "training.loop",
    "pretrain": "training.pretrain",
    "NeighbourMonitor": "training.pretrain",
    "Views": "data.views",
    "fit_head": "training.probing",
    "Probe": "training.probing",
    "Backdoor": "measurement.backdoor",
    "measure": "measurement.scores",
    "Measurement": "measurement.scores",
    "mechanism": "methods.metrics.mechanism",
    "stealth": "methods.metrics.stealth",
    "rng": "seeds",
    "save": "models",
    "load": "models",
    "save_set": "data.synthetic",
    "load_set": "data.synthetic",
    "recipe": "training.options",
    "Siamese": "data.siamese",
    "open_suspect": "auditing.checkpoint",
    "Suspect": "auditing.checkpoint",
    "fitting_statistics": "auditing.checkpoint",
    "hints": "auditing.checkpoint",
    "judged": "auditing.checkpoint",
    "verdict": "auditing.checkpoint",
    "Made": "auditing.purify",
    "purify": "auditing.purify",
    "teach": "auditing.purify",
    "scan": "auditing.scan",
    "audit": "auditing.audit",
    "Audit": "auditing.audit",
    "Shelf": "auditing.shelf",
    "check": "auditing.check",
    "plan": "api",
    "run": "api",
    "results": "reporting.results",
    "report": "publishing",
    "table": "publishing",
    "figure": "publishing",
    "cite": "publishing",
    "published": "reporting.published",
    "build_board": "reporting.board.site",
    "submit": "reporting.board.entry",
    "Store": "study.housekeeping",
    "export": "moving",
    "import_": "moving",
    "needed": "moving",
    "DistrustError": "errors",
    "BadInput": "errors",
    "NotFound": "errors",
    "UnsafeFile": "errors",
    "StoreError": "errors",
    "Diverged": "errors",
    "Skip": "errors",
}
_KINDS = ("triggers", "attacks", "distillers", "condensers", "objectives", "heads", "defenses", "detectors", "metrics")

__all__ = [*_HOME, *_KINDS, "__version__"]

if TYPE_CHECKING:
    from .api import plan, run
    from .auditing.audit import Audit, audit
    from .auditing.check import check
    from .auditing.checkpoint import Suspect, fitting_statistics, hints, judged, open_suspect, verdict
    from .auditing.purify import Made, purify, teach
    from .auditing.scan import scan
    from .auditing.shelf import Shelf
    from .data import roles, split
    from .data.augment import Augment
    from .data.images import ImageSet
    from .data.siamese import Siamese
    from .data.sources import images
    from .data.synthetic import load_set, save_set
    from .data.views import Views
    from .errors import BadInput, DistrustError, Diverged, NotFound, Skip, StoreError, UnsafeFile
    from .measurement.backdoor import Backdoor
    from .measurement.scores import Measurement, measure
    from .methods import attacks, condensers, defenses, detectors, distillers, heads, metrics, objectives, triggers
    from .methods.metrics.mechanism import mechanism
    from .methods.metrics.stealth import stealth
    from .models import Normalize, Taps, group_ends, load, model, save, taps
    from .moving import export, import_, needed
    from .publishing import cite, figure, report, table
    from .reporting.board.entry import submit
    from .reporting.board.site import build_board
    from .reporting.published import published
    from .reporting.results import results
    from .seeds import rng
    from .study.housekeeping import Store
    from .training.distill import distill
    from .training.loop import fit, watching
    from .training.options import Training, recipe
    from .training.pretrain import NeighbourMonitor, pretrain
    from .training.probing import Probe, fit_head


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import distrust` and `distrust --help` stay quick."""
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    elif name in _KINDS:
        value = importlib.import_module(f".methods.{name}", __name__)
    else:
        raise AttributeError(f"module 'distrust' has no attribute {name!r}")
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
