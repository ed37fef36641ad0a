"""A span on its way from the feed, which encodes it, to a replica, which decodes it: its prompts and its carried input columns as
Arrow. A block is a table of one row, so that Ray Data never splits a span."""

import itertools
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import orjson
import pyarrow as pa

from batchgen import logs
from batchgen.errors import RowError, place
from batchgen.job.sampling import SAMPLING_TYPE, Sampling
from batchgen.jsontext import dumps, loads
from batchgen.records import Failed, Message, Prompt, Row, Span
from batchgen.records.columns import attributes_type
from batchgen.render.messages import texts
from batchgen.render.renderer import Renderer

SPAN_BYTES = 2**30  # of a span's prompts; the plan (plan.RENDERED_BYTES) keeps well below it where rows are of about one size
PIECE_BYTES = 2**26  # of them that are made into Arrow at a time
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
            ("pairs", pa.list_(pa.list_(pa.int32(), 2))),
            ("failed", pa.list_(pa.struct([("sample", pa.int32()), ("attempt", pa.int32()), ("code", pa.string())]))),
        ]
    )


def encode_span(renderer: Renderer, shard: str, rows: Sequence[Row], again: Sequence[Failed] = ()) -> pa.Table:
    """The rendered prompts of a span's rows (`prompt_schema`); of a retry, those of the rows that failed. The table is in pieces:
    Python's values of one piece are held, and the offsets of an array of texts have 32 bits."""
    schema = prompt_schema(renderer.job.schema_names)
    pieces, some, held = [], list[Prompt](), 0
    for prompt in _prompts(renderer, shard, rows, again):
        some.append(prompt)
        held += _size(prompt)
        if held >= PIECE_BYTES:
            pieces.append(_sound(some, schema))
            some, held = [], 0
    return pa.concat_tables([*pieces, _sound(some, schema)])


def _prompts(renderer: Renderer, shard: str, rows: Sequence[Row], again: Sequence[Failed]) -> Iterator[Prompt]:
    """Prompts of about SPAN_BYTES; those that follow have an error and are not rendered."""
    failed = defaultdict[tuple[int, int], list[Failed]](list)
    for one in again:
        failed[one.row, one.variant].append(one)
    held = 0
    for index, row in enumerate(rows):
        made, is_full = renderer.each(row, shard, index), False
        for number in range(renderer.job.variants):
            if held >= SPAN_BYTES and not is_full:
                cause = (
                    f"{place(shard, row.ordinal)}: the prompts of its span before it hold {SPAN_BYTES} bytes: have fewer variants"
                )
                refused = replace(row, error=row.error or RowError("input", cause))
                made, is_full = itertools.islice(renderer.each(refused, shard, index), number, None), True
            prompt = next(made)
            if again:
                if not (samples := failed.get((prompt.row, prompt.variant))):
                    continue
                prompt = replace(prompt, failed=tuple(samples))
            held += _size(prompt)
            yield prompt


def _size(prompt: Prompt) -> int:
    """About how many bytes a prompt takes in a table."""
    said = sum(len(text) for message in prompt.messages for text in texts(message))
    return max(len(prompt.text), said) + sum(map(len, prompt.turns)) + 4 * len(prompt.token_ids)


def _sound(prompts: list[Prompt], schema: pa.Schema) -> pa.Table:
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
        "messages": [_json(prompt.messages) for prompt in prompts],
        "sampling": [prompt.sampling and dict(prompt.sampling) for prompt in prompts],
        "error": [prompt.error and (prompt.error.code, prompt.error.detail) for prompt in prompts],
        "failed": [[(one.sample, one.attempt, one.code) for one in prompt.failed] for prompt in prompts],
    }
    return pa.table(columns, schema=schema)


def _json(messages: list[Message]) -> str:
    """JSON of messages; of those that are texts alone ten times as fast as `dumps`."""
    if all(type(value) is str for message in messages for value in message.values()):
        return orjson.dumps(messages).decode()
    return dumps(messages)


def decode_prompts(table: pa.Table, shard: str, kept: pa.Table | None = None) -> list[Prompt]:
    """The prompts of a table of `prompt_schema`; `shard` is the name of their shard, `kept` the carried columns of their rows,
    where they are to have them. Their texts stay behind."""
    prompts = []
    for fields in table.to_pylist():
        fields["messages"] = loads(fields["messages"])
        fields["sampling"] = fields["sampling"] and Sampling.model_validate(fields["sampling"])
        fields["error"] = fields["error"] and RowError(**fields["error"])
        fields["failed"] = tuple(Failed(fields["row"], fields["variant"], **one) for one in fields["failed"])
        prompts.append(Prompt(shard=shard, columns=None if kept is None else kept.slice(fields["source"], 1), **fields))
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
