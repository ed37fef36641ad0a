"""Answer -> typed columns: `parse` of a job.

An answer is a JSON object (alone, or in a Markdown code block), or text in which a regular expression finds named groups. The
columns have JSON Schema's type names; a null, or a group that took no part in the match, stays null.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import orjson
import pyarrow as pa
from pydantic import Field, model_validator

from batchgen.errors import BadRow
from batchgen.job.fields import Spec

Kind = Literal["string", "integer", "number", "boolean", "json"]
_TYPES: dict[Kind, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "json": pa.string(),
}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_BLOCK = re.compile(r"\s*```(?:json)?[ \t]*\n(.*)\n[ \t]*```\s*", re.DOTALL | re.IGNORECASE)


class Parse(Spec):
    regex: str | None = Field(
        None, description="Regular expression whose named groups are the columns. null: the answer is a JSON object."
    )
    columns: dict[str, Kind] = Field(
        {},
        description="Column types: string (default of a group), integer, number, boolean, json (any value, as text).",
    )

    @model_validator(mode="after")
    def _complete(self) -> Parse:
        if self.regex is None:
            if not self.columns:
                raise ValueError("name the columns that the answer's JSON object has")
            return self
        try:
            groups = set(re.compile(self.regex).groupindex)
        except re.error as error:
            raise ValueError(f"regex: {error}") from None
        if not groups:
            raise ValueError("regex: it has no named groups, (?P<name>...)")
        if unknown := self.columns.keys() - groups:
            raise ValueError(f"columns.{min(unknown)}: no group of that name in the regex")
        return self

    @property
    def kinds(self) -> dict[str, Kind]:
        """All columns, in order."""
        if self.regex is None:
            return dict(self.columns)
        return {name: self.columns.get(name, "string") for name in re.compile(self.regex).groupindex}

    @property
    def type(self) -> pa.DataType:
        """Of the output's `parsed` column."""
        return pa.struct([(name, _TYPES[kind]) for name, kind in self.kinds.items()])


class Parser:
    def __init__(self, spec: Parse) -> None:
        self._kinds = spec.kinds
        self._regex = None if spec.regex is None else re.compile(spec.regex)

    def parse(self, answer: str) -> dict[str, Any]:
        """The columns of an answer. Raises BadRow (parse)."""
        found = _object(answer) if self._regex is None else _groups(self._regex, answer)
        columns = {}
        for name, kind in self._kinds.items():
            if name not in found:
                raise BadRow("parse", f"the answer's JSON has no {name}")
            value = found[name]
            try:
                read = _from_text(value, kind) if self._regex is not None and value is not None else value
                columns[name] = None if read is None else _typed(read, kind)
            except ValueError:
                raise BadRow("parse", f"{name}: {_shown(value)} is no {kind}") from None
        return columns


def _object(answer: str) -> dict[str, Any]:
    block = _BLOCK.fullmatch(answer)
    try:
        value = orjson.loads(block[1] if block else answer)
    except ValueError as error:
        raise BadRow("parse", f"the answer is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRow("parse", f"the answer is no JSON object but {_shown(value)}")
    return value


def _groups(regex: re.Pattern[str], answer: str) -> dict[str, str | None]:
    match = regex.search(answer)
    if match is None:
        raise BadRow("parse", "the regex matches nowhere in the answer")
    return match.groupdict()


def _typed(value: object, kind: Kind) -> object:
    """The value as Arrow takes it. Raises ValueError for a value of another type."""
    if kind == "json":
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "boolean" and isinstance(value, bool):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if kind == "number":
            return float(value)
        if kind == "integer" and value == int(value) and -(2**63) <= value < 2**63:
            return int(value)
    raise ValueError


def _from_text(text: str, kind: Kind) -> object:
    """What a group's text says: `3`, `3.0` and `True` as models write them. Raises ValueError."""
    if kind == "string":
        return text
    if kind == "boolean":
        return orjson.loads(text.lower())
    if kind == "json":
        return orjson.loads(text)
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
