"""Carried columns: how input columns stand in the output, and rows put into them without losing a value.

JSONL has no schema, while all parts of an output must have one. Types come from the first rows when the output is made
(`infer_types`) and are frozen in it; a later value that does not fit, or a column not seen then, is carried as JSON text
in `input_extra`. An output keeps the carried columns as an Arrow schema with notes in the fields' metadata.
"""

import json
from collections.abc import Iterable

import pyarrow as pa

from batchgen.errors import InputError
from batchgen.records import Data, carried_name

EXTRA = "input_extra"

_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def carried_field(column: str, kind: pa.DataType | None) -> pa.Field:
    """An input column in the output; None as its type carries the JSON text of its values. Notes: `column`, its name in the
    input, and `json`, "1" where it is JSON text."""
    notes = {"column": column} | ({"json": "1"} if kind is None else {})
    return pa.field(carried_name(column), pa.string() if kind is None else kind, metadata=notes)


def extra_field(unseen: bool, consumed: str | None) -> pa.Field:
    """`input_extra`, the object of a row's misfits. Notes: `open`, "1" where it has columns not seen when the output was made,
    else "0", and `consumed`, a column that the output has under another heading, or ""."""
    return pa.field(EXTRA, pa.string(), metadata={"open": str(int(unseen)), "consumed": consumed or ""})


def _note(field: pa.Field, key: str) -> str | None:
    value = (field.metadata or {}).get(key.encode())
    return None if value is None else str(value, errors="replace")


def _column(field: pa.Field) -> str:
    """The input's name of a carried column."""
    name = _note(field, "column")
    return field.name if name is None else name


def infer_types(rows: Iterable[Data]) -> dict[str, pa.DataType | None]:
    """Arrow types for the columns of JSONL rows, in order of appearance; None for a column that is carried as JSON text.

    Scalars and lists of scalars keep their type (int and float together are float64). Objects and values of several kinds
    are JSON text.
    """
    kinds: dict[str, set[type]] = {}
    inner: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set()).add(type(value))
            if isinstance(value, list):
                inner.setdefault(name, set()).update(map(type, value))
    types: dict[str, pa.DataType | None] = {}
    for name, kind in kinds.items():
        item = _one_type(inner[name]) if kind <= {list, type(None)} and name in inner else None
        types[name] = pa.list_(item) if item is not None else _one_type(kind)
    return types


def _one_type(kinds: set[type]) -> pa.DataType | None:
    found = kinds - {type(None)}
    if found == {int, float}:
        return pa.float64()
    return _SCALARS.get(found.pop()) if len(found) == 1 else None


def conform(rows: list[Data], kept: pa.Schema) -> pa.Table:
    """The carried columns of JSONL rows as a table of schema `kept`."""
    misfits: list[Data] = [{} for _ in rows]
    columns = [field for field in kept if _note(field, "open") is None]
    arrays = {field.name: _array(rows, field, misfits) for field in columns}
    for field in kept:
        if field.name not in arrays:
            if _note(field, "open") == "1":
                known = {_column(one) for one in columns} | {_note(field, "consumed") or None}
                for row, misfit in zip(rows, misfits, strict=True):
                    if not row.keys() <= known:
                        misfit.update({name: value for name, value in row.items() if name not in known})
            arrays[field.name] = pa.array([_dumps(misfit) if misfit else None for misfit in misfits], field.type)
    return pa.table(arrays, schema=kept)


def _array(rows: list[Data], field: pa.Field, misfits: list[Data]) -> pa.Array:
    """A carried column of JSONL rows; what does not fit its type goes into the row's dict of `misfits` under the input's name."""
    column = _column(field)
    values = [row.get(column) for row in rows]
    if _note(field, "json") is not None:
        return pa.array([None if value is None else _dumps(value) for value in values], field.type)
    for index, value in enumerate(values):
        if value is not None and not _fits(value, field.type):
            misfits[index][column], values[index] = value, None
    return pa.array(values, field.type)


def pick(shard: str, table: pa.Table, kept: pa.Schema) -> pa.Table:
    """The carried columns of a table of input; null where it lacks one. Raises InputError for a type that cannot be cast."""
    arrays = []
    for field in kept:
        column = _column(field)
        try:
            found = column in table.column_names
            arrays.append(table.column(column).cast(field.type) if found else pa.nulls(table.num_rows, field.type))
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
