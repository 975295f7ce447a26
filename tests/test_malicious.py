"""Files that run code when they are opened, of the kinds that scanners of pickles know: none runs, each is refused."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.conftest import distrust

from distrust.door import weights_in
from distrust.errors import BadInput, DistrustError, UnsafeFile
from distrust.pickles import asked_by, damage, oddity

__all__ = ["distrust"]
CANARY = "ran"
SHELL = f"touch {CANARY}"
PYTHON = f"open('{CANARY}', 'w').close()"


def text(word: str) -> bytes:
    """A word on the stack."""
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def called(module: str, name: str, *given: str, end: bytes = b".") -> bytes:
    """A pickle that calls a global with words."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(map(text, given)) + b"tR" + end


GLOBALS = {  # module and name → with what it is called; what picklescan, fickling and modelscan list, and kin
    "os.system": [SHELL], "posix.system": [SHELL], "nt.system": [SHELL], "os.popen": [SHELL], "os.execvp": ["sh"],
    "os.remove": ["weights.pt"], "builtins.exec": [PYTHON], "builtins.eval": [PYTHON], "__builtin__.eval": [PYTHON],
    "builtins.getattr": ["a", "b"], "builtins.open": [CANARY, "w"], "builtins.compile": [PYTHON, "a", "exec"],
    "builtins.__import__": ["os"], "builtins.apply": [SHELL], "subprocess.Popen": [SHELL], "subprocess.run": [SHELL],
    "subprocess.check_output": [SHELL], "runpy.run_path": ["a.py"], "runpy._run_code": [PYTHON],
    "importlib.import_module": ["os"], "imp.load_source": ["a", "a.py"], "webbrowser.open": ["http://localhost"],
    "socket.create_connection": ["localhost"], "socket.socket": [], "requests.api.get": ["http://localhost"],
    "urllib.request.urlopen": ["http://localhost"], "httplib.HTTPSConnection": ["localhost"],
    "aiohttp.client.ClientSession": [], "torch.hub.load": ["a/b", "c"], "torch.load": ["weights.pt"],
    "torch.storage._load_from_bytes": ["a"], "torch._dynamo.guards.GuardBuilder.get": [PYTHON],
    "torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression": [PYTHON],
    "torch.utils.collect_env.run": [SHELL], "torch.utils._config_module.load_config": ["a"],
    "torch.jit.unsupported_tensor_ops.execWrapper": [PYTHON], "torch.serialization.load": ["weights.pt"],
    "numpy.testing._private.utils.runstring": [PYTHON], "numpy.f2py.crackfortran.myeval": [PYTHON],
    "numpy.f2py.crackfortran._eval_length": [PYTHON], "numpy.load": ["a.npy"], "numpy.fromfile": ["a.npy"],
    "pip.main": ["install"], "pip._internal.main": ["install"], "ensurepip._run_pip": ["install"],
    "functools.partial": ["a"], "functools.reduce": ["a"], "operator.attrgetter": ["system"],
    "operator.methodcaller": ["system"], "pickle.loads": ["a"], "_pickle.loads": ["a"], "dill.loads": ["a"],
    "cloudpickle.cloudpickle._make_function": ["a"], "joblib.load": ["a"], "marshal.loads": ["a"],
    "types.CodeType": [], "types.FunctionType": [], "code.InteractiveInterpreter": [], "codeop.compile_command": ["a"],
    "pdb.run": [PYTHON], "bdb.Bdb": [], "timeit.timeit": [PYTHON], "cProfile.run": [PYTHON], "profile.run": [PYTHON],
    "trace.Trace": [], "doctest.debug_script": [PYTHON], "asyncio.unix_events._UnixSubprocessTransport._start": ["a"],
    "multiprocessing.util.spawnv_passfds": ["a"], "ctypes.CDLL": ["a.so"], "cffi.FFI": [], "pty.spawn": ["sh"],
    "pydoc.pipepager": ["a", SHELL], "shutil.rmtree": ["."], "sys.exit": [], "signal.signal": [], "venv.create": ["a"],
    "lib2to3.pgen2.pgen.ParserGenerator": ["a"], "idlelib.run.Executive.runcode": [PYTHON], "commands.getoutput": ["a"],
    "test.support.script_helper.assert_python_ok": ["-c"], "distutils.file_util.write_file": [CANARY],
    "logging.config.dictConfig": ["a"], "linecache.getline": ["a"], "http.server.test": [], "ssl.create_connection": [],
    "keras.src.saving.saving_lib.load_model": ["a"], "tensorflow.python.eager.x.f": ["a"], "sympy.core.sympify": ["a"],
    "transformers.models.auto.Auto.from_pretrained": ["a"], "my_module.Network": [], "sklearn.pipeline.Pipeline": [],
}  # fmt: skip


