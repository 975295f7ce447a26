"""Steps: what a study does besides calling methods. A step is a function of products and options, as a method is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data import ImageSet, Views, roles
from ..data.sources import images as open_images
from ..errors import BadInput, Skip
from ..flags import flag
from ..measurement import Backdoor, accuracy, outputs, predict
from ..measurement.embedding import embedding
from ..models import eval_mode
from ..models import model as make_model
from ..seeds import rng
from ..training import (
    NeighbourMonitor,
    Probe,
    Teacher,
    features,
    fit,
    fit_head,
    lesson,
    pretrain,
    recipe,
    to_the_end,
    typical,
)
from ..training.loop import Run

CANDIDATES = 50  # images of the target class among which an attacker of an encoder looks for typical ones
MONITOR = 2000  # training images that vote, and validation images that are asked, after every epoch of pre-training
BATCH = 128  # images that a model is shown at a time


class Noted(NamedTuple):
    """A model, and what is worth writing down about how it came to be."""

    model: nn.Module
    notes: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A function of the core as a stage calls it: positional parameters are products, the others options.

    Args:
        call: the function.
        cost: (options, n) → images that go through a training step of a network, when it is given n of them.
        version: raised when it computes something else.
        together: products → a function of options that starts a run of steps, for calls that differ in options only;
            taken in turns they share work. None: each is made by itself.
    """

    call: Callable[..., Any]
    cost: Callable[[dict[str, Any], int], float]
    version: int
    together: Callable[..., Callable[..., Run]] | None = None

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the products that it takes."""
        parameters = inspect.signature(self.call).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


STEPS: dict[str, Step] = {}


def _step(
    name: str, cost: Callable[[dict[str, Any], int], float], version: int = 1, **several: Callable[..., Any]
) -> Callable[[Any], Any]:
    def put(call: Callable[..., Any]) -> Callable[..., Any]:
        STEPS[name] = Step(call, cost, version, **several)
        return call

    return put


def _epochs(times: float, usual: int = 10) -> Callable[[dict[str, Any], int], float]:
    return lambda options, n: times * options["training"].get("epochs", usual) * n


def _forward(options: dict[str, Any], n: int) -> float:
    return 0.4 * n


@functools.lru_cache(3)
def _cut(
    source: str, opened: tuple[tuple[str, Any], ...], contents: str, held: float, validation: float, seed: int
) -> Any:
    train, test = _opened(source, opened, contents)
    return len(train), roles(train, clean=held, validation=validation, rng=rng("roles", seed)), test


@functools.lru_cache(3)
def _opened(source: str, options: tuple[tuple[str, Any], ...], contents: str = "") -> tuple[ImageSet, ImageSet]:
    return open_images(source, **dict(options))


def opened(source: str, **options: Any) -> tuple[ImageSet, ImageSet]:
    """Both splits of a source; the last ones stay open."""
    return _opened(source, tuple(options.items()))


@_step("images", lambda options, n: 0.0)
def images(
    *, source: str, role: str, seed: int, size: int | None = None, channels: int | None = None,
    group: str | None = None, held: float = 0, validation: float = 0, share: float | None = None,
    most: int | None = None, contents: str = "",
) -> ImageSet:  # fmt: skip
    """One role of a source: of the training images, of those that are held for defenders, or of the test images."""
    options = {"size": size, "channels": channels, "group": group}
    opened = tuple((name, value) for name, value in options.items() if value is not None)
    if role == "test":
        return _at_most(_opened(source, opened, contents)[1], most, "test", 0)  # one test set for all seeds
    n, cut, _ = _cut(source, opened, contents, held, validation, seed)
    if role == "clean" and share != held:
        most = round((share or 0) * n)
    return _at_most(getattr(cut, role), most, role, seed)


def _at_most(part: ImageSet, most: int | None, role: str, seed: int) -> ImageSet:
    """So many of the images, drawn by role and seed; smaller draws lie in larger ones."""
    if most is None or most >= len(part):
        return part
    rows = torch.randperm(len(part), generator=rng(role, seed))[:most].sort().values
    return part[rows]


@_step("teacher", _epochs(1))
def teacher(train: ImageSet, *, network: str, training: Any, seed: int, device: Any) -> nn.Module:
    """A network on the training images."""
    start = make_model(network, train, rng=rng("teacher", "start", seed))
    return fit(start, train, rng=rng("teacher", seed), device=device, **training)


@_step("pretrain", _epochs(2))
def pretrain_encoder(
    train: ImageSet, untouched: ImageSet, validation: ImageSet, *, network: str, loss: Any, views: dict[str, Any],
    training: Any, seed: int, device: Any,
) -> Noted:  # fmt: skip
    """An encoder, from images whose labels only an attack may have looked at; the notes tell what neighbours say."""
    start = make_model(network, train, rng=rng("teacher", "start", seed), head=False)
    known, asked = (_at_most(part, MONITOR, "monitor", seed) for part in (untouched, validation))
    monitor = NeighbourMonitor(known, asked)
    options = {**training, "views": Views(**{**views, "scale": tuple(views["scale"])}), "monitor": monitor}
    encoder = pretrain(start, train, loss=loss, rng=rng("pretrain", seed), device=device, **options)
    return Noted(encoder, {"neighbours": monitor.accuracy})


@_step("transfer", _epochs(1))
def transfer(model: nn.Module, train: ImageSet, *, training: Any, seed: int, device: Any) -> nn.Module:
    """The teacher on the victim's images: all layers from the teacher but the last, which starts anew."""
    spec: dict[str, Any] = {**model.spec, "classes": len(train.classes)}  # type: ignore[dict-item]
    fresh = make_model(**spec, rng=rng("transfer", "start", seed))
    own = fresh.state_dict()
    kept = {k: v for k, v in model.state_dict().items() if own[k].shape == v.shape}
    fresh.load_state_dict({**own, **kept})
    return fit(fresh, train, rng=rng("transfer", seed), device=device, **training)


