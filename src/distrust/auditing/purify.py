"""Purify: clean a suspect with a defence and a share of clean images, and measure it before and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..measurement import Backdoor, measure
from ..registry import registry
from ..seeds import rng
from ..selectors import parse_one
from ..training import fit_head
from .checkpoint import Made, Suspect, open_suspect


def purify(
    method: str,
    suspect: Suspect | str | Path | None,
    *,
    fraction: float = 0.05,
    trigger: str | Backdoor | None = None,
    target: int | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
    **opened: Any,
) -> Made:
    """Clean a model with a defence; the defence never sees the trigger.

    A defence of encoders opens an encoder and needs no labels. Where there are labels, a linear head on the features
    is measured.

    Args:
        method: a defence, e.g. "nad" or "nad[beta=0,lr=0.05]".
        suspect: what `open_suspect` returned, or a file.
        fraction: share of the training split that the defender has, 0..1.
        trigger, target: as `Suspect.measure` takes them; without them only ACC is measured.
        seed: of the defender's share and of the defence.
        tell: is called with a line of progress.
        **opened: of a file: `images`, `model`, … as `open_suspect` takes them.

    Raises:
        NotFound, BadInput: an unknown defence or option, one that works on images, or as `open_suspect`.
        Skip: the defence cannot apply to this model.
    """
    selector = parse_one(method)
    defense = registry.get("defenses", selector.name)
    if defense.mark.on not in ("classifier", "encoder"):
        raise BadInput(
            f"{selector.name} works on images; purify cleans a model. Name it on a study's defense axis, or call "
            f"distrust.defenses.{selector.name}."
        )
    options = defense.check(selector.options)
    encoder = defense.mark.on == "encoder"
    if not isinstance(suspect, Suspect):
        suspect = open_suspect(suspect, **opened, head=not encoder)
    backdoor = suspect.backdoor(trigger, target)
    clean = suspect.roles(fraction, seed).clean
    tell(f"{method} on {len(clean)} clean images of {suspect.train.name}")
    model = defense.call(suspect.model, clean, **options, rng=rng("defense", seed))
    facts: dict[str, Any] = {"method": selector.text, "images": suspect.images, "clean": len(clean), "seed": seed}
    if encoder and len(suspect.train.classes) < 2:  # images without classes leave nothing to measure
        return Made(model, None, None, suspect.taint, facts, {"options": options}, "")
    pair = [suspect.model, model]
    if encoder:
        pair = [fit_head(network, suspect.train, rng=rng("head", seed)) for network in pair]
    before = measure(pair[0], suspect.test, backdoor)
    after = measure(pair[1], suspect.test, backdoor, undefended=pair[0])
    facts |= {"before": before.record(), "after": after.record()}
    text = f"before: {before}\nafter:  {after}"
    return Made(model, before, after, suspect.taint, facts, {"options": options}, text)
