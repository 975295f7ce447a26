"""Consistency: drop transfer images on which the teacher changes its mind under a small, harmless change."""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...data import ImageSet
from ...marks import Bits, Many, Part, Pixels, defense
from .._costs import LOOK
from ._sift import answers, keep

View = Literal["median", "shift", "jpeg", "depth"]


def _listed(views: str | list[View]) -> list[Any]:
    return [views] if isinstance(views, str) else views


@defense(
    paper="Xu, Evans, Qi, Feature Squeezing, NDSS 2018, arXiv 1704.01155",
    on="transfer", cost=lambda options, n: LOOK * (1 + len(_listed(options["views"]))) * n,
)  # fmt: skip
def consistency(
    teacher: nn.Module,
    transfer: ImageSet,
    clean: ImageSet,
    *,
    views: View | Many[View] = ["median", "shift", "jpeg", "depth"],  # noqa: B006
    lose: Part = 0.05,
    shift: Pixels = 2,
    quality: Annotated[int, Field(ge=1, le=95)] = 50,
    bits: Bits = 4,
    rng: Generator | None = None,
) -> ImageSet:
    """Keep images whose worst view moves the teacher's answer less than clean images' do: max_v ‖p(x) − p(v(x))‖₁.

    A natural image survives a small change; an adversarial one lies close to a border, and its answer falls back.

    Args:
        teacher: the clean teacher.
        transfer: the images to sift.
        clean: trusted images, which set the threshold.
        views: one or more of "median" (3×3 filter), "shift" (down and to the right, black pixels in), "jpeg", "depth"
            (fewer bits).
        lose: share 0..1 of the clean images that may be lost: the threshold is their quantile 1 − lose.
        shift: pixels of "shift".
        quality: of "jpeg", 1..95.
        bits: a channel, of "depth".
        rng: not used.

    Differs from the paper: it squeezes by bit depth, median and non-local means, and detects at test time; shift and
    JPEG are ours, and so is the use on a transfer set.
    """
    from kornia.filters import median_blur  # takes a second to import

    changes = {
        "median": lambda x: median_blur(x, 3),
        "shift": lambda x: F.pad(x, (shift, 0, shift, 0))[..., : x.shape[2], : x.shape[3]],
        "jpeg": lambda x: _jpeg(x, quality),
        "depth": lambda x: (x * (2**bits - 1)).round() / (2**bits - 1),
    }

    def scores(images: ImageSet) -> Tensor:
        plain = answers(teacher, images)
        moved = [(answers(teacher, images, changes[view]) - plain).abs().sum(1) for view in _listed(views)]
        return torch.stack(moved).amax(0)

    return keep(transfer, scores(transfer), scores(clean), lose)


def _jpeg(x: Tensor, quality: int) -> Tensor:
    """Images [B,1 or 3,H,W] in 0..1 through a JPEG file."""
    found = []
    for image in x.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "JPEG", quality=quality)
        found.append(np.atleast_3d(np.asarray(Image.open(file, formats=["JPEG"]))))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(x).div(255)
