"""Looking after a store, and taking a study to another machine."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import distrust as dt
from distrust.study import leases
from distrust.study.places import machine
from distrust.study.records import signed

GROUP = ("ls", "gc", "verify", "export", "import")


@pytest.fixture
def home(ran, tmp_path, monkeypatch):
    """A folder with the study and what it left."""
    folder = shutil.copytree(ran.folder, tmp_path / "home")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def away(home, distrust, tmp_path, monkeypatch):
    """Another machine, with nothing but the archive."""
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(home)
    assert distrust("export", "trial.toml").code == 0
    shutil.move(home / "trial.zip", tmp_path / "away")
    monkeypatch.chdir(tmp_path / "away")
    return tmp_path / "away"


def lying(folder="runs"):
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def smaller(line):
    """A study without this line of the other one."""
    lines = Path("trial.toml").read_text().splitlines(keepends=True)
    Path("small.toml").write_text("".join(one for one in lines if not one.startswith(line)))


def changed(old, new, change):
    """Another archive, each of whose entries went through this."""
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as target:
        for name in source.namelist():
            made = change(name, source.read(name))
            if made is not None:
                target.writestr(*made)


def test_the_group_explains_itself(distrust):
    said = distrust("store", "--help")
    assert said.code == 0 and all(f"  {name}" in said.out for name in GROUP)
    for name in GROUP:
        said = distrust("store", name, "-h")
        assert said.code == 0 and "--store" in said.out and "--json" in said.out
    assert distrust("store").code == 4
    said = distrust("store", "exprot")
    assert said.code == 4 and "export" in said.err


def test_stages_are_listed_by_what_they_are(distrust, home):
    found = distrust("store", "ls", "--json").facts
    assert len(found["stages"]) == 12 and found["bytes"] == sum(row["bytes"] for row in found["stages"])
    assert {row["state"] for row in found["stages"]} == {"done"} and all(row["age"] >= 0 for row in found["stages"])
    size = sum(f.stat().st_size for f in Path("runs", found["stages"][0]["key"]).iterdir())
    assert found["stages"][0]["bytes"] == size
    teachers = distrust("store", "ls", "--kind", "teacher", "--json").facts["stages"]
    assert {row["kind"] for row in teachers} == {"teacher"} and len(teachers) == 2
    tainted = distrust("store", "ls", "--taint", "badnets", "--json").facts["stages"]
    assert tainted and all(row["taint"] == ["badnets"] for row in tainted)
    Path("runs", teachers[0]["key"], "stage.json").write_text("{}")
    said = distrust("store", "ls", "--state", "damaged")
    assert said.code == 0 and teachers[0]["key"][:12] in said.out and "1 stages" in said.out
    assert distrust("store", "ls", "--store", "nowhere", "--json").facts["stages"] == []


def test_damage_is_a_finding(distrust, home):
    said = distrust("store", "verify")
    assert said.code == 0 and "12 stages are as they were written" in said.out
    file = next(Path("runs").glob("*/tensors.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    before = lying()
    said = distrust("store", "verify", "--json")
    assert said.code == 1 and [*said.facts["damaged"]] == [file.parent.name] and lying() == before


def test_what_no_study_needs_goes_when_it_is_asked_for(distrust, home):
    Path("small.toml").write_text(
        Path("trial.toml").read_text().replace('defense = ["none", "finetune[epochs=1]"]', "")
    )
    before, needed = lying(), dt.needed("small.toml")
    said = distrust("store", "gc", "--keep", "small.toml", "--json")
    assert said.code == 0 and not said.facts["removed"] and lying() == before, "it only says so"
    assert {*said.facts["stages"]} == {p.parent.name for p in Path("runs").glob("*/stage.json")} - needed
    assert said.facts["bytes"] == sum(f.stat().st_size for k in said.facts["stages"] for f in Path("runs", k).iterdir())
    assert distrust("store", "gc", "--json").facts["stages"] == [], "without --keep every stage stays"
    assert distrust("store", "gc", "--keep", "trial.toml", "--keep", "small.toml", "--json").facts["stages"] == []
    said = distrust("store", "gc", "--keep", "small.toml", "--yes")
    assert said.code == 0 and "6 stages" in said.out and "removed" in said.out
    after = lying()
    assert {Path(name).parts[1] for name in after} == {*needed, ".format", "results"}
    assert after.items() <= before.items(), "and cells stay"
    assert distrust("run", "small.toml", "--json", "--quiet", "--results", "cells").facts["ran"] == 0
    assert distrust("store", "gc", "--keep", "nowhere.toml", "--yes").code == 2


def test_nothing_is_removed_while_somebody_works_there(distrust, home):
    smaller("attack = ")
    lease = Path("runs", f".lease-{'a' * 32}-0")
    lease.write_text(json.dumps({"machine": machine(), "process": os.getpid(), "node": "desk"}))
    before = lying()
    said = distrust("store", "gc", "--keep", "small.toml", "--yes")
    assert said.code == 2 and "is being worked on (1 stages, on desk)" in said.err and lying() == before
    os.utime(lease, (0, 0))  # nobody renewed it
    assert distrust("store", "gc", "--keep", "small.toml", "--yes").code == 0 and not lease.exists()


def test_what_killed_runs_left_goes_and_what_is_young_stays(distrust, home):
    stage = next(Path("runs").glob("*/tensors.safetensors")).parent
    old = [Path("runs", name) for name in (f".{'b' * 32}-01234567-1-01234567", f"damaged-{'c' * 32}-01234567")]
    for folder in (*old, Path("runs", f"damaged-{'d' * 32}-01234567")):
        folder.mkdir()
        (folder / "model").write_bytes(b"12345")
    (stage / "0123abcd-model.safetensors").write_bytes(b"1")  # what a writer left that died
    for file in (*(folder / "model" for folder in old), *stage.iterdir()):
        os.utime(file, (0, 0))
    found = distrust("store", "gc", "--json").facts
    assert found["drafts"] == [old[0].name] and found["set_aside"] == [old[1].name] and found["bytes"] == 11
    assert found["leftovers"] == [f"{stage.name}/0123abcd-model.safetensors"] and found["stages"] == []
    assert distrust("store", "gc", "--yes").code == 0
    assert not any(folder.exists() for folder in old) and Path("runs", f"damaged-{'d' * 32}-01234567").exists()
    assert distrust("store", "verify").code == 0
    assert distrust("store", "gc", "--days", 0, "--json").facts["set_aside"] == [f"damaged-{'d' * 32}-01234567"]


# to another machine


def numbers(folder):
    cells = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    return [{k: v for k, v in cell.items() if k not in ("env", "seconds", "reproduce")} for cell in cells]


@pytest.mark.parametrize("how", ["import", "unpack"])
def test_a_study_goes_on_on_another_machine(distrust, home, away, how):
    if how == "import":
        said = distrust("store", "import", "trial.zip", "--json")
        assert said.code == 0 and said.facts["imported"] == 12 and said.facts["cells"] == 4
        assert said.facts["studies"] == ["trial.toml"]
    else:
        with zipfile.ZipFile("trial.zip") as archive:
            archive.extractall(".")
    assert lying("runs") == {name: (home / name).read_bytes() for name in lying("runs")}
    assert distrust("run", "trial.toml", "--json", "--quiet", "--jobs", 1).facts["ran"] == 0
    assert numbers("runs/results/trial") == numbers(home / "runs/results/trial")
    before = lying()
    said = distrust("store", "import", "trial.zip", "--json")
    assert (said.facts["imported"], said.facts["there"]) == (0, 12) and lying() == before


def test_what_scoring_needs_is_small_and_the_rest_is_made_again(distrust, home, tmp_path, monkeypatch):
    said = distrust("export", "trial.toml", "--scores", "--out", tmp_path / "scores", "--json")
    assert said.code == 0 and said.facts["stages"] == said.facts["planned"] == 12 and said.facts["bytes"] < 50_000
    monkeypatch.chdir(tmp_path / "scores")  # a folder, to work in as it is
    assert not [*Path("runs").glob("*/model*")]
    before = lying()
    said = distrust("run", "trial.toml", "--only-cached", "--quiet", "--results", "cells")
    assert said.code == 0 and numbers("cells") == numbers(home / "runs/results/trial")
    assert distrust("store", "verify").code == 0 and distrust("status").code == 0 and lying() == before
    more = ("--set", 'defense=["finetune[epochs=2]"]', "--only", "digits-wrn10-1-none", "--jobs", 1, "--json")
    said = distrust("run", "trial.toml", *more)
    assert said.code == 0 and "was left out when it was exported" in said.err and said.facts["ran"] == 3
    (teacher,) = {p.parent.name for p in Path("runs").glob("*/model.safetensors")} & {*os.listdir(home / "runs")}
    again, before = (load_file(place / f"runs/{teacher}/model.safetensors") for place in (Path(), home))
    assert again.keys() == before.keys()  # as many threads as there are now round otherwise
    assert all(torch.allclose(again[name].float(), before[name].float(), atol=1e-2) for name in again)


def test_whole_stages_take_the_place_of_bare_ones_and_nothing_of_done_ones(distrust, home, away):
    os.rename("trial.zip", "whole.zip")
    distrust("export", "trial.toml", "--store", home / "runs", "--scores", "--out", "bare.zip")
    assert not Path("bare.zip").exists(), "the study file is not here"
    assert distrust("export", home / "trial.toml", "--store", home / "runs", "--scores", "--out", "bare.zip").code == 0
    assert distrust("store", "import", "bare.zip", "--json").facts["imported"] == 12
    found = distrust("store", "import", "whole.zip", "--json").facts
    assert (found["imported"], found["there"]) == (4, 8)
    assert len([*Path("runs").glob("*/*model*")]) == 4 and distrust("store", "verify").code == 0
    before = lying()
    assert distrust("store", "import", "bare.zip", "--json").facts["imported"] == 0 and lying() == before
    Path("trial.toml").write_text("# mine\n")
    said = distrust("store", "import", "whole.zip")
    assert said.code == 0 and "it stays" in said.err and Path("trial.toml").read_text() == "# mine\n"


def test_some_stages_are_exported_by_study(distrust, home):
    Path("small.toml").write_text(
        Path("trial.toml").read_text().replace('defense = ["none", "finetune[epochs=1]"]', "")
    )
    said = distrust("store", "export", "small.zip", "small.toml", "--json")
    assert said.code == 0 and said.facts["stages"] == 6 and distrust("store", "export", "all", "--json").code == 0
    assert len([*Path("all/runs").glob("*/stage.json")]) == 12
    assert distrust("store", "import", "small.zip", "--store", "memory://small", "--json").facts["imported"] == 6
    for words in (("small.zip",), ("all",), ("new.zip", "--store", "nowhere"), ("no/such/new.zip", "nowhere.toml")):
        before = lying(".")
        said = distrust("store", "export", *words)
        assert said.code == 2 and said.out == "" and lying(".") == before


def test_what_is_damaged_is_left_out_and_named(distrust, home, away):
    victim = next((home / "runs").glob("*/tensors.safetensors"))
    changed("trial.zip", "damaged.zip", lambda name, data: (name, data[:-1] if victim.parent.name in name else data))
    said = distrust("store", "import", "damaged.zip", "--json")
    assert said.code == 1 and [*said.facts["damaged"]] == [victim.parent.name] and said.facts["imported"] == 11
    assert not Path("runs", victim.parent.name).exists() and "It is left out" in said.err
    victim.write_bytes(b"x")
    said = distrust("export", home / "trial.toml", "--store", home / "runs", "--out", "again.zip", "--json")
    assert said.code == 1 and [*said.facts["damaged"]] == [victim.parent.name] and said.facts["stages"] == 11
    data = bytearray(Path("trial.zip").read_bytes())
    data[len(data) // 2] ^= 1
    Path("flipped.zip").write_bytes(data)
    said = distrust("store", "import", "flipped.zip", "--store", "flipped")
    assert said.code in (0, 1, 2) and distrust("store", "verify", "--store", "flipped").code == 0


ODD = {
    "a way out": lambda archive: archive.writestr("runs/../../evil", b"x"),
    "a root": lambda archive: archive.writestr("/tmp/evil", b"x"),
    "a drive": lambda archive: archive.writestr("C:\\evil", b"x"),
    "a hidden file": lambda archive: archive.writestr(".bashrc", b"x"),
    "a name twice": lambda archive: archive.writestr("trial.toml", b"x"),
    "a link": lambda archive: archive.writestr(link(), b"/etc/passwd"),
    "a bomb": lambda archive: archive.writestr("runs/zeros", bytes(2**24), zipfile.ZIP_DEFLATED, 9),
}


def link():
    entry = zipfile.ZipInfo("runs/link")
    entry.external_attr = 0o120777 << 16
    return entry


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_odd_archive_writes_nothing(distrust, home, away, odd, monkeypatch):
    monkeypatch.setenv("DISTRUST_MOST_UNPACKED", "100000")
    monkeypatch.setattr("distrust.study.archives.RATIO", 2)
    with zipfile.ZipFile("trial.zip", "a") as archive:
        ODD[odd](archive)
    before = {*Path().parent.resolve().rglob("*")}
    said = distrust("store", "import", "trial.zip")
    assert said.code == 2 and said.err.startswith("BadInput: trial.zip ") and said.err.count("\n") == 1, said.err
    assert {*Path().parent.resolve().rglob("*")} == before


def evil(record):
    record["files"]["../../evil"] = next(iter(record["files"].values()))


CHANGED = {
    "a file's name": (evil, "is no record"),
    "a file's place": (lambda r: next(iter(r["files"].values())).update(file="../x"), "is no record"),
    "the record as a file": (lambda r: r["files"].update({"stage.json": [*r["files"].values()][0]}), "is gone"),
    "another key": (lambda r: r.update(key="0" * 32), "is that of stage"),
    "no checksums": (lambda r: [r.pop(name) for name in ("files", "key")], "has no checksums"),
    "a hidden file": (lambda r: r["files"].update({".x": [*r["files"].values()][0]}), "is no record"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_record_that_was_changed_on_purpose_leads_nowhere(distrust, home, away, what):
    victim = next((home / "runs").glob("*/tensors.safetensors")).parent.name
    change, said_why = CHANGED[what]

    def made(name, data):
        if name != f"runs/{victim}/stage.json":
            return name, data
        record = json.loads(data)
        del record["sum"]
        change(record)
        text = json.dumps(record, indent=1).encode()
        return name, text if what == "no checksums" else signed(text)

    changed("trial.zip", "evil.zip", made)
    said = distrust("store", "import", "evil.zip", "--json")
    assert said.code == 1 and said_why in said.facts["damaged"][victim] and said.facts["imported"] == 11
    assert not Path("runs", victim).exists() and not [*Path().resolve().parent.rglob("*evil")]


NET = """
import parts
from distrust import model

