"""Condensation: formulas and single steps against NumPy in float64.

Sources: DC, arXiv 2006.05929, and its released code for which parameters count; DM, arXiv 2110.04181; DSA, arXiv
2102.08259, and its released code; IDM: its released code; MTT, arXiv 2203.11932; herding: iCaRL, arXiv 1611.07725,
algorithm 4.
"""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distrust import rng
from distrust.data.siamese import OPERATIONS
from distrust.errors import BadInput, Diverged
from distrust.methods import condensers
from distrust.methods.condensers._canvas import Canvas, embedder
from distrust.methods.condensers._gradients import distance, gradients, loops
from distrust.methods.condensers.herding import nearest_means
from distrust.methods.condensers.idm import _joined, _parts
from distrust.methods.condensers.mtt import _expert
from distrust.seeds import spawn

OPTIONS = {"init": "real", "legal": False, "flip": True}


def draw(*shape, seed="draw"):
    return torch.randn(shape, generator=rng(seed))


def numpy_distance(ours, theirs):
    total = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.ndim > 1:  # biases and norms count nothing
            for row, other in zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True):
                total += 1 - row @ other / (np.linalg.norm(row) * np.linalg.norm(other) + 1e-6)
    return total


def test_the_distance_of_gradients():
    shapes = [(4, 3, 3, 3), (4,), (5, 8), (5,)]
    ours, theirs = ([draw(*s, seed=f"{who}{s}") for s in shapes] for who in "ab")
    want = numpy_distance(*([g.double().numpy() for g in side] for side in (ours, theirs)))
    assert abs(float(distance(ours, theirs)) - want) < 1e-4
    assert abs(float(distance(ours, [3 * g for g in ours]))) < 1e-4, "scale does not count"


def test_gradients_are_differentiable_in_the_images_and_not_zero(tiny):
    net = Canvas(tiny, 1, **OPTIONS, rng=rng(0)).network("convnet2-w4", rng(1))
    x = tiny.pixels(slice(0, 4)).requires_grad_()
    goal = [draw(*p.shape) for p in net.parameters()]
    (slope,) = torch.autograd.grad(distance(gradients(net, x, tiny.y[:4], graph=True), goal), [x])
    assert slope.abs().max() > 0
    step = 1e-3 * slope / slope.norm()  # and they say what a small step does
    there, here = (float(distance(gradients(net, x + k * step, tiny.y[:4]), goal)) for k in (1, -1))
    assert abs((there - here) / (2e-3 * float(slope.norm())) - 1) < 0.1


def test_outer_and_inner_loops_are_the_released_ones():
    assert [loops(n, None, None) for n in (1, 10, 50, 48, 5)] == [(1, 1), (10, 50), (50, 10), (50, 10), (1, 1)]
    assert loops(10, 2, None) == (2, 50)


def test_dm_takes_the_papers_step(tiny):
    """One step from real images: lr · ∇ Σ_c ‖mean ψ(A(x)) − mean ψ(A(s))‖², ψ and A as the generator draws them."""
    made = condensers.dm(tiny, images_per_class=2, iterations=1, batch_real=4, network="convnet2-w4", rng=rng(7))
    stream = rng(7)
    canvas = Canvas(tiny, 2, **OPTIONS, rng=stream)
    real = canvas.real(4, stream)
    changes = [canvas.siamese.shared(stream) for _ in range(4)]
    z = canvas.z.detach().double().requires_grad_()
    with embedder(canvas.network("convnet2-w4", stream).double(), (3, 8, 8)) as psi:
        x = z * canvas.normalize.std.double() + canvas.normalize.mean.double()
        loss = sum(
            (psi(change(there.double())).mean(0) - psi(change(x[2 * k : 2 * k + 2])).mean(0)).square().sum()
            for k, (change, there) in enumerate(zip(changes, real, strict=True))
        )
    (slope,) = torch.autograd.grad(loss, [z])
    want = (z - slope) * canvas.normalize.std + canvas.normalize.mean
    assert slope.abs().max() > 1e-4
    torch.testing.assert_close(made.x, want.detach().float(), rtol=1e-4, atol=1e-5)


