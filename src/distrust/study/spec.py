"""Study files: TOML whose lists are axes and whose entries are selectors."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from ..bounds import bounded, check_bound
from ..errors import BadInput, NotFound
from ..models import teacher_student
from ..registry import registry
from ..selectors import Selector, divided, parse
from .axes import AXES, TABLE
from .origin import Origin, given

Entries = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
Axis = Annotated[Entries, Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Options = dict[str, Any]
DIALS = {"heads": "head", "metrics": "metric"} | {axis.kind: axis.name for axis in TABLE if axis.kind}

_given: Any = create_model("Given", **{axis.name: (Axis, [axis.default]) for axis in TABLE})  # type: ignore[call-overload]
_some: Any = create_model("Some", **{axis.name: (Axis | None, None) for axis in TABLE})  # type: ignore[call-overload]


class Budget(BaseModel):
    """How much work a cell gets: one dial for subsets and epochs.

    Args:
        train: at most so many training images (default: all that the roles leave).
        test: at most so many test images.
        clean: the defender's share of the training split.
        held: the share that is kept for defenders; what theirs is drawn from, where a defence's selector names another
            one (default: `clean`).
        validation: the share on which choices are made.
        network: the student's where "same" finds none, as behind `random`, which condenses without one.
        size: side in pixels to which images are resized (default: as they are).
        teacher: options of `fit` for teachers, e.g. epochs, lr, batch_size; of `pretrain` for encoders.
        views: options of `Views` for encoders, e.g. {flip = false}.
        transfer: options of `fit` for a teacher that moves to the victim's images.
        student: options of `distill` for students; of `fit` for networks on a synthetic set, beside its own recipe.
        attack, condenser, encoder, distiller, head, defense, detector, metric: options by the name of the method, e.g.
            `[budgets.cpu.attack.cheatkd]` with `steps = 100`.
        axes: axes that replace the study's, e.g. {pair = ["a", "b"], images = ["gtsrb"]}.
        seeds: repetitions, if other than the study's.
    """

    model_config = ConfigDict(extra="forbid")
    train: Annotated[int, Field(ge=1)] | None = None
    test: Annotated[int, Field(ge=1)] | None = None
    clean: Share = 0.05
    held: Share | None = None
    validation: Share = 0.05
    network: str = "convnet3"
    size: Annotated[int, Field(ge=4)] | None = None
    teacher: Options = {}
    views: Options = {}
    transfer: Options = {}
    student: Options = {}
    attack: dict[str, Options] = {}
    condenser: dict[str, Options] = {}
    encoder: dict[str, Options] = {}
    distiller: dict[str, Options] = {}
    head: dict[str, Options] = {}
    defense: dict[str, Options] = {}
    detector: dict[str, Options] = {}
    metric: dict[str, Options] = {}
    axes: dict[str, Axis] = {}
    seeds: Annotated[int, Field(ge=1, le=1000)] | None = None

    def dialled(self, kind: str, name: str) -> Options:
        """What it says of one method."""
        return getattr(self, DIALS[kind]).get(name, {})


class Block(_some):
    """Part of a study: axes that replace the study's.

    Args:
        images, teacher, attack, condenser, encoder, distiller, student, defense, detector, pair: as in `Study`.
        seeds: repetitions at most, where they are dear.
    """

    model_config = ConfigDict(extra="forbid")
    pair: Axis | None = None
    seeds: Annotated[int, Field(ge=1)] | None = None


class Study(_given):
    """What a study file says.

    Args:
        name: of the study and of its results folder.
        question: one sentence, shown on top of the report.
        budget: which of `budgets` is used by default.
        seeds: repetitions; each draws its own roles, initialisation, order and augmentation.
        images, teacher, attack, condenser, encoder, distiller, student, defense, detector: the axes; "none" is a real
            entry. Images "A>B": teacher and attack work on A, then the teacher is fine-tuned on B, where the
            student is distilled and measured; a path that holds one of `[]>` stands in quotes, '"data[v1]"'. With a
            condenser there is no teacher: the student is trained on the synthetic set. An encoder is the teacher's
            network without its last layer, pre-trained by that loss on A; its student is a head, fitted and measured
            on B. A detector looks at the last model, at the synthetic set or at the encoder, and at the same of the
            control arm.
        pair: teachers and students together: a letter of CheatKD's Table 1, or "TEACHER>STUDENT"; replaces both axes.
        embed: so many clean and triggered test images each, of the first seed's cells, are shown by t-SNE.
        grid: blocks that replace some axes; the study is the union of their products. `seeds` of a block is the most
            that its combinations are repeated.
        budgets: named budgets. A file may take them from another one beside it, `budgets_from = "other.toml"`.
        within: a tuned option takes the largest candidate that costs at most this much validation ACC.
        protocol: it is a table of defences, whose cells are flagged where the comparison is not fair.
        metrics: those that are measured only where they are asked for, each with its options: "retune[epochs=5]".
        published: numbers by others, in their own convention, shown beside ours.
        origin: METHOD.OPTION → where a value that the study does not vary comes from.
    """

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    question: str = ""
    budget: str = "cpu"
    seeds: int = Field(1, ge=1, le=1000)
    pair: Entries = []
    embed: int = Field(0, ge=0)
    grid: list[Block] = []
    budgets: dict[str, Budget] = {"cpu": Budget()}
    within: float = Field(0.05, ge=0, le=1)
    protocol: bool = False
    metrics: Entries = []
    published: list[dict[str, Any]] = []
    origin: Origin = {}
    source: str = Field("", exclude=True)  # the file it was read from
    usual_budget: str = Field("", exclude=True)  # which that file uses by default

    def given(self) -> dict[str, set[str]]:
        """METHOD.OPTION → the values that it has anywhere in the study; those with one value have an origin."""
        blocks = [self, *self.grid]
        entries = [getattr(block, axis) or () for block in blocks for axis in AXES]
        entries += [own for budget in self.budgets.values() for axis, own in budget.axes.items() if axis != "pair"]
        return given(itertools.chain.from_iterable(entries))

    def defaults(self) -> set[str]:
        """METHOD.OPTION of the defences in a table of them, whose origin may be told even of defaults."""
        named = {chosen["defense"].name for chosen, _ in self.combinations()} if self.protocol else ()
        return {f"{name}.{option}" for name in named for option in registry.get("defenses", name).options}

    def combinations(self) -> Iterator[tuple[dict[str, Selector], int]]:
        """Every combination of axis entries once, in the order of the file, and how often it is repeated.

        They are made as they are asked for: of each, only a number is kept.
        """
        often, numbers, every = dict[int, int](), dict[str, int](), list(self.products())
        base = 4 + 2 * sum(len(entries) for _, products in every for axes in products for entries in axes.values())
        for first in (True, False):
            for seeds, products in every:
                for chosen in itertools.chain.from_iterable(map(self.entries, products)):
                    at = 0
                    for selector in chosen.values():
                        at = at * base + numbers.setdefault(selector.text, len(numbers))
                    if first:
                        often[at] = max(seeds, often.get(at, 0))
                    elif at in often:
                        yield chosen, often.pop(at)

    def products(self) -> Iterator[tuple[int, list[dict[str, list[Selector]]]]]:
        """Of each block, how often it is repeated, and what stands on its axes: once, or for each pair."""
        for block in self.grid or [Block()]:
            own = block.model_dump(exclude_none=True, exclude={"seeds"}) | self.budgets[self.budget].axes
            axes = {axis: [s for text in own.get(axis, getattr(self, axis)) for s in parse(text)] for axis in AXES}
            pairs = own.get("pair", [] if {"teacher", "student"} & own.keys() else self.pair)
            named = [{"teacher": parse(one), "student": parse(other)} for one, other in map(teacher_student, pairs)]
            yield min(self.seeds, block.seeds or self.seeds), [{**axes, **pair} for pair in named or [{}]]

    def entries(self, axes: dict[str, list[Selector]]) -> Iterator[dict[str, Selector]]:
        """The combinations of such axes, of which some may be the same."""
        budget = self.budgets[self.budget]
        for entry in itertools.product(*axes.values()):
            chosen = dict(zip(axes, entry, strict=True))
            yield chosen | _settled(chosen, budget)


def _settled(chosen: dict[str, Selector], budget: Budget) -> dict[str, Selector]:
    """Who the student is, and whether there is a teacher; "same" is the network that stands before it.

    Raises:
        BadInput: what stands on one axis leaves no place for what stands on another.
    """
    if chosen["condenser"].name == "none" == chosen["encoder"].name and chosen["teacher"].name != "none":  # as most are
        if chosen["distiller"].name == "none":
            return {"student": Selector("none")}
        return {"student": chosen["teacher"]} if chosen["student"].name == "same" else {}
    names = {axis: selector.name for axis, selector in chosen.items()}
    same = names["student"] == "same"
    for maker, others, why in (
        ("encoder", ("condenser", "distiller"), "is measured through a head"),
        ("condenser", ("distiller",), "makes a set that a student is trained on, not distilled"),
    ):
        other = next((axis for axis in others if names[axis] != "none"), None)
        if names[maker] != "none" and other:
            raise BadInput(
                f"{maker} {names[maker]} {why}; {other} {names[other]!r} has no place there. Leave the {other} out, or "
                f"the {maker}."
            )
    if names["teacher"] == "none" and names["condenser"] == "none":
        raise BadInput("teacher 'none' leaves nothing to measure: only a condenser goes without. Name a network.")
    if names["encoder"] != "none":
        return {"student": Selector("linear") if same else chosen["student"]}
    if len(divided(names["images"], ">")) > 1:
        text = chosen["images"].text
        raise BadInput(f"images {text!r} move a teacher, and a condenser has none. Name one set.")
    dialled = budget.dialled("condensers", names["condenser"])
    own = registry.get("condensers", names["condenser"]).options.get("network")
    given = {**dialled, **chosen["condenser"].options}
    network = given.get("network", own.default) if own else budget.network
    return {"teacher": Selector("none"), "student": Selector(network) if same else chosen["student"]}


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
    content = read_toml(path)
    if "budgets_from" in content:
        content = _with_budgets(content, path)
    asked = {k: v for k, v in changes.items() if v is not None}
    study = study_from({**content, **asked}, str(path))
    if study.origin and not asked.keys() - {"budget", "seeds"}:  # else what it speaks of may be gone
        for name in study.origin.keys() - (known := {*study.given(), *study.defaults()}):
            raise NotFound.among(f"option with an origin in {path}", name, known)
    seeds = study.budgets[study.budget].seeds or study.seeds
    usual = {"source": str(path), "usual_budget": content.get("budget", "cpu")}
    return study.model_copy(update={**usual, "seeds": study.seeds if "seeds" in asked else seeds})


def read_toml(path: Path) -> dict[str, Any]:
    """What a file of TOML says.

    Raises:
        BadInput: it is none, or too long, or nested too deep to be read.
    """
    data = bounded(path, "study")
    check_bound("dots", max(line.count(b".") for line in data.split(b"\n")), path, "dots in a line")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    except ValueError as error:  # a TOMLDecodeError, or a number of too many digits
        raise BadInput(f"{path} is not TOML: {error}.") from None
    except RecursionError:
        raise BadInput(f"{path} is nested too deep to be read. Give a study file.") from None


def _with_budgets(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Take over the budgets of the study file beside this one; what this one says of a budget goes first."""
    content = dict(content)
    other = path.parent / str(content.pop("budgets_from"))
    if not other.is_file():
        raise NotFound.among(
            f"study file beside {path}", other.name, [p.name for p in sorted(path.parent.glob("*.toml"))]
        )
    own = content.get("budgets", {})
    theirs = read_toml(other).get("budgets", {})
    tables = [table for table in (own, theirs) if isinstance(table, dict)]
    if len(tables) < 2 or not all(isinstance(part, dict) for table in tables for part in table.values()):
        raise BadInput(f"{path} and {other}: each of the budgets is a table, as [budgets.cpu].")
    return content | {"budgets": {name: theirs.get(name, {}) | own.get(name, {}) for name in {**theirs, **own}}}


