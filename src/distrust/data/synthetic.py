"""Synthetic sets: the file that carries them, and those of strangers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..bounds import check_bound
from ..errors import BadInput, notice
from ..files import write_file
from ..tensors import read_record
from .images import ImageSet
from .sources.published import read_published, to_pixels


def save_set(images: ImageSet, path: str | Path) -> Path:
    """Write a set as one safetensors file: pixels, labels, classes, taint, and how it is trained on.

    Raises:
        BadInput: a trigger that is stamped later cannot be written down.
        StoreError: it cannot be written.
    """
    path = Path(path)
    if images.late is not None:
        raise BadInput(f"{images.name} has a trigger that is stamped after augmentation; stamp='before' can be saved.")
    write_file(path, pack_set(images))
    return path


def pack_set(images: ImageSet) -> bytes:
    """The contents of such a file."""
    facts = {
        "set": images.name, "classes": images.classes, "taint": images.taint, "off_range": images.off_range,
        "training": images.training,
    }  # fmt: skip
    tensors = {"x": images.x.cpu().contiguous(), "y": images.y.cpu().contiguous()}
    return save(tensors, {"distrust": json.dumps(facts)})


def unpack_set(data: bytes) -> ImageSet:
    """What `pack_set` gave; KeyError if it gave something else."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # safetensors: length, JSON, tensors
    facts, tensors = json.loads(header["__metadata__"]["distrust"]), load(data)
    return ImageSet(
        tensors["x"], tensors["y"], tuple(facts["classes"]), facts["set"], taint=tuple(facts["taint"]),
        off_range=facts["off_range"], training=facts["training"],
    )  # fmt: skip


def load_set(
    path: str | Path,
    *,
    units: Literal["auto", "pixels", "normalised"] = "auto",
    statistics: str | tuple[Sequence[float], Sequence[float]] | None = None,
    labels: Literal["auto", "logits"] = "auto",
    classes: Sequence[str] | None = None,
    experiment: int | None = None,
) -> ImageSet:
    """Open a synthetic set: a file of `save_set`, or a stranger's, without running anything in it.

    Args:
        path: what `save_set` wrote, or a .pt or .npz of a paper's code (the images' file, where labels have their own).
        units: of a stranger's pixels: "pixels" 0..1, also where some leave it; "normalised"; "auto" takes 0..1 and
            refuses the rest, saying what it looks like.
        statistics: by which "normalised" ones were: "cifar10", "cifar100", "svhn", "imagenet", "mnist",
            "fashionmnist", or mean and std per channel.
        labels: "logits" takes the softmax of soft labels; "auto" takes probabilities, centred ones included.
        classes: names (default: their numbers).
        experiment: which set of a file that holds several, 0 the first; None: the last, which is told.

    Returns:
        Float images; `off_range` where pixels leave 0..1; `training` where the file knows one rate for all of it.

    Raises:
        NotFound: no such file, the labels' file is missing, or unknown statistics.
        UnsafeFile: it is a pickle of more than tensors.
        BadInput: an unknown layout; values or labels that do not fit; a class without an image; or units that must
            be said.
    """
    path = Path(path)
    if "set" in read_record(path):
        try:
            return unpack_set(path.read_bytes())
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise BadInput(f"{path} is a damaged set ({error}). Write it again with save_set.") from None
    x, y, rates, which, of = read_published(path, experiment)
    if of > 1 and experiment is None:
        notice(f"{path} holds {of} sets; this is set {which + 1} of {of}. For another: experiment=0 to {of - 1}.")
    if len(set(rates)) > 1:
        notice(
            f"{path} is trained on in {len(rates)} steps, each with a rate of its own, {min(rates):.3g} to "
            f"{max(rates):.3g}; their images are joined, and the rates left out."
        )
    x = to_pixels(x, units, statistics, str(path))
    y = _probabilities(y, labels, path) if y.ndim == 2 else y
    most = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    check_bound("classes", most, path, "classes")
    names = tuple(map(str, range(most))) if classes is None else tuple(classes)
    if len(names) < most or (y.ndim == 2 and len(names) != most):
        raise BadInput(f"{path} has labels for {most} classes, but {len(names)} are named. Name all, or none.")
    images = ImageSet(
        x, y, names, path.stem, off_range=bool((x < 0).any() or (x > 1).any()),
        training={"lr": rates[0]} if len(set(rates)) == 1 else None,
    )  # fmt: skip
    missing = sorted(set(range(len(names))) - set(images.hard.tolist()))
    if missing:
        listed = ", ".join(names[k] for k in missing[:8])
        raise BadInput(f"{path} has no image of class {listed}. Ask for the whole set, or name fewer classes.")
    return images


def experiments(path: str | Path) -> int:
    """How many synthetic sets a file holds.

    Raises:
        NotFound, UnsafeFile, BadInput: as `load_set`.
    """
    path = Path(path)
    return 1 if "set" in read_record(path) else read_published(path).of


def _probabilities(y: Tensor, labels: str, path: Path) -> Tensor:
    if labels == "logits":
        return y.softmax(1)
    sums = y.sum(1)
    if (sums.abs() < 1e-3).all():  # one-hot minus 1/K, as kernel methods have them
        y, sums = y + 1 / y.shape[1], sums + 1
    if (sums - 1).abs().max() > 1e-2 or y.min() < -1e-3:
        raise BadInput(
            f"{path}: soft labels sum to {float(sums.min()):.2f}..{float(sums.max()):.2f}, so they are no "
            "probabilities. Type labels='logits' (--labels logits) if they are logits."
        )
    return torch.clamp(y, min=0)
