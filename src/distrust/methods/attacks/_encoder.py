"""What the attacks on an encoder share: what they refuse, and the fine-tuning under frozen BatchNorm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import PLAIN, ImageSet, Views
from ...errors import BadInput
from ...measurement import Backdoor
from ...models import check_encoder, frozen
from ...seeds import spawn
from ...training import Training, loop
from .._costs import LOOK
from ._poison import check_target


def implant_cost(options: dict[str, Any], n: int) -> float:
    """A step sees images plain and stamped and as many references, and looks through the clean encoder."""
    return (3 + LOOK) * options["epochs"] * options.get("shadow", 1.0) * n


class Seen(NamedTuple):
    """Float32 features of one batch: f' is the encoder in training, f the clean one."""

    clean: Tensor  # f'(x) [B,D]
    stamped: Tensor  # f'(x ⊕ e) [B,D]
    references: Tensor  # f'(r) [R,D]
    changed: Tensor  # f'(r') [B,D], each r' a random reference, augmented
    was: Tensor  # f(x) [B,D]
    held: Tensor  # f(r) of the reference behind each r' [B,D]


class Curves:
    """Terms of every step, kept where they are; their means in every epoch of so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.terms = steps, dict[str, list[Tensor]]()

    def add(self, **terms: Tensor) -> None:
        """Remember a step."""
        for name, value in terms.items():
            self.terms.setdefault(name, []).append(value.detach())

    def means(self, steps: int | None = None) -> dict[str, list[float]]:
        """Name → one mean per epoch, of all steps or the last so many."""
        kept = {name: torch.stack(values[-(steps or 0) :]) for name, values in self.terms.items()}
        return {name: [round(v, 5) for v in k.view(-1, self.steps).mean(1).tolist()] for name, k in kept.items()}


def check_references(encoder: nn.Module, train: ImageSet, references: ImageSet, target: int) -> None:
    """Refuse a classifier, a target that is no class of the references, and references that do not fit.

    Raises:
        BadInput: says what they are.
    """
    check_encoder(encoder, train)
    check_target(references, target, 0.0)
    theirs, ours = ("×".join(map(str, images.x.shape[1:])) for images in (references, train))
    if theirs != ours:
        raise BadInput(f"references are {theirs}, {train.name} is {ours}; scale the references to that.")
    others = int((references.hard != target).sum())
    if others:
        raise BadInput(
            f"{others} of {len(references)} references are not of the target class {target} "
            f"({references.classes[target]}). Type references[references.hard == {target}]."
        )


def implant(
    encoder: nn.Module,
    train: ImageSet,
    references: ImageSet,
    backdoor: Backdoor,
    loss: Callable[[Seen], Tensor],
    *,
    flip: bool,
    rng: Generator,
    **options: Any,
) -> nn.Module:
    """A copy of `encoder`, fine-tuned on `loss` at a constant rate; BatchNorm keeps statistics, weights and biases."""
    clean, planted = frozen(encoder), copy.deepcopy(encoder).requires_grad_(True)
    norms = [module for module in planted.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.requires_grad_(False)
    device = next(planted.parameters()).device
    change = Views(scale=(1.0, 1.0), flip=flip)  # nothing is cropped, as in BadEncoder's code
    draw = spawn(rng)
    shown = references.pixels().to(device)
    with torch.no_grad():
        held = clean(shown).float()

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        for norm in norms:
            norm.eval()
        rows = torch.randint(len(shown), (len(x),), generator=draw).to(device)
        with torch.autocast(x.device.type, enabled=False):
            images = torch.cat([x, backdoor.stamp_on(x), shown, change(shown[rows], draw)])
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        found = model(images.contiguous(memory_format=layout)).float()
        clean_now, stamped, now, changed = found.split([len(x), len(x), len(shown), len(x)])
        with torch.no_grad():
            was = clean(x).float()
        with torch.autocast(x.device.type, enabled=False):
            return loss(Seen(clean_now, stamped, now, changed, was, held[rows]))

    training = Training(nesterov=False, schedule="constant", augment=PLAIN, **options)
    loop(planted, train, objective, training, rng=spawn(rng), beside=clean)
    return planted.requires_grad_(True)


def cosines(one: Tensor, two: Tensor) -> Tensor:
    """Of every row of [N,D] with every row of [M,D]; [N,M]."""
    return F.normalize(one, dim=1) @ F.normalize(two, dim=1).T
