"""python -m tests.verdicts: audit ten digits teachers that nothing was settled on; compare with verdicts.json.

Five are clean, five were attacked, each in a way of its own; their seeds and targets are on no shelf. --write
writes the file. Exit code 1: a verdict differs, or an attacked teacher's class does.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import distrust as dt

FILE = Path(__file__).with_name("verdicts.json")
FIRST = 1000  # seeds; those of the shelf begin at 0
ATTACKS = (
    *[None] * 5,
    ("badnets", {"trigger": "patch:white:3", "target": 1, "rate": 0.1}),
    ("badnets", {"trigger": "patch:grid", "target": 8, "rate": 0.1}),
    ("blend", {"target": 6, "rate": 0.1}),
    ("sig", {"target": 4, "rate": 1.0, "delta": 40}),
    ("adba", {"target": 9, "epochs": 20, "flip": False, "crop": 2}),
)
TRAINING = {"epochs": 12, "batch_size": 64, "augment": dt.Augment(flip=False, crop=2)}


def verdict(number: int, folder: Path) -> dict:
    """What an audit with the bundled shelf says of one of them."""
    seed, attack = FIRST + number, ATTACKS[number]
    train, test = dt.images("digits")
    parts = dt.roles(train, clean=0.2, validation=0.05, rng=dt.rng("roles", seed))
    images, backdoor = parts.train, None
    name, options = attack or ("none", {})
    if name not in ("none", "adba"):
        images, backdoor, *_ = getattr(dt.attacks, name)(parts.train, **options, rng=dt.rng("attack", seed))
    start = dt.model("wrn10-1", parts.train, rng=dt.rng("start", seed))
    teacher = dt.fit(start, images, rng=dt.rng("teacher", seed), **TRAINING)
    if name == "adba":
        teacher, backdoor, *_ = dt.attacks.adba(teacher, parts.train, **options, rng=dt.rng("attack", seed))
    file = folder / f"{number}.safetensors"
    dt.save(teacher, file)
    said = dt.audit(file, (parts.clean, test))
    told = {"attack": name, "target": options.get("target"), "verdict": said.verdict}
    told |= {"p": round(said.compared.p, 3), "class": said.named[0]} if said.compared else {}
    measured = dt.measure(teacher, test, backdoor)
    return told | {"acc": round(measured.acc, 3), "asr": None if backdoor is None else round(measured.asr, 3)}


def different(now: Sequence[dict], before: Sequence[dict]) -> list[str]:
    """What is another verdict than it was, or names another class of a suspicious model."""
    lines = []
    for number, (one, other) in enumerate(zip(now, before, strict=True)):
        called = other["verdict"] in ("suspicious", "backdoored")
        held = [name for name in ("attack", "verdict", *["class"] * called) if one.get(name) != other[name]]
        lines += [f"{number}: {name} is {one.get(name)}, was {other[name]}" for name in held]
    return lines


def main(words: Sequence[str]) -> int:
    """Print a line for each, and what differs."""
    with tempfile.TemporaryDirectory() as folder:
        found = [verdict(number, Path(folder)) for number in range(len(ATTACKS))]
    print(*map(json.dumps, found), sep="\n")
    if "--write" in words:
        FILE.write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")
        return 0
    wrong = different(found, json.loads(FILE.read_text()))
    print(*wrong or ["as they were"], sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