def stacked(module: bytes, name: bytes) -> bytes:
    """What puts both words on the stack, then the global, then calls it."""
    return b"\x80\x04" + module + name + b"\x93(" + text(SHELL) + b"tR."


INNER = pickle.dumps(called("os", "system", SHELL))
TRICKS = {  # ways to hide a call of os.system from who reads the opcodes
    "by stack": stacked(text("os"), text("system")),
    "laid away": stacked(text("system") + b"\x94" + text("os") + b"\x94h\x01", b"h\x00"),
    "put and got": stacked(text("os") + b"q\x05" + b"0" + b"h\x05", text("system") + b"q\x06"),
    "numbered twice": stacked(text("torch") + b"q\x00" + text("os") + b"q\x00", b"0h\x00" + text("system")),
    "other words between": stacked(text("os"), text("system") + text("torch") + text("Size") + b"00"),
    "doubled": stacked(text("os") + b"2" + b"0", text("system")),
    "a list made meanwhile": stacked(text("os"), text("system") + b"](" + text("torch") + text("Size") + b"e0"),
    "put together": stacked(text("os"), b"ccollections\nOrderedDict\n)R"),
    "INST": b"(" + text(SHELL) + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + text(SHELL) + b"o.",
    "NEWOBJ": b"\x80\x02cos\nsystem\n(" + text(SHELL) + b"t\x81.",
    "BUILD": b"\x80\x02cmy_module\nNetwork\n)\x81}" + text("a") + text("b") + b"sb.",
    "of the oldest kind": f"cos\nsystem\n(S'{SHELL}'\ntR.".encode(),
    "broken after it": called("os", "system", SHELL, end=b"\xff\xff\xff"),
    "cut after it": called("os", "system", SHELL, end=b""),
    "the oldest, cut": f"cos\nsystem\n(S'{SHELL}'\ntR".encode(),
    "a pickle in a pickle": b"\x80\x02cpickle\nloads\n(" + INNER[2:-1].split(b"q", 1)[0] + b"tR.",
    "bytes of a storage": b"\x80\x03ctorch.storage\n_load_from_bytes\n(C\x04abcdtR.",
    "an extension": b"\x80\x02\x82\x01(" + text(SHELL) + b"tR.",
    "behind a long word": b"\x80\x02" + text("a" * 70_000) + b"0" + called("os", "system", SHELL)[2:],
}


def alone(content: bytes, file: Path) -> None:
    file.write_bytes(content)


def zipped(content: bytes, file: Path, packing: int = zipfile.ZIP_STORED) -> None:
    """As torch.save writes it: some weights beside, which a scanner may be content with."""
    with zipfile.ZipFile(file, "w", packing) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/version", "3\n")


def deflated(content: bytes, file: Path) -> None:
    zipped(content, file, zipfile.ZIP_DEFLATED)


def patched(file: Path, which: bytes, at: int, value: bytes) -> None:
    """Change bytes of the first entry's headers, the central one's and, two or four bytes on, its own."""
    content = bytearray(file.read_bytes())
    start = content.index(which) + at
    content[start : start + len(value)] = value
    file.write_bytes(bytes(content))


def wrong_checksum(content: bytes, file: Path) -> None:
    zipped(content, file)
    patched(file, b"PK\1\2", 16, b"\1\2\3\4")


def wrong_flags(content: bytes, file: Path) -> None:
    zipped(content, file)
    patched(file, b"PK\1\2", 8, b"\1\0")
    patched(file, b"PK\3\4", 6, b"\1\0")


def other_name(content: bytes, file: Path) -> None:
    zipped(content, file)
    patched(file, b"PK\3\4", 30, b"archive/data.pkx")


def twice(content: bytes, file: Path) -> None:
    zipped(pickle.dumps({}, 2), file)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data.pkl", content)


