"""DECREE: the smallest patch under which an encoder sees all images alike. One that is far too small, tells."""

from __future__ import annotations

import torch
from torch import Generator, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...errors import BadInput
from ...marks import Count, Factor, Positive, Rate, Several, detector
from ...measurement import Finding
from ...models import check_encoder, frozen_mode, in_parts, room
from ...seeds import rng as make_rng


@detector(
    paper="Feng et al., Detecting Backdoors in Pre-trained Encoders, CVPR 2023, arXiv 2303.15180",
    on="encoder", cost=lambda options, n: options["steps"] * min(options["batch_size"], options["images"], n),
)  # fmt: skip
def decree(
    suspect: nn.Module,
    clean: ImageSet,
    *,
    steps: Count = 1000,
    lr: Positive = 0.1,
    cost: Positive = 1e-3,
    success: Rate = 0.99,
    patience: Count = 5,
    factor: Factor = 5.0,
    batch_size: Several = 128,
    images: Several = 1000,
    rng: Generator | None = None,
) -> Finding:
    """Maximise the mean cos(f(x̃ᵢ), f(x̃ⱼ)) − λ‖m‖₁, x̃ = (1 − m)⊙x + m⊙p; score: 1 − ‖m‖₁ over the pixels.

    λ grows by `factor` while the stamped images of a batch are alike (mean cosine of `success` or more), and
    falls by it while they are not. The smallest mask that works is kept. An encoder has no classes: there is one score.

    Args:
        suspect: an encoder.
        clean: images to put the pattern on; labels are not looked at.
        steps: of Adam on mask and pattern, both kept in 0..1 by a sigmoid.
        lr: of Adam.
        cost: λ at the start, per pixel of the mask.
        success: mean cosine 0..1 of the stamped images' features at which the mask works.
        patience: steps in a row before λ changes.
        factor: by which it changes; it never falls below a hundredth of `cost`.
        batch_size: different images a step.
        images: of `clean` that are used, at most.
        rng: draws images, and the mask and pattern to start from.

    Raises:
        BadInput: a classifier, or a single image.

    Differs from the released code: one learning rate in place of 0.5, 0.1 and 0.05 one after another; λ counts a pixel
    once, not once a channel, and does not start again at its floor; all steps are made; a mask that never worked counts
    as the whole image. In our own study it found one of three attacked encoders, and one of three clean ones.
    """
    check_encoder(suspect, clean)
    if len(clean) < 2:
        raise BadInput(f"decree: {clean.name} has a single image; what all images have in common takes two or more.")
    rng = rng or make_rng("decree")
    device = next(suspect.parameters()).device
    shown = clean[torch.randperm(len(clean), generator=rng)[:images].to(clean.x.device)]
    mask, pattern = (
        torch.rand(shape, generator=rng).logit(1e-6).to(device).requires_grad_()
        for shape in (clean.x.shape[2:], clean.x.shape[1:])
    )
    solver = torch.optim.Adam([mask, pattern], lr, betas=(0.5, 0.9))
    weight, up, down = cost, 0, 0
    smallest, best = float(mask.numel()), -1.0
    with frozen_mode(suspect), torch.enable_grad():
        most = room(suspect, clean.x.shape[1:])
        for _ in range(steps):
            rows = torch.randperm(len(shown), generator=rng)[:batch_size].to(shown.x.device)
            x, m = shown.pixels(rows).to(device), mask.sigmoid()
            z = F.normalize(in_parts(suspect, (1 - m) * x + m * pattern.sigmoid(), most).float(), dim=1)  # [B,D]
            alike = (z.sum(0).square().sum() - z.square().sum()) / (len(z) * (len(z) - 1))  # over all pairs i ≠ j
            cosine, norm = torch.stack([alike, m.sum()]).tolist()
            works, best = cosine >= success, max(best, cosine)
            smallest = min(smallest, norm) if works else smallest
            mask.grad, pattern.grad = torch.autograd.grad(weight * m.sum() - alike, [mask, pattern])
            solver.step()
            up, down = (up + 1, 0) if works else (0, down + 1)
            if up >= patience:
                weight, up = weight * factor, 0
            elif down >= patience:
                weight, down = max(weight / factor, cost / 100), 0
    share = smallest / mask.numel()
    notes = {"pl1_norm": share, "cosine": best, "classes": "an encoder has none; class 0 stands for the encoder"}
    return Finding("decree", 1 - share, (1 - share,), 0, notes=notes)
