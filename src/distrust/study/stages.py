"""The nouns of a plan: a stage, a cell, and a plan of both."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

from .recipes import Recipe, digest
from .spec import Study


@dataclass(frozen=True, eq=False)
class Stage:
    """One call written down: what to do, on which parents, with which seed. Its key is the hash of all that."""

    # teacher, pretrain, attack, transfer, condense, archetypes, poison, sift, student, victim, defense, head, detect,
    # choose, predict or embed
    kind: str
    recipe: Recipe
    parents: tuple[Stage, ...]
    taint: tuple[str, ...]
    key: str
    passes: float  # how often each image of its role goes through a training step; for the estimate

    @property
    def role(self) -> str:
        """Whose images it works on; "class": so many of every class as `passes` says."""
        if self.kind in ("condense", "archetypes", "victim") or (
            self.kind in ("poison", "sift") and synthetic(self.parents[0])
        ):
            return "class"
        if self.kind == "detect":
            return "class" if synthetic(self.parents[0]) else "clean"
        return {"defense": "clean", "choose": "validation", "predict": "test", "embed": "test"}.get(self.kind, "train")

    @property
    def label(self) -> str:
        """What a person reads in the progress."""
        r, which = self.recipe, "synthetic" if self.role == "class" else "transfer"
        what = {
            "teacher": lambda: f"{r['model']} on {_attack_label(r['attack'])} images",
            "pretrain": lambda: f"{r['model']} by {r['encoder']['name']} on {_attack_label(r['attack'])} images",
            "head": lambda: f"{r['head']['name']} on {r['images']['source']}",
            "attack": lambda: f"{_attack_label(r['attack'])} on the {'encoder' if 'references' in r else 'teacher'}",
            "transfer": lambda: f"to {r['images']['source']}",
            "condense": lambda: f"{_attack_label(r['attack'])} images by {r['condenser']['name']}",
            "archetypes": lambda: "of the synthetic set",
            "poison": lambda: f"the {which} set by {_attack_label(r['attack'])}",
            "sift": lambda: f"the {which} set by {r['defense']['name']}",
            "victim": lambda: f"{r['model']} on the synthetic set",
            "student": lambda: f"{r['model']} by {r['distiller']['name']}",
            "defense": lambda: r["defense"]["name"],
            "detect": lambda: f"{r['detector']['name']} on {self.parents[0].kind}",
            "choose": lambda: f"{r['option']} of {len(r['candidates'])}",
            "predict": lambda: f"under {_attack_label(r['attack'])}",
            "embed": lambda: f"{r['embed']} images",
        }[self.kind]()
        taint = f" ← {'+'.join(self.taint)}" if self.taint else ""
        return f"{self.kind} {what}{taint}, seed {r['seed']}"


@dataclass(frozen=True, eq=False)
class PlannedCell:
    """One line of the results: its axes, its seed, and the predictions it is scored from."""

    axes: dict[str, str]
    seed: int
    place: int | None
    target: int | None
    seen: Stage
    control: Stage | None
    undefended: Stage | None
    teacher: tuple[Stage, Stage] | None  # attacked and control teacher, for the carry-over rate
    final: tuple[Stage, ...]  # the attacked arm: teacher, attack on it, transfer, transfer set, student, defence
    embed: Stage | None = None  # features for a picture of them
    found: tuple[Stage, ...] = ()  # a detector's findings: about the attacked arm, then about its control

    @functools.cached_property
    def id(self) -> str:
        """Readable and unique: a slug of the axes with a short hash of all of them."""
        return f"{'-'.join(self.slug)}-{digest(self.axes)[:8]}-s{self.seed}"

    @property
    def keys(self) -> dict[str, str]:
        """Kind → key of the stages of the attacked arm, and of its predictions."""
        return {stage.kind: stage.key for stage in (*self.final, self.seen)}

    @property
    def slug(self) -> Iterator[str]:
        """The axes' bare names."""
        for text in self.axes.values():
            bare = text.partition("[")[0].replace("/", "_").replace(":", "_").replace(".", "_")
            yield bare[-24:]

    @property
    def stages(self) -> Iterator[Stage]:
        """The predictions it needs."""
        yield from (
            s for s in (self.seen, self.control, self.undefended, *(self.teacher or ()), self.embed, *self.found) if s
        )


@dataclass(frozen=True)
class Plan:
    """A study's cells and, parents first, its stages."""

    study: Study
    cells: list[PlannedCell]
    stages: dict[str, Stage] = field(default_factory=dict)


def synthetic(made: Stage) -> bool:
    """The stage is a synthetic set, as it was condensed or changed."""
    return made.kind == "condense" or (made.kind in ("poison", "sift") and synthetic(made.parents[0]))


def _attack_label(attack: Recipe | None) -> str:
    return attack["name"] if attack else "clean"