def tarred(content: bytes, file: Path) -> None:
    """As torch wrote before version 0.2."""
    with tarfile.open(file, "w") as archive:
        for name in ("sys_info", "pickle", "storages"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def named_so(content: bytes, file: Path) -> None:
    """A pickle of another name beside a harmless one."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"broken")
        archive.writestr("archive/config.p", b"\x80\x02" + content.removeprefix(b"\x80\x02"))


WRAPS = (alone, zipped, deflated, wrong_checksum, wrong_flags, other_name, twice, tarred)
PAYLOAD = called("os", "system", SHELL)


def refused(distrust, file: str = "weights.pt") -> str:
    """Exit code 1 of `check`, 2 of what would open it; nothing ran."""
    said = distrust("check", file, "--json")
    assert said.code == 1 and said.facts["safe"] is False, said
    several = distrust("check", file, file, "--json")
    assert several.code == 1 and all(one["error"] == "UnsafeFile" for one in several.facts["files"])
    opened = distrust("measure", "--weights", file, "--model", "wrn10-1", "--images", "digits", "--trigger", "sig")
    assert opened.code == 2 and opened.err.startswith("UnsafeFile"), opened
    assert not Path(CANARY).exists()
    return str(said.facts["reason"])


@pytest.mark.parametrize("name", GLOBALS)
def test_a_global_that_runs_something_is_named(name, tmp_path):
    module, _, function = name.rpartition(".")
    content = called(module, function, *GLOBALS[name])
    for k, wrap in enumerate((alone, zipped)):
        wrap(content, tmp_path / f"{k}.pt")
        with pytest.raises(UnsafeFile, match=r"Not loaded"):
            weights_in(tmp_path / f"{k}.pt")
        assert asked_by(tmp_path / f"{k}.pt") == [name.replace("__builtin__", "builtins")]
    assert not (tmp_path / CANARY).exists() and not Path(CANARY).exists()


@pytest.mark.parametrize("trick", TRICKS)
def test_a_call_that_hides_is_found(trick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrap in (alone, zipped):
        wrap(TRICKS[trick], Path("weights.pt"))
        with pytest.raises(UnsafeFile):
            weights_in("weights.pt")
    assert not Path(CANARY).exists()


@pytest.mark.parametrize("wrap", WRAPS, ids=lambda wrap: wrap.__name__)
def test_however_it_is_wrapped_it_is_unsafe(wrap, distrust):
    wrap(PAYLOAD, Path("weights.pt"))
    assert "os.system" in refused(distrust)


def test_these_would_run(tmp_path, monkeypatch):
    """The canary sings where a pickle is opened as Python does it."""
    monkeypatch.chdir(tmp_path)
    for content in (PAYLOAD, TRICKS["laid away"], TRICKS["numbered twice"], TRICKS["INST"], TRICKS["OBJ"]):
        pickle.loads(content)
        Path(CANARY).unlink()
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(TRICKS["broken after it"])
    assert Path(CANARY).exists()


@pytest.mark.parametrize("wrap", [wrong_checksum, wrong_flags, other_name, twice], ids=lambda wrap: wrap.__name__)
def test_an_odd_archive_is_unsafe_whatever_is_in_it(wrap, distrust):
    torch.save({"a": torch.zeros(3)}, "sound.pt")
    with zipfile.ZipFile("sound.pt") as archive:
        content = archive.read("sound/data.pkl")
    wrap(content, Path("weights.pt"))
    assert "odd archive" in refused(distrust)


def test_objects_in_arrays_are_unsafe(distrust):
    class Runs:
        def __reduce__(self):
            return (exec, (PYTHON,))

    np.save("weights.npy", np.array([Runs()], object), allow_pickle=True)
    np.savez("weights.npz", x=np.array([Runs()], object))
    for file in ("weights.npy", "weights.npz"):
        assert distrust("check", file).code == 1
        with pytest.raises(UnsafeFile, match="Python objects"):
            weights_in(file)
    np.savez("set.npz", x=np.array([Runs()], object), y=np.zeros(1, int))
    assert distrust("check", "set.npz").code == 1 and not Path(CANARY).exists()


def test_a_program_is_called_what_it_is(distrust):
    """TorchScript and Keras' lambdas hold code; what only looks like them is unreadable, and so is ONNX."""
    lambdas = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wEA"}}}}
    with zipfile.ZipFile("lambda.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"layers": [lambdas]}))
        archive.writestr("model.weights.h5", b"\x89HDF")
    Path("lambda.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64) + json.dumps({"layers": [lambdas]}).encode())
    for file in ("lambda.keras", "lambda.h5"):
        said = distrust("check", file)
        assert said.code == 1 and "Keras" in said.out and "Lambda" in said.out, said
    with zipfile.ZipFile("plain.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"\x89HDF")
    Path("model.onnx").write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x032.1" + b"location\x12\x10../../etc/passwd")
    Path("model.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\4" + bytes(64))
    for file, word in {"plain.keras": "Keras", "model.onnx": "ONNX", "model.7z": "7-Zip"}.items():
        said = distrust("check", file)
        assert said.code == 2 and word in said.err, said


def test_torchscript_is_unsafe(distrust):
    with zipfile.ZipFile("script.pt", "w") as archive:
        archive.writestr("s/data.pkl", b"\x80\x02c__torch__\nNetwork\n)\x81}b.")
        archive.writestr("s/code/__torch__.py", "class Network(Module):\n  pass\n")
        archive.writestr("s/constants.pkl", b"\x80\x02).")
    assert "TorchScript" in refused(distrust, "script.pt")


def test_a_joblib_file_is_unsafe(distrust):
    wrapped = (
        b"\x80\x03cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}" + text("shape") + b"K\x04sb" + bytes(range(200))
    )
    Path("model.joblib").write_bytes(wrapped)
    assert "joblib" in refused(distrust, "model.joblib")


@pytest.mark.parametrize("place", ["data/0", "data/1"])
def test_a_tensor_that_was_changed_on_its_way_is_damage_and_not_danger(place, distrust):
    torch.save({"a": torch.arange(100.0), "b": torch.ones(9, 9)}, "weights.pt")
    assert damage(Path("weights.pt")) == oddity(Path("weights.pt")) == ""
    with zipfile.ZipFile("weights.pt") as archive:
        entry = archive.getinfo(f"weights/{place}")
    content = bytearray(Path("weights.pt").read_bytes())
    content[entry.header_offset + 200 & ~7] ^= 1
    Path("weights.pt").write_bytes(bytes(content))
    broken = damage(Path("weights.pt"))
    if not broken:  # the bit fell into what fills the gaps
        content[-1 - len(content) + content.index(struct.pack("<f", 1.0))] ^= 1
        Path("weights.pt").write_bytes(bytes(content))
    said = distrust("check", "weights.pt")
    assert said.code == 2 and "damaged: the checksum of weights/data/" in said.err, said


def test_archives_without_checksums_are_opened(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "bare.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert weights_in(tmp_path / "bare.pt")[0].tensors["a"].sum() == 3


def test_what_is_harmless_stays_so(tmp_path):
    """Plain things beside weights, of every protocol; text that only begins like a pickle."""
    beside = {"acc": np.float64(0.5), "at": Path("a"), "names": {"a", "b"}, "raw": b"abc", "dtype": torch.float16}
    torch.save({"w": torch.ones(3), **beside}, tmp_path / "a.pt")
    assert weights_in(tmp_path / "a.pt")[0].tensors["w"].sum() == 3
    torch.save({"w": torch.ones(3), **beside}, tmp_path / "a.pt", pickle_protocol=4)
    assert asked_by(tmp_path / "a.pt") == []
    with pytest.raises(BadInput, match="of protocol 4"):
        weights_in(tmp_path / "a.pt")
    for words in (b"cat\ndog\nRabbit\n", b"cos\nsystem\n", b"(cat\ndog\ntR", zlib.compress(b"a" * 99)):
        (tmp_path / "words.pt").write_bytes(words)
        with pytest.raises(BadInput):
            weights_in(tmp_path / "words.pt")


def test_what_stands_behind_a_harmless_pickle_is_found_where_it_would_be_opened(tmp_path):
    """A file of before torch 1.6 is five pickles, one after another."""
    (tmp_path / "a.pt").write_bytes(called("collections", "OrderedDict") + PAYLOAD)
    with pytest.raises(UnsafeFile, match=r"os\.system"):
        weights_in(tmp_path / "a.pt")


@pytest.mark.parametrize("seed", range(60))
def test_a_payload_that_is_damaged_never_runs(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(seed)
    WRAPS[seed % 6](PAYLOAD, Path("weights.pt"))
    content = bytearray(Path("weights.pt").read_bytes())
    for place in draw.integers(0, len(content), 3):
        content[place] ^= 1 << int(draw.integers(8))
    Path("weights.pt").write_bytes(bytes(content))
    with pytest.raises(DistrustError):
        weights_in("weights.pt")
    assert not Path(CANARY).exists()
