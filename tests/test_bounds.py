"""Bombs, devices, links and hosts: what a file declares is bounded before memory is taken, and nobody is asked."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import socket
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.conftest import distrust

import distrust as dt
from distrust.bounds import MOST, check_bound, most
from distrust.data.sources import images
from distrust.errors import BadInput, NotFound, Notice, UnsafeFile
from distrust.pictures import FORMATS, open_picture
from distrust.study import Store
from distrust.study.axes import AXES
from distrust.tensors import opened, read_record, state_bytes

__all__ = ["distrust"]
SRC = Path(dt.__file__).parent


@pytest.fixture
def memory():
    """No more is taken than this many bytes."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20, f"{peak:,} bytes"


def png(width: int, height: int) -> bytes:
    """A picture of black pixels in grey, a few bytes a million."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packed = zlib.compress(bytes(2**20), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*one)
        for one in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b""))
    )


def npy(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def zeros(file: str, names: list[str], size: int) -> None:
    """An archive of arrays of zeros, packed to a thousandth."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                part.write(npy(f"({size}, 1, 1)"))
                for _ in range(size // 2**22):
                    part.write(bytes(2**22))


def expanded() -> None:
    torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, "bomb.pt")


def header(name: str) -> None:
    Path(name).write_bytes(npy("(1000000, 1000000)"))


def false_size() -> None:
    with zipfile.ZipFile("bomb.npz", "w") as archive:
        for name in ("x", "y"):
            archive.writestr(f"{name}.npy", npy("(1000000, 1000000)"))


BOMBS = {  # a file → how it is made, and what is said
    "bomb.npz": (lambda: zeros("bomb.npz", ["x", "y"], 2**28), "DISTRUST_MOST_UNPACKED"),
    "false.npz": (lambda: (false_size(), os.rename("bomb.npz", "false.npz")), "damaged"),
    "bomb.npy": (lambda: header("bomb.npy"), "damaged"),
    "bomb.pt": (expanded, "DISTRUST_MOST_UNPACKED"),
    "bomb.png": (lambda: Path("bomb.png").write_bytes(png(20_000, 5_000)), "pixels"),
    "larger.png": (lambda: Path("larger.png").write_bytes(png(2**31 - 1, 2**31 - 1)), "pixels"),
    "head.safetensors": (
        lambda: Path("head.safetensors").write_bytes(struct.pack("<Q", 10**8 - 1) + b"{" + bytes(100)),
        "not a readable safetensors",
    ),
}


@pytest.mark.parametrize("file", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(file, distrust, memory):
    make, said = BOMBS[file]
    make()
    found = distrust("check", file)
    assert found.code == 2 and said in found.err, found


def test_a_bomb_among_pictures(tmp_path):
    for split in ("train", "test"):
        for name in "ab":
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(png(20_000, 5_000))
    with pytest.raises(BadInput, match=r"train image 0.*0\.png"):
        images(tmp_path / "pictures", cache=tmp_path)


def test_a_bomb_in_idx_files(tmp_path, memory):
    for kind, shape in (("images-idx3", (2**16, 2**8, 2**8)), ("labels-idx1", (2**16,))):
        head = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        for split in ("train", "t10k"):
            (tmp_path / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + bytes(2**16)))
    with pytest.raises(BadInput, match="DISTRUST_MOST_UNPACKED=4294967296"):
        images(tmp_path)


@pytest.mark.parametrize(
    "words, file",
    [
        ("run big.toml", "big.toml"), ("check big.toml", "big.toml"), ("run s.toml", "big.toml"),
        ("run n.toml --dry-run", "big.py"), ("check big.py", "big.py"), ("check big.json", "big.json"),
        ("results cells", "cells/big.json"),
        ("measure --weights ours.safetensors --images digits --trigger big.json --target 0", "big.json"),
        ("measure --weights ours.safetensors --images digits --classes big.txt", "big.txt"),
        ("measure --weights ours.safetensors --images set", "set/classes.txt"),
        ("measure --weights ours.safetensors --images listed", "listed/list.txt"),
    ],
)  # fmt: skip
def test_a_text_is_refused_by_its_size(words, file, distrust, digits):
    Path("s.toml").write_text("name = 's'\nteacher = 'mlp'\nbudgets_from = 'big.toml'\n")
    Path("n.toml").write_text("name = 'n'\nteacher = 'big.py:make'\n[budgets.cpu]\n")
    dt.save(dt.model("mlp", digits.train), "ours.safetensors")
    for place in ("train/a", "train/b", "test"):
        Path("listed", place).mkdir(parents=True)
        Image.new("L", (8, 8)).save(Path("listed", place, "0.png"))
    pictures(Path("set"))
    Path("cells").mkdir()
    with open(file, "wb") as big:
        big.truncate(2**40)  # of which nothing is there, and more than can be read
    found = distrust(*words.split())
    assert found.code == 2 and "1,099,511,627,776 bytes; at most" in found.err, found


