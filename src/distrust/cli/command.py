"""Command: what every command shares: its face, which is the global options and its voice; exit codes; errors.

Results go to stdout, progress to stderr; --json makes stdout one object.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import time
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
import typer.core
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..allowed import code_from, typed
from ..errors import DistrustError, Notice
from ..flags import MEANING, Flag


class _Group(typer.core.TyperGroup):
    """The commands; of two words, where there is one of that name, as `results import`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take both words at once."""
        both = " ".join(args[:2])
        return super().resolve_command(ctx, [both, *args[2:]] if both in self.commands else args)


app = typer.Typer(
    cls=_Group,
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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is no report of ours.")]
Key = Annotated[str | None, typer.Option(help="Where the state dict lies in a nested .pt, e.g. state_dict.")]

NAMING = ("model", "student", "method", "distiller", "detector", "panel", "change")  # may name code that is run

LONG = 600  # characters of an error that nobody foresaw
DEFECT = (
    "Nobody foresaw this. Unless it comes from code of yours, report it: the command, and what it prints with --debug."
)

# Control characters but tab and newline, marks of direction, halves of characters.
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# Click's UsageError, of which Typer may bring its own copy.
WrongUsage: type[Any] = typer.BadParameter.__mro__[1]


@dataclass(frozen=True)
class Face:
    """The global options of a command, and its voice."""

    store: Annotated[str, typer.Option(help="Directory or fsspec URL where finished stages are kept.")] = "runs"
    jobs: Annotated[int, typer.Option(min=0, help="Stages at a time, sharing the cores; 0: by itself.")] = 0
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0
    device: Annotated[str, typer.Option(help="Torch device, e.g. cpu or cuda.")] = "cpu"
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file with a method of yours; it is run.")] = None
    allow_code: Annotated[
        list[Path] | None, typer.Option(help="Python file that may be run where a study or its store names it.")
    ] = None

    def show(self, facts: dict[str, Any], *lines: str, flags: Sequence[str] = ()) -> int:
        """Print the result: one JSON object, or lines, and what the flags mean. Returns 0, the usual exit code."""
        told = [*filter(None, lines), *(f"  {name}: {MEANING[name]}" for name in flags)]
        if self.json_:
            told = [json.dumps(facts, ensure_ascii=False, default=str)]
        if told:
            put(sys.stdout, "".join(f"{line}\n" for line in _folded(map(inert, told), self.width)))
        return 0

    @property
    def width(self) -> int:
        """Characters in a line of the terminal on which the result is read; 0 if it is not."""
        return shutil.get_terminal_size().columns if sys.stdout.isatty() and not self.json_ else 0

    def say(self, line: str) -> None:
        """A line of progress."""
        if not self.quiet:
            put(sys.stderr, inert(line) + "\n")

    def fail(self, kind: str, message: str, facts: Mapping[str, Any]) -> int:
        """Print an error; returns the exit code: 3 where a method cannot judge, else 2."""
        if self.json_:
            self.show({**facts, "error": kind, "message": message})
        put(sys.stderr, inert(f"{kind}: {message}") + "\n")
        return 3 if kind == "Skip" else 2

    @contextlib.contextmanager
    def progress(self, planned: Any) -> Iterator[Callable[[str, Any, dict[str, Any]], None]]:
        """A `tell` for a study: a bar on a terminal, plain lines otherwise, silence if quiet."""
        from ..study.estimate import share_of

        began, done, waiting, weights = time.monotonic(), 0, planned.waiting, planned.sample.weights
        count, known = planned.sample.count(waiting), {stage.key for stage in waiting}
        with self._bar(useful=bool(waiting)) as bar:
            whole = bar.add_task("stages", total=sum(share_of(stage) * weights.get(stage.key, 1) for stage in waiting))
            now = bar.add_task("", total=1, visible=False)

            def tell(event: str, stage: Any, record: dict[str, Any]) -> None:
                nonlocal done
                if event == "step":
                    text = f"{inert(stage.label)}: loss {record['loss']:.3g}"
                    bar.update(now, description=text, total=record["steps"], completed=record["step"], visible=True)
                elif event != "start" and (stage.key in known or (planned.grid.large and event != "cached")):
                    done += 1
                    bar.advance(whole, share_of(stage))
                    bar.update(now, visible=False)
                    told, took = f"{event} {stage.label}: ", time.monotonic() - began
                    note = record.get("error") or f"{record['seconds']:.1f} s"
                    if bar.disable:
                        self.say(f"[{done}/{count}] {told}{note}  ({took:.0f} s)")
                    elif event not in ("done", "cached"):
                        bar.console.print(inert(f"{told}{note}"), markup=False)

            yield tell

    @contextlib.contextmanager
    def loop(self, what: str) -> Iterator[None]:
        """A bar for one training loop after another."""
        from ..training import watching

        with self._bar() as bar:
            task = bar.add_task(what)

            def look(step: int, steps: int, loss: float) -> None:
                bar.update(task, total=steps, completed=step, description=f"{what}: loss {loss:.3g}")

            with watching(look):
                yield

    def _bar(self, useful: bool = True) -> Progress:
        """A bar, which shows nothing where nobody looks."""
        hidden = self.quiet or not useful or not sys.stderr.isatty()
        words = TextColumn("{task.description}", markup=False)
        columns = (words, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        console = Console(stderr=True, quiet=hidden)  # even a disabled bar ends with an empty line
        return Progress(*columns, console=console, transient=True, disable=hidden)


class _Command(typer.core.TyperCommand):
    """A command, of whose options those may stand alone whose value is shown in brackets: `--ray` is `--ray local`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give them the value that they have then."""
        alone = {name for p in self.params if str(p.metavar).startswith("[") for name in p.opts}
        pairs = zip(args, [*args[1:], "-"], strict=False)
        words = (f"{w}=local" if w in alone and re.search("^-|[.]toml$", after) else w for w, after in pairs)
        return super().parse_args(ctx, [*words])


def group(name: str, about: str) -> Callable[..., Any]:
    """A group of commands, `distrust NAME COMMAND`; what registers one of them, as `command` does."""
    made = typer.Typer(
        help=about, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    app.add_typer(made, name=name)
    return functools.partial(command, group=made)


def command(body: Callable[..., Any], group: typer.Typer = app) -> Callable[..., Any]:
    """Register `body(face, …) -> exit code` as a command, or as one of a group; errors are told as `main` says.

    A parameter that is a dataclass, as the face is, stands for options of its fields' names, which commands so share.
    """
    bundles: dict[str, Any] = {p.name: p.annotation for p in _options(body) if dataclasses.is_dataclass(p.annotation)}
    of = (body, *reversed(bundles.values()))
    options = [p for part in of for p in _options(part) if p.name not in bundles]

    @functools.wraps(body)
    def call(**given: Any) -> int:
        texts = [text for name in NAMING for text in _listed(given.get(name))]
        made = {name: b(**{f.name: given.pop(f.name) for f in dataclasses.fields(b)}) for name, b in bundles.items()}
        face: Face = made["face"]
        from ..registry import registry

        try:
            with _noticed(face), code_from([*(face.allow_code or ()), *typed(*texts)]):
                for file in face.plugin or ():
                    registry.add(file)
                return body(**made, **given)
        except WrongUsage:
            raise
        except KeyboardInterrupt:
            return face.fail("Interrupted", "what was finished is kept; the same command goes on from there.", {})
        except (Exception, SystemExit) as error:  # never mistaken for a finding
            if face.debug:
                put(sys.stderr, "".join(f"{inert(line)}\n" for line in traceback.format_exc().splitlines()))
            told, facts = _typed(_told(error), [p.name for p in options]), getattr(error, "facts", {})
            return face.fail(type(error).__name__, told, facts)

    call.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in options}
    group.command(name=body.__name__.rstrip("_").replace("_", " "), cls=_Command)(call)
    return body


def assignments(texts: Iterable[str] | None) -> dict[str, Any]:
    """What `--set` asks for."""
    return dict(map(_assignment, texts or ()))


def _assignment(text: str) -> tuple[str, Any]:
    """`seeds=1`, `attack=["none"]`, `budget=cpu`: a line of TOML, whose words need no quotes."""
    name, sign, value = text.partition("=")
    if not sign:
        raise typer.BadParameter(
            f"--set {text}: write NAME=VALUE, e.g. --set budget=cpu or --set 'images=[\"gtsrb\"]'."
        )
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def inert(text: str) -> str:
    """A line whose names may be a stranger's: one line, without what would steer a terminal or turn it around."""
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\n", " "))


