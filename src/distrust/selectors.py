"""Selectors: `nad[beta=0,lr=tune(0.1,0.01)]`, the same words in study files and on the command line; read, checked."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pydantic import ConfigDict, ValidationError, create_model

from .errors import BadInput, NotFound


@dataclass(frozen=True)
class Tune:
    """Candidates of which the study picks one on clean validation images."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Selector:
    """A name with options, e.g. `badnets[rate=0.1]`; `text` writes it in the normal form.

    A path in the name that holds one of `[>:` is in double quotes, as in `"data[v1]"`; `divided` takes them off.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def text(self) -> str:
        """The normal form; parses back to an equal selector."""
        if not self.options:
            return self.name
        return f"{self.name}[{','.join(f'{k}={_write(v)}' for k, v in self.options.items())}]"

    @property
    def tuned(self) -> dict[str, tuple[Any, ...]]:
        """Options to be chosen on validation images, with their candidates."""
        return {k: v.values for k, v in self.options.items() if isinstance(v, Tune)}

    def fixed(self, **chosen: Any) -> Selector:
        """The same selector with some options set."""
        return Selector(self.name, {**self.options, **chosen})

    def without(self, *names: str) -> Selector:
        """The same selector with some options left out."""
        return Selector(self.name, {name: value for name, value in self.options.items() if name not in names})


def parse(text: str) -> list[Selector]:
    """Read a selector; a list `rate=[0.01,0.1]` is an axis and gives one selector for each value.

    A tuple value is written as a list in a list: `beta=[[500,1000,1000]]`, a path with a bracket in quotes: `"a[1]"`.

    Raises:
        BadInput: the text is not a selector; says where.
    """
    reader = _Reader(text)
    name, options = reader.selector()
    axes = [value if isinstance(value, list) else [value] for value in options.values()]
    return [Selector(name, dict(zip(options, values, strict=True))) for values in itertools.product(*axes)]


def parse_one(text: str) -> Selector:
    """Read a selector that must not hold an axis.

    Raises:
        BadInput: as `parse`, or the text stands for several selectors.
    """
    found = parse(text)
    if len(found) != 1:
        raise BadInput(f"{text!r} stands for {len(found)} selectors; one is wanted here. Give each option one value.")
    return found[0]


_QUOTED = r'"[^"]*"'  # as it stands: a path may hold backslashes


def divided(name: str, sign: str = "") -> list[str]:
    """Parts of a name between signs that stand outside quotes, without the quotes: `"a>b">c` is `a>b` and `c`."""
    parts = [""]
    for piece in re.findall(f"{_QUOTED}|.", name, re.DOTALL):
        if piece == sign:
            parts.append("")
        else:
            parts[-1] += piece.strip('"') if len(piece) > 1 else piece
    return [part.strip() for part in parts]


class _Reader:
    """A recursive reader of `name[option=value,…]`."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def selector(self) -> tuple[str, dict[str, Any]]:
        name = self._read(rf'(?:{_QUOTED}|[^\["])*').strip()
        options: dict[str, Any] = {}
        if not name:
            self._fail("a name")
        if self.text.startswith('"', self.at):
            self._fail('a closing "')
        if self._take("["):
            for key in self._series("]", self._key):
                if key in options:
                    raise BadInput(f"selector {self.text!r}: option {key!r} is given twice.")
                options[key] = self._value()
            self._read(" *")
        if self.at != len(self.text):
            self._fail("the end")
        return name, options

    def _key(self) -> str:
        key = self._read(r"[^=,\]]*").strip()
        return key if key and self._take("=") else self._fail("option=value")

    def _value(self) -> Any:
        if self._take("["):
            return self._values("]")
        if self._take("tune("):
            return Tune(tuple(self._values(")")))
        if self.text.startswith('"', self.at):
            try:
                value, self.at = json.JSONDecoder().raw_decode(self.text, self.at)
                return value
            except json.JSONDecodeError:
                self._fail('a closing "')
        word = _bare(self.text[self.at :])
        self.at += len(word)
        return _plain(word.strip()) if word.strip() else self._fail("a value")

    def _values(self, end: str) -> list[Any]:
        return list(self._series(end, self._value)) or self._fail("at least one value")

    def _series(self, end: str, one: Callable[[], Any]) -> Iterator[Any]:
        """What `one` reads, again and again, with commas in between; whoever takes it may read on behind it."""
        while not self._take(end):
            yield one()
            if not self._take(",") and not self.text.startswith(end, self.at):
                self._fail(f"',' or {end!r}")

    def _take(self, sign: str) -> bool:
        """Read `sign`, and spaces before it, if it comes next."""
        self._read(" *")
        return bool(self._read(re.escape(sign)))

    def _read(self, pattern: str) -> str:
        found = re.compile(pattern).match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found[0] if found else ""

    def _fail(self, wanted: str) -> NoReturn:
        at = self.text.rfind(":", 0, max(self.text.find("["), 0)) + 1  # of `blend:FILE`
        path = f' A path with a bracket stands in quotes: {self.text[:at]}"{self.text[at:]}".'
        path = path if wanted in ("option=value", "the end") else ""
        raise BadInput(
            f"selector {self.text!r}: expected {wanted} at character {self.at + 1}. "
            f"Write name or name[option=value,option=value].{path}"
        )


