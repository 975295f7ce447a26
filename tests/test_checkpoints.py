"""Other people's checkpoints: what their authors print comes out, where the files are at hand, and the page says so."""

import json
import os
from pathlib import Path

import pytest
from benchmarks.checkpoints import CHECKPOINTS, FOUND, NEAR, PAGE, current
from benchmarks.nets import badnet, lenet5, outlier_net, provable, small_vgg

FOLDER = Path(os.environ.get("DISTRUST_CHECKPOINTS", "clones of the repositories"))


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


@pytest.mark.parametrize("one", CHECKPOINTS, ids=lambda one: f"{one.repository}/{one.path}")
def test_a_public_checkpoint_measures_what_its_authors_print(one):
    if not one.inside(FOLDER).is_file():
        pytest.skip(f"{one.inside(FOLDER)} is not there; DISTRUST_CHECKPOINTS names a folder of clones")
    if not (Path(os.environ.get("DISTRUST_DATA", "")) / one.images).exists():
        pytest.skip(f"no {one.images} in the folder that DISTRUST_DATA names")
    found = one.measured(FOLDER)
    assert near(found, one), (found, one.printed)


def test_another_file_under_that_name_is_not_measured(tmp_path):
    one = CHECKPOINTS[0]
    one.inside(tmp_path).parent.mkdir(parents=True)
    one.inside(tmp_path).write_bytes(b"another")
    with pytest.raises(ValueError, match=f"check out commit {one.commit}"):
        one.measured(tmp_path)
