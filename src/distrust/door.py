"""Door: which weights are in a file that somebody brings, and which of them a network takes. Nothing of it is run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import BadInput, NotFound
from .tensors import load_weights, needed, opened

WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
ASIDE = re.compile(r"(^|[._])(optim\w*|sched\w*|scaler|criterion|rng\w*)($|[._0-9])", re.I)  # no network's
SEEMS = {  # words in a path → what such weights are
    r"ema|averag|swa|shadow|polyak": "averaged",
    r"encoder_k|momentum|target": "a momentum copy",
    r"encoder_q|online": "the trained encoder of a pair",
    r"teacher": "a teacher",
    r"student": "a student",
    r"discriminator|netd": "a discriminator",
}
MEANS, STDS = r"(.*[._])?(new_)?(mu|mean|means)", r"(.*[._])?(new_)?(sigma|std|stds)"
STATISTIC = re.compile(f"{MEANS}|{STDS}")
QUANTISED = re.compile(  # names that say so: of bitsandbytes, GPTQ and AWQ, HQQ, quanto, scaled floats
    r"(.*[._])?(SCB|weight_format|absmax|quant_map|quant_state\..*|qweight|qzeros|W_q|weight\._(data|scale)"
    r"|weight_(scale(_inv)?|zero_point|packed))"
)
FEWEST = 4  # arrays, or tensors without names, that may be a network's
DEEPEST = 32  # levels of lists and mappings in a checkpoint that are looked through


@dataclass(frozen=True)
class Weights:
    """One set of tensors in a file.

    Args:
        path: where it lies, as `--key` takes it: "" is the whole file; "state_dict", "models.0", "net.encoder_q".
        tensors: by name; what wraps whole models (`module.`, `_orig_mod.`) is taken off.
        beside: names of entries among them that are no tensors.
        quantised: an entry that says that these are no weights by themselves, but numbers to be scaled; "" if none.
        named: the set as the file names it, before wrappers are taken off.
    """

    path: str
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()
    quantised: str = ""
    named: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def seems(self) -> str:
        """What such weights usually are, by the words in their path; "" for what has no such word."""
        return next((what for words, what in SEEMS.items() if re.search(words, self.path, re.I)), "")

    def __str__(self) -> str:
        said = (f"{len(self.tensors)} tensors", self.seems, self.quantised and "quantised")
        facts = ", ".join(filter(None, said))
        return f"{self.path or 'the file itself'} ({facts})"


def weights_in(path: str | Path) -> list[Weights]:
    """Every set of tensors in a file, of which an optimiser's state is none.

    Args:
        path: a .safetensors or .pt file, whatever its ending.

    Raises:
        NotFound: no such file.
        UnsafeFile: opening it would import and call something; lists what.
        BadInput: it is damaged, of another kind, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"no weights file {path}. Give a .safetensors or .pt file.")
    content = opened(path)
    found = sets_in(content)
    if not found:
        held = ", ".join(map(str, content)) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise BadInput(f"{path} holds no weights; it has: {held or 'nothing'}. Ask for model.state_dict().")
    return found


def sets_in(content: Any) -> list[Weights]:
    """The sets of tensors in what `tensors.opened` gave; what it contains twice is looked through once."""
    return list(_sets(content, "", set(), 0))


def _sets(content: Any, path: str, known: set[int], depth: int) -> Iterator[Weights]:
    """The mappings in it that hold tensors by name, outer ones first."""
    if isinstance(content, str | bytes) or not isinstance(content, Mapping | Sequence):
        return
    first = id(content) not in known and depth <= DEEPEST
    known.add(id(content))
    inner: Iterable[tuple[Any, Any]] = enumerate(content)
    if isinstance(content, Mapping):
        if "param_groups" in content:
            return  # an optimiser's state
        named = _as_tensors({str(k): v for k, v in content.items() if isinstance(k, str | int)})
        tensors = {k: v for k, v in named.items() if isinstance(v, Tensor)}
        quantised = _quantised(named)
        if (quantised or any(t.ndim for t in tensors.values())) and not ASIDE.search(path):
            beside = tuple(k for k, v in named.items() if not isinstance(v, Tensor | Mapping | list | tuple))
            yield Weights(path, _unwrapped(tensors), beside, quantised, tensors)
        inner = named.items()
    elif all(isinstance(v, Tensor) for v in content) and sum(v.is_floating_point() for v in content) >= FEWEST:
        if not ASIDE.search(path):  # as averages are kept: in the order of the network's parameters
            yield Weights(path, {str(i): v for i, v in enumerate(content)})
        return
    for name, part in inner if first else ():
        yield from _sets(part, f"{path}.{name}" if path else str(name), known, depth + 1)


def _as_tensors(named: dict[str, Any]) -> dict[str, Any]:
    """The same with NumPy's arrays of numbers as tensors, if there are many: some keep their weights so."""
    arrays = {
        k: v for k, v in named.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiu" and v.dtype.isnative
    }
    if len(arrays) < FEWEST:
        return named
    return {**named, **{k: torch.from_numpy(v) for k, v in arrays.items()}}