def _lessons(model: nn.Module, transfer: ImageSet) -> Callable[..., Run]:
    """Students on one transfer set, who pay once for what their teacher says."""
    teacher = Teacher(model)

    def start(*, network: str, loss: Any, training: Any, seed: int, device: Any) -> Run:
        training = dict(training)
        whose = training.pop("start", "own")
        start = make_model(network, transfer, rng=rng("student" if whose == "own" else "teacher", "start", seed))
        if whose == "teacher" and start.spec != model.spec:
            raise BadInput(f"start=teacher: {network} is not built as its teacher. Take a pair of equal networks.")
        shown = _noise(transfer, seed) if training.pop("on", "images") == "noise" else transfer
        return lesson(start, teacher, shown, loss=loss, rng=rng("student", seed), device=device, **training)

    return start


def _noise(images: ImageSet, seed: int) -> ImageSet:
    """As many images of uniform noise, of the mean of theirs in each channel: a normalised network sees it around 0."""
    mean = images.pixels(slice(0, CANDIDATES)).mean((0, 2, 3)).view(1, -1, 1, 1)
    reach = torch.minimum(mean, 1 - mean)
    drawn = 2 * torch.rand(images.x.shape, generator=rng("noise", seed)) - 1
    return replace(images, x=(255 * (mean + reach * drawn)).round().to(torch.uint8))


@_step("student", _epochs(1.4), together=_lessons)
def student(
    model: nn.Module, transfer: ImageSet, *, network: str, loss: Any, training: Any, seed: int, device: Any
) -> nn.Module:
    """A network that is distilled from a teacher on the transfer set."""
    start = _lessons(model, transfer)
    return to_the_end(start(network=network, loss=loss, training=training, seed=seed, device=device))


@_step("victim", _epochs(1, usual=1000))
def victim(synthetic: ImageSet, train: ImageSet, *, network: str, training: Any, seed: int, device: Any) -> nn.Module:
    """A network on the synthetic set, by the set's own recipe; it normalises as the real images ask for."""
    if synthetic.off_range:
        flag("off-range-images")
    start = make_model(network, train, rng=rng("student", "start", seed))
    own = recipe(synthetic, **training)
    return fit(start, synthetic, training=own, rng=rng("student", seed), device=device)


