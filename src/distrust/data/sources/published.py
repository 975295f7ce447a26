"""Synthetic sets as their papers publish them: which file holds what, and in which units the pixels are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import BadInput, NotFound
from ...tensors import opened

STATISTICS = {  # mean and std per channel, by which published sets are normalised
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashionmnist": ((0.2861,), (0.3530,)),
}
PARTNERS = (("images", "labels"), ("image", "label"), ("x", "y"), ("data", "targets"))
SMOOTH = 0.5  # neighbouring pixels of natural images correlate by more than this; whitened ones, and noise, by less


class Published(NamedTuple):
    """A stranger's synthetic set, in whatever units."""

    x: Tensor  # float [N,C,H,W]
    y: Tensor  # int64 [N], or float32 [N,K]
    rates: tuple[float, ...]  # those that were learnt and saved: none, one, or one for each step
    which: int  # of the sets in the file
    of: int


def read_published(path: Path, experiment: int | None = None) -> Published:
    """Read a stranger's synthetic set; nothing in the file is run.

    Known layouts: `{"data": [[images, labels], …]}` (DC, DSA, DM), of which each entry is a set by itself; two files
    `images_best.pt` and `labels_best.pt`, perhaps with `lr_best.pt` (MTT, FTD, DATM, DD-Ranking, Poisoned
    Distillation: any pair of names that differ in images/labels or image/label); a list of (images, labels, lr)
    (Wang et al.), which are the steps of one set and are joined, each once, however often training goes through them;
    a mapping or `.npz` with images and labels (KIP).

    Args:
        path: the file, whatever its ending.
        experiment: which of several sets; None: the last.

    Raises:
        NotFound: no such file, or the labels' file is missing.
        UnsafeFile: it is a pickle of more than tensors.
        BadInput: an unknown layout, values that are not finite, or labels that do not fit.
    """
    if not path.is_file():
        raise NotFound(f"no synthetic set {path}. Give the file of its images; labels are looked for beside it.")
    sets = sets_of(opened(path), path)
    which = len(sets) - 1 if experiment is None else experiment
    if not -len(sets) <= which < len(sets):
        raise BadInput(f"experiment={which}, but {path} holds {len(sets)} sets. Give 0..{len(sets) - 1}.")
    which %= len(sets)
    parts, seen = [], list[tuple[Tensor, Tensor]]()
    for images, labels, rate in sets[which]:
        x = _images(images, path)
        y = _labels(labels, len(x), path)
        if not any(torch.equal(x, a) and torch.equal(y, b) for a, b in seen):
            seen.append((x, y))
        parts.append(rate)
    shapes = {(tuple(x.shape[1:]), tuple(y.shape[1:]), y.dtype) for x, y in seen}
    if len(shapes) > 1:
        raise BadInput(f"{path}: its steps differ in the shape of their images or labels. Ask for another file.")
    x, y = (torch.cat(part) for part in zip(*seen, strict=True))
    return Published(x, y, tuple(rate for rate in parts if rate is not None), which, len(sets))


Step = tuple[Any, Any, float | None]  # images, labels and the learnt rate


def sets_of(content: Any, path: Path) -> list[list[Step]]:
    """The synthetic sets in what `opened` gave: each is a list of steps, in most layouts a single one.

    Raises:
        NotFound, BadInput: as `read_published`.
    """
    if isinstance(content, Mapping):
        if isinstance(content.get("data"), list | tuple) and content["data"]:
            for k, entry in enumerate(content["data"]):
                if not _is_set(entry):
                    raise BadInput(f"{path}: set {k} is no pair of images and labels, so its layout is not known.")
            return [[(*entry[:2], None)] for entry in content["data"]]
        for ours, theirs in PARTNERS:
            if is_array(content.get(ours)) and is_array(content.get(theirs)):
                return [[(content[ours], content[theirs], None)]]
        raise BadInput(f"{path} holds {', '.join(map(str, content)) or 'nothing'}, and no images with labels.")
    if isinstance(content, list | tuple):
        if _is_set(content):
            return [[(*content[:2], None)]]
        if not content or not all(map(_is_set, content)):
            raise BadInput(f"{path}: what it lists is no pair of images and labels, so its layout is not known.")
        if all(len(entry) > 2 and _one_number(entry[2]) for entry in content):
            return [[(entry[0], entry[1], float(entry[2])) for entry in content]]
        return [[(*entry[:2], None)] for entry in content]
    if not is_array(content):
        raise BadInput(f"{path} holds a {type(content).__name__}, and no images with labels.")
    labels = path.with_name(path.name.replace("image", "label"))
    if labels == path or not labels.is_file():
        tried = f" (looked for {labels.name})" if labels != path else ""
        raise NotFound(f"{path} holds images alone, and no file with their labels lies beside it{tried}.")
    rates = [path.with_name(path.name.replace(word, "lr")) for word in ("images", "image")]
    beside = next((file for file in rates if file != path and file.is_file()), None)
    rate: Any = opened(beside) if beside else None
    return [[(content, opened(labels), float(rate) if _one_number(rate) else None)]]


