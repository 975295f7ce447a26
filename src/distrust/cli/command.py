"""Command: what every command shares, which are the global options, exit codes, and how an error is told."""

from __future__ import annotations

import dataclasses
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

# What several commands take.
Budget = Annotated[str | None, typer.Option(help="Which of the study's budgets to use.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Number of seeds, in place of the study's.")]
ReportFile = Annotated[Path, typer.Option(help="Where the report goes.")]
Key = Annotated[str | None, typer.Option(help="Where the state dict lies in a nested .pt, e.g. state_dict.")]

# Click's UsageError, of which Typer may bring its own copy.
WrongUsage: type[Any] = typer.BadParameter.__mro__[1]


def command(body: Callable[..., Any]) -> Callable[..., Any]:
    """Register `body(face, …) -> exit code` as a command; errors are told as `main` says.

    A parameter that is a dataclass, as the face is, stands for options of its fields' names, which commands so share.
    """
    bundles: dict[str, Any] = {p.name: p.annotation for p in _options(body) if dataclasses.is_dataclass(p.annotation)}
    of = (body, *reversed(bundles.values()))
    options = [p for part in of for p in _options(part) if p.name not in bundles]

    @functools.wraps(body)
    def call(**given: Any) -> int:
        made = {name: b(**{f.name: given.pop(f.name) for f in dataclasses.fields(b)}) for name, b in bundles.items()}
        face: Face = made["face"]
        from ..errors import DistrustError

        try:
            face.add_plugins()
            return body(**made, **given)
        except WrongUsage:
            raise
        except DistrustError as error:
            return face.fail(type(error).__name__, str(error))
        except KeyboardInterrupt:
            return face.fail("Interrupted", "what was finished is kept; the same command goes on from there.")
        except Exception as error:  # a defect of ours, or of a plug-in: never mistaken for a finding
            traceback.print_exc()
            return face.fail(type(error).__name__, str(error))

    call.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in options}
    app.command(name=body.__name__.rstrip("_"))(call)
    return body


def _options(of: Any) -> list[inspect.Parameter]:
    """The parameters of a function, or fields of a dataclass, by keyword only."""
    return [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(of, eval_str=True).parameters.values()]


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
