"""Command: what every command shares, which are the global options, exit codes, and how an error is told."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .face import Face

app = typer.Typer(
    help="Distrust: what did the student inherit? Measures and cleans backdoors that travel through distillation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Store = Annotated[str, typer.Option(help="Directory or fsspec URL where finished stages are kept.")]
Jobs = Annotated[int, typer.Option(min=0, help="Stages at a time, each with its share of the cores; 0: by itself.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
Device = Annotated[str, typer.Option(help="Torch device, e.g. cpu or cuda.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
GLOBAL = {"store": (Store, "runs"), "jobs": (Jobs, 0), "json_": (Json, False), "seed": (Seed, 0)}
GLOBAL |= {"device": (Device, "cpu"), "quiet": (Quiet, False)}

# What several commands take.
Plugins = Annotated[list[Path], typer.Option("--plugin", help="Python file with a method of your own; it is run.")]
Budget = Annotated[str | None, typer.Option(help="Which of the study's budgets to use.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Number of seeds, in place of the study's.")]
Changes = Annotated[list[str], typer.Option("--set", help="NAME=VALUE in place of an entry of the study; repeatable.")]
ReportFile = Annotated[Path, typer.Option(help="Where the report goes.")]
Key = Annotated[str | None, typer.Option(help="Where the state dict lies in a nested .pt, e.g. state_dict.")]

# Click's UsageError, of which Typer may bring its own copy.
WrongUsage: type[Any] = typer.BadParameter.__mro__[1]


def command(body: Callable[..., Any]) -> Callable[..., Any]:
    """Register `body(face, …) -> exit code` as a command with the global options; errors are told as `main` says."""

    @functools.wraps(body)
    def call(**given: Any) -> int:
        face = Face(**{name: given.pop(name) for name in GLOBAL})
        from ..errors import DistrustError

        try:
            return body(face, **given)
        except WrongUsage:
            raise
        except DistrustError as error:
            return face.fail(type(error).__name__, str(error))
        except KeyboardInterrupt:
            return face.fail("Interrupted", "what was finished is kept; the same command goes on from there.")
        except Exception as error:  # a defect of ours, or of a plug-in: never mistaken for a finding
            traceback.print_exc()
            return face.fail(type(error).__name__, str(error))

    parameters = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in GLOBAL.items()
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    call.__signature__ = inspect.Signature(parameters + extra)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters + extra}
    app.command(name=body.__name__.rstrip("_"))(call)
    return body


def main() -> NoReturn:
    """Entry point: exit codes are 0 done, 1 a finding, 2 error, 3 nothing could be judged, 4 usage."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on a busy machine
    try:
        code = app(standalone_mode=False)
    except WrongUsage as error:
        if "--json" in sys.argv:
            sys.stdout.write(json.dumps({"error": "Usage", "message": error.format_message()}) + "\n")
        error.show()
        code = 4
    sys.exit(code)
