"""What a message says to type is typed, and is right; what messages name exists."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file

import distrust
from distrust.cli import app

from .bring import IMAGES, JUDGED, ON, TRIGGER, caught, kept, refused, under

SRC = Path(distrust.__file__).parent
COMMANDS = typer.main.get_command(app).commands
INNER = [inner for command in COMMANDS.values() for inner in getattr(command, "commands", {}).values()]
OURS = {word for command in (*COMMANDS.values(), *INNER) for option in command.params for word in option.opts}
OPTIONS = {"--help", "--head"} | OURS  # `ray start --head` is Ray's
MEASURE = ["measure", "--weights", "weights.pt"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Files are made where commands run."""
    monkeypatch.chdir(tmp_path)


def several(b):
    kept({"best": b, "last": {name: value + 0.01 for name, value in b.items()}})
    return [*MEASURE, *JUDGED]


def plain(b, *words):
    kept(b)
    return [*MEASURE, *words]


def with_code(b):
    Path("net.py").write_text(
        "from distrust import model\n\n\ndef make(classes):\n    return model('resnet8', classes=classes, size=8)\n"
    )
    spec = {"name": "net.py:make", "classes": 10, "channels": 3, "size": 8}
    tensors = b | {"normalize.mean": torch.zeros(1, 3, 1, 1), "normalize.std": torch.ones(1, 3, 1, 1)}
    facts = {"distrust": json.dumps({"spec": spec, "taint": []})}
    save_file({k: v.clone() for k, v in tensors.items()}, "ours.safetensors", facts)
    return ["measure", "--weights", "ours.safetensors", *IMAGES, *TRIGGER]


