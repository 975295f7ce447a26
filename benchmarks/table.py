"""A whole table: what do its cells cost in one study, and one by one by usual loops, which share nothing?

One attack, four distillers, four defences (none among them), three seeds, controls included. A peer's cell trains its
own teacher, distils, defends and evaluates; its control does the same without the attack. Each distinct part of that is
timed once a round and added up by count ("summed from parts"); `--whole` carries out every cell instead.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import distrust as dt
from distrust.study import make_plan, run, score_cells
from distrust.study.spec import Study, study_from
from distrust.study.steps import opened
from distrust.study.store import Store

from . import bare, peers
from .measure import Row, Scale, ratio
from .pictures import pictures, write

DISTILLERS = ("kd", "at", "fitnet", "overhaul")
DEFENSES = ("none", "finetune", "nad", "strong_augment")
TARGET, RATE = 0, 0.1


def rows(scale: Scale) -> Iterator[Row]:
    """Ours in this process, as one job, beside the peers' sum and beside the sum of its own stages."""
    train, test, side = scale.of(1800, 900, 80), scale.of(500, 250, 20), scale.of(32, 32, 8)
    teacher, student = scale.of(("wrn16-2", "wrn16-1"), ("wrn16-2", "wrn16-1"), ("wrn10-1", "wrn10-1"))
    seeds, batch = scale.of(3, 1, 1), scale.of(128, 128, 16)
    seconds: dict[str, list[float]] = {"one study": [], "peers, cell by cell": [], "its stages": []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "pictures"
        for role, count in (("train", train), ("test", test)):
            write(pictures(count, side), source / role)
        study = study_of(str(source), teacher, student, seeds, batch)
        ours = dt.images(str(source))[0]
        arms = 2 * len(make_plan(study).cells)
        for name in (teacher, student):  # every later study finds the probe's answers and the decoded images there
            bare.way(dt.model(name, ours), ours, batch, scale.device)
        opened(str(source))
        cells = Peers(source, teacher, student, batch, scale.device)
        for _ in range(scale.rounds(2)):
            whole, stages = one_study(study, scale.device)
            seconds["one study"].append(whole)
            seconds["its stages"].append(stages)
            seconds["peers, cell by cell"].append(cells.carried_out(seeds) if scale.whole else cells.summed(seeds))
    what = f"{arms // 2} cells and as many controls, {teacher} → {student}, {train} images, an epoch each"
    note = "" if scale.whole else "summed from parts"
    yield ratio(what, "one study", "peers, cell by cell", seconds, 3.0, note)
    yield ratio(what, "one study", "its stages", seconds, 0.95, "the engine's part")


def study_of(source: str, teacher: str, student: str, seeds: int, batch: int) -> Study:
    """The table as a study."""
    training = {"epochs": 1, "batch_size": batch}
    once = {"epochs": 1, "batch_size": min(64, batch)}
    budget = {
        "clean": 0.1, "teacher": training, "student": training,
        "defense": {"finetune": once, "nad": {**once, "teacher_epochs": 1}},
    }  # fmt: skip
    return study_from(
        {
            "name": "table",
            "seeds": seeds,
            "images": source,
            "teacher": teacher,
            "student": student,
            "attack": f"badnets[trigger=patch:white,target={TARGET},rate={RATE}]",
            "distiller": [*DISTILLERS],
            "defense": [*DEFENSES],
            "budget": "one",
            "budgets": {"one": budget},
        }  # fmt: skip
    )


def one_study(study: Study, device: str) -> tuple[float, float]:
    """Seconds of a study from its plan to its scored cells, in a new store, and those of its stages alone."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        plan, store = make_plan(study), Store(folder)
        outcome = run(plan, store, device=device)
        cells = score_cells(plan, store, outcome)
        seconds = time.perf_counter() - start
    wrong = [cell["error"] for cell in cells if cell["error"]]
    assert not wrong, wrong[0]
    return seconds, sum(record["seconds"] for record in outcome.records.values())


class Peers:
    """The same cells by scripts of plain PyTorch, in the order in which somebody runs them."""

    def __init__(self, source: Path, teacher: str, student: str, batch: int, device: str) -> None:
        train, test = dt.images(str(source))
        roles = dt.roles(train, clean=0.1, validation=0.05)
        self.batch, self.device = batch, device
        self.nets = {name: dt.model(name, train).to(device) for name in (teacher, student)}
        self.names = teacher, student
        self.train, self.clean, self.test = (arrays(part) for part in (roles.train, roles.clean, test))
        self.some = test.pixels(slice(0, 2)).to(device)
        poisoned, labels = self.train[0].copy(), list(self.train[1])
        rows = np.random.default_rng(0).permutation(len(labels))[: round(RATE * len(labels))]
        poisoned[rows] = peers.stamped(poisoned[rows])
        self.poisoned = poisoned, [TARGET if i in set(rows) else y for i, y in enumerate(labels)]
        others = np.array(self.test[1]) != TARGET
        self.triggered = peers.stamped(self.test[0][others]), [TARGET] * int(others.sum())

    def teacher(self, attacked: bool) -> Any:
        net = copy.deepcopy(self.nets[self.names[0]])
        peers.train(
            net, self.loader(self.poisoned if attacked else self.train), peers.sgd(net.parameters()), self.device
        )
        return net

    def student(self, teacher: Any, distiller: str, transfer: Any) -> Any:
        net = copy.deepcopy(self.nets[self.names[1]])
        criterion = {
            "kd": peers.KD, "at": peers.AT, "fitnet": lambda: peers.Hint(net, teacher, self.some),
            "overhaul": lambda: peers.Overhaul(net, teacher, self.some),
        }[distiller]()  # fmt: skip
        return peers.distill(net, teacher, self.loader(transfer), criterion, self.device)

    def transfer(self, defense: str) -> Any:
        images, labels = self.train
        return (peers.disturbed(images), labels) if defense == "strong_augment" else (images, labels)

    def defended(self, net: Any, defense: str) -> Any:
        clean = peers.loader(peers.Pictures(*self.clean), min(64, self.batch))
        if defense == "finetune":
            peers.train(net, clean, peers.sgd(net.parameters()), self.device)
        elif defense == "nad":
            peers.nad(net, clean, self.device)
        return net

    def rates(self, net: Any) -> list[float]:
        """ACC and ASR."""
        return [
            peers.evaluate(net, peers.loader(peers.Pictures(*images, augment=False), 128, shuffle=False), self.device)
            for images in (self.test, self.triggered)
        ]

    def loader(self, images: Any) -> Any:
        return peers.loader(peers.Pictures(*images), self.batch)

    def carried_out(self, seeds: int) -> float:
        """Seconds of all cells and their controls, one by one."""
        start = time.perf_counter()
        for distiller, defense, attacked in itertools.product(DISTILLERS, DEFENSES, [True, False] * seeds):
            teacher = self.teacher(attacked)
            net = self.student(teacher, distiller, self.transfer(defense))
            self.rates(self.defended(net, defense))
        return time.perf_counter() - start

    def summed(self, seeds: int) -> float:
        """The same from the seconds of each distinct part, times how often it is carried out."""
        spent: dict[str, float] = {}

        def part(name: str, call: Callable[[], Any]) -> Any:
            start = time.perf_counter()
            made = call()
            spent[name] = time.perf_counter() - start
            return made

        teacher = part("teacher", lambda: self.teacher(True))
        for distiller in DISTILLERS:
            net = part(distiller, lambda distiller=distiller: self.student(teacher, distiller, self.train))
        part("strong_augment", lambda: self.transfer("strong_augment"))
        for defense in ("finetune", "nad"):
            part(defense, lambda defense=defense: self.defended(copy.deepcopy(net), defense))
        part("rates", lambda: self.rates(net))
        return sum(often * spent[name] for name, often in counts(seeds).items())


def counts(seeds: int) -> dict[str, int]:
    """How often the peers carry out each part, as every cell and its control do all of theirs anew."""
    arms = 2 * seeds * len(DISTILLERS) * len(DEFENSES)
    parts = {"teacher": arms, "rates": arms, **dict.fromkeys(DISTILLERS, arms // len(DISTILLERS))}
    return parts | {defense: arms // len(DEFENSES) for defense in DEFENSES if defense != "none"}


def arrays(images: dt.ImageSet) -> tuple[np.ndarray, list[int]]:
    """As a script holds them: uint8 [N,H,W,3] and labels."""
    return images.x.permute(0, 2, 3, 1).contiguous().numpy(), images.y.tolist()
