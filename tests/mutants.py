"""python -m tests.mutants: plant each bug of tests/mutants.toml in turn; the tests named beside it must find it.

Canaries and committed results do not count: they say that a number changed, not that it is wrong, and whoever changes a
formula records them anew.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent
SRC = ROOT / "src" / "distrust"
LIST = HERE / "mutants.toml"
NO_PROOF = ("test_canaries", "test_results", "test_docs", "test_mutants")  # what fails on any change, or none
ENOUGH = 0.95  # of all mutants that have to die
PATIENCE = 120  # seconds of a processor for a mutant, which may loop for ever
WORTHLESS = (SyntaxError, NameError, ImportError)  # by these anything dies: the mutant itself is at fault
BEFORE = "pytest hypothesis numpy scipy.stats scipy.ndimage PIL.Image pydantic safetensors.torch kornia.filters"
BEFORE += " kornia.augmentation kornia.metrics torch torch._dynamo torch.distributed.tensor"  # none starts a thread


@dataclass(frozen=True)
class Mutant:
    """A bug that somebody could make.

    Args:
        name: what is wrong with it.
        file: below src/distrust.
        old: text that is there exactly once.
        new: what stands there instead.
        tests: files below tests, or single tests, of which one should fail.
        reason: why none does, of one that survives.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    reason: str = ""

    @property
    def module(self) -> str:
        """As it is imported."""
        return ".".join(("distrust", *Path(self.file).with_suffix("").parts))

    @property
    def text(self) -> str:
        """The file with the bug in it."""
        text = (SRC / self.file).read_text()
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: its old text is {found} times in {self.file}, not once; renew the list")
        return text.replace(self.old, self.new)


class Fate(NamedTuple):
    """What became of a mutant."""

    state: str  # killed, survived, or what is wrong with the mutant
    by: str  # the test that failed
    seconds: float  # of a processor


def mutants(file: Path = LIST) -> list[Mutant]:
    """All of a list, in which a file names the tests of its mutants, unless these name their own."""
    files = tomllib.loads(file.read_text())["file"]
    found = ({"file": of["path"], "tests": of["tests"], **row} for of in files for row in of["mutant"])
    return [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in found]


