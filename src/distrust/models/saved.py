"""One model, one file: safetensors that know how to rebuild the network they belong to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from torch import Tensor, nn

from ..door import Weights, fitted, weights_in
from ..errors import BadInput
from ..files import write_file
from ..tensors import read_record, state_bytes
from .modes import spec_of
from .normalize import Normalize
from .registry import model as make_model

Names = Mapping[str, str | Tensor]  # name in a file → name in the network, or a tensor that the network does not take


def save(model: nn.Module, path: str | Path) -> Path:
    """Write a model as one safetensors file that knows how to rebuild it; `load` reads it.

    Raises:
        StoreError: it cannot be written.
    """
    path = Path(path)
    write_file(path, saved(model, {"taint": []}))
    return path


def saved(model: nn.Module, facts: Mapping[str, Any], names: Names | None = None) -> bytes:
    """The bytes of such a file.

    Tensors are named as the network itself names them, without the statistics that were put in front of a stranger's:
    these are among the facts that the file knows. So the network's own code loads it too.

    Args:
        model: what is written.
        facts: JSON-able, beside the `spec` by which the network is built again.
        names: other names, as `original_names` gives them; what stands for itself is written as it is.
    """
    first, spec = getattr(model, "normalize", None), spec_of(model)
    state = bare(model).state_dict()
    if names is not None:
        kept = {name: state[own] if isinstance(own, str) else own for name, own in names.items()}
        if isinstance(first, Normalize) and "normalize.mean" not in names.values():
            spec = {**spec, "normalize": first.statistics}
        state = kept
    return state_bytes(state, {"spec": spec or None, **facts})


def load(path: str | Path, *, model: str | None = None, key: str | None = None, **shape: Any) -> nn.Module:
    """Read a model: a file that `save` or a command wrote, or any checkpoint whose `model` is named.

    Args:
        path: a .safetensors or .pt file; it is opened without running anything.
        model: name or `file.py:factory`, for a file that does not know its own, or whose code would be run.
        key: which of the file's sets of weights, where it holds several.
        **shape: classes, channels and size of that model, and what else `distrust.model` takes.

    Raises:
        NotFound, UnsafeFile, BadInput: as `distrust measure` says them.
    """
    known = read_record(path).get("spec") or {}
    spec = (known if "name" in known else {}) if model else spec_in(path, "model='{}'", ", classes=10")
    network, _ = filled({**spec, **({"name": model} if model else {}), **shape}, weights_in(path), path, key=key)
    return network.eval()


def filled(
    spec: Mapping[str, Any],
    found: Sequence[Weights],
    source: object,
    *,
    key: str | None = None,
    normalized: bool = True,
) -> tuple[nn.Module, Weights | None]:
    """Build the network of a spec and put a file's weights into it; statistics come in front afterwards.

    Args:
        spec: what `distrust.model` takes.
        found: the sets of a file; none leaves the network as it is built.
        source: the file, for messages.
        key: which of the sets.
        normalized: if not, a file that holds statistics is refused until they are given.

    Returns:
        The network, and the set that was taken.

    Raises:
        NotFound, BadInput: as `distrust.model` and `door.fitted`.
    """
    given = dict(spec)
    normalize = given.pop("normalize", None)
    network = make_model(**given)
    gone = tuple(f"{path}." for path, module in network.named_modules() if isinstance(module, nn.Identity))
    taken = None
    if found:
        ignored = () if given.get("head", True) else gone
        said = normalized or normalize is not None
        taken = fitted(network, found, source, key=key, ignored=ignored, normalized=said)
    return (behind(Normalize(*normalize), network) if normalize else network), taken


def behind(first: Normalize, network: nn.Module) -> nn.Module:
    """Put statistics into a model: into its own Normalize, or as a layer in front of it."""
    spec = {**spec_of(network), "normalize": first.statistics}
    if isinstance(getattr(network, "normalize", None), Normalize):
        network.normalize = first
    else:
        network = nn.Sequential(OrderedDict(normalize=first, model=network))
    network.spec = spec  # type: ignore[assignment]
    return network


def bare(model: nn.Module) -> nn.Module:
    """A stranger's network without the statistics that were put in front of it; any other is itself."""
    parts = dict(model.named_children()) if isinstance(model, nn.Sequential) else {}
    return parts["model"] if [*parts] == ["normalize", "model"] else model


def original_names(found: Sequence[Weights], taken: Weights | None) -> Names | None:
    """How a file names what a network took of it, wrappers and prefixes included; None without a file.

    Args:
        found: the sets of the file.
        taken: the set that was taken, as `filled` gives it, or a part of one.
    """
    if taken is None:
        return None
    own = {id(tensor): name for name, tensor in taken.tensors.items()}
    sets = [one for one in found if one.named and taken.path.startswith(one.path)]
    best = max(sets, key=lambda one: sum(id(tensor) in own for tensor in one.named.values()))
    return {name: own.get(id(tensor), tensor) for name, tensor in best.named.items()}


def spec_in(path: str | Path, named: str = "--model {}", more: str = "") -> dict[str, Any]:
    """Which model a file that Distrust wrote is of.

    Args:
        path: the file.
        named: how a caller names one, for the error.
        more: what else is named where the file says nothing.

    Raises:
        BadInput: it does not say, or names a Python file: a file that somebody sends must not choose code to run.
    """
    spec = read_record(path).get("spec")
    if not spec or "name" not in spec:
        ours, own = named.format("wrn16-1"), named.format("my.py:factory")
        raise BadInput(f"{path} does not say which model it is. Type {ours}{more}, or {own}{more}.")
    if ".py:" in (name := spec["name"]):
        typed = named.format(quote(name) if "'" not in named else name)
        raise BadInput(f"{path} is a {name}, a Python file that would be run. Type {typed}.")
    return spec
