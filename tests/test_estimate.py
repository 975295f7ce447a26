"""What a plan is said to cost: declared costs, and how fast stages were on this machine; nothing is trained for it."""

import json

import pytest

import distrust as dt
from distrust.files import cache_directory
from distrust.study import estimate
from distrust.study.estimate import Speed, cost_of, size_of

STUDY = """
name = "small"
teacher = "{}"
attack = ["none", "badnets[trigger=patch:white:3,target=5,rate=0.1]"]
[budgets.cpu]
size = 8
train = 128
test = 60
teacher = {{epochs = 3, batch_size = 64}}
"""
IMAGES = 2 * (3 * 128 + 0.4 * 60) + 2 * 0.4 * 60  # two teachers, what both say of clean images and under the trigger


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Writes the study with this network; the cache is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "cache"))

    def write(network):
        (tmp_path / f"{network}.toml").write_text(STUDY.format(network))
        return f"{network}.toml"

    return write


def test_what_was_never_timed_is_not_guessed_and_nothing_is_trained(study):
    planned, steps = dt.plan(study("wrn10-1"), jobs=1), []
    with dt.watching(lambda *step: steps.append(step)):
        cost, said = planned.estimate, str(planned)
    assert steps == [] and cost == (pytest.approx(IMAGES), 0.0, ("wrn10-1",))
    assert said == (
        "small (cpu): 2 cells, 6 stages, 6 to run, in a time that is not known yet: 864 images to train on; "
        "never timed on this machine: wrn10-1"
    )
    facts = planned.record()
    assert (facts["training_images"], facts["estimated_seconds"], facts["not_timed"]) == (864, None, ["wrn10-1"])
    assert not cache_directory().joinpath("speed.json").exists()


def test_an_estimate_is_what_the_stages_took_here(study):
    file, records = study("wrn10-1"), []
    dt.run(file, jobs=1, tell=lambda event, stage, record: records.append(record) if event == "done" else None)
    took = sum(record["seconds"] for record in records)
    assert len(records) == 6 and took > 0
    again = dt.plan(file, mode="force", jobs=1)
    assert again.estimate.unknown == () and again.estimate.seconds == pytest.approx(took)
    assert "6 to run, about " in str(again) and again.record()["estimated_seconds"] == round(took)
    assert dt.plan(file, jobs=1).estimate == dt.plan(file, mode="only-cached", jobs=1).estimate == (0, 0, ())
    other = dt.plan(study("mlp"), jobs=1)
    assert other.estimate.unknown == ("mlp",), "another network has a speed of its own"
    larger = dt.plan(file, mode="force", jobs=1, changes={"budgets": {"cpu": {"size": 16, "train": 128, "test": 60}}})
    assert larger.estimate.unknown == ("wrn10-1",), "and so have larger images"
    both = dt.plan(file, mode="force", jobs=1, changes={"teacher": ["wrn10-1", "mlp"]})
    assert both.estimate.unknown == ("mlp",) and both.estimate.seconds == pytest.approx(took)
    assert "12 to run, more than " in str(both) and "never timed on this machine: mlp" in str(both)


def test_stages_side_by_side_share_the_machine_and_a_newer_hour_has_the_word(study):
    planned = dt.plan(study("wrn10-1"), jobs=1)
    teacher = next(stage for stage in planned.waiting if stage.kind == "teacher")
    images = cost_of(teacher, size_of(teacher))
    assert images == 3 * 128

    def seconds(took, jobs):
        speed = Speed("cpu", jobs)
        for each in took:
            speed.hear(teacher, {"seconds": each})
        speed.keep()
        return Speed("cpu", 1).estimate([teacher]).seconds

    assert seconds([8.0, 4.0], jobs=2) == pytest.approx(3.0)
    assert seconds([9.0], jobs=1) == pytest.approx(5.0), "all stages of the hour count"
    hour = estimate.MEMORY
    assert seconds([100 * hour], jobs=1) > 20 * hour
    left = hour / (100 * hour + 9 + 6)  # of what four stages took
    assert seconds([hour], jobs=1) == pytest.approx(2 * hour / (1 + 4 * left)), "of those hundred hours one is left"
    assert Speed("cuda", 1).estimate([teacher]).unknown == ("wrn10-1",), "another device has a speed of its own"


@pytest.mark.parametrize("text", ["", "[]", '{"wrn10-1": 3}', '{"wrn10-1": [1, null]}', "3"])
def test_a_damaged_file_of_speeds_is_as_none(study, text):
    file = cache_directory() / "speed.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    planned = dt.plan(study("wrn10-1"), jobs=1)
    assert planned.estimate.unknown == ("wrn10-1",)
    planned.run()
    assert len(json.loads(file.read_text())) == 1 and dt.plan("wrn10-1.toml", mode="force").estimate.unknown == ()


def test_no_run_is_lost_where_speeds_cannot_be_kept(study, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("no folder")
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "taken"))
    planned = dt.plan(study("wrn10-1"), jobs=1)
    assert planned.run().outcome.ran == 6
