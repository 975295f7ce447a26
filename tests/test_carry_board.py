"""The carry-over board: what is gathered, what an entry has to keep, and what is said of bad input."""

import base64
import gzip
import html
import json
import re
import subprocess
import sys
from pathlib import Path

import markupsafe
import pytest
from tests.board_fixture import HOSTILE, entry, runs, small, student, write
from tests.cli.conftest import distrust
from tests.cli.said import STUDY

import distrust as dt
from distrust.files import remembered
from distrust.registry import _facts
from distrust.reporting.answer import sentences
from distrust.reporting.board.entry import read_entry
from distrust.reporting.board.lines import gather, told, way

__all__ = ["distrust"]


def embedded(page: Path) -> dict:
    packed = re.search(r'<script type="application/gzip" id="data">(.*?)</script>', page.read_text())[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A board of a study and an entry."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "entries" / "glue.json"
    file.parent.mkdir()
    file.write_text(json.dumps(entry()))
    dt.build_board(write(tmp_path / "results", small()), tmp_path / "site", entries=[file.parent])
    return tmp_path / "site"


def lines_of(site, page="index.html"):
    found = embedded(site / page)["lines"]
    return {(line["study"], line["attack"], line["distiller"], line["defense"]): line for line in found}


def test_a_distiller_on_noise_is_a_column_of_its_own(tmp_path):
    noisy = write(tmp_path / "noisy", student("kd[on=noise,start=teacher]", 0.9, 0.9, 0.9) + student("kd", 0.0))
    found = {way(line.row) for line in gather(noisy, ()).unique}
    assert found == {("distiller", "kd on noise"), ("distiller", "kd")}


def test_a_line_has_its_number_interval_seeds_verdict_flags_and_command(site):
    lines = lines_of(site)
    kd = lines["small", "badnets", "kd", None]
    carried = kd["numbers"]["carried"]
    assert (carried["mean"], carried["runs"], carried["reach"]) == (0.82, [0.8, 0.82, 0.84], "(80.0, 82.0, 84.0)")
    assert carried["low"] < 0.8 < 0.84 < carried["high"], "a t-interval"
    assert kd["seeds"] == [0, 1, 2] and kd["n"] == 900 and kd["verdict"] == "inherited" and kd["flags"] == []
    only = kd["cells"][0]["command"].rpartition("-s0")[0]
    assert kd["commands"] == [only] and only.startswith("distrust run studies/small.toml")
    assert [*kd["cells"][0]["keys"]] == ["teacher", "attack", "predict"]
    assert lines["small", "badnets", "at", None]["verdict"] == "not inherited"
    one = lines["small", "badnets", "dkd", None]
    assert one["verdict"] == "one run" and one["flags"] == ["one-seed"] and one["numbers"]["carried"]["low"] == 0.96
    assert lines["small", "sig", None, None]["doubted"] and not kd["doubted"]
    failed = lines["small", "badnets", "overhaul", None]
    assert (failed["state"], failed["errors"], failed["numbers"]) == ("failed", ["Diverged: loss 1e9"], {})
    (theirs,) = kd["published"]
    assert (theirs["source"], theirs["acc"], theirs["ours"]["acc"]["mean"]) == ("A paper, Table 1", 0.8, 0.9)


def test_there_is_a_page_for_each_study_method_and_source(site):
    found = {str(file.relative_to(site)) for file in site.rglob("*.html")}
    methods = {"attacks-badnets", "attacks-blend", "attacks-sig", "distillers-kd", "distillers-at", "distillers-dkd"}
    methods |= {"distillers-overhaul", "distillers-glue", "defenses-finetune"}
    studies = {"studies/small.html", "studies/theirs-by-ada.html"}
    assert found == {f"methods/{name}.html" for name in methods} | studies | {"index.html", "papers/a-paper.html"}
    assert {line[2] for line in lines_of(site, "methods/distillers-kd.html")} == {"kd", "kd[weight=2]"}
    for file in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#]+)', file.read_text()):
            assert link.startswith("https://example.org") or (file.parent / link).is_file(), link


def test_an_entry_stands_beside_ours_with_its_package_its_version_and_lazy_pictures(site):
    line = lines_of(site)["theirs", "badnets", "glue", None]
    assert line["by"] == "Ada" and line["verdict"] == "inherited"
    page = (site / "methods/distillers-glue.html").read_text()
    assert "glue-kd 0.3" in page and "2:abc" in page and "Glue, 2026" in page
    study = (site / "studies/theirs-by-ada.html").read_text()
    assert "Entered by <b>Ada</b>; not run again here" in study and "name = &#34;theirs&#34;" in study
    (picture,) = (site / "pictures").iterdir()
    assert study.count(f'<img loading="lazy" alt="clean, image 1" src="../pictures/{picture.name}"') == 1


def test_the_answer_is_that_of_all_lines_and_short(site):
    lead = re.search(r'<p class="lead">(.*?)</p>', (site / "index.html").read_text())[1]
    every = [line.row.cells for line in gather(site.parent / "results", [site.parent / "entries"]).unique]
    assert html.unescape(lead) == sentences([one for cells in every for one in cells])[0]
    assert "inherited" in lead and len(lead.split()) <= 40


def test_what_several_studies_share_is_one_line_and_a_part_of_more_seeds_too(tmp_path):
    both = [*student("kd", 0.8, 0.82, 0.81), *student("kd", 0.8, study="other")]
    board = gather(write(tmp_path, both), [])
    (line,) = board.unique
    assert line.source.name == "small" and line.also == ["other"]
    assert told(line, "x")["seeds"] == [0, 1, 2]
    other = [*board.lines.values()][0]
    assert other[0].twin is line and other[0].verdict == line.verdict, "one measurement, one verdict"


def test_names_cannot_become_markup(tmp_path):
    cells = [
        c | {"attack": f"{HOSTILE}{c['attack']}", "images": HOSTILE, "study": f"{HOSTILE}x"} for c in runs(1, 1, 1)
    ]
    cells += student(HOSTILE, 0.9, 0.8, 0.7, published=[{"source": HOSTILE, "convention": HOSTILE, "asr": 0.5}])
    theirs = entry(by=HOSTILE, study_file=HOSTILE)
    theirs["methods"][1] |= {"package": HOSTILE, "paper": HOSTILE, "summary": HOSTILE}
    (tmp_path / "mine.json").write_text(json.dumps(theirs))
    claims = [dict.fromkeys(("id", "paper", "says", "where", "published", "differs", "verdict"), HOSTILE)]
    (tmp_path / "claims.json").write_text(json.dumps([claims[0] | {"checks": []}]))
    made = dt.build_board(
        write(tmp_path / "results", cells), tmp_path / "site", entries=[tmp_path / "mine.json"],
        claims=tmp_path / "claims.json",
    )  # fmt: skip
    pages = [*made.out.rglob("*.html")]
    assert len(pages) == made.pages > 6
    text = "".join(page.read_text() for page in pages)
    assert "<script>alert" not in text and text.count(markupsafe.escape(HOSTILE)) > 10
    assert all(re.fullmatch(r"[\w.-]+", page.name) for page in pages)
    assert len({page.name.lower() for page in pages}) == len(pages)


def test_it_is_built_again_in_place_and_leaves_what_is_not_its_own(site):
    (site / "CNAME").write_text("board.example.org")
    (site / "studies/mine.html").write_text("mine")
    before = {file: file.read_bytes() for file in site.rglob("*") if file.is_file()}
    write(site.parent / "results", runs(1, 1, 1, study="more"))
    dt.build_board(site.parent / "results", site, entries=[])
    after = {str(file.relative_to(site)) for file in site.rglob("*") if file.is_file()}
    assert {"studies/more.html", "studies/mine.html", "CNAME"} <= after
    assert not {"studies/theirs-by-ada.html", "methods/distillers-glue.html"} & after
    assert not [name for name in after if name.startswith("pictures/")]
    dt.build_board(site.parent / "results", site, entries=[site.parent / "entries"])
    assert (site / "board.js").read_bytes() == before[site / "board.js"]


def test_the_same_results_are_the_same_bytes(site):
    before = {file: file.read_bytes() for file in site.rglob("*") if file.is_file()}
    dt.build_board(site.parent / "results", site, entries=[site.parent / "entries"])
    assert {file: file.read_bytes() for file in site.rglob("*") if file.is_file()} == before


def test_an_empty_board_is_refused_with_what_to_type(distrust):
    Path("empty").mkdir()
    for folder, true in (("empty", "it has no finished cell"), ("nowhere", "there is no such folder")):
        said = distrust("board", "build", folder, "--json")
        assert said.code == 2 and said.facts["error"] == "NotFound"
        assert said.facts["message"].startswith(
            f"a board of {folder} was asked for; {true}. Run a study first: distrust run"
        )
    failed = [c | {"state": "failed", "error": "oh"} for c in runs(0.5)]
    write(Path("failed"), failed)
    assert "it has no finished cell" in distrust("board", "build", "failed").err
    assert not Path("site").exists()


def broken(**changes):
    return lambda made: made | changes


def first_cell(**changes):
    return lambda made: made | {"cells": [made["cells"][0] | changes, *made["cells"][1:]]}


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda made: {}, "generator: field required"),
        (lambda made: [made], "it: input should be a valid dictionary"),
        (broken(form=2), "form: input should be 1"),
        (broken(more=1), "more: extra inputs are not permitted"),
        (broken(by=""), "by: string should have at least 1 character"),
        (broken(by="a\u202eb"), "by: it has characters that cannot be printed"),
        (broken(source="javascript:alert(1)"), "source: string should match"),
        (broken(cells=[]), "cells: list should have at least 1 item"),
        (first_cell(acc="high"), "cells.0: acc: input should be a valid number"),
        (first_cell(asr_interval=[1]), "cells.0: interval: list should have at least 2 items"),
        (first_cell(attack="a\x1b[2J"), "cells.0.attack: it has characters that cannot be printed"),
        (first_cell(reproduce="distrust run x; rm -rf ."), "cells.0.reproduce: it is not one command"),
        (first_cell(reproduce="curl x"), "cells.0.reproduce: it is not one command"),
        (first_cell(reproduce="distrust 'run"), "cells.0.reproduce: it is not one command"),
        (first_cell(attack="magic"), "methods: attacks magic of cells.0 is not among them"),
        (lambda made: made | {"methods": [*made["methods"], made["methods"][0] | {"kind": "spells"}]}, "spells"),
        (broken(pictures={"x": {"clean": ["PHN2Zz4="], "triggered": [], "difference": [], "caption": ""}}), "no small"),
        (broken(lineage={"../x": {}}), "lineage.../x"),
        (first_cell(flags=["chosen-on-test"]), "an option was chosen by its test numbers"),
        (first_cell(flags=["off-protocol"]), "nobody vouches for"),
        (first_cell(flags=["no-control"]), "no control arm was measured"),
        (first_cell(carried=None), "no control arm was measured"),
        (first_cell(chosen={"lr": 0.1}), "an option was chosen, and not on validation images"),
        (lambda made: made | {"cells": made["cells"][1:]}, "Type: distrust run studies/theirs.toml --seeds 3"),
        (lambda made: made | {"cells": [made["cells"][0] | {"seed": 1}, *made["cells"][1:]]}, "has 2 of the 3 seeds"),
    ],
)  # fmt: skip
def test_an_entry_that_breaks_form_or_protocol_is_refused_in_a_sentence(distrust, change, why):
    Path("mine.json").write_text(json.dumps(change(entry())))
    said = distrust("board", "build", write(Path("results"), small()), "--entries", "mine.json")
    assert said.code == 2 and said.err.startswith("BadInput: mine.json ") and why in said.err, said.err
    assert said.err.count("\n") == 1 and not Path("site").exists()


