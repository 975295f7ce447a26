"""python -m benchmarks: measure, print one table, write one JSON file a benchmark into the folder of this machine."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .measure import COLUMNS, Row, Scale, environment, machine

USUAL = (
    "fit", "distill", "together", "predict", "craft", "condense", "search", "attacks", "pretrain", "plan", "engine",
    "workers", "page", "board", "decode", "table",
)  # fmt: skip
ASIDE = ("audit", "mine", "large", "memory", "many")  # slow, and nobody's loop
ANYWHERE = ("fit", "distill", "together", "predict", "craft", "search", "table")  # on a GPU, too
RESULTS = Path(__file__).parent / "results"


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 1 if a benchmark failed; a goal that is missed is a number, not a failure."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.partition("\n")[0])
    known = (*USUAL, *ASIDE)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which (default: all but {' and '.join(ASIDE)}): {', '.join(known)}"
    )
    parser.add_argument("--quick", action="store_true", help="minutes: less of everything")
    parser.add_argument("--rounds", type=int, help="measurements of each way (default: as each benchmark has it)")
    parser.add_argument("--device", default="cpu", help="where networks run: cpu (default) or cuda")
    parser.add_argument("--whole", action="store_true", help="carry out every cell of the peers' table: hours")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the machines' folders")
    asked = parser.parse_args(words)
    unknown = sorted({*asked.names} - {*known})
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}. Known: {', '.join(known)}")
    names = asked.names or (USUAL if asked.device == "cpu" else ANYWHERE)
    grounded = sorted({*names} - {*ANYWHERE}) if asked.device != "cpu" else []
    if grounded:
        parser.error(f"{', '.join(grounded)}: measured on a CPU alone. On {asked.device} run {', '.join(ANYWHERE)}")
    scale = Scale("quick" if asked.quick else "usual", asked.rounds, asked.device, asked.whole)
    folder = asked.out / machine(scale.device)
    found = {name: measure(name, scale, folder) for name in names}
    show(found, scale)
    return int(any("error" in result for result in found.values()))


def measure(name: str, scale: Scale, folder: Path) -> dict[str, Any]:
    """Run one benchmark and write what came out; an error is part of that, and the others go on."""
    module = importlib.import_module(f"{__package__}.{name}")
    where = environment(scale.device)
    rows: list[Row] = []
    result = {"what": (module.__doc__ or "").partition("\n")[0], "scale": scale.name}
    try:
        for row in module.rows(scale):
            rows.append(row)
            print(name, *row.cells(), sep=" · ", file=sys.stderr, flush=True)
    except Exception as error:
        traceback.print_exc()
        result["error"] = f"{type(error).__name__}: {error}"
    result |= {"rows": [row.record() for row in rows], "environment": where}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return {**result, "rows": rows}


def show(found: dict[str, dict[str, Any]], scale: Scale) -> None:
    """The table."""
    where = environment(scale.device)
    table = Table("", *COLUMNS, title=" · ".join(f"{k} {v}" for k, v in where.items()), title_justify="left")
    for name, result in found.items():
        for row in result["rows"]:
            table.add_row(name, *row.cells())
        if "error" in result:
            table.add_row(name, f"failed: {result['error']}")
        table.add_section()
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)


if __name__ == "__main__":
    sys.exit(main())
