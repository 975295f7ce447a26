"""Flags: why a number must not be believed. Each has a paragraph in docs/flags.md, and here in one line."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

MEANING = {
    "acc-floor": "The defence cost more than 10 points of ACC; its low ASR earns no credit.",
    "attack-weak": "Before the defence the ASR was too low for a test of one; the defence earns no credit.",
    "chance-level": "On clean images the model does not beat the answer that is always the same class; nothing can be "
    "judged of it.",
    "collapsed": "More than half of the clean images are called the target, or an encoder gives all the same feature; "
    "ASR says nothing about a backdoor.",
    "control-fires": "The trigger also moves models that were never attacked; ASR is not evidence of a backdoor.",
    "no-control": "No control arm was measured; ASR may be the trigger's own pull on any model.",
    "one-seed": "One training run only; the spread between runs is unknown.",
    "chosen-on-test": "An option was chosen by the test numbers of this very seed; its own mean leaves it out.",
    "tuned-apart": "The attacked model and its control were defended with different options, each chosen for itself.",
    "off-protocol": "Its table compares defences, and this one has a setting, images or steps that nobody vouches for.",
    "few-images": "Fewer than 200 triggered test images; the interval is wide.",
    "off-range-trigger": "The trigger leaves 0..1 or the 8-bit lattice; no image file can show it.",
    "off-range-images": "The synthetic images leave 0..1; no image file can hold them.",
    "attention-dead": "An attention map of 1×1 pixels is constant after normalisation and has no gradient.",
    "loss-dead": "The distillation term has no gradient at the student; only the label term trained it.",
    "teacher-in-train-mode": "The teacher ran in train mode; its outputs depend on the batch.",
    "probabilities": "The teacher's outputs are probabilities, not logits; softened once more they hardly teach.",
    "larger-student": "The student has more parameters than its teacher; nothing was compressed.",
    "class-missing": "The defender's images lack a class; a defence cannot keep, or clean, what it never sees.",
    "skipped": "The method cannot apply here; it said so and nothing was measured.",
}


class Flag(UserWarning):
    """A warning that a study records beside the number; `name` is a key of `MEANING`."""

    def __init__(self, name: str, detail: str = "") -> None:
        super().__init__(f"{name}: {detail or MEANING[name]}")
        self.name = name


def flag(name: str, detail: str = "") -> None:
    """Raise a flag on what is being computed; a user sees a warning, a study writes it into the record."""
    warnings.warn(Flag(name, detail), stacklevel=3)


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """The names of the flags that are raised inside, in order; complete at the end. Other warnings go on from there."""
    names: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield names
    for warning in caught:
        if isinstance(warning.message, Flag):
            names.append(warning.message.name)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
