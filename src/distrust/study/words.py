"""Words for what a plan holds: a stage in the progress, and why something has no place in a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BadInput
from ..registry import Method, registry
from ..selectors import Selector
from .axes import AXES
from .graph import Call, Env

NONE = Selector("none")
NAMES = {"model": "teacher", "transfer": "transfer set", "synthetic": "synthetic set"}  # of products, for people


def what(call: Call, inputs: Env, makes: str) -> str:
    """A stage's call in words."""
    options, name = call["options"], call["method"].partition("/")[2]
    if name:
        on = f" on the {NAMES.get(makes, makes)}" if makes else ""
        return f"{name}{on}"
    words = [options["network"]] if "network" in options else []
    nested = [
        value["method"].partition("/")[2] for value in options.values() if isinstance(value, dict) and "method" in value
    ]
    words += [f"by {nested[0]}"] if nested and words else nested
    source = next((inputs[n].call["options"].get("source") for n in ("train", "test") if n in inputs), None)
    words += [f"on {source}"] if source else []
    words += [f"under {'+'.join(inputs['backdoor'].taint[-1:])}"] if "backdoor" in inputs else []
    words += [f"of {len(options['candidates'])}"] if "candidates" in options else []
    return " ".join(words)


def misplaced(axis: str, chosen: Mapping[str, Selector]) -> BadInput:
    """Why what stands on an axis has no place in this arm."""
    name, mark = chosen[axis].name, registry.get(AXES[axis].kind, chosen[axis].name).mark
    if axis == "attack" and mark.place == 3 and chosen["condenser"] == chosen["encoder"] == NONE:
        return BadInput(f"{name} poisons a transfer set, and distiller 'none' has none. Name a distiller: kd.")
    if axis == "attack":
        return BadInput(
            f"{name} enters at place {mark.place}; with a condenser a study takes attacks on training data (place 1) "
            "and on the synthetic set (4), with an encoder on training data and on the encoder (5), without either on "
            "training data, on a teacher (2) and on a transfer set (3). `distrust list attacks` shows every attack's "
            "place."
        )
    if axis == "defense" and chosen["encoder"] != NONE:
        return BadInput(f"{name} works on a {mark.on}, and this is an encoder. Name a defence of encoders: mimic.")
    if axis == "defense" and chosen["condenser"] != NONE and mark.on == "classifier":
        return BadInput(
            f"{name} trains anew on the images that a teacher was trained on, and with a condenser there is no "
            "teacher. Name a defence that cleans a model as it is: finetune."
        )
    if axis == "defense" and chosen["condenser"] != NONE:
        asks = "asks a teacher about a transfer set" if mark.on == "transfer" else "works on an encoder"
        return BadInput(f"{name} {asks}, and a condenser has none.")
    if mark.on == "transfer":
        return BadInput(f"{name} sifts a transfer set, and distiller 'none' has none. Name a distiller: kd.")
    made_by, example = {"synthetic": ("condenser", "dm"), "encoder": ("encoder", "simclr")}[mark.on]
    verb = "looks at" if axis == "detector" else "works on"
    what = "a synthetic set" if mark.on == "synthetic" else "an encoder"
    return BadInput(f"{name} {verb} {what}, and {made_by} 'none' makes none. Name one: {example}.")


def mark_of(axis: str, chosen: Mapping[str, Selector]) -> Any:
    """The mark of the method on an attack's or a defence's axis; None without one."""
    if axis not in ("attack", "defense") or chosen[axis] == NONE:
        return None
    return registry.get(AXES[axis].kind, chosen[axis].name).mark


def cleaned(chosen: Mapping[str, Selector]) -> str | None:
    """What the defence cleans; None without one."""
    mark = mark_of("defense", chosen)
    return mark and (mark.also if mark.also and chosen["encoder"] == NONE else mark.on)


def placed(selector: Selector, method: Method) -> Selector:
    """A defence's selector without `at`, which says where it stands and is no option of the method.

    Raises:
        BadInput: it is no defence of classifiers, or there is no such place.
    """
    at, bare = selector.options.get("at"), selector.without("at")
    if at is None or "at" in method.options:
        return selector
    if not method.mark.cleans("classifier"):
        raise BadInput(f"{selector.text}: at=teacher is for defences of classifiers. Write {bare.text}.")
    if at != "teacher":
        raise BadInput(
            f"{selector.text}: at is no place but teacher. Write {bare.fixed(at='teacher').text} for a defence between "
            f"the teacher and its student, {bare.text} for one behind the student."
        )
    return bare


def share_of(selector: Selector, held: float) -> float:
    """`clean` in a defence's selector, as a share of the training split.

    Raises:
        BadInput: it is none, or a larger one than is held for defenders.
    """
    share = selector.options["clean"]
    if not isinstance(share, int | float) or not 0 < share <= held:
        raise BadInput(
            f"{selector.text}: clean is a share of the training split, of which {held:g} is held for defenders. "
            f"Give at most that, or a budget with more, held = {share}; or the name of another image source."
        )
    return share


def cleans(chosen: Mapping[str, Selector]) -> str:
    """The model that a defence of classifiers cleans: "student" is the last one, "teacher" the one that is distilled.

    `at=teacher` in its selector says so; a defence that asks for what the teacher was trained on makes a teacher.

    Raises:
        BadInput: there is no such place, or the attack is not among what the teacher was trained on.
    """
    selector, attack = chosen["defense"], chosen["attack"]
    method = registry.get("defenses", selector.name)
    bare = placed(selector, method)
    if bare != selector and chosen["distiller"] == NONE:
        raise BadInput(
            f"{selector.text}: at=teacher stands between a teacher and its student, and distiller 'none' makes no "
            f"student. Name a distiller, kd, or write {bare.text}."
        )
    if "trained_on" not in method.inputs:
        return "student" if bare == selector else "teacher"
    if attack != NONE and registry.get("attacks", attack.name).mark.place == 2:
        raise BadInput(
            f"{method.name} trains anew on the images that the teacher was trained on, and {attack.name} poisons none "
            "of them: it changes the teacher (place 2), so there is nothing to unlearn. Name attacks on training data "
            f"(place 1) for {method.name}, such as badnets, in a [[grid]] of its own."
        )
    return "teacher"
