import base64
import gzip
import html
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.report_fixture import TEACHER, cell, defended, example_report, large_report, seeds, student, unmeasured

from distrust.errors import BadInput
from distrust.marks import KINDS
from distrust.registry import registry
from distrust.reporting import Report, page
from distrust.reporting.answer import answer, sentences
from distrust.reporting.features import feature_map
from distrust.reporting.figures import curves, frontiers, marks
from distrust.reporting.gather import lineage_of, plan_behind
from distrust.reporting.heatmap import panels
from distrust.reporting.labels import shortened
from distrust.reporting.pictures import strip
from distrust.reporting.rows import columns, over_seeds
from distrust.reporting.text import reach
from distrust.reporting.verdict import comparisons
from distrust.study import read_cells
from distrust.study.store import Store

T_975_2 = 4.302653  # Student's t, 97.5 %, 2 degrees of freedom (NIST Engineering Statistics Handbook, 1.3.6.7.2: 4.303)


@pytest.fixture(scope="module")
def text() -> str:
    return page(example_report())


def embedded(text: str) -> dict:
    packed = re.search(r'<script type="application/gzip" id="data">(.*?)</script>', text).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_the_page_is_one_small_file_that_loads_nothing(text):
    assert len(text.encode()) < 2_000_000
    assert not re.findall(r'(?:src|href)\s*=\s*["\'](?!data:|#)', text)
    assert not re.findall(r"@import|url\(\s*['\"]?(?!data:|#)", text)
    assert "default-src 'none'" in text


def test_a_thousand_cells_are_a_small_page():
    report = large_report()
    made = page(report)
    data = embedded(made)
    assert len(report.cells) == 1000 and len(made.encode()) < 2_000_000
    assert data["cells"] == report.cells and data["lineage"] == report.lineage, "nothing is left out"
    assert len(data["rows"]) == 200 and made.count('class="tile') == 200


def test_the_same_report_is_the_same_page(text):
    assert page(example_report()) == text


def test_the_question_stands_on_top(text):
    asked = text.index('<p class="question">Does a student inherit what its teacher had?</p>')
    assert text.index("<h1>") < asked < text.index('<section id="answer"')
    assert '<p class="question">' not in page(Report("none asked", [cell()]))


def test_the_data_are_embedded(text):
    cells = embedded(text)["cells"]
    assert [c["id"] for c in cells] == [c["id"] for c in example_report().cells]
    assert cells[0]["asr"] == example_report().cells[0]["asr"]


def test_names_cannot_become_markup():
    hostile = "</script><script>alert(1)</script>"
    made = page(Report(hostile, [cell(attack=hostile)], {hostile: strip(*two(), caption=hostile)}, made_by=hostile))
    assert "<script>alert" not in made
    assert html.escape("<script>alert(1)</script>") in made
    assert embedded(made)["title"] == hostile


def two():
    clean = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    stamped = clean.clone()
    stamped[:, :, 3, 3] = 103
    stamped[:, :, 0, 0] = 0
    return clean, stamped


def test_a_strip_shows_ten_times_the_difference_around_mid_grey():
    clean, stamped = two()
    found = strip(clean, stamped, most=1)
    assert len(found["clean"]) == 1
    pixels = np.asarray(Image.open(io.BytesIO(found["difference"][0])))
    assert pixels[3, 3].tolist() == [158] * 3  # 128 + 10 · 3
    assert pixels[0, 0].tolist() == [0] * 3  # clipped
    assert pixels[1, 1].tolist() == [128] * 3


def test_a_strip_refuses_what_is_no_picture():
    clean, stamped = two()
    with pytest.raises(BadInput, match="uint8"):
        strip(clean.float(), stamped)
    with pytest.raises(BadInput, match="twice"):
        strip(clean, stamped[:1])


def test_pictures_are_inside(text):
    png = example_report().pictures["badnets"]["triggered"][0]
    place = embedded(text)["pictures"].index(base64.b64encode(png).decode())
    assert text.count(f'data-picture="{place}"') == 1


def test_a_picture_of_several_strips_is_inside_once():
    clean, stamped = two()
    shown = page(Report("t", [cell()], {"a": strip(clean, stamped), "b": strip(clean, stamped + 1)}))
    pictures = embedded(shown)["pictures"]
    assert len(set(pictures)) == len(pictures) == 5, "the clean one, and two of each strip"
    assert shown.count('alt="clean, image 1" data-picture="0"') == 2


