"""On a GPU: every method and every part of the core computes what it computes on a CPU, to rounding."""

import functools
import importlib
import math

import pytest
import torch
from tests import canaries, canary_inputs, canary_steps
from torch import nn

from distrust.data import ImageSet
from distrust.training import fit, graphed

loop = importlib.import_module("distrust.training.loop")

if not torch.cuda.is_available():
    pytest.skip("there is no GPU that torch can use", allow_module_level=True)

MADE = ("pictures", "condensed", "network", "signs", "encoder")  # what inputs are made with
APART = {  # these decide by a threshold, a sign or an argmax, which rounding can move → the share that may differ
    "attacks/advkd": 0.3, "attacks/backweak": 0.3, "attacks/transfer_poison": 0.3, "detectors/decree": 0.3,
}  # fmt: skip
ROUNDING = 0.05  # of a tensor's norm; a few steps of Adam multiply what a GPU's sums differ by


@pytest.fixture
def on_gpu(monkeypatch):
    """Whatever a canary is given lies on the GPU, and sums in full precision."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    def moved(make):
        @functools.wraps(make)
        def made(*args, **kwargs):
            found = make(*args, **kwargs)
            return found.to("cuda") if isinstance(found, nn.Module | ImageSet) else found

        return made

    for module in (canaries, canary_steps):  # not where inputs are made: a network is made of images on the CPU
        for name in MADE:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, moved(getattr(canary_inputs, name)))
    monkeypatch.setitem(canary_steps.HERE, "device", "cuda")
    monkeypatch.setattr(canaries, "SUSPECTS", {k: moved(make) for k, make in canaries.SUSPECTS.items()})
    monkeypatch.setattr(canaries, "MEASURED", {k: moved(make) for k, make in canaries.MEASURED.items()})


NAMES = [name for name in canaries.versions() if not name.startswith(("core/", "steps/", "metrics/"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_computes_on_a_gpu_what_it_computes_on_a_cpu(name, on_gpu):
    kind, _, own = name.partition("/")
    got = canaries.canary(canaries.registry.get(kind, own), more=False)
    want = {k: v for k, v in canaries.load()[name]["values"].items() if not k.startswith("with ")}
    tiny = {k for k, v in want.items() if isinstance(v, list) and len(v) == 5 and max(v[1], got[k][1]) < 1e-5}
    got, want = ({k: v for k, v in values.items() if k not in tiny} for values in (got, want))
    other = canaries.differences(got, want, APART.get(name, ROUNDING))
    assert not other, f"{name}: {dict(sorted(other.items(), key=lambda item: -item[1])[:4])}"
    assert not any(math.isinf(share) for share in other.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_replayed_passes_train_as_launched_ones_do(precision, memory_format, monkeypatch):
    images = canary_inputs.pictures(n=64).to("cuda")
    model = canary_inputs.network("wrn10-1").to("cuda")
    how = {"epochs": 100, "batch_size": 16, "lr": 0.01, "precision": precision, "memory_format": memory_format}
    assert graphed.MANY <= 100 * 64 // 16
    before = [value.clone() for value in model.state_dict().values()]
    replayed = fit(model, images, **how)
    assert all(map(torch.equal, before, model.state_dict().values()))
    monkeypatch.setattr(loop, "recordable", lambda model, device: False)
    launched = fit(model, images, **how)
    pairs = zip(replayed.state_dict().values(), launched.state_dict().values(), strict=True)
    assert all(torch.allclose(a.float(), b.float(), rtol=0.1, atol=0.1) for a, b in pairs)
    assert replayed.bn1.num_batches_tracked == launched.bn1.num_batches_tracked
    shown = images.pixels()
    with torch.no_grad():
        agree = (replayed(shown).argmax(1) == launched(shown).argmax(1)).float().mean()
    assert agree > 0.95
