"""Triggers as strangers keep them: a picture, an array, or a pattern with the mask through which it is shown."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadInput, NotFound, notice
from ..pictures import open_picture, picture_in
from ..registry import registry
from ..selectors import checked, schema
from ..tensors import opened

PAIRS = (  # names of a pattern and its mask; of "t" and "tm" as BadEncoder has them: x·tm + t, so tm is what is kept
    ("pattern", "mask"), ("trigger", "mask"), ("patch", "mask"), ("mark", "mask"), ("delta", "mask"),
    ("trigger_pattern", "trigger_mask"), ("trigger", "trigger_mask"), ("mark", "alpha"), ("t", "tm"),
)  # fmt: skip
ALONE = ("pattern", "trigger", "trigger_pattern", "patch", "mark", "perturbation", "uap", "noise", "delta")
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Found:
    """A trigger that a file holds.

    Args:
        trigger: a registered one.
        said: what it is, for a person.
        small: it has no mask, and is pasted into a corner.
    """

    trigger: nn.Module
    said: str
    small: bool = False


def is_picture(path: Path) -> bool:
    """Whether its content is a picture's, whatever it is called."""
    try:
        with picture_in(path):
            return True
    except BadInput:  # of too many pixels
        return True
    except (OSError, SyntaxError, ValueError):  # all of them Pillow's
        return False


def read_trigger(path: str | Path, **options: Any) -> Found:
    """A trigger from a stranger's file, told by its content; nothing in it is run.

    A picture with transparency is a pattern and its mask; without, a patch in the lower right corner. An array is the
    same, [H,W] or [H,W,C] or [C,H,W] with 1, 3 or 4 channels, the fourth being the mask; with negative values it is
    added to the images. An `.npz` or `.pt` may name pattern and mask: `pattern` and `mask`, `trigger` and
    `trigger_mask`, `t` and `tm` and the like. Values are 0..1 or 0..255.

    Args:
        path: the file.
        **options: `size`, the side to which it is resized; `inset`, pixels between a patch and the border; `index`,
            which of several in the file; `invert`, the mask is what is kept of an image; `clear`, "black" where black
            pixels leave the image as it is.

    Raises:
        NotFound: no such file, or option.
        UnsafeFile: opening it would run something.
        BadInput: it holds no trigger, or values that cannot be one; or an option is out of bounds.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput(
            f"{path} is a folder. A trigger is stamped on the test images, so give what is stamped: a picture with "
            "transparency, or an .npz with pattern and mask. Pictures that carry it already do not say what it is."
        )
    if not path.is_file():
        raise NotFound(f"no trigger file {path}. Give a .json, a picture, or an .npz, .npy or .pt with the pattern.")
    given = checked(_OPTIONS, options, "Leave it out, or give another.", f"{path}: ")
    if is_picture(path):
        found = trigger_in(open_picture(path, alpha=True), path, given)
    else:
        found = trigger_in(opened(path), path, given)
    if found is None:
        raise BadInput(
            f"{path} holds no trigger that is known here. Give a picture, an array [H,W,C], or an .npz or .pt with "
            "pattern and mask."
        )
    if found.small and "inset" not in options:
        notice(f"{path}: {found.said}.")
    return found


def _options(
    *,
    size: Annotated[int, Field(ge=1, le=4096)] | None = None,
    inset: Annotated[int, Field(ge=0)] = 0,
    index: Annotated[int, Field(ge=0)] | None = None,
    invert: bool = False,
    clear: Literal["black"] | None = None,
) -> None: ...


_OPTIONS = schema("a trigger's file", inspect.signature(_options, eval_str=True).parameters)


def named_parts(content: Any) -> tuple[str, str] | None:
    """The names of a pattern and its mask in what a file holds; the mask's is "" where there is none."""
    if not isinstance(content, Mapping):
        return None
    arrays = {name for name, part in content.items() if isinstance(name, str) and _is_plane(part)}
    pair = next((pair for pair in PAIRS if {*pair} <= arrays), None)
    return pair or next(((name, "") for name in ALONE if arrays == {name}), None)


def _is_plane(part: Any) -> bool:
    return isinstance(part, np.ndarray | Tensor) and 2 <= part.ndim <= 4 and min(part.shape) > 0


