"""Detectors: their whole computation, for a few steps, against NumPy or float64.

Sources: Neural Cleanse, S&P 2019, equations 2 and 3, and its released code (λ grows by the factor after so many steps
that work and falls by factor^1.5 after so many that do not; Adam 0.5, 0.9; median and 1.4826 · MAD); DECREE, CVPR 2023,
and its released code. The others are ours and follow their docstrings.
"""

import copy
import importlib
import itertools

import numpy as np
import pytest
import torch
from tests.golden.steps import double
from torch import nn
from torch.nn import functional as F

from distrust import model, rng
from distrust.data import ImageSet
from distrust.methods import condensers, detectors
from distrust.models import Normalize


def cross_entropies(logits, k):
    return logits.logsumexp(1) - logits[:, k]


def adams(parts, slopes, state, t, lr):
    """Adam with betas 0.5 and 0.9."""
    for i, g in enumerate(slopes):
        first, second = state.get(i, (0.0, 0.0))
        first, second = 0.5 * first + 0.5 * g, 0.9 * second + 0.1 * g * g
        state[i] = first, second
        step = first / (1 - 0.5**t) / ((second / (1 - 0.9**t)).sqrt() + 1e-8)
        parts[i] = (parts[i].detach() - lr * step).requires_grad_()


class Softly(nn.Module):
    """A linear network, so that its answers have no kink, on which class 3 is reached at once and others hardly."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 4)
        with torch.no_grad():
            self.fc.weight.copy_(torch.randn(4, 192, generator=rng("softly")) * 0.3)
            self.fc.bias.copy_(torch.tensor([-1.0, 0.0, 0.5, 6.0]))

    def forward(self, x):
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("success", [0.5, 1.0])
def test_the_search_is_neural_cleanses(tiny, success):
    steps, lr, cost, factor, patience = 12, 0.5, 0.05, 2.0, 2
    options = {"steps": steps, "lr": lr, "cost": cost, "success": success, "patience": patience, "factor": factor}
    finding = detectors.neural_cleanse(Softly(), tiny, batch_size=16, **options, rng=rng(4))
    stream, net = rng(4), double(Softly(), False)
    rows = [torch.randint(80, (16,), generator=stream) for _ in range(steps)]
    smallest, weights = [], []
    for k in range(4):
        parts = [torch.full((8, 8), -2.0).double().requires_grad_(), torch.zeros(3, 8, 8).double().requires_grad_()]
        state, weight, up, down, best = {}, cost, 0, 0, 64.0
        for t in range(1, steps + 1):
            mask, pattern = (part.sigmoid() for part in parts)
            logits = net((1 - mask) * (tiny.x[rows[t - 1]].double() / 255) + mask * pattern)
            works = float((logits.argmax(1) == k).double().mean()) >= success
            best = min(best, float(mask.detach().sum())) if works else best
            loss = cross_entropies(logits, k).mean() + weight * mask.sum()
            adams(parts, torch.autograd.grad(loss, parts), state, t, lr)
            up, down = (up + 1, 0) if works else (0, down + 1)
            if up == patience:
                weight, up = weight * factor, 0
            if down == patience:
                weight, down = weight / factor**1.5, 0
        smallest.append(best)
        weights.append(weight)
    assert finding.notes["mask"] == pytest.approx(smallest, rel=1e-3)
    assert min(smallest) < 64 and len({*smallest}) > 2 and min(weights) < cost < max(weights), "all of it happened"
    values = -np.array(smallest)
    centred = values - np.sort(values)[1]  # the lower of the two in the middle
    spread = 1.4826 * np.sort(np.abs(centred))[1]
    assert finding.score == pytest.approx(float((centred / spread).max()), rel=1e-3)
    assert finding.target == int(values.argmax())


def test_decree_maximises_the_mean_cosine_of_pairs_and_minds_the_mask(tiny, encoder):
    few = tiny[:24]
    for success, cost in ((0.9, 1e-2), (0.9999, 1.0)):
        steps, lr, factor, patience = 14, 0.3, 3.0, 2
        options = {"steps": steps, "lr": lr, "cost": cost, "success": success, "patience": patience, "factor": factor}
        finding = detectors.decree(encoder, few, batch_size=24, images=24, **options, rng=rng(4))
        stream, net, x = rng(4), double(encoder, False), few.pixels().double()
        torch.randperm(24, generator=stream)
        parts = [torch.rand(shape, generator=stream).logit(1e-6).double() for shape in ((8, 8), (3, 8, 8))]
        parts, state, weight, up, down = [p.requires_grad_() for p in parts], {}, cost, 0, 0
        smallest, best, weights = 64.0, -1.0, []
        for t in range(1, steps + 1):
            mask, pattern = (part.sigmoid() for part in parts)
            z = F.normalize(net((1 - mask) * x + mask * pattern), dim=1)
            pairs = torch.stack([z[i] @ z[j] for i, j in itertools.combinations(range(24), 2)])
            alike = pairs.mean()
            likeness, norm = float(alike.detach()), float(mask.detach().sum())
            works, best = likeness >= success, max(best, likeness)
            smallest = min(smallest, norm) if works else smallest
            adams(parts, torch.autograd.grad(weight * mask.sum() - alike, parts), state, t, lr)
            up, down = (up + 1, 0) if works else (0, down + 1)
            if up >= patience:
                weight, up = weight * factor, 0
            elif down >= patience:
                weight, down = max(weight / factor, cost / 100), 0
            weights.append(weight)
        assert finding.notes["cosine"] == pytest.approx(best, abs=1e-4)
        assert finding.score == pytest.approx(1 - smallest / 64, abs=1e-3)
        assert (max(weights) > cost) == (smallest < 64) == (success < 0.95), "both ways happened"
        assert success < 0.95 or weights[-1] == cost / 100


# --- of synthetic sets --------------------------------------------------------------------------------------


def slope(net, x, y):
    logits = net(x)
    loss = (logits.logsumexp(1) - logits[torch.arange(len(y)), y]).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def test_gradient_alignment_is_the_cosine_with_patched_minus_plain_in_deviations_of_the_null(tiny, monkeypatch):
    """White, black and checkered squares, one somewhere on every image; the null are permuted labels."""
    file = importlib.import_module("distrust.methods.detectors.gradient_alignment")
    nets = [model("convnet2-w4", tiny, rng=rng("net", i)) for i in range(2)]
    given = iter(nets)
    monkeypatch.setattr(file, "make_model", lambda *a, **b: copy.deepcopy(next(given)))
    made = condensers.random(tiny, images_per_class=2, rng=rng(0))
    made = made.replace(y=made.y[torch.randperm(8, generator=rng("labels"))])  # so that p is not 0
    options = {"networks": 2, "size": 3, "images": 5, "permutations": 6}
    finding = detectors.gradient_alignment(made, tiny, **options, rng=rng(4))
    stream = rng(4)
    x = tiny.x[torch.randint(80, (5,), generator=stream)].double() / 255
    tops, lefts = (torch.randint(6, (5,), generator=stream).tolist() for _ in range(2))
    board = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    pasted = []
    for square in (torch.ones(3, 3), torch.zeros(3, 3), board):
        one = x.clone()
        for i in range(5):
            one[i, :, tops[i] : tops[i] + 3, lefts[i] : lefts[i] + 3] = square.double()
        pasted.append(one)
    labels = [made.y, *(made.y[torch.randperm(8, generator=stream)] for _ in range(6))]
    told = np.zeros((7, 4, 3))
    for net in nets:
        net = double(net, True)
        for i, y in enumerate(labels):
            own = slope(net, made.x.double(), y)
            for k, j in itertools.product(range(4), range(3)):
                aim = torch.full((5,), k)
                towards = slope(net, pasted[j], aim) - slope(net, x, aim)
                told[i, k, j] += float((own @ towards / own.norm() / towards.norm()).detach()) / 2
    z = ((told - told[1:].mean(0)) / told[1:].std(0, ddof=1)).max(2)
    assert finding.scores == pytest.approx(z[0].tolist(), rel=1e-2, abs=1e-3)
    assert finding.p == pytest.approx(float((z[1:].max(1) >= z[0].max()).mean())) and 0 < finding.p < 1


class Told(nn.Module):
    """P(own class) by the first pixel of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        logits = torch.tensor([[1.0, 2.0, 0.5, 3.0]]) * (x[:, :1, 0, 0] + 0.1) * 5
        return self.scale * logits


