"""Checks: say what a file is and what to type next, by its content, without running it."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import pickletools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from ..bounds import check_bound, most
from ..data.sources import images as open_images
from ..data.sources.arrays import pairs_in
from ..data.sources.parts import whole_numbers
from ..data.sources.published import holds_set, is_array, sets_of
from ..data.synthetic import load_set
from ..door import Weights, at_key, sets_in, weights_in
from ..errors import BadInput, NotFound, Notice
from ..marks import KINDS
from ..measurement import Backdoor
from ..measurement.strangers import Found, is_picture, named_parts, trigger_in
from ..pictures import open_picture
from ..tensors import opened, read_record, what_else

Facts = dict[str, Any]
MARKS = [kind.removesuffix("s") for kind in KINDS]
LONG = 2**24  # bytes of text that are read
WRITTEN = {".toml": "study", ".py": "code", ".json": "record"}  # and the bound of each
MOST = 8  # of many, so many are named
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
LARGE = 2**27  # bytes of an archive of pictures from which on they are not read


def check(file: str | Path, key: str | None = None, experiment: int | None = None) -> Facts:
    """What a file is, as facts, with a line of `text` and what to type `next`. Its ending is not believed.

    Nothing is run: Python files are parsed. Of a large file only names, types and shapes are read.

    Args:
        file: weights, a synthetic set, pictures, a trigger, a study or a method, or a source of images.
        key: which of a file's sets of weights: its path, or a prefix of its names.
        experiment: which of a file's synthetic sets, 0 the first; None: all.

    Raises:
        UnsafeFile: opening it would run something.
        NotFound, BadInput: it is missing, damaged, or nothing that is known here; says what.
    """
    path = Path(file)
    try:
        if not path.is_file():
            return _source(str(file), path)
        if is_picture(path):
            found = trigger_in(open_picture(path, alpha=True), path)
            return _trigger(found, path) if found else {}
        text = _text(path)
        return _tensors(path, key, experiment) if text is None else _written(path, text)
    except OSError as error:
        if isinstance(error, BadInput | NotFound):
            raise
        raise BadInput(f"{file} cannot be read ({error.strerror or error}).") from None


def _source(source: str, path: Path) -> Facts:
    """Images, or a folder of something else."""
    try:
        train, test = open_images(source)
    except (BadInput, NotFound) as error:
        if path.is_dir() and (held := sorted(p.name for p in path.iterdir() if p.suffix in WEIGHTS)):
            text = f"a folder that holds {', '.join(held[:MOST])}"
            return {"is": "folder", "text": text, "next": f"distrust check {quote(str(path / held[0]))}"}
        if isinstance(error, NotFound) and path.suffix and not source.startswith("hub:"):
            raise NotFound(f"no file {source}.") from None
        raise
    grouped = "; grouped" if train.group is not None else ""
    shape, classes = list(train.x.shape[1:]), list(train.classes)
    return _images(source, len(train), len(test), shape, classes, grouped)


def _images(source: str, train: int, test: int, shape: Sequence[int], classes: list[str], more: str = "") -> Facts:
    text = f"images: {train} train, {test} test, {_times(shape)}, {len(classes)} classes{more}"
    facts = {"is": "images", "train": train, "test": test, "shape": list(shape), "classes": classes, "text": text}
    return {**facts, "next": f"distrust measure --weights FILE --model NAME --images {quote(source)} {ASKED}"}


ASKED = "--trigger patch:grid --target 0"


def _text(path: Path) -> str | None:
    """What somebody wrote, as text; None for bytes."""
    wanted = WRITTEN.get(path.suffix)
    if wanted:
        check_bound(wanted, path.stat().st_size, path, "bytes")
    with path.open("rb") as file:
        start = file.read(LONG)
    if not wanted and b"\0" in start[:4096]:
        return None
    try:
        return start.decode()
    except UnicodeDecodeError as error:
        if wanted:
            raise BadInput(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
        return None


def _written(path: Path, text: str) -> Facts:
    """JSON, TOML, Python or plain text, whichever it can be read as; only where none can be, the ending counts."""
    if not text.strip():
        raise BadInput(f"{path} is empty. Fetch it again.")
    if path.suffix == ".json" or text.lstrip()[0] in "{[":
        return _json(path, text)
    if path.suffix == ".py" or (path.suffix != ".toml" and _marked(text)):
        return _method(path, text)
    from ..study import make_plan, read_study  # which nothing else needs
    from ..study.spec import read_toml

    study: Any = False
    with contextlib.suppress(ValueError, RecursionError):  # no TOML, or more than is parsed
        study = path.suffix == ".toml" or {"teacher", "attack", "images"} & read_toml(path).keys()
    if study:
        plan = make_plan(read_study(path))
        said = f"a study: {len(plan.cells)} cells from {len(plan.stages)} stages; every name and option is known"
        said += f"; it names code, which a run executes: {', '.join(plan.code)}" if plan.code else ""
        facts = {"is": "study", "cells": len(plan.cells), "stages": len(plan.stages), "text": said}
        facts |= {"code": list(plan.code)} if plan.code else {}
        return {**facts, "next": f"distrust run {quote(str(path))} --dry-run"}
    if other := what_else(path):
        raise BadInput(f"{path} is {other}.")
    if path.suffix in WEIGHTS or _is_pickle(text):
        opened(path)  # says what is wrong with it
    lines = text.rstrip("\n").count("\n") + 1
    facts = {"is": "text", "text": f"text of {lines} line{'s' if lines > 1 else ''}, and nothing that is known here"}
    return {**facts, "next": f"nothing; if it names a model's classes, one a line: --classes {quote(str(path))}"}


def _is_pickle(text: str) -> bool:
    """A whole one of the oldest kind, which is text."""
    try:
        return any(code.name == "STOP" for code, _, _ in pickletools.genops(text.encode()))
    except Exception:  # text can fail in any way to be one
        return False


def _json(path: Path, text: str) -> Facts:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix != ".json":
            raise BadInput(f"{path} is text that looks like JSON, and is none ({error}). Fetch it again.") from None
        content = {"trigger": None}  # the record of a trigger says what is wrong
    names = list(content) if isinstance(content, dict) else []
    if {"trigger", "target"} & {*names} and "id" not in names:
        found = Backdoor.load(path)
        facts = {"is": "trigger", "trigger": repr(found.trigger), "target": found.target, "stamp": found.stamp}
        text = f"a backdoor: {found.trigger!r} → class {found.target}"
        return {**facts, "text": text, "next": _measured(f"--trigger {quote(str(path))}")}
    if "weight_map" in names:
        raise BadInput(f"{path} is the index of weights in several files. Join them, and give the one file.")
    what = f"JSON with {', '.join(names[:MOST])}" if names else f"JSON: a {type(content).__name__}"
    return {
        "is": "json",
        "text": f"{what}; no trigger",
        "next": "nothing; give the weights, or a trigger",
    }


def _marked(text: str) -> list[str]:
    """Names that are marked as methods in a Python file; SyntaxError or the like never leaves it."""
    if len(text) > most("code"):
        return []
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func).rpartition(".")[2] in MARKS
    ]


def _method(path: Path, text: str) -> Facts:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput(f"{path} is not Python ({error}).") from None
    marked = _marked(text)
    if not marked:
        raise BadInput(
            f"{path} holds no marked method. If it makes a network, name it, and it is run: --model {path}:FACTORY."
        )
    name = path.stem if len(marked) == 1 else marked[0]  # a single one is called as its file is
    told = f"a method: {name}" if len(marked) == 1 else f"{len(marked)} methods: {', '.join(marked)}"
    facts = {"is": "method", "name": name, "text": f"{told} (parsed, not run)"}
    return {**facts, "next": f"distrust show {name} --plugin {quote(str(path))}, which runs it"}


def _tensors(path: Path, key: str | None, experiment: int | None) -> Facts:
    """Everything that a file of tensors or arrays holds; what stands beside what it mainly is, is named too."""
    record = read_record(path)
    if "set" in record:
        return _sets(path, 1, None)
    content = opened(path, held=False)
    weights = sets_in(content)
    if key is not None:
        return _weights(path, at_key(weights, key, path), record)
    if split := _pictures(content, path):
        return split
    facts: Facts | None = None
    if named_parts(content) or (is_array(content) and not holds_set(content)):
        found = trigger_in(content, path)
        facts = _trigger(found, path) if found else None
    elif holds_set(content):
        facts = _sets(path, len(sets_of(content, path)), experiment)
    if facts is None:
        return _weights(path, weights or weights_in(path), record)  # which says what there is, if these are none
    beside = [one for one in weights if one.path or len(one.tensors) > MOST]
    text = f"{facts['text']}; weights beside it: {_listed(beside)}" if beside else facts["text"]
    return {**facts, "text": text}


def _weights(path: Path, found: Sequence[Weights], record: Facts) -> Facts:
    sets: list[Facts] = [
        {"path": one.path, "tensors": len(one.tensors), "numbers": sum(t.numel() for t in one.tensors.values())}
        | ({"seems": one.seems} if one.seems else {})
        | ({"quantised": one.quantised} if one.quantised else {})
        for one in found
    ]
    spec, taint = record.get("spec") or {}, record.get("taint", [])
    facts = {"is": "weights", **{fact: sum(one[fact] for one in sets) for fact in ("tensors", "numbers")}}
    facts |= {"spec": record.get("spec"), "taint": taint, "sets": sets}
    model = f", a {spec['name']}" if "name" in spec else ""
    if len(sets) == 1:
        what = f"weights: {facts['tensors']} tensors, {facts['numbers']:,} numbers{model}"
    else:
        what = f"{len(sets)} sets of weights: {_listed(found)}; judge each with --key"
    own = "" if model else " --model NAME"
    words = f"{quote(str(path))}{own} --images DIR" + (f" --key {quote(found[0].path)}" if len(sets) > 1 else "")
    following = f"distrust measure --weights {words} {ASKED}, or distrust scan {words}"
    if quantised := next((one.quantised for one in found if one.quantised), ""):
        what += f"; quantised ({quantised})"
        following = "ask for the float weights, or dequantise it and save its state_dict() again"
    return {**facts, "text": f"{what}{_tainted(taint)}; safe to open", "next": following}


def _listed(found: Sequence[Weights]) -> str:
    more = f"; … ({len(found) - MOST} more)" if len(found) > MOST else ""
    return "; ".join(map(str, found[:MOST])) + more


def _sets(path: Path, count: int, experiment: int | None) -> Facts:
    """A synthetic set, or each of several."""
    known = [experiment] if experiment is not None or count == 1 else [*range(count)]
    each = [_set(path, which) for which in known]
    first, words = each[0], f"distrust scan {quote(str(path))} --detector 'patch_probe[permutations=19]'"
    if first["units"] != "pixels 0..1":
        words += " --units normalised --statistics NAME" if "look normalised" in first["units"] else " --units pixels"
    if len(each) == 1:
        return {**first, "next": words if count == 1 else f"{words} --experiment {experiment}"}
    said = [one["text"].removeprefix("a synthetic set: ") for one in each]
    alike = f"each {said[0]}" if len(set(said)) == 1 else "; ".join(f"{k}: {text}" for k, text in enumerate(said))
    text = f"{count} synthetic sets (--experiment 0 to {count - 1}): {alike}"
    return {**first, "sets": each, "text": text, "next": f"{words} --experiment 0, and so each of them"}


def _set(path: Path, experiment: int | None) -> Facts:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", Notice)
        images, units = load_set(path, units="pixels", experiment=experiment), "pixels 0..1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            load_set(path, experiment=experiment)
    except BadInput as reason:
        units = str(reason).partition(": ")[2]
    soft = "soft labels" if images.y.ndim == 2 else f"{len(images.classes)} classes"
    recipe = "knows" if images.training else "does not say"
    facts = {
        "is": "synthetic set", "images": len(images), "shape": list(images.x.shape[1:]), "classes": len(images.classes),
        "soft": images.y.ndim == 2, "units": units, "taint": list(images.taint), "training": bool(images.training),
    }  # fmt: skip
    text = f"a synthetic set: {len(images)} images {_times(images.x.shape[1:])}, {soft}; {recipe} how it is trained on"
    text += "".join(f"; {str(one.message).removeprefix(f'{path} ').rstrip('.')}" for one in told)
    return {**facts, "text": f"{text}{_tainted(images.taint)}; {units}"}


def _pictures(content: Any, path: Path) -> Facts | None:
    """An archive of pictures with their labels; None of anything else, as of a condensed set with soft labels."""
    if not isinstance(content, Mapping) or not all(isinstance(part, np.ndarray) for part in content.values()):
        return None
    pairs = pairs_in(content)
    if not pairs:
        return None
    arrays = {split: (content[x], content[y]) for split, (x, y) in pairs.items()}
    x, y = arrays.get("", next(iter(arrays.values())))
    if "" in pairs and x.ndim == 4:
        soft = y.ndim == 2 and y.shape[1] > 1
        if soft or (x.dtype.kind == "f" and x.size and not (float(x.min()) >= 0 and float(x.max()) <= 1)):
            return None
    if path.stat().st_size < LARGE:  # what opens them says what is wrong with them
        train, test = open_images(str(path))
        facts = _images(str(path), len(train), len(test), train.x.shape[1:], list(train.classes))
    else:
        numbers = [whole_numbers(part.reshape(len(part)), path) for _, part in arrays.values()]
        first, last = len(numbers[0]), len(numbers[-1])
        first, last = (first - math.ceil(first / 5), math.ceil(first / 5)) if "" in pairs else (first, last)
        shape = list(x.shape[1:])
        shape = [1, *shape] if len(shape) == 2 else [shape[2], *shape[:2]] if shape[0] not in (1, 3) else shape
        named = content["classes"] if "classes" in content else range(len(np.unique(np.concatenate(numbers))))
        facts = _images(str(path), first, last, shape, [*map(str, named)])
    if "" in pairs and x.dtype.kind == "f":
        facts["next"] += f"; or, if it is a condensed set, distrust scan {quote(str(path))}"
    return facts


def _trigger(found: Found, path: Path) -> Facts:
    kind = type(found.trigger).__name__.lower()
    facts = {"is": "trigger", "trigger": kind, "target": None, "text": found.said}
    return {**facts, "next": _measured(f"--trigger {quote(str(path))} --target 0")}


def _measured(trigger: str) -> str:
    return f"distrust measure --weights FILE --model NAME --images DIR {trigger}"


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _tainted(by: Sequence[str]) -> str:
    return f"; TAINTED by {', '.join(by)}" if by else ""
