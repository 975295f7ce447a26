"""Faces: how a command speaks. Results go to stdout, progress to stderr; --json makes stdout one object."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..errors import BadInput


@dataclass(frozen=True)
class Face:
    """The global options of a command, and its voice."""

    store: str
    jobs: int
    json_: bool
    seed: int
    device: str
    quiet: bool

    def show(self, facts: dict[str, Any], *lines: str) -> int:
        """Print the result: one JSON object, or the lines. Returns 0, the usual exit code."""
        text = json.dumps(facts, ensure_ascii=False, default=str) if self.json_ else "\n".join(x for x in lines if x)
        if text:
            sys.stdout.write(text + "\n")
        return 0

    def say(self, line: str) -> None:
        """A line of progress."""
        if not self.quiet:
            sys.stderr.write(line + "\n")

    def fail(self, kind: str, message: str) -> int:
        """Print an error; returns the exit code: 3 where a method cannot judge, else 2."""
        if self.json_:
            self.show({"error": kind, "message": message})
        sys.stderr.write(f"{kind}: {message}\n")
        return 3 if kind == "Skip" else 2

    def machine(self) -> str:
        """The torch device, once it is known to be there.

        Raises:
            BadInput: torch does not know it, or this machine does not have it.
        """
        import torch

        try:
            torch.empty(1, device=self.device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise BadInput(f"device {self.device!r} cannot be used here ({reason}). Type --device cpu.") from None
        return self.device

    def free(self, out: Path) -> None:
        """Refuse an output folder that is taken, before any work starts.

        Raises:
            BadInput: it exists and is not empty.
        """
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise BadInput(f"{out} exists already and is not empty. Give another --out, or remove it.")

    def results(self, study: str) -> str:
        """Where a study's cells go by default: beside the stages, or, if those are remote, here."""
        return f"results/{study}" if "://" in self.store else f"{self.store}/results/{study}"

    def find_results(self, folder: Path) -> Path:
        """A results folder by path, or by its study's name in the store or in ./results."""
        places = [folder, Path(self.results(folder.name)), Path("results") / folder.name]
        likely = places[1] if len(folder.parts) == 1 else folder  # whose neighbours an error names
        return next((p for p in places if p.is_dir()), likely)

    def flags(self, names: Sequence[str]) -> list[str]:
        """A line of explanation for each flag."""
        from ..flags import MEANING

        return [f"  {name}: {MEANING[name]}" for name in names]

    @staticmethod
    def duration(seconds: float) -> str:
        """Seconds in words: 5 s, 3 min, 2.1 h."""
        if seconds < 90:
            return f"{seconds:.0f} s"
        return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

    def table(self, cells: list[dict[str, Any]]) -> str:
        """Cells over seeds as lines of text; rates in percent."""
        from ..reporting.labels import shortened
        from ..study.cells import by_axes

        looked = any(cell.get("detector") for cell in cells)
        found = ("detector", "score", "clean twin's") if looked else ()
        rows = [("attack", "distiller", "student", "defense", *found, "n", "ACC", "ASR", "base", "carried", "flags")]
        for group in by_axes(shortened(cells)).values():
            first = group[0]
            done = [c for c in group if c["state"] == "done"]
            made_by = first.get("condenser") or first.get("encoder") or first["distiller"]
            names = [first["attack"], made_by, first["student"], first["defense"]]
            if looked:
                scores = [_score(done, name) for name in ("score", "score_control")]
                names += [first.get("detector") or "none", *scores]
            numbers = [_mean(done, name) for name in ("acc", "asr", "base", "carried")]
            flags = sorted({f for c in group for f in c.get("flags") or ()}) or ["–"]
            if lacking := next((c for c in group if c["state"] != "done"), None):
                flags = [f"{lacking['state']}: {lacking['error']}"]
            rows.append((*map(str, names), str(len(done)), *numbers, ", ".join(flags)))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
        return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(r, widths, strict=False)), r[-1]]) for r in rows)

    @contextlib.contextmanager
    def progress(self, waiting: Sequence[Any]) -> Iterator[Callable[[str, Any, dict[str, Any]], None]]:
        """A `tell` for the study engine: a bar on a terminal, plain lines otherwise, silence if quiet."""
        if self.quiet or not waiting:
            yield lambda event, stage, record: None
            return
        total, done, began = len(waiting), 0, time.monotonic()
        if not sys.stderr.isatty():

            def line(event: str, stage: Any, record: dict[str, Any]) -> None:
                nonlocal done
                if event in ("done", "failed", "skipped"):
                    done += 1
                    note = record.get("error") or f"{record['seconds']:.1f} s"
                    self.say(f"[{done}/{total}] {event} {stage.label}: {note}  ({time.monotonic() - began:.0f} s)")

            yield line
            return
        with _bar() as bar:
            whole = bar.add_task("stages", total=sum(max(s.passes, 0.1) for s in waiting))
            now = bar.add_task("", total=1, visible=False)

            def tell(event: str, stage: Any, record: dict[str, Any]) -> None:
                if event == "step":
                    text = f"{stage.label}: loss {record['loss']:.3g}"
                    bar.update(now, description=text, total=record["steps"], completed=record["step"], visible=True)
                elif event in ("done", "failed", "skipped"):
                    bar.advance(whole, max(stage.passes, 0.1))
                    bar.update(now, visible=False)
                    if event != "done":
                        bar.console.print(f"{event} {stage.label}: {record.get('error')}", markup=False)

            yield tell

    @contextlib.contextmanager
    def loop(self, what: str) -> Iterator[None]:
        """A bar for one training loop after another."""
        if self.quiet or not sys.stderr.isatty():
            yield
            return
        from ..training import watching

        with _bar() as bar:
            task = bar.add_task(what)
            with watching(
                lambda step, steps, loss: bar.update(
                    task, total=steps, completed=step, description=f"{what}: loss {loss:.3g}"
                )
            ):
                yield


def _bar() -> Progress:
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _mean(cells: list[dict[str, Any]], name: str) -> str:
    """Mean over seeds in percent, with its 95 % t-interval where there are two or more."""
    from ..measurement import over_seeds
    from ..reporting.text import interval, percent

    values = [c[name] for c in cells if c.get(name) is not None]
    if not values:
        return "–"
    mean, bounds = over_seeds(values, name)
    return f"{percent(mean)} {interval(bounds)}".strip()


def _score(cells: list[dict[str, Any]], name: str) -> str:
    """Mean score of a detector over seeds."""
    values = [c[name] for c in cells if c.get(name) is not None]
    return f"{sum(values) / len(values):.2f}" if values else "–"