def _folded(lines: Iterable[str], width: int) -> Iterator[str]:
    """Sentences that are longer than a terminal is wide are broken between words, and go on where they began."""
    for line in lines:
        columns = re.split(r"(?<=\S)  +", line)  # what has several numbers in columns is left as it is
        if not 40 <= width < len(line) or len(columns) > 3:
            yield line
            continue
        start = min(len(line) - len(columns[-1].lstrip()), width // 2)
        yield from textwrap.wrap(
            line, width, subsequent_indent=" " * start, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True, replace_whitespace=False,
        )  # fmt: skip


def put(stream: TextIO, text: str) -> None:
    """Write at once; what nobody reads any more, as behind `| head -1`, is let go.

    Raises:
        OSError: results cannot be written, as on a full disk.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what waits would be tried again at the end
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise


def _told(error: BaseException) -> str:
    """What an error says. One that nobody foresaw is a defect, of ours or of a plug-in."""
    said = str(error)
    if isinstance(error, DistrustError):
        return said
    if isinstance(error, OSError) and error.strerror:
        at = "" if error.filename is None else f"{str(error.filename)[:LONG]}: "  # which somebody named
        return f"{at}{error.strerror}. Give another place."
    if isinstance(error, MemoryError):
        return "there is not enough memory for this."
    if isinstance(error, SystemExit):
        return f"code that was run, of a plug-in or a factory, asked to end the program ({said or 0})."
    return f"{' '.join(said.split())[:LONG] or 'it says no more'}. {DEFECT}"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _typed(message: str, options: Iterable[str]) -> str:
    """A message of the library with options as they are typed here: `--size 8` for `size=8`; selectors stay."""
    names = "|".join({*options, "size", "channels"} - {"classes"})  # which other commands than `check` take

    def flag(found: re.Match[str]) -> str:
        words = [f"--{found[1].replace('_', '-')}", *filter(None, [(found[2] or "").strip("'")])]
        return " ".join(words)

    return re.sub(rf"(?<![\w.,\[(-])({names})=('[^']*'|-?\w[\w.]*\w|-?\w)?", flag, message)


@contextlib.contextmanager
def _noticed(face: Face) -> Iterator[None]:
    """Print what a user should know as a line; other warnings are shown as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            told = issubclass(category, Notice | Flag)
            face.say(str(message)) if told else usual(message, category, *rest, **more)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _options(of: Any) -> list[inspect.Parameter]:
    """The parameters of a function, or fields of a dataclass, by keyword only."""
    return [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(of, eval_str=True).parameters.values()]


def main() -> NoReturn:
    """Entry point: exit codes are 0 done, 1 a finding, 2 error, 3 nothing could be judged, 4 usage."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on a busy machine
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what its encoding lacks
    try:
        code = app(standalone_mode=False)
    except WrongUsage as error:
        code = 4
        with contextlib.suppress(OSError):
            if "--json" in sys.argv:
                put(sys.stdout, json.dumps({"error": "Usage", "message": error.format_message()}) + "\n")
            error.show()
    except (SystemExit, OSError):  # nobody reads the help to its end, of which Click makes an exit code 1
        code = 0
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            put(stream, "")
    sys.exit(code)