def test_idm_matches_the_parts_of_images_and_asks_networks_that_know_classes(tiny):
    """The first step, of networks that have learnt nothing yet, is DM's on the enlarged quarters."""
    options = {"batch_real": 4, "network": "convnet2-w4", "trained": 3, "real_steps": 2}
    made = condensers.idm(tiny, iterations=1, **options, rng=rng(7))
    stream = rng(7)
    canvas = Canvas(tiny, 1, **OPTIONS, rng=stream)
    start = canvas.normalize(_joined(torch.cat(canvas.real(4, stream)), 2))
    nets = [canvas.network("convnet2-w4", spawn(stream)) for _ in range(4)]
    net = nets[int(torch.randint(4, (), generator=stream))]
    real = canvas.real(4, stream)
    changes = [canvas.siamese.shared(stream) for _ in range(4)]
    z = start.double().requires_grad_()
    with embedder(net.double(), (3, 8, 8)) as psi:
        x = _parts(z * canvas.normalize.std.double() + canvas.normalize.mean.double(), 2)
        loss = sum(
            (psi(change(there.double())).mean(0) - psi(change(x[4 * k : 4 * k + 4])).mean(0)).square().sum()
            for k, (change, there) in enumerate(zip(changes, real, strict=True))
        )
    (slope,) = torch.autograd.grad(loss, [z])
    want = _parts((z - 0.2 * slope) * canvas.normalize.std + canvas.normalize.mean, 2).detach()
    torch.testing.assert_close(made.x, want.float(), rtol=1e-4, atol=1e-5)
    twice = [condensers.idm(tiny, iterations=2, ce=ce, **options, rng=rng(7)).x for ce in (0.0, 0.5)]
    assert (twice[0] - twice[1]).abs().max() > 1e-4, "once they have, the classes have a say"


def test_parts_and_wholes(tiny):
    x = draw(8, 3, 8, 8)
    whole = _joined(x, 2)
    assert whole.shape == (2, 3, 8, 8)
    torch.testing.assert_close(whole[0, :, :4, 4:], F.interpolate(x[1:2], (4, 4), mode="bilinear")[0])
    torch.testing.assert_close(_parts(whole, 2)[1], F.interpolate(whole[:1, :, :4, 4:], (8, 8), mode="bilinear")[0])
    with pytest.raises(BadInput, match=r"factor=3 does not divide 8×8"):
        condensers.idm(tiny, factor=3)


def test_the_mean_of_what_herding_takes_follows_that_of_the_class():
    features = draw(30, 5).double()
    taken = nearest_means(features, 4).tolist()
    array, goal = features.numpy(), features.numpy().mean(0)
    want: list[int] = []
    for _ in range(4):
        rest = [i for i in range(30) if i not in want]
        want.append(min(rest, key=lambda i: np.linalg.norm(array[[*want, i]].mean(0) - goal)))
    assert taken == want


def test_mtt_takes_the_papers_step(tiny):
    """One unrolled step: the learnt rate moves by −lr_lr · ∂/∂rate of ‖θ₀ − rate·g − θ*‖² / ‖θ₀ − θ*‖²."""
    options = {"experts": 1, "span": 1, "max_start": 1, "steps": 1, "network": "convnet2-w4", "lr_lr": 1e-6}
    made = condensers.mtt(tiny, iterations=1, rng=rng(5), **options)
    stream = rng(5)
    canvas = Canvas(tiny, 1, **OPTIONS, rng=stream)
    path = _expert(canvas, "convnet2-w4", 2, 0.01, spawn(stream))
    net = canvas.network("convnet2-w4", spawn(stream))
    torch.randint(1, (2,), generator=stream)  # which expert, which start
    rows = torch.randperm(4, generator=stream)
    net.load_state_dict({**net.state_dict(), **path[0]})
    x = canvas.siamese(canvas.x[rows], stream)
    slope = torch.cat([g.flatten() for g in gradients(net, x, canvas.y[rows])]).detach().double().numpy()
    start, goal = (np.concatenate([w.flatten().double().numpy() for w in path[k].values()]) for k in (0, 1))
    gap = start - 0.01 * slope - goal
    want = 0.01 - 1e-6 * (-2 * gap @ slope / ((start - goal) @ (start - goal)))
    assert abs(made.training["lr"] - want) < 1e-5 and abs(want - 0.01) > 1e-4
    assert not torch.equal(made.x, canvas.x.detach())


