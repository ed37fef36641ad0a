"""The `parse` field of a job: the typed columns that are read from an answer (tasks/parse.py). Their types have JSON Schema's
names."""

from __future__ import annotations

import re
from typing import Literal

import pyarrow as pa
from pydantic import Field, model_validator

from batchgen.job.fields import Spec

Kind = Literal["string", "integer", "number", "boolean", "json"]
_TYPES: dict[Kind, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "json": pa.string(),
}


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
