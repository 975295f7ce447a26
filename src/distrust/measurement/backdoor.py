"""Backdoor: a trigger and its target; the success predicate, and its file."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from markupsafe import escape
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ..bounds import bounded
from ..data.images import ImageSet, as_8_bit
from ..errors import BadInput, DistrustError, NotFound
from ..files import write_file
from ..pictures import figure, sheet
from ..registry import registry
from ..selectors import divided, lowered, parse_one
from .predict import predict
from .strangers import read_trigger


class _Facts(BaseModel, strict=True):
    """All of a record but the trigger."""

    target: Annotated[int, Field(ge=0)]
    rule: Literal["all-to-one"]
    stamp: Literal["before", "after"]
    name: str
    as_published: bool


FACTS = tuple(_Facts.model_fields)


@dataclass(frozen=True)
class Backdoor:
    """A trigger, the class it should lead to, and how it was planted.

    Args:
        trigger: a module, images [B,C,H,W] in 0..1 → the same images with the trigger.
        target: class number.
        rule: which images go where; "all-to-one": every image goes to `target`.
        stamp: whether poisoned training images were stamped "before" or "after" augmentation.
        name: of the attack, for records.
        as_published: keep pixel values that no image file can hold (flagged).
    """

    trigger: nn.Module
    target: int
    rule: Literal["all-to-one"] = "all-to-one"
    stamp: Literal["before", "after"] = "before"
    name: str = "backdoor"
    as_published: bool = False

    def stamp_on(self, images: Tensor) -> Tensor:
        """Float images [B,C,H,W] in 0..1 with the trigger, clamped and rounded to 8 bits (unless as_published).

        Raises:
            BadInput: the trigger is for images of another shape.
        """
        try:
            with torch.no_grad():
                stamped = self.trigger(images)
        except BadInput as error:
            file = trigger_file(self.name)
            advice = str(error).replace("FILE", str(file).partition("[")[0]) if file else str(error)
            raise BadInput(advice) from None
        except RuntimeError as error:
            shape = "×".join(map(str, images.shape[1:]))
            raise BadInput(f"trigger {self.name} does not fit on images of {shape} ({error}). Give another.") from None
        return stamped if self.as_published else as_8_bit(stamped)

    def shown(self, images: ImageSet | Tensor) -> str:
        """HTML for a notebook: images, the same with the trigger, and ten times the difference around mid grey.

        Args:
            images: a set, of which the first eight of other classes than the target are taken, or float [N,C,H,W].

        Raises:
            BadInput: as `stamp_on`.
        """
        if isinstance(images, ImageSet):
            named = images.classes[self.target]
            x = images.pixels((images.hard != self.target).nonzero().flatten()[:8])
        else:
            x, named = images, str(self.target)
        stamped = self.stamp_on(x)
        drawn = sheet([x, stamped, 0.5 + 10 * (stamped - x)])
        caption = "Clean, triggered, and ten times the difference around mid grey."
        return figure(f"{self.name} → class {named}", drawn, caption)

    def _repr_html_(self) -> str:
        """The trigger on a grey ramp of 32 pixels or, if it is for images of one size, of that."""
        made_for = [value.shape[-3:] for value in self.trigger.state_dict().values() if value.ndim >= 3]
        for channels, height, width in ((3, 32, 32), *made_for):
            with contextlib.suppress(BadInput):
                return self.shown(torch.linspace(0.2, 0.8, width).expand(1, channels, height, width))
        return escape(self.name)

    def hit(self, model: nn.Module, images: Tensor) -> Tensor:
        """bool [N]: which float images [N,C,H,W], once stamped, the model calls the target."""
        return predict(model, images, self) == self.target

    def save(self, path: str | Path) -> Path:
        """Write `<path>.json`, and the trigger's pixels beside it as `<path>.safetensors`; return the former.

        Raises:
            BadInput: the trigger is no registered one, so nothing could rebuild it.
            StoreError: they cannot be written.
        """
        path = Path(path)
        path = path if path.suffix == ".json" else path.with_name(f"{path.name}.json")
        text, tensors = self.dump()
        write_file(path.with_suffix(".safetensors"), tensors)
        write_file(path, text.encode())
        return path

    def dump(self) -> tuple[str, bytes]:
        """The two files' contents."""
        known = {method.call: name for name, method in registry.kind("triggers").items()}
        kind = known.get(type(self.trigger))
        if kind is None:
            raise BadInput(
                f"{type(self.trigger).__name__} is no registered trigger, so it cannot be written down. "
                f"Known: {', '.join(known.values())}; or mark it with @trigger in a file given as --plugin."
            )
        recipe: dict[str, Any] = self.trigger.recipe  # type: ignore[assignment]
        plain = {k: v for k, v in recipe.items() if not isinstance(v, Tensor)}
        tensors = {k: v.contiguous() for k, v in recipe.items() if isinstance(v, Tensor)}
        record = {"trigger": kind, "options": plain, "tensors": sorted(tensors)}
        return json.dumps(record | {fact: getattr(self, fact) for fact in FACTS}, indent=1), save(tensors)

    @classmethod
    def load(cls, path: str | Path) -> Backdoor:
        """Read what `save` wrote.

        Raises:
            NotFound: no such file, or an unknown trigger or option.
            BadInput: the file is not a backdoor's record, or an option is out of bounds.
        """
        path = Path(path)
        if not path.is_file():
            raise NotFound(f"no trigger file {path}. Give the .json that `Backdoor.save` wrote.")
        tensors = path.with_suffix(".safetensors")
        try:
            text, pixels = bounded(path, "record").decode(), tensors.read_bytes() if tensors.is_file() else b""
            return cls.undump(text, pixels, str(path))
        except (UnicodeDecodeError, OSError) as error:
            raise BadInput(f"{path} is not a backdoor's record ({error}). Write one with Backdoor.save.") from None

    @classmethod
    def undump(cls, text: str, tensors: bytes, source: str = "this") -> Backdoor:
        """What `dump` gave, as a backdoor again; `source` is named in errors.

        Raises:
            NotFound, BadInput: as `load`.
        """
        try:
            record = json.loads(text)
            pixels = load(tensors) if record["tensors"] else {}
            facts = _Facts(**{fact: record[fact] for fact in FACTS}).model_dump()
            method = registry.get("triggers", record["trigger"])
            trigger = method.call(**method.check(record["options"] | pixels))
        except DistrustError:
            raise
        except (ValueError, LookupError, TypeError, RuntimeError, RecursionError, SafetensorError) as error:
            said: Any = error
            if isinstance(error, ValidationError):
                why = error.errors()[0]
                said = f"{why['loc'][0]}: {lowered(why['msg'])}"
            raise BadInput(f"{source} is not a backdoor's record ({said}). Write one with Backdoor.save.") from None
        return cls(trigger, **facts)


