"""The committed cells belong to the committed studies: a change of what is computed cannot pass unnoticed."""

import json
from pathlib import Path

import pytest

from distrust.study import make_plan, read_study
from distrust.study.origin import chosen_on_test
from distrust.study.protocol import breaches

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(folder for folder in (ROOT / "results").iterdir() if folder.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_cells_have_the_keys_that_their_study_plans(folder):
    cells = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    assert cells
    for budget in {cell["budget"] for cell in cells}:
        plan = make_plan(read_study(ROOT / "studies" / f"{folder.name}.toml", budget=budget))
        planned = {cell.id: cell.keys for cell in plan.cells}
        wrong = [c["id"] for c in cells if c["budget"] == budget and planned.get(c["id"]) != c["keys"]]
        assert not wrong, "made by another version of a method, the core or the study; run them again"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_cells_have_the_flags_that_their_plan_tells(folder):
    cells = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    told: dict[tuple[str, str], set[str]] = {}
    for budget in {cell["budget"] for cell in cells}:
        study = read_study(ROOT / "studies" / f"{folder.name}.toml", budget=budget)
        cells_planned = make_plan(study).cells
        off = breaches(study, cells_planned)
        for planned in cells_planned:
            flags = {"one-seed": planned.repeated == 1, "off-protocol": planned.id in off}
            flags["chosen-on-test"] = chosen_on_test(study.origin, planned.axes.values(), planned.seed)
            told[budget, planned.id] = {name for name, raised in flags.items() if raised}
    for cell in cells:
        assert {*cell["flags"]} & {"one-seed", "chosen-on-test", "off-protocol"} == told[cell["budget"], cell["id"]], (
            cell["id"]
        )
