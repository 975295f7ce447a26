"""Nodes: what a task of Ray does in a process somewhere, after it has made sure that it is there as it is here."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..allowed import allowed, digest_of
from ..devices import usable
from ..errors import BadInput
from ..registry import registry
from ..workers import keep_memory
from .calls import contents_of
from .executors import Processes
from .graph import Stage
from .leases import is_leased
from .order import inherited
from .store import Store
from .work import given_up, work

SHARED = ("DISTRUST_DATA", "DISTRUST_CACHE")  # variables that a node takes from the driver, unless it has its own


class Setting(NamedTuple):
    """What a process on a node must be like to do the same as one here."""

    version: str
    store: str
    run: str  # leased in the store as long as the run goes on
    folder: str
    threads: int
    mode: str
    plugins: tuple[tuple[str, str], ...]  # files, and what is in them
    code: tuple[tuple[str, str], ...]
    variables: tuple[tuple[str, str], ...]


class Unseen(NamedTuple):
    """Of a stage that is not begun: the run is over, and nobody hears this, or the node does not see its store."""

    node: str
    store: str


def setting_of(store: Store, run: str, threads: int, mode: str) -> Setting:
    """That of this process; `run` is what it has leased in the store."""

    def known(files: Iterable[Path]) -> tuple[tuple[str, str], ...]:
        return tuple((str(file), digest_of(file)) for file in files)

    return Setting(
        __version__, store.root if store.local else store.url, run, str(Path.cwd()), threads, mode,
        known(registry.files), known(allowed()), tuple((k, os.environ[k]) for k in SHARED if k in os.environ),
    )  # fmt: skip


def there(setting: Setting, device: str, limit: float | None, stages: list[Stage], *parents: Any) -> Any:
    """Carry out stages in a process of a node; one record of each.

    What Ray begins again, because the process was lost that had done it, is not done again.
    """
    store = _prepared(setting)
    unseen = next((parent for parent in parents if isinstance(parent, Unseen)), None)
    if unseen or not is_leased(store.place, setting.run):
        return _each([unseen or Unseen(platform.node(), setting.store)] * len(stages))
    fate = inherited(stages[0], {parent.key: record for parent, record in zip(stages[0].parents, parents, strict=True)})
    records: list[Any] = [fate] * len(stages)
    if not fate:
        _check_images(stages[0])
        replace, again = setting.mode == "force", setting.mode == "retry"
        place, code = usable(device) if _gpus() else "cpu", [file for file, _ in setting.code]
        given = stages, setting.store, place, replace, code, again
        records = _in_time(setting, limit, store, *given) if limit else work(*given)
    return _each(records)


def _each(records: list[Any]) -> Any:
    """As Ray takes what a task returns, of many stages or of one."""
    return records if len(records) > 1 else records[0]


def _gpus() -> bool:
    import ray

    return bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))


def _in_time(setting: Setting, limit: float, store: Store, stages: list[Stage], *rest: Any) -> list[Any]:
    """The same in a process that can be ended."""
    process = Processes(1, timed=True, threads=setting.threads)
    try:
        return process.submit(work, stages, *rest).result(limit * len(stages))
    except TimeoutError:
        return [given_up(stage, store, limit, rest[2]) for stage in stages]
    except BrokenExecutor:
        os._exit(1)  # it was killed: so Ray begins the task again
    finally:
        process.end()


@functools.lru_cache(1)
def _prepared(setting: Setting) -> Store:
    """Make this process one as there are on the driver; once, for all that it carries out.

    Raises:
        BadInput: this node is another one in something that counts.
    """
    import torch

    node = platform.node()
    if setting.version != __version__:
        raise BadInput(
            f"node {node} has Distrust {__version__}, and the study is run by {setting.version}. Install the same "
            "version on every node, then run the same command again."
        )
    for name, value in setting.variables:
        os.environ.setdefault(name, value)
    with suppress(OSError):  # then no path may count from it
        os.chdir(setting.folder)
    for file, content in (*setting.plugins, *setting.code):
        if not Path(file).is_file() or digest_of(file) != content:
            raise BadInput(f"node {node} has no {file}, or another one. Put it into a folder that all nodes share.")
    store = Store(setting.store)
    for file, _ in setting.plugins:
        registry.add(file)
    torch.set_num_threads(setting.threads)
    keep_memory()
    return store


def _check_images(stage: Stage) -> None:
    """Images given by path have to be the same here.

    Raises:
        BadInput: they are not.
    """
    for source in stage.lineage():
        options = source.call["options"]
        if "contents" in options and contents_of(options["source"]) != {"contents": options["contents"]}:
            raise BadInput(
                f"node {platform.node()} has no images {options['source']}, or other ones. Put them into a folder "
                "that all nodes share."
            )