def make_trigger(text: str | nn.Module, **defaults: Any) -> nn.Module:
    """A trigger from its selector, or from a file: `patch:grid`, `patch:white:3`, `blend:FILE`, `sig`, `badge.png`.

    Words after colons are the trigger's first options in order, and options may stand in brackets, as in
    `patch:grid[inset=4]`; `defaults` fill options not given in the text, where the trigger has them. A file is what
    `Backdoor.save` wrote, or a stranger's, as `read_trigger` takes it: `badge.png[inset=2]`, `mask.npz[size=32]`.

    Raises:
        NotFound: an unknown trigger, file or option.
        BadInput: a value out of bounds, or too many words.
        UnsafeFile: opening a stranger's file would run something.
    """
    if isinstance(text, nn.Module):
        return text
    if file := trigger_file(text):
        if text.endswith(".json") or _is_record(file):
            return Backdoor.load(file).trigger
        given = {} if text == str(file) else parse_one(text).options
        return read_trigger(file, **given).trigger
    selector = parse_one(text)
    name, *words = divided(selector.name, ":")
    method = registry.get("triggers", name)
    if len(words) > len(method.options):
        raise BadInput(f"trigger {text!r} has {len(words)} words; {name} takes {', '.join(method.options)}.")
    given = dict(zip(method.options, words, strict=False)) | selector.options
    given |= {k: v for k, v in defaults.items() if k in method.options and k not in given}
    return method.call(**method.check(given))


def trigger_file(text: str) -> Path | None:
    """The file that a trigger selector is, which no trigger's name can be; None for words such as patch:grid."""
    if text.endswith(".json"):
        return Path(text)
    name = text.partition("[")[0].strip()
    word = name.partition(":")[0]
    there = next((path for path in (Path(text), Path(name)) if path.exists()), None)  # a file's name may have brackets
    if {".", "/", "\\"} & {*word}:
        return there or Path(name)
    return there if there and word not in registry.kind("triggers") else None


def _is_record(file: Path) -> bool:
    """What `Backdoor.save` wrote, under another name."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(64).lstrip().startswith(b"{")


def trigger_files(text: Any) -> dict[str, str]:
    """SHA-256 of the files a trigger selector reads, so that a record knows their contents."""
    if not isinstance(text, str):
        return {}
    file = trigger_file(text)
    files = [file] if file else [Path(p) for p in divided(parse_one(text).name, ":")[1:]]
    files = [p for p in files if p.is_file()]
    files += [p.with_suffix(".safetensors") for p in files if p.suffix == ".json"]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()}
