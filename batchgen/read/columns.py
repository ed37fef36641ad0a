"""The carried columns: input columns in the output, without the loss of a value.

JSONL has no schema, while all parts of an output must have one. Types come from the first rows when the output is made
(`infer_types`) and are frozen in it; a later value that does not fit, or a column not seen then, is carried as JSON text
in `input_extra`. An output keeps the carried columns as an Arrow schema with notes in the fields' metadata."""

import dataclasses
from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import types

from batchgen.errors import InputError, JobError
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.jsontext import dumps
from batchgen.read import schemas as schemas_of
from batchgen.read.each import expand
from batchgen.read.formats import Found, Head, format_of
from batchgen.read.formats.tables.cells import alone
from batchgen.read.heads import SCALARS, Seen, infer_types, message_fields
from batchgen.read.layouts import JobLayout
from batchgen.read.partitions import type_of
from batchgen.read.schemas import carried_name, carried_names
from batchgen.read.values import values as json_values
from batchgen.records import Data
from batchgen.records.columns import with_message_keys

HEAD_ROWS, HEAD_SHARDS = 10_000, 16  # per shard, and about how many shards, are read to find the columns
HEAD_BYTES = 2**28  # of text of all of them, none of which is held
BYTES_PER_ROW = 256.0  # assumed where there is no row to measure


