"""Artefact: a folder with a model that was made, its record and its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from .. import __version__
from ..files import artefact_name, write_folder
from ..models import saved
from ..models.saved import Names


def write_artefact(
    out: str | Path, model: nn.Module, taint: tuple[str, ...], record: dict[str, Any], names: Names | None = None
) -> Path:
    """Write a model as a folder: weights, record and model card; all or nothing. Return the weights' path.

    Args:
        out: the folder.
        model: the model.
        taint: attacks that are known among its ancestors.
        record: what else is to be written down; `classes`, where it says them, goes into the file of weights too.
        names: of its tensors, as `original_names` gives them, in place of the network's own.

    Raises:
        BadInput: the folder exists and is not empty.
        StoreError: it cannot be written.
    """
    name = artefact_name(taint)
    facts = {"distrust": __version__, "spec": getattr(model, "spec", None), "taint": list(taint), **record}
    beside = {"taint": list(taint)} | ({"classes": list(record["classes"])} if record.get("classes") else {})
    files = {
        name: saved(model, beside, names),
        "record.json": json.dumps(facts, indent=1, default=str).encode() + b"\n",
        "README.md": _card(name, taint, facts).encode(),
    }
    return write_folder(out, files) / name


def _card(name: str, taint: tuple[str, ...], facts: dict[str, Any]) -> str:
    warning = (
        f"> **Tainted.** An attack is among this model's ancestors ({', '.join(taint)}). For research only.\n\n"
        if taint
        else "No attack is among this model's ancestors, as far as they are recorded.\n\n"
        if facts.get("origin") == "known"
        else "**Origin unknown.** It was made from a stranger's file, of whose ancestors nothing is recorded.\n\n"
    )
    rows = "\n".join(f"| {k} | `{_inert(json.dumps(v, default=str))}` |" for k, v in facts.items() if k != "spec")
    opened = f'network.load_state_dict(safetensors.torch.load_file("{name}"))'
    code = f"```python\n{opened}\n```\n\nopens it in the network's own code; `distrust measure --weights {name}` and "
    strange = ".py:" in (made := (facts["spec"] or {}).get("name", ""))
    code += (
        f"`distrust.load` need `{_inert(made)}` beside the file, whose code they run."
        if strange
        else ("`distrust.load` need no more than the file.")
    )
    return f"# {name}\n\n{warning}{code}\n\n| fact | value |\n|---|---|\n{rows}\n"


def _inert(text: str) -> str:
    """What a stranger may have written, so that it stays within its code and its cell of a table."""
    return text.replace("`", "'").replace("|", "\\|").replace("\n", " ")