@pytest.mark.parametrize(
    "text",
    ["a\n" * 2**21, "".join(f"b{k} = 1\n" for k in range(2**17)), "@defense(paper='none')\n" * 2**15],
    ids=["a", "b", "c"],
)
def test_no_text_is_parsed_that_takes_a_thousand_times_its_size(text, distrust, memory):
    Path("a.txt").write_text(text)
    assert distrust("check", "a.txt").code == 0


def test_a_study_whose_names_have_no_end_is_refused(distrust, memory):
    Path("a.toml").write_text(f"{'a.' * 2**15}a = 1")
    found = distrust("run", "a.toml")
    assert found.code == 2 and "32,768 dots in a line; at most 1,000" in found.err


def test_a_bound_is_raised_by_who_means_it(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    Image.new("L", (100, 50)).save(file)
    monkeypatch.setenv("DISTRUST_MOST_PIXELS", "4999")
    with pytest.raises(BadInput, match="5,000 pixels; at most 4,999 are taken.*DISTRUST_MOST_PIXELS=5000"):
        open_picture(file)
    monkeypatch.setenv("DISTRUST_MOST_PIXELS", "5000")
    assert open_picture(file).shape == (3, 50, 100)
    monkeypatch.setenv("DISTRUST_MOST_PIXELS", "many")
    with pytest.raises(BadInput, match="is no whole number"):
        most("pixels")
    check_bound("classes", MOST["classes"], "this", "classes")


@pytest.mark.parametrize("name", ["wrn1000-1000", "convnet5-w100000", "resnet20000", "pyramidnet1100-a99999"])
def test_metadata_builds_no_network_that_fills_the_memory(name, tmp_path):
    spec = {"name": name, "classes": 10, "channels": 3, "size": 32}
    (tmp_path / "a.safetensors").write_bytes(state_bytes({"a": torch.zeros(2)}, {"spec": spec}))
    with pytest.raises(BadInput, match="DISTRUST_MOST_(PARAMETERS|NUMBER)"):
        dt.load(tmp_path / "a.safetensors")


def test_a_label_does_not_decide_how_much_memory_is_taken(tmp_path, memory):
    x = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    np.savez(tmp_path / "set.npz", images=x, labels=np.array([0, 1, 2, 10**12]))
    with pytest.raises(BadInput, match="1,000,000,000,001 classes"):
        dt.load_set(tmp_path / "set.npz")
    np.savez(tmp_path / "split.npz", x_train=x, y_train=[0, 1, 2, 10**12], x_test=x, y_test=[0, 1, 2, 3])
    with pytest.raises(BadInput):
        images(tmp_path / "split.npz")


def test_every_picture_is_opened_by_a_closed_list_of_formats():
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                assert "formats" in {keyword.arg for keyword in node.keywords}, f"{path}:{node.lineno}"
    assert not {"EPS", "PDF", "WMF", "FPX", "MIC", "PSD", "GBR"} & {*FORMATS}


def test_a_program_under_the_name_of_a_picture_starts_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    for name in "ab":
        for k in range(5):
            file = tmp_path / "set" / name / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(eps)
    for call in (lambda: images(tmp_path / "set", cache=tmp_path), lambda: open_picture(file), lambda: opened(file)):
        with pytest.raises(BadInput):
            call()
    assert not (tmp_path / "ran").exists()
    with Image.open(io.BytesIO(eps)) as picture, pytest.raises(OSError):
        from PIL import EpsImagePlugin

        monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(folder / "gs"))
        picture.load()
    assert (tmp_path / "ran").exists(), "it would have started it"