@dataclass(frozen=True)
class InputColumns:
    """`kept`, the carried columns under their output names; `bytes_per_row` of JSON text; `schemas` of the shards of a table
    format, by name; `needed`, the columns that are read for the prompts."""

    kept: pa.Schema
    bytes_per_row: float
    schemas: Mapping[str, pa.Schema] = dataclasses.field(default_factory=dict)
    needed: frozenset[str] = frozenset()

    @property
    def read(self) -> list[str] | None:
        """The columns that a run reads; None for all."""
        return columns_read(self.kept, self.needed)

    def refuse_unfit(self, spec: Input, kept: pa.Schema) -> None:
        """Raises InputError for a shard with a column that the `kept` ones of an output cannot carry without loss."""
        known = {column_of(one) for one in kept} | ({"id"} if spec.id == "id" else set())
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
        return expand.head(spec, format_of(spec, shard), shard.name, HEAD_ROWS)

    schemas: dict[str, pa.Schema] = {}
    seen = Seen(spec.conversation)
    if isinstance(head(found[0]), pa.Schema):
        with ThreadPoolExecutor(8) as pool:
            schemas = {
                shard.name: one for shard, one in zip(found, pool.map(head, found), strict=True) if isinstance(one, pa.Schema)
            }
    kinds: dict[str, pa.DataType | None]
    kinds, misfits = {**(chosen := schemas_of.common(schemas.values()))[0]}, chosen[1]
    if not schemas:
        some = found[:: max(1, len(found) // HEAD_SHARDS)]
        kinds, misfits = infer_types(row for one in map(head, some) for row in seen.rows_of(one, HEAD_BYTES // len(some))), True
    if spec.each and not seen.rows:
        raise JobError(f"input.each {spec.each}: nothing there in the first rows", "name a path to a list in each row")
    is_known = bool(kinds or schemas)
    folders = dict.fromkeys(name for shard in found for name in format_of(spec, shard).folders(spec, shard.name))
    for name in folders:
        kinds.setdefault(name, type_of(spec, name))
    if is_known:
        _check_named(job, kinds)
    if format_of(spec, found[0]).is_typed and (typed := spec.types.keys() - folders):
        raise JobError(f"input.types.{min(typed)}: this input's columns have types", "it is for CSV files and folders key=value")
    wanted = list(kinds) if spec.keep == "all" else spec.keep
    carried = [name for name in wanted if not name == spec.id == "id"]
    fields = [carried_field(name, kinds.get(name), output) for name, output in carried_names(carried, job.task).items()]
    if wanted and misfits:
        fields.append(extra_field(spec.keep == "all", "id" if spec.id == "id" else None))
    calls, thinks = message_fields(schemas.values(), spec.conversation) if spec.conversation is not None else (False, False)
    calls, thinks = calls or seen.calls or job.calls_tools, thinks or seen.reasoning or job.keeps_reasoning
    if spec.body is not None:  # whose messages are not looked at
        calls = thinks = True
    kept = with_message_keys(pa.schema(fields), calls, thinks)
    per_row = seen.bytes / seen.rows if seen.rows else BYTES_PER_ROW
    return InputColumns(kept, per_row, schemas, frozenset(job.columns | JobLayout(job).needed))


def _check_named(job: Job, names: Iterable[str]) -> None:
    """Raises JobError for a column that a field of the job names and the input lacks."""
    named = {"input.id": job.input.id} if job.input.id else {}
    named |= JobLayout(job).columns | ({"input.documents": job.input.documents} if job.input.documents else {})
    named |= {f"sampling.{field}": column for field, column in job.sampling_columns.items()}
    if job.attributes and isinstance(job.attributes.columns, dict):
        named |= {f"attributes.columns.{name}": column for name, column in job.attributes.columns.items()}
    if job.input.before is not None:  # which may make them
        named = {}
    named |= {f"input.types.{column}": column for column in job.input.types}
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


def is_json(field: pa.Field) -> bool:
    """Whether a carried column is JSON text."""
    return "json" in _notes(field)


def column_of(field: pa.Field) -> str:
    """The input's name of a carried column."""
    return str(_notes(field).get("column", field.name))


def input_columns(kept: pa.Schema) -> set[str] | None:
    """The input columns that are carried; None where any may be."""
    if any(_notes(field).get("open") == "1" for field in kept):
        return None
    return carried_columns(kept)


def carried_columns(kept: pa.Schema) -> set[str]:
    """The input columns that have a column of the output to themselves."""
    return {column_of(field) for field in kept if "open" not in _notes(field)}


def columns_read(kept: pa.Schema, needed: Set[str]) -> list[str] | None:
    """The input columns that are read for the carried ones and the needed ones; None for all, where those that the output does
    not know go into `input_extra`."""
    carried = input_columns(kept)
    return None if carried is None else sorted(needed | carried)


def conform(rows: list[Data], kept: pa.Schema) -> pa.Table:
    """The carried columns of JSONL rows as a table of schema `kept`."""
    misfits: list[Data] = [{} for _ in rows]
    columns = [field for field in kept if "open" not in _notes(field)]
    arrays = {field.name: _array(rows, field, misfits) for field in columns}
    for field in kept:
        if (notes := _notes(field)).get("open") == "1":
            known = {column_of(one) for one in columns} | {notes["consumed"] or None}
            for row, misfit in zip(rows, misfits, strict=True):
                if not row.keys() <= known:
                    misfit.update({name: value for name, value in row.items() if name not in known})
        if field.name not in arrays:
            arrays[field.name] = pa.array([dumps(misfit) if misfit else None for misfit in misfits], field.type)
    return pa.table(arrays, schema=kept)


def _array(rows: list[Data], field: pa.Field, misfits: list[Data]) -> pa.Array:
    """A carried column of JSONL rows; what does not fit its type goes into the row's dict of `misfits` under the input's name."""
    column = column_of(field)
    values = [row.get(column) for row in rows]
    if is_json(field):
        return pa.array([None if value is None else dumps(value) for value in values], field.type)
    for index, value in enumerate(values):
        if value is not None and not _fits(value, field.type):
            misfits[index][column], values[index] = value, None
    return pa.array(values, field.type)


def _fits(value: object, kind: pa.DataType) -> bool:
    if types.is_list(kind):
        return isinstance(value, list) and all(item is None or _fits(item, kind.value_type) for item in value)
    if types.is_floating(kind):
        return type(value) is float or (type(value) is int and abs(value) <= 2**53)
    if types.is_integer(kind):
        return type(value) is int and -(2**63) <= value < 2**63
    return bool(SCALARS.get(type(value)) == kind)


def _unfit(column: pa.Field, kept: pa.Schema) -> str | None:
    """Why the carried columns lose values of an input column; None where they do not."""
    field = next((one for one in kept if "open" not in _notes(one) and column_of(one) == column.name), None)
    extra = next((_notes(one) for one in kept if "open" in _notes(one)), None)
    kind = schemas_of.plain(column.type)
    if field is not None and schemas_of.lossless([(had := schemas_of.plain(field.type)), kind]) != had and extra is None:
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
        column = column_of(field)
        if column not in table.column_names:
            arrays[field.name] = pa.nulls(len(table), field.type)
        elif (unfit := _unfit(table.field(column), kept)) is not None:
            raise InputError(f"shard {shard}: column {column}: {unfit}", "write the shards with one type")
        elif schemas_of.lossless([(had := schemas_of.plain(field.type)), schemas_of.plain(table.field(column).type)]) == had:
            arrays[field.name] = _cast(table.column(column), field.type)
        else:
            arrays[field.name] = pa.nulls(len(table), field.type)
            _add_misfits(table.column(column), column, misfits)
    for field in kept:
        if (notes := _notes(field)).get("open") is not None:
            known = {column_of(one) for one in kept} | {notes["consumed"]}
            for column in table.column_names if notes["open"] == "1" else ():
                if column not in known:
                    _add_misfits(table.column(column), column, misfits)
            arrays[field.name] = pa.array([dumps(misfit) if misfit else None for misfit in misfits], field.type)
    return pa.table([arrays[name] for name in kept.names], schema=kept)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The column as this type; Arrow casts slices of structs wrongly, and views not at all."""
    if column.type == kind:
        return column
    chunks = map(alone, column.chunks) if types.is_nested(kind) else column.chunks
    return pa.chunked_array([chunk.cast(kind) for chunk in chunks], kind)


def _add_misfits(values: pa.ChunkedArray, column: str, misfits: list[Data]) -> None:
    """Add the values that are not null."""
    for misfit, value in zip(misfits, values, strict=True):
        if value.is_valid:
            misfit[column] = _json(value)


def _json(value: pa.Scalar) -> object:
    """A value as JSON has it, NaN and infinity too."""
    kind = value.type
    if types.is_dictionary(kind):
        return _json(value.value) if value.is_valid else None
    if not value.is_valid or types.is_floating(kind):
        return value.as_py()
    if types.is_map(kind):
        return [[_json(pair[0]), _json(pair[1])] for pair in value.values]
    if types.is_struct(kind):
        return {kind.field(index).name: _json(value[index]) for index in range(kind.num_fields)}
    return [_json(item) for item in value.values] if types.is_nested(kind) else json_values(pa.repeat(value, 1))[0]
