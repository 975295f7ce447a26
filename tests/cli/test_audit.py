"""Auditing a stranger's file from the command line."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from distrust import Shelf, images, model, rng, save, save_set
from distrust.auditing.shelf import Look
from distrust.methods import condensers

PROBE = "patch_probe[network=convnet2-w4,networks=1,epochs=2,size=3,stride=6,images=8{}]"


@pytest.fixture
def words(stranger):
    return [stranger.control, "--model", "wrn10-1", "--key", "state_dict", "--images", stranger.images]


def shelf(score, count=19):
    """A file with so many clean models, whatever they are like."""
    looks = tuple(Look({"random": score + i / 1e6}) for i in range(count))
    Path("shelf.json").write_text(json.dumps(Shelf("mine", looks, {"panel": ["random"]}).record()))
    return ["--shelf", "shelf.json"]


@pytest.mark.parametrize(
    ("score", "count", "code", "verdict"),
    [(9, 19, 0, "clean-looking"), (-9, 19, 1, "suspicious"), (9, 3, 3, "inconclusive")],
)
def test_the_exit_code_says_the_verdict(distrust, words, score, count, code, verdict):
    said = distrust("audit", *words, *shelf(score, count), "--json")
    assert said.code == code and said.facts["verdict"] == verdict and said.facts["of"] == count


def test_a_person_reads_the_verdict_first_and_what_to_type_last(distrust, words):
    said = distrust("audit", *words, *shelf(-9), "--out", "audited", "--sarif", "found.sarif", "--bom", "bom.json")
    lines = said.out.splitlines()
    assert lines[0] == "suspicious: none of 19 clean models of mine stands out as far (p = 0.05)."
    assert lines[1].startswith("without a trigger: ACC ") and lines[-1] == "page: audited/audit.html"
    assert "a classifier, shown" in said.err
    assert "<title>suspicious: control.pt</title>" in Path("audited/audit.html").read_text()
    assert json.loads(Path("found.sarif").read_text())["runs"][0]["results"][0]["kind"] == "fail"
    facts = json.loads(Path("bom.json").read_text())["components"][0]["properties"]
    assert {"name": "distrust:verdict", "value": "suspicious"} in facts
    [typed] = [line.removeprefix("next: distrust ") for line in lines if "distill" in line]
    assert distrust(*shlex.split(typed), "--epochs", 1, "--no-flip", "--crop", 0).code == 0
    taken = distrust("audit", *words, *shelf(-9), "--out", "audited")
    assert taken.code == 2 and "audited exists already" in taken.err
    again = distrust("audit", *words, *shelf(-9), "--sarif", "found.sarif", "--bom", "bom.json")
    assert again.code == 1, "a file of ours may be replaced"
    Path("other").write_text("mine")
    assert distrust("audit", *words, *shelf(-9), "--sarif", "other").code == 2


def test_without_models_like_it_nothing_is_cleared_and_the_folder_it_asks_for_is_taken(distrust, words):
    said = distrust("audit", *words, "--panel", "random")
    assert said.code == 3 and said.out.startswith("inconclusive: there are no known models like it")
    typed = said.out.partition("next: distrust ")[2].partition("   #")[0].replace("DIR", "trusted")
    Path("trusted").mkdir()
    empty = distrust(*shlex.split(typed))
    assert empty.code == 2 and "no weights lie in trusted" in empty.err
    made = model("wrn10-1", classes=10, channels=1, size=8, rng=rng("trusted"))
    save(made, "trusted/one.safetensors")
    found = distrust(*shlex.split(typed), "--panel", "random")
    assert found.code == 3 and "so few cannot resolve" in found.out or "unlike the clean models" in found.out


def test_sets_are_judged_alone(distrust):
    save_set(condensers.random(images("digits")[0], images_per_class=2, rng=rng(0)), "set.safetensors")
    said = distrust("audit", "set.safetensors", "--panel", PROBE.format(",permutations=1"), "--json")
    assert said.code == 3 and said.facts["least_p"] == 0.5
    wrong = distrust("audit", "set.safetensors", "--images", "digits")
    assert wrong.code == 2 and "is a synthetic set, which is judged alone. Leave --images" in wrong.err


def test_a_model_needs_images_and_a_time_and_a_shelf_that_is_there(distrust, stranger, words):
    alone = distrust("audit", stranger.control)
    assert alone.code == 2 and "Show the model clean images: --images cifar10" in alone.err
    late = distrust("audit", *words, *shelf(9), "--minutes", 0)
    assert late.code == 3 and "random said nothing: it takes about" in late.out
    none = distrust("audit", *words, "--shelf", "nowhere")
    assert none.code == 2 and "no shelf nowhere. Known: " in none.err


@pytest.mark.parametrize(("codes", "end"), [({}, 0), ({"b.pt": 3}, 3), ({"a.pt": 1}, 1)])
def test_the_hook_of_the_page_lets_pass_only_what_looks_clean(codes, end, tmp_path):
    """As pre-commit runs it: the entry's words, then the files, here with a `distrust` that ends as it is told to."""
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    [entry] = [line.partition("entry: ")[2] for line in page.splitlines() if "entry: " in line]
    told = "".join(f'[ "$2" = {name} ] && exit {code}\n' for name, code in codes.items())
    stub = tmp_path / "distrust"
    stub.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path / "seen"}\n{told}exit 0\n')
    stub.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run([*shlex.split(entry), "a.pt", "b.pt"], env=environment).returncode == end
    seen = (tmp_path / "seen").read_text().splitlines()
    assert seen[0] == "audit a.pt --images images --shelf trusted" and len(seen) == (1 if "a.pt" in codes else 2)
