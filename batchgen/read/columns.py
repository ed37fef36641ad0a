"""The carried columns: input columns in the output, without the loss of a value.

JSONL has no schema, while all parts of an output must have one. Types come from the first rows when the output is made
(`infer_types`) and are frozen in it; a later value that does not fit, or a column not seen then, is carried as JSON text
in `input_extra`. An output keeps the carried columns as an Arrow schema with notes in the fields' metadata."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from batchgen.errors import InputError, JobError
from batchgen.job.job import Job
from batchgen.jsontext import dumps
from batchgen.read.formats import Found, format_of
from batchgen.read.layouts import JobLayout
from batchgen.records import Data, carried_name

HEAD_ROWS, HEAD_SHARDS = 10_000, 16  # per shard, and about how many shards, are read to find the columns
BYTES_PER_ROW = 256.0  # assumed where there is no row to measure
_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


@dataclass(frozen=True)
class InputColumns:
    """`kept`, the carried columns under their output names; `bytes_per_row` of JSON text."""

    kept: pa.Schema
    bytes_per_row: float


def look(job: Job, found: list[Found]) -> InputColumns:
    """Read the heads of some shards. Raises InputError, and JobError for a column that the job names and the input lacks."""
    spec = job.input
    step = max(1, len(found) // HEAD_SHARDS)
    heads = [format_of(spec, shard).head(spec, shard.name, HEAD_ROWS) for shard in found[::step]]
    schemas = [head for head in heads if isinstance(head, pa.Schema)]
    rows = [row for head in heads if isinstance(head, list) for row in head]
    types = _unified(schemas) if schemas else infer_types(rows)
    if types or schemas:
        _check_named(job, types)
    wanted = list(types) if spec.keep == "all" else spec.keep
    fields = [carried_field(name, types.get(name)) for name in wanted if not name == spec.id == "id"]
    if wanted and not schemas:
        fields.append(extra_field(spec.keep == "all", "id" if spec.id == "id" else None))
    kept = pa.schema(fields)
    if twice := next((name for name in kept.names if kept.names.count(name) > 1), None):
        raise InputError(f"two input columns would both be carried as {twice}", "leave one out with input.keep")
    weight = sum(len(dumps(row)) + 1 for row in rows) / len(rows) if rows else BYTES_PER_ROW
    return InputColumns(kept, weight)


def _unified(schemas: list[pa.Schema]) -> dict[str, pa.DataType | None]:
    try:
        whole = pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"the shards' columns differ in type: {error}", "write them with one schema") from None
    return {one.name: one.type.value_type if pa.types.is_dictionary(one.type) else one.type for one in whole}


def infer_types(rows: Iterable[Data]) -> dict[str, pa.DataType | None]:
    """Arrow types for the columns of JSONL rows, in order of appearance. Scalars and lists of scalars keep their type (int and
    float together are float64); None is for objects and values of several types, which are carried as JSON text."""
    kinds: defaultdict[str, set[type]] = defaultdict(set)
    items: defaultdict[str, set[type]] = defaultdict(set)
    for row in rows:
        for name, value in row.items():
            kinds[name].add(type(value))
            if isinstance(value, list):
                items[name].update(map(type, value))
    return {name: _one_type(kind, items[name]) for name, kind in kinds.items()}


def _one_type(kinds: set[type], items: set[type]) -> pa.DataType | None:
    found = kinds - {type(None)}
    if found == {list}:
        item = _one_type(items, set())
        return None if item is None else pa.list_(item)
    if found == {int, float}:
        return pa.float64()
    return _SCALARS.get(found.pop()) if len(found) == 1 else None


def _check_named(job: Job, names: Iterable[str]) -> None:
    """Raises JobError for a column that a field of the job names and the input lacks."""
    named = {"input.id": job.input.id} if job.input.id else {}
    named |= JobLayout(job).columns
    named |= {f"sampling.{field}": column for field, column in job.sampling_columns.items()}
    if job.attributes and isinstance(job.attributes.columns, dict):
        named |= {f"attributes.columns.{name}": column for name, column in job.attributes.columns.items()}
    if isinstance(job.input.keep, list):
        named |= {f"input.keep[{index}]": column for index, column in enumerate(job.input.keep)}
    for field, name in named.items():
        if name not in names:
            raise JobError(f"{field}: no column {name!r} in the input", f"its columns are {', '.join(sorted(names))}")


def carried_field(column: str, kind: pa.DataType | None) -> pa.Field:
    """An input column in the output. Notes: `column`, its name in the input; `json`, "1" where it is JSON text (`kind` None)."""
    notes = {"column": column} | ({"json": "1"} if kind is None else {})
    return pa.field(carried_name(column), pa.string() if kind is None else kind, metadata=notes)


def extra_field(unseen: bool, consumed: str | None) -> pa.Field:
    """`input_extra`, a row's values that do not fit. Notes: `open`, "1" where columns not seen when the output was made are put
    into it, else "0", and `consumed`, a column that the output has under another heading, or ""."""
    return pa.field("input_extra", pa.string(), metadata={"open": str(int(unseen)), "consumed": consumed or ""})


def _notes(field: pa.Field) -> dict[str, str]:
    return {key.decode(): str(value, errors="replace") for key, value in (field.metadata or {}).items()}


def _column(field: pa.Field) -> str:
    """The input's name of a carried column."""
    return str(_notes(field).get("column", field.name))


def conform(rows: list[Data], kept: pa.Schema) -> pa.Table:
    """The carried columns of JSONL rows as a table of schema `kept`."""
    misfits: list[Data] = [{} for _ in rows]
    columns = [field for field in kept if "open" not in _notes(field)]
    arrays = {field.name: _array(rows, field, misfits) for field in columns}
    for field in kept:
        if (notes := _notes(field)).get("open") == "1":
            known = {_column(one) for one in columns} | {notes["consumed"] or None}
            for row, misfit in zip(rows, misfits, strict=True):
                if not row.keys() <= known:
                    misfit.update({name: value for name, value in row.items() if name not in known})
        if field.name not in arrays:
            arrays[field.name] = pa.array([dumps(misfit) if misfit else None for misfit in misfits], field.type)
    return pa.table(arrays, schema=kept)


def _array(rows: list[Data], field: pa.Field, misfits: list[Data]) -> pa.Array:
    """A carried column of JSONL rows; what does not fit its type goes into the row's dict of `misfits` under the input's name."""
    column = _column(field)
    values = [row.get(column) for row in rows]
    if "json" in _notes(field):
        return pa.array([None if value is None else dumps(value) for value in values], field.type)
    for index, value in enumerate(values):
        if value is not None and not _fits(value, field.type):
            misfits[index][column], values[index] = value, None
    return pa.array(values, field.type)


def _fits(value: object, kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(item is None or _fits(item, kind.value_type) for item in value)
    if pa.types.is_floating(kind):
        return type(value) is float or (type(value) is int and abs(value) <= 2**53)
    if pa.types.is_integer(kind):
        return type(value) is int and -(2**63) <= value < 2**63
    return bool(_SCALARS.get(type(value)) == kind)


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
