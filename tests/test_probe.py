from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from distrust.data import ImageSet
from distrust.errors import BadInput
from distrust.files import cache_directory
from distrust.seeds import rng
from distrust.training import Training, quick
from distrust.training import fastest as probe
from distrust.training.fastest import WAYS, fastest

CPU = torch.device("cpu")
BATCH = 16


def images(n=8 * BATCH, size=32):
    x = torch.randint(256, (n, 3, size, size), generator=rng("probe images"), dtype=torch.uint8)
    return ImageSet(x, torch.arange(n) % 2, ("a", "b"))


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def ask(precision="auto", memory_format="auto", train=None):
    return fastest(
        net(), train or images(), Training(batch_size=BATCH, precision=precision, memory_format=memory_format), CPU
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRUST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch):
    """The questions that were timed; the answer is always the last of the ways allowed."""
    monkeypatch.setattr(probe, "processor", lambda device: "flags : avx512_bf16")
    asked = []

    def answer(model, train, device, ways):
        asked.append(ways)
        return ways[-1]

    monkeypatch.setattr(probe, "_measure", answer)
    return asked


@pytest.mark.parametrize("way", WAYS)
def test_explicit_values_are_taken_without_a_probe(way, measured, cache):
    assert ask(*way) == way
    assert not measured and not cache.exists()


@pytest.mark.parametrize("train", [images(4 * BATCH - 1), images(size=8)], ids=["few", "small"])
def test_a_small_job_is_not_probed(train, measured):
    assert ask(train=train) == WAYS[0]
    assert not measured


def test_an_answer_is_measured_once_and_remembered(measured, cache):
    assert ask() == ask() == WAYS[-1]
    assert len(measured) == 1
    assert [json.loads(file.read_text()) for file in (cache / "probe").iterdir()] == [list(WAYS[-1])]


def test_the_remembered_file_decides(measured, cache):
    ask()
    (file,) = (cache / "probe").iterdir()
    file.write_text(json.dumps(["fp32", "channels_last"]))
    assert ask() == ("fp32", "channels_last")


