"""Canaries of the core: a function for each entry of `distrust.versions.CORE`, which says what that part computes.

It returns the results, or the results and a tuple of what they are compared with.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from tests.canary_inputs import EXACT, condensed, encoder, network, patch, pictures, training_of
from torch import Tensor, nn

from distrust.data import PLAIN, Augment, Late, Siamese, Views, as_8_bit, roles, split
from distrust.marks import distiller
from distrust.measurement import Backdoor, make_trigger, measure, over_seeds, predict
from distrust.models import group_ends, model, norm_at, resolve, taps
from distrust.models.heads import make as make_head
from distrust.seeds import rng, seeded, spawn
from distrust.training import NeighbourMonitor, distill, features, fit, fit_head, pretrain, recipe, typical


def of_seeds() -> Any:
    parent = rng(3, "student")
    child = spawn(parent)
    with seeded(child):
        inside = torch.rand(5)
    return {"seed": str(parent.initial_seed()), "child": str(child.initial_seed()), "inside": inside}


def of_images() -> Any:
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


def of_roles() -> Any:
    images = pictures(n=60)
    tracks = images.replace(group=torch.arange(60) // 7)
    cut = {name: split(i, {"a": 0.2, "b": 0.5}, rng(2)) for name, i in {"single": images, "tracks": tracks}.items()}
    parts = {name: {k: part.index.tolist() for k, part in parts.items()} for name, parts in cut.items()}
    roles_of = {"default": roles(images), "drawn": roles(tracks, clean=0.3, validation=0.2, rng=rng(3))}
    return parts | {name: [r.index.tolist() for r in found] for name, found in roles_of.items()}


def of_augment() -> Any:
    x = pictures(n=12).x
    kinds = [Augment(), PLAIN, Augment(flip=False, crop=2), Augment(crop=0), Augment(flip=False, crop=0, cutout=4)]
    return {str(kind): kind(x, rng("augment")) for kind in [*kinds, Augment(crop=1, cutout=3)]}


def of_siamese() -> Any:
    x, more = pictures(n=6).pixels(), {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    found: dict[str, Any] = {}
    for operation in Siamese(**more).operations:
        one = Siamese(**more, operations=(operation,))
        found[operation] = {"each": one(x, rng("siamese")), "shared": one.shared(rng("siamese"))(x)}
    whole, draw = Siamese(**more), rng("siamese", "all")
    return {**found, "drawn": [whole(x, draw) for _ in range(3)]}


def of_views() -> Any:
    colour, grey = pictures(n=16).x, pictures(n=16, shape=(1, 8, 8)).pixels()
    kinds = [Views(), Views(scale=(0.5, 0.9), flip=False, grey=0.0), Views(jitter=1.0, hue=0.4)]
    return [{"colour": view(colour, rng("views")), "grey": view(grey, rng("views"))} for view in kinds]


def of_recipe() -> Any:
    made = condensed()
    bare = dataclasses.replace(made, training=None)
    more = recipe(lr=0.05, augment=Siamese((0.5,), (0.2,)))
    found = {"own": recipe(made), "bare": recipe(bare), "changed": recipe(bare, epochs=7, lr=0.3), "protocol": more}
    return {name: training_of(value) for name, value in found.items()}


FAMILIES = {  # the smallest of each
    "wrn10-1": 8, "wrn10-1-s2": 16, "wrn16-2": 8, "resnet8": 8, "resnet18": 8, "resnet50": 8, "resnet18-224": 32,
    "resnet8-a": 8, "pyramidnet20-a12": 8, "pyramidnet164-a6": 8, "mobilenet": 16, "vgg-small": 16, "convnet3-w8": 8,
    "convnet2-w4": 12, "mlp": 8, "lenet": 32, "alexnet-small": 32, "vgg11": 32,
}  # fmt: skip


def of_model() -> Any:
    found: dict[str, Any] = {}
    for name, side in FAMILIES.items():
        like = pictures("model", 4, shape=(3, side, side))
        built = model(name, like, rng=rng("model", name)).eval()
        with torch.no_grad():
            found[name] = {"weights": built, "answers": built(like.pixels())}
    bare = model("wrn10-1", classes=5, channels=1, size=12, head=False).eval()
    return {**found, "encoder": bare, "head": model("resnet8", classes=3).eval()}


WORDS = ("auto", "groups", "pre-relu", "stem+groups", "embedding")


def of_layers() -> Any:
    found: dict[str, Any] = {}
    for name in ("wrn10-1", "resnet8", "pyramidnet20-a12", "vgg-small", "convnet2-w4"):
        shape = (3, 16, 16)
        built = network(name, like=pictures(shape=shape))
        places = {
            word: resolve(built, word, shape) for word in ("auto", "groups", "pre-relu", "stem+groups", "embedding")
        }
        norms = {norm: path for path, norm in built.named_modules()}
        at = [norm_at(built, place, shape) for place in places["pre-relu"]]
        read_at = sorted({place for some in places.values() for place in some})
        with torch.no_grad(), taps(built, read_at) as read:
            seen = read(pictures(n=2, shape=shape).pixels())
        ends = {path: list(size) for path, size in group_ends(built, shape).items()}
        found[name] = {**places, "ends": ends, "norms": [norms.get(norm, "") for norm in at], "seen": seen}
    return found


def of_heads() -> Any:
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


def of_loop() -> Any:
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


def of_distill() -> Any:
    student, teacher, images = network(seed="student"), network(seed="teacher"), pictures(n=32)
    short: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 0.01, **EXACT}
    last = functools.partial(_two_stages)
    kinds: dict[str, dict[str, Any]] = {
        "one stage": {"loss": _logits}, "as declared": {"loss": _two_stages},
        "weight": {"loss": _logits, "label_weight": 0.0},
        "layers": {"loss": _two_stages, "layers": ["block2"], "warmup": 0.0, "teacher_mode": "eval"},
        "pairs": {"loss": last, "layers": (["block1"], ["block1"]), "warmup": 0.0},
        "mapping": {"loss": {("block2", "block2"): _two_stages, ("block3", "block3"): last}},
    }  # fmt: skip
    made = {n: distill(student, teacher, images, **short | more, rng=rng("distill")) for n, more in kinds.items()}
    return made, (student,)


class _Alike(nn.Module):
    def bind(self, features: int) -> None:
        self.projector = nn.Linear(features, 5)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        return (self.projector(one) - two.detach()[:, :5]).square().mean()


def of_pretrain() -> Any:
    start, images = encoder(), pictures(n=32)
    monitor = NeighbourMonitor(images, pictures("asked", 16))
    made = pretrain(start, images, loss=_Alike, epochs=2, batch_size=16, rng=rng("pretrain"), monitor=monitor, **EXACT)
    other = pretrain(start, images, loss=_Alike(), views=Views(flip=False), epochs=1, batch_size=16, **EXACT)
    return {"given": made, "default": other, "neighbours": monitor.accuracy}, (start,)


def of_probing() -> Any:
    start, images = encoder(), pictures(n=32)
    probe = fit_head(start, images, "linear[steps=2]")
    with torch.no_grad():
        answers = probe(images.pixels())
    drawn = fit_head(start, images, "mlp[epochs=1]", rng=rng("probe"))
    near = typical(start, images, 5).index.tolist()
    seen = features(start, images)
    return {"features": seen, "typical": near, "head": probe.head, "answers": answers, "drawn": drawn.head}


def of_trigger() -> Any:
    texts = ("patch:grid", "patch:white:3", "patch:checker[inset=1]", "blend[alpha=0.3]", "sig", "masked[mask=0.5]")
    shown = pictures("probe", 4).pixels()
    found: dict[str, Any] = {text: make_trigger(text)(shown) - shown for text in texts}
    given = Backdoor(make_trigger("patch", inset=2), 3, stamp="after", name="x")
    text, tensors = given.dump()
    again = Backdoor.undump(text, tensors)
    return {
        **found,
        "stamped": patch().stamp_on(shown),
        "again": again,
        "raw": Backdoor(given.trigger, 0, as_published=True),
    }


def of_predict() -> Any:
    net, images = network(), pictures(n=150)
    said = {"clean": predict(net, images), "triggered": predict(net, images, patch())}
    return {**{k: v.tolist() for k, v in said.items()}, "hit": patch().hit(net, images.pixels())}


def of_measure() -> Any:
    net, control, images = network(), network(seed="control"), pictures(n=150)
    found = {
        "bare": measure(net, images), "alone": measure(net, images, patch(), seeds=3),
        "whole": measure(net, images, patch(), control=control, undefended=control),
    }  # fmt: skip
    rates = ("acc", "asr", "asr_all", "base", "untriggered", "titg", "carried", "n", "flags")
    names = (*rates, "acc_interval", "asr_interval", "carried_interval")
    return {name: {k: getattr(m, k) for k in names} for name, m in found.items()}


def of_over_seeds() -> Any:
    return {"plain": over_seeds([0.1, 0.02, 0.3]), "wide": over_seeds([0.0, 1.0, 0.0]), "one": over_seeds([0.5])}
