"""Publish: write the page of a study, from a run, from the store, or from its cells alone."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from ..errors import DistrustError
from ..files import write_file
from ..study.api import DEMO, Results
from ..study.api import plan as plan_study
from ..study.api import results as find_results
from ..study.graph import Plan
from ..study.plan import make_plan
from ..study.spec import read_study
from .gather import report_of
from .html import page


def report(
    study: Results | str | Path,
    out: str | Path = "report.html",
    *,
    store: str = "runs",
    budget: str | None = None,
    seeds: int | None = None,
    first_seed: int = 0,
    made_by: str = "",
) -> Results:
    """Write one HTML file that shows a study; nothing is run.

    Args:
        study: what `run` or `results` returned, a study file, a results folder, or a study's name.
        out: where the page goes.
        store: where finished stages are kept; what it lacks is left out.
        budget: of a study file, as `plan` takes it, like the next two.
        seeds: number of seeds, in place of the study's.
        first_seed: where seeds begin.
        made_by: the command that made it, for the page.

    Returns:
        What the page shows.

    Raises:
        NotFound, BadInput: no such study, or as `plan`.
        StoreError: the page cannot be written.
    """
    if isinstance(study, Results):
        found = study
    elif Path(study).suffix == ".toml":
        found = plan_study(study, budget=budget, seeds=seeds, first_seed=first_seed, store=store).look()
    else:
        found = find_results(study, store=store)
    plan = found.plan or _planned(found)
    write_file(Path(out), page(report_of(found.cells, plan, found.store, made_by)).encode())
    return found


def _planned(found: Results) -> Plan | None:
    """The plan behind cells, if their study file is here: the numbers are in the cells, pictures need the plan."""
    command, name, *words = shlex.split(found.cells[0]["reproduce"])
    source = DEMO if name == "demo" else Path(words[0])
    if source.is_file():
        with contextlib.suppress(DistrustError):
            return make_plan(read_study(source, budget=found.cells[0]["budget"]))
    return None
