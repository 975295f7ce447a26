"""Publishing: what came out of a study as a page, a table, a figure or an entry of a bibliography; nothing is run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .allowed import Files as Code
from .allowed import code_from
from .errors import BadInput, NotFound
from .files import replaceable, write_file
from .reporting.results import Results, results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .reporting.table import Table


def opened(
    study: Results | str | Path,
    *,
    store: str = "runs",
    budget: str | None = None,
    seeds: int | None = None,
    first_seed: int = 0,
) -> Results:
    """What is there of a study.

    Args:
        study: what `run` or `results` returned, a study file, a results folder, or a study's name.
        store: where finished stages are kept.
        budget: of a study file, as `plan` takes it, like the next two.
        seeds: number of seeds, in place of the study's.
        first_seed: where seeds begin.

    Raises:
        NotFound, BadInput: no such study, or as `plan`.
    """
    if isinstance(study, Results):
        return study
    if Path(study).suffix == ".toml":
        from .api import plan  # with torch, which what is written down needs not

        return plan(study, budget=budget, seeds=seeds, first_seed=first_seed, store=store).look()
    return results(study, store=store)


def report(
    study: Results | str | Path,
    out: str | Path = "report.html",
    *,
    made_by: str = "",
    overwrite: bool = False,
    allow_code: Code = (),
    **asked: Any,
) -> Results:
    """Write one HTML file that shows a study.

    Args:
        study: as `opened` takes it.
        out: where the page goes.
        made_by: the command that made it, for the page.
        overwrite: replace a file that an earlier report did not write.
        allow_code: Python files that may be run, as `plan` takes them; pictures that need others are left out.
        **asked: store, budget, seeds, first_seed, as `opened` takes them; what the store lacks is left out.

    Returns:
        What the page shows.

    Raises:
        NotFound, BadInput: no such study, or as `plan`; `out` is something else than a report.
        StoreError: the page cannot be written.
    """
    out = replaceable(out, overwrite)
    from .api import DEMO
    from .reporting import page
    from .reporting.gather import plan_behind, report_of

    found = opened(study, **asked)
    with code_from(allow_code):
        shown = report_of(found.cells, found.plan or plan_behind(found.cells, DEMO), found.store, made_by)
    write_file(out, page(shown).encode())
    return found


def table(
    study: Results | str | Path,
    columns: Sequence[str] = (),
    rows: Mapping[str, Collection[str]] | None = None,
    intervals: str = "runs",
    **asked: Any,
) -> Table:
    """A table of a study over seeds; `.to("latex")`, "markdown", "html", "csv" or "text" writes it.

    Args:
        study: as `opened` takes it.
        columns: keys of axes, of metrics as in a cell, or "model", "seeds", "n", "verdict", "chosen", "flags".
        rows: axis → the entries of the rows that are kept, in this order, as a table shows them.
        intervals: "runs": of fewer than five runs each, of more their 95 % t-interval; "t": always this; "none".
        **asked: store, budget, seeds, first_seed, as `opened` takes them.

    Raises:
        NotFound: no such study, column, axis or entry, with what is near.
        BadInput: no row has all that was asked for.
        Skip: no row has a number.
    """
    from .reporting.table import table_of

    return table_of(opened(study, **asked).cells, columns, rows, intervals)


def figure(
    study: Results | str | Path,
    kind: str,
    out: str | Path | None = None,
    *,
    ax: Axes | Sequence[Axes] | None = None,
    rows: Mapping[str, Collection[str]] | None = None,
    metric: str = "carried",
    over: str = "",
    overwrite: bool = False,
    allow_code: Code = (),
    **asked: Any,
) -> Figure:
    """Draw a study, on axes of yours or on a figure of its own.

    Args:
        study: as `opened` takes it.
        kind: "map": a metric by attack, model and defence; "frontier": ACC against ASR, a panel for each attack;
            "curve": a metric over a numeric option; "triggers": an image, the same with the
            trigger, and the difference.
        out: where it goes: a .pdf, .svg or .png.
        ax: Matplotlib axes to draw on, as many as there are panels; their style stays yours.
        rows: axis → entries of the rows that are drawn, as `table` takes them.
        metric: of a map or a curve, as in a cell.
        over: option along which a curve goes; default: the only one that there is.
        overwrite: replace a file that no earlier figure wrote.
        allow_code: Python files that may be run, as `plan` takes them, where a trigger needs them.
        **asked: store, budget, seeds, first_seed, as `opened` takes them.

    Raises:
        NotFound: no such study, kind, metric, option, axis or entry; no picture of a trigger is here.
        BadInput: another suffix; more panels than axes; several options and none is chosen; no row is left.
        Skip: no row has a number.
        StoreError: the file cannot be written.
    """
    suffix = Path(out or "f.pdf").suffix
    if suffix not in (".pdf", ".svg", ".png"):
        raise BadInput(
            f"{out}: a figure is written as .pdf, .svg or .png, not {suffix or 'without an ending'}. Type --out f.pdf."
        )
    if out:
        out = replaceable(out, overwrite)
    import distrust.reporting.plots as plots

    from .api import DEMO
    from .reporting.gather import plan_behind

    if kind not in plots.KINDS:
        raise NotFound.among("kind of figure", kind, plots.KINDS)
    found = opened(study, **asked)
    with code_from(allow_code):
        planned = (found.plan or plan_behind(found.cells, DEMO)) if kind == "triggers" else None
        drawn = plots.drawing(kind, found.cells, rows or {}, metric, over, planned, found.store)
    made = plots.onto(drawn, ax) if ax is not None else plots.alone(drawn)
    if out:
        write_file(Path(out), plots.written(made, suffix[1:]))
    return made


def cite(study: Results | str | Path | None = None, cell: str = "", **asked: Any) -> str:
    """BibTeX for Distrust and, if they are named, for a study and for one of its cells, each with its version.

    Args:
        study: as `opened` takes it.
        cell: the id of a cell, or its beginning.
        **asked: store, budget, seeds, first_seed, as `opened` takes them.

    Raises:
        NotFound: no such study or cell, with what is near.
        BadInput: a cell without its study, or several that begin so.
        Skip: no cell has a number.
    """
    from .reporting.citing import bibtex

    if cell and study is None:
        raise BadInput(f"cell {cell!r} is cited with its study. Type: distrust cite STUDY --cell {cell}")
    return bibtex([] if study is None else opened(study, **asked).cells, cell)