def holds_set(content: Any) -> bool:
    """Whether what `opened` gave has the layout of a synthetic set."""
    if isinstance(content, Mapping):
        data = content.get("data")
        several = isinstance(data, list | tuple) and bool(data) and _is_set(data[0])
        return several or any(all(is_array(content.get(name)) for name in pair) for pair in PARTNERS)
    if isinstance(content, list | tuple):
        return _is_set(content) or (bool(content) and _is_set(content[0]))
    return is_array(content) and content.ndim == 4 and len(content) > 1


def _is_set(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) >= 2 and all(map(is_array, value[:2]))


def _is_any_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def is_array(value: Any) -> bool:
    """Whether it is an array or a tensor, and no single number."""
    return _is_any_array(value) and value.ndim > 0


def _one_number(value: Any) -> bool:
    return isinstance(value, int | float) or (_is_any_array(value) and math.prod(value.shape) == 1)


def _images(images: Any, path: Path) -> Tensor:
    x = _numbers(images, path)
    if x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.permute(0, 3, 1, 2)  # NHWC
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.numel():
        raise BadInput(f"{path}: images must be [N,C,H,W] or [N,H,W,C] with 1 or 3 channels; got {list(x.shape)}.")
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    if not x.isfinite().all():
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        raise BadInput(f"{path}: {bad} of {len(x)} images hold values that are not finite. Ask for another file.")
    return x.clone(memory_format=torch.contiguous_format)  # not the file's own bytes, which may be written anew


def _numbers(values: Any, path: Path) -> Tensor:
    if isinstance(values, np.ndarray) and values.dtype.kind not in "buif":
        raise BadInput(f"{path} holds {values.dtype} where numbers are expected. Save plain arrays of numbers.")
    found = torch.as_tensor(values).detach()
    if found.is_complex() or found.is_quantized or found.layout != torch.strided:
        raise BadInput(f"{path} holds {found.dtype} where plain numbers are expected. Save plain arrays of numbers.")
    return found


def _labels(labels: Any, n: int, path: Path) -> Tensor:
    y = _numbers(labels, path)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim not in (1, 2) or len(y) != n or not y.numel():
        raise BadInput(f"{path}: {n} images, but labels are {list(y.shape)}. There must be one for each image.")
    if y.ndim == 2:
        return y.float()
    if y.is_floating_point() and not torch.equal(y, y.round()):
        raise BadInput(f"{path}: labels such as {float(y[0]):.3g} are no class numbers. Ask for another file.")
    return y.long()


def to_pixels(x: Tensor, units: str, statistics: str | tuple[Any, Any] | None, source: str) -> Tensor:
    """Images in pixel units; nothing is guessed silently.

    Args:
        x: float [N,C,H,W].
        units: "pixels" (0..1, also where some leave it), "normalised", or "auto": pixels if all lie in 0..1.
        statistics: of "normalised": a name of `STATISTICS`, or mean and std per channel.
        source: named in errors.

    Raises:
        BadInput: "auto", and they do not lie in 0..1: says what they look like and what to type; or other channels.
        NotFound: statistics of a name that is not known.
    """
    if units == "pixels" or (units == "auto" and float(x.min()) >= 0 and float(x.max()) <= 1):
        return x
    if units == "auto" or statistics is None:
        raise BadInput(f"{source}: {_looks(x)}")
    if isinstance(statistics, str):
        if statistics not in STATISTICS:
            raise NotFound.among("statistics", statistics, STATISTICS)
        statistics = STATISTICS[statistics]
    mean, std = statistics
    if not len(mean) == len(std) == x.shape[1]:
        raise BadInput(f"{source}: {x.shape[1]} channels, but statistics for {len(mean)}. Give others.")
    return _undone(x, mean, std)


def _undone(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    of_mean, of_std = (torch.tensor(list(part), dtype=torch.float32).view(1, -1, 1, 1) for part in (mean, std))
    return x * of_std + of_mean


def _looks(x: Tensor) -> str:
    low, high = float(x.min()), float(x.max())
    found = f"values lie in [{low:.2f}, {high:.2f}], not in 0..1. "
    a, b = (part.flatten().double() - part.double().mean() for part in (x[..., :-1], x[..., 1:]))
    likeness = float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt().clamp(min=1e-12))
    if low >= 0 and high > 2:
        return found + "They look like 0..255: divide them by 255."
    if likeness < SMOOTH:
        found += f"Neighbouring pixels hardly correlate ({likeness:.2f}): they look whitened (ZCA), which cannot be "
        found += "undone without its matrix, or learnt from noise, and then perhaps normalised. "
    else:
        found += f"Neighbouring pixels correlate ({likeness:.2f}): they look normalised. "
    fits = {name: _outside(_undone(x, *pair)) for name, pair in STATISTICS.items() if len(pair[0]) == x.shape[1]}
    best = ", ".join(f"{name} ({100 * share:.1f} %)" for name, share in sorted(fits.items(), key=lambda item: item[1]))
    return found + (
        f"Type units='normalised', statistics=NAME or (mean, std); of those known, so much would leave 0..1: {best}. "
        "units='pixels' takes them as they are. On the command line: --units normalised --statistics NAME."
    )


def _outside(x: Tensor) -> float:
    """The share of values that no image file could hold."""
    return float(((x < -1 / 510) | (x > 1 + 1 / 510)).double().mean())
