"""Moving: a study on its way to another machine, with its stages and cells; and which stages studies need."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .allowed import code_in
from .api import DEMO
from .errors import BadInput, notice
from .files import write_file
from .reporting.results import folder_of
from .study.archives import INSIDE, SAFE, unpacking
from .study.cells import read_cells, write_cells
from .study.housekeeping import Store
from .study.plan import make_plan
from .study.spec import read_study, read_toml


def needed(*studies: str | Path, budget: str | None = None, seeds: int | None = None, first_seed: int = 0) -> set[str]:
    """Keys of all stages of these studies.

    Args:
        studies: study files, or "demo".
        budget: which of their budgets; None: all of them.
        seeds: number of seeds, in place of the studies'.
        first_seed: where seeds begin.

    Raises:
        NotFound, BadInput: as `plan`.
    """
    keys = set[str]()
    for study in studies:
        file = DEMO if str(study) == "demo" else study
        for name in [budget] if budget else read_study(file).budgets:
            keys.update(make_plan(read_study(file, budget=name, seeds=seeds), first_seed=first_seed).stages)
    return keys


def export(
    study: str | Path,
    out: str | Path | None = None,
    *,
    store: str = "runs",
    budget: str | None = None,
    seeds: int | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
    first_seed: int = 0,
    scores: bool = False,
) -> dict[str, Any]:
    """Pack what another machine needs to score a study or to go on with it: its file, its stages, its cells.

    Unpacked, the archive is a folder in which the same command goes on; `import_` takes it into a store.

    Args:
        study: a study file, or "demo".
        out: a new zip file or, without that ending, a new folder; default: the study's name and `.zip`.
        store: where its stages are.
        budget: which of the study's budgets.
        seeds: number of seeds, in place of the study's.
        changes: any entries in place of the study's.
        first_seed: where seeds begin.
        scores: leave out what only going on needs: models and images.

    Returns:
        `out`, `study`, the number of `stages` of the plan's `planned` ones, of `cells`, `bytes`, what is `damaged`, and
        the `files` beside.

    Raises:
        NotFound, BadInput: as `plan`; nothing of it is done yet, or there is something of that name.
        StoreError: the archive cannot be written, or the store not read.
    """
    file = DEMO if str(study) == "demo" else Path(study)
    read = read_study(
        file, **{**changes, "budget": budget or changes.get("budget"), "seeds": seeds or changes.get("seeds")}
    )
    plan, own = make_plan(read, first_seed=first_seed), Store(store)
    last = {stage.key for cell in plan.cells for stage in cell.needed}
    beside = _files_of(file, plan.code)
    folder = folder_of(read.name, store)
    cells = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.json"))}
    packed = {f"{INSIDE}/results/{read.name}/{name}": data for name, data in cells.items()}
    bare = plan.stages.keys() - last if scores else ()
    found = own.export(out or f"{read.name}.zip", plan.stages, bare=bare, beside={**beside, **packed})
    return {**found, "study": read.name, "planned": len(plan.stages), "cells": len(cells), "files": sorted(beside)}


def _files_of(study: Path, code: tuple[str, ...]) -> dict[str, bytes]:
    """The study file, the one that its budgets come from, and the code that it names, by names in the archive."""
    found = {study.name: study.read_bytes()}
    if other := read_toml(study).get("budgets_from"):
        found[str(other)] = (study.parent / str(other)).read_bytes()
    for name in dict.fromkeys(one.rpartition(":")[0] for one in code):
        found |= {path.as_posix(): content for path, content in code_in(name).items()}
    outside = sorted(name for name in found if not SAFE.fullmatch(name))
    if outside:
        notice(f"Not packed, as it is not in this folder: {', '.join(outside)}. Take it along by hand.")
    return {name: data for name, data in found.items() if name not in outside}


def import_(source: str | Path, *, store: str = "runs", to: str | Path = ".") -> dict[str, Any]:
    """Take what `export` packed into a store: stages, cells, and the study file. Nothing that is there is lost.

    Names, sizes and checksums are looked at first; what is damaged is named and left out. Code is neither unpacked nor
    run.

    Args:
        source: a zip file or a folder that `export` wrote.
        store: where the stages go, with the cells beside them.
        to: the folder for the study file.

    Returns:
        Numbers of stages that were `imported` and that were `there`, of `cells`, what is `damaged`, and the `studies`.

    Raises:
        NotFound, BadInput, StoreError: as `Store.import_`.
    """
    facts, studies, code, cells = Store(store).import_(source), list[str](), list[str](), 0
    with unpacking(source) as files, tempfile.TemporaryDirectory() as scratch:
        for name in files:
            _, _, inside = name.partition(f"{INSIDE}/results/")
            if inside and name.startswith(INSIDE) and name.endswith(".json"):
                write_file(Path(scratch) / inside, files[name])
            elif name.endswith(".toml") and "/" not in name:
                studies.append(str(_placed(Path(to) / name, files[name])))
            elif not name.startswith(f"{INSIDE}/"):
                code.append(name)
        for folder in sorted({path.parent for path in Path(scratch).rglob("*.json")}):
            try:
                read = read_cells(folder)
            except BadInput as error:
                notice(f"{error}")
                continue
            write_cells(read, folder_of(folder.relative_to(scratch).as_posix(), store))
            cells += len(read)
    if code:
        notice(f"Not unpacked, as it is code: {', '.join(code)}. Look at it first, and unpack it by hand.")
    return {**facts, "cells": cells, "studies": studies}


def _placed(path: Path, data: bytes) -> Path:
    """Write a file where there is none; another one of that name stays."""
    if not path.exists():
        write_file(path, data)
    elif path.read_bytes() != data:
        notice(f"{path} is there already, and differs from the one that was packed; it stays.")
    return path
