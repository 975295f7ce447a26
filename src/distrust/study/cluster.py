"""Cluster: a study's stages as the tasks of Ray, on one machine or on many.

Every stage is a task whose parents' tasks are its arguments, so that Ray has the whole graph: a stage begins when its
parents are done, wherever there is room, and an error of one is that of all behind it. What stages make goes through
the store; between tasks only records pass.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import BadInput, DistrustError
from .graph import Plan, Stage
from .nodes import Unseen, setting_of, there
from .order import Queue
from .records import Damaged, Record
from .store import Store
from .work import Found

if TYPE_CHECKING:
    from .runner import Outcome, Tell

ANSWER = 30.0  # seconds that a cluster has to answer
PATIENCE = 30.0  # seconds until a node has joined that can do what a stage needs, or the head node answers again
LOOK = 5.0  # seconds between looks at the cluster
RETRIES = 3  # of a task whose process or node is gone; a method's own error is never tried again
WINDOW = 2000  # tasks that Ray knows of at a time: the driver holds them in memory
MEMORY = 80 * 2**20  # bytes of Ray's object store, through which nothing large goes
OURS = {  # what a Ray that we start or talk to is told: to report to nobody, and not to print into a result
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """Where Ray is, and what a stage asks it for.

    Args:
        address: "local" starts a Ray on this machine, "auto" takes the one that runs here or that RAY_ADDRESS names;
            else HOST:PORT of its head node.
        cpus: processor cores of a stage, which are its threads.
        gpus: of one GPU, the share that a stage gets which runs a network; 1 is all of it.
    """

    address: str = "local"
    cpus: int = 1
    gpus: float = 1.0

    @property
    def local(self) -> bool:
        """It is started for a run, and stopped after it."""
        return self.address == "local"

    def asks(self, stage: Stage, device: str) -> tuple[int, float]:
        """Cores and GPUs of a stage: one through which no image goes needs no GPU."""
        from .estimate import cost_of

        return self.cpus, self.gpus if device != "cpu" and cost_of(stage, 1) else 0


def cluster_of(ray: str | None, cpus: int | None, gpus: float | None, jobs: int, device: str) -> Cluster | None:
    """What is asked for as a cluster, None if none is.

    Raises:
        BadInput: what does not go together, or is out of range.
    """
    if ray is None:
        for name, value in (("cpus", cpus), ("gpus", gpus)):
            if value is not None:
                raise BadInput(f"{name}={value} is what a stage asks Ray for. Give ray='local' too, or leave it out.")
        return None
    if cpus is not None and cpus < 1:
        raise BadInput(f"cpus={cpus}: give 1 or more.")
    if gpus is not None and not 0 < gpus <= 1:
        raise BadInput(f"gpus={gpus} is outside (0, 1]: a stage uses one GPU, or a share of it. Type gpus=0.5.")
    if gpus is not None and device == "cpu":
        raise BadInput(f"gpus={gpus}, but the device is the CPU. Give device=cuda too, or leave it out.")
    if device.partition(":")[2]:
        raise BadInput(f"device={device!r}: Ray says which GPU a stage gets. Type device={device.partition(':')[0]}.")
    if "://" in ray:
        raise BadInput(
            f"ray={ray!r}: a study is driven from a node of the cluster. Type there ray=auto, or hand the command to "
            "it with `ray job submit`."
        )
    if jobs and ray != "local":
        raise BadInput(
            f"jobs={jobs} is for this machine; a cluster takes as many stages as it has cores. Leave it out."
        )
    return Cluster(ray, cpus or 1, gpus or 1.0)


def drain(
    plan: Plan,
    waiting: dict[str, Stage],
    outcome: Outcome,
    cluster: Cluster,
    jobs: int,
    store: Store,
    device: str | None,
    mode: str,
    limit: float | None,
    tell: Tell,
) -> None:
    """Carry out what is waiting, as `run` does; what was damaged is made again when all the rest is done.

    Raises:
        BadInput: the cluster cannot be reached, or cannot do what a stage needs.
        DistrustError: a task was lost again and again.
    """
    left, made, lacking = dict(waiting), set(waiting), Counter[tuple[str, str]]()
    with connected(cluster, jobs) as ray, store.leased([uuid.uuid4().hex]) as (on,):
        setting = setting_of(store, on, cluster.cpus, mode)
        graph = _Graph(ray, cluster, device or "cpu", (setting, device or "cpu", limit))
        while left:
            lacks = dict[str, Damaged]()
            again = set[str]()
            for stage, found in graph.carried_out(left, outcome.records, tell):
                if isinstance(found, Damaged):
                    lacking[stage.key, found.key] += 1
                    if found.key not in plan.stages or lacking[stage.key, found.key] > 2:
                        raise found
                    lacks[found.key] = found
                    again.add(stage.key)
                else:
                    outcome.cached += isinstance(found, Found)
                    outcome.ran += "recipe" in found and not isinstance(found, Found)  # else it shares a parent's fate
                    outcome.take(stage, found, tell)
            for key, damaged in lacks.items():
                store.set_aside(damaged)
                if not store.record(key):
                    again.add(key)
                    outcome.cached -= key not in made
                    made.add(key)
            left = {key: stage for key, stage in plan.stages.items() if key in again}


class _Graph:
    """Hands stages to Ray, parents first, and hears of them as they are done."""

    def __init__(self, ray: Any, cluster: Cluster, device: str, given: tuple[Any, ...]) -> None:
        self.ray, self.cluster, self.device, self.given = ray, cluster, device, given
        self.task = ray.remote(max_retries=RETRIES)(there)
        self.looked = self.heard = time.monotonic()  # for the head node, and of it

    def carried_out(
        self, waiting: Mapping[str, Stage], records: Mapping[str, Record], tell: Tell
    ) -> Iterator[tuple[Stage, Record | Damaged]]:
        """Each stage with its record, or with what is damaged that it reads or that its parents read."""
        queue, slots = Queue(waiting), self._slots(waiting)
        refs, running = dict[str, Any](), dict[Any, Stage]()
        handed, begun = dict[str, Stage](), set[str]()
        while queue or running:
            while queue and len(running) < WINDOW:
                stages = queue.take(slots)
                for stage, ref in zip(stages, self._submitted(stages, refs, records), strict=True):
                    refs[stage.key], running[ref] = ref, stage
                    queue.release(stage)
                    handed[stage.key] = stage
            for key, stage in list(handed.items()):  # Ray does not say which has begun: the first that can have
                if len(begun) >= slots:
                    break
                if not any(parent.key in refs for parent in stage.parents):
                    begun.add(key)
                    tell("start", handed.pop(key), {})
            ref = self._next(running)
            stage = running.pop(ref)
            found = self._found(ref, stage)
            begun.discard(stage.key)
            early = handed.pop(stage.key, None)
            if not isinstance(found, Damaged):
                del refs[stage.key]  # its record is an argument as good
                if early and "recipe" in found:
                    tell("start", stage, {})
            yield stage, found

    def _submitted(self, stages: list[Stage], refs: Mapping[str, Any], records: Mapping[str, Record]) -> list[Any]:
        cpus, gpus = self.cluster.asks(stages[0], self.device)
        parents = [refs.get(parent.key) or records[parent.key] for parent in stages[0].parents]
        asked = {"num_cpus": cpus, "num_gpus": gpus, "num_returns": len(stages), "name": stages[0].label}
        found = self.task.options(**asked).remote(*self.given, stages, *parents)
        return found if isinstance(found, list) else [found]

    def _next(self, running: Mapping[Any, Stage]) -> Any:
        """One that is done. While none is, make sure that there is a node for every one of them."""
        since = time.monotonic()
        while True:
            done, _ = self.ray.wait(list(running), num_returns=1, timeout=LOOK)
            answers = self._head_answers()
            if done:
                return done[0]
            if not answers:  # or else the next question would never come back
                continue
            if not (lack := self._lack(running.values())):
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise DistrustError(f"{lack} What was finished is still there; run the same command again.")

    def _head_answers(self) -> bool:
        """Without its head node a cluster is lost, and Ray would end this process after a minute, without a word.

        Raises:
            DistrustError: it does not answer any more.
        """
        if time.monotonic() - self.looked < LOOK:
            return self.heard == self.looked
        self.looked = time.monotonic()
        host, _, port = self.ray.get_runtime_context().gcs_address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), LOOK).close()
            self.heard = self.looked
        except OSError:
            if time.monotonic() - self.heard > PATIENCE:
                raise DistrustError(
                    "the head node of the cluster no longer answers. What was finished is still there; start the "
                    "cluster anew, then run the same command again."
                ) from None
        return self.heard == self.looked

    def _slots(self, waiting: Mapping[str, Stage]) -> int:
        """How many stages the nodes can hold at a time; nodes that join later count when they are there.

        Raises:
            BadInput: there is no node for one of them.
        """
        since = time.monotonic()
        while lack := self._lack(waiting.values()):
            if self.cluster.local or time.monotonic() - since > PATIENCE:
                raise BadInput(f"{lack} Nothing was begun.")
            time.sleep(1)
        nodes = self._nodes()
        if any(self.cluster.asks(stage, self.device)[1] for stage in waiting.values()):
            return max(int(sum(node.get("GPU", 0) // self.cluster.gpus for node in nodes)), 1)
        return max(int(sum(node.get("CPU", 0) // self.cluster.cpus for node in nodes)), 1)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _lack(self, stages: Any) -> str:
        """What no node has; "" if each of the stages can be carried out somewhere."""
        nodes = self._nodes()
        for cpus, gpus in {self.cluster.asks(stage, self.device): None for stage in stages}:
            if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
                asked = f"{cpus} CPUs and {gpus:g} GPUs" if gpus else f"{cpus} CPUs"
                has = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
                ease = "--device cpu" if gpus else "--cpus 1"
                return f"a stage asks for {asked}, which no node of the cluster has ({has}). Type {ease}."
        return ""

    def _found(self, ref: Any, stage: Stage) -> Record | Damaged:
        from ray import exceptions

        try:
            found = self.ray.get(ref)
            if isinstance(found, Unseen):
                raise BadInput(
                    f"node {found.node} does not see the store {found.store}. Give a folder that all nodes share, or a "
                    "URL such as --store s3://bucket/path."
                )
            return found
        except exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, Damaged):
                return cause
            if isinstance(cause, DistrustError):
                raise cause from None
            said = str(cause).splitlines() or [""]
            if isinstance(cause, exceptions.RaySystemError) or "failed to import" in said[0]:
                why = next((line.strip() for line in reversed(said) if "Error: " in line), said[0])
                node = re.search(r"ip=([^)\s]+)", str(error))
                raise BadInput(
                    f"node {node[1] if node else 'of the cluster'} has no Distrust {__version__}, or another one "
                    f"({why}). Install the same version on every node, then run the same command again."
                ) from None
            if not isinstance(cause, exceptions.RayError):
                raise cause from None
            lost: Any = cause
        except exceptions.RayError as error:
            lost = error
        raise DistrustError(
            f"the process or node that carried out {stage.label} was lost {RETRIES + 1} times "
            f"({type(lost).__name__}), perhaps for want of memory. What was finished is still there; run the same "
            "command again, with more cpus for each stage or on larger nodes."
        ) from None


# on the driver


@contextmanager
def connected(cluster: Cluster, jobs: int) -> Iterator[Any]:
    """Ray, connected: to a cluster, or to one that lives as long as this."""
    with _variables(OURS):
        try:
            import ray
        except ImportError:
            raise DistrustError("Ray is not installed here. Type: pip install 'distrust[ray]'") from None
    if ray.is_initialized():  # by whoever calls this, and who ends it
        yield ray
        return
    told: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    if cluster.local:
        told |= {"num_cpus": jobs * cluster.cpus, "include_dashboard": False, "object_store_memory": MEMORY}
    main = threading.current_thread() is threading.main_thread()
    before, logger = signal.getsignal(signal.SIGTERM), logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        if not cluster.local:
            _check_answer(cluster.address)
        with _variables(OURS):
            ray.init(cluster.address, **told)
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray's own would end this process with another exit code
        yield ray
    except (RuntimeError, ConnectionError, ValueError) as error:
        if ray.is_initialized() or isinstance(error, DistrustError):
            raise
        raise BadInput(f"no Ray of ours at {cluster.address!r}: {' '.join(str(error).split())[:400]}") from None
    finally:
        ray.shutdown()
        logger.setLevel(level)


def _check_answer(address: str) -> None:
    """Try in a process of its own: where nobody answers, Ray waits for minutes, and then ends whoever asked."""
    code = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False)"
    try:
        found = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=ANSWER)
        if not found.returncode:
            return
        said = found.stderr.strip().splitlines() or [""]
        why = said[-1].partition("Error: ")[2][:400] or "it is not there"
    except subprocess.TimeoutExpired:
        why = f"nothing within {ANSWER:g} s"
    raise BadInput(
        f"no Ray answers at {address!r} ({why}). Start one with `ray start --head`; if it asks for a token, type "
        "`export RAY_AUTH_MODE=token` first. Without an address, --ray starts one on this machine."
    )


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Within, these variables are set, but for those that the user has set."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