def test_seeds_become_a_mean_and_a_t_interval():
    (row,) = over_seeds(seeds((0.90, 0.5), (0.92, 0.6), (0.94, 0.7), flags=["one-seed", "few-images"]))
    reach = T_975_2 * 0.02 / math.sqrt(3)
    assert row.values["acc"].mean == pytest.approx(0.92)
    assert row.values["acc"].interval == pytest.approx((0.92 - reach, 0.92 + reach), abs=1e-6)
    assert row.flags == ["few-images"]
    assert row.seeds == [0, 1, 2]


def test_no_interval_over_seeds_is_clipped():
    (row,) = over_seeds(seeds((0.9, 0.0), (0.9, 1.0)))
    low, high = row.values["asr"].interval
    assert low < -5 and high > 6, "df = 1"


def test_few_runs_are_listed_and_of_five_the_interval_stands():
    (few,) = over_seeds(seeds((0.9, 0.017), (0.9, 0.965), (0.9, -0.006)))
    assert reach(few.values["asr"]) == "(1.7, 96.5, −0.6)"
    (many,) = over_seeds(seeds(*[(0.9, 0.5), (0.9, 0.52)] * 3))
    assert reach(many.values["asr"]) == "[49.9, 52.1]"
    shown = page(Report("t", [*seeds((0.9, 0.017), (0.9, 0.965), (0.9, -0.006))]))
    assert embedded(shown)["rows"][0]["values"]["asr"][1] == "(1.7, 96.5, −0.6)"


def test_one_seed_has_its_own_interval_and_a_flag():
    (row,) = over_seeds(seeds((0.9, 0.5), asr_interval=[0.47, 0.53]))
    assert row.values["acc"].interval is None and row.flags == ["one-seed"]
    assert row.values["asr"].interval == (0.47, 0.53) and reach(row.values["asr"]) == "[47.0, 53.0]"


