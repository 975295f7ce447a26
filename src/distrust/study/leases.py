"""Leases: of all who work on one store, one carries out a stage at a time, and says so there as long as it does.

A lease is a file `.lease-KEY-0` that only one can create; whoever has it renews it, and removes it in the end. It is
dead when its process has ended on this machine or, wherever it was, when it was not renewed for a while, by the clock
of the store. Then `.lease-KEY-1` may be created, and so on: only one can do that, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

from .places import Objects, ended, machine
from .records import KEY

NAME = re.compile(rf"\.lease-({KEY.pattern})-([0-9]+)")
EXPIRED = 60.0  # seconds without a sign of life
BEAT = 4  # signs of life in that time


@contextlib.contextmanager
def leased(
    place: Objects, keys: Iterable[str], telling: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[list[str]]:
    """Have those of these stages that nobody else is at; nobody else has them until the end.

    Args:
        place: of the store.
        keys: of the stages.
        telling: in which a lease is had: tells what goes wrong.

    Raises:
        OSError: the place cannot be written.
    """
    text = json.dumps({"machine": machine(), "node": platform.node(), "process": os.getpid(), "id": uuid.uuid4().hex})
    held, stop = dict[str, int](), threading.Event()
    beat = threading.Thread(target=_beat, args=(place, held, text.encode(), stop), daemon=True)
    try:
        with telling():
            for key in keys:
                if (turn := _taken(place, key, text.encode())) is not None:
                    held[key] = turn
        if held:
            beat.start()
        yield list(held)
    finally:
        stop.set()
        if beat.ident:  # it began
            beat.join()
        for key, turn in held.items():
            with contextlib.suppress(OSError):  # it dies of age
                _release(place, key, turn)


def _taken(place: Objects, key: str, text: bytes) -> int | None:
    """The number of the lease that was created; None if somebody else is at it."""
    turn = 0
    while not place.create(_name(key, turn), text):
        alive = _alive(place, _name(key, turn))
        if alive:
            return None
        turn += alive is False  # else it is gone, and the same number can be had
    if turn and not place.exists(_name(key, turn - 1)):  # its successor was at it, and is done
        place.drop(_name(key, turn))
        return _taken(place, key, text)
    return turn


def _release(place: Objects, key: str, turn: int) -> None:
    for n in range(turn + 1):  # upwards: what is left is dead, and its successor's number is taken
        place.drop(_name(key, n))


def _alive(place: Objects, name: str) -> bool | None:
    """Whether somebody is at it; None if there is no such lease any more."""
    written = place.read(name)
    if written is None:
        return None
    try:
        who = json.loads(written)
        dead = ended(who["machine"], who["process"])
    except (ValueError, TypeError, LookupError):  # it is being written, or nobody knows by whom
        dead = False
    if dead:
        return False
    age = place.age(name)
    return None if age is None else age < EXPIRED


def _beat(place: Objects, held: dict[str, int], text: bytes, stop: threading.Event) -> None:
    while not stop.wait(EXPIRED / BEAT):
        for key, turn in held.items():
            with contextlib.suppress(OSError):
                if not stop.is_set():
                    place.renew(_name(key, turn), text)


def is_leased(place: Objects, key: str) -> bool:
    """Whether somebody has it, for what nobody takes over."""
    return place.exists(_name(key, 0))


def sweep(place: Objects) -> None:
    """Remove the leases that are dead."""
    with contextlib.suppress(OSError):
        found = [match for name in place.names(".lease-") if (match := NAME.fullmatch(name))]
        for key in {match[1] for match in found}:
            with leased(place, [key]) as ours:  # or somebody else takes it over meanwhile
                for match in found:
                    if match[1] in ours:
                        place.drop(match[0])


def living(place: Objects) -> list[str]:
    """The machines on which somebody is at a stage, one for each stage.

    Raises:
        OSError: the place cannot be read or written.
    """
    found = dict[str, str]()
    for name in place.names(".lease-"):
        if (match := NAME.fullmatch(name)) and _alive(place, name):
            with contextlib.suppress(ValueError, TypeError, LookupError):
                found[match[1]] = str(json.loads(place.read(name) or b"")["node"])
            found.setdefault(match[1], "a machine without a name")
    return list(found.values())


def _name(key: str, turn: int) -> str:
    return f".lease-{key}-{turn}"
