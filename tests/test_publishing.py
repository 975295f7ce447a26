"""Tables and figures for a paper, and how to cite: what they say, and that a name stays a name in every format."""

import csv
import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from tests.report_fixture import cell, seeds, unmeasured

import distrust as dt
from distrust.files import replaceable
from distrust.reporting import figures, plots
from distrust.reporting.citing import bibtex
from distrust.reporting.rows import columns, over_seeds
from distrust.reporting.table import table_of
from distrust.study.store import Store

ROOT = Path(__file__).parents[1]
NASTY = r"""<script>alert('x')</script>_a_ & b% #$1$ {x} ~^ \ `c` |d| *e* [f](g) "h" """.strip()
T_975_2 = 4.302653  # Student's t, 97.5 %, 2 degrees of freedom
TEACHER = seeds((0.9, 0.95), (0.9, 0.96), (0.9, 0.94))
STUDENTS = seeds((0.9, 0.9), (0.9, 0.91), (0.9, 0.92), distiller="kd", student="wrn16-1")
CLEANED = seeds((0.88, 0.05), (0.86, 0.03), (0.87, 0.04), defense="nad[beta=0,lr=tune(0.1,0.05)]")
BESIDE = seeds((0.7, 0.02), (0.7, 0.03), defense="finetune", flags=["acc-floor"])
STUDY = TEACHER + STUDENTS + CLEANED + BESIDE


def lines(table, format="text"):
    return table.lines(format)


def test_without_a_choice_a_table_has_rates_verdicts_and_flags():
    table = table_of(STUDY)
    assert table.head("text") == [
        "model", "defence", "ACC %", "ASR %", "Base %", "Carried, points", "backdoor", "seeds", "flags",
    ]  # fmt: skip
    assert [line[:2] for line in lines(table)] == [
        ["teacher", "none"], ["teacher", "finetune"], ["teacher", "nad"], ["wrn16-1 student by kd", "none"],
    ]  # fmt: skip
    assert [line[-1] for line in lines(table)] == ["–", "acc-floor", "–", "–"]
    assert lines(table)[3][-3] == "inherited"
    assert "flags" not in [field.key for field in table_of(TEACHER).fields], "nothing is flagged"
    assert "; 2–3 runs. Mean over runs; in brackets every run." in table.caption("text")


def test_rows_and_columns_stand_as_they_are_asked_for():
    table = table_of(STUDY, ["asr", "acc"], {"defense": ["nad", "none"], "distiller": ["none"]})
    assert [field.key for field in table.fields] == ["model", "defense", "asr", "acc"]
    assert [line[1] for line in lines(table)] == ["nad", "none"]
    assert lines(table)[0][2:] == ["4.0 (5.0, 3.0, 4.0)", "87.0 (88.0, 86.0, 87.0)"]
    table = table_of(STUDY, ["defense", "n", "carried"])
    assert [field.key for field in table.fields] == ["defense", "n", "carried", "flags"], "no flag is left out"
    every = [field.key for field in table_of(STUDY, ["all"]).fields]
    assert every[0] == "model" and every[-1] == "flags" and {"seeds", "carried"} < {*every}


def test_a_verdict_is_of_the_whole_study_whatever_rows_are_chosen():
    weak = [
        seeds(*((0.9, 0.13 + d) for d in (-0.03, 0, 0.045)), distiller=f"d{i}", student="wrn16-1") for i in range(9)
    ]
    cells = TEACHER + [one for some in weak for one in some]
    everywhere = {row.axes["distiller"]: table_of(cells, ["verdict"]) for row in over_seeds(cells)}
    alone = table_of(cells, ["verdict"], {"distiller": ["d0"]})
    whole = [line for line in lines(everywhere["d0"]) if "d0" in line[0]]
    assert lines(alone) == whole


