"""Nodes: what a task of Ray does in a process somewhere, after it has made sure that it is there as it is here."""

from __future__ import annotations

import functools
import os
import platform
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
from .order import inherited
from .records import Record
from .store import Store
from .work import given_up, work

SHARED = ("DISTRUST_DATA", "DISTRUST_CACHE")  # variables that a node takes from the driver, unless it has its own


class _Setting(NamedTuple):
    """What a process on a node must be like to do the same as one here."""

    version: str
    store: str
    draft: str
    folder: str
    threads: int
    plugins: tuple[tuple[str, str], ...]  # files and what is in them
    code: tuple[tuple[str, str], ...]
    variables: tuple[tuple[str, str], ...]


def _setting(cluster: Cluster, store: Store, draft: str) -> _Setting:
    def marked(files: Code) -> tuple[tuple[str, str], ...]:
        return tuple((str(file), digest_of(file)) for file in files)  # type: ignore[union-attr]

    return _Setting(
        __version__, store.root if store.local else store.url, draft, str(Path.cwd()), cluster.cpus,
        marked(registry.files), marked(allowed()), tuple((k, os.environ[k]) for k in SHARED if k in os.environ),
    )  # fmt: skip


def _there(
    setting: _Setting, device: str, replace: bool, limit: float | None, stages: list[Stage], *parents: Record
) -> Any:
    """Carry out stages in a process of a node; one record of each.

    What Ray begins again, because the process was lost that had done it, is not done again.
    """
    store = _prepared(setting)
    fate = inherited(stages[0], {parent.key: record for parent, record in zip(stages[0].parents, parents, strict=True)})
    made = {stage.key: fate for stage in stages} if fate else dict[str, Record]()
    if not fate:
        _check_images(stages[0])
        standing = {} if replace else {stage.key: store.standing(stage.key) for stage in stages}
        made = {key: record for key, record in standing.items() if record and record["state"] == "done"}
    if rest := [stage for stage in stages if stage.key not in made]:
        place = usable(device) if _gpus() else "cpu"
        code = tuple(Path(file) for file, _ in setting.code)
        given = rest, setting.store, place, replace, code
        records = _in_time(setting, limit, store, *given) if limit else work(*given)
        made |= {stage.key: record for stage, record in zip(rest, records, strict=True)}
    found = [made[stage.key] for stage in stages]
    return found if len(found) > 1 else found[0]


def _gpus() -> bool:
    import ray

    return bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))


def _in_time(setting: _Setting, limit: float, store: Store, stages: list[Stage], *rest: Any) -> list[Record]:
    """The same in a process that can be ended."""
    process = Processes(1, timed=True, threads=setting.threads)
    try:
        return process.submit(work, stages, *rest).result(limit * len(stages))
    except TimeoutError:
        return [given_up(stage, store, limit, rest[2]) for stage in stages]
    finally:
        process.end()


@functools.lru_cache(1)
def _prepared(setting: _Setting) -> Store:
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
    if not store.fs.exists(f"{store.root}/{setting.draft}"):
        raise BadInput(
            f"node {node} does not see the store {setting.store}. Give a folder that all nodes share, or a URL such "
            "as --store s3://bucket/path."
        )
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