# links, devices and what waits without end


def pictures(at: Path) -> Path:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (at / split / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), "red").save(at / split / name / "0.png")
    return at


def test_links_that_leave_or_lead_round_are_not_followed(tmp_path):
    root, other = pictures(tmp_path / "set"), pictures(tmp_path / "other")
    (root / "train/cat/1.png").symlink_to(other / "train/cat/0.png")
    (root / "train/cat/more").symlink_to(other / "train/cat")
    (root / "train/cat/round").symlink_to(root / "train")
    (root / "train/dog/up").symlink_to("..")
    (root / "train/dog/2.png").symlink_to("0.png")  # inside
    (root / "train/dog/kin").symlink_to(root / "test/dog")  # inside
    with pytest.warns(Notice, match=r"are not followed \(4, such as .*1\.png"):
        train, _ = images(root, cache=tmp_path)
    assert train.y.bincount().tolist() == [1, 3]
    (tmp_path / "link").symlink_to(root)
    for file in ("cat/1.png", "cat/more", "cat/round", "dog/up"):
        (root / "train" / file).unlink()
    assert len(images(tmp_path / "link", cache=tmp_path).train) == 4, "the set itself may be given by a link"


def test_two_links_that_lead_to_each_other_end(tmp_path):
    root = pictures(tmp_path / "set")
    (root / "train/cat/dogs").symlink_to(root / "train/dog")
    (root / "train/dog/cats").symlink_to(root / "train/cat")
    with pytest.warns(Notice, match="are not followed"):
        assert len(images(root, cache=tmp_path).train) == 4