def trigger_in(content: Any, path: Path, given: Mapping[str, Any] | None = None) -> Found | None:
    """The trigger in what `opened` gave; None if there is none.

    Args:
        content: arrays by name, or one array.
        path: the file, for messages.
        given: options as `read_trigger` takes them.

    Raises:
        BadInput: values that cannot be a trigger.
    """
    given = {**checked(_OPTIONS, {}, ""), **(given or {})}
    names = named_parts(content)
    if names is None and not _is_plane(content):
        return None
    first, second = names or ("", "")
    last = isinstance(content, np.ndarray) or (isinstance(content, Mapping) and isinstance(content[first], np.ndarray))
    pattern = _plane(content[first] if first else content, "pattern", path, given["index"], last)
    mask = _plane(content[second], "mask", path, given["index"], last) if second else None
    if float(pattern.min()) < 0:
        if mask is not None:
            raise BadInput(f"{path}: its pattern has values below 0, as if normalised. Give it in 0..1 or 0..255.")
        return _added(pattern, path, given)
    pattern = _scaled(pattern, "pattern", path)
    if mask is None and pattern.shape[0] == 4:
        pattern, mask = pattern[:3], pattern[3:]
        mask = None if bool((mask == 1).all()) else mask
    elif mask is not None:
        mask = _scaled(mask, "mask", path)
        if mask.shape[1:] != pattern.shape[1:]:
            sizes = " and ".join(_size(part) for part in (pattern, mask))
            raise BadInput(f"{path}: pattern and mask differ in size, {sizes}. Give both of one size.")
        if second == "tm" and not _shows_only_in(pattern, mask):  # what is kept of the image
            mask = 1 - mask
            pattern = torch.where(mask > 0, pattern / mask.clamp(min=1e-6), 0).clamp(max=1)
    if given["clear"] == "black" and mask is None:
        mask = (pattern > 0).any(0, keepdim=True).float()
    if given["size"]:
        pattern = _resized(pattern, given["size"])
        mask = None if mask is None else _resized(mask, given["size"])
    triggers = {name: registry.get("triggers", name).call for name in ("patch", "masked")}
    if mask is None:
        said = f"a trigger: a patch of {_size(pattern)}, put in the lower right corner (else: '{path}[inset=2]')"
        return Found(triggers["patch"](pattern=_grey(pattern), inset=given["inset"]), said, small=True)
    mask = 1 - mask if given["invert"] else mask
    share = float(mask.amax(0).mean())
    if not share:
        raise BadInput(
            f"{path}: its mask shows nothing of the pattern. If it says what is kept: '{path}[invert=true]'."
        )
    said = f"a trigger: pattern and mask, {pattern.shape[0]}×{_size(pattern)}, covers {100 * share:.3g} %"
    if share > 0.5 and not given["invert"]:
        said += f" (if the mask says what is kept: '{path}[invert=true]')"
    pattern, mask = _grey(pattern), _grey(mask)
    return Found(triggers["masked"](pattern=pattern, mask=mask), said)


def _added(delta: Tensor, path: Path, given: Mapping[str, Any]) -> Found:
    """Negative values too: what is added to an image, in 0..1 or in 0..255."""
    delta = delta / 255 if float(delta.abs().max()) > 1 else delta
    if float(delta.abs().max()) > 1:
        raise BadInput(f"{path}: its values leave −255..255. Give them in pixel units.")
    if given["size"]:
        delta = _resized(delta, given["size"])
    said = f"a trigger: a perturbation that is added, {delta.shape[0]}×{_size(delta)}"
    return Found(registry.get("triggers", "added").call(perturbation=delta), said)


def _plane(values: Any, name: str, path: Path, index: int | None, last: bool) -> Tensor:
    """Any usual array as float [C,H,W]; where both readings fit, NumPy's have channels last, torch's first."""
    if isinstance(values, np.ndarray) and values.dtype.kind not in "buif":
        raise BadInput(f"{path}: its {name} is of {values.dtype}, and no numbers. Save plain arrays of numbers.")
    part = torch.as_tensor(values).detach()
    if part.is_complex() or part.is_quantized:
        raise BadInput(f"{path}: its {name} is of {part.dtype}. Save plain numbers.")
    part = part.float()
    if part.ndim == 4:
        several, at = len(part), index or 0
        if index is None and several > 1:
            raise BadInput(f"{path} holds {several} triggers. Choose one: '{path}[index=0]' to [index={several - 1}].")
        if at >= several:
            raise BadInput(f"{path} holds {several} triggers; index={at} is none. Give 0..{several - 1}.")
        part = part[at]
    plain = part.ndim == 2
    part = part[None] if plain else part
    fits = part.shape[2] in CHANNELS and not plain, part.shape[0] in CHANNELS
    if fits[0] and (last or not fits[1]):
        part = part.permute(2, 0, 1)
    elif not fits[1]:
        raise BadInput(f"{path}: its {name} is {list(values.shape)}. Give [H,W], [H,W,C] or [C,H,W] with 1, 3 or 4.")
    if not part.isfinite().all():
        raise BadInput(f"{path}: its {name} holds values that are not finite. Ask for another file.")
    return part.clone(memory_format=torch.contiguous_format)  # not the file's own bytes, which may be written anew


def _scaled(part: Tensor, name: str, path: Path) -> Tensor:
    """In 0..1, of values in 0..1 or 0..255."""
    low, most = float(part.min()), float(part.max())
    whole = bool((part == part.round()).all())
    if low < 0 or most > 255 or (1 < most < 8 and not whole):
        raise BadInput(f"{path}: its {name} lies in [{low:.3g}, {most:.3g}]. Give it in 0..1 or 0..255.")
    return part / 255 if most > 1 else part


def _shows_only_in(pattern: Tensor, mask: Tensor) -> bool:
    """The pattern is zero wherever the mask is, and not everywhere."""
    return bool((pattern * (mask == 0)).abs().max() == 0 and pattern.max() > 0)


def _grey(part: Tensor) -> Tensor:
    """One channel, which fits on images of any, where all are alike."""
    return part[:1] if bool((part == part[:1]).all()) else part


def _resized(part: Tensor, side: int) -> Tensor:
    return F.interpolate(part[None], (side, side), mode="bilinear", antialias=True)[0].clamp(-1, 1)


def _size(part: Tensor) -> str:
    return "×".join(map(str, part.shape[1:]))
