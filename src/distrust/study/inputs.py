"""Inputs: what a stage opens: images cut into their roles, models and backdoors that earlier stages left."""

from __future__ import annotations

import functools
import json
from typing import NamedTuple

import torch
from torch import nn

from ..data import ImageSet, Roles, roles
from ..data.sources import images as open_images
from ..errors import BadInput, StoreError
from ..files import load_weights
from ..measurement import Backdoor
from ..models import model as make_model
from ..models.heads import make as make_head
from ..registry import registry
from ..seeds import rng
from ..training import Probe, typical
from .recipes import Recipe
from .stages import Stage
from .store import Record, Store


class Data(NamedTuple):
    """The four roles."""

    train: ImageSet
    clean: ImageSet
    validation: ImageSet
    test: ImageSet


@functools.lru_cache(3)
def _data(recipe: str) -> Data:
    r = json.loads(recipe)
    options = {k: r[k] for k in ("size", "channels", "group") if r.get(k) is not None}
    train, test = open_images(r["source"], **options)
    held, seed = r.get("held", r["clean"]), r["seed"]
    cut: Roles = roles(train, clean=held, validation=r["validation"], rng=rng("roles", seed))
    clean = cut.clean if held == r["clean"] else at_most(cut.clean, round(r["clean"] * len(train)), "clean", seed)
    train = at_most(cut.train, r["train"], "train", seed)
    return Data(train, clean, cut.validation, at_most(test, r["test"], "test", 0))  # one test set for all seeds


def at_most(images: ImageSet, most: int | None, role: str, seed: int) -> ImageSet:
    """So many of the images, drawn by role and seed; smaller draws lie in larger ones."""
    if most is None or most >= len(images):
        return images
    rows = torch.randperm(len(images), generator=rng(role, seed))[:most].sort().values
    return images[rows]


def data(images: Recipe) -> Data:
    """Open and cut the images of a recipe; the last ones stay open."""
    return _data(json.dumps(images, sort_keys=True))


def poison(train: ImageSet, attack: Recipe | None, seed: int) -> tuple[ImageSet, Backdoor | None]:
    """Carry out an attack on training data; it is cheap and seeded, so it is redone and not stored."""
    if attack is None:
        return train, None
    method = registry.get("attacks", attack["name"])
    poisoned = method.made(attack["options"])(train, rng=rng("attack", seed))
    return poisoned.images, poisoned.backdoor


def references(encoder: nn.Module, downstream: ImageSet, attack: Recipe, candidates: int, seed: int) -> ImageSet:
    """Of so many random images of the target class, the most typical: an attacker of this encoder would take them.

    Raises:
        BadInput: the downstream set has none.
    """
    target, count = attack["options"]["target"], registry.get("attacks", attack["name"]).mark.references
    own = (downstream.hard == target).nonzero().flatten()
    if not len(own):
        raise BadInput(f"{downstream.name} has no image of the target, class {target}. Give another target.")
    drawn = own[torch.randperm(len(own), generator=rng("references", seed))[:candidates].to(own.device)]
    return typical(encoder, downstream[drawn], count)


def load_backdoor(stage: Stage, store: Store) -> tuple[Backdoor | None, Record]:
    """The backdoor that a stage's recipe and parents tell of, and what the attack noted: {} of one on training data."""
    planted = next((p for p in reversed(stage.parents) if p.kind in ("attack", "poison")), None)
    if planted is not None:
        text = store.read(planted.key, "trigger.json").decode()
        backdoor = Backdoor.undump(text, store.read(planted.key, "trigger.safetensors"), f"stage {planted.key}")
        return backdoor, (store.record(planted.key) or {}).get("notes", {})
    r = stage.recipe
    if r["attack"] is None:
        return None, {}
    train = data(r["attacked"] if "attacked" in r else r["images"]).train
    return poison(train, r["attack"], r["seed"])[1], {}


def load_model(store: Store, key: str) -> nn.Module:
    """Rebuild the model that a stage made; a choice leads to the model it chose.

    Raises:
        StoreError: the store has no such model.
    """
    record = store.record(key)
    if record is None or record["state"] != "done":
        raise StoreError(f"stage {key} has no model in {store.url}. Run the study again.")
    if "chosen" in record:
        return load_model(store, record["chosen"])
    if "encoder" in record:
        head = make_head(**record["head"])
        head.load_state_dict(store.tensors(key, record["file"]))
        return Probe(load_model(store, record["encoder"]), head).eval()
    spec = record["spec"]
    return load_weights(make_model(**spec), store.tensors(key, record["file"]), f"stage {key}").eval()
