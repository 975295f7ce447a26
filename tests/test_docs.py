"""The documentation tells the truth: code runs, commands parse, links lead somewhere, tables are current."""

import ast
import importlib.util
import json
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

import distrust
from distrust.cli import app
from distrust.flags import MEANING
from distrust.marks import KINDS
from distrust.registry import registry
from distrust.selectors import parse_one
from distrust.study import Outcome, make_plan, score_cells
from distrust.study.spec import study_from
from distrust.study.store import Store
from distrust.training.options import FIELDS, MOVES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXIT = re.compile(r"# exit (\d)$")
CHEAP = {"list", "show", "layers"}  # these run wherever they stand
WHOLE = {
    "own-model.md",
    "own-data.md",
    "stores.md",
    "ten-minutes.md",
}  # every command of these pages runs, in order, between the page's code
LANGUAGES = {"python", "sh", "toml", "yaml", ""}
COMMANDS = typer.main.get_command(app).commands
LEAVES = {  # commands, and those of groups by both words
    " ".join(filter(None, (name, inner))): leaf
    for name, one in COMMANDS.items()
    for inner, leaf in getattr(one, "commands", {"": one}).items()
}

SLOW = ("own-model.md", "ten-minutes.md", "clean-teacher.md", "poisoned_teacher.py", "audit_two_teachers.py")


def in_time(files):
    """Each file, those that train for long marked."""
    return [pytest.param(file, id=file.name, marks=pytest.mark.slow if file.name in SLOW else ()) for file in files]


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page):
    return BLOCK.findall(page.read_text())


def lines(text):
    """The `distrust …` lines of a shell block."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("distrust ")]


def words_of(line):
    """Without the first word and without comments."""
    return shlex.split(line, comments=True)[1:]


def commands(text):
    return [words_of(line) for line in lines(text)]


def prose(page):
    return BLOCK.sub("", page.read_text())


def headings(page):
    return [title.strip() for title in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)]


def anchor(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def script(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def own_registry(monkeypatch):
    """Plug-ins that a page adds are gone afterwards."""
    for kind in KINDS:
        registry.kind(kind)
    monkeypatch.setattr(registry, "_kinds", {kind: dict(methods) for kind, methods in registry._kinds.items()})
    monkeypatch.setattr(registry, "files", [])


@pytest.fixture
def desk(tmp_path, monkeypatch, own_registry):
    """An empty folder to work in, beside the project's examples and studies."""
    for name in ("examples", "studies"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def my_bucket(s3):
    """The bucket that pages speak of."""
    import s3fs

    s3fs.S3FileSystem(use_listings_cache=False).mkdir("my-bucket")


@every_page
def test_blocks_say_their_language(page):
    assert {language for language, _ in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", in_time(PAGES))
def test_code_runs(page, desk, capsys, request):
    """Python blocks share one namespace; a block that begins with `# file: NAME` is that file, too.

    Commands end with the exit code that the page states, as in `distrust check FILE  # exit 0`.
    """
    space = {"__name__": "docs"}
    if "s3://my-bucket" in page.read_text():
        request.getfixturevalue("my_bucket")
    for language, text in blocks(page):
        if name := re.match(r"# file: (\S+)\n", text):
            (desk / name[1]).write_text(text)
        if language == "python":
            exec(compile(text, f"{page.name}", "exec"), space)
        elif language == "sh":
            for line in lines(text):
                words = words_of(line)
                if words[0] in CHEAP or page.name in WHOLE:
                    code = app([*words, "--quiet"], standalone_mode=False)
                    stated = EXIT.search(line)
                    assert code in ([int(stated[1])] if stated else (0, 1, 3)), (words, code, capsys.readouterr())


def test_the_page_for_a_strangers_model_states_every_exit_code():
    page = ROOT / "docs/own-model.md"
    found = [line for language, text in blocks(page) if language == "sh" for line in lines(text)]
    assert len(found) > 10 and all(EXIT.search(line) for line in found)
    assert {EXIT.search(line)[1] for line in found} == {"0", "1", "3"}


@every_page
def test_commands_parse(page, own_registry):
    """Every option exists, every value has its type, and every selector on the command line is known."""
    for language, text in blocks(page):
        for words in commands(text) if language == "sh" else []:
            both = " ".join(words[:2])
            name, *rest = (both, *words[2:]) if both in LEAVES else words
            assert name in LEAVES, words
            given = LEAVES[name].make_context(name, rest).params
            for plugin in given.get("plugin") or []:
                registry.add(ROOT / plugin)
            for option, kind in (("method", "defenses"), ("distiller", "distillers")):
                if name in ("purify", "distill") and option in given:
                    selector = parse_one(given[option])
                    registry.get(kind, selector.name).check(selector.options)
            for option in ("study", "expect"):
                if str(given.get(option, "")).startswith("studies/"):
                    assert (ROOT / given[option]).is_file()


@every_page
def test_make_targets_exist(page):
    known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for language, text in blocks(page):
        assert set(re.findall(r"^make ([\w-]+)", text, re.MULTILINE) if language == "sh" else []) <= set(known)


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, place = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if place:
            assert place in map(anchor, headings(file)), f"{page.name}: {target}"


def test_every_page_is_reachable_from_the_index():
    linked = {
        target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / "docs/index.md").read_text())
    }
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} <= linked


