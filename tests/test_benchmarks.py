"""Every benchmark runs, tiny: what it says about speed means nothing here."""

import json
import math

import pytest
import torch
from benchmarks.__main__ import ASIDE, USUAL, measure
from benchmarks.measure import Scale

TINY = Scale("tiny")


@pytest.mark.parametrize("name", [*USUAL, *ASIDE])
def test_every_benchmark_gives_rows_and_writes_them(name, tmp_path):
    before = torch.get_rng_state()
    found = measure(name, TINY, tmp_path)
    assert "error" not in found
    assert found["rows"]
    assert torch.equal(torch.get_rng_state(), before) or name
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written["what"].endswith("?") or written["what"].endswith(".")
    for row in written["rows"]:
        assert row["what"] and row["ours"] and math.isfinite(row["median"]) and row["median"] > 0
        assert row["range"][0] <= row["median"] <= row["range"][1]
        assert row["rounds"] == 1
