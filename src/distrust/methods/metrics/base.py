"""Base: what the trigger does to a model that was never attacked."""

from __future__ import annotations

from ...flags import flag
from ...marks import metric
from ...measurement import Seen
from ._rates import paired, share

CONTROL_FIRES = 0.10  # trigger's pull on a model that was never attacked


@metric(
    paper="ours, after the clean-teacher controls of BackWeak, arXiv 2511.12046",
    heading="Base",
    better="lower",
    order=4,
)
def base(seen: Seen, target: int, control: Seen | None = None) -> float | None:
    """ASR of the same trigger on the control arm: the same pipeline with the attack left out.

    Raises the flags no-control, where there is none, and control-fires, where the trigger moves 10 points of the
    control's images of other classes to the target.

    Args:
        seen: the model's answers.
        target: the backdoor's class.
        control: the control's answers under the same trigger.

    Differs from the paper: the control shares every seed, image and option with the attacked arm.
    """
    if seen.triggered is None:
        return None
    if control is None or control.triggered is None:
        flag("no-control")
        return None
    others = seen.y != target
    theirs, unasked = (control.triggered == target)[others], (control.clean == target)[others]
    rate = share(theirs).value
    if paired(theirs, unasked).value >= CONTROL_FIRES:
        flag("control-fires")
    return rate
