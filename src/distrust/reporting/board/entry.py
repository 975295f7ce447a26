"""Entries: results that anybody hands in to the board; written from a run, held to a form and to a protocol."""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ... import __version__
from ...bounds import bounded
from ...errors import BadInput, DistrustError, NotFound
from ...files import replaceable, write_file
from ...intervals import LEAST
from ...marks import KINDS
from ...registry import Method, registry
from ...study.axes import TABLE
from ...study.cells import Cell, flaw, numbers_of_metrics
from ...study.records import KEY, Record
from ...study.store import Store
from ..labels import read, shortened
from ..results import results
from ..rows import Axes, describe, finite, given, over_seeds

FORM = 1  # of the file; another one is refused
PNG = b"\x89PNG\r\n\x1a\n"
REFUSED = {  # flags with which no cell stands on the board
    "chosen-on-test": "an option was chosen by its test numbers; choices are made on validation images",
    "no-control": "no control arm was measured, so nothing says what is carried",
    "off-protocol": "its defence has a setting, images or steps that nobody vouches for",
}

Words = Annotated[str, Field(min_length=1, max_length=80)]
Address = Annotated[str, Field(max_length=300, pattern=r"^(https?://[^\s\"'<>]+)?$")]


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class MethodFacts(_Form):
    """Of a method in an entry: what a reader needs to get it.

    Args:
        kind, name: as the registry knows it.
        version: with which its stages were made: the mark's and, of a method from outside, a hash of its code.
        package: where it lives, with its version.
        paper, summary: as it says of itself.
    """

    kind: str
    name: Words
    version: Words
    package: str = Field(max_length=200)
    paper: str = Field("", max_length=1000)
    summary: str = Field("", max_length=1000)


class Strip(_Form):
    """Pictures of a trigger: PNG files in base64.

    Args:
        clean, triggered, difference: as `pictures.strip` gives them.
        caption: what they show.
    """

    clean: list[str] = Field(max_length=8)
    triggered: list[str] = Field(max_length=8)
    difference: list[str] = Field(max_length=8)
    caption: str = Field(max_length=600)


class Entry(_Form):
    """What somebody hands in.

    Args:
        generator: "Distrust" and its version, by which the file was written.
        form: of this file.
        by: who answers for it.
        source: address of the method, the paper or the study; "" if there is none.
        methods: every method that stands on an axis of its cells.
        study_file: the text of the study file, so that anybody can run it; "" if it was not at hand.
        cells: as they lie in a results folder.
        lineage: the stages behind them, as far as the store had them: key → record.
        pictures: attack → what its trigger does to some images.
    """

    generator: str = Field(pattern=r"^Distrust \d[\w.+-]*$")
    form: Literal[1]
    by: Words
    source: Address = ""
    methods: list[MethodFacts]
    study_file: str = Field("", max_length=200_000)
    cells: list[dict[str, Any]] = Field(min_length=1)
    lineage: dict[Annotated[str, Field(pattern=f"^{KEY.pattern}$")], dict[str, Any]] = {}
    pictures: dict[str, Strip] = {}


def submit(
    study: str | Path, out: str | Path, *, by: str, source: str = "", store: str = "runs", overwrite: bool = False
) -> Entry:
    """Write an entry for the board from a run.

    Args:
        study: a results folder, or a study's name in the store; its methods must be known here: installed, or plug-ins.
        out: the file, such as entries/mine.json.
        by: who answers for it, as the board shows it; at most 80 characters.
        source: an address, https://…, of the method or its paper.
        store: where its stages are kept: lineage, versions and pictures of triggers come from there, if they are there.
        overwrite: replace a file that is no entry of ours.

    Returns:
        What was written.

    Raises:
        NotFound: no such results; a method that is not known here.
        BadInput: it breaks the protocol: fewer than three seeds, no control arm, a choice by test numbers.
        StoreError: the file cannot be written.
    """
    out, found = replaceable(out, overwrite), results(study, store=store)
    cells = list(found.cells)
    _hold(cells, str(study))
    records = _records(cells, found.store)
    entry = {
        "generator": f"Distrust {__version__}", "form": FORM, "by": by, "source": source,
        "methods": [facts.model_dump() for facts in _methods(cells, records)], "study_file": study_file(cells),
        "cells": cells, "lineage": {key: _stage(record) for key, record in records.items()},
        "pictures": _pictures(cells, found.store),
    }  # fmt: skip
    checked = _checked(entry, "this entry")
    write_file(out, json.dumps(checked.model_dump(), indent=1, ensure_ascii=False).encode() + b"\n")
    return checked


