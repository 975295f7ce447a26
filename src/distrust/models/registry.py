"""From a model's name to the model."""

from __future__ import annotations

import functools
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from ..bounds import check_bound
from ..data.images import ImageSet
from ..errors import BadInput, NotFound
from ..seeds import rng as make_rng
from ..seeds import seeded
from .families._parts import Given
from .families.convnet import convnet
from .families.mobilenet import mobilenet
from .families.pyramidnet import pyramidnet
from .families.resnet import LAYERS, imagenet_resnet, padded_resnet, resnet
from .families.vgg import vgg_small
from .families.victims import alexnet_small, lenet, mlp, vgg11
from .families.wrn import wrn
from .groups import resolve
from .modes import called, pair, probe, seen_in_training, spec_of
from .normalize import Normalize
from .outputs import logits
from .strangers import STRANGERS, stranger
from .taps import INPUT


class Family(NamedTuple):
    """Models that share a builder, which takes the numbers in the name."""

    name: str  # regular expression; its groups are the builder's numbers
    build: Callable[..., nn.Module]
    summary: str


FAMILIES = {
    "wrn{depth}-{width}[-s2]": Family(
        r"wrn([1-9]\d*)-([1-9]\d*)(?:-s(2))?",
        wrn,
        "Wide ResNet, pre-activation; depth 6n+4, width × (16, 32, 64) channels; s2: a stem of stride 2, a quarter of "
        "the time",
    ),
    # Before resnet{depth}: 50 and 152 are 6n+2 too, but everyone means these.
    "resnet{18..152}[-224]": Family(
        rf"resnet({'|'.join(map(str, LAYERS))})(?:-(224))?",
        imagenet_resnet,
        "ResNet-18, 34, 50, 101, 152; 64, 128, 256, 512 channels; for small images, or with ImageNet's stem",
    ),
    "resnet{depth}": Family(r"resnet([1-9]\d*)", resnet, "CIFAR ResNet; depth 6n+2, 16, 32, 64 channels"),
    "resnet{depth}-a": Family(
        r"resnet([1-9]\d*)-a", padded_resnet, "CIFAR ResNet with shortcuts that have no weights, as in the paper"
    ),
    "pyramidnet{depth}[-a{alpha}]": Family(
        r"pyramidnet([1-9]\d*)(?:-a([1-9]\d*))?",
        pyramidnet,
        "PyramidNet; 16 to 16 + alpha channels (84 at 110, 240 at 200); depth 6n+2, bottlenecks 9n+2 from 164 on",
    ),
    "mobilenet[-224]": Family(
        "mobilenet(?:-(224))?", mobilenet, "MobileNet v1; for small images, or with ImageNet's stem"
    ),
    "vgg-small": Family("vgg-small", vgg_small, "VGG-8 with batch norm; 64, 128, 256, 512, 512 channels"),
    "convnet{depth}[-w{width}]": Family(
        r"convnet([1-9]\d*)(?:-w([1-9]\d*))?",
        convnet,
        "ConvNet of dataset condensation; depth blocks of width (128) channels, instance norm",
    ),
    "mlp[-w{width}]": Family(r"mlp(?:-w([1-9]\d*))?", mlp, "two hidden layers of width (128) units"),
    "lenet": Family("lenet", lenet, "LeNet; 6 and 16 channels, 120 and 84 units"),
    "alexnet-small": Family(
        "alexnet-small", alexnet_small, "AlexNet for small images, without norms; 128 to 256 channels"
    ),
    "vgg11": Family("vgg11", vgg11, "VGG-11 of dataset condensation, instance norm"),
}
USUAL = [  # names that a message may propose
    *("wrn10-1", "wrn16-1", "wrn16-1-s2", "wrn16-2", "wrn28-4", "wrn28-10", "wrn40-2"),
    *(f"resnet{depth}{stem}" for depth in LAYERS for stem in ("", "-224")),
    *("resnet8", "resnet20", "resnet20-a", "resnet56", "resnet110"),
    *("pyramidnet110", "pyramidnet164-a270", "pyramidnet200"),
    *("mobilenet", "mobilenet-224", "vgg-small", "convnet3", "convnet3-w64", "convnet4"),
    *("mlp", "lenet", "alexnet-small", "vgg11"),
]


