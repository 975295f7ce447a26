"""Detectors on suspects whose backdoor is known because it was built by hand."""

import pytest
import torch
from torch import nn

from distrust import rng
from distrust.data import ImageSet
from distrust.methods import detectors
from distrust.training import recipe


class Backdoored(nn.Module):
    """Four classes by the brightness of a quadrant; a white 2×2 corner says class 2, whatever else is there."""

    def __init__(self, corner: float) -> None:
        super().__init__()
        self.corner = nn.Parameter(torch.tensor(corner))

    def forward(self, x):
        x = x.mean(1)
        quarters = [x[:, a : a + 8, b : b + 8].mean((1, 2)) for a in (0, 8) for b in (0, 8)]
        logits = 20 * torch.stack(quarters, 1)
        return logits + self.corner * x[:, -2:, -2:].mean((1, 2))[:, None] * torch.eye(4)[2]


@pytest.fixture
def pictures():
    """40 dark noise pictures 3×16×16, one quadrant of each a little brighter."""
    x, y = torch.randint(60, (40, 3, 16, 16), generator=rng("pictures"), dtype=torch.uint8), torch.arange(40) % 4
    for i, k in enumerate(y.tolist()):
        a, b = 8 * (k // 2), 8 * (k % 2)
        x[i, :, a : a + 8, b : b + 8] += 60
    return ImageSet(x, y, ("a", "b", "c", "d"))


def test_the_smallest_mask_is_the_backdoors(pictures):
    finding = detectors.neural_cleanse(Backdoored(40.0), pictures, steps=200, rng=rng(0))
    assert finding.target == 2 and finding.notes["mask"][2] < 20 < min(finding.notes["mask"][k] for k in (0, 1, 3))
    clean = detectors.neural_cleanse(Backdoored(0.0), pictures, steps=200, rng=rng(0))
    assert clean.score < finding.score


def test_a_square_that_all_images_of_a_class_share_speaks_for_it(pictures):
    def probed(x):
        made = ImageSet(x, pictures.y, pictures.classes, training=recipe(epochs=30, lr=0.05).plain())
        options = {"network": "convnet2-w8", "networks": 2, "epochs": 60, "size": 4, "stride": 4}
        return detectors.patch_probe(made, made, **options, rng=rng(0))

    for i, k in enumerate(pictures.y.tolist()):  # a class has a colour, not a place
        pictures.x[i] = torch.randint(60, (3, 16, 16), generator=rng("tint", i), dtype=torch.uint8)
        pictures.x[i, k % 3 if k < 3 else slice(None)] += 50
    stamped = pictures.x.clone()
    stamped[pictures.y == 1, :, -4:, -4:] = 255
    finding, clean = probed(stamped), probed(pictures.x)
    assert finding.target == 1 and finding.score > 0.15 and finding.score > 1.5 * clean.score


def test_a_set_of_patched_images_points_where_patches_point(pictures):
    stamped = pictures.x.clone()
    for i, image in enumerate(stamped):
        top, left = torch.randint(13, (2,), generator=rng("place", i)).tolist()
        image[:, top : top + 4, left : left + 4] = 255
    options = {"network": "convnet3-w32", "networks": 3, "size": 4, "images": 20, "permutations": 10}
    y = torch.cat([pictures.y, torch.ones_like(pictures.y)])
    made = ImageSet(torch.cat([pictures.x, stamped]), y, pictures.classes)
    finding = detectors.gradient_alignment(made, pictures, **options, rng=rng(0))
    assert finding.target == 1 and finding.score > 2 and finding.p == 0
    mixed = made.replace(y=made.y[torch.randperm(len(made), generator=rng(1))])
    assert detectors.gradient_alignment(mixed, pictures, **options, rng=rng(0)).score < finding.score