def test_intervals_are_chosen():
    asked = {"rows": {"defense": ["nad"]}, "columns": ["acc"]}
    reach = T_975_2 * 1 / 3**0.5  # standard deviation: one point
    assert lines(table_of(STUDY, **asked, intervals="t"))[0][2] == f"87.0 [{87 - reach:.1f}, {87 + reach:.1f}]"
    assert lines(table_of(STUDY, **asked, intervals="none"))[0][2] == "87.0"
    own = table_of([cell(acc_interval=[0.8, 0.95])], ["acc"])
    assert lines(own)[0][2] == "90.0 [80.0, 95.0]" and lines(own)[0][3] == "one-seed"
    assert "1 run. Mean over runs; in brackets of one run its own 95 % interval." in own.caption("text")
    assert table_of(STUDY, **asked, intervals="none").caption("text").endswith("3 runs. Mean over runs.")


def test_csv_has_the_numbers_of_the_cells():
    told = list(csv.DictReader(io.StringIO(table_of(STUDY, ["defense", "acc", "n"]).to("csv"))))
    assert [row["defense"] for row in told] == ["none", "finetune", "nad", "none"]
    reach = 0.01 * T_975_2 / 3**0.5
    assert [float(told[2][key]) for key in ("acc", "acc_low", "acc_high")] == pytest.approx(
        [0.87, 0.87 - reach, 0.87 + reach], abs=1e-6
    )
    assert told[1]["flags"] == "acc-floor" and told[0]["n"] == "900"
    formula = table_of([cell(attack="=1+1", seed=s) for s in (0, 1)], ["attack", "carried"])
    assert "'=1+1" in formula.to("csv")


def test_html_and_markdown_show_a_name_as_it_is():
    table = table_of([cell(attack=NASTY, student=NASTY, distiller=NASTY, study=NASTY, seed=s) for s in (0, 1)], ["all"])
    table = table_of([row for one in table.rows for row in one.cells], ["attack", "model", "acc"])
    html = table.to("html")
    assert "<script" not in html and [*map(unescape, re.findall("<td>(.*?)</td>", html))][0] == NASTY
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(table.to("markdown"))
    assert "<script" not in shown and "<em>" not in shown and "<a " not in shown
    cells = [unescape(re.sub("<[^>]*>", "", text)) for text in re.findall("<td[^>]*>(.*?)</td>", shown)]
    assert cells[0] == NASTY and cells[1] == f"{NASTY} student by {NASTY}"
    assert shown.count("<tr>") == 2 and shown.count("<td") == 3, "a | makes no cell"
    assert next(csv.DictReader(io.StringIO(table.to("csv"))))["attack"] == NASTY


def printed(latex):
    """What LaTeX would print, or an error: the macros that are written, and no sign that acts."""
    macros = {
        "textbackslash": "\\", "textbraceleft": "{", "textbraceright": "}", "textasciitilde": "~",
        "textasciicircum": "^", "textless": "<", "textgreater": ">", "textbar": "|",
    }  # fmt: skip
    text = re.sub(r"\\texttt\{((?:[^{}]|\{\})*)\}", r"\1", latex)
    pieces = re.split(r"(\\[a-z]+\{\}|\\[&%$#_])", text)
    assert not any(set(piece) & set("\\&%$#_{}~^<>|") for piece in pieces[::2]), pieces
    return "".join(
        macros[p[1:-2]] if p.endswith("{}") and p[0] == "\\" else p[1:] if i % 2 else p for i, p in enumerate(pieces)
    )


def test_latex_has_the_shape_of_a_table_and_every_name_is_escaped():
    attacks = [[cell(attack=name, seed=s, study=NASTY) for s in (0, 1)] for name in (NASTY, "[x]", "plain")]
    told = table_of([one for some in attacks for one in some], ["model", "attack", "acc", "carried"]).to("latex")
    body = re.search(r"\\midrule\n(.*?)    \\bottomrule", told, re.DOTALL)[1].splitlines()
    assert len(body) == 3 and all(line.endswith(r" \\") and not line.strip().startswith("[") for line in body)
    parts = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\").strip()) for line in body]
    assert all(len(cells) == 4 for cells in parts), "an & of a name parts nothing"
    assert {printed(cells[1]) for cells in parts} == {NASTY, "[x]", "plain"}
    assert r"\begin{tabular}{llrr}" in told and r"\usepackage{booktabs}" in told and r"\pm" not in told
    assert all(told.count(rf"\begin{{{name}}}") == told.count(rf"\end{{{name}}}") == 1 for name in ("table", "tabular"))
    plain = re.sub(r"\\[\\&%$#_]", "", told)
    assert plain.count("{") == plain.count("}") and "<script" not in told
    assert re.search(r"\\label\{tab:([\w.-]+)\}", told)


