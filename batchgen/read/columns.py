"""Carried columns: how input columns stand in the output, and rows put into them without losing a value.

JSONL has no schema, while all parts of an output must have one. Types come from the first rows when the output is made
(`infer_types`) and are frozen in it; a later value that does not fit, or a column not seen then, is carried as JSON text
in `input_extra`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from batchgen.errors import InputError

EXTRA = "input_extra"
Values = Mapping[str, object]
"""The values of a row by column."""

_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


@dataclass(frozen=True)
class Carried:
    """An input column in the output, where it is called `name`. With `is_json` it is carried as the JSON text of its values."""

    name: str
    column: str
    type: pa.DataType
    is_json: bool = False

    def array(self, rows: Sequence[Values], misfits: list[dict[str, object]]) -> pa.Array:
        """The column of JSONL rows; what does not fit its type goes into the row's dict of `misfits` under the input's name."""
        values = [row.get(self.column) for row in rows]
        if self.is_json:
            return pa.array([None if value is None else _dumps(value) for value in values], self.type)
        for index, value in enumerate(values):
            if value is not None and not _fits(value, self.type):
                misfits[index][self.column], values[index] = value, None
        return pa.array(values, self.type)


@dataclass(frozen=True)
class CarriedColumns:
    """The carried columns, and with `extra` the column `input_extra` of JSONL: an object of misfits, and with `unseen` of columns
    not seen when the output was made. `consumed` is a column that the output has under another heading.

    Outputs keep them as an Arrow schema with notes in the fields' metadata: `column`, `json` ("1" where it is JSON text), and of
    input_extra `open` ("1" or "0", `unseen`) and `consumed` (or "").
    """

    columns: tuple[Carried, ...]
    extra: bool = False
    unseen: bool = False
    consumed: str | None = None

    @classmethod
    def of(cls, schema: pa.Schema) -> CarriedColumns:
        notes = {f.name: {k.decode(): v.decode(errors="replace") for k, v in (f.metadata or {}).items()} for f in schema}
        more = notes[EXTRA] if "open" in notes.get(EXTRA, {}) else None
        columns = tuple(
            Carried(field.name, notes[field.name].get("column", field.name), field.type, "json" in notes[field.name])
            for field in schema
            if field.name != EXTRA or more is None
        )
        return cls(columns) if more is None else cls(columns, True, more["open"] == "1", more["consumed"] or None)

    @property
    def schema(self) -> pa.Schema:
        fields = [
            pa.field(one.name, one.type, metadata={"column": one.column} | ({"json": "1"} if one.is_json else {}))
            for one in self.columns
        ]
        if self.extra:
            notes = {"open": str(int(self.unseen)), "consumed": self.consumed or ""}
            fields.append(pa.field(EXTRA, pa.string(), metadata=notes))
        return pa.schema(fields)


def infer_types(rows: Iterable[Values]) -> dict[str, pa.DataType | None]:
    """Arrow types for the columns of JSONL rows, in order of appearance; None for a column that is carried as JSON text.

    Scalars and lists of scalars keep their type (int and float together are float64). Objects and values of several kinds
    are JSON text.
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
    types: dict[str, pa.DataType | None] = {}
    for name, kind in kinds.items():
        item = _one_type(inner[name] - {type(None)}) if kind == {list} else None
        types[name] = pa.list_(item) if item is not None else _one_type(kind)
    return types


def _one_type(kinds: set[type]) -> pa.DataType | None:
    if kinds == {int, float}:
        return pa.float64()
    return _SCALARS.get(next(iter(kinds))) if len(kinds) == 1 else None


def conform(rows: Sequence[Values], kept: pa.Schema) -> pa.Table:
    """The carried columns of JSONL rows as a table of schema `kept`."""
    carried = CarriedColumns.of(kept)
    extra: list[dict[str, object]] = [{} for _ in rows]
    arrays = {one.name: one.array(rows, extra) for one in carried.columns}
    if carried.extra:
        known = {one.column for one in carried.columns} | {carried.consumed}
        for row, more in zip(rows, extra, strict=True):
            if carried.unseen and not row.keys() <= known:
                more.update({name: value for name, value in row.items() if name not in known})
        arrays[EXTRA] = pa.array([_dumps(more) if more else None for more in extra], pa.string())
    return pa.table([arrays[name] for name in kept.names], schema=kept)


def pick(shard: str, table: pa.Table, kept: pa.Schema) -> pa.Table:
    """The carried columns of a table of input; null where it lacks one. Raises InputError for a type that cannot be cast."""
    columns = {one.name: one.column for one in CarriedColumns.of(kept).columns}
    arrays = []
    for field in kept:
        column = columns.get(field.name)
        if column not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            arrays.append(table.column(column).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"shard {shard}: column {column}: {error}") from None
    return pa.table(arrays, schema=kept)


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