def _bare(text: str) -> str:
    """The beginning of `text` that is one bare value: up to a comma or a bracket that closes none of its own."""
    depth = 0
    for at, sign in enumerate(text):
        if depth == 0 and sign in ",])":
            return text[:at]
        depth += (sign in "[(") - (sign in "])")
    return text


def _plain(word: str) -> Any:
    """A bare word: a JSON number, true, false or null, else text."""
    try:
        value = json.loads(word)
    except json.JSONDecodeError:
        return word
    return value if isinstance(value, int | float | bool | None) else word


def _write(value: Any) -> str:
    if isinstance(value, Tune):
        return f"tune({','.join(map(_inner, value.values))})"
    if isinstance(value, list | tuple):
        return f"[{_inner(value)}]"  # the outer brackets keep a tuple from being read as an axis
    if isinstance(value, str):
        alone = value.strip() and _bare(f"{value},") == value  # a bracket that stays open would take the comma in
        bare = alone and _plain(value) == value == value.strip() and not value.startswith(("[", '"', "tune("))
        return value if bare else json.dumps(value)
    return json.dumps(value)


def _inner(value: Any) -> str:
    return f"[{','.join(map(_inner, value))}]" if isinstance(value, list | tuple) else _write(value)


def lowered(message: str) -> str:
    """A sentence that goes on behind a colon."""
    return message[:1].lower() + message[1:]


def schema(name: str, options: Mapping[str, inspect.Parameter]) -> Any:
    """What `checked` holds values against: options with their defaults and, as annotations, types and bounds."""
    fields: dict[str, Any] = {k: (p.annotation, ... if p.default is p.empty else p.default) for k, p in options.items()}
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=False)
    return create_model(name, __config__=config, **fields)


def checked(schema: Any, given: Mapping[str, Any], hint: str, prefix: str = "") -> dict[str, Any]:
    """Every option of a schema with its value, given or default, in the type that its annotation names.

    Args:
        schema: made by `schema`.
        given: name → value.
        hint: last sentence of a message about a value.
        prefix: its first words.

    Raises:
        NotFound: an option that there is not.
        BadInput: a value of the wrong type or out of bounds.
    """
    for name in given:
        if name not in schema.model_fields:
            raise NotFound.among(f"option of {schema.__name__}", name, schema.model_fields)
    try:
        found = schema(**given)
    except ValidationError as error:
        first = max(error.errors(), key=lambda e: len(e["loc"]))  # of a union, the best branch
        name = str(first["loc"][0])
        raise BadInput(f"{prefix}{name}={given.get(name)!r}: {lowered(first['msg'])}. {hint}") from None
    return {name: getattr(found, name) for name in schema.model_fields}
