"""Reports with synthetic numbers, for tests alone: 2 attacks × (teacher, kd, at) × 4 defences × 3 seeds, or large."""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch

from distrust.intervals import wilson
from distrust.methods.metrics import carry_over
from distrust.reporting import Report
from distrust.reporting.pictures import strip

N, TEST = 900, 1000
CARRIED = {
    ("badnets", "none"): 0.95, ("badnets", "kd"): 0.88, ("badnets", "at"): 0.02,
    ("blend[rate=0.05]", "none"): 0.79, ("blend[rate=0.05]", "kd"): 0.61, ("blend[rate=0.05]", "at"): 0.20,
}  # fmt: skip
KEPT = {"none": 1.0, "finetune": 0.05, "nad": 0.03, "prune": 0.01}  # share of the backdoor that is left
COST = {"none": 0.0, "finetune": 0.012, "nad": 0.018, "prune": 0.19}  # ACC


def cell(**changes: Any) -> dict[str, Any]:
    """One flat cell; everything that a test does not care about has a plain value."""
    values: dict[str, Any] = {
        "study": "example", "budget": "cpu", "images": "digits", "teacher": "wrn16-2", "attack": "badnets",
        "place": 1, "distiller": "none", "student": None, "defense": "none", "seed": 0, "acc": 0.9, "asr": 0.95,
        "asr_all": 0.955, "base": 0.01, "untriggered": 0.01, "titg": 0.85, "carried": 0.94, "carry_over": None,
        "n": N, "flags": [], "acc_interval": None, "asr_interval": None, "acc_control": 0.905,
        "undefended_acc": None, "undefended_asr": None, "published": None, "seconds": 12.0, "keys": {},
        "reproduce": "", "state": "done", "error": None, **changes,
    }  # fmt: skip
    model = values["student"] or values["teacher"]
    parts = (values["attack"], values["distiller"], model, values["defense"], f"seed{values['seed']}")
    values.setdefault("id", "/".join(parts))
    if not values["reproduce"]:
        only = "/".join(parts[:-1])
        values["reproduce"] = f"distrust run studies/example.toml --only {only} --seed {values['seed']}"
    return values


def seeds(*acc_and_asr, **changes):
    return [cell(seed=i, acc=acc, asr=asr, carried=asr - 0.01, **changes) for i, (acc, asr) in enumerate(acc_and_asr)]


def unmeasured(state: str, error: str, **changes: Any) -> dict[str, Any]:
    """A cell that failed or was skipped: no numbers."""
    rates = ("acc", "asr", "asr_all", "base", "untriggered", "titg", "carried", "carry_over", "acc_control")
    flags = ["skipped"] if state == "skipped" else []
    return cell(**dict.fromkeys(rates), n=0, state=state, error=error, flags=flags, seconds=0.4, **changes)


def _measured(attack: str, distiller: str, defense: str, seed: int, lineage: dict[str, Any]) -> dict[str, Any]:
    draw = random.Random(f"{attack} {distiller} {defense} {seed}")
    student = None if distiller == "none" else "wrn16-1"
    base = 0.004 + 0.006 * draw.random()
    carried = CARRIED[attack, distiller] * KEPT[defense] + draw.gauss(0, 0.008)
    asr = min(max(round((base + carried) * N) / N, 0.0), 1.0)
    acc = round((0.968 - 0.02 * (student is not None) - COST[defense] + draw.gauss(0, 0.003)) * TEST) / TEST
    flags = ["one-seed", *(["acc-floor"] if defense == "prune" else [])]
    if distiller == "at" and attack == "badnets":
        flags.append("attention-dead")
    chain = [("attack", attack, {"rate": 0.1, "target": 0}, ""), ("teacher", "fit", {"epochs": 20, "lr": 0.1}, attack)]
    chain += [] if student is None else [("student", distiller, {"epochs": 20, "weight": 1.0}, f"{attack}{distiller}")]
    chain += [] if defense == "none" else [("defense", defense, {"epochs": 10}, f"{attack}{distiller}{defense}")]
    keys, parents = {}, []
    for kind, method, options, what in chain:
        key = f"{random.Random(f'{kind} {what} {attack} {seed}').getrandbits(48):012x}"
        lineage[key] = {
            "kind": kind, "method": method, "options": options, "seconds": 2.0 + 90 * draw.random(),
            "parents": parents, "flags": [], "state": "done",
        }  # fmt: skip
        keys[kind], parents = key, [key]
    return cell(
        attack=attack, distiller=distiller, student=student, defense=defense, seed=seed, acc=acc, asr=asr,
        asr_all=min(1.0, 0.9 * asr + 0.1), base=base, untriggered=0.011, titg=0.88 * asr, carried=asr - base,
        carry_over=carry_over(asr - base, CARRIED[attack, "none"]) if student else None, flags=flags,
        acc_interval=list(wilson(round(acc * TEST), TEST)), asr_interval=list(wilson(round(asr * N), N)),
        undefended_acc=None if defense == "none" else 0.955,
        undefended_asr=None if defense == "none" else CARRIED[attack, distiller], seconds=20 + 60 * draw.random(),
        keys=keys,
    )  # fmt: skip