def test_files_that_are_no_entry_and_no_claims_are_named(distrust):
    write(Path("results"), small())
    Path("mine.json").write_text("[" * 100_000)
    assert (
        "mine.json is no JSON. Write an entry with `distrust board submit`"
        in distrust("board", "build", "--entries", "mine.json").err
    )
    assert (
        "no entry of the board 'other.json'. Did you mean 'mine.json'?"
        in distrust("board", "build", "--entries", "other.json").err
    )
    assert "mine.json holds no claims" in distrust("board", "build", "--claims", "mine.json").err
    assert "no file of claims 'x.json'" in distrust("board", "build", "--claims", "x.json").err
    Path("site/board").mkdir(parents=True)
    Path("site/board/index.html").write_text("<h1>my page</h1>")
    said = distrust("board", "build")
    assert said.code == 2 and "nothing that Distrust wrote" in said.err
    assert distrust("board", "build", "--overwrite").code == 0


PLUGIN = '''
from torch.nn import functional as F
from distrust.marks import NonNegative, distiller

@distiller(paper="Glue, 2026", version=3, logits_only=True)
def glue(student, teacher, y, *, weight: NonNegative = 1.0):
    """Squared difference of logits.

    Args:
        student: logits.
        teacher: the same of the teacher.
        y: not used.
        weight: of it.

    Differs from the paper: there is none.
    """
    return weight * F.mse_loss(student.logits, teacher.logits)
'''