def read_entry(path: str | Path) -> Entry:
    """Read an entry of the board.

    Raises:
        NotFound: no such file.
        BadInput: it is no entry, or breaks the protocol; names where, and what to type.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound.among("entry of the board", str(path), map(str, path.parent.glob("*.json")))
    try:
        content = json.loads(bounded(path, "record"))
    except (ValueError, RecursionError):
        raise BadInput(f"{path} is no JSON. Write an entry with `distrust board submit`.") from None
    return _checked(content, str(path))


def _checked(content: Any, where: str) -> Entry:
    """An entry that has the form and keeps the protocol."""
    try:
        entry = Entry.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"][:3])) or "it"
        raise _no_entry(where, f"{at}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    if wrong := next(_odd(entry), None):
        raise _no_entry(where, wrong)
    _hold(entry.cells, where)
    return entry


def _no_entry(where: str, why: str) -> BadInput:
    return BadInput(f"{where} is no entry of the board: {why}. Write it with `distrust board submit`.")


def _odd(entry: Entry) -> Iterator[str]:
    """What a form cannot say of an entry: cells are cells, words are plain words, pictures are pictures."""
    numbers, stand = numbers_of_metrics(), {(facts.kind, facts.name) for facts in entry.methods}
    for i, cell in enumerate(entry.cells):
        if wrong := flaw(cell, numbers):
            yield f"cells.{i}: {wrong}"
            return  # nothing else can be asked of it
        words = words_of(cell)
        if words[:2] != ["distrust", "run"] or shlex.join(words) != cell["reproduce"]:  # somebody will type it
            yield f"cells.{i}.reproduce: it is not one command that begins with `distrust run`"
        yield from (
            f"cells.{i}.{name}: it has characters that cannot be printed"
            for name in ("id", "study", "budget", *(axis.name for axis in TABLE))
            if not (cell.get(name) or "").isprintable()
        )
        if missing := set(stands(cell)) - stand:
            yield f"methods: {' '.join(min(missing))} of cells.{i} is not among them"
    if not entry.by.isprintable():
        yield "by: it has characters that cannot be printed"
    yield from (f"methods: there is no kind {one.kind!r}" for one in entry.methods if one.kind not in KINDS)
    for name, strip in entry.pictures.items():
        for picture in (*strip.clean, *strip.triggered, *strip.difference):
            if len(picture) > 200_000 or not _decoded(picture).startswith(PNG):
                yield f"pictures.{name}: one is no small PNG"


def _decoded(picture: str) -> bytes:
    with contextlib.suppress(ValueError):
        return base64.b64decode(picture, validate=True)
    return b""


def _hold(cells: Sequence[Cell], where: str) -> None:
    """Hold cells to the protocol.

    Raises:
        BadInput: names the first combination that breaks it, how, and what to type.
    """
    for row in over_seeds(shortened(cells)):
        own = [cell for cell in row.cells if cell["state"] == "done"]
        wrong = next((why for flag, why in REFUSED.items() if any(flag in cell["flags"] for cell in own)), "")
        if not wrong and any(cell["chosen"] and not cell["validation"] for cell in own):
            wrong = "an option was chosen, and not on validation images"
        if not wrong and given(row.axes, "attack") and not all(finite(cell.get("carried")) for cell in own):
            wrong = REFUSED["no-control"]
        if wrong:
            raise BadInput(
                f"{where} cannot stand on the board: {describe(row.axes)}: {wrong}. Leave it out, or mend it."
            )
        if row.state != "skipped" and (many := len({cell["seed"] for cell in own})) < LEAST:
            again = shlex.join([*words_of(row.cells[0])[:3], "--seeds", str(LEAST)])
            raise BadInput(
                f"{where} cannot stand on the board: {describe(row.axes)} has {many} of the {LEAST} seeds that are "
                f"asked for. Type: {again}"
            )


def stands(cell: Axes) -> Iterator[tuple[str, str]]:
    """The methods on the axes of a cell or of a row, by kind and name."""
    for axis in TABLE:
        if axis.kind and (text := given(cell, axis.name)):
            yield axis.kind, bare(text)


def words_of(cell: Cell) -> list[str]:
    """The command that makes a cell, in words; none of what is no command."""
    with contextlib.suppress(ValueError):
        return shlex.split(cell["reproduce"])
    return []


def bare(text: str) -> str:
    """The name in a selector; of somebody else's label all that stands before a bracket."""
    return read(text).name.partition("[")[0]


