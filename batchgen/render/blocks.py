"""A span on its way from the feed to a replica: its prompts and its carried input columns as Arrow.

A block is a table of one row, so that Ray Data never splits a span. The feed encodes it, a replica decodes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson
import pyarrow as pa

from batchgen.errors import RowError
from batchgen.job.sampling import SAMPLING_TYPE, Sampling
from batchgen.records import Failed, Prompt, Row, Span, attributes_type
from batchgen.render.renderer import Renderer

_FAILED = pa.list_(pa.struct([("sample", pa.int32()), ("attempt", pa.int32()), ("code", pa.string())]))
_ERROR = pa.struct([("code", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True)
class Block:
    """A decoded span: its name, the number of its shard, its prompts (`prompt_schema`) and the carried columns of its rows."""

    span: str
    shard: int
    prompts: pa.Table
    kept: pa.Table


def prompt_schema(attributes: tuple[str, ...]) -> pa.Schema:
    """The prompts of a span, in input order: the fields of Prompt. The messages are JSON."""
    fields: list[tuple[str, pa.DataType]] = [
        ("source", pa.int32()),
        ("row", pa.int64()),
        ("variant", pa.int32()),
        ("id", pa.string()),
        ("attributes", attributes_type(attributes)),
        ("messages", pa.string()),
        ("turns", pa.list_(pa.string())),
        ("token_ids", pa.list_(pa.int32())),
        ("sampling", SAMPLING_TYPE),
        ("error", _ERROR),
        ("failed", _FAILED),
    ]
    return pa.schema(fields)


def encode_span(renderer: Renderer, shard: str, rows: Sequence[Row], again: Sequence[Failed] = ()) -> pa.Table:
    """The rendered prompts of a span's rows (`prompt_schema`); of a retry, those of the rows that failed."""
    prompts = [replace(prompt, source=index) for index, row in enumerate(rows) for prompt in renderer.prompts(row, shard)]
    if again:
        failed: dict[tuple[int, int], list[Failed]] = {}
        for one in again:
            failed.setdefault((one.row, one.variant), []).append(one)
        prompts = [
            replace(prompt, failed=tuple(failed[prompt.row, prompt.variant]))
            for prompt in prompts
            if (prompt.row, prompt.variant) in failed
        ]
    return encode_prompts(prompts, renderer.job.schema_names)


def encode_prompts(prompts: Sequence[Prompt], attributes: tuple[str, ...]) -> pa.Table:
    """Prompts as a table of `prompt_schema`."""
    schema = prompt_schema(attributes)
    columns: dict[str, list[object]] = {
        "messages": [orjson.dumps(prompt.messages).decode() for prompt in prompts],
        "sampling": [prompt.sampling and dict(prompt.sampling) for prompt in prompts],
        "error": [prompt.error and (prompt.error.code, prompt.error.detail) for prompt in prompts],
        "failed": [[(one.sample, one.attempt, one.code) for one in prompt.failed] for prompt in prompts],
    }
    for name in schema.names:
        columns.setdefault(name, [getattr(prompt, name) for prompt in prompts])
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def decode_prompts(table: pa.Table, shard: str) -> list[Prompt]:
    """The prompts of a table of `prompt_schema`; `shard` is the name of their shard. Their texts stay behind."""
    prompts = []
    for row in table.to_pylist():
        sampling, error = row["sampling"], row["error"]
        prompts.append(
            Prompt(
                source=row["source"],
                shard=shard,
                row=row["row"],
                variant=row["variant"],
                id=row["id"],
                attributes=row["attributes"],
                messages=orjson.loads(row["messages"]),
                turns=row["turns"],
                token_ids=row["token_ids"],
                sampling=sampling and Sampling.model_validate(sampling),
                error=error and RowError(**error),
                failed=tuple(Failed(row["row"], row["variant"], **one) for one in row["failed"]),
            )
        )
    return prompts


def encode_block(span: Span, prompts: pa.Table, kept: pa.Table) -> pa.Table:
    """A span as a table of one row; the two tables are Arrow IPC bytes in it."""
    tables = {name: pa.array([_ipc(table)], pa.large_binary()) for name, table in (("prompts", prompts), ("kept", kept))}
    return pa.table({"span": [span.name], "shard": [span.shard], **tables})


def decode_block(table: pa.Table) -> Block:
    """The span of a table that `encode_block` made."""
    prompts, kept = (pa.ipc.open_stream(table[name][0].as_buffer()).read_all() for name in ("prompts", "kept"))
    return Block(table["span"][0].as_py(), table["shard"][0].as_py(), prompts, kept)


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
