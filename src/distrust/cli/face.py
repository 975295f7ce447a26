"""Faces: how a command speaks. Results go to stdout, progress to stderr; --json makes stdout one object."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Face:
    """The global options of a command, and its voice."""

    store: Annotated[str, typer.Option(help="Directory or fsspec URL where finished stages are kept.")] = "runs"
    jobs: Annotated[int, typer.Option(min=0, help="Stages at a time, sharing the cores; 0: by itself.")] = 0
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0
    device: Annotated[str, typer.Option(help="Torch device, e.g. cpu or cuda.")] = "cpu"
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file with a method of yours; it is run.")] = None

    def add_plugins(self) -> None:
        """Run the files that hold the user's own methods."""
        if self.plugin:
            from ..registry import registry

            for file in self.plugin:
                registry.add(file)

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

    def flags(self, names: Sequence[str]) -> list[str]:
        """A line of explanation for each flag."""
        from ..flags import MEANING

        return [f"  {name}: {MEANING[name]}" for name in names]

    @contextlib.contextmanager
    def progress(self, waiting: Sequence[Any]) -> Iterator[Callable[[str, Any, dict[str, Any]], None]]:
        """A `tell` for a study: a bar on a terminal, plain lines otherwise, silence if quiet."""
        began, done = time.monotonic(), 0

        def line(event: str, stage: Any, record: dict[str, Any]) -> None:
            nonlocal done
            if event in ("done", "failed", "skipped"):
                done += 1
                note = record.get("error") or f"{record['seconds']:.1f} s"
                self.say(f"[{done}/{len(waiting)}] {event} {stage.label}: {note}  ({time.monotonic() - began:.0f} s)")

        if self.quiet or not waiting or not sys.stderr.isatty():
            yield line
            return
        from ..study.estimate import cost_of

        def share(stage: Any) -> float:
            return max(cost_of(stage, 1), 0.1)

        with _bar() as bar:
            whole = bar.add_task("stages", total=sum(map(share, waiting)))
            now = bar.add_task("", total=1, visible=False)

            def tell(event: str, stage: Any, record: dict[str, Any]) -> None:
                if event == "step":
                    text = f"{stage.label}: loss {record['loss']:.3g}"
                    bar.update(now, description=text, total=record["steps"], completed=record["step"], visible=True)
                elif event in ("done", "failed", "skipped"):
                    bar.advance(whole, share(stage))
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

            def look(step: int, steps: int, loss: float) -> None:
                bar.update(task, total=steps, completed=step, description=f"{what}: loss {loss:.3g}")

            with watching(look):
                yield


def _bar() -> Progress:
    words = TextColumn("{task.description}", markup=False)
    columns = (words, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
