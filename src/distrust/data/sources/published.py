"""Synthetic sets as their papers publish them: which file holds what, and in which units the pixels are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import BadInput, NotFound
from ...tensors import open_plain

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


def read_published(path: Path, experiment: int = -1) -> tuple[Tensor, Tensor, float | None]:
    """Read a stranger's synthetic set; nothing in the file is run.

    Known layouts: `{"data": [[images, labels], …]}` (DC, DSA, DM); two files `images_best.pt` and `labels_best.pt`,
    perhaps with `lr_best.pt` (MTT, FTD, DATM, DD-Ranking, Poisoned Distillation: any pair of names that differ in
    images/labels or image/label); a list of (images, labels, lr) steps (Wang et al.); `.npz` with images and labels
    (KIP). `experiment` says which of several sets is meant.

    Returns:
        Images float [N,C,H,W], in whatever units; labels int64 [N], or float32 [N,K]; the learnt rate, where it was
        saved.

    Raises:
        NotFound: no such file, or the labels' file is missing.
        UnsafeFile: it is a pickle of more than tensors.
        BadInput: an unknown layout, values that are not finite, or labels that do not fit.
    """
    if not path.is_file():
        raise NotFound(f"no synthetic set {path}. Give the file of its images; labels are looked for beside it.")
    content = dict(np.load(path, allow_pickle=False)) if path.suffix == ".npz" else open_plain(path)
    images, labels, lr = _parts(content, path, experiment)
    return _images(images, path), _labels(labels, len(images), path), lr


def _parts(content: Any, path: Path, experiment: int) -> tuple[Any, Any, float | None]:
    if isinstance(content, Mapping):
        if isinstance(content.get("data"), list | tuple):
            return *_chosen(content["data"], experiment, path)[:2], None
        for ours, theirs in PARTNERS:
            if {ours, theirs} <= content.keys():
                return content[ours], content[theirs], None
        raise BadInput(f"{path} holds {', '.join(map(str, content)) or 'nothing'}, and no images with labels.")
    if isinstance(content, list | tuple):
        if _is_set(content):
            return content[0], content[1], None
        x, y, *more = _chosen(content, experiment, path)
        return x, y, float(more[0]) if more and _one_number(more[0]) else None
    if not _is_array(content):
        raise BadInput(f"{path} holds a {type(content).__name__}, and no images with labels.")
    labels = path.with_name(path.name.replace("image", "label"))
    if labels == path or not labels.is_file():
        tried = f" (looked for {labels.name})" if labels != path else ""
        raise NotFound(f"{path} holds images alone, and no file with their labels lies beside it{tried}.")
    rates = [path.with_name(path.name.replace(word, "lr")) for word in ("images", "image")]
    rate = next((file for file in rates if file != path and file.is_file()), None)
    return content, open_plain(labels), float(open_plain(rate)) if rate else None


def _chosen(sets: Any, experiment: int, path: Path) -> Any:
    if not -len(sets) <= experiment < len(sets):
        raise BadInput(f"experiment={experiment}, but {path} holds {len(sets)} sets. Give 0..{len(sets) - 1}.")
    if not _is_set(sets[experiment]):
        raise BadInput(f"{path}: set {experiment} is no pair of images and labels, so its layout is not known.")
    return sets[experiment]


def _is_set(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) >= 2 and all(map(_is_array, value[:2]))


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _one_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def _images(images: Any, path: Path) -> Tensor:
    x = torch.as_tensor(images).detach()
    if x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.permute(0, 3, 1, 2)  # NHWC
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise BadInput(f"{path}: images must be [N,C,H,W] or [N,H,W,C] with 1 or 3 channels; got {list(x.shape)}.")
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    if not x.isfinite().all():
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        raise BadInput(f"{path}: {bad} of {len(x)} images hold values that are not finite. Ask for another file.")
    return x.contiguous()


def _labels(labels: Any, n: int, path: Path) -> Tensor:
    y = torch.as_tensor(labels).detach()
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if len(y) != n or y.ndim not in (1, 2):
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
        "units='pixels' takes them as they are."
    )


def _outside(x: Tensor) -> float:
    """The share of values that no image file could hold."""
    return float(((x < -1 / 510) | (x > 1 + 1 / 510)).double().mean())
