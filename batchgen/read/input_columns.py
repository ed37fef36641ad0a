"""What the starts of some shards say of the input: its columns, and how the output carries them."""

from dataclasses import dataclass

import orjson
import pyarrow as pa

from batchgen.errors import InputError, JobError
from batchgen.job.job import Job
from batchgen.read.columns import carried_field, extra_field, infer_types
from batchgen.read.formats import Found, format_of
from batchgen.read.layouts import layout_of

HEAD_ROWS, HEAD_SHARDS = 10_000, 16
"""At most so many rows of about so many shards are looked at."""
BYTES_PER_ROW = 256.0
"""Assumed where no row was seen."""


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
        _check_columns(job, types)
    wanted = list(types) if spec.keep == "all" else spec.keep
    fields = [carried_field(name, types.get(name)) for name in wanted if not name == spec.id == "id"]
    if wanted and not schemas:
        fields.append(extra_field(spec.keep == "all", "id" if spec.id == "id" else None))
    kept = pa.schema(fields)
    if twice := next((name for name in kept.names if kept.names.count(name) > 1), None):
        raise InputError(f"two input columns would both be carried as {twice}", "leave one out with input.keep")
    weight = sum(len(orjson.dumps(row)) + 1 for row in rows) / len(rows) if rows else BYTES_PER_ROW
    return InputColumns(kept, weight)


def _unified(schemas: list[pa.Schema]) -> dict[str, pa.DataType | None]:
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