def test_every_command_is_documented():
    page = ROOT / "docs/commands.md"
    sections = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
    documented = {section.partition("\n")[0]: section for section in sections[1:]}
    assert set(documented) == {*COMMANDS, "Common to all"}
    for name in COMMANDS:
        assert f"distrust {name}" in documented[name]
        assert "Exit codes:" in documented[name] and "`--json`" in documented[name], name
    for name in LEAVES:
        assert f"distrust {name}" in documented[name if name in COMMANDS else name.partition(" ")[0]]


def test_every_option_is_documented():
    text = (ROOT / "docs/commands.md").read_text()
    options = {flag for command in LEAVES.values() for p in command.params for flag in p.opts if flag.startswith("--")}
    assert {flag for flag in options - {"--help"} if f"`{flag}`" not in text} == set()


def test_every_promise_about_safety_names_tests_that_exist():
    page = ROOT / "docs/safety.md"
    for promise in re.split(r"^(?=- )", prose(page), flags=re.MULTILINE)[1:]:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise.partition("\n## ")[0])
        assert named, promise[:60]
        for file, test in named:
            assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"


def test_every_flag_is_documented():
    page = ROOT / "docs/flags.md"
    assert headings(page)[1:] == list(MEANING)
    for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]:
        assert all(f"**{part}" in section for part in ("Raised if**", "Why.**", "What to do.**")), section[:20]


def test_study_files_in_the_documentation_plan():
    """Every complete study is planned; a part of one, such as a lone [[grid]], is planned with a name before it."""
    for page in PAGES:
        for language, text in blocks(page):
            if language == "toml" and "project." not in text:
                content = tomllib.loads(text)
                assert make_plan(study_from({"name": "part", **content}, page.name)).cells


def test_cards_are_current():
    cards = script("cards")
    assert cards.page() == cards.PAGE.read_text(), "python docs/cards.py"


def test_tables_are_current():
    tables = script("tables")
    for page in tables.PAGES:
        assert "<!-- results:" in page.read_text()
        assert tables.current(page) == page.read_text(), "python docs/tables.py"


def test_a_shelfs_look_holds_what_was_said_of_a_model_and_of_its_students():
    made = {"attack": "adba[target=5]", "target": 5, "seed": 1, "confidence": 0.9, "weights": 2.0}
    own = {
        **made,
        "distiller": "none",
        "detector": "twins[steps=3]",
        "score": 0.5,
        "suspect": 3,
        "acc": 0.91,
        "asr": 0.99,
    }
    kd = {**made, "distiller": "kd[epochs=3]", "detector": "twins[steps=3]", "score": 0.7, "suspect": 5, "acc": 0.85}
    look = script("shelves")._look([{**kd, "asr": 0.98}, own])
    assert look.scores == {"twins": 0.5, "twins@kd": 0.7} and look.named == {"twins": 3, "twins@kd": 5}
    assert look.like == {"acc": 0.91, "confidence": 0.9, "weights": 2.0, "acc@kd": 0.85}
    assert (look.attack, look.target, look.asr, look.inherited) == ("adba[target=5]", 5, 0.99, {"kd": 0.98})
    lesson = script("shelves")._lesson("kd[temperature=2]", "shelf-students")
    assert lesson == "kd[epochs=12,batch_size=64,flip=false,crop=2,temperature=2]"
    options = {*parse_one(lesson).options} - {*FIELDS, *MOVES}
    assert options == {"temperature"} and "temperature" in registry.get("distillers", "kd").options


