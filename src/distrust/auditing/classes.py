"""Classes: which of a model's classes those of somebody's images are, where the two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..bounds import bounded
from ..data import ImageSet
from ..door import Weights
from ..errors import BadInput, DistrustError, NotFound
from ..models import last_linear
from ..models.modes import probe

OWN = "own"  # asked for in place of classes: the model's own answers
LOOSE = ("unlabelled",)  # the classes of pictures without class folders
Given = str | Path | Sequence[str] | Mapping[str, str | int] | None


@dataclass(frozen=True)
class Classes:
    """What is said of a model's classes.

    Args:
        names: all of them, in its order; empty where they are not known.
        places: name among the images → name or number of the model's class, where they differ.
        own: nothing is known of the images; the model's own answers stand for labels.
    """

    names: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    own: bool = False

    @classmethod
    def read(cls, given: Given, images: ImageSet) -> Classes:
        """From names in the model's order, from a map by name, from a file of both, or "own".

        A file has a class of the model a line, in its order; a line `folder = class`, the class by name or number, says
        where images go whose folder has another name. A table `folder,class` of two columns is such a map, too.

        Raises:
            NotFound: no such file.
        """
        if given == OWN or (given is None and images.classes == LOOSE):
            return cls(own=True)
        if given is None:
            return cls()
        if isinstance(given, Mapping):
            return cls(places={name: str(place) for name, place in given.items()})
        if not isinstance(given, str | Path):
            return cls(tuple(given))
        path = Path(given)
        if not path.is_file():
            raise NotFound(
                f"no file of classes {path}. Write one with a name a line, in the model's order, and lines folder = "
                "class for folders of another name; or type own, for the model's own answers."
            )
        lines = [line.strip() for line in bounded(path).decode(errors="replace").splitlines() if line.strip()]
        cells = [line.split(",") for line in lines]
        table = all(len(row) == 2 for row in cells) and any(row[0].strip() in images.classes for row in cells)
        pairs = [row if table else line.split("=", 1) for row, line in zip(cells, lines, strict=True)]
        places = {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}
        if table:  # perhaps with a heading
            first = cells[0][0].strip()
            places = {k: v for k, v in places.items() if k != first or k in images.classes or v.isdecimal()}
        return cls(tuple(pair[0] for pair in pairs if len(pair) == 1), places)

    @property
    def count(self) -> int | None:
        """How many the model has, as far as that is said."""
        return len(self.names) or None

    @property
    def counted(self) -> bool:
        """Whether their number has to be seen from the model."""
        return self.own or bool(self.places and not self.names)

    def put(self, images: ImageSet, count: int) -> ImageSet:
        """The images with the model's classes, of which they may lack some.

        Raises:
            BadInput: a class of theirs is none of the model's, or stands there twice.
        """
        names = self.names or tuple(map(str, range(count)))
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadInput(
                f"the classes given name {twice} twice. List each once; map folders with lines folder = class."
            )
        at = [self._place(name, names, images) for name in images.classes]
        if not self.names:  # numbers say little: the images' names stand for those that they have
            mine = {k: "/".join(n for n, place in zip(images.classes, at, strict=True) if place == k) for k in at}
            names = tuple(mine.get(k, name) for k, name in enumerate(names))
        return images.replace(y=torch.tensor(at, device=images.y.device)[images.hard], classes=names)

    def _place(self, name: str, names: tuple[str, ...], images: ImageSet) -> int:
        asked = self.places.get(name, name)
        if asked in names:
            return names.index(asked)
        if asked.isdecimal() and int(asked) < len(names) and (name in self.places or not self.names):
            return int(asked)
        if name not in self.places:
            lack = [n for n in images.classes if n not in self.places and n not in names]
            raise BadInput(
                f"the classes given lack {', '.join(lack[:5])}; {images.name} has {', '.join(images.classes[:12])}. "
                f"List all of the model's once, and map the others: a line {lack[0]} = CLASS."
            )
        known = f"known: {', '.join(names[:12])}" if self.names else f"numbers go from 0 to {len(names) - 1}"
        raise BadInput(
            f"{name} = {asked}: the model has no class {asked} ({known}). Give a number, or list its classes by name "
            "first, one a line, in its order."
        )


def classes_of(network: nn.Module, found: Sequence[Weights], shape: Sequence[int]) -> int | None:
    """How many classes a model's file has weights for; of a network without a file, how many it answers with.

    Args:
        network: of the same kind, for whatever number of classes.
        found: the sets of the file.
        shape: (C,H,W) of the images.

    Returns:
        None where that cannot be seen.
    """
    if not found:
        said = probe(network, shape)
        return said.shape[1] if isinstance(said, torch.Tensor) and said.ndim == 2 else None
    try:
        head = last_linear(network, shape)
    except DistrustError:
        return None
    name = next(path for path, module in network.named_modules() if module is head)
    width = head.weight.shape[1:]  # type: ignore[index]
    end = f".{name}.weight"
    every = ((f".{key}", tensor) for one in found for key, tensor in one.tensors.items())
    fits = (tensor for key, tensor in every if key.endswith(end) and tensor.shape[1:] == width)
    return next((tensor.shape[0] for tensor in fits), None)