def test_latex_compiles(tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not here")
    cells = STUDY + [cell(attack=NASTY, seed=s) for s in (0, 1)]
    body = table_of(cells, ["all"]).to("latex")
    whole = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "t.tex").write_text(whole)
    made = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-2000:]


@pytest.mark.parametrize(
    "asked, error, message",
    [
        ({"columns": ["acx"]}, dt.NotFound, "no column of example 'acx'. Did you mean 'acc'"),
        ({"columns": ["retune"]}, dt.NotFound, "no column of example 'retune'"),
        ({"rows": {"defence": ["nad"]}}, dt.NotFound, "no axis 'defence'. Did you mean 'defense'"),
        ({"rows": {"defense": ["nda"]}}, dt.NotFound, "no row of example with defense 'nda'. Did you mean 'nad'"),
        ({"rows": {"defense": ["nad"], "distiller": ["kd"]}}, dt.BadInput, "no row with defense nad and distiller kd"),
        ({"intervals": "s"}, dt.NotFound, "no kind of interval 's'"),
    ],
)
def test_what_cannot_be_tabled_is_said(asked, error, message):
    with pytest.raises(error, match=re.escape(message)):
        table_of(STUDY, **asked)
    with pytest.raises(dt.NotFound, match="no format of a table 'latx'. Did you mean 'latex'"):
        table_of(STUDY).to("latx")
    with pytest.raises(dt.Skip, match=r"example has no number yet. Type: distrust run example.toml"):
        table_of([unmeasured("failed", "it broke")])


def test_seeds_that_failed_are_counted_and_their_messages_stay_out_of_a_paper():
    table = table_of(TEACHER + [unmeasured("failed", "a long story", seed=3)], ["acc"])
    assert lines(table)[0][-1] == "1 failed"


def drawn(kind, cells=STUDY, metric="carried", over="", **rows):
    return plots.drawing(kind, cells, rows, metric, over, None, Store("none"))


def texts(axes):
    return [text.get_text() for text in axes.findobj(Text) if text.get_text()]


def test_a_map_has_every_row_and_says_which_not_to_believe():
    figure = plots.alone(drawn("map"))
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["teacher", "kd", "teacher, finetune", "teacher, nad"]
    assert [t.get_text() for t in axes.texts] == ["94.0", "90.0", "1.5†", "3.0"]
    assert axes.get_xlabel() == "Carried, points\nmean over 2–3 runs\n†: not to be believed"
    flagged = [{**one, "flags": ["few-images"]} for one in TEACHER]
    assert [t.get_text() for t in plots.alone(drawn("map", flagged, "acc")).axes[0].texts] == ["90.0*"]


def test_a_frontier_is_drawn_on_axes_of_somebodys_and_their_style_stays():
    before = dict(rcParams)
    mine = Figure()
    axes = mine.subplots(1, 2)
    cells = STUDY + [{**one, "attack": "blend"} for one in TEACHER + CLEANED]
    with pytest.raises(dt.BadInput, match=r"1 axes are given for 2 panels \(badnets, blend\)"):
        plots.onto(drawn("frontier", cells), axes[0])
    assert plots.onto(drawn("frontier", cells), axes) is mine
    assert [one.get_title() for one in axes] == ["badnets", "blend"] and dict(rcParams) == before
    assert [t.get_text() for t in axes[1].get_legend().get_texts()][:3] == ["none", "finetune", "nad"]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    faint = [line for line in axes[0].lines if line.get_alpha() == figures.FAINT]
    assert [line.get_xdata()[0] for line in faint] == [pytest.approx(2.5)], "the defence that destroyed its model"
    one = plots.onto(drawn("frontier", cells, attack=["blend"]), Figure().subplots())
    assert one.axes[0].get_title() == "blend"


