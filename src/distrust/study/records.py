"""Records: what is written about a stage, with a checksum of its own; read again, it is validated, never trusted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import StoreError

Record = dict[str, Any]
Files = dict[str, bytes]

RECORD = "stage.json"
SUM = b',\n "sum": "'  # before a record's own checksum, which is its last entry
KEY = re.compile("[0-9a-f]{32}")


class Damaged(StoreError):
    """A stage that cannot be used as it lies in the store."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(key, why)  # both, so that it comes whole out of a worker process
        self.key, self.why = key, why

    def __str__(self) -> str:
        return f"stage {self.key} cannot be used: {self.why}. Run its study again, which makes it anew."


class _File(BaseModel):
    model_config = ConfigDict(strict=True)
    file: str = Field(pattern=r"^\w[^/\\]*$")
    sha256: str


class _Recipe(BaseModel):
    model_config = ConfigDict(strict=True)
    method: str
    options: dict[str, Any] = {}


class _Record(BaseModel):
    """What is relied on in a record; more may stand there."""

    model_config = ConfigDict(strict=True)
    state: Literal["done", "failed", "skipped"]
    kind: str
    label: str
    recipe: _Recipe
    parents: list[Annotated[str, Field(pattern=f"^{KEY.pattern}$")]]
    flags: list[str]
    seconds: float = Field(ge=0, allow_inf_nan=False)
    error: str = ""
    notes: dict[str, Any] = {}
    files: dict[Annotated[str, Field(pattern=r"^\w[^/\\]*$")], _File] = {}
    left_out: list[str] = []  # files that did not come along when it was exported


def signed(text: bytes) -> bytes:
    """A record with its own checksum as its last entry."""
    return text[:-2] + SUM + hashlib.sha256(text).hexdigest().encode() + b'"\n}'


def contents(key: str, named: Mapping[str, Mapping[str, str]], read: Callable[[str], bytes | None]) -> Files:
    """The files that a record names, each held against its checksum, if it has one.

    Args:
        key: of the stage.
        named: name → the file beside the record, and its sha256.
        read: gives such a file, None if there is none.

    Raises:
        Damaged: one is not there, or not what was written.
    """
    found = Files()
    for name, facts in named.items():
        data = read(facts["file"])
        if data is None:
            raise Damaged(key, f"{name} is gone")
        if "sha256" in facts and hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise Damaged(key, f"{name} is not what was written")
        found[name] = data
    return found


def opened(key: str, data: bytes) -> Record:
    """A record, validated; its checksum is left out.

    Raises:
        Damaged: it is not what was written, or that of another stage, or none.
    """
    try:
        record = json.loads(data)
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise Damaged(key, f"{RECORD} is no record ({where}: {first['msg'][:1].lower()}{first['msg'][1:]})") from None
    except (ValueError, RecursionError):
        raise Damaged(key, f"{RECORD} is no JSON") from None
    if not record.keys().isdisjoint(("key", "files", "sum")):  # an earlier version wrote none of them
        if data != signed(data.rpartition(SUM)[0] + b"\n}"):
            raise Damaged(key, f"{RECORD} is not what was written")
        if record.get("key") != key:
            raise Damaged(key, f"{RECORD} is that of stage {record.get('key')}")
        del record["sum"]
    return record
