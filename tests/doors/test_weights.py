"""Which weights of a file are judged: one set whatever is put around it, of several none that was not chosen."""

from __future__ import annotations

import argparse
import pathlib
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from .bring import JUDGED, ON, TRIGGER, caught, kept, like, passed, refused, typed, under

HEAD = {"projector.0.weight": torch.zeros(4, 4), "projector.0.bias": torch.zeros(4)}
OTHER_HEAD = {"classifier.weight": torch.zeros(10, 64), "classifier.bias": torch.zeros(10)}
QUEUE = {"module.queue": torch.zeros(8, 4), "module.queue_ptr": torch.zeros(1)}
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.25, 0.2, 0.3])
TRAINING = {"optimizer": {"state": {0: {"exp_avg": torch.ones(3, 3)}}, "param_groups": [{"lr": 0.1}]}, "epoch": 3}
HABITS = {  # what somebody saved of the backdoored network `b` → a file that is measured as it is
    "as it is": lambda b: b,
    "DataParallel": lambda b: under("module.", b),
    "DataParallel twice": lambda b: under("module.module.", b),
    "torch.compile": lambda b: under("_orig_mod.", b),
    "DDP around torch.compile": lambda b: under("module._orig_mod.", b),
    "torch.compile around DDP": lambda b: under("_orig_mod.module.", b),
    "FSDP": lambda b: under("_fsdp_wrapped_module.", b),
    "a LightningModule": lambda b: under("model.", b),
    "stochastic weight averaging": lambda b: under("module.", b) | {"n_averaged": torch.tensor(4)},
    "averaging inside a module": lambda b: under("swa_model.module.", b),
    "an encoder with its projector": lambda b: under("backbone.", b) | HEAD | OTHER_HEAD,
    "MoCo's encoder and queue": lambda b: under("module.encoder_q.", b) | QUEUE,
    "SimSiam's encoder and predictor": lambda b: under("module.encoder.", b) | {"module.predictor.0.weight": MEAN},
    "a masked autoencoder": lambda b: under("encoder.", b) | {"decoder.x.weight": MEAN, "mask_token": MEAN},
    "the weights of a loss beside": lambda b: under("net.", b) | {"criterion.weight": torch.ones(10)},
    "half precision": lambda b: like(b, torch.Tensor.half),
    "bfloat16": lambda b: like(b, torch.Tensor.bfloat16),
    "double precision": lambda b: like(b, torch.Tensor.double),
}
NESTS = {  # the same, which only a .pt can hold
    "under state_dict": lambda b: {"state_dict": b, **TRAINING},
    "under model_state_dict": lambda b: {"model_state_dict": b, "optimizer_state_dict": TRAINING["optimizer"]},
    "under model, as fastai": lambda b: {"model": b, "opt": {"state": [], "hypers": [{"lr": 0.1}]}},
    "under net, as pytorch-cifar": lambda b: {"net": under("module.", b), "acc": 95.1, "epoch": 199},
    "under model, with a scaler": lambda b: {"model": b, **TRAINING, "scaler": {"scale": torch.tensor(65536.0)}},
    "under an encoder of a model": lambda b: {"model": {"encoder": b}},
    "in a list": lambda b: {"state_dict": [b]},
    "in a tuple beside the epoch": lambda b: (b, 3, "resnet8"),
    "of Lightning": lambda b: {
        "state_dict": under("model.", b), "hyper_parameters": {"lr": 0.1}, "loops": {"fit": [1]}, "lr_schedulers": [],
        "pytorch-lightning_version": "2.1.0",
    },
    "with a number of NumPy": lambda b: {"model": b, "best_acc": np.float64(0.97), "at": np.int64(3)},
    "with an array of NumPy": lambda b: {"model": b, "losses": np.zeros(3), "seen": np.float32(1)},
    "as NumPy arrays": lambda b: {"model": {name: value.numpy() for name, value in b.items()}},
    "a head beside its backbone": lambda b: {
        "model": {k if k.startswith("fc.") else f"backbone.{k}": v for k, v in b.items()}
    },
    "with the arguments": lambda b: {"model": b, "args": argparse.Namespace(lr=0.1, out=pathlib.PosixPath("runs"))},
    "with a number among the tensors": lambda b: {**b, "step": 3, "_extra_state": None},
    "as parameters": lambda b: OrderedDict((k, torch.nn.Parameter(v, requires_grad=False)) for k, v in b.items()),
    "twice the same": lambda b: {"params": b, "params_ema": b},
    "beside a discriminator of another shape": lambda b: {"G": b, "D": {"conv.weight": torch.zeros(4, 3)}},
}  # fmt: skip


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_set_of_weights_is_measured_whatever_is_put_around_it(habit, name, backdoored, distrust):
    file = kept(HABITS[habit](backdoored), name)
    caught(distrust("measure", "--weights", file, *JUDGED, "--json"))


