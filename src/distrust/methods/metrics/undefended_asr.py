"""ASR before the defence."""

from __future__ import annotations

from ...flags import flag
from ...marks import metric
from ...measurement import Seen
from ...registry import registry
from ...selectors import divided, parse_one
from ._rates import success

FLOOR, CLEAN_LABEL_FLOOR = 0.8, 0.5  # an attack that reaches less is no test of a defence


@metric(paper="ours", heading="ASR before", better="lower", aside=True, order=15)
def undefended_asr(
    undefended: Seen, target: int, images: str = "", attack: str = "none", distiller: str = "none",
    condenser: str = "none", encoder: str = "none",
) -> float | None:  # fmt: skip
    """ASR before the defence.

    Raises the flag attack-weak where the defence had a model that the attack itself was to backdoor, and the attack did
    not reach 80 % on it, or 50 % with clean labels.

    Args:
        undefended: the answers of the model that the defence got.
        target: the backdoor's class.
        images: of the study; a teacher that was moved from some to others may well carry little.
        attack: by which that model was attacked.
        distiller: by which it inherited; likewise.
        condenser: by which its images were made; likewise.
        encoder: likewise, of a head on one.

    Differs from the paper: there is none.
    """
    found = success(undefended, target)
    direct = {distiller, condenser, encoder} == {"none"} and len(divided(images, ">")) == 1
    if found and attack != "none" and direct and found.value < floor(attack):
        flag("attack-weak")
    return found.value if found else None


def floor(attack: str) -> float:
    """The least ASR of an attack, given by its selector, that is a test of a defence."""
    chosen, marks = parse_one(attack), registry.marks("attacks")
    clean = chosen.name in marks and marks[chosen.name].clean_label
    return CLEAN_LABEL_FLOOR if chosen.options.get("clean_label", clean) else FLOOR