def test_another_question_is_measured_again(measured, monkeypatch):
    ask()
    fastest(nn.Sequential(net(), nn.Linear(2, 2)), images(), Training(batch_size=BATCH), CPU)
    fastest(net(), images(size=40), Training(batch_size=BATCH), CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    ask()
    monkeypatch.setattr(probe, "processor", lambda device: "flags : amx_bf16")
    ask()
    assert len(measured) == 5


def test_an_architecture_is_measured_once_whatever_its_batches(measured):
    ask()
    fastest(net(), images(16 * BATCH), Training(batch_size=2 * BATCH), CPU)
    assert len(measured) == 1


@pytest.mark.parametrize("asked", [("bf16", "auto"), ("auto", "channels_last")])
def test_half_an_answer_given_leaves_only_the_other_half_open(asked, measured):
    answer = ask(*asked)
    assert all(a in ("auto", b) for a, b in zip(asked, answer, strict=True))
    assert all(a in ("auto", b) for way in measured[0] for a, b in zip(asked, way, strict=True))


@pytest.mark.parametrize("asked", [("auto", "auto"), ("bf16", "auto"), ("auto", "channels_last")])
def test_without_a_cache_the_plain_way_is_taken_and_what_was_asked_is_kept(asked, measured, cache):
    cache.write_text("a file where the folder should be")
    answer = ask(*asked)
    assert answer == tuple({"auto": plain}.get(a, a) for a, plain in zip(asked, WAYS[0], strict=True))
    assert not measured


@pytest.mark.parametrize("content", ["", "[", "\0"])
def test_a_damaged_answer_falls_back_to_the_plain_way(content, measured, cache):
    ask()
    (file,) = (cache / "probe").iterdir()
    file.write_text(content)
    assert ask() == WAYS[0]


@pytest.mark.parametrize("asked", [("fp16", "auto"), ("auto", "nhwc"), ("", "")])
def test_what_does_not_exist_is_refused(asked):
    with pytest.raises(BadInput, match=r"^(precision=.* 'auto', 'fp32' or 'bf16'|memory_format=.* 'auto', 'cont)"):
        ask(*asked)


def test_a_real_probe_touches_neither_the_model_nor_the_global_stream():
    model, stream = net(), torch.get_rng_state()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        answer = fastest(model, images(), Training(batch_size=BATCH), CPU)
    assert answer in WAYS
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def timed(monkeypatch, seconds, processor=lambda way, count: 0.2):
    """`_measure` with such steps in place of real ones; the answer, and which steps were made."""
    made = []

    def step_of(model, train, device, way):
        def step(count):
            made.append((way, count))
            wall = seconds[way] if isinstance(seconds[way], float) else next(seconds[way])
            return wall, processor(way, count)

        return step

    monkeypatch.setattr(probe, "_step", step_of)
    return probe._measure(net(), images(), CPU, list(seconds)), made


@pytest.mark.parametrize("second, best", [(0.9, 0), (0.8, 1)])
def test_a_way_must_be_clearly_faster_than_the_plain_one(second, best, monkeypatch):
    answer, _ = timed(monkeypatch, dict(zip(WAYS, [1.0, second, 1.1, 0.95], strict=True)))
    assert answer == WAYS[best]


def test_a_way_whose_step_takes_twice_the_best_is_timed_no_further(monkeypatch):
    seconds = dict(zip(WAYS, [1.0, 0.5, 0.0, 0.9], strict=True)) | {WAYS[2]: iter([0.1, 1.01, 0.1])}
    answer, made = timed(monkeypatch, seconds)
    steps = [way for way, _ in made[1:]]  # before them, one to see how many images it takes
    assert answer == WAYS[1], "a first step, in which kernels are made, tells nothing"
    assert steps.count(WAYS[2]) == 2 < steps.count(WAYS[3])


def test_ways_are_timed_in_turn_so_that_a_busy_moment_slows_all(monkeypatch):
    _, made = timed(monkeypatch, dict.fromkeys(WAYS, 1.0))
    assert [way for way, _ in made[1:9]] == WAYS * 2


def test_a_network_of_which_one_step_is_all_that_can_be_afforded_is_judged_by_that(monkeypatch):
    seconds = dict(zip(WAYS, [1.0, 0.9, 0.3, 0.9], strict=True))
    answer, made = timed(monkeypatch, seconds, lambda way, count: 3.0)
    assert answer == WAYS[2] and len(made) == 1 + len(WAYS)


@pytest.mark.parametrize("an_image", [1e-5, 1e-3, 0.1, 0.15])
def test_what_the_probe_spends_does_not_grow_with_the_network(an_image, monkeypatch):
    spent = []

    def processor(way, count):
        spent.append(0.02 + an_image * count)
        return spent[-1]

    timed(monkeypatch, dict.fromkeys(WAYS, 1.0), processor)
    assert sum(spent) <= max(5.0, 5 * (0.02 + 4 * an_image)), "or five steps, of a network of seconds an image"


def test_no_more_images_are_shown_than_there_are(monkeypatch):
    _, made = timed(monkeypatch, dict.fromkeys(WAYS, 1.0), lambda way, count: 1e-6)
    assert max(count for _, count in made) == 128
    monkeypatch.setattr(probe, "MOST", 1000)
    _, made = timed(monkeypatch, dict.fromkeys(WAYS, 1.0), lambda way, count: 1e-6)
    assert max(count for _, count in made) == len(images())


def test_the_cache_is_in_the_home_folder_unless_said_otherwise(monkeypatch, cache):
    assert cache_directory() == cache
    monkeypatch.delenv("DISTRUST_CACHE")
    assert cache_directory().parts[-2:] == (".cache", "distrust")


@pytest.mark.parametrize("flags, ways", [("avx2 fma", WAYS[:2]), ("avx512f avx512_bf16", WAYS), ("asimd bf16", WAYS)])
def test_bf16_is_timed_only_where_a_unit_computes_it(flags, ways, measured, monkeypatch):
    monkeypatch.setattr(probe, "processor", lambda device: f"model name : any|flags : {flags}")
    ask()
    assert measured == [ways]
    assert ask("bf16", "contiguous") == ("bf16", "contiguous"), "who asks for it gets it"


@pytest.mark.parametrize("way", WAYS)
def test_a_quick_copy_says_what_the_model_says_and_passes_gradients(way, monkeypatch):
    monkeypatch.setattr(probe, "_remembered", lambda question, measure: way)
    monkeypatch.setattr(probe, "_computes_bf16", lambda device: True)
    model = net().train()
    copied = quick(model, images())
    x = torch.rand(5, 3, 32, 32, generator=rng("quick"), requires_grad=True)
    said = copied(x)
    assert said.dtype == torch.float32 and model.training and all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(said, model.eval()(x), rtol=2e-2, atol=2e-2 if way[0] == "bf16" else 1e-5)
    assert said.equal(model(x)) == (way[0] == "fp32") or way[1] == "channels_last"
    (slope,) = torch.autograd.grad(said.sum(), x)
    assert slope.abs().sum() > 0 and not any(p.requires_grad for p in copied.parameters())