def study_from(content: dict[str, Any], source: str = "the study") -> Study:
    """Validate a study given as a dict.

    Raises:
        BadInput, NotFound: as `read_study`.
    """
    budgets = content.get("budgets", {})
    budgets = {n: b for n, b in budgets.items() if isinstance(b, dict)} if isinstance(budgets, dict) else {}
    grid = content.get("grid", [])
    entries: list[tuple[dict[str, Any], set[str]]] = [(content, set(Study.model_fields))]
    entries += [(block, set(Block.model_fields)) for block in (grid if isinstance(grid, list) else [])]
    entries += [(budget.get("axes", {}), {*AXES, "pair"}) for budget in budgets.values()]
    for block, known in entries:
        for name in block if isinstance(block, dict) else ():  # what is no table is said below
            if name not in known:
                raise NotFound.among(f"entry of {source}", name, known)
    for name, budget in budgets.items():
        for dial in DIALS.values():
            options = budget.get(dial, {})
            loose = (
                next((k for k, v in options.items() if not isinstance(v, dict)), None)
                if isinstance(options, dict)
                else None
            )
            if loose:
                raise BadInput(
                    f"{source}: budgets.{name}.{dial}: {loose} = {options[loose]!r} names no method. Write it into "
                    f"the method's own table: [budgets.{name}.{dial}.NAME]."
                )
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
