"""Every benchmark runs, tiny, and says what it should; what it says of speed means nothing here."""

import json
import math
import re
import warnings
from pathlib import Path

import pytest
import torch
from benchmarks import peers, table
from benchmarks.__main__ import ASIDE, USUAL, main, measure, show
from benchmarks.measure import Scale, environment, machine, number, ratio, timed
from benchmarks.pictures import pictures, write

from distrust import distillers, model, taps
from distrust.flags import Flag
from distrust.study import make_plan

TINY = Scale("tiny")
SLOW = ("large", "memory", "workers", "decode", "many", "plan")
NAMES = [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in (*USUAL, *ASIDE)]


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_gives_rows_and_writes_them(name, tmp_path):
    found = measure(name, TINY, tmp_path)
    assert "error" not in found and found["rows"]
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written["what"].endswith("?") and written["environment"]["cores"]
    for row in written["rows"]:
        assert row["what"] and row["ours"] and row["rounds"] == 1
        assert math.isfinite(row["median"]) and row["median"] > 0
        assert row["range"][0] <= row["median"] <= row["range"][1]
        assert (row["unit"] == "×") == bool(row["other"])


def test_every_file_that_has_rows_is_named():
    folder = Path(table.__file__).parent
    rows = {file.stem for file in folder.glob("*.py") if "\ndef rows(" in file.read_text()}
    assert rows == {*USUAL, *ASIDE}
    told = (folder / "README.md").read_text()
    assert rows == set(re.findall(r"^\| `(\w+)` \|", told, re.MULTILINE))


