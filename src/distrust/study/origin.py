"""Origin: where the options come from that a study does not vary, and which were chosen by its own test numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from ..selectors import parse

TEST = re.compile(r"test: [\w-]+, seeds? (\d+)(?:-(\d+))?")
KNOWN = re.compile(rf"(paper|code|setting|validation)(: \S.*)?|(ours|elsewhere): \S.*|{TEST.pattern}")


def _flat(origin: Any) -> Any:
    """`kd.weight = …` is a table in a table in TOML, and `"kd.weight" = …` is none."""
    found: dict[str, Any] = {}
    for name, value in origin.items() if isinstance(origin, dict) else ():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return found if isinstance(origin, dict) else origin


def _known(text: str) -> str:
    if not KNOWN.fullmatch(text):
        raise PydanticCustomError(
            "origin",
            "say where the value comes from: paper, code, setting or validation, with ': …' or without; 'ours: WHY'; "
            "'elsewhere: STUDY', of other images or seeds; or 'test: STUDY, seeds 0-2'",
        )
    return text


Origin = Annotated[dict[str, Annotated[str, AfterValidator(_known)]], BeforeValidator(_flat)]


def given(entries: Iterable[str]) -> dict[str, set[str]]:
    """METHOD.OPTION → the values that entries of axes give it; with one value, it is fixed, and has an origin."""
    found: dict[str, set[str]] = {}
    for selector in (one for entry in entries for one in parse(entry)):
        for option, value in selector.options.items():
            found.setdefault(f"{selector.name}.{option}", set()).add(str(value))
    return found


def chosen_on_test(origin: Mapping[str, str], entries: Iterable[str], seed: int) -> bool:
    """Whether what stands on the axes has an option that was chosen by the test numbers of this seed."""
    tests = {name: found for name, text in origin.items() if (found := TEST.fullmatch(text))}
    used = given(entries) if tests else {}
    return any(int(tests[name][1]) <= seed <= int(tests[name][2] or tests[name][1]) for name in tests.keys() & used)