@_step("features", lambda options, n: 0.4 * n)
def train_features(encoder: nn.Module, train: ImageSet) -> dict[str, Tensor]:
    """What an encoder makes of the images on which heads are fitted."""
    return {"features": features(encoder, train).cpu()}


@_step("head", lambda options, n: 0.1 * n)
def head(encoder: nn.Module, train: ImageSet, shown: dict[str, Tensor], *, fit: Any, seed: int) -> nn.Module:
    """A head on an encoder."""
    return fit_head(encoder, train, fit, rng=rng("head", seed), seen=shown["features"])


@_step("choose", lambda options, n: 0.4 * n * len(options["candidates"]))
def choose(
    suspect: nn.Module,
    validation: ImageSet,
    *,
    candidates: list[dict[str, Any]],
    within: float,
    **made: nn.Module | None,
) -> Noted:
    """The first candidate, in the study's order, that keeps validation ACC within the limit; else the best.

    A candidate that failed (its rate made it diverge) has no accuracy and is not chosen.
    """
    there = list(made.values())
    before = accuracy(suspect, validation)
    after = [None if model is None else accuracy(model, validation) for model in there]
    scores = [-1.0 if acc is None else acc for acc in after]
    good = [i for i, acc in enumerate(scores) if acc >= max(before - within, 0.0)]
    at = good[0] if good else max(range(len(scores)), key=scores.__getitem__)
    model = there[at]
    assert model is not None  # one candidate is there, or the stage is not carried out
    return Noted(model, {"chosen": at, "option": candidates[at], "validation": {"before": before, "after": after}})


@_step("references", _forward)
def references(encoder: nn.Module, downstream: ImageSet, *, target: int, count: int, seed: int) -> ImageSet:
    """Of some random images of the target class, the most typical: an attacker of this encoder would take them.

    Raises:
        BadInput: the downstream set has none.
    """
    own = (downstream.hard == target).nonzero().flatten()
    if not len(own):
        raise BadInput(f"{downstream.name} has no image of the target, class {target}. Give another target.")
    drawn = own[torch.randperm(len(own), generator=rng("references", seed))[:CANDIDATES].to(own.device)]
    return typical(encoder, downstream[drawn], count)


@_step("represent", _forward)
def represent(encoder: nn.Module, test: ImageSet, backdoor: Backdoor | None = None) -> dict[str, Tensor]:
    """Features of test images, stamped first if a backdoor is given, from which every head on the encoder predicts."""
    _check_target(test, backdoor)
    return {"features": outputs(Probe(encoder, nn.Identity()), test, backdoor)}


@_step("predict", _forward)
def predictions(
    model: nn.Module, test: ImageSet, backdoor: Backdoor | None = None, shown: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Class numbers of test images, stamped first if a backdoor is given, beside the true ones."""
    _check_target(test, backdoor)
    if shown is None:
        said = predict(model, test, backdoor)
    else:
        with eval_mode(model), torch.no_grad():
            device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
            parts = shown["features"].split(BATCH)
            said = torch.cat([model.head(part.to(device)).argmax(1).cpu() for part in parts])  # type: ignore[operator]
    if backdoor is not None and backdoor.as_published:
        flag("off-range-trigger")
    small = torch.uint8 if len(test.classes) <= 256 else torch.int32
    return {"y": test.hard.cpu().to(small), "said": said.to(small)}


def _check_target(test: ImageSet, backdoor: Backdoor | None) -> None:
    if backdoor is not None and backdoor.target >= len(test.classes):
        raise Skip(f"the target is class {backdoor.target}; {test.name} has {len(test.classes)} classes.")


@_step("embed", _forward)
def embed(model: nn.Module, test: ImageSet, backdoor: Backdoor, *, most: int) -> dict[str, Tensor]:
    """What enters the last linear layer, for some clean test images and for some triggered ones of other classes."""
    some = test[:most]
    others = some[some.hard != backdoor.target]
    found = {"clean": embedding(model, some), "triggered": embedding(model, others, backdoor)}
    return {"y": some.hard.cpu(), **{name: value.cpu() for name, value in found.items()}}