def test_a_failed_seed_leaves_the_others():
    failed = unmeasured("failed", "Diverged: step 3", seed=2)
    (row,) = over_seeds([*seeds((0.9, 0.5), (0.92, 0.6)), failed])
    assert row.seeds == [0, 1] and row.errors == ["Diverged: step 3"] and row.state == "done"


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([unmeasured("failed", "Diverged")], "Nothing was measured"),
        ([cell(attack="none", place=None, asr=None, carried=None)], "No attack was measured"),
        (seeds(*[(0.9, 0.04)] * 3), "No teacher learnt the badnets backdoor, so nothing can be said"),
        (TEACHER, "No student can be judged; 1 of 1 teachers carry the backdoor"),
        (
            TEACHER + student("kd", 0.9),
            "From a backdoored teacher, the student inherited the badnets backdoor through kd; at most 89.0 points",
        ),
        (
            student("none", 0.9, place=4, condenser="dm", teacher="none"),
            "From a poisoned synthetic set, the student inherited the badnets backdoor as wrn16-1; at most 89.0 points",
        ),
        (
            student("none", 0.01, place=1, condenser="dm", teacher="none"),
            "From poisoned condensed images, the student did not inherit the badnets backdoor as wrn16-1.",
        ),
        (student("kd", 0.9, place=3), "From a clean teacher and poisoned images, the student inherited the"),
        (TEACHER + student("at", 0.02), "did not inherit the badnets backdoor through at."),
        (TEACHER + student("kd[on=noise]", 0.9), "inherited the badnets backdoor through kd on noise; at most"),
        (
            TEACHER + student("kd", 0.9) + student("at", 0.02),
            "inherited the badnets backdoor through kd, and did not inherit the badnets backdoor through at; at most",
        ),
        (
            TEACHER + student("kd", 0.9)[:1],
            "at most 89.0 points of the badnets backdoor reached a student, through kd; single runs bear no verdict.",
        ),
        (
            TEACHER + student("kd", 0.9)[:1] + student("at", 0.02)[:1],
            "teacher, 1 of 2 students shows the badnets backdoor, through kd; single runs bear no verdict.",
        ),
        (
            TEACHER + student("kd", 0.9)[:1] + student("at", 0.02)[:1] + student("rkd", 0.5)[:1],
            "teacher, 2 of 3 students show the badnets backdoor, most of all through kd; single runs",
        ),
        (TEACHER + student("kd", 0.02)[:1], "no student showed the badnets backdoor; single runs bear no verdict."),
        (TEACHER + student("kd", 0.02)[:2], "no student showed the badnets backdoor; two runs bear no verdict."),
        (
            TEACHER + defended("nad", 0.88, 0.04),
            "Nad cleans: what is carried falls from 94.0 to 3.0 points for 2.0 points of ACC; plain fine-tuning was",
        ),
        (
            TEACHER[:1] + defended("nad", 0.88, 0.04)[:1] + defended("finetune", 0.88, 0.05)[:1],
            "Nad moves what is carried from 94.0 to 3.0 points for 2.0 points of ACC; single runs bear no verdict.",
        ),
        (
            student("kd", 0.9, place=3) + student("kd", 0.1, place=3, defense="consistency", lost=0.05),
            "Consistency cleans: what is carried falls from 89.0 to 9.0 points at no cost in ACC.",
        ),
        (
            TEACHER + defended("nad", 0.88, 0.04) + defended("finetune[lr=0.1]", 0.88, 0.05),
            "2 of 2 defences clean, nad among them: what is carried falls from 94.0 to 3.0 points for 2.0 points of "
            "ACC; plain fine-tuning does as well.",
        ),
        (
            TEACHER + defended("nad", 0.88, 0.04) + defended("finetune", 0.88, 0.9),
            "plain fine-tuning does worse.",
        ),
        (
            TEACHER + defended("nad", 0.88, 0.40) + defended("finetune", 0.88, 0.05),
            "plain fine-tuning does better.",
        ),
        (
            TEACHER + defended("nad", 0.88, 0.40) + defended("nad[beta=0]", 0.88, 0.03),
            "2 of 2 defences clean, nad among them: what is carried falls from 94.0 to 39.0 points",
        ),
        (
            TEACHER + defended("scratch", 0.89, 0.01) + defended("mimic", 0.88, 0.94),
            "Of 2 defences only scratch cleans: what is carried falls from 94.0 to 0.0 points",
        ),
        (
            TEACHER + defended("prune", 0.3, 0.0, flags=["acc-floor"]),
            "No defence is shown to clean: prune moves what is carried from 94.0 to 94.0 points. Not to be believed",
        ),
        (
            seeds((0.9, 0.95), flags=["control-fires"]),
            "Every badnets trigger also moves models that were never attacked",
        ),
        (seeds((0.1, 1.0), flags=["collapsed"]), "No badnets number can be believed"),
        (
            [*TEACHER, unmeasured("failed", "x", seed=9), unmeasured("skipped", "y", seed=8)],
            "1 cell failed and 1 cell skipped",
        ),
    ],
)
def test_the_answer_says_what_the_cells_say(cells, said):
    assert said in answer(cells)


def test_who_sifts_images_is_not_compared_with_finetuning():
    cells = student("kd", 0.9, place=3) + student("kd", 0.1, place=3, defense="consistency", lost=0.05)
    assert "fine-tuning" not in answer(cells)


def test_many_students_are_counted_and_the_strongest_is_named():
    cells = [{**c, "attack": f"a{i}"} for i in range(7) for c in TEACHER + student("kd", (i + 1) / 10 * (i > 1))]
    assert sentences(cells)[0] == (
        "From a backdoored teacher, 5 of 7 students inherited a backdoor, most of all that of a6 through kd."
    )
    once = [{**c, "attack": f"b{i}"} for i in range(3) for c in (TEACHER + student("kd", 0.9))[::2]]
    assert "5 of 7 students run three times or more inherited" in answer(cells + once), "two runs are no verdict"


def test_what_moves_without_the_trigger_too_is_not_inherited():
    drifted = TEACHER + student("kd", 0.3, untriggered=0.29)
    assert "the student says the target of the badnets backdoor as often without its trigger through kd." in answer(
        drifted
    )
    both = answer(drifted + student("at", 0.9))
    assert "inherited the badnets backdoor through at" in both and "at most 89.0 points were carried." in both
    assert ", and says the target of the badnets backdoor as often without its trigger through kd;" in both


