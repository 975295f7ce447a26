"""The list of planted bugs is up to date, and what plants them tells a test that finds one from one that does not."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.mutants import HERE, NO_PROOF, ROOT, SRC, Mutant, mutants

MUTANTS = mutants()
METHODS = {file.relative_to(SRC).as_posix() for file in SRC.glob("methods/*/*.py")}


def test_every_mutant_is_a_change_of_one_text_that_is_there_and_still_python():
    for mutant in MUTANTS:
        compile(mutant.text, mutant.file, "exec")
        assert mutant.old != mutant.new, f"{mutant.file}: {mutant.name}"


def test_a_stale_text_is_named():
    stale = Mutant("never", "seeds.py", "def nothing_of_this_name", "", ("test_mutants.py",))
    with pytest.raises(ValueError, match=r"never: its old text is 0 times in seeds\.py, not once; renew the list"):
        stale.text  # noqa: B018 - it raises


def test_there_are_enough_of_them_with_names_of_their_own_and_every_method_has_one():
    assert len(MUTANTS) >= 120
    names = Counter((mutant.file, mutant.name) for mutant in MUTANTS)
    assert not [name for name, times in names.items() if times > 1]
    without = METHODS - {mutant.file for mutant in MUTANTS}
    kept = {"methods/triggers/_base.py", *(f"{Path(file).parent.as_posix()}/__init__.py" for file in METHODS)}
    assert without == kept, "a method needs a planted bug: add it to tests/mutants.toml"


def test_the_tests_beside_them_are_there_and_say_that_something_is_wrong_not_that_it_changed():
    for mutant in MUTANTS:
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert Path(file).stem not in NO_PROOF, f"{mutant.file}: {test} proves nothing"
            assert f"def {name.partition('[')[0]}" in (HERE / file).read_text(), f"{mutant.file}: there is no {test}"


PLANTED = """
[[file]]
path = "methods/distillers/kd.py"
tests = ["golden/test_kd.py"]

[[file.mutant]]
name = "T squared is forgotten"
old = 'weight * temperature**2 * F.kl_div'
new = 'weight * F.kl_div'

[[file.mutant]]
name = "a harmless change"
old = 'weight * temperature**2 * F.kl_div'
new = 'temperature**2 * weight * F.kl_div'
"""


def test_one_that_is_found_dies_and_one_that_is_harmless_lives_and_fails_the_gate(tmp_path):
    (tmp_path / "list.toml").write_text(PLANTED)
    words = ["-m", "tests.mutants", "--list", str(tmp_path / "list.toml"), "--jobs", "1"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=600)
    none, found, harmless, *wrong, total = done.stdout.splitlines()
    assert done.returncode == 1, done.stdout + done.stderr
    assert none.split()[0] == "passed" and "(none)" in none
    assert found.split()[0] == "killed" and "golden/test_kd.py::" in found
    assert harmless.split()[0] == "survived"
    assert wrong == [
        "methods/distillers/kd.py: a harmless change: it survived; write a test, or the reason",
        "1 of 2 die; 95 % have to",
    ]
    assert total.startswith("1 of 2 mutants died;")