@pytest.mark.parametrize(
    "words",
    [
        ["check", "pipe"],
        ["check", "/dev/zero"],
        ["measure", "--weights", "pipe", "--model", "wrn10-1", "--images", "digits", "--trigger", "sig"],
        ["measure", "--weights", "/dev/zero", "--model", "wrn10-1", "--images", "digits", "--trigger", "sig"],
        ["measure", "--model", "wrn10-1", "--weights", "a.pt", "--images", "pipe", "--trigger", "sig"],
        ["measure", "--model", "wrn10-1", "--weights", "a.pt", "--images", "/dev/zero", "--trigger", "sig"],
        ["measure", "--model", "wrn10-1", "--weights", "a.pt", "--images", "digits", "--trigger", "pipe"],
        ["measure", "--model", "wrn10-1", "--weights", "a.pt", "--images", "digits", "--trigger", "blend:/dev/zero"],
        ["measure", "--model", "wrn10-1", "--weights", "a.pt", "--images", "digits", "--trigger", "p.json"],
        ["measure", "--model", "mlp", "--weights", "a.pt", "--images", "digits", "--trigger=sig", "--classes", "pipe"],
        ["measure", "--model", "wrn10-1", "--weights", "a.pt", "--images", "tables", "--trigger", "sig"],
        ["measure", "--model", "wrn10-1", "--weights", "a.pt", "--images", "idx", "--trigger", "sig"],
        ["measure", "--model", "wrn10-1", "--weights", "a.pt", "--images", "listed", "--trigger", "sig"],
        ["scan", "pipe"],
        ["run", "pipe"],
        ["run", "/dev/zero"],
        ["check", "tables", "idx", "listed", "pipe"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_nothing_waits_for_a_pipe_or_reads_a_device(words, distrust):
    for place in ("pipe", "p.json", "tables/train.parquet", "idx/train-images-idx3-ubyte", "listed/list.txt"):
        Path(place).parent.mkdir(exist_ok=True)
        os.mkfifo(place)
    os.mkfifo("tables/test.parquet")
    for split in ("train/a", "train/b", "test"):
        Path("listed", split).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(Path("listed", split, "0.png"))
    torch.save({"a": torch.zeros(2)}, "a.pt")
    assert distrust(*words).code == 2


# the network


@pytest.fixture
def alone(monkeypatch):
    """Nobody is reached, and who tries is remembered: libraries swallow the error."""
    asked = []

    def refuse(*given, **more):
        asked.append(given)
        raise OSError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return asked


def test_no_local_source_asks_for_a_host(alone, tmp_path):
    from datasets import Dataset, Features
    from datasets import Image as Pictures
    from datasets.features import ClassLabel
    from tests.study_fixture import two_classes

    kinds = Features(image=Pictures(), label=ClassLabel(names=["a", "b"]))
    cells = [Image.new("RGB", (8, 8), (k, 0, 0)) for k in range(8)]
    (tmp_path / "tables").mkdir()
    for split in ("train", "test"):
        table = Dataset.from_dict({"image": cells, "label": [0, 1] * 4}, features=kinds)
        table.to_parquet(tmp_path / "tables" / f"{split}.parquet")
    x, y = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1], np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (tmp_path / "idx").mkdir()
    for split in ("train", "t10k"):
        for kind, array in (("images-idx3", x), ("labels-idx1", y)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (tmp_path / "idx" / f"{split}-{kind}-ubyte").write_bytes(head + array.tobytes())
    alone.clear()
    found = images(tmp_path / "tables", cache=tmp_path)
    assert found.train.classes == ("a", "b") and found.train.x[:, 0, 0, 0].tolist() == [*range(8)]
    for source in ("digits", tmp_path / "a.npz", tmp_path / "idx", two_classes(tmp_path / "folder")):
        images(source, cache=tmp_path)
    assert alone == []


def test_a_table_that_names_a_file_without_its_bytes_opens_none(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    cells = pa.array(
        [{"bytes": None, "path": str(tmp_path / "private.png")}] * 4,
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": cells, "label": [0, 1, 0, 1]}), tmp_path / f"{split}.parquet")
    with pytest.raises(BadInput, match="it is empty"):
        images(tmp_path, cache=tmp_path)


# names and metadata of strangers


@pytest.mark.parametrize("taint", ["../../evil", "a/b", "a\x1b[2J", "", "a" * 300, ".hidden", "a\nb"])
def test_a_word_that_cannot_stand_in_a_file_name_is_no_record_of_ours(taint, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(state_bytes({"a": torch.zeros(2)}, {"taint": [taint]}))
    assert read_record(tmp_path / "a.safetensors") == {}


def test_a_card_keeps_what_a_stranger_wrote_in_its_cell(tmp_path):
    from distrust.auditing.artefact import write_artefact

    hostile = "a`|\n# Safe <script>"
    made = write_artefact(tmp_path / "out", dt.model("mlp", classes=2, size=4), ("x/../y",), {"classes": [hostile]})
    assert made.parent == tmp_path / "out" and made.name == "model.tainted-x_.._y.safetensors"
    [row] = [line for line in (tmp_path / "out/README.md").read_text().splitlines() if "script" in line]
    assert row.count("`") == 2 and row.count("|") - row.count("\\|") == 3


def test_names_do_not_steer_a_terminal(distrust):
    name = "a\x1b]0;owned\x07\u202e\x9b2J.txt"
    Path(name).write_text("nothing")
    for words in ([name], [name, name], [name, "--json"]):
        said = distrust("check", *words)
        assert said.code == 0 and not {*"\x1b\x07\u202e\x9b"} & {*said.out, *said.err}, said
    assert distrust("check", name, "--json").facts["file"] == name
    missing = distrust("check", "none\x1b[31m.pt")
    assert missing.code == 2 and "\x1b" not in missing.err and "\\u001b" in missing.err


HOSTILE = "a\nOK: all is well\x1b[2J\u202e"
NAMED = [  # commands that tell names
    "check set", "check broken", "check two.pt", "check odd.npz", "check study.toml", "check other.toml",
    "check two.pt set broken", "check set.safetensors",
    "measure --weights ours.safetensors --images set --trigger patch:white:3 --target 0",
    "measure --weights ours.safetensors --images set --classes classes.txt",
    "measure --weights one.pt --model mlp --images set", "scan set.safetensors --detector random",
    "run study.toml --dry-run", "run other.toml --dry-run", "results results", "report results", "why 0", "status",
]  # fmt: skip


def test_names_add_no_line(distrust):
    for split in ("train", "test"):
        for name in (HOSTILE, "b"):
            Path("set", split, name).mkdir(parents=True)
            for k in range(8):
                Image.new("L", (8, 8), 20 * k).save(Path("set", split, name, f"{k}.png"))
                Path("broken", split, name).mkdir(parents=True, exist_ok=True)
                Path("broken", split, name, f"{HOSTILE}{k}.png").write_text("no picture")
    Path("classes.txt").write_text("b\nc\n")
    made = dt.model("mlp", classes=2, channels=1, size=8)
    dt.save(made, "ours.safetensors")
    dt.save_set(images("set", cache=Path("cache")).train, "set.safetensors")
    torch.save({HOSTILE: {f"{k}.weight": torch.zeros(2, 2) for k in "ab"}, "other": made.state_dict()}, "two.pt")
    torch.save({f"{HOSTILE}.weight": torch.zeros(2, 2)}, "one.pt")
    np.savez("odd.npz", **{"x": np.zeros((2, 2)), HOSTILE: np.zeros(3)})
    Path("study.toml").write_text(f"name = {json.dumps(HOSTILE)}\nteacher = 'mlp'\nbudgets.cpu = {{}}\n")
    Path("other.toml").write_text(f"name = 'a'\nteacher = {json.dumps(HOSTILE)}\n[budgets.cpu]\n")
    said = dict.fromkeys([*AXES, "study", "budget", "reproduce", "error"], HOSTILE) | {"seed": 0, "target": 0}
    said |= {"flags": [HOSTILE], "published": [], "keys": {}, "acc": 0.5}
    Path("results").mkdir()
    for state in ("done", "failed"):
        Path("results", f"{state}.json").write_text(json.dumps(said | {"id": state, "state": state, "attack": state}))
    record = {"state": "failed", "parents": [], "flags": [HOSTILE], "seconds": 1.0, "recipe": {"method": HOSTILE}}
    Store("runs").save("0" * 32, record | dict.fromkeys(("kind", "label", "error"), HOSTILE))
    for words in NAMED:
        said = distrust(*words.split())
        lines = f"{said.out}\n{said.err}".split("\n")
        assert not [line for line in lines if line.startswith("OK") or {*"\x1b\u202e"} & {*line}], words


def test_what_is_to_be_typed_is_quoted(distrust):
    spec = {"name": "a.py; touch ran #.py:make", "classes": 2, "channels": 3, "size": 8}
    Path("a.safetensors").write_bytes(state_bytes({"a": torch.zeros(2)}, {"spec": spec}))
    with pytest.raises(BadInput, match="--model 'a.py; touch ran #.py:make'"):
        dt.open_suspect("a.safetensors", "digits")


def test_errors_of_three_kinds_have_three_words(distrust):
    from tests.test_malicious import PAYLOAD

    torch.save({"a": torch.zeros(2000)}, "sound.pt")
    Path("damaged.pt").write_bytes(Path("sound.pt").read_bytes()[:-500])
    Path("unsafe.pt").write_bytes(PAYLOAD)
    Path("other.pt").write_bytes(b"GGUF" + bytes(64))
    for name, code in {"sound": 0, "unsafe": 1, "damaged": 2, "other": 2}.items():
        assert distrust("check", f"{name}.pt").code == code
    said = distrust("check", "sound.pt", "unsafe.pt", "damaged.pt", "other.pt", "none.pt", "--json")
    words = ["weights", "unsafe", "damaged", "unreadable", "missing"]
    assert said.code == 1 and [one["is"] for one in said.facts["files"]] == words
    for one in said.facts["files"]:  # alone it is told in the same words
        alone = distrust("check", one["file"], "--json")
        assert {name: alone.facts.get(name) for name in one} == one, one
        assert alone.code == {True: 0, False: 1, None: 2}[one["safe"]] and ("error" in one) == bool(alone.code)
    assert distrust("check", "damaged.pt", "other.pt").code == 2
    Path("damaged").mkdir()
    Path("damaged/other.pt").write_bytes(b"GGUF" + bytes(64))
    Path("a.toml").write_text("name = 'a'\nteacher = 'wrn10-1'\nattack = 'badnest'\n[budgets.cpu]\n")
    said = distrust("check", "damaged/other.pt", "a.toml", "--json").facts["files"]
    assert [one["is"] for one in said] == ["unreadable"] * 2, "neither its name nor what it names says what it is"
    with pytest.raises(UnsafeFile):
        opened("unsafe.pt")
    with pytest.raises(NotFound):
        opened("none.pt")