@pytest.mark.slow
def test_a_third_party_enters_a_method_of_its_own(distrust):
    """From a run to a page, with the plug-in that a stranger's file is; one seed is not enough."""
    Path("glue.py").write_text(PLUGIN)
    study = STUDY.replace(
        'defense = ["none", "finetune[epochs=1]"]', 'distiller = ["none", "glue"]\nstudent = ["wrn10-1"]'
    )
    Path("trial.toml").write_text(study + "student = {epochs = 1, batch_size = 64}\n")
    words = ("run", "trial.toml", "--plugin", "glue.py", "--jobs", "1", "--quiet")
    assert distrust(*words).code in (0, 3)
    asked = ("board", "submit", "trial", "--by", "Ada", "--plugin", "glue.py")
    refused = distrust(*asked)
    assert (
        refused.code == 2
        and "has 1 of the 3 seeds that are asked for. Type: distrust run trial.toml --seeds 3" in refused.err
    )
    assert not Path("entries").exists()
    assert distrust(*words, "--seeds", "3").code in (0, 3)
    made = distrust(*asked, "--json")
    assert made.code == 0 and made.facts["cells"] == 12 and made.facts["pictures"] == 1
    read = read_entry("entries/trial.json")
    (glue,) = [one for one in read.methods if one.kind == "distillers"]
    assert re.fullmatch("3:[0-9a-f]{16}", glue.version) and glue.package == "glue.py, a file of its own"
    assert read.study_file == Path("trial.toml").read_text() and read.lineage
    built = distrust("board", "build", "runs/results")  # takes ./entries by itself, and knows nothing of glue
    assert built.code == 0 and "24 cells of 2 studies, 1 by others" in built.out
    page = Path("site/board/methods/distillers-glue.html")
    assert "Entered by <b>Ada</b>" in page.read_text() and glue.version in page.read_text()
    line = next(one for one in embedded(page)["lines"] if one["by"] == "Ada" and one["attack"])
    stage = embedded(page)["lineage"][line["cells"][0]["keys"]["student"]]
    assert "glue" in stage["method"] and stage["taint"] == ["badnets"]


