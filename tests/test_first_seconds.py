"""What a command imports, and what is remembered so that it need not be imported; counts, not seconds."""

import dataclasses
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.said import PLUGIN

import distrust
from distrust import BadInput
from distrust.cards import card
from distrust.cli.lookup import _families
from distrust.files import cache_directory, remembered
from distrust.marks import KINDS
from distrust.models import families
from distrust.registry import Registry, registry
from distrust.study import Store

SRC = Path(distrust.__file__).parent
RESULTS = SRC.parents[1] / "results"
HEAVY = {"torch", "scipy", "sklearn", "matplotlib", "datasets", "pandas"}
KEY = "0123456789abcdef" * 2


def process(code: str, *words: object, **environment: object) -> list[str]:
    """The lines that a fresh Python prints which runs a command and then this."""
    run = f"import atexit, sys; atexit.register(lambda: print({code})); from distrust.cli import main; main()"
    told = {name: str(value) for name, value in environment.items()}
    command = [sys.executable, "-c", run, *map(str, words)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **told})
    assert "Traceback" not in said.stderr, said.stderr
    return said.stdout.splitlines()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A store with one stage, a folder of cells of one seed, and a cache that knows this code."""
    root = tmp_path_factory.mktemp("place")
    record = {"kind": "teacher", "label": "teacher wrn10-1", "state": "done", "seconds": 2.0, "parents": []}
    Store(root / "runs").save(KEY, {**record, "recipe": {"method": "teacher"}, "flags": []})
    (root / "one").mkdir()
    for file in (RESULTS / "nad-mini").glob("*-s0.json"):
        shutil.copy(file, root / "one")
    remembered("models", _families)
    Registry().cards("attacks")
    return root


@pytest.mark.parametrize(
    "words",
    [
        "--help", "report --help", "list", "list attacks --json", "list models", "list nothing", "show nad",
        "show triggers/blend --json", "show nda", "status", "why 0123", "results one",
        "table one", "table one --format latex", "cite", "cite one", "figure --help", "table nowhere",
    ],
)  # fmt: skip
def test_what_only_looks_something_up_imports_nothing_heavy(words, place, monkeypatch):
    monkeypatch.chdir(place)
    *said, heavy = process(f"'HEAVY', *({HEAVY} & set(sys.modules))", *words.split())
    assert heavy.split() == ["HEAVY"]
    assert said or words in ("list nothing", "show nda", "table nowhere"), "it did its work"


def test_results_over_seeds_import_of_scipy_what_an_interval_needs(place):
    heavy = process(f"'HEAVY', *({HEAVY | {'scipy.stats'}} & set(sys.modules))", "results", RESULTS / "nad-mini")[-1]
    assert heavy.split() == ["HEAVY", "scipy"]


def test_what_is_remembered_of_a_method_is_what_it_says_itself(place):
    told, asked = Registry(), Registry()
    for kind in KINDS:
        methods = asked.kind(kind)
        plain = json.loads(json.dumps({name: card(method) for name, method in methods.items()}))
        assert list(told.cards(kind).items()) == list(plain.items())
        assert list(told.marks(kind)) == list(methods)
        for name, mark in told.marks(kind).items():
            own = methods[name].mark
            functions = {f.name: f.default for f in dataclasses.fields(own) if "Callable" in str(f.type)}
            functions |= {"makes": {}} if "makes" in functions else {}
            assert mark == dataclasses.replace(own, **functions), f"{kind}/{name}"
        assert asked.marks(kind) == {name: method.mark for name, method in methods.items()}
    assert told.marks("metrics") is told.marks("metrics"), "it is made once"
    assert told._kinds == {}, "no method was imported for it"
    assert remembered("models", _families) == families()


@pytest.mark.slow
def test_a_new_file_and_a_changed_one_are_listed_at_once(tmp_path):
    package = shutil.copytree(SRC, tmp_path / "src" / "distrust")
    own = {"PYTHONPATH": package.parent, "DISTRUST_CACHE": tmp_path / "cache"}

    def attacks() -> tuple[dict[str, str], bool]:
        *said, torch = process("'torch' in sys.modules", "list", "attacks", "--json", **own)
        return json.loads(said[-1])["attacks"], torch == "True"

    before, first = attacks()
    again, second = attacks()
    assert before == again and first and not second, "the first call imports the methods, the others do not"
    home = package / "methods" / "attacks"
    text = (home / "badnets.py").read_text()
    (home / "badnets_too.py").write_text(text.replace("def badnets(", "def badnets_too("))
    (home / "badnets.py").write_text(text.replace(before["badnets"], "Everything is new."))
    after, asked = attacks()
    assert asked and after == {**before, "badnets": "Everything is new.", "badnets_too": before["badnets"]}


def test_plugins_are_asked_themselves_and_never_remembered(plugin, monkeypatch, place):
    plugin(PLUGIN.format(raised="Skip('no')"))
    assert registry.cards("defenses")["mine"]["summary"] == "Stop." and "mine" in registry.marks("defenses")
    (cache_directory() / "facts" / "methods.json").unlink()
    assert "sig" in Registry().cards("triggers"), "which remembers the methods again"
    assert "mine" not in Registry().cards("defenses") and "mine" not in Registry().marks("defenses")

    def entry_points(group):
        return [importlib.metadata.EntryPoint("other", "distrust_plugin_mine:mine", group)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert Registry().cards("defenses")["other"]["summary"] == "Stop." and "other" in Registry().marks("defenses")


def test_an_answer_is_found_once_and_again_where_it_is_damaged_or_cannot_be_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path))
    asked = []

    def find():
        asked.append(len(asked))
        return {"n": (1, "é")}

    for _ in range(3):
        assert remembered("answer", find) == {"n": [1, "é"]}
    assert asked == [0]
    file = tmp_path / "facts" / "answer.json"
    for text in ("", "[]", "{}", '{"code": "of another day", "answer": 3}', file.read_text()[:-3], "\udcff"):
        file.write_bytes(text.encode(errors="surrogateescape"))
        assert remembered("answer", find) == {"n": [1, "é"]}
    assert len(asked) == 7 and json.loads(file.read_text())["answer"] == {"n": [1, "é"]}
    (tmp_path / "taken").write_text("no folder")
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "taken"))
    assert remembered("answer", find) == remembered("answer", find) == {"n": [1, "é"]}
    assert len(asked) == 9
    with pytest.raises(BadInput):
        remembered("another", lambda: (_ for _ in ()).throw(BadInput("its own errors go on")))
