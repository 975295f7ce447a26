"""Export: finished cells as runs of TensorBoard or MLflow; one view of a cell, two writers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadInput, NotFound
from ..study.axes import AXES
from .rows import Cell, columns, finite

PARAMS = ("study", "budget", *AXES, "place", "target", "seed")
MISSING = "{} is not here. Type: pip install 'distrust[export]'."


class Exported(NamedTuple):
    """A cell as such programs see a run.

    Args:
        name: its id, and what tells it from an earlier one of that id.
        params: what was asked: axes, budget, seed.
        metrics: what was measured, with the number of images behind it.
        tags: state, flags, keys, and how to make it again.
    """

    name: str
    params: dict[str, Any]
    metrics: dict[str, float]
    tags: dict[str, str]


def export(cells: Sequence[Cell], to: str) -> int:
    """Write finished cells as runs; those that are there already are left as they are. Returns how many were written.

    Args:
        cells: as in `Results.cells`.
        to: "tensorboard:FOLDER", where each run is a folder, or "mlflow:URI", where each study is an experiment.

    Raises:
        BadInput: another place, or one that cannot be written.
        NotFound: TensorBoard or MLflow is not installed.
    """
    kind, _, place = to.partition(":")
    if kind not in WRITERS or not place:
        raise BadInput(f"{to!r} is no place for runs. Give tensorboard:FOLDER or mlflow:URI.")
    return WRITERS[kind]([exported(cell) for cell in cells if cell["state"] == "done"], place)


def exported(cell: Cell) -> Exported:
    """One cell as a run."""
    numbers = [column.key for column in columns() if column.unit]
    tags = {"state": cell["state"], "flags": ", ".join(cell["flags"]), "reproduce": cell["reproduce"]}
    tags |= {f"key.{kind}": key for kind, key in cell["keys"].items()}
    return Exported(
        f"{cell['id']}-{version_of(cell)}",
        {name: cell[name] for name in PARAMS if cell.get(name) is not None},
        {name: float(cell[name]) for name in (*numbers, "n", "seconds") if finite(cell.get(name))},
        tags,
    )


def version_of(cell: Cell) -> str:
    """Eight digits that tell a cell from another of its id."""
    return hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:8]


def _tensorboard(runs: list[Exported], place: str) -> int:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise NotFound(MISSING.format("TensorBoard")) from None
    new = [run for run in runs if not Path(place, run.name).exists()]
    for run in new:
        try:
            with SummaryWriter(str(Path(place, run.name))) as writer:
                writer.add_hparams(run.params, run.metrics, run_name=".", global_step=0)
                for name, text in run.tags.items():
                    writer.add_text(name, text, 0)
        except OSError as error:
            raise BadInput(f"{place} cannot be written ({error.strerror or error}). Give another folder.") from None
    return len(new)


def _mlflow(runs: list[Exported], place: str) -> int:
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise NotFound(MISSING.format("MLflow")) from None
    written = 0
    try:
        client = MlflowClient(place)
        for study in dict.fromkeys(run.params["study"] for run in runs):
            known = client.get_experiment_by_name(study)
            there = known.experiment_id if known else client.create_experiment(study)
            names, token = set[str](), None
            while token != "":
                page = client.search_runs([there], page_token=token)
                names, token = names | {run.info.run_name or "" for run in page}, page.token or ""
            for run in runs:
                if run.params["study"] == study and run.name not in names:
                    made = client.create_run(there, run_name=run.name).info.run_id
                    params = [Param(name, str(value)) for name, value in run.params.items()]
                    metrics = [Metric(name, value, 0, 0) for name, value in run.metrics.items()]
                    tags = [RunTag(name, text) for name, text in run.tags.items()]
                    client.log_batch(made, metrics, params, tags)
                    client.set_terminated(made)
                    written += 1
    except (MlflowException, OSError, ImportError) as error:
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise BadInput(f"MLflow at {place} takes no runs ({said}). Give another URI.") from None
    return written


WRITERS = {"tensorboard": _tensorboard, "mlflow": _mlflow}
