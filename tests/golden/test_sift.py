"""The defences of a transfer set, on a teacher whose answers can be written down by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from distrust import rng
from distrust.data import ImageSet
from distrust.methods import defenses


class Reads(nn.Module):
    """Logits of the mean brightness of the left half against the right one; the features are the pixels."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        weight = torch.zeros(classes, 64)
        left = (torch.arange(64) % 8 < 4).float()
        weight[0], weight[1] = left - (1 - left), (1 - left) - left
        self.flat, self.fc = nn.Flatten(), nn.Linear(64, classes)
        self.fc.weight.data.copy_(weight)
        self.fc.bias.data.zero_()

    def forward(self, x):
        return self.fc(self.flat(x))


def images(x, y):
    return ImageSet(x, y, ("left", "right"))


def halves(n, seed):
    """Images whose brighter half says their class, plainly."""
    generator = rng(seed)
    y = torch.arange(n) % 2
    x = torch.randint(0, 40, (n, 1, 8, 8), generator=generator)
    x[..., :4] += (y == 0)[:, None, None, None] * 150
    x[..., 4:] += (y == 1)[:, None, None, None] * 150
    return x.to(torch.uint8), y


def test_label_agreement_keeps_what_clean_images_reach():
    x, y = halves(100, "transfer")
    wrong = torch.arange(100) < 10
    sifted = defenses.label_agreement(Reads(), images(x, torch.where(wrong, 1 - y, y)), images(*halves(80, "clean")))
    assert not torch.isin(sifted.index, torch.arange(10)).any() and len(sifted) >= 80


def test_label_agreements_threshold_is_a_quantile_of_the_clean_images():
    x = torch.randint(0, 256, (200, 1, 8, 8), generator=rng("faint"), dtype=torch.uint8)
    clean = images(x, torch.arange(200) % 2)
    for lose in (0.1, 0.3):
        assert len(defenses.label_agreement(Reads(), clean, clean, lose=lose)) == pytest.approx(200 * (1 - lose), abs=1)


def test_consistency_drops_answers_that_hang_on_single_pixels():
    """A few bright pixels outweigh a faint half; the median filter takes them away."""
    x, y = halves(60, "transfer")
    x[:10] = 20
    x[:10, :, :, :4] = 30  # left, by a little
    x[:10, :, ::3, 5] = 255  # and single pixels that say right
    assert (Reads()(x[:10].float() / 255).argmax(1) == 1).all()
    options = {"views": "median", "lose": 0.05}
    sifted = defenses.consistency(Reads(), images(x, y), images(*halves(60, "clean")), **options)
    assert not torch.isin(sifted.index, torch.arange(10)).any() and len(sifted) >= 40


@pytest.mark.parametrize("view", ["median", "shift", "jpeg", "depth"])
def test_every_view_is_a_consistency_check_of_its_own(view):
    clean = images(*halves(100, "clean"))
    assert len(defenses.consistency(Reads(), clean, clean, views=view, lose=0.2)) >= 80


def test_spectral_signatures_are_numpys():
    x = torch.randint(0, 256, (60, 1, 8, 8), generator=rng("noise"), dtype=torch.uint8)
    transfer = images(x, torch.zeros(60, dtype=torch.int64))
    sifted = defenses.spectral_signatures(Reads(), transfer, transfer, share=0.2)
    pixels = (x.double() / 255).flatten(1).numpy()
    said = Reads()(x.float() / 255).argmax(1).numpy()
    kept = []
    for k in (0, 1):
        rows = np.flatnonzero(said == k)
        centred = pixels[rows] - pixels[rows].mean(0)
        scores = (centred @ np.linalg.svd(centred)[2][0]) ** 2
        kept += rows[np.argsort(-scores)][int(0.2 * len(rows)) :].tolist()
    assert sifted.index.tolist() == sorted(kept)


def test_activation_clustering_drops_a_small_group_that_lies_apart():
    x, y = halves(100, "transfer")
    odd = torch.arange(0, 30, 2)  # fifteen of class left: bright in the upper left corner alone
    x[odd] = 0
    x[odd, :, :2, :2] = 255
    sifted = defenses.activation_clustering(Reads(), images(x, y), images(*halves(20, "clean")), rng=rng(0))
    assert not torch.isin(odd, sifted.index).any()


def test_strong_augmentation_changes_every_image_and_can_multiply_them(tiny, net):
    grown = defenses.strong_augment(net, tiny, tiny, copies=3, rng=rng(0))
    assert (
        len(grown) == 240 and torch.equal(grown.y, tiny.y.repeat(3)) and torch.equal(grown.index, tiny.index.repeat(3))
    )
    assert ((grown.x != tiny.x.repeat(3, 1, 1, 1)).flatten(1).any(1)).all()
    assert not torch.equal(grown.x[:80], grown.x[80:160])