def _quantised(named: Mapping[str, Any]) -> str:
    """The first entry of a state dict that says that it is quantised: by a tensor's type, or by its name."""
    for name, value in named.items():
        if isinstance(value, Tensor) and value.is_quantized:
            return f"{name}: {str(value.dtype).removeprefix('torch.')}"
        if "_packed_params" in name:  # torch.ao's layers
            return name
    packed = any(isinstance(t, Tensor) and t.ndim > 1 and _packs(t.dtype) for t in named.values())
    return next((name for name in named if packed and QUANTISED.fullmatch(name)), "")


def _packs(dtype: torch.dtype) -> bool:
    """Whole numbers, or fractions of 8 bits."""
    return dtype.itemsize == 1 or not (dtype.is_floating_point or dtype.is_complex)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DataParallel, DDP, torch.compile and weight averaging put around a whole model."""
    names = {name: WRAPPERS.sub("", name) for name in tensors if name != "n_averaged"}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {name: WRAPPERS.sub("", short.removeprefix("module.")) for name, short in names.items()}
    return {short: tensors[name] for name, short in names.items()}


def at_key(found: Sequence[Weights], key: str, source: object) -> list[Weights]:
    """The sets at a key, which is a set's path, or goes on into the names: "state_dict.backbone".

    Raises:
        NotFound: there is none; lists what there is.
    """
    exact = [one for one in found if one.path == key]
    if exact:
        return exact
    inside = []
    for one in found:
        prefix = key if not one.path else key.removeprefix(f"{one.path}.") if key.startswith(f"{one.path}.") else ""
        if prefix and (part := _below(one.tensors, prefix)):
            inside.append(Weights(key, part, quantised=_quantised(part)))
    below = [one for one in found if one.path.startswith(f"{key}.")]
    if inside or below:
        return inside or below
    known = [one.path for one in found if one.path]
    known += [f"{one.path}.{prefix}" if one.path else prefix for one in found for prefix in _prefixes(one.tensors, 1)]
    raise NotFound.among(f"key in {Path(str(source)).name}", key, known)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return _unwrapped({name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)})


def _prefixes(tensors: Mapping[str, Tensor], most: int = 4) -> list[str]:
    """Beginnings of names that end before a dot, short ones first."""
    found = dict[str, None]()
    for depth in range(1, most + 1):
        for name in tensors:
            parts = name.split(".")
            if len(parts) > depth:
                found[".".join(parts[:depth])] = None
    return list(found)


def fitted(
    network: nn.Module,
    found: Sequence[Weights],
    source: object,
    *,
    key: str | None = None,
    ignored: tuple[str, ...] = (),
    normalized: bool = True,
) -> Weights:
    """Put weights into `network`, in place; of several sets that fit and differ none is chosen for the user.

    Args:
        network: takes them.
        found: the sets of a file, as `weights_in` gives them.
        source: the file, for messages.
        key: which set: its path, or a prefix of its names.
        ignored: beginnings of names that the network does without, such as the head of an encoder.
        normalized: it is said how images are normalised; if not, statistics in the file are asked for.

    Returns:
        The set that was taken.

    Raises:
        NotFound: as `at_key`.
        BadInput: no set fits (says what is nearest, and what to type), or several do that differ; or they are no
            weights by themselves, being quantised.
    """
    found = found if key is None else at_key(found, key, source)
    own = network.state_dict()
    every = [fit for one in found for fit in _fits(one, own, ignored)]
    fits = _distinct(every)
    if len(fits) > 1:
        raise BadInput(
            f"{source} holds {len(fits)} sets of weights that fit and differ: {'; '.join(map(str, fits))}. Each may "
            f"behave otherwise. Choose one, or judge each: --key {quote(fits[0].path or fits[1].path)}."
        )
    if not fits:
        nearest = max(found, key=lambda one: len(own.keys() & one.tensors.keys()))
        _refuse_quantised(nearest, source)
        _explain(own, nearest, source)
        load_weights(network, _kept(nearest.tensors, ignored), str(source))  # says what does not fit
    (chosen,) = fits
    if key is None and (rival := _rival(network, found, every)):
        raise BadInput(
            f"{source} holds, beside the weights that fit, {rival}: as many of the same shapes under other names, "
            "which may behave otherwise and cannot be judged so. Ask for each as a state_dict() of its own, or judge "
            f"the one that fits: --key {quote(chosen.path)}."
        )
    _check_types(chosen, own, source)
    if not normalized and (said := _statistics(found, every)):
        mean, std = (",".join(map(str, part)) for part in said)
        zero, one = (",".join([digit] * len(said[0])) for digit in "01")
        raise BadInput(
            f"{source} holds statistics beside the weights, by which images are normalised. Type --mean {mean} "
            f"--std {std}; if the network does that by itself, --mean {zero} --std {one}."
        )
    load_weights(network, chosen.tensors, str(source))
    return chosen


def _rival(network: nn.Module, found: Sequence[Weights], fits: Sequence[Weights]) -> Weights | None:
    """A set, or what is left of one, that looks like the same network's weights, but does not fit by its names."""
    wanted = Counter(p.shape for p in network.parameters() if p.ndim > 1)
    taken = {id(tensor) for fit in fits for tensor in fit.tensors.values()}
    for one in found:
        rest = {name: t for name, t in one.tensors.items() if id(t) not in taken}
        if wanted and wanted <= Counter(t.shape for t in rest.values()):
            return Weights(one.path, rest)
    return None