def _methods(cells: Iterable[Cell], records: dict[str, Record]) -> list[MethodFacts]:
    """What is known of the methods in cells; their versions from the stages, else as they are here."""
    ran = dict(pair for record in records.values() for pair in _versions(record["recipe"]))
    stand = dict.fromkeys(pair for cell in cells for pair in stands(cell))
    found = []
    for kind, name in stand:
        method = registry.get(kind, name)
        found.append(MethodFacts(
            kind=kind, name=name, version=ran.get(f"{kind}/{name}", method.version), package=_package(method),
            paper=method.mark.paper[:1000], summary=method.summary[:1000],
        ))  # fmt: skip
    return found


def _versions(recipe: Any) -> Iterator[tuple[str, str]]:
    """The methods in a recipe, with the version that ran."""
    if isinstance(recipe, dict):
        if "method" in recipe and "version" in recipe:
            yield recipe["method"], recipe["version"]
        for value in recipe.values():
            yield from _versions(value)


def _package(method: Method) -> str:
    """Where a method lives: a package that is installed with its version, or a file."""
    if method.call.__module__.startswith("distrust.methods."):
        return f"distrust {__version__}"
    brought = importlib.metadata.entry_points(group="distrust.methods")
    dist = next((one.dist for one in brought if one.name == method.name and one.module == method.call.__module__), None)
    return f"{dist.name} {dist.version}" if dist else f"{method.name}.py, a file of its own"


def _records(cells: Iterable[Cell], store: Store) -> dict[str, Record]:
    """The records of the stages behind cells, and behind these, as far as the store has them whole."""
    found: dict[str, Record] = {}
    waiting = [key for cell in cells for key in cell["keys"].values()]
    while waiting:
        key = waiting.pop()
        with contextlib.suppress(DistrustError):
            if key not in found and (record := store.record(key)):
                found[key] = record
                waiting += record["parents"]
    return found


def _stage(record: Record) -> Record:
    """What the board shows of a stage."""
    return {
        "kind": record["kind"], "method": record["label"], "version": record["recipe"].get("version", ""),
        "seconds": record["seconds"], "parents": record["parents"], "taint": record.get("taint", []),
    }  # fmt: skip


def study_file(cells: Sequence[Cell]) -> str:
    """The text of the study file that the cells name, if it is here."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        file = Path(words_of(cells[0])[2])
        return bounded(file, "study").decode() if file.suffix == ".toml" else ""
    return ""


def _pictures(cells: Sequence[Cell], store: Store) -> dict[str, Any]:
    """What the triggers do to images, if study, images and stages are here."""
    from ..gather import pictures_of, plan_behind  # which brings torch

    plan = plan_behind(cells, Path())
    strips = pictures_of(plan, store) if plan else {}
    text = lambda png: base64.b64encode(png).decode()  # noqa: E731
    return {
        name: {kind: [*map(text, part)] if isinstance(part, list) else part for kind, part in strip.items()}
        for name, strip in strips.items()
    }