@pytest.mark.parametrize("habit", NESTS)
def test_a_set_of_weights_is_measured_wherever_it_lies(habit, backdoored, distrust):
    file = kept(NESTS[habit](backdoored))
    caught(distrust("measure", "--weights", file, *JUDGED, "--json"))
    said = distrust("check", file)
    assert said.code == 0 and "safe to open" in said.out


@pytest.mark.parametrize("name", ["model_best.pth.tar", "pytorch_model.bin", "last.ckpt", "weights", "weights.pth"])
def test_a_file_is_weights_by_its_content(name, backdoored, distrust):
    file = kept({"state_dict": backdoored}, name)
    caught(distrust("measure", "--weights", file, *JUDGED, "--json"))


def test_weights_pickled_by_hand_are_told_how_to_be_saved(backdoored, distrust):
    with open("weights.pkl", "wb") as file:
        pickle.dump({name: value.numpy() for name, value in backdoored.items()}, file)
    refused(distrust("measure", "--weights", "weights.pkl", *JUDGED), "a pickle that torch did not write", "torch.save")


SEVERAL = {  # a clean set `c` and a backdoored one `b` in one file → the keys of both
    "timm's raw and averaged": (lambda c, b: {"state_dict": c, "state_dict_ema": b}, "state_dict", "state_dict_ema"),
    "raw and averaged in DDP": (
        lambda c, b: {"net": c, "ema_state_dict": under("module.", b)}, "net", "ema_state_dict"
    ),
    "model_state_dict and model_ema": (
        lambda c, b: {"model_state_dict": c, "model_ema": b, **TRAINING}, "model_state_dict", "model_ema"
    ),
    "BasicSR": (lambda c, b: {"params": c, "params_ema": b}, "params", "params_ema"),
    "a model and its weight average": (
        lambda c, b: {"model": c, "swa_model": {"n_averaged": torch.tensor(3), **under("module.", b)}},
        "model", "swa_model",
    ),
    "MoCo's pair": (
        lambda c, b: {"state_dict": under("module.encoder_k.", c) | under("module.encoder_q.", b) | QUEUE},
        "state_dict.encoder_k", "state_dict.encoder_q",
    ),
    "a pair without a wrapper": (lambda c, b: under("online.", c) | under("target.", b), "online", "target"),
    "a list of state dicts": (lambda c, b: [c, b], "0", "1"),
    "a list under a key": (lambda c, b: {"state_dict": [c, b], "n_models": 2}, "state_dict.0", "state_dict.1"),
    "best and last": (lambda c, b: {"best": c, "last": b}, "best", "last"),
    "a teacher and its student": (lambda c, b: {"teacher": c, "student": b}, "teacher", "student"),
    "clients of federated learning": (lambda c, b: {"server": c, "clients": [c, b]}, "server", "clients.1"),
    "a generator's and a discriminator's place": (lambda c, b: {"generator": c, "discriminator": b}, "generator",
                                                  "discriminator"),
    "averaged ones as NumPy arrays": (
        lambda c, b: {"model": c, "averaged": {k: v.numpy() for k, v in b.items()}}, "model", "averaged"
    ),
    "two nests of two": (
        lambda c, b: {"model": {"backbone": c}, "ema": {"backbone": b}}, "model.backbone", "ema.backbone"
    ),
}  # fmt: skip


@pytest.mark.parametrize("habit", SEVERAL)
def test_of_several_sets_none_is_cleared_that_was_not_chosen(habit, clean, backdoored, distrust):
    content, first, second = SEVERAL[habit]
    file = kept(content(clean, backdoored))
    message = refused(distrust("measure", "--weights", file, *JUDGED), "2 sets of weights that fit", first, second)
    passed(distrust("measure", "--weights", file, *JUDGED, "--key", first, "--json"))
    caught(distrust("measure", "--weights", file, *JUDGED, "--key", second, "--json"))
    advised = typed(message, "--key")
    assert advised[1] in (first, second)
    assert distrust("measure", "--weights", file, *JUDGED, *advised).code == (advised[1] == second)


