"""The defences of a transfer set, on a teacher whose answers can be written down by hand."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import median_filter
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


def answers(x):
    """Probabilities of images [N,H,W] in 0..1: bright on the left against bright on the right."""
    side = np.where(np.arange(8) < 4, 1.0, -1.0)
    logits = (x * side).sum((1, 2))[:, None] * np.array([1.0, -1.0])
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255


VIEWS = {
    "median": lambda x: median_filter(x, (1, 3, 3), mode="mirror"),
    "shift": lambda x: np.pad(x, ((0, 0), (3, 0), (3, 0)))[:, :8, :8],
    "jpeg": lambda x: np.stack([jpeg(image, 20) for image in x]),
    "depth": lambda x: np.round(x * 3) / 3,
}


@pytest.mark.parametrize("views", [*([view] for view in VIEWS), [*VIEWS]], ids="+".join)
def test_consistency_is_numpys(views):
    """max_v ‖p(x) − p(v(x))‖₁ of each image; kept is what lies no higher than all but a share of the clean ones."""
    noise = torch.randint(0, 256, (160, 1, 8, 8), generator=rng("consistency"), dtype=torch.uint8)
    noise = torch.cat([noise[:80] // 2 + 60, noise[80:]])  # clean images answer less surely
    transfer, clean = (images(part, torch.arange(80) % 2) for part in (noise[80:], noise[:80]))
    options = {"lose": 0.3, "shift": 3, "quality": 20, "bits": 2}
    sifted = defenses.consistency(Reads(), transfer, clean, views=views, **options)

    def scores(part):
        x = part.x[:, 0].double().numpy() / 255
        return np.max([np.abs(answers(VIEWS[view](x)) - answers(x)).sum(1) for view in views], axis=0)

    threshold = np.quantile(scores(clean), 0.7, method="higher")
    kept = np.flatnonzero(scores(transfer) <= threshold)
    assert sifted.index.tolist() == kept.tolist() and 10 < len(kept) < 75


def test_label_agreement_is_numpys():
    """p(label), which must reach what all but a share of the clean images reach."""
    x = torch.randint(100, 156, (100, 1, 8, 8), generator=rng("agreement"), dtype=torch.uint8)
    y = torch.randint(0, 2, (100,), generator=rng("labels"))
    transfer, clean = images(x[:60], y[:60]), images(x[60:], y[60:])
    sifted = defenses.label_agreement(Reads(), transfer, clean, lose=0.3)
    told = answers(x[:, 0].double().numpy() / 255)[np.arange(100), y.numpy()]
    threshold = -np.quantile(-told[60:], 0.7, method="higher")
    assert sifted.index.tolist() == np.flatnonzero(told[:60] >= threshold).tolist() and len(sifted) < 60


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


def test_activation_clustering_leaves_a_class_alone_whose_halves_are_alike():
    """Two groups of a third and two thirds: the smaller one is no outlier at a share of 0.3, and one at 0.35."""
    x = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
    x[..., 0:4] = 100
    x[:20, :, 4:, :4] = 250
    x += torch.randint(0, 5, x.shape, generator=rng("halves"), dtype=torch.uint8)
    transfer = images(x, torch.zeros(60, dtype=torch.int64))
    kept = [defenses.activation_clustering(Reads(), transfer, transfer, share=s, rng=rng(0)) for s in (0.3, 0.35)]
    assert kept[0].index.tolist() == [*range(60)] and kept[1].index.tolist() == [*range(20, 60)]


def test_each_change_of_strong_augmentation_is_switched_by_its_own_option(tiny, net):
    off = {"degrees": 0.0, "translate": 0.0, "color": 0.0, "blur": 0.0, "erase": 0.0}
    bright = tiny.replace(x=tiny.x // 2 + 100)  # so that black is what was erased, or came in
    assert torch.equal(defenses.strong_augment(net, bright, bright, **off, rng=rng(0)).x, bright.x)
    seen = {}
    for name, value in {"degrees": 40.0, "translate": 0.5, "color": 0.8, "blur": 1.0, "erase": 1.0}.items():
        made = defenses.strong_augment(net, bright, bright, **off | {name: value}, rng=rng(0)).x
        changed, black = (made != bright.x), (made == 0).all(1)
        seen[name] = (changed.any(1).float().mean((1, 2)).mean(), black.float().mean((1, 2)))
    assert seen["color"][0] > 0.9 and seen["color"][1].max() == 0, "everywhere, and nothing is black"
    assert seen["blur"][0] > 0.9 and seen["blur"][1].max() == 0
    assert 0.02 <= seen["erase"][0] <= 0.25 and seen["erase"][0] == pytest.approx(float(seen["erase"][1].mean()))
    assert seen["translate"][1].max() > 0.3 and seen["degrees"][1].max() < 0.3, "black comes in at the borders"


@pytest.mark.parametrize("bits", [8, 3])
def test_range_clip_rounds_to_the_nearest_level(bits):
    x = torch.rand(8, 3, 4, 4, generator=rng("levels")) * 1.6 - 0.3
    made = ImageSet(x, torch.arange(8) % 2, ("left", "right"), off_range=True)
    most = 2**bits - 1
    want = np.rint(np.clip(x.double().numpy(), 0, 1) * most) / most
    np.testing.assert_allclose(defenses.range_clip(made, bits=bits).x.numpy(), want, atol=1e-6)


def test_strong_augmentation_changes_every_image_and_can_multiply_them(tiny, net):
    grown = defenses.strong_augment(net, tiny, tiny, copies=3, rng=rng(0))
    assert (
        len(grown) == 240 and torch.equal(grown.y, tiny.y.repeat(3)) and torch.equal(grown.index, tiny.index.repeat(3))
    )
    assert ((grown.x != tiny.x.repeat(3, 1, 1, 1)).flatten(1).any(1)).all()
    assert not torch.equal(grown.x[:80], grown.x[80:160])