def _kept(tensors: Mapping[str, Tensor], ignored: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(ignored)}


def _fits(weights: Weights, own: Mapping[str, Tensor], ignored: tuple[str, ...]) -> Iterator[Weights]:
    """The set, and what lies below prefixes of its names, as far as the network takes it, statistics left out."""
    wanted = {*needed(own)}
    for prefix in ("", *_prefixes(weights.tensors)):
        below = _below(weights.tensors, prefix) if prefix else weights.tensors
        ways = [(below, prefix)]
        if prefix and not any(name.startswith(f"{prefix}.") for name in own):  # `backbone.` and, beside it, the head
            beside = {name: t for name, t in weights.tensors.items() if not name.startswith(f"{prefix}.")}
            ways.append(({**beside, **below}, ""))
        for whole, where in ways:
            part = _kept(whole, ignored)
            part = {name: t for name, t in part.items() if name in own or not STATISTIC.fullmatch(name)}
            if wanted <= part.keys() <= own.keys() and all(own[k].shape == t.shape for k, t in part.items()):
                said = () if prefix else weights.beside
                yield Weights(".".join(filter(None, (weights.path, where))), part, said)
                break


def _distinct(fits: Iterable[Weights]) -> list[Weights]:
    """Without those whose tensors equal an earlier one's: the same network under two names."""
    found: list[Weights] = []
    for fit in fits:
        if not any(_equal(fit.tensors, other.tensors) for other in found):
            found.append(fit)
    return found


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def _check_types(weights: Weights, own: Mapping[str, Tensor], source: object) -> None:
    """Refuse what nobody can judge: quantised numbers, whole ones in the place of fractions, and NaN or infinity.

    Raises:
        BadInput: names the first of them.
    """
    for name, tensor in weights.tensors.items():
        if tensor.is_quantized:
            _refuse_quantised(Weights("", {}, quantised=f"{name}: {tensor.dtype}"), source)
        if own[name].is_floating_point() and not tensor.is_floating_point():
            raise BadInput(
                f"{source}: {name} holds whole numbers ({tensor.dtype}) where the network has fractions; their scale "
                "is not in the file. Ask for the float weights."
            )
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise BadInput(
                f"{source}: {name} holds values that are not finite (NaN or infinity). Nothing can be judged of such a "
                "model. Ask for another file."
            )


def _refuse_quantised(weights: Weights, source: object) -> None:
    if weights.quantised:
        raise BadInput(
            f"{source} is a quantised model ({weights.quantised}). Ask for the float weights, or dequantise it and "
            "save its state_dict() again."
        )


def _statistics(found: Sequence[Weights], fits: Sequence[Weights]) -> tuple[list[float], list[float]] | None:
    """Mean and std per channel that a file holds beside the sets that fit, by their names; None without any."""
    known = {id(tensor) for fit in fits for tensor in fit.tensors.values()}
    beside = {k: t for one in found for k, t in one.tensors.items() if id(t) not in known and t.numel() in (1, 3)}
    pair = [[t for name, t in beside.items() if re.fullmatch(words, name)] for words in (MEANS, STDS)]
    if not all(pair):
        return None
    mean, std = ([round(float(v), 4) for v in tensors[0].flatten()] for tensors in pair)
    return mean, std


def _explain(own: Mapping[str, Tensor], weights: Weights, source: object) -> None:
    """Raise BadInput if it is known why a set does not fit; else leave it to the list of what does not."""
    given = weights.tensors
    if all(name.isdigit() for name in given):
        raise BadInput(
            f"{source} holds tensors without names, in an order that only the code knows that wrote them. Put them "
            "into the network there, and save its state_dict()."
        )
    others = [k for k in own.keys() & given.keys() if own[k].shape != given[k].shape]
    alike = [k for k in others if own[k].ndim == given[k].ndim and own[k].shape[1:] == given[k].shape[1:]]
    ends = {(given[k].shape[0], own[k].shape[0]) for k in alike}
    if others and len(others) <= 2 and len(ends) == 1 and given.keys() <= own.keys():
        ((theirs, ours),) = ends
        raise BadInput(
            f"the model in {source} has {theirs:,} classes, the images {ours:,}. Give images of its classes, or name "
            "all of them in a file: --classes FILE."
        )
