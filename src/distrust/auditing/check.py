"""Checks: say what a file is, without running it."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import ImageSet
from ..data.sources import images as open_images
from ..data.synthetic import load_set
from ..door import at_key, weights_in
from ..errors import BadInput, NotFound
from ..marks import KINDS
from ..measurement import Backdoor
from ..study import make_plan, read_study
from ..tensors import read_record

Facts = dict[str, Any]
MARKS = [kind.removesuffix("s") for kind in KINDS]


def check(file: str | Path, key: str | None = None) -> Facts:
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


def _study(path: Path) -> Facts:
    plan = make_plan(read_study(path))
    text = f"a study: {len(plan.cells)} cells from {len(plan.stages)} stages; every name and option is known"
    return {"is": "study", "cells": len(plan.cells), "stages": len(plan.stages), "text": text}


def _trigger(path: Path) -> Facts:
    found = Backdoor.load(path)
    facts = {"is": "trigger", "trigger": repr(found.trigger), "target": found.target, "stamp": found.stamp}
    return {**facts, "text": f"a backdoor: {found.trigger!r} → class {found.target}"}


def _method(path: Path) -> Facts:
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


def _weights(path: Path, key: str | None) -> Facts:
    record = read_record(path)
    if "set" in record:
        return _set(path)
    try:
        found = weights_in(path)
        found = at_key(found, key, path) if key else found
    except BadInput:
        with contextlib.suppress(BadInput, NotFound):  # it may be a paper's synthetic set
            return _set(path)
        raise
    sets: list[Facts] = [
        {"path": one.path, "tensors": len(one.tensors), "numbers": sum(t.numel() for t in one.tensors.values())}
        | ({"seems": one.seems} if one.seems else {})
        for one in found
    ]
    spec, taint = record.get("spec"), record.get("taint", [])
    facts = {"is": "weights", **{fact: sum(one[fact] for one in sets) for fact in ("tensors", "numbers")}}
    facts |= {"spec": spec, "taint": taint, "sets": sets}
    model = f", a {spec['name']}" if spec else ""
    if len(sets) == 1:
        what = f"weights: {facts['tensors']} tensors, {facts['numbers']:,} numbers{model}"
    else:
        what = f"{len(sets)} sets of weights: {'; '.join(map(str, found))}; judge each with --key"
    return {**facts, "text": f"{what}{_tainted(taint)}; safe to open"}


def _set(path: Path) -> Facts:
    images, units = load_set(path, units="pixels"), "pixels 0..1"
    try:
        load_set(path)
    except BadInput as reason:
        units = str(reason).partition(": ")[2]
    soft = "soft labels" if images.y.ndim == 2 else f"{len(images.classes)} classes"
    recipe = "knows" if images.training else "does not say"
    facts = {
        "is": "synthetic set", "images": len(images), "shape": list(images.x.shape[1:]), "classes": len(images.classes),
        "soft": images.y.ndim == 2, "units": units, "taint": list(images.taint), "training": bool(images.training),
    }  # fmt: skip
    text = f"a synthetic set: {len(images)} images {_shape(images)}, {soft}; {recipe} how it is trained on"
    return {**facts, "text": f"{text}{_tainted(images.taint)}; {units}"}


def _images(source: str) -> Facts:
    train, test = open_images(source)
    facts = {"is": "images", "train": len(train), "test": len(test), "shape": list(train.x.shape[1:])}
    grouped = "; grouped" if train.group is not None else ""
    text = f"images: {len(train)} train, {len(test)} test, {_shape(train)}, {len(train.classes)} classes{grouped}"
    return {**facts, "classes": list(train.classes), "text": text}


def _shape(images: ImageSet) -> str:
    return "×".join(map(str, images.x.shape[1:]))


def _tainted(by: Sequence[str]) -> str:
    return f"; TAINTED by {', '.join(by)}" if by else ""
