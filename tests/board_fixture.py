"""Results folders and entries for the carry-over board, with made-up numbers, for tests alone."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

from distrust import __version__
from distrust.intervals import wilson

N, TEST = 900, 1000
HOSTILE = '<script>alert("x")</script>'
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


def key(*words: object) -> str:
    return hashlib.md5(repr(words).encode()).hexdigest()


def cell(**changes: Any) -> dict[str, Any]:
    """A cell as it lies in a results folder; all that a test does not care about is plain."""
    made: dict[str, Any] = {
        "study": "small", "budget": "cpu", "images": "digits", "teacher": "wrn16-2", "attack": "badnets",
        "distiller": "none", "student": "none", "defense": "none", "place": 1, "seed": 0, "state": "done",
        "error": None, "target": 0, "acc": 0.9, "asr": 0.95, "base": 0.01, "n": N, "flags": [], "published": [],
        "chosen": None, "validation": None, "seconds": 12.0, **changes,
    }  # fmt: skip
    axes = [made[name] for name in ("images", "teacher", "attack", "distiller", "student", "defense")]
    made.setdefault("id", f"{key(*axes)[:12]}-s{made['seed']}")
    if made["attack"] == "none":
        made |= {"asr": None, "base": None, "carried": None, "n": None, "place": None}
    elif made["state"] == "done":
        made.setdefault("carried", made["asr"] - made["base"])
        made.setdefault("asr_interval", list(wilson(round(made["asr"] * N), N)))
        made.setdefault("carried_interval", [made["carried"] - 0.02, made["carried"] + 0.02])
    made.setdefault("keys", {kind: key(kind, axes, made["seed"]) for kind in ("teacher", "attack", "predict")})
    words = ["distrust", "run", f"studies/{made['study']}.toml", "--budget", "cpu", "--only", made["id"]]
    return {**made, "reproduce": made.get("reproduce") or shlex.join(words)}


def runs(*asrs: float, **changes: Any) -> list[dict[str, Any]]:
    """A cell for each seed, with these ASR."""
    return [cell(seed=seed, asr=asr, **changes) for seed, asr in enumerate(asrs)]


def student(distiller: str, *asrs: float, **changes: Any) -> list[dict[str, Any]]:
    return runs(*asrs, distiller=distiller, student="wrn16-1", **changes)


def small() -> list[dict[str, Any]]:
    """A study: what is carried by KD, not by AT, unclear by one run of DKD; a defence; a control arm; a failure."""
    theirs = {"source": "A paper, Table 1", "convention": "theirs", "counted": "all", "acc": 0.8, "asr": 0.5}
    cells = [
        *runs(0.95, 0.96, 0.97), *student("kd", 0.81, 0.83, 0.85, published=[theirs]),
        *student("at", 0.012, 0.01, 0.011), *student("dkd", 0.99), *student("kd[weight=2]", 0.41, 0.43, 0.42),
        *runs(0.9, 0.91, 0.92, attack="blend"), *student("kd", 0.2, 0.21, 0.22, attack="blend", images="cifar10"),
        *runs(0.1, 0.12, 0.11, defense="finetune"), *runs(0, 0, 0, attack="none"),
        *runs(0.9, 0.9, 0.9, attack="sig", flags=["control-fires"]),
        *student("overhaul", 0.5, state="failed", error="Diverged: loss 1e9"),
    ]  # fmt: skip
    numbers = ("acc", "asr", "base", "carried")
    return [c | dict.fromkeys(numbers) if c["state"] == "failed" else c for c in cells]


def write(folder: Path, cells: list[dict[str, Any]]) -> Path:
    """A results folder with a folder for each study."""
    for one in cells:
        file = folder / one["study"].replace("/", "_") / f"{one['id']}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(one))
    return folder


def entry(**changes: Any) -> dict[str, Any]:
    """Somebody's entry: a distiller of a package of theirs."""
    cells = [*runs(0.95, 0.96, 0.97, study="theirs"), *student("glue", 0.61, 0.62, 0.63, study="theirs")]
    methods = [
        {"kind": "attacks", "name": "badnets", "version": "1", "package": f"distrust {__version__}"},
        {"kind": "distillers", "name": "glue", "version": "2:abc", "package": "glue-kd 0.3", "paper": "Glue, 2026"},
    ]
    return {
        "generator": f"Distrust {__version__}", "form": 1, "by": "Ada", "source": "https://example.org/glue",
        "methods": methods, "study_file": 'name = "theirs"\n', "cells": cells, "lineage": {},
        "pictures": {"badnets": {"clean": [PNG], "triggered": [PNG], "difference": [PNG], "caption": "A patch."}},
        **changes,
    }  # fmt: skip