def test_a_method_of_an_installed_package_is_named_with_it(monkeypatch, tmp_path):
    from importlib.metadata import EntryPoint, EntryPoints

    from distrust.registry import Method
    from distrust.reporting.board import entry as entries

    class Dist:
        name, version = "glue-kd", "0.3"

    def glue(student, teacher, y):
        """Glue."""

    glue.__module__ = "glue_kd.glue"
    brought = EntryPoint("glue", "glue_kd.glue:glue", "distrust.methods")._for(Dist())
    monkeypatch.setattr(entries.importlib.metadata, "entry_points", lambda group: EntryPoints([brought]))
    assert entries._package(Method("glue", None, glue)) == "glue-kd 0.3"
    assert entries._package(Method("other", None, glue)) == "other.py, a file of its own"


def test_the_committed_board_is_built_without_torch_and_small(tmp_path, pytestconfig):
    code = (
        "import sys, distrust as dt\n"
        f"site = dt.build_board('results', {str(tmp_path / 'site')!r}, claims='docs/claims.json')\n"
        "print(site.cells, site.size, 'torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    remembered("methods", _facts)  # what methods say of themselves is found by importing them, once
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=pytestconfig.rootpath)
    cells, size, *heavy = said.stdout.split()[-4:] or [0, 0, said.stderr]
    assert int(cells) >= 2242 and int(size) < 3_000_000 and heavy == ["False", "False"], said.stderr