def test_seeds_count_together_whoever_looked_at_them():
    looked = [{**c, "detector": "probe" if c["seed"] else "none"} for c in TEACHER + student("kd", 0.9)]
    assert "inherited the badnets backdoor through kd; at most 89.0 points" in answer(looked)


def test_defences_that_share_no_model_are_compared_attack_by_attack():
    other = [{**c, "attack": "blend"} for c in TEACHER + defended("prune", 0.88, 0.30)]
    cells = TEACHER + defended("nad", 0.88, 0.04) + other
    found = [(one.against, one.special.defense, round(one.special.carried.mean, 6)) for one in comparisons(cells)]
    assert found == [("badnets", "nad", 0.03), ("blend", "prune", 0.29)]
    assert "Under badnets, nad cleans: what is carried falls from 94.0 to 3.0 points" in answer(cells)


STUDIES = sorted(path for path in (Path(__file__).parents[1] / "results").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_the_answer_to_every_committed_study_can_be_read_aloud(folder):
    said = sentences(read_cells(folder))
    assert 1 <= len(said) <= 3
    for sentence in said:
        assert (
            len(sentence.split()) <= 40 and sentence.endswith(".") and not re.search(r"[\[\]()=]|_interval", sentence)
        )
    assert len(re.findall(r"(?<![\w-])−?\d+(?:\.\d+)?(?![\w-])", said[0])) <= 2, "numbers in the lead"


def test_a_metric_of_a_plug_in_is_a_column_of_the_page(tmp_path, monkeypatch):
    for kind in KINDS:
        registry.kind(kind)
    monkeypatch.setattr(registry, "_kinds", {kind: dict(methods) for kind, methods in registry._kinds.items()})
    monkeypatch.setattr(registry, "files", [])
    (tmp_path / "calm.py").write_text(
        "from distrust.marks import metric\n\n\n"
        '@metric("none", heading="Calmness", unit="score", low=None, high=None, better="higher")\n'
        'def calm(seen):\n    """How calm it is."""\n    return 1.0\n'
    )
    registry.add(tmp_path / "calm.py")
    assert ("calm", "Calmness", "score") in [column[:3] for column in columns()]
    made = page(Report("t", seeds((0.9, 0.5), (0.9, 0.6), calm=1.25)))
    assert 'data-better="higher">Calmness</button>' in made
    assert embedded(made)["rows"][0]["values"]["calm"][0] == 1.25
    assert {"key": "calm", "heading": "Calmness", "better": "higher"}.items() <= embedded(made)["columns"][-1].items()


def test_what_cleaning_costs_is_drawn_only_where_something_was_cleaned():
    assert frontiers(over_seeds(TEACHER), ["none"]) == []
    rows = over_seeds(TEACHER + defended("nad", 0.88, 0.04) + [{**c, "attack": "blend"} for c in TEACHER])
    assert [drawn["name"] for drawn in frontiers(rows, ["none", "nad"])] == ["badnets"]


def test_variants_of_a_defence_share_its_mark_and_make_a_curve_in_order():
    short, long, other = (defended(f"nad[{o}]", 0.8, a) for o, a in (("epochs=5", 0.3), ("epochs=20", 0.1), ("p=x", 0)))
    rows = over_seeds(long + short + other)
    (curve,) = curves(rows)
    assert [row.axes["defense"] for row in curve] == ["nad[epochs=5]", "nad[epochs=20]"]
    assert list(marks(["none", "nad", "nad[epochs=5]"])) == ["none", "nad"]
    (drawn,) = frontiers(over_seeds(TEACHER) + rows, ["none", "nad"])
    assert all(f">{told}<" in drawn["svg"] for told in ("nad, epochs 5", "epochs 20", "p x"))


def test_variants_that_differ_in_numbers_make_a_curve_of_what_is_carried():
    def variants(*values, also=""):
        return [c for v in values for c in defended(f"nad[beta={v}{also.format(v)}]", 0.8, v / 10)]

    made = page(Report("t", TEACHER + variants(1, 2, 4)))
    assert "Along an option" in made and made.count("data-figure=") == 2
    curve, frontier = embedded(made)["figures"]
    assert 'aria-label="Carried along beta' in curve and "ACC against ASR" in frontier and "#010203" not in curve
    assert "Along an option" not in page(Report("t", TEACHER + variants(1, 2))), "two points are in the map"
    many = [c for i in range(4) for c in attacked(f"a{i}", variants(1, 2, 4) + variants(1, 2, 4, also=",p=x"))]
    assert page(Report("t", many)).count("<figcaption>beta</figcaption>") == 1
    many += [{**c, "teacher": "wrn16-1"} for c in many]
    assert re.findall("<figcaption>(beta.*?)</", page(Report("t", many))) == [f"beta · a{i}" for i in range(4)]
    together = page(Report("t", TEACHER + variants(1, 2, 4, also=",epochs={}")))
    assert together.count("data-figure=") == 2 and "beta, and with it epochs" in embedded(together)["figures"][0]


def test_every_head_of_an_encoder_has_a_drawing_of_its_own():
    rows = [
        {**c, "encoder": "simclr", "student": s} for c in TEACHER + defended("nad", 0.8, 0.1) for s in ("knn", "mlp")
    ]
    assert [drawn["name"] for drawn in frontiers(over_seeds(rows), ["none", "nad"])] == [
        "badnets · knn",
        "badnets · mlp",
    ]


def shape(cells):
    """Of each panel its title, what stands across, and its lines with their tiles."""
    return [
        (
            panel.title.name,
            [label.name for label in panel.across],
            {line.name + line.small: i for line, i in panel.lines},
        )
        for panel in panels(over_seeds(cells))
    ]


def attacked(attack, cells):
    return [{**c, "attack": attack} for c in cells]


def test_defences_of_one_model_make_one_panel_and_variants_stand_by_their_method():
    tried = [c for name in ("nad[p=20]", "prune", "finetune", "nad[p=3]", "nad") for c in defended(name, 0.88, 0.04)]
    cells = tried + TEACHER + attacked("blend", TEACHER)
    ((title, across, lines),) = shape(cells)
    assert (title, across) == ("teacher", ["badnets", "blend"])
    assert [*lines] == ["no defence", "finetune", "nad", "nadp=3", "nadp=20", "prune"]
    assert lines["no defence"] == [5, 6] and lines["prune"] == [1, None]
    assert not re.search("finetune<", page(Report("t", TEACHER))), "what was not tried has no line"


def test_a_map_takes_the_panels_with_the_least_room():
    """Many defences on one attack, two on the others: a panel for each attack, with the defences down."""
    heads = [c for d in ("kd", "at", "rkd") for c in student(d, 0.9)]
    tried = [{**c, "defense": f"d{i}"} for i in range(8) for c in heads]
    others = [c for attack in ("blend", "sig", "wanet") for c in attacked(attack, heads[:3])]
    found = shape(heads + tried + others)
    assert [(title, len(across), len(lines)) for title, across, lines in found] == [
        ("badnets", 3, 9), ("blend", 1, 1), ("sig", 1, 1), ("wanet", 1, 1),
    ]  # fmt: skip
    many = [c for i in range(9) for c in attacked(f"a{i}", heads)]
    ((title, across, lines),) = shape(many)
    assert (title, len(across), len(lines)) == ("no defence", 3, 9), "without defences, attacks go down"


def test_a_map_has_no_empty_lines_and_no_heading_that_never_changes():
    clean = [cell(attack="none", place=None, asr=None, carried=None, seed=seed) for seed in range(3)]
    assert [[*lines] for _, _, lines in shape(TEACHER + clean)] == [["badnets"]]
    assert panels(over_seeds(clean)) == [] and 'id="map"' not in page(Report("t", clean))
    alone = re.search(r'<div id="map".*?</section>', page(Report("t", TEACHER + clean)), re.S).group()
    assert "no defence · teacher" in alone and "<thead>" not in alone
    failed = unmeasured("failed", "Diverged", attack="none", place=None)
    assert [[*lines] for _, _, lines in shape([*TEACHER, failed])] == [["badnets", "none"]]


def test_columns_that_never_change_stand_in_the_head():
    def heads(cells):
        made = page(Report("t", cells))
        return re.findall(r'<th scope="col"[^>]* data-key="(\w+)"', made.split('id="cells"')[0]), made

    assert heads(TEACHER)[0] == ["attack", "seed", "n", "flags"], "and no verdict without a student"
    alone, made = heads(student("kd", 0.9))
    assert alone == ["attack", "seed", "n", "verdict", "flags"]
    assert "<b>distiller</b> kd" in made and "<b>student</b> wrn16-1" in made
    assert heads(TEACHER + student("kd", 0.9))[0] == ["attack", "distiller", "student", "seed", "n", "verdict", "flags"]


def test_the_lineage_of_committed_cells_comes_from_their_study_file(tmp_path, monkeypatch):
    monkeypatch.chdir(STUDIES[0].parents[1])
    cells, store = read_cells("results/nad-mini"), Store(tmp_path)
    plan = plan_behind(cells, Path())
    found = lineage_of(cells, store, plan.stages)
    assert {key for c in cells for key in c["keys"].values()} <= found.keys()
    assert all(found.keys() >= set(stage["parents"]) for stage in found.values())
    tuned = next(found[c["keys"]["choose"]] for c in cells if "choose" in c["keys"])
    assert tuned["kind"] == "choose" and tuned["seconds"] is None and len(tuned["parents"]) > 1
    assert lineage_of(cells, store, {}) == {}


def test_labels_keep_what_tells_selectors_apart():
    attack = "badnets[trigger=patch:grid,rate=0.1]"
    cells = [
        cell(attack=attack, defense=defense)
        for defense in ("none", "nad[lr=tune(0.1,0.05)]", "nad[beta=0,lr=tune(0.1,0.05)]")
    ]
    short = shortened(cells)
    assert [c["defense"] for c in short] == ["none", "nad", "nad[beta=0]"]
    assert {c["attack"] for c in short} == {"badnets"}
    assert shortened(short) == short


def clouds(n=40, width=5):
    """Clean images of two classes in two clouds; triggered ones lie in the cloud of class 0, but for every fourth."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    clean = torch.randn(n, width, generator=draw) + 20.0 * y[:, None]
    away = (torch.arange(n) % 4 == 0).float()
    return y, clean, torch.randn(n, width, generator=draw) + 20.0 * away[:, None]


def test_a_feature_map_counts_neighbours_in_feature_space_and_splits_the_points():
    y, clean, triggered = clouds()
    made = feature_map(y, clean, triggered, 0)
    assert made["share"] == 0.75 and made["n"] == 40
    assert [len(made[kind]) for kind in ("others", "targets", "triggered")] == [20, 20, 40]
    assert all(len(point) == 2 and all(map(math.isfinite, point)) for point in made["triggered"])
    assert feature_map(y, clean, triggered, 0) == made, "t-SNE from a fixed start"
    assert feature_map(y, clean, triggered, 7)["share"] is None, "no clean image of the target"


def test_features_that_cannot_be_laid_out_are_refused():
    y, clean, triggered = clouds()
    for bad in ((clean * 0, triggered * 0), (clean * float("nan"), triggered), (clean[:, :2], triggered)):
        with pytest.raises(BadInput, match="features"):
            feature_map(y, *bad, 0)


def test_maps_of_features_stand_on_the_page_if_there_are_any(text):
    assert "Features of the students" not in text
    where = {"images": "digits", "teacher": "t", "attack": "cheatkd", "distiller": "overhaul", "student": "wrn10-1"}
    item = {**where, "defense": "none", "seed": 0, "asr": 0.42, **feature_map(*clouds(), 0)}
    report = example_report()
    shown = page(Report(report.title, report.cells, embeddings=[item] * 14))
    assert "Features of the students" in shown and shown.count("t-SNE of features") == 12
    assert "ASR 42.0 %; nearest to a clean image of the target class: 75.0 % of 40" in shown
    assert len(shown.encode()) < 2_000_000
    assert page(Report(report.title, report.cells, embeddings=[item] * 14)) == shown


def test_the_mechanism_of_a_cell_is_embedded_where_it_says_something():
    layer = {"layer": "a", "channels": 8, "chosen": [3], "rank": [1], "rank_clean": [5], "run": 2}
    student = [{**layer, "chosen": [], "run": 1}, {**layer, "layer": "b", "chosen": [], "run": 4}]
    both = [{**layer, "layer": "c", "chosen": []}, layer]
    cells = [cell(seed=0, mechanism=both), cell(seed=1, mechanism=student)]
    first, second = embedded(page(Report("t", cells)))["cells"]
    assert [row["layer"] for row in first["mechanism"]] == ["a"], "the poisoned neuron's layer"
    assert [row["layer"] for row in second["mechanism"]] == ["b"], "without one, the longest run"