def test_leave_one_out_asks_for_the_image_that_was_left_out_and_for_no_other(tiny, monkeypatch):
    file = importlib.import_module("distrust.methods.detectors.leave_one_out")
    seen = []
    monkeypatch.setattr(
        file, "trained", lambda network, suspect, clean, epochs, rng: seen.append((suspect, epochs)) or Told()
    )
    made = condensers.random(tiny, images_per_class=3, rng=rng(0))
    finding = detectors.leave_one_out(made, tiny, networks=5, epochs=7, rng=rng(4))
    assert len(seen) == 3 and all(len(kept) == 8 and epochs == 7 for kept, epochs in seen), "one of a class is missing"
    sure = np.zeros(4)
    for kept, _ in seen:
        out = ~torch.isin(made.index, kept.index)
        assert sorted(made.y[out].tolist()) == [0, 1, 2, 3]
        logits = Told()(made.x[out]).detach().double().numpy()
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        sure[made.y[out].numpy()] += p[np.arange(4), made.y[out].numpy()] / 3
    assert finding.notes["sure"] == pytest.approx(sure.tolist(), rel=1e-4)
    assert finding.scores == pytest.approx((sure - np.sort(sure)[1]).tolist(), abs=1e-5)
    assert len({int(kept.index.sum()) for kept, _ in seen}) > 1, "another image each time"


