"""What a stranger may hand us, sound and then broken: each kind writes a file, and says what is typed of it."""

from __future__ import annotations

import argparse
import gzip
import io
import itertools
import json
import os
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save

import distrust

CLASSES, SIDE = 4, 8
STUDY = f"""name = "small"
teacher = "wrn10-1"
attack = ["none", "badnets[trigger=patch:white:3,target=5,rate=0.1]"]
seeds = 1

[budgets.cpu]
train = 64
test = 40
size = {SIDE}
teacher = {{epochs = 1, batch_size = 64, augment = {{flip = false, crop = 0}}}}
"""
Words = list[object]


# mutations

ODD: list[Any] = [
    None, True, {}, [], "", "none", "../../etc", "<script>", "a" * 5000, "\ud800", "\x1b[2J", "ü", -1, 0, 1, 1.5, 2**31,
    10**19, 1e308, float("nan"), float("inf"), [[]], [1, "a"], {"a": {"b": []}}, "net.py:make", "wrn1000-1000", "[",
]  # fmt: skip
PIECES = ["[", "]", "=", ",", ":", ">", "'", '"', "/", "none", "nan", "-1", "1e9", "\x00", "é", "{", "..", "9" * 400]
DTYPES = ["u1", "i8", ">i4", "f2", "f8", "c8", "b1", "U4", "S3", "M8[s]", "O"]
SHAPES = [
    (),
    (0,),
    (1,),
    (7,),
    (3, 0, 2),
    (4, 1, 8, 8),
    (4, 8, 8),
    (2, 2, 2, 2, 2),
    (40, 64),
    (4, 8, 8, 4),
    (4, 2, 8, 8),
]


def broken(data: bytes, draw: random.Random) -> bytes:
    """Bytes of a file with one to three faults, as of a disk, a network or a hand."""
    found = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        at = draw.choice([draw.randrange(len(found) + 1), draw.randrange(min(len(found), 200) + 1)])
        few = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9)))
        match draw.randrange(8):
            case 0 if found:
                at = min(at, len(found) - 1)
                found[at] ^= 1 << draw.randrange(8)
            case 1:
                found[at : at + len(few)] = few
            case 2:
                found[at:at] = few
            case 3:
                del found[at : at + draw.choice([1, 4, 100, 10**6])]
            case 4:
                del found[: draw.choice([1, 4, at])]
            case 5:
                found += draw.choice([few, bytes(1000), bytes(found)])
            case 6:
                found[at:at] = found[: draw.randrange(500)]
            case 7:
                found[at : at + 8] = draw.choice([b"\xff" * 8, bytes(8), b"\xff\xff\xff\x7f" + bytes(4)])
    return bytes(found)


