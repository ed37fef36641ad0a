"""A span on its way from the feed, which encodes it, to a replica, which decodes it: its prompts and its carried input columns as
Arrow. A block is a table of one row, so that Ray Data never splits a span."""

import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from batchgen import logs
from batchgen.errors import RowError
from batchgen.job.sampling import SAMPLING_TYPE, Sampling
from batchgen.jsontext import dumps, loads
from batchgen.records import Failed, Prompt, Row, Span, attributes_type
from batchgen.render.renderer import Renderer

_LOG = logs.logger("render")


@dataclass(frozen=True)
class Block:
    """A decoded span: its name, the number of its shard, its prompts (`prompt_schema`) and the carried columns of its rows."""

    span: str
    shard: int
    prompts: pa.Table
    kept: pa.Table


def prompt_schema(attributes: tuple[str, ...]) -> pa.Schema:
    """The prompts of a span, in input order: the fields of Prompt but `shard` and `text`. The messages are JSON."""
    return pa.schema(
        [
            ("source", pa.int32()),
            ("row", pa.int64()),
            ("variant", pa.int32()),
            ("id", pa.string()),
            ("attributes", attributes_type(attributes)),
            ("messages", pa.string()),
            ("turns", pa.list_(pa.string())),
            ("token_ids", pa.list_(pa.int32())),
            ("sampling", SAMPLING_TYPE),
            ("error", pa.struct([("code", pa.string()), ("detail", pa.string())])),
            ("failed", pa.list_(pa.struct([("sample", pa.int32()), ("attempt", pa.int32()), ("code", pa.string())]))),
        ]
    )


def encode_span(renderer: Renderer, shard: str, rows: Sequence[Row], again: Sequence[Failed] = ()) -> pa.Table:
    """The rendered prompts of a span's rows (`prompt_schema`); of a retry, those of the rows that failed."""
    prompts = [prompt for index, row in enumerate(rows) for prompt in renderer.prompts(row, shard, index)]
    if again:
        failed = defaultdict[tuple[int, int], list[Failed]](list)
        for one in again:
            failed[one.row, one.variant].append(one)
        named = ((prompt, failed.get((prompt.row, prompt.variant))) for prompt in prompts)
        prompts = [replace(prompt, failed=tuple(samples)) for prompt, samples in named if samples]
    schema = prompt_schema(renderer.job.schema_names)
    try:
        return _table(prompts, schema)
    except (ValueError, TypeError, OverflowError, pa.ArrowException):
        return _table([_storable(prompt, schema) for prompt in prompts], schema)


def _storable(prompt: Prompt, schema: pa.Schema) -> Prompt:
    """The prompt, or one with an error where a table cannot have it."""
    try:
        _table([prompt], schema)
    except Exception as error:
        problem = logs.internal_error(_LOG, prompt.place, error)
        return Prompt(prompt.source, prompt.shard, prompt.row, prompt.variant, None, error=problem, failed=prompt.failed)
    return prompt


def _table(prompts: list[Prompt], schema: pa.Schema) -> pa.Table:
    columns: dict[str, list[object]] = {name: [getattr(prompt, name) for prompt in prompts] for name in schema.names}
    columns |= {
        "messages": [dumps(prompt.messages) for prompt in prompts],
        "sampling": [prompt.sampling and dict(prompt.sampling) for prompt in prompts],
        "error": [prompt.error and (prompt.error.code, prompt.error.detail) for prompt in prompts],
        "failed": [[(one.sample, one.attempt, one.code) for one in prompt.failed] for prompt in prompts],
    }
    return pa.table(columns, schema=schema)


def decode_prompts(table: pa.Table, shard: str) -> list[Prompt]:
    """The prompts of a table of `prompt_schema`; `shard` is the name of their shard. Their texts stay behind."""
    prompts = []
    for fields in table.to_pylist():
        fields["messages"] = loads(fields["messages"])
        fields["sampling"] = fields["sampling"] and Sampling.model_validate(fields["sampling"])
        fields["error"] = fields["error"] and RowError(**fields["error"])
        fields["failed"] = tuple(Failed(fields["row"], fields["variant"], **one) for one in fields["failed"])
        prompts.append(Prompt(shard=shard, **fields))
    return prompts


def encode_block(span: Span, prompts: pa.Table, kept: pa.Table) -> pa.Table:
    """A span as a table of one row; the two tables are Arrow IPC bytes in it."""
    columns: dict[str, object] = {"span": [span.name], "shard": [span.shard]}
    for name, table in (("prompts", prompts), ("kept", kept)):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        made = sink.getvalue()
        ends = pa.py_buffer(struct.pack("=2q", 0, made.size))
        columns[name] = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, made])  # not a copy
    return pa.table(columns)


def decode_block(table: pa.Table) -> Block:
    """The span of a table that `encode_block` made."""
    prompts, kept = (pa.ipc.open_stream(table[name][0].as_buffer()).read_all() for name in ("prompts", "kept"))
    return Block(table["span"][0].as_py(), table["shard"][0].as_py(), prompts, kept)