def test_labels_hide_neither_points_nor_curves_nor_each_other():
    cells = dt.results(ROOT / "results" / "mimic-ablation").cells
    figure = plots.alone(drawn("frontier", cells, student=["mlp"], attack=["badencoder"]))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [Text.get_window_extent(one) for one in axes.texts if isinstance(one, Annotation)]
    assert len(boxes) > 10 and all(axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 for box in boxes)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    ways = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    assert not any(way.intersects_bbox(box, filled=False) for way in ways for box in boxes if len(way.vertices) > 1)


def test_marks_of_many_methods_are_all_different():
    many = figures.marks(f"m{i}" for i in range(28))
    assert len({*many.values()}) == 28 and len({shape for shape, _, _ in list(many.values())[:14]}) == 14


def test_a_curve_goes_along_an_option_in_order_and_says_what_goes_with_it():
    def rated(rate, asr, **more):
        return seeds(*((0.9, asr + d) for d in (-0.01, 0, 0.01)), attack=f"badnets[rate={rate}]", **more)

    cells = rated(0.1, 0.9) + rated(0.01, 0.2) + rated(0.05, 0.6)
    figure = plots.alone(drawn("curve", cells, "asr"))
    (axes,) = figure.axes
    curve = axes.lines[0]
    assert [*curve.get_xdata()] == [0.01, 0.05, 0.1] and [*curve.get_ydata()] == pytest.approx([20, 60, 90])
    runs = [[*line.get_ydata()] for line in axes.lines if line.get_marker() == "."]
    assert runs[0] == pytest.approx([19, 20, 21])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rate", "ASR %; mean over 3 runs")
    two = (
        cells + rated(0.1, 0.5, distiller="kd", student="wrn16-1") + rated(0.01, 0.1, distiller="kd", student="wrn16-1")
    )
    told = plots.alone(drawn("curve", two)).legends[0].get_texts()
    assert [one.get_text() for one in told] == ["teacher", "kd, wrn16-1", "a run"]
    pairs = [cell(defense=f"nad[beta={b},epochs={e}]", seed=s) for b, e in ((1, 5), (2, 9)) for s in (0, 1)]
    assert plots.alone(drawn("curve", pairs, over="beta")).axes[0].get_xlabel() == "beta, and with it epochs"
    grid = [cell(defense=f"nad[beta={b},epochs={e}]", seed=s) for b in (1, 2) for e in (5, 9) for s in (0, 1)]
    assert [list(line) for line in plots.knobs(over_seeds(grid))["beta"]] == [[1, 2], [1, 2]]
    with pytest.raises(dt.BadInput, match=r"varies beta, epochs. Choose one: --over beta"):
        drawn("curve", grid)
    with pytest.raises(dt.NotFound, match="no option that varies in example 'betta'. Did you mean 'beta'"):
        drawn("curve", grid, over="betta")


def test_what_cannot_be_drawn_is_said(tmp_path):
    with pytest.raises(dt.BadInput, match="no numeric option that varies.* distrust figure example map"):
        drawn("curve")
    with pytest.raises(dt.BadInput, match="no attacked model with a defence.* distrust figure example map"):
        drawn("frontier", TEACHER)
    with pytest.raises(dt.NotFound, match="no number of example 'carred'. Did you mean 'carried'"):
        drawn("map", metric="carred")
    with pytest.raises(dt.NotFound, match="no picture of a trigger of example"):
        drawn("triggers")
    with pytest.raises(dt.BadInput, match=r"written as .pdf, .svg or .png, not .bmp"):
        dt.figure(ROOT / "results" / "nad-mini", "map", tmp_path / "f.bmp")
    with pytest.raises(dt.NotFound, match="no kind of figure 'mop'. Did you mean 'map'"):
        dt.figure(ROOT / "results" / "nad-mini", "mop")


