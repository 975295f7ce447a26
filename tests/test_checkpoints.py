"""Other people's checkpoints: what their authors print comes out, where the files are at hand, and the page says so."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from benchmarks.checkpoints import CHECKPOINTS, FOUND, NEAR, PAGE, current
from benchmarks.nets import badnet, lenet5, outlier_net, provable, small_vgg

from distrust.cli import app

FOLDER = os.environ.get("DISTRUST_CHECKPOINTS", "")
OWN = PAGE.with_name("own-model.md")


def near(found, one):
    return found.keys() == one.printed.keys() and all(abs(found[k] - v) <= NEAR for k, v in one.printed.items())


def test_the_page_shows_what_was_measured_and_all_of_it_is_what_the_authors_print():
    assert current(PAGE.read_text()) == PAGE.read_text(), "python -m benchmarks.checkpoints FOLDER"
    found = json.loads(FOUND.read_text())
    assert found.keys() == {one.sha256 for one in CHECKPOINTS} and len(found) >= 10
    assert all(near(found[one.sha256], one) for one in CHECKPOINTS)
    assert sum(one.trigger is not None for one in CHECKPOINTS) >= 5


@pytest.mark.parametrize(
    ("network", "numbers"),  # of the files
    [
        (badnet(10, 3, 32), 429_290),
        (badnet(10, 1, 28), 281_034),
        (lenet5(10, 1, 28), 648_226),
        (outlier_net(10, 1, 28), 21_840),
        (provable(10, 1, 28), 166_406),
        (small_vgg(10, 3, 32), 309_296),
        (small_vgg(43, 3, 32), 376_913),
    ],
)
def test_networks_that_are_written_anew_have_the_numbers_of_the_files(network, numbers):
    assert sum(part.numel() for part in network.state_dict().values()) == numbers


@pytest.fixture
def clones():
    """Those of the files that are at hand, with their images."""
    if not FOLDER or not os.environ.get("DISTRUST_DATA"):
        pytest.skip("DISTRUST_CHECKPOINTS names no folder of clones, or DISTRUST_DATA none of images")
    there = [one for one in CHECKPOINTS if one.inside(Path(FOLDER)).is_file()]
    assert there, f"{FOLDER} holds none of the files as OWNER/NAME/PATH"
    return there


def test_public_checkpoints_measure_what_their_authors_print(clones):
    for one in clones:
        found = one.measured(Path(FOLDER))
        assert near(found, one), (one.path, found, one.printed)


def test_the_page_for_a_strangers_model_begins_with_what_is_seen(clones, monkeypatch, capsys):
    """Every line below a `$ distrust …` is a line that it prints, or the beginning of one."""
    monkeypatch.chdir(clones[0].inside(Path(FOLDER).resolve()).parent)
    block = re.search(r"^```\n(\$ distrust.*?)^```$", OWN.read_text(), re.DOTALL | re.MULTILINE)[1]
    for command in block.split("$ distrust ")[1:]:
        line, *seen = command.splitlines()
        app([*shlex.split(line), "--quiet"], standalone_mode=False)
        told = capsys.readouterr().out
        assert seen and all(f"\n{part}" in f"\n{told}" for part in seen), (line, told)


def test_another_file_under_that_name_is_not_measured(tmp_path):
    one = CHECKPOINTS[0]
    one.inside(tmp_path).parent.mkdir(parents=True)
    one.inside(tmp_path).write_bytes(b"another")
    with pytest.raises(ValueError, match=f"check out commit {one.commit}"):
        one.measured(tmp_path)