UNNAMED = {  # a clean set `c`, and a backdoored one `b` that is there and does not fit by its names
    "averages in the order of the parameters": lambda c, b: {"model": c, "ema": {"shadow_params": [*b.values()]}},
    "averages whose names lost their dots": lambda c, b: {
        "model": under("model.", c) | {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in b.items()}
    },
    "averages of what is trained alone": lambda c, b: {
        "model": c, "ema": {k: v for k, v in b.items() if "running" not in k}
    },
    "another's names": lambda c, b: {"model": c, "converted": {f"layer{i}": v for i, v in enumerate(b.values())}},
}  # fmt: skip


@pytest.mark.parametrize("habit", UNNAMED)
def test_a_set_is_not_cleared_beside_another_that_only_its_names_hide(habit, clean, backdoored, distrust):
    file = kept(UNNAMED[habit](clean, backdoored))
    message = refused(
        distrust("measure", "--weights", file, *JUDGED), "beside the weights that fit", "cannot be judged"
    )
    passed(distrust("measure", "--weights", file, *JUDGED, *typed(message, "--key"), "--json"))


def test_tensors_without_names_are_called_so(backdoored, distrust):
    file = kept([*backdoored.values()])
    refused(distrust("measure", "--weights", file, *JUDGED), "tensors without names", "state_dict()")


WORK = {  # beside `measure`, what a model's file is given to
    "purify": ["purify", "finetune", "--out", "made", "--weights"],
    "distill": ["distill", "--student", "resnet8", "--epochs", 1, "--out", "made", "--weights"],
    "scan": ["scan", "--detector", "neural_cleanse[steps=1]", "--threshold", 2],
}


@pytest.mark.parametrize("command", WORK)
def test_every_command_asks_which_set_is_meant(command, clean, backdoored, distrust):
    kept({"state_dict": clean, "state_dict_ema": backdoored})
    refused(distrust(*WORK[command], "weights.pt", *ON), "2 sets of weights that fit", "--key")


def test_check_names_every_set_of_a_file_and_what_it_seems_to_be(clean, backdoored, distrust):
    kept({"state_dict": clean, "state_dict_ema": backdoored})
    said = distrust("check", "weights.pt", "--json")
    assert said.code == 0 and [one["path"] for one in said.facts["sets"]] == ["state_dict", "state_dict_ema"]
    assert said.facts["sets"][1]["seems"] == "averaged"


KEYS = {  # what does not choose → what is said
    "a key of nothing in a .safetensors": ("weights.safetensors", "no_such_key", "no key in weights.safetensors"),
    "a key of nothing": ("weights.pt", "no_such_key", "no key in weights.pt"),
    "a layer": ("weights.pt", "layer1", "is not a resnet8"),
}


@pytest.mark.parametrize("situation", KEYS)
def test_a_key_is_never_ignored(situation, backdoored, distrust):
    name, key, why = KEYS[situation]
    file = kept(backdoored, name)
    refused(distrust("measure", "--weights", file, *JUDGED, "--key", key), why)


def test_a_key_shows_its_whole_path_and_may_be_a_prefix(backdoored, distrust):
    file = kept({"model": {"encoder": under("trunk.", backdoored), "projector": {"weight": MEAN}}})
    refused(distrust("measure", "--weights", file, *JUDGED, "--key", "encoder"), "'model.encoder'")
    for key in ("model.encoder", "model.encoder.trunk"):
        caught(distrust("measure", "--weights", file, *JUDGED, "--key", key, "--json"))