def test_what_is_measured_on_a_cpu_alone_is_not_filed_under_a_gpu(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["condense", "--device", "cuda", "--out", str(tmp_path)])
    assert "condense: measured on a CPU alone" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["fitt", "--out", str(tmp_path)])
    assert "no benchmark fitt" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_ratio_is_paired_within_its_rounds():
    seconds = {"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 4.0, 4.0]}
    row = ratio("something", "ours", "theirs", seconds, goal=2.0)
    assert (row.median, row.range, row.rounds, row.met) == (2.0, (1.0, 3.0), 3, True)
    assert ratio("something", "ours", "theirs", seconds, goal=2.1).met is False
    assert ratio("something", "ours", "theirs", seconds).met is None
    assert number("something", "ours", seconds["ours"], 2.0).met is True, "of a number, less is better"
    assert number("something", "ours", seconds["ours"], 1.9).met is False


def test_ways_take_turns_and_the_first_round_does_not_count():
    ran = []
    seconds = timed({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 3)
    assert "".join(ran) == "ba" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    ran.clear()
    timed({"a": lambda: ran.append("a")}, 1, warm=False)
    assert ran == ["a"]


def test_a_benchmark_that_fails_is_named_and_keeps_its_rows(tmp_path, monkeypatch, capsys):
    def rows(scale):
        yield number("something", "ours", [1.0], None)
        raise ValueError("no more")

    monkeypatch.setattr("benchmarks.predict.rows", rows)
    monkeypatch.setattr("benchmarks.pretrain.rows", lambda scale: [number("anything", "ours", [2.0], 3.0)])
    assert main(["predict", "pretrain", "--quick", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "failed: ValueError: no more" in said and "anything" in said and "cores" in said
    written = json.loads((tmp_path / machine() / "predict.json").read_text())
    assert written["error"] == "ValueError: no more" and len(written["rows"]) == 1
    assert main(["pretrain", "--out", str(tmp_path)]) == 0


def test_a_machine_is_a_folder_of_its_own():
    assert machine() == machine() and machine().endswith("-cores")
    assert set(machine()) <= {*"abcdefghijklmnopqrstuvwxyz0123456789-"}
    assert environment()["unit"] in machine()


def test_results_are_what_the_table_shows(capsys):
    show({"one": {"rows": [number("what", "ours", [1.0, 3.0], 1.5, "ms a stage")]}}, TINY)
    said = capsys.readouterr().out
    for word in ("one", "what", "ours", "2 ms a stage", "1 to 3", "≤ 1.5", "NO"):
        assert word in said


@pytest.fixture
def nets():
    images = pictures(32, 16)
    return images, model("wrn10-1", images), model("wrn10-2", images)


@pytest.mark.parametrize("name", ["kd", "at"])
def test_a_peer_computes_the_loss_that_ours_does(name, nets):
    images, student, teacher = (part.eval() if isinstance(part, torch.nn.Module) else part for part in nets)
    x, y, paths = images.pixels(), images.y, ["block1", "block2", "block3"]
    with taps(student, paths) as ours, taps(teacher, paths) as theirs, torch.no_grad():
        wanted = getattr(distillers, name)(ours(x), theirs(x), y)
        (a, logits), (b, target) = peers.listed(student, x), peers.listed(teacher, x)
        criterion = {"kd": peers.KD, "at": peers.AT}[name]()
        found = criterion.logits * peers.softened(logits, target, criterion.temperature)
        found = found + criterion.features * criterion(a, b)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    assert wanted > 0


@pytest.mark.parametrize("name", ["KD", "AT", "Hint", "Overhaul"])
def test_a_peers_epoch_trains_the_student_and_its_own_modules_alone(name, nets):
    images, student, teacher = nets
    arrays, labels = table.arrays(images)
    made = getattr(peers, name)
    criterion = made() if name in ("KD", "AT") else made(student, teacher, images.pixels(slice(0, 2)))
    before = [[p.clone() for p in net.parameters()] for net in (student, teacher, criterion)]
    peers.distill(student, teacher, peers.loader(peers.Pictures(arrays, labels), 16), criterion)
    moved = [
        [not torch.equal(p, q) for p, q in zip(net.parameters(), old, strict=True)]
        for net, old in zip((student, teacher, criterion), before, strict=True)
    ]
    assert all(moved[0]) and not any(moved[1]) and all(moved[2])


def test_files_and_arrays_hold_the_same_pictures(tmp_path):
    images = pictures(12, 8)
    memory = peers.Pictures(*table.arrays(images), augment=False)
    files = peers.Files(write(images, tmp_path))
    files.augment = False
    for row in range(12):
        assert memory[row][1] == files[row][1] == images.y[row]
        assert torch.equal(memory[row][0], files[row][0]) and torch.equal(memory[row][0], images.pixels()[row])


def test_a_peers_pgd_stays_within_its_bound_and_reaches_the_target_more_often(nets):
    images, _, net = nets
    (made,) = peers.pgd(net, [(images.pixels(), images.y)], 5)
    assert (made - images.pixels()).abs().max() <= 8 / 255 + 1e-6 and made.min() >= 0 and made.max() <= 1
    with torch.no_grad():
        before, after = (net(x).softmax(1)[:, 0].mean() for x in (images.pixels(), made))
    assert after > before


def test_the_peers_table_does_each_part_as_often_as_its_sum_says(tmp_path, monkeypatch):
    for role in ("train", "test"):
        write(pictures(40, 8), tmp_path / role)
    cells = table.Peers(tmp_path, "wrn10-1", "wrn10-1", 16, "cpu")
    done = {}
    for name in ("teacher", "student", "transfer", "defended", "rates"):
        call = getattr(cells, name)

        def counted(*words, name=name, call=call):
            part = words[1] if name in ("student", "defended") else words[0] if name == "transfer" else name
            done[name, part] = done.get((name, part), 0) + 1
            return call(*words)

        monkeypatch.setattr(cells, name, counted)
    assert cells.carried_out(1) > 0
    wanted = table.counts(1)
    places = {"teacher": "teacher", "rates": "rates", **dict.fromkeys(table.DISTILLERS, "student")}
    places |= {"finetune": "defended", "nad": "defended", "strong_augment": "transfer"}
    assert {name: done[place, name] for name, place in places.items()} == wanted
    plan = make_plan(table.study_of(str(tmp_path), "wrn10-1", "wrn10-1", 1, 16))
    assert wanted["teacher"] == 2 * len(plan.cells), "a cell and its control"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Flag)
        assert cells.summed(1) > 0
