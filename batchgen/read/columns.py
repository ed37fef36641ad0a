"""Carried columns: Arrow types for JSONL, and rows put into them without losing a value.

JSONL has no schema, parts must all have the same one. The types are inferred from the first rows when the output is
made (`infer_columns`) and frozen in it; a later value that does not fit, or a column not seen then, is carried as
JSON text in `input_extra`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

EXTRA = "input_extra"

_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def infer_columns(rows: Iterable[dict[str, Any]]) -> pa.Schema:
    """Arrow types for the columns of JSONL rows, in order of appearance.

    Scalars and lists of scalars keep their type (int and float together are float64); a column of objects
    or of several kinds is carried as JSON text, marked by the field metadata `json`.
    """
    kinds: dict[str, set[type]] = {}
    inner: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set())
            if value is None:
                continue
            kinds[name].add(type(value))
            if isinstance(value, list):
                inner.setdefault(name, set()).update(map(type, value))
    fields = []
    for name, kind in kinds.items():
        one = _one_type(kind)
        if kind == {list}:
            item = _one_type(inner[name] - {type(None)})
            one = pa.list_(item) if item is not None else None
        fields.append(pa.field(name, one) if one is not None else pa.field(name, pa.string(), metadata={"json": "1"}))
    return pa.schema(fields)


def _one_type(kinds: set[type]) -> pa.DataType | None:
    if kinds == {int, float}:
        return pa.float64()
    return _SCALARS.get(next(iter(kinds))) if len(kinds) == 1 else None


def extra_field(keep_all: bool, consumed: str | None) -> pa.Field:
    """The input_extra column: misfits of the carried columns and, if all columns are kept, columns not seen at first.

    `consumed` is a column that the output has under another heading.
    """
    return pa.field(EXTRA, pa.string(), metadata={"open": str(int(keep_all)), "consumed": consumed or ""})


def conform(rows: list[dict[str, Any]], kept: pa.Schema) -> pa.Table:
    """The carried columns of JSONL rows as a table of schema `kept`; what does not fit goes to input_extra."""
    by_column = {f.metadata[b"column"].decode(): f for f in kept if b"column" in (f.metadata or {})}
    extra: list[dict[str, Any]] = [{} for _ in rows]
    columns: dict[str, Any] = {}
    for name, field in by_column.items():
        values = [row.get(name) for row in rows]
        if b"json" in field.metadata:
            values = [None if v is None else _dumps(v) for v in values]
        else:
            for index, value in enumerate(values):
                if value is not None and not _fits(value, field.type):
                    extra[index][name], values[index] = value, None
        columns[field.name] = pa.array(values, field.type)
    if EXTRA in kept.names:
        about = kept.field(EXTRA).metadata
        if about[b"open"] == b"1":
            consumed = about[b"consumed"].decode()
            known = by_column.keys() | ({consumed} if consumed else set())
            for row, more in zip(rows, extra, strict=True):
                if not row.keys() <= known:
                    more.update({name: value for name, value in row.items() if name not in known})
        columns[EXTRA] = pa.array([_dumps(more) if more else None for more in extra], pa.string())
    return pa.table([columns[field.name] for field in kept], schema=kept)


def _fits(value: object, kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(item is None or _fits(item, kind.value_type) for item in value)
    if pa.types.is_floating(kind):
        return type(value) is float or (type(value) is int and abs(value) <= 2**53)
    if pa.types.is_integer(kind):
        return type(value) is int and -(2**63) <= value < 2**63
    return bool(_SCALARS.get(type(value)) == kind)


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