class Planted(importlib.machinery.SourceFileLoader):
    """Finds and loads one module, from another text than that of its file; subprocesses get it as it is."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.module, str(SRC / mutant.file))
        self.other = mutant.text

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Of this module alone."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        """Of the other text, past every cache."""
        return compile(self.other, self.path, "exec", dont_inherit=True)


class Listener:
    """A plug-in of pytest that remembers the first test that failed, and whether the mutant was worth it."""

    def __init__(self) -> None:
        self.by, self.fault = "", ""

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        """Of the first one."""
        self.by = self.by or node.nodeid
        if call.excinfo.errisinstance(WORTHLESS):
            self.fault = f"{type(call.excinfo.value).__name__}: {call.excinfo.value}"


def tried(mutant: Mutant | None, tests: Sequence[str], scratch: str) -> Fate:
    """Run these tests in this process, which no import of the package has touched yet."""
    import pytest
    import torch

    assert not any(name.partition(".")[0] == "distrust" for name in sys.modules)
    torch.set_num_threads(1)
    listener = Listener()
    if mutant:
        sys.meta_path.insert(0, Planted(mutant))
    words = ["-q", "-p", "no:cacheprovider", f"--basetemp={scratch}/tmp", f"--rootdir={ROOT}"]
    words += ["-x"] if mutant else []
    code = int(pytest.main([*words, *(str(HERE / test) for test in tests)], plugins=[listener]))
    state = {0: "survived", 1: "killed"}.get(code, f"pytest ended with {code}")
    state = "survived without being imported" if mutant and mutant.module not in sys.modules and code == 0 else state
    return Fate(listener.fault or state, listener.by, time.process_time())


def fates(jobs: Sequence[tuple[Mutant | None, Sequence[str]]], workers: int) -> Iterator[tuple[int, Fate]]:
    """Each in a process of its own, forked from this one, so many at a time; as they end."""
    running: dict[int, tuple[int, str]] = {}
    waiting = list(enumerate(jobs))
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    number, (mutant, tests) = waiting.pop(0)
                    scratch = os.path.join(folder, str(number))
                    os.mkdir(scratch)
                    sys.stdout.flush()
                    pid = os.fork()
                    if pid == 0:
                        _alone(mutant, tests, scratch)
                    running[pid] = number, scratch
                pid, status, used = os.wait4(-1, 0)
                number, scratch = running.pop(pid)
                file = Path(scratch) / "fate.json"
                seconds = used.ru_utime + used.ru_stime
                if file.is_file():
                    yield number, Fate(*json.loads(file.read_text()))._replace(seconds=seconds)
                else:
                    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
                    last = (Path(scratch) / "said").read_text().strip().rpartition("\n")[2]
                    yield number, Fate("killed" if killed else f"its process died: {last}", "the clock", seconds)
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)


def _alone(mutant: Mutant | None, tests: Sequence[str], scratch: str) -> None:
    """The child's life."""
    code = 1
    try:
        with open(f"{scratch}/said", "w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        if mutant:
            resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE + 1))
        fate = tried(mutant, tests, scratch)
        Path(f"{scratch}/fate.json").write_text(json.dumps(fate))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(words: Sequence[str] | None = None) -> int:
    """Print a table; 1 if too few die, or one that lives has no reason, or one that dies has."""
    given = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    given.add_argument("only", nargs="*", help="words in the names or files of those to plant (default: all)")
    given.add_argument("--jobs", type=int, default=2)
    given.add_argument("--list", type=Path, default=LIST)
    asked = given.parse_args(words)
    chosen = [m for m in mutants(asked.list) if not asked.only or any(w in f"{m.file} {m.name}" for w in asked.only)]
    if not chosen:
        given.error(f"no mutant is called {' or '.join(asked.only)}")
    for mutant in chosen:
        assert mutant.text  # a stale list is known before any work
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before the libraries are loaded: a process with threads cannot be forked
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the tests use none
    sys.path.insert(0, str(SRC.parent))  # the package beside these tests, wherever another one is installed
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SRC.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name in BEFORE.split():
        importlib.import_module(name)
    began = time.monotonic()
    every = sorted({test for mutant in chosen for test in mutant.tests})
    jobs: list[tuple[Mutant | None, Sequence[str]]] = [(None, every), *((m, m.tests) for m in chosen)]
    killed, wrong, used = 0, list[str](), 0.0
    for number, fate in fates(jobs, asked.jobs):
        mutant, used = jobs[number][0], used + fate.seconds
        if mutant is None:
            wrong += [] if fate.state == "survived" else [f"without a mutant {fate.by} fails: {fate.state}"]
            name, fate = "(none)", fate._replace(state="passed" if fate.state == "survived" else fate.state)
        else:
            name = mutant.name
            killed += fate.state == "killed"
            if fate.state == "survived" and not mutant.reason:
                wrong.append(f"{mutant.file}: {name}: it survived; write a test, or the reason")
            elif fate.state == "killed" and mutant.reason:
                wrong.append(f"{mutant.file}: {name}: it dies; take its reason away")
            elif fate.state not in ("killed", "survived"):
                wrong.append(f"{mutant.file}: {name}: {fate.state}")
        where = mutant.file if mutant else ""
        by = (mutant.reason if mutant and fate.state == "survived" else "") or fate.by.removeprefix("tests/")
        sys.stdout.write(f"{fate.state:9} {fate.seconds:6.1f} s  {where:48} {name:64} {by}\n")
        sys.stdout.flush()
    if killed < ENOUGH * len(chosen):
        wrong.append(f"{killed} of {len(chosen)} die; {100 * ENOUGH:.0f} % have to")
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    wall = time.monotonic() - began
    sys.stdout.write(f"{killed} of {len(chosen)} mutants died; {used:.0f} s of a processor, {wall:.0f} s in all\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