def test_a_file_is_the_same_twice_replaces_its_kind_and_nothing_else(tmp_path):
    for suffix, magic in (("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")):
        out = tmp_path / f"f.{suffix}"
        dt.figure(ROOT / "results" / "nad-mini", "frontier", out)
        first = out.read_bytes()
        dt.figure(ROOT / "results" / "nad-mini", "frontier", out)
        assert first.startswith(magic) and out.read_bytes() == first
    out.write_bytes(b"\x89PNG of somebody")
    with pytest.raises(dt.BadInput, match="nothing that Distrust wrote"):
        replaceable(out)


def test_a_name_in_a_figure_is_no_formula(recwarn):
    name = r"_a$x$b\frac{<script>&%^~"
    figure = plots.alone(drawn("map", [cell(attack=name, seed=s, defense="nad") for s in (0, 1)]))
    out = plots.written(figure, "svg").decode()
    assert "<script" not in out and "_a$x$b\\frac{&lt;script" in unescape(out).replace("<script", "&lt;script")
    figure = plots.alone(
        drawn("frontier", [cell(attack=name, seed=s, defense=d) for s in (0, 1) for d in ("none", "nad")])
    )
    assert "<script" not in plots.written(figure, "svg").decode() and not recwarn.list


def entries(text):
    return {key: body for key, body in re.findall(r"@misc\{([^,]+),\n(.*?)\n\}", text, re.DOTALL)}


def test_distrust_is_cited_as_its_citation_file_says():
    file = (ROOT / "CITATION.cff").read_text()
    (tool,) = entries(dt.cite()).values()
    assert f"Version {re.search('^version: (.*)$', file, re.M)[1]}" in tool
    assert re.search("name: (.*)$", file, re.M)[1] in tool and re.search("^title: (.*)$", file, re.M)[1] in tool


def test_a_study_and_a_cell_are_cited_by_what_they_hold():
    said = [{**one, "keys": {"teacher": "ab" * 16}, "env": {"distrust": "0.1.0"}} for one in CLEANED]
    text = bibtex(said, said[1]["id"])
    _, study, own = entries(text).values()
    assert re.search(r"Version [0-9a-f]{12}: 3 cells, 3 seeds, budget cpu; measured with Distrust 0.1.0", study)
    assert re.search(r"Version [0-9a-f]{8}: seed 1; stages teacher abababababab; measured with Distrust 0.1.0", own)
    assert "% nad: Li et al." in text and bibtex(reversed(said) and said[::-1], said[1]["id"]) == text
    other = [{**said[0], "acc": 0.5}, *said[1:]]
    assert entries(bibtex(other))["distrust-example"] != study and "not recorded" in bibtex(CLEANED)
    with pytest.raises(dt.BadInput, match="3 cells of example begin with 'badnets'"):
        bibtex(said, "badnets")
    with pytest.raises(dt.NotFound, match="no cell of example 'x'"):
        bibtex(said, "x")
    with pytest.raises(dt.Skip, match="no number yet that could be cited"):
        bibtex([unmeasured("failed", "it broke")])


def test_a_name_in_a_bibliography_stays_in_its_braces():
    text = bibtex([cell(study=NASTY, id=NASTY, attack=NASTY)], NASTY)
    assert all(re.fullmatch(r"[\w.-]+", key, re.ASCII) for key in entries(text))
    for body in entries(text).values():
        for line in body.splitlines():
            assert line.count("{") == line.count("}") and line.startswith("  ") and line.endswith("},"), line
    assert "<script" not in text


def test_every_committed_study_has_a_table_a_map_and_an_entry():
    for place in sorted((ROOT / "results").iterdir()):
        if len(list(place.glob("*.json"))) > 150:
            continue
        found = dt.results(place)
        for format in ("latex", "markdown", "html", "csv"):
            assert dt.table(found).to(format)
        assert place.name in dt.cite(found)
        metric = next(c.key for c in columns() if any(isinstance(one.get(c.key), float) for one in found.cells))
        assert dt.figure(found, "map", metric=metric).axes
    json.dumps(dt.table(found).records())
