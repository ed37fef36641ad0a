"""The carried columns: input columns in the output, without the loss of a value.

JSONL has no schema, while all parts of an output must have one. Types come from the first rows when the output is made
(`infer_types`) and are frozen in it; a later value that does not fit, or a column not seen then, is carried as JSON text
in `input_extra`. An output keeps the carried columns as an Arrow schema with notes in the fields' metadata."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from batchgen.errors import InputError, JobError
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.jsontext import dumps, loads
from batchgen.read import schemas as schemas_of
from batchgen.read.formats import Found, Head, format_of
from batchgen.read.layouts import JobLayout
from batchgen.read.schemas import carried_name, carried_names
from batchgen.records import CALL_KEYS, CALLS, Data

HEAD_ROWS, HEAD_SHARDS = 10_000, 16  # per shard, and about how many shards, are read to find the columns
HEAD_BYTES = 2**28  # of text of all of them, none of which is held
MOST_COLUMNS = 10_000  # of JSONL get a type; a row's other ones go into `input_extra`
ODD = 0.01  # of the values of a column have another type than the others and go into `input_extra`
BYTES_PER_ROW = 256.0  # assumed where there is no row to measure
_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


@dataclass(frozen=True)
class InputColumns:
    """`kept`, the carried columns under their output names; `bytes_per_row` of JSON text; `schemas` of the shards of a table
    format, by name."""

    kept: pa.Schema
    bytes_per_row: float
    schemas: Mapping[str, pa.Schema] = dataclasses.field(default_factory=dict)

    def refuse_unfit(self, spec: Input, kept: pa.Schema) -> None:
        """Raises InputError for a shard with a column that the `kept` ones of an output cannot carry without loss."""
        known = {_column(one) for one in kept} | ({"id"} if spec.id == "id" else set())
        for shard, schema in self.schemas.items():
            for one in schema:
                is_new = spec.keep == "all" and one.name not in known and input_columns(kept) is not None
                if (unfit := "it is not a column of this output" if is_new else _unfit(one, kept)) is not None:
                    remedy = "write the shards with one type, leave it out with input.keep, or choose another output.path"
                    raise InputError(f"shard {shard}: column {one.name}: {unfit}", remedy)


def look(job: Job, found: list[Found]) -> InputColumns:
    """Read the heads of some shards. Raises InputError, and JobError for a column that the job names and the input lacks."""
    spec = job.input

    def head(shard: Found) -> Head:
        return format_of(spec, shard).head(spec, shard.name, HEAD_ROWS)

    schemas: dict[str, pa.Schema] = {}
    seen = _Seen(spec.messages)
    if isinstance(head(found[0]), pa.Schema):
        with ThreadPoolExecutor(8) as pool:
            schemas = {
                shard.name: one for shard, one in zip(found, pool.map(head, found), strict=True) if isinstance(one, pa.Schema)
            }
    types: dict[str, pa.DataType | None]
    types, misfits = {**(chosen := schemas_of.common(schemas.values()))[0]}, chosen[1]
    if not schemas:
        some = found[:: max(1, len(found) // HEAD_SHARDS)]
        types, misfits = infer_types(row for one in map(head, some) for row in seen.rows_of(one, HEAD_BYTES // len(some))), True
    if types or schemas:
        _check_named(job, types)
    wanted = list(types) if spec.keep == "all" else spec.keep
    carried = [name for name in wanted if not name == spec.id == "id"]
    fields = [carried_field(name, types.get(name), output) for name, output in carried_names(carried).items()]
    if wanted and misfits:
        fields.append(extra_field(spec.keep == "all", "id" if spec.id == "id" else None))
    calls = spec.messages is not None and (seen.calls or _call_fields(schemas.values(), spec.messages))
    kept = pa.schema(fields, CALLS if calls else None)
    return InputColumns(kept, seen.bytes / seen.rows if seen.rows else BYTES_PER_ROW, schemas)


@dataclass
class _Seen:
    """What is known of the rows of some heads once they have gone by: how many, the bytes of their text, and whether there were
    calls of tools in the column `messages`."""

    messages: str | None
    rows: int = 0
    bytes: int = 0
    calls: bool = False

    def rows_of(self, head: Head, most: int) -> Iterator[Data]:
        """The rows of a head, up to one with which they have over `most` bytes."""
        upto = self.bytes + most
        for row, size in head if not isinstance(head, pa.Schema) else ():
            self.rows, self.bytes = self.rows + 1, self.bytes + size
            self.calls = self.calls or (self.messages is not None and _any_calls(row.get(self.messages)))
            yield row
            if self.bytes > upto:
                return


def _any_calls(messages: object) -> bool:
    found = messages if isinstance(messages, list) else []
    return any(message.get(key) for message in found if isinstance(message, dict) for key in CALL_KEYS)


def _call_fields(schemas: Iterable[pa.Schema], column: str) -> bool:
    kinds = (schema.field(column).type for schema in schemas if schema.names.count(column) == 1)
    inner = (getattr(kind, "value_type", None) for kind in kinds)
    return any(field.name in CALL_KEYS for kind in inner if kind is not None and pa.types.is_struct(kind) for field in kind)


def infer_types(rows: Iterable[Data]) -> dict[str, pa.DataType | None]:
    """Arrow types for the columns of JSONL rows, in order of appearance. Scalars and lists of scalars keep their type (int and
    float together are float64); None is for objects and values of several types, which are carried as JSON text. A few odd
    values (ODD) do not count."""
    kinds: defaultdict[str, Counter[type]] = defaultdict(Counter)
    items: defaultdict[str, Counter[type]] = defaultdict(Counter)
    for row in rows:
        for name, value in row.items():
            if name not in kinds and len(kinds) >= MOST_COLUMNS:
                continue
            is_huge = type(value) is int and not -(2**63) <= value < 2**63
            kinds[name][object if is_huge else type(value)] += 1
            if isinstance(value, list):
                items[name].update(map(type, value))
    return {name: _one_type(kind, items[name]) for name, kind in kinds.items()}


def _one_type(kinds: Counter[type], items: Counter[type]) -> pa.DataType | None:
    counted = Counter({kind: times for kind, times in kinds.items() if kind is not type(None)})
    numbers = counted[int] + counted[float]
    found = {kind for kind, times in counted.items() if (numbers if kind in (int, float) else times) > ODD * counted.total()}
    if found == {list}:
        item = _one_type(items, Counter())
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


def carried_field(column: str, kind: pa.DataType | None, output: str | None = None) -> pa.Field:
    """An input column in the output. Notes: `column`, its name in the input; `json`, "1" where it is JSON text (`kind` None)."""
    notes = {"column": column} | ({"json": "1"} if kind is None else {})
    return pa.field(output or carried_name(column), pa.string() if kind is None else kind, metadata=notes)


def extra_field(unseen: bool, consumed: str | None) -> pa.Field:
    """`input_extra`, a row's values that do not fit. Notes: `open`, "1" where columns not seen when the output was made are put
    into it, else "0", and `consumed`, a column that the output has under another heading, or ""."""
    return pa.field("input_extra", pa.string(), metadata={"open": str(int(unseen)), "consumed": consumed or ""})


def _notes(field: pa.Field) -> dict[str, str]:
    return {key.decode(): str(value, errors="replace") for key, value in (field.metadata or {}).items()}


def _column(field: pa.Field) -> str:
    """The input's name of a carried column."""
    return str(_notes(field).get("column", field.name))