SMALL = 600  # product of the numbers in a name, up to which a network is small enough


def families() -> dict[str, str]:
    """What can be asked for: pattern of the name → one line about it."""
    return {pattern: family.summary for pattern, family in FAMILIES.items()} | STRANGERS


def model(
    name: str,
    images: ImageSet | None = None,
    *,
    classes: int | None = None,
    channels: int = 3,
    size: int | Sequence[int] = 32,
    rng: Generator | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    head: bool = True,
    output: str | None = None,
) -> nn.Module:
    """Build an untrained model that takes images [B,C,H,W] in 0..1 and returns logits [B,K], or features [B,D].

    A model of ours normalises inside, as `model.normalize`. One from elsewhere (`FILE.py:FACTORY`, whose code
    is executed, `timm:NAME`, `torchvision:NAME`) gets images in 0..1 as they are; with `normalize` it becomes
    a chain of `normalize` and `model`, and its paths begin with `model.`.

    `model.spec` is a JSON-able dict for which `model(**spec)` builds the same architecture again.

    Args:
        name: such as wrn16-2 or convnet3-w64; `families()` lists the patterns.
        images: what the model is for; gives classes, channels, size and the normalisation.
        classes: K (default: as `images`).
        channels: of the images, unless `images` is given.
        size: side in pixels, or height and width, unless `images` is given.
        rng: draws the initial weights (default: a fixed stream); the global generators stay as they were.
        normalize: mean and std per channel in pixel units 0..1 (default: those of `images`, else 0 and 1).
        head: False leaves the last linear layer out: an encoder, whose features are what would enter it.
        output: which part of what a network from elsewhere returns is the logits: a key, an attribute or an index
            (default: the first tensor [B,K]).

    Raises:
        NotFound: an unknown name, file, factory or model of a library.
        BadInput: a depth, a size or a normalisation that does not fit, or a library that is not installed.
    """
    if images is not None:
        channels, size = images.x.shape[1], tuple(images.x.shape[2:])
        classes = len(images.classes) if classes is None else classes
    classes = classes if head else 1  # of the layer that is left out
    if classes is None:
        raise BadInput(f"model {name!r}: how many classes? Give images, or classes=10.")
    height, width = pair(size)
    side = height if height == width else [height, width]
    ends = {"classes": classes} if head else {"head": False}
    spec: dict[str, Any] = {"name": name, **ends, "channels": channels, "size": side}
    first = None if normalize is None else Normalize(*normalize)
    if first is not None and first.mean.shape[1] != channels:
        raise BadInput(
            f"model {name!r}: normalize has {first.mean.shape[1]} channels, the images {channels}. "
            "Give one mean and one std per channel."
        )
    _check_size(name, classes, channels, (height, width))
    with seeded(rng if rng is not None else make_rng(0, "model")):
        strange = stranger(name, classes=classes, channels=channels, size=side)
        if strange is None:
            build, numbers = _family(name)
            if output is not None:
                raise BadInput(f"output={output!r}: {name} returns nothing beside its logits. Leave it out.")
            if first is None:
                first = Normalize.identity(channels) if images is None else Normalize.of(images)
            built = build(Given(first, classes, channels, (height, width)), *numbers)
        else:
            built = strange.float()  # as images are
            spec |= {} if output is None else {"output": str(output)}
            hook = functools.partial(logits, classes=classes if head else None, name=spec.get("output"))
            built.register_forward_hook(hook)
        if strange is not None and first is not None:
            built = nn.Sequential(OrderedDict(normalize=first, model=built))
            spec["normalize"] = first.statistics
    built.spec = spec  # type: ignore[assignment]
    return built if head else _beheaded(built)


