"""Canaries: what every method and every part of the core computes on tiny data, recorded in canaries.json.

`python -m tests.canaries [NAME …]` records: what is new, and what has a higher version. Other values under an
unchanged version are refused: either the code goes back to what it computed, or the version is raised (`version=` in
a method's mark, `distrust.versions.CORE`). A refactoring needs neither.

A canary walks everything that a call returned. A tensor is summarised by its norm and three projections on fixed random
vectors in float64, so that a change of any element moves them; of models and images it is the change against what was
given, so that a small step does not drown in large weights. Loops take one to three small steps, so that the rounding
of another processor is not amplified.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distrust.data import PLAIN, Augment, ImageSet, Late, Siamese, Views, as_8_bit, roles, split
from distrust.data.synthetic import protocol, recipe
from distrust.flags import Flag
from distrust.measurement import Backdoor, Finding, make_trigger, measure, over_seeds, predict
from distrust.models import Normalize, group_ends, model, norm_at, resolve, taps
from distrust.models.heads import make as make_head
from distrust.registry import KINDS, Method, distiller, registry
from distrust.seeds import rng, seeded, spawn
from distrust.training import NeighbourMonitor, distill, features, fit, fit_head, pretrain, typical
from distrust.versions import CORE

FILE = Path(__file__).with_name("canaries.json")
TOLERANCE = 1e-3  # of a tensor's norm; see `differences`
Values = dict[str, Any]  # path → a plain value, or [what it is, norm, three projections]

# --- what the canaries are given ----------------------------------------------------------------------------

CLASSES = ("ant", "bee", "cat", "dog")
SHAPE = (3, 8, 8)
EXACT = {"precision": "fp32", "memory_format": "contiguous"}  # nothing is left to a probe of the machine


def pictures(name: str = "canary", n: int = 48, classes: tuple[str, ...] = CLASSES, shape: tuple = SHAPE) -> ImageSet:
    """Noise on one colour a class."""
    draw = rng(name)
    x = torch.randint(60, (n, *shape), generator=draw) + torch.randint(195, (len(classes), shape[0], 1, 1), generator=draw)[torch.arange(n) % len(classes)]  # fmt: skip
    return ImageSet(x.to(torch.uint8), torch.arange(n) % len(classes), classes, name=name)


def condensed() -> ImageSet:
    """A synthetic set that knows how networks are trained on it; grouped by class."""
    made = pictures("synthetic", 12)
    order = made.y.argsort(stable=True)
    return ImageSet(made.pixels()[order], made.y[order], CLASSES, "synthetic", training=protocol(epochs=2))


SMOOTH = f"{Path(__file__).with_name('smooth.py')}:make"


def network(name: str = SMOOTH, seed: str = "net", head: bool = True, like: ImageSet | None = None) -> nn.Module:
    """A network that tells images apart: weights of its own stream, whatever `model` draws; BatchNorm has seen images."""
    like = like or pictures()
    built, draw = model(name, like, head=head, rng=rng(seed)), rng(seed, "weights")
    built.normalize.load_state_dict(Normalize.of(like).state_dict())  # type: ignore[operator, union-attr]
    norms = [m for m in built.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for p in built.parameters():
            fan = p[0].numel() if p.ndim > 1 else 1
            value = torch.randn(p.shape, generator=draw)
            p.copy_(value * math.sqrt(2 / fan) if p.ndim > 1 else value * 0.1)
        for m in built.modules():
            if isinstance(m, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d) and m.weight is not None:
                m.weight.add_(1)
        for m in norms:
            m.momentum = 1.0
        answers = built.train()(like.pixels())
        for m in norms:
            m.momentum = 0.1
            m.num_batches_tracked.zero_()
        if head:
            (place,) = resolve(built, "embedding", like.x.shape[1:])
            built.get_submodule(place.removesuffix(":input")).bias.sub_(answers.mean(0))
    return built.eval()


def signs() -> ImageSet:
    """A downstream set."""
    return pictures("signs", 9, ("stop", "go", "yield"))


def encoder(seed: str = "encoder") -> nn.Module:
    """The same without a head."""
    return network(seed=seed, head=False)


def patch() -> Backdoor:
    """A white corner that leads to class 1."""
    return Backdoor(make_trigger("patch:white:3"), 1)


SUSPECTS: dict[str, Callable[[], Any]] = {"synthetic": condensed, "encoder": encoder}
INPUTS: dict[str, Callable[[Any], Any]] = {  # parameter → what it is given, by the method's mark
    "model": lambda mark: network(),
    "teacher": lambda mark: network(),
    "encoder": lambda mark: encoder(),
    "suspect": lambda mark: SUSPECTS.get(mark.on, network)(),
    "train": lambda mark: pictures(),
    "transfer": lambda mark: pictures(),
    "clean": lambda mark: pictures("clean", 40),
    "raw": lambda mark: pictures(),
    "synthetic": lambda mark: condensed(),
    "references": lambda mark: signs()[signs().y == 0][: mark.references],
    "features": lambda mark: features(encoder(), pictures()),
    "y": lambda mark: pictures().y,
    "classes": lambda mark: len(CLASSES),
}

# Options that make a method quick, and let it decide something: by name, or by how the name ends.
SMALL: dict[str, Any] = {
    "epochs": 1, "mine_epochs": 4, "steps": 2, "iterations": 2, "outer": 2, "inner": 1, "experts": 1, "span": 1,
    "max_start": 1, "networks": 1, "permutations": 2, "images": 8, "batch_size": 16, "batch": 8, "batch_real": 4,
    "size": 3, "inset": 2, "k": 3, "patience": 1, "success": 0.0, "u": 1.0,
    "network": "convnet2-w4", "surrogate": "convnet2-w4", "trigger": "patch:white:3", **EXACT,
}  # fmt: skip
KINKED = {"prune"}  # it counts on a ReLU at 0, which passes no gradient on


def small(method: Method) -> dict[str, Any]:
    """The method's options at their smallest, the rest at their defaults."""
    chosen = {}
    for name, option in method.options.items():
        value = SMALL.get(name, SMALL.get(name.rpartition("_")[2]))
        default = option.default
        if isinstance(value, str):
            if name != "trigger" or str(default).startswith("patch"):
                chosen[name] = value
        elif value is not None and (default is None or (isinstance(default, int | float) and default > value)):
            chosen[name] = value
    return chosen


