"""python -m tests.fuzz --cases 1500 --seed 0: what a stranger may hand us, broken in any way, ends in one sentence.

Every case is a command on a file or a word that was sound and is mutated. None may end in an error that nobody foresaw,
take longer than SECONDS or more than MEMORY, or have an exit code that no command has.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.fuzz_kinds import KINDS, Words, prepared

from distrust.cli import main as entry
from distrust.cli.command import DEFECT

SECONDS, MEMORY = 30, 2 * 2**30
RAISED = "raised: "  # past the command line's own care
CODES = {0, 1, 2, 3, 4}
FOUND = ("defects", "slow", "large", "odd codes", "left")  # of which there may be none


class Slow(BaseException):
    """A case takes too long; nothing that catches errors catches it."""


class Case(NamedTuple):
    """What came of one."""

    kind: str
    number: int
    words: Words
    code: object
    said: str
    seconds: float
    bytes: int
    left: bool = False  # an error left something behind

    @property
    def faults(self) -> list[str]:
        """Which of FOUND it has."""
        unforeseen = any(words in self.said for words in (DEFECT, RAISED))
        true = (unforeseen, self.seconds > SECONDS, self.bytes > MEMORY)
        return [name for name, is_so in zip(FOUND, (*true, self.code not in CODES, self.left), strict=True) if is_so]


# running them


def call(words: Words) -> Case:
    """Type it, in this process."""
    said, usual = io.StringIO(), sys.argv
    sys.argv, code, began = ["distrust", *map(str, words), "--debug"], None, time.monotonic()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the most that was held
    before = held("VmRSS")
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            signal.setitimer(signal.ITIMER_REAL, SECONDS + 1)
            entry()
    except SystemExit as end:
        code = end.code
    except (Slow, Exception) as error:
        said.write(f"{RAISED}{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.argv = usual
    return Case("", 0, words, code, said.getvalue(), time.monotonic() - began, max(held("VmHWM") - before, 0))


def held(what: str) -> int:
    """Bytes of this process, now (VmRSS) or at most (VmHWM); 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) * 2**10
    return 0


def fuzz(count: int, seed: int, only: str = "") -> Iterator[Case]:
    """Run so many cases, of each kind in turn; every one is the same whenever it is run, alone or among others."""

    def stop(*_: object) -> None:
        raise Slow

    usual, home, limit = signal.signal(signal.SIGALRM, stop), Path.cwd(), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held("VmSize") + 4 * MEMORY, limit[1]))
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sound, here = Path(folder) / "sound", Path(folder) / "here"
            sound.mkdir()
            prepared(sound)
            words: Words = ["run", sound / "small.toml", "--jobs", 1, "--store", sound / "runs"]
            assert call([*words, "--results", sound / "cells"]).code == 0
            for number, name in zip(range(count), itertools.cycle(KINDS), strict=False):
                if not f"{name} {number}".startswith(only):
                    continue
                shutil.copytree(sound, here)
                os.chdir(here)
                words = KINDS[name](random.Random(f"{seed} {number}"), here)
                before = set(here.rglob("*"))
                case = call(words)
                left = case.code in (2, 4) and set(here.rglob("*")) != before
                yield case._replace(kind=name, number=number, left=left)
                os.chdir(home)
                shutil.rmtree(here)
    finally:
        os.chdir(home)
        resource.setrlimit(resource.RLIMIT_AS, limit)
        signal.signal(signal.SIGALRM, usual)


def main() -> int:
    """Print one table; exit code 1 if there is a fault."""
    given = argparse.ArgumentParser()
    given.add_argument("--cases", type=int, default=1500)
    given.add_argument("--seed", type=int, default=0)
    given.add_argument("--only", default="", help="a kind, or a kind and a number: 'header 17'")
    asked = given.parse_args()
    began, total, codes = time.monotonic(), Counter[tuple[str, str]](), set[str]()
    slowest: dict[str, float] = {}
    for case in fuzz(asked.cases, asked.seed, asked.only):
        total.update((case.kind, what) for what in ("cases", f"exit {case.code}", *case.faults))
        codes.add(f"exit {case.code}")
        slowest[case.kind] = max(slowest.get(case.kind, 0), case.seconds)
        if case.faults or asked.only:
            sys.stderr.write(f"{case.kind} {case.number}: {case.words} {case.faults}\n{case.said[-3000:]}\n")
    columns = ["cases", *sorted(codes), *FOUND]
    rows = [[name, *(total[name, c] for c in columns), f"{slowest.get(name, 0):.1f}"] for name in KINDS]
    rows.append(["all", *(sum(total[name, c] for name in KINDS) for c in columns), f"{max(slowest.values()):.1f}"])
    for row in [["kind", *columns, "slowest"], *rows]:
        sys.stdout.write(f"{row[0]:26}" + "".join(f"{str(value):>10}" for value in row[1:]) + "\n")
    sys.stdout.write(f"{time.monotonic() - began:.0f} s\n")
    return int(any(total[name, fault] for name in KINDS for fault in FOUND))


if __name__ == "__main__":
    sys.exit(main())
