"""Checks: say what a file is, without running it."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Any

from ..data import ImageSet
from ..data.sources import images as open_images
from ..data.synthetic import load_set
from ..errors import BadInput, NotFound
from ..files import open_weights, read_record
from ..measurement import Backdoor
from ..registry import KINDS
from ..study import make_plan, read_study

MARKS = [kind.removesuffix("s") for kind in KINDS]


def check(file: str | Path, key: str | None = None) -> dict[str, Any]:
    """What a file is, as facts with a line of `text`. Python files are parsed, never run.

    Raises:
        UnsafeFile: a checkpoint that asks for more than tensors.
        NotFound, BadInput: it is missing or damaged.
    """
    path = Path(file)
    look = {".toml": _study, ".json": _trigger, ".py": _method}.get(path.suffix)
    if look:
        if not path.is_file():
            raise NotFound(f"no file {file}.")
        return look(path)
    if path.suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar"):
        return _weights(path, key)
    return _images(str(file))


def _study(path: Path) -> dict[str, Any]:
    plan = make_plan(read_study(path))
    text = f"a study: {len(plan.cells)} cells from {len(plan.stages)} stages; every name and option is known"
    return {"is": "study", "cells": len(plan.cells), "stages": len(plan.stages), "text": text}


def _trigger(path: Path) -> dict[str, Any]:
    backdoor = Backdoor.load(path)
    facts = {
        "is": "trigger",
        "trigger": repr(backdoor.trigger),
        "target": backdoor.target,
        "stamp": backdoor.stamp,
    }
    return {**facts, "text": f"a backdoor: {backdoor.trigger!r} → class {backdoor.target}"}


def _method(path: Path) -> dict[str, Any]:
    try:
        tree = ast.parse(path.read_text())
    except (SyntaxError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not Python ({error}).") from None
    marked = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func).rpartition(".")[2] in MARKS
    ]
    if len(marked) != 1:
        raise BadInput(f"{path} holds {len(marked)} marked methods; a method file holds exactly one.")
    return {"is": "method", "name": marked[0], "text": f"a method: {marked[0]} (parsed, not run)"}


def _weights(path: Path, key: str | None) -> dict[str, Any]:
    record = read_record(path)
    if "set" in record:
        return _set(load_set(path), "pixels 0..1")
    try:
        weights = open_weights(path, key)
    except BadInput:
        with contextlib.suppress(BadInput, NotFound):
            return _strange_set(path)
        raise
    count = sum(v.numel() for v in weights.values())
    taint = record.get("taint", [])
    facts = {
        "is": "weights",
        "tensors": len(weights),
        "numbers": count,
        "spec": record.get("spec"),
        "taint": taint,
    }
    model = f", a {record['spec']['name']}" if record.get("spec") else ""
    known = f"; TAINTED by {', '.join(taint)}" if taint else ""
    return {
        **facts,
        "text": f"weights: {len(weights)} tensors, {count:,} numbers{model}{known}; safe to open",
    }


def _strange_set(path: Path) -> dict[str, Any]:
    """A paper's synthetic set; raises what `load_set` does where it is none."""
    found = load_set(path, units="pixels")
    try:
        load_set(path)
        return _set(found, "pixels 0..1")
    except BadInput as reason:
        return _set(found, str(reason).partition(": ")[2])


def _set(images: ImageSet, units: str) -> dict[str, Any]:
    shape = "×".join(map(str, images.x.shape[1:]))
    soft = "soft labels" if images.y.ndim == 2 else f"{len(images.classes)} classes"
    known = f"; TAINTED by {', '.join(images.taint)}" if images.taint else ""
    recipe = "knows" if images.training else "does not say"
    facts = {
        "is": "synthetic set", "images": len(images), "shape": list(images.x.shape[1:]), "classes": len(images.classes),
        "soft": images.y.ndim == 2, "units": units, "taint": list(images.taint), "training": bool(images.training),
    }  # fmt: skip
    text = f"a synthetic set: {len(images)} images {shape}, {soft}; {recipe} how it is trained on{known}; {units}"
    return {**facts, "text": text}


def _images(source: str) -> dict[str, Any]:
    train, test = open_images(source)
    shape = list(train.x.shape[1:])
    facts = {
        "is": "images",
        "train": len(train),
        "test": len(test),
        "shape": shape,
        "classes": list(train.classes),
    }
    grouped = "; grouped" if train.group is not None else ""
    return {
        **facts,
        "text": f"images: {len(train)} train, {len(test)} test, {'×'.join(map(str, shape))}, "
        f"{len(train.classes)} classes{grouped}",
    }
