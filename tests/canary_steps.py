"""Canaries of a study's own steps: what each draws and makes, on tiny data; a function for each of `study.steps`."""

from __future__ import annotations

from typing import Any

from tests.canary_inputs import EXACT, SMOOTH, condensed, encoder, network, patch, pictures, signs

from distrust.data import Views
from distrust.registry import registry
from distrust.study.steps import STEPS
from distrust.training import fit_head

SHORT = {"epochs": 1, "batch_size": 16, "lr": 0.01, "augment": {"flip": True, "crop": 1}, **EXACT}
HERE = {"seed": 1, "device": "cpu"}


def step(name: str, *products: Any, **options: Any) -> Any:
    return STEPS[name].call(*products, **options)


def of_images() -> Any:
    cut = {"source": "digits", "seed": 1, "size": 8, "held": 0.2, "validation": 0.1}
    asked = {
        "train": {"most": 30}, "clean": {"share": 0.05}, "validation": {}, "test": {"most": 20},
        "all held": {"share": 0.2},
    }  # fmt: skip
    found = {
        name: step("images", role=name.replace("all held", "clean"), **cut, **more) for name, more in asked.items()
    }
    return {name: part.index[:50].tolist() for name, part in found.items()}


def of_teacher() -> Any:
    return step("teacher", pictures(), network=SMOOTH, training=SHORT, **HERE)


def of_pretrain() -> Any:
    loss = registry.get("objectives", "simclr").made({"hidden": 8, "out": 4})
    views = Views(flip=False)
    options = {"network": SMOOTH, "loss": loss, "views": vars(views), "training": SHORT | {"augment": "none"}}
    return step("pretrain", pictures(), pictures(), pictures("asked", 12), **options, **HERE)


def of_transfer() -> Any:
    model = network()
    return step("transfer", model, signs(), training=SHORT | {"batch_size": 9}, **HERE), (model,)


def of_student() -> Any:
    loss = registry.get("distillers", "kd").made({})
    return step("student", network(), pictures(), network=SMOOTH, loss=loss, training=SHORT, **HERE)


def of_victim() -> Any:
    return step(
        "victim", condensed(), pictures(), network=SMOOTH, training={"epochs": 2, "batch_size": 6, **EXACT}, **HERE
    )


def of_features() -> Any:
    return step("features", encoder(), pictures())


def of_head() -> Any:
    fit = registry.get("heads", "linear").made({"steps": 2})
    return step("head", encoder(), pictures(), step("features", encoder(), pictures()), fit=fit, seed=1).head


def of_choose() -> Any:
    candidates = {f"candidate{i}": net for i, net in enumerate((network(seed="other"), None, network()))}
    rows = [{"lr": 0.3}, {"lr": 0.2}, {"lr": 0.1}]
    suspect, images = network(), pictures("asked", 24)
    chosen = [step("choose", suspect, images, candidates=rows, within=w, **candidates) for w in (0.0, 1.0)]
    return [made.notes for made in chosen]


def of_references() -> Any:
    return step("references", encoder(), signs(), target=1, count=2, seed=1)


def of_represent() -> Any:
    given = encoder(), pictures()
    return {"clean": step("represent", *given), "triggered": step("represent", *given, patch())}


def of_predict() -> Any:
    model, images = network(), pictures()
    probe = fit_head(encoder(), images, registry.get("heads", "linear").made({"steps": 2}))
    shown = step("represent", encoder(), images, patch())
    found = {"clean": step("predict", model, images), "triggered": step("predict", model, images, patch())}
    return {**found, "head": step("predict", probe, images, patch(), shown)}


def of_embed() -> Any:
    return step("embed", network(), pictures(), patch(), most=20)