def changed(value: Any, draw: random.Random) -> Any:
    """A plain value with something odd at one place in it, or without one."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.2:
        return draw.choice(ODD)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw.choice(keys)
    found = dict(value) if isinstance(value, dict) else list(value)
    match draw.randrange(8):
        case 0:
            del found[key]
        case 1 if isinstance(found, dict):
            found[draw.choice(["", "a/b", "\x00", "x" * 300, *keys])] = found.pop(key)
        case _:
            found[key] = changed(found[key], draw)
    return found


def written(value: Any, draw: random.Random) -> bytes:
    """As JSON, with an odd value; seldom nested without end."""
    if draw.random() < 0.03:
        return draw.choice([b"[", b'{"a":']) * 10**5
    return json.dumps(changed(value, draw)).encode()


def word(text: str, draw: random.Random) -> str:
    """What somebody typed, mistyped."""
    at, piece = draw.randrange(len(text) + 1), draw.choice(PIECES)
    return draw.choice(
        [text[:at] + piece + text[at:], text[:at] + piece, text[:at] + text[at + 1 :], str(draw.choice(ODD))]
    )


def typed(text: str, draw: random.Random) -> str:
    """Such a word, as a shell can hand it on."""
    return word(text, draw).replace("\x00", "").encode("utf-8", "replace").decode()[:5000]


def array(old: np.ndarray, draw: random.Random) -> np.ndarray:
    """An array with another type, shape or odd values."""
    match draw.randrange(4):
        case 0:
            return np.zeros(draw.choice(SHAPES), draw.choice(DTYPES))
        case 1:
            return old.astype(draw.choice(DTYPES))
        case 2:
            return old.reshape(draw.choice([(-1,), (1, -1), (*old.shape, 1), (1, *old.shape)]))
        case _:
            found = old.astype(draw.choice(["f4", "f8", "i8", "i2"]))
            found.flat[: draw.choice([1, 3])] = draw.choice([-1, 300, 30000])
            if found.dtype.kind == "f":
                found.flat[-1] = draw.choice([np.nan, np.inf, -5.0, 1e30])
            return found


def tensor(draw: random.Random) -> Any:
    """What may stand in a state dict."""
    kind = draw.choice([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
    one = torch.zeros(draw.choice(SHAPES), dtype=kind)
    sparse = torch.zeros(4, 4).to_sparse() if draw.random() < 0.1 else one
    return draw.choice([one, one, sparse, torch.full((3,), torch.nan), draw.choice(ODD), {"a": one}, [one] * 9])


# what there is before it is broken


def prepared(folder: Path) -> None:
    """Sound files of every kind."""
    draws = np.random.default_rng(0)
    x = draws.integers(0, 256, (40, SIDE, SIDE), np.uint8)
    y = np.arange(40) % CLASSES
    np.savez(folder / "set.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    network = distrust.model("wrn10-1", classes=CLASSES, channels=1, size=SIDE, rng=distrust.rng("fuzz"))
    distrust.save(network, folder / "own.safetensors")
    state = network.state_dict()
    torch.save({"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, folder / "zip.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "small.toml").write_text(STUDY)
    for size in (3, SIDE):
        Image.fromarray(draws.integers(0, 256, (size, size, 4), np.uint8)).save(folder / f"trigger{size}.png")
    np.savez(folder / "trigger.npz", pattern=draws.random((SIDE, SIDE)), mask=np.eye(SIDE))
    train = distrust.images(str(folder / "set.npz")).train
    attacked = distrust.attacks.badnets(train, trigger="patch:white:3", target=1, rate=0.1, rng=distrust.rng("fuzz"))
    attacked.backdoor.save(folder / "trigger.json")
    distrust.save_set(train.replace(x=train.x.float() / 255), folder / "condensed.safetensors")
    torch.save([[torch.rand(CLASSES, 1, SIDE, SIDE), torch.arange(CLASSES)]], folder / "condensed.pt")
    for split, label, k in itertools.product(("train", "test"), "abcd", range(3)):
        place = folder / "pictures" / split / label
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[k]).save(place / f"{k}.{('png', 'jpg', 'bmp')[k]}")
    (folder / "table").mkdir()
    idx = folder / "idx"
    idx.mkdir()
    for split, (pixels, labels) in {"train": (x, y), "t10k": (x[:20], y[:20])}.items():
        table(x[: len(labels)], labels, folder / "table" / f"{split.replace('t10k', 'test')}.parquet")
        for name, data in (("images-idx3", pixels), ("labels-idx1", labels.astype(np.uint8))):
            head = bytes([0, 0, 8, data.ndim]) + b"".join(n.to_bytes(4, "big") for n in data.shape)
            (idx / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(head + data.tobytes()))


def table(x: np.ndarray, y: Sequence[Any], file: Path) -> None:
    """A parquet table of PNGs."""
    import pyarrow
    import pyarrow.parquet

    rows = []
    for one in x:
        picture = io.BytesIO()
        Image.fromarray(one).save(picture, "PNG")
        rows.append({"bytes": picture.getvalue(), "path": None})
    pyarrow.parquet.write_table(pyarrow.table({"image": rows, "label": y}), file)


# kinds of cases: each puts what it needs into the folder where it runs, and says what is typed

Kind = Callable[[random.Random, Path], Words]
ON = ["--images", "set.npz"]
KINDS: dict[str, Kind] = {}


def kind(body: Kind) -> Kind:
    KINDS[body.__name__.replace("_", " ")] = body
    return body


def of(file: str | Path, draw: random.Random) -> Words:
    """A command on weights."""
    net = [] if draw.random() < 0.1 or str(file).startswith("own") else ["--model", "wrn10-1"]
    judged: Words = ["measure", "--weights", file, *net, *ON, "--trigger", "patch:white:3", "--target", 1]
    return draw.choice([["check", file], judged, ["scan", file, *net, *ON, "--detector", "neural_cleanse"]])


@kind
def weights(draw: random.Random, here: Path) -> Words:
    file = here / draw.choice(["own.safetensors", "zip.pt", "old.pt"])
    file.write_bytes(broken(file.read_bytes(), draw))
    return of(file.name, draw)


@kind
def weights_of_other_tensors(draw: random.Random, here: Path) -> Words:
    state: dict[Any, Any] = dict(torch.load(here / "zip.pt", weights_only=False)["state_dict"])
    for _ in range(draw.choice([1, 1, 3])):
        name: Any = draw.choice(list(state))
        if draw.random() < 0.3:
            state[draw.choice(["", "a.b", 7, ("a",), None, "module." + name, "x" * 999])] = state.pop(name)
        else:
            state[name] = tensor(draw)
    torch.save(
        draw.choice([state, {"model": state, "ema": state}, [state], {"state_dict": changed(state, draw)}]), "w.pt"
    )
    return of("w.pt", draw)


@kind
def header(draw: random.Random, here: Path) -> Words:
    data = (here / "own.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = written(json.loads(data[8 : 8 + size]), draw)
    (here / "h.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return of("h.safetensors", draw)


@kind
def metadata(draw: random.Random, here: Path) -> Words:
    file = here / draw.choice(["own.safetensors", "condensed.safetensors"])
    data = file.read_bytes()
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts = json.loads(head["__metadata__"]["distrust"])
    text = written(facts, draw).decode()
    file.write_bytes(save(load(data), {"distrust": text}))
    return of(file.name, draw) if file.stem == "own" else draw.choice([["check", file.name], scanned(file.name)])


def scanned(file: str) -> Words:
    return ["scan", file, "--detector", "patch_probe"]


@kind
def sets(draw: random.Random, here: Path) -> Words:
    file = here / draw.choice(["condensed.safetensors", "condensed.pt"])
    if file.suffix == ".pt" and draw.random() < 0.5:
        torch.save(changed([[torch.rand(4, 1, 8, 8), tensor(draw)], draw.choice(ODD)], draw), file)
    else:
        file.write_bytes(broken(file.read_bytes(), draw))
    return draw.choice([["check", file.name], scanned(file.name)])


@kind
def options(draw: random.Random, here: Path) -> Words:
    given = {"--model": "wrn10-1", "--images": "set.npz", "--trigger": "patch:white:3", "--target": "1"}
    given |= draw.choice([{}, {"--mean": "0.5", "--std": "0.2"}, {"--size": "8", "--channels": "1"}, {"--key": "a.b"}])
    name = draw.choice(list(given))
    given[name] = typed(given[name], draw)
    return ["measure", "--weights", "zip.pt", *itertools.chain.from_iterable(given.items())]


@kind
def selectors(draw: random.Random, here: Path) -> Words:
    return draw.choice([
        ["layers", typed("wrn10-1", draw), "--size", 8],
        ["layers", "wrn10-1", "--size", typed("8", draw), "--classes", typed("10", draw)],
        ["show", typed("triggers/blend", draw)], ["list", typed("defenses", draw)],
        ["why", typed("0a", draw), "--store", "runs"], ["results", typed("small", draw), "--store", "runs"],
        [typed("check", draw), typed("zip.pt", draw)],
        ["scan", "condensed.pt", "--detector", typed("patch_probe[ridge=1]", draw)],
        ["scan", "zip.pt", "--model", "wrn10-1", *ON, "--detector", typed("random", draw)],
        ["run", "small.toml", "--dry-run", "--set", typed("attack=badnets[rate=0.1,target=5]", draw)],
        ["run", "small.toml", "--dry-run", "--set", typed("seeds=2", draw), "--only", typed("a", draw)],
        ["purify", "finetune[epochs=1]", "--weights", typed("zip.pt", draw), *ON, "--out", typed("new", draw)],
        ["check", typed("set.npz", draw), typed("zip.pt", draw)],
    ])  # fmt: skip


@kind
def studies(draw: random.Random, here: Path) -> Words:
    file = here / "small.toml"
    lines = STUDY.splitlines()
    match draw.randrange(6):
        case 0:
            file.write_bytes(broken(STUDY.encode(), draw))
        case 1:
            file.write_text("a = " + draw.choice(["[" * 10**5, "{a=" * 10**4, "'" * 10**5, "{" * 3]))
        case 2:
            at = draw.randrange(len(lines))
            lines[at] = typed(lines[at], draw)
            file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        case 3:
            names = ["budgets_from", "grid", "budgets", "pair", "images", "embed", "within", "published", "question"]
            file.write_text(f"{draw.choice(names)} = {said_in_toml(draw.choice(ODD))}\n{STUDY}")
        case _:
            known = [k for k, line in enumerate(lines) if " = " in line]
            at = draw.choice(known)
            lines[at] = lines[at].partition(" = ")[0] + " = " + said_in_toml(draw.choice(ODD))
            file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    look = ["run", "small.toml", draw.choice(["--dry-run", "--only-cached"]), "--store", draw.choice(["runs", "new"])]
    return draw.choice([["check", "small.toml"], look, ["report", "small.toml", "--store", "runs"]])


def said_in_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {said_in_toml(part)}" for name, part in value.items()) + "}"
    return (
        "[]"
        if value is None
        else json.dumps(value, ensure_ascii=False).replace("NaN", "nan").replace("Infinity", "inf")
    )


@kind
def triggers(draw: random.Random, here: Path) -> Words:
    file = here / draw.choice(
        ["trigger.json", "trigger.npz", "trigger3.png", f"trigger{SIDE}.png", "trigger.safetensors"]
    )
    data = file.read_bytes()
    if file.suffix == ".json" and draw.random() < 0.8:
        file.write_bytes(written(json.loads(data), draw))
    elif file.suffix == ".npz" and draw.random() < 0.6:
        arrays(file, draw)
    elif file.suffix == ".png" and draw.random() < 0.3:
        size = draw.choice([(0, 5), (1, 1), (3000, 2), (5, 5)])
        shown = Image.new(draw.choice(["1", "P", "LA", "I", "F", "CMYK", "I;16"]), (max(size[0], 1), size[1]))
        shown.save(file, draw.choice(["TIFF", "TIFF", "GIF"] if shown.mode in "1PLI" else ["TIFF"]))
    else:
        file.write_bytes(broken(data, draw))
    asked = here / "trigger.json" if file.suffix == ".safetensors" else file
    judged = ["measure", "--weights", "own.safetensors", *ON, "--trigger", asked.name, "--target", 1]
    return draw.choice([["check", asked.name], judged])


def arrays(file: Path, draw: random.Random) -> None:
    """Change an array of an archive, or a name."""
    with np.load(file) as archive:
        found = dict(archive)
    name = draw.choice(list(found))
    if draw.random() < 0.2:
        found[draw.choice(["a", "x", "mask", "images"])] = found.pop(name)
    else:
        found[name] = array(found[name], draw)
    draw.choice([np.savez, np.savez_compressed])(file, **found)


@kind
def cells(draw: random.Random, here: Path) -> Words:
    file = draw.choice(sorted((here / "cells").glob("*.json")))
    data = file.read_bytes()
    file.write_bytes(written(json.loads(data), draw) if draw.random() < 0.7 else broken(data, draw))
    if draw.random() < 0.1:
        file.unlink()
        file.symlink_to(draw.choice(["gone", file.name, "."]))
    expected = ["run", "small.toml", "--only-cached", "--store", "runs", "--expect", "cells"]
    kept = ["run", "small.toml", "--only-cached", "--store", "runs", "--results", "cells"]
    return draw.choice([["results", "cells"], ["report", "cells", "--store", "runs"], expected, kept])


@kind
def records(draw: random.Random, here: Path) -> Words:
    file = draw.choice(sorted((here / "runs").glob("[0-9a-f]*/*")))
    data = file.read_bytes()
    file.write_bytes(written(json.loads(data), draw) if file.suffix == ".json" else broken(data, draw))
    if draw.random() < 0.1:
        file.unlink()
        file.symlink_to(draw.choice(["gone", file.name, "."]))
    look = ["run", "small.toml", "--only-cached", "--store", "runs"]
    why = ["why", file.parent.name, "--store", "runs"]
    status = ["status", "--store", "runs", *draw.choice([[], ["--verify"]])]
    return draw.choice([status, why, look, ["report", "small.toml", "--store", "runs"], ["results", "cells"]])


@kind
def images(draw: random.Random, here: Path) -> Words:
    name = draw.choice(["set.npz", "idx", "table", "pictures"])
    place = here / name
    if name == "set.npz" and draw.random() < 0.6:
        arrays(place, draw)
    elif name == "table" and draw.random() < 0.5:
        x = np.zeros((3, SIDE, SIDE), np.uint8)
        labels = [
            [0, 1, 2],
            [None, 1, 2],
            ["a", "b", ""],
            [1.5, 2.0, float("nan")],
            [10**12, 0, -1],
            [[1], [2], []],
            [b"a", b"b", b"\xff"],
        ]
        table(x, draw.choice(labels), place / "train.parquet")
    elif name == "idx" and draw.random() < 0.5:
        file = draw.choice(sorted(place.iterdir()))
        file.write_bytes(gzip.compress(broken(gzip.decompress(file.read_bytes()), draw)))
    else:
        file = place if place.is_file() else draw.choice([one for one in sorted(place.rglob("*")) if one.is_file()])
        match draw.randrange(8):
            case 0:
                file.unlink()
                file.symlink_to(draw.choice(["gone", file.name, ".", "/dev/zero"]))
            case 1:
                file.unlink()
                os.mkfifo(file)
            case 2:
                file.with_name("b" * 240 + ".png").write_bytes(file.read_bytes())
            case _:
                file.write_bytes(broken(file.read_bytes(), draw))
    judged = [
        "measure",
        "--weights",
        "zip.pt",
        "--model",
        "wrn10-1",
        "--images",
        name,
        "--trigger",
        "patch:white:3",
        "--target",
        1,
    ]
    return draw.choice([["check", name], judged])


@kind
def archives(draw: random.Random, here: Path) -> Words:
    """Zips whose entries are odd, under any name."""
    file = here / draw.choice(["a.pt", "a.npz", "a.zip", "a.safetensors", "a"])
    with zipfile.ZipFile(here / draw.choice(["zip.pt", "set.npz", "trigger.npz"])) as old:
        held = {entry.filename: old.read(entry) for entry in old.infolist()}
    name = draw.choice(list(held))
    match draw.randrange(4):
        case 0:
            held[name] = broken(held[name], draw)
        case 1:
            del held[name]
        case 2:
            held[draw.choice(["../a", "/a", "x.npy", ".", "é" * 99, "data.pkl", name + "/"])] = held.pop(name)
        case 3:
            held["more"] = bytes(10**6)
    packing = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(file, "w", packing) as new:
        for entry, data in held.items():
            new.writestr(entry, data)
    return draw.choice([["check", file.name], of(file.name, draw), scanned(file.name), ["check", file.name, "set.npz"]])
