"""Workers: how a process of a study begins and ends. Light, so that it knows when its driver ends from its start on."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def begin(threads: int, plugins: list[Path], ready: Semaphore, count: Any, cards: Sequence[str]) -> None:
    """Prepare this process: it ends with its driver, has so many threads, knows the driver's plug-ins, and says so.

    Args:
        threads: that torch may use.
        plugins: files to add.
        ready: released when all is done.
        count: a shared number, of the processes that began before this one.
        cards: GPUs, of which each process sees one, in turn.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if cards:
        with count.get_lock():
            place, count.value = count.value, count.value + 1
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[place % len(cards)]  # CUDA looks when it is first used
    import torch  # which takes seconds

    from .registry import registry

    torch.set_num_threads(threads)
    keep_memory()
    for path in plugins:
        registry.add(path)
    ready.release()


def keep_memory() -> None:
    """What is freed stays with the process: to return and ask again for it in every step takes a twentieth of it."""
    with suppress(OSError, AttributeError):  # not the C library of GNU
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**30)


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers; they would go on for nobody."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