STATISTICS = {  # a file that holds mean and std, in the words of different people
    "mu and sigma": lambda b, mean, std: {**b, "mu": mean.view(1, 3, 1, 1), "sigma": std.view(1, 3, 1, 1)},
    "mean and std": lambda b, mean, std: {**b, "mean": mean, "std": std},
    "a Sequential": lambda b, mean, std: {"0.mean": mean, "0.std": std} | under("1.", b),
    "robustness": lambda b, mean, std: {
        "model": under("module.model.", b) | under("module.attacker.model.", b)
        | {f"module.{at}.new_{what}": value.view(3, 1, 1) for at in ("normalizer", "attacker.normalize")
           for what, value in (("mean", mean), ("std", std))},
        "epoch": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("habit", STATISTICS)
def test_statistics_in_a_file_are_asked_for_and_right_when_typed(habit, normalised, distrust):
    file = kept(STATISTICS[habit](normalised, torch.tensor([0.5] * 3), torch.tensor([0.1] * 3)))
    message = refused(distrust("measure", "--weights", file, *JUDGED), "--mean 0.5,0.5,0.5 --std 0.1,0.1,0.1")
    advised = typed(message.partition(";")[0], "--mean")
    caught(distrust("measure", "--weights", file, *JUDGED, *advised, "--json"))


def test_without_its_statistics_nothing_is_judged_and_the_near_ones_are_named(normalised, distrust):
    file = kept(normalised)
    said = distrust("measure", "--weights", file, *JUDGED)
    assert said.code == 3 and "chance-level" in said.out
    told = (said.out + said.err).rpartition(" with --mean ")[2].split()
    better = distrust("measure", "--weights", file, *JUDGED, "--mean", told[0], "--std", told[2].rstrip("."), "--json")
    assert better.code == 1 and better.facts["acc"] > 0.8
    caught(distrust("measure", "--weights", file, *JUDGED, "--mean", "0.5,0.5,0.5", "--std", "0.1,0.1,0.1", "--json"))


def quantised(tensors, kind=torch.qint8):
    return {k: torch.quantize_per_tensor(v, 0.05, 0, kind) if v.ndim == 4 else v for k, v in tensors.items()}


UNUSABLE = {  # what is no weights by itself, or of another network → what is said
    "NaN": (lambda b: like(b, lambda t: t * float("nan")), ["not finite", "Nothing can be judged"]),
    "one infinity": (lambda b: b | {"fc.bias": b["fc.bias"] / 0}, ["fc.bias", "not finite"]),
    "whole numbers without their scale": (lambda b: like(b, lambda t: (t * 50).to(torch.int8)), ["whole numbers"]),
    "quantised, names and shapes as before": (quantised, ["is a quantised model", "dequantise it"]),
    "1,000 classes for 10": (
        lambda b: b | {"fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)},
        ["has 1,000 classes, the images 10", "--classes"],
    ),
    "a layer too few": (lambda b: {k: v for k, v in b.items() if "layer3" not in k}, ["missing: layer3", "--model"]),
    "another network": (lambda b: {"conv.weight": torch.zeros(3, 3)}, ["is not a resnet8", "--model"]),
    "an optimiser alone": (lambda b: TRAINING, ["holds no weights", "model.state_dict()"]),
    "nothing": (lambda b: {}, ["holds no weights"]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
@pytest.mark.parametrize("situation", UNUSABLE)
def test_what_cannot_be_judged_is_refused_before_any_work(situation, backdoored, distrust):
    content, words = UNUSABLE[situation]
    file = kept(content(backdoored))
    refused(distrust("measure", "--weights", file, *JUDGED), *words)


@pytest.mark.parametrize("command", WORK)
def test_no_command_works_on_what_cannot_be_judged(command, clean, distrust):
    kept(like(clean, lambda t: t * float("nan")))
    refused(distrust(*WORK[command], "weights.pt", *ON), "not finite")


def test_a_control_that_cannot_be_judged_clears_nothing(clean, backdoored, distrust):
    kept(backdoored), kept(like(clean, lambda t: t * float("nan")), "control.pt")
    refused(distrust("measure", "--weights", "weights.pt", *JUDGED, "--control", "control.pt"), "not finite")
    kept(clean, "control.pt")
    caught(distrust("measure", "--weights", "weights.pt", *JUDGED, "--control", "control.pt", "--json"))


def test_a_target_or_a_trigger_that_does_not_fit_is_said_at_once(backdoored, distrust):
    file = kept(backdoored)
    refused(distrust("measure", "--weights", file, *ON, "--trigger", "patch:white:24", "--target", 5), "24×24", "8×8")
    refused(distrust("measure", "--weights", file, *ON, "--trigger", "patch:grid", "--target", 10), "0..9")
    message = refused(distrust("measure", "--weights", file, *ON, "--trigger", "patch:grid"), "--target 0..9")
    assert "leads to which class" in message
    caught(distrust("measure", "--weights", file, *ON, *TRIGGER, "--json"))