def factory(classes, channels, size):
    return model("wrn10-1", classes=classes, channels=channels, size=size)
"""


def test_code_comes_along_but_is_not_unpacked(distrust, home, tmp_path, monkeypatch):
    Path("net.py").write_text(NET)
    Path("parts.py").write_text("print('I ran')\n")
    smaller(("defense = ", "attack = "))
    Path("own.toml").write_text(Path("small.toml").read_text().replace("wrn10-1", "net.py:factory"))
    assert distrust("run", "own.toml", "--allow-code", "net.py", "--jobs", 1, "--quiet").code == 0
    said = distrust("export", "own.toml", "--json")
    assert said.code == 0 and said.facts["stages"] == 2
    assert {"net.py", "parts.py", "own.toml"} == {*said.facts["files"]}
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    said = distrust("store", "import", home / "trial.zip")
    assert said.code == 0 and "net.py, parts.py" in said.err and "I ran" not in said.out
    assert sorted(path.name for path in Path().iterdir()) == ["own.toml", "runs"]


@pytest.mark.parametrize(
    "content, kind, said",
    [
        (None, "NotFound", "no archive"),
        (b"", "BadInput", "no archive that can be read"),
        (b"PK\3\4 and no more", "BadInput", "no archive that can be read"),
        ({"readme.txt": b"x"}, "BadInput", "nothing that distrust export has written"),
        ({"runs/.format": b"99\n"}, "StoreError", "another version"),
    ],
)
def test_what_is_no_archive_of_ours_is_refused(distrust, content, kind, said):
    if isinstance(content, bytes):
        Path("a.zip").write_bytes(content)
    elif content:
        with zipfile.ZipFile("a.zip", "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    found = distrust("store", "import", "a.zip", "--store", "new")
    assert found.code == 2 and found.err.startswith(f"{kind}: ") and said in found.err and not Path("new").exists()


def test_python_has_the_same(home):
    store = dt.Store("runs")
    assert len(store.ls()) == 12 and store.verify()["damaged"] == {} and store.gc()["stages"] == []
    assert dt.export("trial.toml", "py.zip")["stages"] == 12
    assert dt.import_("py.zip", store="other", to="there")["imported"] == 12 and Path("there/trial.toml").is_file()
    assert leases.living(store.place) == []