def example_report() -> Report:
    """A realistic report; the first seed of one cell failed, and one defence does not apply."""
    lineage: dict[str, Any] = {}
    cells = [
        _measured(attack, distiller, defense, seed, lineage)
        for attack, distiller in CARRIED
        for defense in KEPT
        for seed in range(3)
    ]
    for seed in range(3):
        clean = cell(attack="none", place=None, seed=seed, acc=0.97 - 0.001 * seed, flags=["one-seed"])
        nothing = ("asr", "asr_all", "base", "untriggered", "titg", "carried", "acc_control")
        cells.append(clean | dict.fromkeys(nothing) | {"n": 0})
    cells.append(unmeasured("failed", "Diverged: loss 1.2e+09 at step 40; lower lr.", attack="badnets", distiller="kd",
                            student="wrn16-1", defense="fineprune"))  # fmt: skip
    cells.append(unmeasured("skipped", "mimic needs an encoder; this is a classifier", defense="mimic"))
    images = torch.randint(0, 256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    stamped, blended = images.clone(), (images * 0.9 + 12).to(torch.uint8)
    stamped[:, :, -4:-1, -4:-1] = 255
    return Report(
        title="Carry-over on digits", question="Does a student inherit what its teacher had?",
        cells=cells,
        pictures={
            "badnets": strip(images, stamped, caption="A white 3 × 3 patch, one pixel from the corner."),
            "blend[rate=0.05]": strip(images, blended),
        },
        lineage=lineage,
        published=[{
            "source": "An invented paper, table 1", "convention": "asr_all, best epoch on test", "attack": "badnets",
            "distiller": "none", "defense": "nad", "acc": 0.8, "asr": 0.05, "note": "for tests",
        }],
        glossary={"acc-floor": "Raised if a defence costs more than 10 points of ACC. It gets no credit."},
        made_by="distrust report studies/example.toml",
    )  # fmt: skip


STAGES = ("attack", "teacher", "student", "defense", "predict", "triggered")
OPTIONS = {"epochs": 20, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "augment": {"crop": 4}}


def large_report() -> Report:
    """1,000 cells with lineages and numbers of their own: 5 attacks × 5 distillers × 8 defences × 5 seeds."""
    draw = random.Random(0)
    attacks = [*(f"attack{i}" for i in range(4)), "attack4[rate=0.005]"]  # the last lines are wider than the first
    distillers = ["none", "kd", "at", "overhaul", "review"]
    defenses = ["none", "finetune", "nad", "prune", *(f"nad[beta={10**i}]" for i in range(4))]
    lineage: dict[str, Any] = {}
    cells = []
    for attack, distiller, defense, seed in itertools.product(attacks, distillers, defenses, range(5)):
        keys = {kind: f"{draw.getrandbits(128):032x}" for kind in STAGES}
        for parent, (kind, key) in zip([None, *keys.values()], keys.items(), strict=False):
            lineage[key] = {
                "kind": kind, "method": kind, "options": OPTIONS, "seconds": 90 * draw.random(),
                "parents": [parent] if parent else [], "flags": [], "state": "done",
            }  # fmt: skip
        hits, base, right = draw.randrange(N), draw.random() / 50, draw.randrange(TEST)
        cells.append(cell(
            attack=attack, distiller=distiller, student=None if distiller == "none" else "wrn16-1", defense=defense,
            seed=seed, acc=right / TEST, acc_interval=list(wilson(right, TEST)), asr=hits / N,
            asr_interval=list(wilson(hits, N)), asr_all=draw.random(), base=base, carried=hits / N - base,
            carried_interval=[hits / N - base - 0.01 * draw.random(), hits / N - base + 0.01 * draw.random()],
            untriggered=draw.random(), titg=draw.random(), acc_control=draw.random(), seconds=90 * draw.random(),
            flags=draw.sample(["few-images", "control-fires", "attack-weak"], draw.randrange(3)), keys=keys,
        ))  # fmt: skip
    noise = torch.Generator().manual_seed(0)
    clean, *stamped = (torch.randint(0, 256, (8, 3, 64, 64), generator=noise).to(torch.uint8) for _ in range(6))
    strips = {attack: strip(clean, triggered) for attack, triggered in zip(attacks, stamped, strict=True)}
    return Report("large", cells, strips, lineage, made_by="distrust report large")


TEACHER = seeds(*[(0.9, 0.95)] * 3)


def student(distiller, asr, **changes):
    return seeds(*[(0.88, asr)] * 3, distiller=distiller, student="wrn16-1", carry_over=asr, **changes)


def defended(defense, acc, asr, **changes):
    return seeds(*[(acc, asr)] * 3, defense=defense, **changes)
