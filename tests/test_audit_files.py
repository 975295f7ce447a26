"""What an audit writes for machines: SARIF and an ML-BOM, each held to its schema as published."""

import hashlib
import json
from pathlib import Path

import jsonschema
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from distrust import Shelf
from distrust.auditing.audit import Audit
from distrust.auditing.shelf import Compared, Look
from distrust.measurement import Finding, Measurement

# OASIS' sarif-schema-2.1.0.json, without its sentences: github.com/oasis-tcs/sarif-spec, sarif-2.1/schema
SARIF = json.loads((Path(__file__).parent / "sarif-2.1.0.json").read_text())

CLEAN = tuple(Look({"one": float(i)}, seed=i) for i in range(40))
SHELF = Shelf("test", (*CLEAN, Look({"one": 99.0}, attack="badnets[rate=0.1]")), {"panel": ["one"]})
MEASURED = Measurement({"acc": 0.9, "acc_interval": (0.85, 0.94)}, ())
EFFECT = Measurement({"asr": 1.0, "asr_interval": (0.97, 1.0), "base": 0.25}, ())


def made(verdict="suspicious", kind="classifier", source="teacher.pt"):
    finding = Finding("one", 2.0, (0.0, 2.0), 1)
    effect = EFFECT if verdict == "backdoored" else None
    compared = None if verdict == "inconclusive" else Compared(1, 40, "one", "clean models of test")
    return Audit(
        verdict, "1 of 40 stands out <as> far.", source, kind, (finding,), compared, SHELF,
        MEASURED if kind == "classifier" else None, None, effect, {"two": "no time"},
    )  # fmt: skip


CASES = [
    ("clean-looking", "classifier", "pass", "none", "AML.T0018"),
    ("suspicious", "encoder", "fail", "warning", "AML.T0018"),
    ("backdoored", "classifier", "fail", "error", "AML.T0020"),
    ("inconclusive", "synthetic", "open", "none", "AML.T0020"),
]


@pytest.mark.parametrize(("verdict", "kind", "sort", "level", "technique"), CASES)
def test_sarif_says_what_the_audit_says(verdict, kind, sort, level, technique):
    said = made(verdict, kind)
    written = json.loads(json.dumps(said.sarif(), allow_nan=False))
    jsonschema.Draft4Validator(SARIF).validate(written)
    [run] = written["runs"]
    [result], [rule] = run["results"], run["tool"]["driver"]["rules"]
    assert (result["kind"], result["level"], result["ruleId"]) == (sort, level, rule["id"])
    assert f"external/mitre-atlas/{technique}" in rule["properties"]["tags"]
    assert result["message"]["text"] == f"{verdict}: {said.why}"


@pytest.mark.parametrize("spoil", [{"level": "fatal"}, {"kind": "guilty"}, {"verdict": 1}, {"message": {}}])
def test_its_schema_refuses_what_is_none(spoil):
    written = made().sarif()
    written["runs"][0]["results"][0] |= spoil
    assert not jsonschema.Draft4Validator(SARIF).is_valid(json.loads(json.dumps(written)))


@pytest.mark.parametrize("case", CASES)
def test_the_bom_has_the_digest_the_numbers_with_intervals_and_the_verdict(case, tmp_path):
    verdict, kind = case[:2]
    (tmp_path / "teacher.pt").write_bytes(b"weights")
    said = made(verdict, kind, str(tmp_path / "teacher.pt"))
    text = json.dumps(said.bom(), allow_nan=False)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    [part] = json.loads(text)["components"]
    assert part["hashes"][0]["content"] == hashlib.sha256(b"weights").hexdigest()
    assert part["type"] == ("data" if kind == "synthetic" else "machine-learning-model")
    told = {fact["name"].removeprefix("distrust:"): fact["value"] for fact in part["properties"]}
    assert told["verdict"] == verdict and told["why"] == said.why and told["shelf"] == "test"
    assert told["rates:badnets"] == "1 of 1 called suspicious" and ("p" in told) == (verdict != "inconclusive")
    metrics = part.get("modelCard", {"quantitativeAnalysis": {"performanceMetrics": []}})["quantitativeAnalysis"]
    rows = {row["type"]: row for row in metrics["performanceMetrics"]}
    assert len(rows) == {"backdoored": 3, "clean-looking": 1}.get(verdict, 0)
    if rows:
        assert rows["accuracy"]["value"] == "0.9000"
        assert rows["accuracy"]["confidenceInterval"] == {"lowerBound": "0.8500", "upperBound": "0.9400"}
    if verdict == "backdoored":
        assert "confidenceInterval" not in rows["attack success rate of a fine-tuned copy"]


def test_the_schema_of_a_bom_refuses_what_is_none():
    spoilt = made().bom()
    spoilt["components"][0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] = 0.9
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(spoilt)) is not None
    assert "hashes" not in made(source="nowhere.pt").bom()["components"][0]