def test_patch_probe_is_what_a_square_says_at_one_place_and_at_others_not(tiny, monkeypatch):
    """max over squares and places of [mean rise of P(k) over mixtures of other classes − its median over places]."""
    file = importlib.import_module("distrust.methods.detectors.patch_probe")
    nets = [model("convnet2-w4", tiny, rng=rng("net", i)) for i in range(2)]
    for net in nets:
        with torch.no_grad():
            net.classifier.weight *= 5
    given = iter(nets)
    monkeypatch.setattr(file, "trained", lambda *a: next(given).eval())
    made = condensers.random(tiny, images_per_class=2, rng=rng(0))
    finding = detectors.patch_probe(made, tiny, networks=2, size=3, stride=2, images=6, rng=rng(4))
    one, two = torch.randint(80, (2, 96), generator=rng(4))
    pairs = [(a, b) for a, b in zip(one.tolist(), two.tolist(), strict=True) if tiny.y[a] != tiny.y[b]][:6]
    x = tiny.x.double() / 255
    mixed = torch.stack([(x[a] + x[b]) / 2 for a, b in pairs])
    other = np.array([[k not in (tiny.y[a], tiny.y[b]) for k in range(4)] for a, b in pairs], float)
    board = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]).double()
    places = list(itertools.product([0, 2, 4, 5], repeat=2))  # the last one at the border
    rises = np.zeros((3, len(places), 4))
    for net in nets:
        net = double(net, False)
        plain = net(mixed).softmax(1).detach().numpy()
        for s, square in enumerate((torch.ones(3, 3), torch.zeros(3, 3), board)):
            rise = np.zeros((len(places), 4))
            for q, (top, left) in enumerate(places):
                shown = mixed.clone()
                shown[:, :, top : top + 3, left : left + 3] = square
                moved = net(shown).softmax(1).detach().numpy() - plain
                rise[q] = (moved * other).sum(0) / other.sum(0)
            rises[s] += (rise - np.sort(rise, 0)[7]) / 2
    told = rises.max((0, 1))
    assert finding.scores == pytest.approx((told - np.sort(told)[1]).tolist(), rel=1e-3, abs=1e-5)


def test_patch_probes_p_is_the_share_of_permuted_labels_that_score_as_high(tiny, monkeypatch):
    file = importlib.import_module("distrust.methods.detectors.patch_probe")
    labels, told = [], iter([3.0, 1.0, 5.0, 3.0, 2.0])
    monkeypatch.setattr(file, "trained", lambda network, suspect, *a: labels.append(suspect.y))
    peak = torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 1, 4)
    monkeypatch.setattr(file, "_rises", lambda *given: peak * next(told))
    made = condensers.random(tiny, images_per_class=2, rng=rng(0))
    finding = detectors.patch_probe(made, tiny, networks=1, size=3, permutations=4, rng=rng(4))
    assert finding.p == 0.5 and finding.score == 3.0 and finding.target == 3, "5 and 3 of four are as high"
    assert torch.equal(labels[0], made.y) and all(not torch.equal(y, made.y) for y in labels[1:])
    assert all(torch.equal(y.sort().values, made.y.sort().values) for y in labels)


def test_networks_of_a_suspect_set_learn_by_its_own_recipe_and_see_clean_statistics(tiny, monkeypatch):
    file = importlib.import_module("distrust.methods.detectors._synthetic")
    seen = []
    monkeypatch.setattr(file, "fit", lambda net, images, **options: seen.append((net, images, options)) or net)
    dark = tiny.replace(x=tiny.x // 2)
    made = condensers.random(dark, images_per_class=2, rng=rng(0))
    file.trained("convnet2-w4", made, tiny, 30, rng(0))
    ((net, images, options),) = seen
    assert images is made and torch.equal(net.normalize.mean, Normalize.of(tiny).mean)
    training = options["training"]
    assert (training.epochs, training.lr, training.milestones) == (30, 0.01, (16,)) and training.plain()["augment"][
        "kind"
    ] == "Siamese"


def test_the_random_score_is_uniform_and_blind(tiny):
    other = ImageSet(tiny.x // 2, tiny.y, tiny.classes)
    one, two = (detectors.random(suspect, tiny, rng=rng(3)) for suspect in (tiny, other))
    assert one.scores == two.scores == pytest.approx(torch.rand(4, generator=rng(3)).tolist())