@functools.lru_cache(256)
def _check_size(name: str, classes: int, channels: int, size: tuple[int, int]) -> None:
    """Refuse a network of ours with more parameters than are taken, before there is memory for them."""
    if found := next((f for f in FAMILIES.values() if re.fullmatch(f.name, name)), None):
        _, numbers = _family(name)
        usual = name in USUAL or math.prod(numbers) <= SMALL
        if usual and classes <= 10**4 and channels <= 64 and max(size) <= 512:
            return  # to count takes a second where it is done first
        check_bound("number", max(numbers, default=0), name, "layers or channels")
        with torch.device("meta"):
            first = Normalize.identity(channels)
            built = found.build(Given(first, classes, channels, size), *numbers)
        check_bound("parameters", sum(p.numel() for p in built.parameters()), name, "parameters")


def _beheaded(model: nn.Module) -> nn.Module:
    """The encoder in a classifier: what enters its last linear layer comes out."""
    (place,) = resolve(model, "embedding")
    model.set_submodule(place.removesuffix(INPUT), nn.Identity())
    return model


def check_fits(model: nn.Module, images: ImageSet) -> None:
    """Make sure that a classifier takes these images and knows as many classes; nothing about it changes.

    Raises:
        BadInput: it cannot take their channels or size, or does not return one logit per class.
    """
    if is_encoder(model):
        raise BadInput(f"{called(model)} is an encoder, which returns features. Type fit_head(encoder, images) first.")
    got, classes = _answer(model, images), len(images.classes)
    if isinstance(got, str):
        raise BadInput(
            f"{called(model)} returns a {got} in which no tensor is [B,{classes}], a logit for each class of "
            f"{images.name}. Name the part that it is: --output NAME; return the logits from forward; or wrap it: "
            "forward(self, x): return self.inner(x)[0]."
        )
    if got != (classes,):
        if images.classes == ("unlabelled",):  # as a folder without class folders is opened
            raise BadInput(
                f"{images.name} has no labels, and {called(model)} returns {got} per image. Sort the images into a "
                "folder for each class, in the order of the model's classes."
            )
        raise BadInput(
            f"{called(model)} returns {got} per image; {images.name} has {classes} classes, so it should "
            f"return ({classes},). Build it with classes={classes}."
        )


def check_trains(model: nn.Module, images: ImageSet) -> None:
    """Make sure that a step of training can be made on these images, on a copy; to be asked before any work.

    Raises:
        BadInput: the model cannot be copied, has nothing to train, or fails in train mode.
    """
    found = seen_in_training(model, images.x.shape[1:])
    if not isinstance(found, Tensor) or found.ndim != 2:
        what = f"{list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise BadInput(f"{called(model)} returns {what} in train mode. Name the part that it is: --output NAME.")


def is_encoder(model: nn.Module) -> bool:
    """Built or saved without a head."""
    return spec_of(model).get("head") is False


def check_encoder(model: nn.Module, images: ImageSet) -> int:
    """Make sure that a model is an encoder that takes these images; returns D, the size of its features [B,D].

    Raises:
        BadInput: it is a classifier, cannot take the images, or returns something else.
    """
    classes = spec_of(model).get("classes")
    if classes is not None:
        raise BadInput(
            f"{called(model)} is a classifier of {classes} classes; an encoder returns features. Build it, or open its "
            "file, with head=False."
        )
    got = _answer(model, images)
    if isinstance(got, str) or len(got) != 1:
        raise BadInput(f"{called(model)} returns {got} per image; an encoder returns a vector. Pool and flatten first.")
    return got[0]


def _answer(model: nn.Module, images: ImageSet) -> tuple[int, ...] | str:
    """The shape of what the model returns for one image, or the name of what it is."""
    found = probe(model, images.x.shape[1:])
    alike = isinstance(found, Tensor) and found.shape[:1] == (2,)  # as many as there were images
    return tuple(found.shape[1:]) if alike else type(found).__name__


def _family(name: str) -> tuple[Callable[..., nn.Module], list[int]]:
    for family in FAMILIES.values():
        if match := re.fullmatch(family.name, name):
            return family.build, [int(number) for number in match.groups() if number]
    raise NotFound.among("model", name, [*USUAL, *STRANGERS])
