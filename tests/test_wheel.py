"""The wheel holds everything that the package opens, and works from where it is installed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import distrust

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "numpy", "scipy", "datasets", "matplotlib"}


def python(*words: object, **environment: str) -> subprocess.CompletedProcess:
    words = [sys.executable, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=ROOT, env=os.environ | environment)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = python("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    said = python("-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", folder, wheel)
    assert said.returncode == 0, said.stderr
    return folder


def test_the_wheel_holds_every_file_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("distrust/")}
        others = {name.partition("/")[0] for name in archive.namelist()} - {"distrust"}
    source = Path(distrust.__file__).parent
    wanted = {f"distrust/{p.relative_to(source)}" for p in source.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert held == wanted
    for name in ("page.html.j2", "page.css", "page.js"):
        assert f"distrust/reporting/{name}" in held
    assert {"distrust/study/demo.toml", "distrust/py.typed"} <= held
    assert others == {f"distrust-{distrust.__version__}.dist-info"}


def test_the_installed_copy_answers_help_without_torch(installed):
    code = (
        "import atexit, sys, distrust, distrust.cli; sys.argv = ['distrust', '--help'];"
        "atexit.register(lambda: print(distrust.__file__, *sys.modules, sep='\\n'));"
        "distrust.cli.main()"
    )
    said = python("-c", code, PYTHONPATH=str(installed))
    assert said.returncode == 0 and "purify" in said.stdout, said.stderr
    lines = said.stdout.splitlines()
    assert str(installed / "distrust" / "__init__.py") in lines and not HEAVY & set(lines)


@pytest.mark.slow
def test_the_installed_script_plans_the_demo_and_renders_a_page(installed, tmp_path):
    script = installed / "bin" / "distrust"
    said = python(script, "check", installed / "distrust/study/demo.toml", "--json", PYTHONPATH=str(installed))
    assert said.returncode == 0 and '"is": "study"' in said.stdout, said.stderr
    page = tmp_path / "page.html"
    demo = installed / "distrust/study/demo.toml"
    said = python(script, "report", demo, "--store", tmp_path / "none", "--out", page, PYTHONPATH=str(installed))
    assert said.returncode == 0 and "<style" in page.read_text() and "<script" in page.read_text(), said.stderr
