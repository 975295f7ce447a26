"""SARIF: an audit as code scanners write findings, for whatever gathers them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__

if TYPE_CHECKING:
    from .audit import Audit

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
RULES = {  # by kind: the rule, what it says, and MITRE ATLAS' techniques
    "classifier": ("distrust/backdoored-model", "A model answers to a trigger.", ("AML.T0018", "AML.T0020")),
    "encoder": ("distrust/backdoored-encoder", "An encoder answers to a trigger.", ("AML.T0018",)),
    "synthetic": ("distrust/poisoned-set", "A synthetic set teaches a trigger.", ("AML.T0020",)),
}
LEVELS = {"backdoored": "error", "suspicious": "warning"}  # of a finding; the standard asks for none of all else


def as_sarif(audit: Audit) -> dict[str, Any]:
    """An audit as one run of SARIF 2.1.0, with one result; JSON-able.

    A result of kind `fail` is a finding, `pass` a suspect that looks clean, `open` one that could not be judged.
    """
    rule, text, techniques = RULES[audit.kind]
    kind = {0: "pass", 1: "fail", 3: "open"}[audit.code]
    result: dict[str, Any] = {
        "ruleId": rule,
        "ruleIndex": 0,
        "kind": kind,
        "level": LEVELS.get(audit.verdict, "none"),
        "message": {"text": f"{audit.verdict}: {audit.why}"},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": Path(audit.source).as_posix()}}}],
        "properties": audit.record(),
    }
    driver = {
        "name": "Distrust",
        "semanticVersion": __version__,
        "rules": [
            {
                "id": rule,
                "shortDescription": {"text": text},
                "properties": {"tags": ["security", *(f"external/mitre-atlas/{name}" for name in techniques)]},
            }
        ],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": [result]}]}
