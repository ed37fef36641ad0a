"""What the starts of some shards say of the input: its columns, and how the output carries them."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
import pyarrow as pa

from batchgen.errors import InputError, JobError
from batchgen.job.job import Job
from batchgen.read import formats
from batchgen.read.columns import Carried, CarriedColumns, infer_types
from batchgen.read.formats.base import Found, Head
from batchgen.read.layouts import layout_of
from batchgen.records import carried_name

HEAD_ROWS, HEAD_SHARDS = 10_000, 16
"""At most so many rows of about so many shards are looked at."""
BYTES_PER_ROW = 256.0
"""Assumed where no row was seen."""


@dataclass(frozen=True)
class InputColumns:
    """`names` of the input's columns; `kept`, the carried columns under their output names; `bytes_per_row` of JSON text."""

    names: tuple[str, ...]
    kept: pa.Schema
    bytes_per_row: float


def look(job: Job, found: list[Found]) -> InputColumns:
    """Read the heads of some shards. Raises InputError, and JobError for a column that the job names and the input lacks."""
    spec = job.input
    step = max(1, len(found) // HEAD_SHARDS)
    heads = [formats.format_of(spec, shard).head(spec, shard.name, HEAD_ROWS) for shard in found[::step]]
    types = _types(heads)
    has_schema = any(head.schema is not None for head in heads)
    if types or has_schema:
        _check_columns(job, types)
    carried = []
    for name in types if spec.keep == "all" else spec.keep:
        if name == spec.id == "id":
            continue
        kind = types.get(name)
        carried.append(Carried(carried_name(name), name, pa.string() if kind is None else kind, is_json=kind is None))
    has_extra = not has_schema and bool(types if spec.keep == "all" else spec.keep)
    consumed = "id" if spec.id == "id" else None
    kept = CarriedColumns(tuple(carried), has_extra, spec.keep == "all", consumed).schema
    if twice := next((name for name in kept.names if kept.names.count(name) > 1), None):
        raise InputError(f"two input columns would both be carried as {twice}", "leave one out with input.keep")
    rows = [row for head in heads for row in head.rows]
    weight = sum(len(orjson.dumps(row)) + 1 for row in rows) / len(rows) if rows else BYTES_PER_ROW
    return InputColumns(tuple(types), kept, weight)


def _types(heads: list[Head]) -> dict[str, pa.DataType | None]:
    """The Arrow type of each column; None for one that is carried as JSON text."""
    schemas = [head.schema for head in heads if head.schema is not None]
    if not schemas:
        return infer_types(row for head in heads for row in head.rows)
    try:
        whole = pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"the shards' columns differ in type: {error}", "write them with one schema") from None
    return {one.name: one.type.value_type if pa.types.is_dictionary(one.type) else one.type for one in whole}


def _check_columns(job: Job, names: dict[str, pa.DataType | None]) -> None:
    """Raises JobError for a column that a field of the job names and the input lacks."""
    named = {"input.id": job.input.id} if job.input.id else {}
    named |= layout_of(job).columns
    named |= {f"sampling.{field}": column for field, column in job.sampling_columns.items()}
    if job.attributes and isinstance(job.attributes.columns, dict):
        named |= {f"attributes.columns.{name}": column for name, column in job.attributes.columns.items()}
    if isinstance(job.input.keep, list):
        named |= {f"input.keep[{index}]": column for index, column in enumerate(job.input.keep)}
    for field, name in named.items():
        if name not in names:
            raise JobError(f"{field}: no column {name!r} in the input", f"its columns are {', '.join(sorted(names))}")