def test_shelves_are_current():
    shelves = script("shelves")
    for name in shelves.MADE_OF:
        assert shelves.text(name) == (shelves.SHELVES / f"{name}.json").read_text(), "python docs/shelves.py"


def rounded(svg):
    """Places to a tenth of a point, and no ids, which are hashes of places: processors differ in the last digit."""
    svg = re.sub(r"\b[a-z]+[0-9a-f]{10}\b", "id", svg)
    return re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.1f}", svg)


def test_drawings_are_current():
    tables = script("tables")
    for file, (study, student, option) in tables.DRAWINGS.items():
        drawn = tables.drawing(ROOT / "results" / study, student, option)
        assert rounded(drawn) == rounded(file.read_text()), "python docs/tables.py"
        assert f">{option} " in drawn or f", {option} " in drawn


def made_up_cells(tmp_path):
    """Cells of a study that nobody ran: two seeds, a failure, a tuned option and a published number."""
    study = study_from(
        {
            "name": "made-up", "seeds": 2, "teacher": ["wrn10-1"], "attack": ["badnets"],
            "grid": [{"defense": ["nad[beta=0,lr=tune(0.1,0.01)]", "none"]}, {"distiller": ["kd"]}],
            "published": [{"source": "A | B", "convention": "theirs", "defense": "none", "acc": 0.5, "asr": 1.0}],
        }
    )  # fmt: skip
    plan = make_plan(study)
    cells = score_cells(plan, Store(tmp_path / "runs"), Outcome())
    numbers = {"asr": 0.25, "base": 0.05, "carried": 0.2, "acc_others": 0.75, "n": 405, "state": "done", "error": None}
    for cell in cells:
        if cell["distiller"] == "none":
            cell |= {**numbers, "acc": 0.8 + 0.1 * cell["seed"], "flags": ["few-images"]}
        if cell["defense"] != "none":
            cell["chosen"] = {"lr": [0.1, 0.01][cell["seed"]]}
            cell["validation"] = {"before": 0.9, "after": [0.8, 0.7]}
    return cells


def test_tables_say_what_the_cells_say(tmp_path):
    folder = tmp_path / "results" / "made-up"
    folder.mkdir(parents=True)
    for cell in made_up_cells(tmp_path):
        (folder / f"{cell['id']}.json").write_text(json.dumps(cell))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results:made-up -->\nold\n<!-- /results -->\nafter\n")
    text = script("tables").current(page, tmp_path / "results")
    head, *rows = [line for line in text.splitlines() if line.startswith("|")]
    cell = "85.0 (80.0, 90.0)"  # two runs
    few = "[few-images](docs/flags.md#few-images)"
    assert (
        rows[1]
        == f"| teacher | `none` | 2 | {cell} | 25.0 (25.0, 25.0) | 5.0 (5.0, 5.0) | 20.0 (20.0, 20.0) | – | {few} |"
    )
    assert "`nad[beta=0]`" in rows[2] and "| lr 0.1, 0.01 |" in rows[2]
    assert "student by kd" in rows[3] and "| 0 | – |" in rows[3] and "missing: not run yet" in rows[3]
    assert "| teacher | `none` | 75.0 (75.0, 75.0) | 50.0 | 25.0 (25.0, 25.0) | 100.0 | A \\| B: theirs |" in rows
    assert text.startswith("before\n<!-- results:made-up -->\n> No student can be judged; 1 of 1 teachers")
    assert "\n\nStudy `made-up`" in text and text.endswith("<!-- /results -->\nafter\n")
    page.write_text(text)
    assert script("tables").current(page, tmp_path / "results") == text


def test_a_metric_of_a_plug_in_is_a_column_of_a_table(tmp_path, own_registry):
    (tmp_path / "calm.py").write_text(
        "from distrust.marks import metric\n\n\n"
        '@metric("none", heading="Calmness", better="higher")\n'
        'def calm(seen):\n    """How calm it is."""\n    return 1.0\n'
    )
    registry.add(tmp_path / "calm.py")
    folder = tmp_path / "results"
    folder.mkdir()
    for cell in made_up_cells(tmp_path):
        (folder / f"{cell['id']}.json").write_text(json.dumps({**cell, "calm": 0.125}))
    lines = [line.split(" | ") for line in script("tables").table(folder, "flags.md").splitlines() if "|" in line]
    assert lines[2][lines[0].index("Calmness %")] == "12.5 (12.5, 12.5)"


