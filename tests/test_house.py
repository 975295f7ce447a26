"""The laws of the house, as far as a machine can check them."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import distrust

SRC = Path(distrust.__file__).parent
FILES = {path.relative_to(SRC): ast.parse(path.read_text()) for path in sorted(SRC.rglob("*.py"))}
FACES = {"__main__", "__init__", "api", "moving", "publishing", "cli", "auditing"}  # between a person and the library


def name_of(file: Path) -> str:
    return ".".join(part for part in (*file.parent.parts, file.stem) if part != "__init__")


MODULES = {name_of(file) for file in FILES}


def imports(file: Path, tree: ast.AST) -> Iterator[str]:
    """Modules of the package that a piece of it imports, as dotted names without the package's own."""
    package = ["distrust", *file.parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("distrust.") for alias in node.names if alias.name.startswith("distrust.")
            )
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            if base.partition(".")[0] == "distrust":
                for alias in node.names:
                    inner = f"{base}.{alias.name}".partition(".")[2]
                    yield inner if inner in MODULES else base.partition(".")[2]


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize(
    "code",
    [
        "import distrust",
        "import distrust; dir(distrust); distrust.__version__",
        "import sys; sys.argv = ['distrust', '--help']; from distrust.cli import main; main()",
        "import sys; sys.argv = ['distrust', 'purify', '--help']; from distrust.cli import main; main()",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    heavy = "{'torch', 'numpy', 'scipy', 'sklearn', 'datasets', 'matplotlib'}"
    check = f"import atexit, sys; atexit.register(lambda: print('HEAVY', *({heavy} & set(sys.modules))))"
    said = subprocess.run([sys.executable, "-c", f"{check}; {code}"], capture_output=True, text=True, timeout=300)
    assert said.returncode == 0 and said.stdout.splitlines()[-1].split() == ["HEAVY"], said.stdout + said.stderr


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_library_neither_prints_nor_touches_global_state_nor_opens_pickles(file):
    for name, call in calls(file):
        assert name != "print", f"{file}:{call.lineno} prints"
        assert not name.endswith(".cuda"), f"{file}:{call.lineno} calls .cuda(); take a device"
        if str(file) != "seeds.py":  # which puts the global generators back
            own = name.endswith("Generator().manual_seed")
            assert own or not name.endswith(("manual_seed", "manual_seed_all", "random.seed")), (
                f"{file}:{call.lineno} seeds"
            )
        assert name not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), f"{file}:{call.lineno} unpickles"
        if name == "torch.load":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("weights_only") == "True", f"{file}:{call.lineno} opens a file that may run code"
        if name in ("np.load", "numpy.load"):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("allow_pickle", "False") == "False", f"{file}:{call.lineno} allows pickles"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_are_short(file):
    most = 150 if file.parts[0] == "methods" else 400
    lines = len((SRC / file).read_text().splitlines())
    assert lines <= most, f"{file} has {lines} lines; the limit is {most}"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_one_way(file):
    area = file.parts[0].removesuffix(".py")
    for name in imports(file, FILES[file]):
        head, *rest = name.split(".")
        if area == "methods":
            public = head == "methods" and not rest[-1].startswith("_")
            assert not public, f"{file} imports the method {name}; what two share goes into a private module"
        if area not in FACES:
            assert head not in FACES, f"{file} imports {name}, which stands above it"
        if area not in FACES | {"study", "reporting"}:
            assert head not in ("study", "reporting"), f"{file} imports {name}, which stands above it"
        if area == "study":
            assert head != "reporting", f"{file} imports {name}, which stands above it"


def test_no_two_modules_import_each_other():
    """Counts what is imported when a module is; imports inside functions and for type checkers are left out."""

    def at_once(tree: ast.AST) -> ast.Module:
        def kept(node: ast.stmt) -> bool:
            checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            return not (checking or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

        return ast.Module([node for node in tree.body if kept(node)], [])

    graph = {}
    for file, tree in FILES.items():
        inside = name_of(file)
        graph[inside] = {name for name in imports(file, at_once(tree)) if name in MODULES and name != inside}
    assert graph["cli.checkpoints"] >= {"cli.command"}, "the reader of imports works"
    list(graphlib.TopologicalSorter(graph).static_order())


def test_no_file_names_a_place_on_somebodys_machine():
    root = SRC.parents[1]
    found = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True)
    if found.returncode or not found.stdout:
        pytest.skip("this is no git checkout")
    place = re.compile(r"(?<![\w./])/(home|work|Users)/")
    for line in found.stdout.splitlines():
        try:
            text = (root / line).read_text()
        except (UnicodeDecodeError, FileNotFoundError):  # no text, or deleted and not committed yet
            continue
        match = place.search(text)
        assert not match, f"{line} names {text[match.start() :].split()[0]}"


def test_files_of_tests_are_short():
    folder = SRC.parents[1] / "tests"
    long = {file.name: n for file in folder.rglob("*.py") if (n := len(file.read_text().splitlines())) > 500}
    assert not long
