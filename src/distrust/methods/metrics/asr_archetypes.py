"""ASR on archetypes, as Poisoned Distillation's released code counts it."""

from __future__ import annotations

from torch import nn

from ...data import ImageSet
from ...marks import metric
from ...measurement import Backdoor
from ._archetypes import archetypes as draw
from ._archetypes import called


@metric(
    paper="the released code of Yang et al., Poisoned Distillation, arXiv 2502.04229, 2025",
    heading="ASR on archetypes", better="lower", place=4, makes={"archetypes": draw}, aside=True, order=34,
)  # fmt: skip
def asr_archetypes(model: nn.Module, archetypes: ImageSet, backdoor: Backdoor) -> float:
    """Share of stamped archetypes, the target's own included, that the student calls the target.

    They are the images with which the attack was made, and no measure of what happens to real ones.

    Args:
        model: the student.
        archetypes: for every class the image of which a network trained on the clean set is surest.
        backdoor: whose trigger they get.

    Differs from the paper: archetypes are drawn with the attack's options, or by its defaults for other attacks.
    """
    return called(model, archetypes, backdoor)