def test_choices_say_what_was_given_up_for_what(tmp_path):
    folder = tmp_path / "results" / "made-up"
    folder.mkdir(parents=True)
    for cell in made_up_cells(tmp_path):
        (folder / f"{cell['id']}.json").write_text(json.dumps(cell))
    rows = script("tables").choices(folder).splitlines()
    assert rows[2:] == [
        f"| `nad[beta=0]` | {s} | 90.0 | 80.0, 70.0 | lr {lr} | 25.0 |" for s, lr in enumerate((0.1, 0.01))
    ]


def test_a_map_has_defences_by_attacks_and_the_headline_their_paired_difference(tmp_path):
    study = study_from(
        {
            "name": "made-up", "seeds": 3, "teacher": ["wrn10-1"], "defense": ["none", "finetune", "nad"],
            "attack": ["none", "badnets", "blend", "sig"],
        }
    )  # fmt: skip
    left = {"none": 1.0, "finetune": 0.5, "nad": 0.25}
    cost = {"none": 0.0, "finetune": 0.02, "nad": 0.03}
    for cell in score_cells(make_plan(study), Store(tmp_path / "runs"), Outcome()):
        attack, defense, seed = cell["attack"], cell["defense"], cell["seed"]
        cell |= {"state": "done", "error": None, "n": 900, "acc": 0.9 - cost[defense] + 0.01 * seed, "flags": []}
        cell |= {"seconds": 100 + 1000 * cost[defense]}
        if attack != "none":
            asr = 0.1 if attack == "sig" else left[defense] * (0.8 if attack == "blend" else 1) - 0.01 * seed
            cell |= {"asr": asr, "base": 0.0, "carried": asr, "retune": 2 * asr if defense == "nad" else None}
            cell["flags"] = ["attack-weak"] * (attack == "sig") + ["acc-floor"] * (
                (attack, defense) == ("blend", "nad")
            )
        (tmp_path / f"{cell['id']}.json").write_text(json.dumps(cell))
    tables = script("tables")
    assert tables.plain_map(tmp_path).splitlines() == [
        "| defence | `badnets` | `blend` | `sig` (weak) | mean ASR % | after re-tuning % | costs, points of ACC | "
        "costs a clean model, points of ACC | seconds a model |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| `none` | 99.0 | 79.0 | 10.0 | 89.0 | – | 0.0 | 0.0 | 0 |",
        "| `nad` | 24.0 | 19.0 † | 10.0 | 21.5 | 43.0 | 3.0 | 3.0 | 30 |",
        "| `finetune` | 49.0 | 39.0 | 10.0 | 44.0 | – | 2.0 | 2.0 | 20 |",
    ]
    said = tables.headline(tmp_path)  # nad destroyed one of two models, which counts with what it carried: 79
    assert said.startswith("- `nad` leaves 51.5 (52.5, 51.5, 50.5) points of 89.0 on 6 models, `finetune` 44.0 (")
    assert said.count("\n") == 1 and "; the paired difference is " in said


def test_tables_without_results_say_so(tmp_path):
    tables = script("tables")
    assert tables.table(tmp_path / "nad-mini", "flags.md").startswith("No results yet.")
    assert tables.plain_map(tmp_path / "nad-mini") == tables.headline(tmp_path / "nad-mini") == "No results yet.\n"


def test_versions_agree():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    assert cited == distrust.__version__
    assert f"## [{distrust.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("example", in_time(EXAMPLES))
def test_examples_run(example, desk, capsys):
    runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    assert ("carried" in said) != ("clean: clean-looking" in said and "backdoored: backdoored" in said)


NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_show_what_they_say(notebook, desk):
    """Cell after cell; what a cell ends with has a face. The last student with a backdoor has inherited it."""
    names, shown = {}, []
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs"), "no number stands there that nobody computes"
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop()
            assert isinstance(last, ast.Expr)
            exec(compile(tree, str(notebook), "exec"), names)
            shown.append(eval(compile(ast.Expression(last.value), str(notebook), "eval"), names))
            assert "<" in shown[-1]._repr_html_()
    carried = [one.carried for one in shown if getattr(one, "carried", None) is not None]
    stayed, passed = carried[1], carried[2]
    assert carried[0] > 0.9 and abs(stayed) < 0.1 and passed > 0.8 and carried[3] < passed


def test_the_page_on_own_methods_shows_the_example():
    code = next(text for language, text in blocks(ROOT / "docs/own-method.md") if language == "python")
    assert code == (ROOT / "examples/my_defense.py").read_text()