def test_mtt_says_so_when_the_learnt_rate_runs_away(tiny):
    options = {"experts": 1, "span": 1, "max_start": 1, "steps": 1, "network": "convnet2-w4", "lr_lr": 1e-3}
    with pytest.raises(Diverged, match=r"the learnt rate is -\S+ after 1 of 9 iterations. Lower lr_lr=0.001"):
        condensers.mtt(tiny, iterations=9, rng=rng(5), **options)


def test_the_shared_change_is_one_for_all_and_the_training_change_is_not(tiny):
    siamese = Canvas(tiny, 1, **OPTIONS, rng=rng(0)).siamese
    same = tiny.pixels(slice(0, 1)).expand(6, -1, -1, -1)
    seen = set()
    for seed in range(40):
        one, own = siamese.shared(rng(seed))(same), siamese(same, rng(seed))
        assert (one - one[:1]).abs().max() < 1e-6
        seen.add(bool((own - own[:1]).abs().max() > 1e-3))
        assert torch.equal(own, siamese(same, rng(seed)))
    assert seen == {True, False} or seen == {True}


def test_the_changes_are_the_released_codes(tiny):
    """Against the same operations in NumPy or another formulation, at given uniform numbers."""
    x, u = draw(3, 2, 8, 8).double(), torch.rand(3, 3, generator=rng("u")).double()
    array, (b, s, c) = x.numpy(), u.numpy().T
    array = array + (b - 0.5)[:, None, None, None]
    grey = array.mean(1, keepdims=True)
    array = (array - grey) * (2 * s)[:, None, None, None] + grey
    level = array.mean((1, 2, 3), keepdims=True)
    array = (array - level) * (c + 0.5)[:, None, None, None] + level
    np.testing.assert_allclose(OPERATIONS["color"](x, u), array, atol=1e-9)

    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    down, right = (u[:, :2].numpy() * 3).astype(int).T
    for i in range(3):
        want = padded[i, :, down[i] : down[i] + 8, right[i] : right[i] + 8]
        np.testing.assert_array_equal(OPERATIONS["crop"](x, u)[i], want)
        np.testing.assert_array_equal(OPERATIONS["crop"](x, u[i : i + 1])[i], want)

    for i, j in itertools.product(range(3), repeat=2):
        top, left = ((u[i, :2] * 9).long() - 2).tolist()  # side 4: centre 0..8
        want = x[j].clone()
        want[:, max(top, 0) : max(top + 4, 0), max(left, 0) : max(left + 4, 0)] = 0
        assert torch.equal(OPERATIONS["cutout"](x, u[i : i + 1])[j], want)

    flipped = OPERATIONS["flip"](x, u)
    for i in range(3):
        assert torch.equal(flipped[i], x[i].flip(2) if u[i, 0] < 0.5 else x[i])

    middle = torch.full((1, 2), 0.5).double()
    unscaled = 0.5 / (1.2 - 1 / 1.2) * 0 + (1 - 1 / 1.2) / (1.2 - 1 / 1.2)  # u at which the factor is 1
    torch.testing.assert_close(OPERATIONS["scale"](x, torch.full((1, 2), unscaled).double()), x)
    torch.testing.assert_close(OPERATIONS["rotate"](x, middle), x)
    turned = OPERATIONS["rotate"](x, torch.tensor([[1.0]]).double())
    theta = torch.tensor([[np.cos(np.pi / 12), -np.sin(np.pi / 12), 0], [np.sin(np.pi / 12), np.cos(np.pi / 12), 0]])
    grid = F.affine_grid(theta.expand(3, 2, 3), [3, 2, 8, 8], align_corners=False)
    torch.testing.assert_close(turned, F.grid_sample(x, grid.double(), align_corners=False))