def input_columns(kept: pa.Schema) -> set[str] | None:
    """The input columns that are carried; None where any may be."""
    if any(_notes(field).get("open") == "1" for field in kept):
        return None
    return {_column(field) for field in kept if "open" not in _notes(field)}


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


def _unfit(column: pa.Field, kept: pa.Schema) -> str | None:
    """Why the carried columns lose values of an input column; None where they do not."""
    field = next((one for one in kept if "open" not in _notes(one) and _column(one) == column.name), None)
    extra = next((_notes(one) for one in kept if "open" in _notes(one)), None)
    kind = schemas_of.plain(column.type)
    if field is not None and schemas_of.lossless([field.type, kind]) != field.type and extra is None:
        return f"type {kind} is not the {field.type} of this output"
    return None


def pick(shard: str, table: pa.Table, kept: pa.Schema) -> pa.Table:
    """The carried columns of a table of input; null where it lacks one. What does not fit goes into `input_extra`. Raises
    InputError where there is none."""
    misfits: list[Data] = [{} for _ in range(len(table))]
    arrays = {}
    for field in kept:
        if "open" in _notes(field):
            continue
        column = _column(field)
        if column not in table.column_names:
            arrays[field.name] = pa.nulls(len(table), field.type)
        elif (unfit := _unfit(table.field(column), kept)) is not None:
            raise InputError(f"shard {shard}: column {column}: {unfit}", "write the shards with one type")
        elif schemas_of.lossless([field.type, schemas_of.plain(table.field(column).type)]) == field.type:
            arrays[field.name] = table.column(column).cast(field.type)
        else:
            arrays[field.name] = pa.nulls(len(table), field.type)
            _add_misfits(table.column(column), column, misfits)
    for field in kept:
        if (notes := _notes(field)).get("open") is not None:
            known = {_column(one) for one in kept} | {notes["consumed"]}
            for column in table.column_names if notes["open"] == "1" else ():
                if column not in known and not column.startswith("\0"):
                    _add_misfits(table.column(column), column, misfits)
            arrays[field.name] = pa.array([dumps(misfit) if misfit else None for misfit in misfits], field.type)
    return pa.table([arrays[name] for name in kept.names], schema=kept)


def _add_misfits(values: pa.ChunkedArray, column: str, misfits: list[Data]) -> None:
    """Add the values that are not null as JSON has them; what it has no form for as Arrow's text of it."""
    for misfit, value in zip(misfits, values, strict=True):
        if value.is_valid:
            try:
                misfit[column] = loads(dumps(value.as_py()))
            except Exception:
                misfit[column] = str(value)