# --- what a canary remembers --------------------------------------------------------------------------------

PERIOD = 4099


@functools.cache
def _directions(name: str, n: int) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal((3, n))


def projections(values: Tensor) -> list[float]:
    """The norm, and three projections on fixed random vectors (of long tensors: products of two)."""
    x = values.detach().cpu().double().flatten().numpy()
    rows = -(-len(x) // PERIOD)
    x = np.pad(x, (0, rows * PERIOD - len(x))).reshape(rows, PERIOD)
    within, across = _directions("within", PERIOD), _directions("across", max(rows, 16))[:, :rows]
    return [float(np.linalg.norm(x)), *map(float, ((x @ within.T) * across.T).sum(0))]


def _numbers(what: str, values: Tensor) -> list[Any]:
    return [what, *(float(f"{v:.9g}") for v in projections(values))]


def _tensor(value: Tensor, before: Tensor | None = None) -> list[Any]:
    what = f"{str(value.dtype).removeprefix('torch.')} {'×'.join(map(str, value.shape))}".strip()
    changed = before is not None and before.shape == value.shape
    return _numbers(what, value.double() - before.double() if changed else value)  # type: ignore[union-attr]


def _module(value: nn.Module, given: Iterable[Any]) -> Values:
    """Parameters and buffers, by the model's parts; the change, where one like it was given."""
    state = value.state_dict()
    shapes = {k: v.shape for k, v in state.items()}
    starts = (g.state_dict() for g in given if isinstance(g, nn.Module))
    start = next((s for s in starts if {k: v.shape for k, v in s.items()} == shapes), None)
    names = " ".join(f"{k}:{v.dtype}:{tuple(v.shape)}" for k, v in state.items())
    parts: dict[str, list[Tensor]] = {}
    trained = dict(value.named_parameters())
    for name, tensor in state.items():
        kind = "weights" if name in trained else "buffers" if tensor.is_floating_point() else "counts"
        change = tensor.double() if start is None else tensor.double() - start[name].double()
        parts.setdefault(f"{name.partition('.')[0]} {kind}", []).append(change.flatten())
    whole = {part: _numbers(f"{sum(map(len, v))} numbers", torch.cat(v)) for part, v in parts.items()}
    return {"layout": f"{len(state)} tensors, {zlib.crc32(names.encode()):08x}", **whole}


FIELDS = {  # of `loop`; a recipe says only what differs
    "epochs": 10, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True,
    "weight_decay": 5e-4, "schedule": "onecycle", "milestones": (), "gamma": 0.1, "augment": Augment(),
}  # fmt: skip


def _training(value: Any) -> dict[str, Any]:
    """A recipe, as a mapping of options or as an object that has them."""
    told = value if isinstance(value, Mapping) else {name: getattr(value, name) for name in FIELDS}
    return {name: told.get(name, default) for name, default in FIELDS.items()}


def summary(value: Any, given: Iterable[Any] = (), path: str = "") -> Values:
    """Everything in `value`, flat; `given` is what the call got.

    Raises:
        TypeError: something that a canary cannot look into.
    """
    given = list(given)
    if isinstance(value, Tensor):
        return {path: _tensor(value)}
    if isinstance(value, Backdoor):
        facts = {k: getattr(value, k) for k in ("target", "rule", "stamp", "name", "as_published")}
        shown = pictures("probe", 4).pixels()
        return {**summary(facts, path=path), f"{path}.trigger": _tensor(value.trigger(shown), shown)}
    if isinstance(value, nn.Module):
        return {f"{path}.{k}".lstrip("."): v for k, v in _module(value, given).items()}
    if isinstance(value, ImageSet):
        before = next((g for g in given if isinstance(g, ImageSet)), None)
        facts = {k: getattr(value, k) for k in ("classes", "name", "taint", "off_range", "index", "group", "late", "y")}
        facts["training"] = None if value.training is None else _training(value.training)
        return {f"{path}.x".lstrip("."): _tensor(value.x, before and before.x), **summary(facts, path=path)}
    if isinstance(value, Late):
        return summary({"rows": value.rows, "trigger": Backdoor(value.trigger, 0)}, path=path)
    if isinstance(value, Finding):
        return summary(value.record(), path=path)
    if isinstance(value, np.ndarray):
        return {path: _tensor(torch.from_numpy(value))}
    if isinstance(value, str | bool | int | None):
        return {path: value}
    if isinstance(value, float):
        return {path: float(f"{value:.9g}")}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    elif dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        if value and all(isinstance(v, float) for v in value):
            return {path: _tensor(torch.tensor(value, dtype=torch.float64))}
        if all(isinstance(v, str | int | None) for v in value):
            return {path: [*value]}
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        found = {}
        for key, inner in value.items():
            found |= summary(inner, given, f"{path}.{key}".lstrip("."))
        return found
    raise TypeError(f"{path or 'the result'} is a {type(value).__name__}, which tests/canaries.py cannot summarise.")


def differences(got: Values, want: Values, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Path → by how much it differs, as a share of the norm where there is one; without what agrees."""
    found = {path: math.inf for path in want.keys() - got.keys()}
    found |= {path: math.inf for path in got.keys() - want.keys() if not path.startswith("options.")}
    for path in want.keys() & got.keys():
        share = _difference(got[path], want[path])
        if not share <= tolerance:
            found[path] = share
    return found


def _difference(got: Any, want: Any) -> float:
    if isinstance(want, list) and len(want) == 5 and isinstance(want[0], str) and isinstance(want[1], float):
        if not (isinstance(got, list) and len(got) == 5 and got[0] == want[0]):
            return math.inf
        scale = max(want[1], 1e-6)
        return max(abs(g - w) for g, w in zip(got[1:], want[1:], strict=True)) / scale
    if isinstance(want, float) and isinstance(got, float):
        return abs(got - want) / max(abs(want), 1e-6)
    return 0.0 if got == want else math.inf


# --- the canaries of methods --------------------------------------------------------------------------------


def bound(method: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    """Flat options, checked, as the call wants them."""
    checked = method.check(dict(options))
    return getattr(method, "bound", dict)(checked)


def of_method(method: Method) -> Any:
    """What a method computes, and what it was given."""
    mark, options = method.mark, bound(method, small(method))
    made = method.call(**options) if inspect.isclass(method.call) else functools.partial(method.call, **options)
    if mark.kind == "triggers":
        shown = {"colour": pictures("probe", 4).pixels(), "grey": pictures("probe", 4, shape=(1, 12, 10)).pixels()}
        shown = {name: x for name, x in shown.items() if x.shape[1] == 3 or method.name != "none"}
        return {name: made(x) - x for name, x in shown.items()}, ()
    if mark.kind == "objectives":
        with seeded(rng("objective")):
            made.bind(6)
        one, two = torch.randn(2, 8, 6, generator=rng("features"), dtype=torch.float32).requires_grad_().unbind(0)
        value = made(one, two)
        return {"loss": value, "gradients": torch.autograd.grad(value, [one, two])}, ()
    if mark.kind == "distillers":
        given = network(seed="student"), network(seed="teacher"), pictures(n=32)
        options = {"epochs": 2, "batch_size": 16, "lr": 0.01, "schedule": "constant", **EXACT}
        return distill(*given, loss=made, rng=rng("distill"), **options), given
    given = tuple(INPUTS[name](mark) for name in method.inputs)
    if method.name in KINKED:
        given = (network("wrn10-1", head=False), *given[1:])
    random = {"rng": rng("method")} if "rng" in inspect.signature(method.call).parameters else {}
    return made(*given, **random), given


def canary(method: Method) -> Values:
    """Everything that a method computes on tiny data, its default options and the flags that it raised."""
    values = _recorded(functools.partial(of_method, method))
    return {**values, **summary(_plain(method.check({})), path="options")}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value if isinstance(value, str | int | float | None) else str(value)


def _recorded(call: Callable[[], Any]) -> Values:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made, given = call()
    flags = sorted({w.message.name for w in caught if isinstance(w.message, Flag)})
    return {**summary(made, given), "flags": flags}


# --- the canaries of the core -------------------------------------------------------------------------------


def core_seeds() -> Any:
    parent = rng(3, "student")
    child = spawn(parent)
    with seeded(child):
        inside = torch.rand(5)
    return {"seed": str(parent.initial_seed()), "child": str(child.initial_seed()), "inside": inside}


def core_images() -> Any:
    images = pictures(n=20)
    late = images.replace(late=Late(torch.arange(20) % 3 == 0, make_trigger("patch:white:3")))
    kinds = {
        "in order": (images, None, PLAIN), "shuffled": (images, rng(0), PLAIN), "late": (late, rng(0), PLAIN),
        "augmented": (images, rng(0), Augment(crop=2)), "late, augmented": (late, rng(0), Augment(crop=2, cutout=3)),
        "one batch": (images[:5], rng(0), PLAIN),
    }  # fmt: skip
    batches = {name: dict(enumerate(i.batches(8, *rest))) for name, (i, *rest) in kinds.items()}
    more = {"8 bits": as_8_bit(torch.linspace(-0.2, 1.2, 50)), "part": images.fraction(0.3, rng(1)), "row": late[3:9]}
    return {"batches": batches, **more}


def core_roles() -> Any:
    images = pictures(n=60)
    tracks = images.replace(group=torch.arange(60) // 7)
    cut = {name: split(i, {"a": 0.2, "b": 0.5}, rng(2)) for name, i in {"single": images, "tracks": tracks}.items()}
    parts = {name: {k: part.index.tolist() for k, part in parts.items()} for name, parts in cut.items()}
    roles_of = {"default": roles(images), "drawn": roles(tracks, clean=0.3, validation=0.2, rng=rng(3))}
    return parts | {name: [r.index.tolist() for r in found] for name, found in roles_of.items()}


def core_augment() -> Any:
    x = pictures(n=12).x
    kinds = [Augment(), PLAIN, Augment(flip=False, crop=2), Augment(crop=0), Augment(flip=False, crop=0, cutout=4)]
    return {str(kind): kind(x, rng("augment")) for kind in [*kinds, Augment(crop=1, cutout=3)]}


def core_siamese() -> Any:
    x, more = pictures(n=6).pixels(), {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    found: dict[str, Any] = {}
    for operation in Siamese(**more).operations:
        one = Siamese(**more, operations=(operation,))
        found[operation] = {"each": one(x, rng("siamese")), "shared": one.shared(rng("siamese"))(x)}
    whole, draw = Siamese(**more), rng("siamese", "all")
    return {**found, "drawn": [whole(x, draw) for _ in range(3)]}


def core_views() -> Any:
    colour, grey = pictures(n=16).x, pictures(n=16, shape=(1, 8, 8)).pixels()
    kinds = [Views(), Views(scale=(0.5, 0.9), flip=False, grey=0.0), Views(jitter=1.0, hue=0.4)]
    return [{"colour": view(colour, rng("views")), "grey": view(grey, rng("views"))} for view in kinds]


def core_recipe() -> Any:
    made = condensed()
    bare = dataclasses.replace(made, training=None)
    more = protocol(lr=0.05, augment=Siamese((0.5,), (0.2,)))
    found = {"own": recipe(made), "bare": recipe(bare), "changed": recipe(bare, epochs=7, lr=0.3), "protocol": more}
    return {name: _training(value) for name, value in found.items()}


FAMILIES = {  # the smallest of each
    "wrn10-1": 8, "wrn10-1-s2": 16, "wrn16-2": 8, "resnet8": 8, "resnet18": 8, "resnet50": 8, "resnet18-224": 32,
    "pyramidnet20-a12": 8, "pyramidnet164-a6": 8, "mobilenet": 16, "vgg-small": 16, "convnet3-w8": 8, "convnet2-w4": 12, "mlp": 8,
    "lenet": 32, "alexnet-small": 32, "vgg11": 32,
}  # fmt: skip


def core_model() -> Any:
    found: dict[str, Any] = {}
    for name, side in FAMILIES.items():
        like = pictures("model", 4, shape=(3, side, side))
        built = model(name, like, rng=rng("model", name)).eval()
        with torch.no_grad():
            found[name] = {"weights": built, "answers": built(like.pixels())}
    bare = model("wrn10-1", classes=5, channels=1, size=12, head=False).eval()
    return {**found, "encoder": bare, "head": model("resnet8", classes=3).eval()}


def core_layers() -> Any:
    found: dict[str, Any] = {}
    for name in ("wrn10-1", "resnet8", "pyramidnet20-a12", "vgg-small", "convnet2-w4"):
        shape = (3, 16, 16)
        built = network(name, like=pictures(shape=shape))
        places = {word: resolve(built, word, shape) for word in ("auto", "groups", "pre-relu", "stem+groups", "embedding")}
        norms = {norm: path for path, norm in built.named_modules()}
        at = [norm_at(built, place, shape) for place in places["pre-relu"]]
        read_at = sorted({place for some in places.values() for place in some})
        with torch.no_grad(), taps(built, read_at) as read:
            seen = read(pictures(n=2, shape=shape).pixels())
        ends = {path: list(size) for path, size in group_ends(built, shape).items()}
        found[name] = {**places, "ends": ends, "norms": [norms.get(norm, "") for norm in at], "seen": seen}
    return found


def core_heads() -> Any:
    with torch.no_grad():
        made = {
            "linear": make_head("linear", features=6, classes=4, rng=rng("heads")),
            "perceptron": make_head("perceptron", features=6, classes=4, dropout=0.5),
            "neighbours": make_head("neighbours", images=9, features=6, classes=4, k=3, temperature=0.5),
        }
        made["neighbours"].bank.copy_(torch.randn(9, 6, generator=rng("bank")))
        made["neighbours"].labels.copy_(torch.arange(9) % 4)
        x = torch.randn(5, 6, generator=rng("asked"))
        return {name: {"weights": head, "answers": head.eval()(x)} for name, head in made.items()}


def core_loop() -> Any:
    net, images = network(), pictures(n=32)
    soft = images.replace(y=torch.eye(4)[images.y] * 0.8 + 0.05)
    colours = Siamese((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    short: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 0.02, **EXACT}
    kinds: dict[str, dict[str, Any]] = {
        "onecycle": {}, "cosine": {"schedule": "cosine"}, "constant": {"schedule": "constant"},
        "step": {"schedule": "step", "milestones": (1,), "gamma": 0.3}, "plain sgd": {"momentum": 0.0},
        "no nesterov": {"nesterov": False}, "no decay": {"weight_decay": 0.0}, "decay": {"weight_decay": 0.1},
        "adam": {"optimizer": "adam", "lr": 1e-3}, "augmented": {"augment": Augment(flip=False, crop=2, cutout=3)},
        "plain": {"augment": PLAIN}, "siamese": {"augment": colours},
    }  # fmt: skip
    found = {name: fit(net, images, rng=rng("loop"), **short | more) for name, more in kinds.items()}
    found["soft labels"] = fit(net, soft, rng=rng("loop"), **short)
    found["default"] = fit(net, images, **EXACT)
    found["channels_last"] = fit(net, images, **short | {"memory_format": "channels_last"})
    wet = nn.Sequential(network(), nn.Dropout(0.5))
    return {**found, "dropout": fit(wet, images, rng=rng("loop"), **short)}, (net, wet)


@distiller(paper="", label_weight=0.5, auto="pre-relu", teacher_mode="train", warmup=0.4)
def _two_stages(student: Any, teacher: Any, y: Tensor) -> Tensor:
    pairs = zip(student.features.values(), teacher.features.values(), strict=True)
    return sum((a - b).square().mean() for a, b in pairs)  # type: ignore[return-value]


def _logits(student: Any, teacher: Any, y: Tensor) -> Tensor:
    return (student.logits - teacher.logits).square().mean()


def core_distill() -> Any:
    student, teacher, images = network(seed="student"), network(seed="teacher"), pictures(n=32)
    short: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 0.01, "rng": None, **EXACT}
    last = functools.partial(_two_stages)
    kinds: dict[str, dict[str, Any]] = {
        "one stage": {"loss": _logits}, "as declared": {"loss": _two_stages}, "weight": {"loss": _logits, "label_weight": 0.0},
        "layers": {"loss": _two_stages, "layers": ["block2"], "warmup": 0.0, "teacher_mode": "eval"},
        "pairs": {"loss": last, "layers": (["block1"], ["block1"]), "warmup": 0.0},
        "mapping": {"loss": {("block2", "block2"): _two_stages, ("block3", "block3"): last}},
    }  # fmt: skip
    return {name: distill(student, teacher, images, **short | {"rng": rng("distill")} | more) for name, more in kinds.items()}, (student,)  # fmt: skip


class _Alike(nn.Module):
    def bind(self, features: int) -> None:
        self.projector = nn.Linear(features, 5)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        return (self.projector(one) - two.detach()[:, :5]).square().mean()


def core_pretrain() -> Any:
    start, images = encoder(), pictures(n=32)
    monitor = NeighbourMonitor(images, pictures("asked", 16))
    made = pretrain(start, images, loss=_Alike, epochs=2, batch_size=16, rng=rng("pretrain"), monitor=monitor, **EXACT)
    other = pretrain(start, images, loss=_Alike(), views=Views(flip=False), epochs=1, batch_size=16, **EXACT)
    return {"given": made, "default": other, "neighbours": monitor.accuracy}, (start,)


def core_probing() -> Any:
    start, images = encoder(), pictures(n=32)
    probe = fit_head(start, images, "linear[steps=2]")
    with torch.no_grad():
        answers = probe(images.pixels())
    return {
        "features": features(start, images), "typical": typical(start, images, 5).index.tolist(),
        "head": probe.head, "answers": answers, "drawn": fit_head(start, images, "mlp[epochs=1]", rng=rng("probe")).head,
    }  # fmt: skip


def core_trigger() -> Any:
    texts = ("patch:grid", "patch:white:3", "patch:checker[inset=1]", "blend[alpha=0.3]", "sig", "masked[mask=0.5]")
    shown = pictures("probe", 4).pixels()
    found: dict[str, Any] = {text: make_trigger(text)(shown) - shown for text in texts}
    given = Backdoor(make_trigger("patch", inset=2), 3, stamp="after", name="x")
    text, tensors = given.dump()
    again = Backdoor.undump(text, tensors)
    return {**found, "stamped": patch().stamp_on(shown), "again": again, "raw": Backdoor(given.trigger, 0, as_published=True)}


def core_predict() -> Any:
    net, images = network(), pictures(n=150)
    return {"clean": predict(net, images).tolist(), "triggered": predict(net, images, patch()).tolist(), "hit": patch().hit(net, images.pixels())}  # fmt: skip


def core_measure() -> Any:
    net, control, images = network(), network(seed="control"), pictures(n=150)
    found = {
        "bare": measure(net, images), "alone": measure(net, images, patch(), seeds=3),
        "whole": measure(net, images, patch(), control=control, undefended=control),
    }  # fmt: skip
    names = ("acc", "asr", "asr_all", "base", "untriggered", "titg", "carried", "n", "flags", "acc_interval", "asr_interval", "carried_interval")  # fmt: skip
    return {name: {k: getattr(m, k) for k in names} for name, m in found.items()}


def core_over_seeds() -> Any:
    values = [0.1, 0.02, 0.3]
    return {"plain": over_seeds(values), "asr": over_seeds(values, "asr"), "carried": over_seeds(values, "carried"), "one": over_seeds([0.5])}  # fmt: skip


def of_core(name: str) -> Any:
    """What a part of the core computes, and what it was given."""
    made = globals()[f"core_{name}"]()
    return made if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], tuple) else (made, ())


# --- the record ---------------------------------------------------------------------------------------------


def versions() -> dict[str, int]:
    """Every canary that there has to be → its version now."""
    core = {f"core/{name}": version for name, version in CORE.items()}
    own = {f"{kind}/{name}": m.mark.version for kind in KINDS for name, m in registry.kind(kind).items()}
    return core | own


def compute(name: str) -> Values:
    """What the canary says now."""
    torch.set_num_threads(1)
    kind, _, own = name.partition("/")
    found = _recorded(functools.partial(of_core, own)) if kind == "core" else canary(registry.get(kind, own))
    return json.loads(json.dumps(found, allow_nan=False))


def load() -> dict[str, Any]:
    """Name → version, core (the sum of the core's versions), values, and perhaps a tolerance of its own."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def complaint(name: str, version: int, values: Values, entry: Mapping[str, Any] | None) -> str | None:
    """What is wrong with a canary, and what to do; None if it agrees with its entry."""
    word = name.rpartition("/")[2]
    where = f"CORE[{word!r}] in distrust/versions.py" if name.startswith("core/") else "version= in its mark"
    record = f"`python -m tests.canaries {name}`"
    if entry is None:
        return f"{name} has no canary: run {record}."
    if version < entry["version"]:
        return f"{word} was version {entry['version']} and is {version} now; versions only rise. Raise {where}."
    other = differences(values, entry["values"], entry.get("tolerance", TOLERANCE))
    if version > entry["version"]:
        return f"{word} is version {version}, its canary {entry['version']}: run {record}."
    if not other:
        return None
    worst = ", ".join(f"{path or 'result'} by {share:.1e}" for path, share in sorted(other.items(), key=lambda o: -o[1])[:3])
    if entry["core"] != sum(CORE.values()):
        return f"{word} computes something else since the core has another version ({worst}): run {record}."
    return (
        f"{word} computes something else than version {version} did ({worst}): put it back, or raise {where} and run {record}."
    )


def save(entries: Mapping[str, Any]) -> None:
    """Write the file: a line for each value."""
    text = json.dumps({name: entries[name] for name in sorted(entries)}, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\n\s*", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text)
    FILE.write_text(text + "\n")


def record(names: Iterable[str] = ()) -> list[str]:
    """Record the canaries of these names (default: all) and forget what is no more; returns what was refused."""
    entries, now, refused = load(), versions(), []
    asked = [n for n in now if any(n == a or n.endswith(f"/{a}") for a in names)] if names else list(now)
    for name in asked:
        values, entry = compute(name), entries.get(name)
        found = complaint(name, now[name], values, entry)
        if entry and found and now[name] <= entry["version"] and entry["core"] == sum(CORE.values()):
            refused.append(found)
            continue
        if found is None and differences(values, entry["values"], 0) and not values.keys() - entry["values"].keys():
            values = entry["values"]  # another processor's last digits are no news
        kept = {"tolerance": entry["tolerance"]} if entry and "tolerance" in entry else {}
        entries[name] = {"version": now[name], "core": sum(CORE.values()), **kept, "values": values}
    save({name: entry for name, entry in entries.items() if name in now})
    return refused


if __name__ == "__main__":
    wrong = record(sys.argv[1:])
    print("\n".join(wrong) or f"recorded in {FILE.name}")
    sys.exit(bool(wrong))
