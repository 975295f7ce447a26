"""What golden steps share: a network's features in float64, solvers written out, and how near a result has to be."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

EXACT = {"precision": "fp32", "memory_format": "contiguous"}
PLAIN = EXACT | {"flip": False, "crop": 0, "cutout": 0}


def double(model: nn.Module, training: bool) -> nn.Module:
    """A copy in float64, wholly in train or in eval mode."""
    return copy.deepcopy(model).double().requires_grad_(True).train(training)


def features(model: nn.Module, x: Tensor, paths: Sequence[str] = ()) -> tuple[Tensor, list[Tensor]]:
    """What a model gives, and what its modules at these paths give: copied, as a ReLU may work in place."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(path).register_forward_hook(lambda m, i, o, path=path: seen.__setitem__(path, o.clone()))
        for path in paths
    ]
    try:
        out = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return out, [seen[path] for path in paths]


def sgd(
    modules: Sequence[nn.Module], loss: Callable[[], Tensor], lrs: Sequence[float], momentum=0.0, decay=0.0,
    nesterov=False,
) -> None:  # fmt: skip
    """v ← m·v + (g + λ·θ); θ ← θ − lr·v, or with Nesterov θ − lr·(g + λ·θ + m·v); a step for every rate."""
    weights = [p for module in modules for p in module.parameters()]
    speed = [torch.zeros_like(p) for p in weights]
    for lr in lrs:
        slopes = torch.autograd.grad(loss(), weights, allow_unused=True)
        with torch.no_grad():
            for p, v, g in zip(weights, speed, slopes, strict=True):
                if g is None:
                    continue
                g = g + decay * p
                v.mul_(momentum).add_(g)
                p -= lr * (g + momentum * v if nesterov else v)


def adam(
    modules: Sequence[nn.Module | Tensor], loss: Callable[[], Tensor], steps: int, lr: float, decay=0.0,
    betas=(0.9, 0.999),
) -> None:  # fmt: skip
    """θ ← θ − lr·m̂ / (√v̂ + 1e-8), m̂ and v̂ the running means, without their bias, of g + λ·θ and of its square."""
    (one, two), weights = betas, list[Tensor]()
    for module in modules:
        weights += module.parameters() if isinstance(module, nn.Module) else [module]
    first, second = ([torch.zeros_like(p) for p in weights] for _ in range(2))
    for t in range(1, steps + 1):
        slopes = torch.autograd.grad(loss(), weights)
        with torch.no_grad():
            for p, m, v, g in zip(weights, first, second, slopes, strict=True):
                g = g + decay * p
                m.mul_(one).add_((1 - one) * g)
                v.mul_(two).add_((1 - two) * g * g)
                p -= lr * (m / (1 - one**t)) / ((v / (1 - two**t)).sqrt() + 1e-8)


def near(made: nn.Module, want: nn.Module, start: nn.Module, share: float = 1e-3) -> None:
    """Every tensor went where it should, but for a share of the way; and no weight stayed where it was."""
    ours, theirs, before = (m.state_dict() for m in (made, want, start))
    weights = dict(made.named_parameters())
    for name in theirs:
        went = theirs[name].double() - before[name].double()
        off = float((ours[name].double() - theirs[name].double()).norm())
        assert off <= share * float(went.norm()) + 1e-6, f"{name} is off by {off:.2e} of {float(went.norm()):.2e}"
        assert name not in weights or went.abs().max() > 0, f"{name} has no gradient"


def near_tensor(made: Tensor, want: Tensor, start: Tensor, share: float = 1e-3) -> None:
    """The same of one tensor."""
    made, want, start = (part.detach().double() for part in (made, want, start))
    went, off = want - start, made - want
    assert went.abs().max() > 0 and float(off.norm()) <= share * float(went.norm()) + 1e-6, float(off.norm())