def of_some_classes(b):
    """Images of five of the network's ten classes, in another order."""
    train, test = distrust.images("few")
    arrays = {}
    for part, images in (("train", train), ("test", test)):
        rows = images.y % 2 == 0
        arrays |= {f"x_{part}": images.x[rows].numpy(), f"y_{part}": 4 - images.y[rows].numpy() // 2}
    np.savez("even.npz", **arrays, classes=np.array(["8", "6", "4", "2", "0"]))
    Path("ten.txt").write_text("\n".join("0123456789") + "\n")
    kept(b)
    return [*MEASURE, "--model", "resnet8", "--images", "even.npz", *TRIGGER]


ADVISED = {  # what goes wrong first → the words of its message that are typed behind the same command
    "several sets": (several, r"(--key \S+)\.$"),
    "no model": (lambda b: plain(b, *IMAGES, *TRIGGER), r"(--model) wrn16-1", "resnet8"),
    "a model that is a file": (with_code, r"Type (--model net\.py:make)"),
    "no target": (lambda b: plain(b, *ON, "--trigger", "patch:grid"), r"Type (--target) 0\.\.9", "5"),
    "classes that the images lack": (of_some_classes, r"(--classes) FILE", "ten.txt"),
    "statistics in the file": (
        lambda b: plain({**b, "mean": torch.zeros(3), "std": torch.ones(3)}, *JUDGED),
        r"Type (--mean \S+ --std [\d.,]+\d)",
    ),
    "statistics that the network applies": (
        lambda b: plain({**b, "mean": torch.full((3,), 0.5), "std": torch.full((3,), 0.1)}, *JUDGED),
        r"by itself, (--mean \S+ --std [\d.,]+\d)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("situation", ADVISED)
def test_the_options_that_are_advised_work(situation, backdoored, distrust):
    build, pattern, *value = ADVISED[situation]
    words = build(backdoored)
    message = refused(distrust(*words))
    advised = re.search(pattern, message.strip())
    assert advised, message
    caught(distrust(*words, *advised[1].split(), *value, "--json"))


MISTYPED = {  # a word with a slip in it, as `{}`, beside the one that is meant, and the exit code of that
    "a defence": (["show", "{}"], "nda", "nad", 0),
    "an option of a defence": (["purify", "finetune[{}=1]", "--out", "o"], "epoch", "epochs", 0),
    "a distiller": (
        ["distill", "--student", "resnet8", "--epochs", 2, "--distiller", "{}", "--out", "o"], "kdd", "kd", 3
    ),
    "a student": (["distill", "--student", "{}", "--epochs", 1, "--out", "o"], "resnt8", "resnet8", 3),
    "a kind": (["list", "{}"], "atacks", "attacks", 0),
    "a model": (["layers", "{}"], "wrn10", "wrn10-1", 0),
    "a trigger": (["measure", "--target", 5, "--trigger", "{}:grid"], "pach", "patch", 1),
    "an image set": (["measure", *TRIGGER, "--images", "{}"], "fews", "few", 1),
    "a detector": (
        ["scan", "weights.pt", "--threshold", 9, "--detector", "{}[steps=1]"], "neural_cleans", "neural_cleanse", 3
    ),  # of which one step finds nothing
}  # fmt: skip
ALONE = {"show", "list", "layers"}


@pytest.mark.filterwarnings("ignore::distrust.flags.Flag")
@pytest.mark.parametrize("situation", MISTYPED)
def test_what_a_message_asks_whether_it_was_meant_works(situation, backdoored, distrust):
    kept(backdoored)
    words, slip, meant, code = MISTYPED[situation]
    more = [] if words[0] in ALONE else ["--model", "resnet8"]
    if words[0] not in ALONE | {"scan"}:
        more += ["--weights", "weights.pt"]
    if words[0] not in ALONE and "--images" not in words:
        more += IMAGES
    fill = lambda word: [str(one).format(word) for one in [*words, *more]]  # noqa: E731
    message = refused(distrust(*fill(slip)), f"'{slip}", f"'{meant}'")
    first = re.search(r"Did you mean '([^']+)'", message)
    assert first and first[1] == meant
    assert distrust(*fill(first[1])).code == code


def test_a_search_that_was_too_short_is_right_once_it_is_longer(backdoored, distrust):
    words = ["scan", str(kept(backdoored)), *ON, "--detector"]
    said = distrust(*words, "neural_cleanse[steps=1]", "--threshold", 1000)
    assert said.code == 3 and "ask for more steps" in said.out
    assert distrust(*words, "neural_cleanse[steps=40]", "--threshold", 1000).code == 0


def test_a_folder_that_is_in_the_way_is_right_once_another_is_named(backdoored, distrust):
    Path("made").mkdir()
    Path("made/notes.txt").write_text("mine")
    words = ["purify", "finetune[epochs=1]", "--weights", str(kept(backdoored)), *ON, "--out"]
    refused(distrust(*words, "made"), "made")
    assert distrust(*words, "made2").code == 0 and Path("made/notes.txt").read_text() == "mine"


def test_what_python_is_told_is_in_pythons_words_and_right(backdoored):
    file = kept(under("trunk.", backdoored), "weights.pt")
    with pytest.raises(distrust.BadInput, match=r"model='wrn16-1', classes=10") as error:
        distrust.load(file)
    assert "--model" not in str(error.value)
    network = distrust.load(file, model="resnet8", classes=10, size=8)
    assert torch.equal(network.fc.weight, backdoored["fc.weight"])


# what every message names


def texts():
    """Every string in the library, with the names in its braces as they are."""
    for file in sorted(SRC.rglob("*.py")):
        tree = ast.parse(file.read_text())
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                yield file.relative_to(SRC), node, "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield file.relative_to(SRC), node, node.value


TEXTS = [*texts()]


def test_every_option_that_a_message_names_is_one():
    found = {}
    for file, node, text in TEXTS:
        for word in re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text):
            found.setdefault(word, f"{file}:{node.lineno}")
    assert {"--key", "--mean", "--model", "--images"} <= found.keys(), "the reader of messages works"
    assert not {word: place for word, place in found.items() if word not in OPTIONS}


def test_every_command_that_a_message_names_is_one():
    found = {}
    for file, node, text in TEXTS:
        for word in re.findall(r"(?<![\w.-])distrust ([a-z][a-z_]*)\b", text):
            found.setdefault(word, f"{file}:{node.lineno}")
    assert {"list"} <= found.keys(), "the reader of messages works"
    assert not {word: place for word, place in found.items() if word not in COMMANDS}


def test_every_parameter_that_an_error_names_is_one():
    known, raised = set(), {}
    for file in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                known |= {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                known.add(node.target.id)  # a field
            elif isinstance(node, ast.Raise) and node.exc is not None:
                for part in ast.walk(node.exc):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        for word in re.findall(r"(?<![\w-])([a-z_]{2,})=(?!=)", part.value):
                            raised.setdefault(word, f"{file.relative_to(SRC)}:{part.lineno}")
    outside = {"return_inverse", "option", "bias", "inplace"}  # NumPy's, a placeholder, and PyTorch's
    assert {"size", "channels", "classes"} <= raised.keys(), "the reader of messages works"
    assert not {word: place for word, place in raised.items() if word not in known | outside}


def test_every_page_that_a_message_names_is_there():
    pages = {f"docs/{page.name}" for page in (SRC.parents[1] / "docs").glob("*.md")}
    named = {word for _, _, text in TEXTS for word in re.findall(r"docs/[\w-]+\.md", text)}
    assert named <= pages
