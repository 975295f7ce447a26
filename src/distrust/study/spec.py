"""Study files: TOML whose lists are axes and whose entries are selectors."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import BadInput, NotFound
from ..models import teacher_student
from ..selectors import Selector, parse

AXES = ("images", "teacher", "attack", "condenser", "encoder", "distiller", "student", "defense", "detector")

Axis = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v), Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Budget(BaseModel):
    """How much work a cell gets: one dial for subsets and epochs.

    Args:
        train: at most so many training images (default: all that the roles leave).
        test: at most so many test images.
        clean: the defender's share of the training split.
        held: the share that is kept for defenders; what theirs is drawn from, where a defence's selector names another
            one (default: `clean`).
        validation: the share on which choices are made.
        size: side in pixels to which images are resized (default: as they are).
        teacher: options of `fit` for teachers, e.g. epochs, lr, batch_size; of `pretrain` for encoders.
        views: options of `Views` for encoders, e.g. {flip = false}.
        transfer: options of `fit` for a teacher that moves to the victim's images.
        student: options of `distill` for students; of `fit` for networks on a synthetic set, beside its own recipe.
        attack: options given to every attack that has them.
        condenser: options given to every condenser that has them.
        encoder: options given to every self-supervised loss that has them.
        head: options given to every head that has them.
        defense: options given to every defence that has them.
        detector: options given to every detector that has them.
        axes: axes that replace the study's, e.g. {pair = ["a", "b"], images = ["gtsrb"]}.
        seeds: repetitions, if other than the study's.
    """

    model_config = ConfigDict(extra="forbid")
    train: Annotated[int, Field(ge=1)] | None = None
    test: Annotated[int, Field(ge=1)] | None = None
    clean: Share = 0.05
    held: Share | None = None
    validation: Share = 0.05
    size: Annotated[int, Field(ge=4)] | None = None
    teacher: dict[str, Any] = {}
    views: dict[str, Any] = {}
    transfer: dict[str, Any] = {}
    student: dict[str, Any] = {}
    attack: dict[str, Any] = {}
    condenser: dict[str, Any] = {}
    encoder: dict[str, Any] = {}
    head: dict[str, Any] = {}
    defense: dict[str, Any] = {}
    detector: dict[str, Any] = {}
    axes: dict[str, Axis] = {}
    seeds: Annotated[int, Field(ge=1, le=1000)] | None = None


class Block(BaseModel):
    """Part of a study: axes that replace the study's.

    Args:
        images, teacher, attack, condenser, encoder, distiller, student, defense, detector, pair: as in `Study`.
        seeds: repetitions at most, where they are dear.
    """

    model_config = ConfigDict(extra="forbid")
    images: Axis | None = None
    teacher: Axis | None = None
    attack: Axis | None = None
    condenser: Axis | None = None
    encoder: Axis | None = None
    distiller: Axis | None = None
    student: Axis | None = None
    defense: Axis | None = None
    detector: Axis | None = None
    pair: Axis | None = None
    seeds: Annotated[int, Field(ge=1)] | None = None


class Study(BaseModel):
    """What a study file says.

    Args:
        name: of the study and of its results folder.
        question: one sentence, shown on top of the report.
        budget: which of `budgets` is used by default.
        seeds: repetitions; each draws its own roles, initialisation, order and augmentation.
        images, teacher, attack, condenser, encoder, distiller, student, defense, detector: the axes; "none" is a real
            entry. Images "A>B": teacher and attack work on A, then the teacher is fine-tuned on B, where the
            student is distilled and measured. With a condenser there is no teacher: the student is trained on the
            synthetic set. An encoder is the teacher's network without its last layer, pre-trained by that loss on A;
            its student is a head, fitted and measured on B. A detector looks at the last model, at the synthetic set
            or at the encoder, and at the same of the control arm.
        pair: teachers and students together: a letter of CheatKD's Table 1, or "TEACHER>STUDENT"; replaces both axes.
        embed: so many clean and triggered test images each, of the first seed's cells, are shown by t-SNE.
        grid: blocks that replace some axes; the study is the union of their products. `seeds` of a block is the most
            that its combinations are repeated.
        budgets: named budgets. A file may take them from another one beside it, `budgets_from = "other.toml"`.
        within: a tuned option takes the largest candidate that costs at most this much validation ACC.
        published: numbers by others, in their own convention, shown beside ours.
    """

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    question: str = ""
    budget: str = "cpu"
    seeds: int = Field(1, ge=1, le=1000)
    images: Axis = ["digits"]
    teacher: Axis = ["wrn16-1"]
    attack: Axis = ["none"]
    condenser: Axis = ["none"]
    encoder: Axis = ["none"]
    distiller: Axis = ["none"]
    student: Axis = ["same"]
    defense: Axis = ["none"]
    detector: Axis = ["none"]
    pair: Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = []
    embed: int = Field(0, ge=0)
    grid: list[Block] = []
    budgets: dict[str, Budget] = {"cpu": Budget()}
    within: float = Field(0.05, ge=0, le=1)
    published: list[dict[str, Any]] = []
    source: str = Field("", exclude=True)  # the file it was read from

    def combinations(self) -> Iterator[tuple[dict[str, Selector], int]]:
        """Every combination of axis entries once, in the order of the file, and how often it is repeated."""
        found: dict[tuple[str, ...], tuple[dict[str, Selector], int]] = {}
        for block in self.grid or [Block()]:
            for entry in self._entries(block.model_dump(exclude_none=True, exclude={"seeds"})):
                chosen = dict(zip(AXES, entry, strict=True))
                if chosen["encoder"].name != "none":
                    chosen |= _headed(chosen)
                elif chosen["condenser"].name != "none":
                    chosen |= _without_teacher(chosen, self.budgets[self.budget])
                elif chosen["distiller"].name == "none":
                    chosen["student"] = Selector("none")
                elif chosen["student"].name == "same":
                    chosen["student"] = chosen["teacher"]
                texts = tuple(s.text for s in chosen.values())
                most = min(self.seeds, block.seeds or self.seeds)
                found[texts] = (chosen, max(most, found[texts][1] if texts in found else 0))
        yield from found.values()

    def _entries(self, block: dict[str, list[str]]) -> Iterator[tuple[Selector, ...]]:
        block = {**block, **self.budgets[self.budget].axes}
        axes = {axis: [s for text in block.get(axis, getattr(self, axis)) for s in parse(text)] for axis in AXES}
        pairs = block.get("pair", [] if {"teacher", "student"} & block.keys() else self.pair)
        if not pairs:
            yield from itertools.product(*axes.values())
        for teacher, student in map(teacher_student, pairs):
            yield from itertools.product(*{**axes, "teacher": parse(teacher), "student": parse(student)}.values())


def _headed(chosen: dict[str, Selector]) -> dict[str, Selector]:
    """An encoder is neither distilled nor trained on a condensed set; its student is a head, "same" the linear one."""
    for axis in ("condenser", "distiller"):
        if chosen[axis].name != "none":
            raise BadInput(
                f"encoder {chosen['encoder'].name} is measured through a head; {axis} {chosen[axis].name!r} has no "
                f"place there. Leave the {axis} out, or the encoder."
            )
    return {"student": Selector("linear") if chosen["student"].name == "same" else chosen["student"]}


def _without_teacher(chosen: dict[str, Selector], budget: Budget) -> dict[str, Selector]:
    """A synthetic set has no teacher; "same" is the network that it was condensed with."""
    if chosen["distiller"].name != "none":
        raise BadInput(
            f"condenser {chosen['condenser'].name} makes a set that a student is trained on, not distilled; distiller "
            f"{chosen['distiller'].name!r} has no place there. Leave the distiller out, or the condenser."
        )
    network = {"network": "convnet3", **budget.condenser, **chosen["condenser"].options}["network"]
    student = Selector(network) if chosen["student"].name == "same" else chosen["student"]
    return {"teacher": Selector("none"), "student": student}


def read_study(path: str | Path, **changes: Any) -> Study:
    """Read a study file; `changes` (budget, seeds) replace what it says.

    Raises:
        NotFound: no such file, or a budget that it does not define.
        BadInput: it is not TOML, or has an entry that no study has.
    """
    path = Path(path)
    if not path.is_file():
        near = [str(p) for p in sorted({*path.parent.glob("*.toml"), *Path("studies").glob("*.toml")})]
        raise NotFound.among("study file", str(path), near)
    try:
        content = tomllib.loads(path.read_text())
        if "budgets_from" in content:
            content = _with_budgets(content, path)
        asked = {k: v for k, v in changes.items() if v is not None}
        study = study_from({**content, **asked}, str(path))
        seeds = study.budgets[study.budget].seeds or study.seeds
        return study.model_copy(update={"source": str(path), "seeds": study.seeds if "seeds" in asked else seeds})
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not TOML: {error}.") from None


def _with_budgets(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Take over the budgets of the study file beside this one; what this one says of a budget goes first."""
    content = dict(content)
    other = path.parent / str(content.pop("budgets_from"))
    if not other.is_file():
        raise NotFound.among(
            f"study file beside {path}", other.name, [p.name for p in sorted(path.parent.glob("*.toml"))]
        )
    own = content.get("budgets", {})
    theirs = tomllib.loads(other.read_text()).get("budgets", {})
    return content | {"budgets": {name: theirs.get(name, {}) | own.get(name, {}) for name in {**theirs, **own}}}


def study_from(content: dict[str, Any], source: str = "the study") -> Study:
    """Validate a study given as a dict.

    Raises:
        BadInput, NotFound: as `read_study`.
    """
    budgets = content.get("budgets", {})
    replaced = [budget.get("axes", {}) for budget in budgets.values()] if isinstance(budgets, dict) else []
    entries: list[tuple[dict[str, Any], set[str]]] = [(content, set(Study.model_fields))]
    entries += [(block, set(Block.model_fields)) for block in content.get("grid", [])]
    entries += [(axes, {*AXES, "pair"}) for axes in replaced]
    for block, known in entries:
        for name in block:
            if name not in known:
                raise NotFound.among(f"entry of {source}", name, known)
    try:
        study = Study(**content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(
            f"{source}: {where}: {first['msg'][:1].lower()}{first['msg'][1:]} (got {first['input']!r})."
        ) from None
    if study.budget not in study.budgets:
        raise NotFound.among(f"budget in {source}", study.budget, study.budgets)
    return study
