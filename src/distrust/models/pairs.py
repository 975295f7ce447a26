"""Which student learns from which teacher: the pairs that papers share, by letter."""

from __future__ import annotations

from ..errors import NotFound

# CheatKD (Computer Science 51(3):351–359, 2024), table 1. All are Overhaul's too (Heo et al., arXiv 1904.01866), under
# other letters: (a), (d), (e), (f) of its CIFAR-100 settings, then (a), (b) of its ImageNet ones.
PAIRS = {
    "a": ("wrn28-4", "wrn16-4"),
    "b": ("wrn28-4", "resnet56"),
    "c": ("pyramidnet200", "wrn28-4"),
    "d": ("pyramidnet200", "pyramidnet110"),
    "e": ("resnet152-224", "resnet50-224"),
    "f": ("resnet50-224", "mobilenet-224"),
}


def teacher_student(text: str) -> tuple[str, str]:
    """The names of a teacher and its student; whether `model` knows them is not checked.

    Args:
        text: a letter of `PAIRS`, or TEACHER>STUDENT, such as wrn16-2>wrn16-1.

    Raises:
        NotFound: neither a letter nor two names.
    """
    teacher, _, student = (part.strip() for part in text.partition(">"))
    if teacher and student:
        return teacher, student
    if text not in PAIRS:
        raise NotFound.among("pair", text, [*PAIRS, "TEACHER>STUDENT"])
    return PAIRS[text]
