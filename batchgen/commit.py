"""Completions -> one part, once.

The part of a span is built whole in memory, with page checksums, and becomes visible by
one put_new under the span's name: the first writer wins, a second one learns that it lost and throws its part
away. The footer carries the part's counts, so that they can be read again without its rows.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import logprobs
from batchgen.errors import ErrorCode, RowError, VerifyError, words
from batchgen.records import MESSAGES_TYPE, Completion, Counts
from batchgen.store import Put, Store
from batchgen.tables import in_arrow_memory, to_parquet

DATA = "data"
FOOTER_KEY = b"batchgen"


def part_name(span: str) -> str:
    return f"{DATA}/{span}.parquet"


def span_of(part: str) -> str | None:
    """The span of a part's name; None for a name that is no part's."""
    folder, _, file = part.partition("/")
    return file.removesuffix(".parquet") if folder == DATA and file.endswith(".parquet") else None


def committed(store: Store) -> set[str]:
    """The names of the spans that have a part: one listing, no part is opened."""
    return {span for name in store.list(DATA) if (span := span_of(name)) is not None}


def encode_part(
    prompts: pa.Table, kept: pa.Table, completions: list[Completion], schema: pa.Schema, shard: str, model: str
) -> bytes:
    """The bytes of a part with the columns of `schema` (records.output_schema). `prompts` is a table of records.prompt_schema,
    `kept` the carried columns of the span's rows; `completions` stand in the order of `prompts`."""
    order = [c.prompt for c in completions]
    taken = prompts if order == list(range(len(prompts))) else prompts.take(pa.array(order, pa.int64()))
    carried = kept.take(taken["source"])
    errors = [c.error for c in completions]
    columns: dict[str, Any] = {
        "id": taken["id"],
        "shard": pa.array([shard] * len(completions), pa.string()),
        "row": taken["row"],
        "variant": taken["variant"],
        "sample": [c.sample for c in completions],
        "attributes": taken["attributes"],
        "messages": _messages(completions),
        "response": [c.response for c in completions],
        "parsed": [c.parsed for c in completions],
        "finish_reason": [c.finish_reason for c in completions],
        "prompt_tokens": [c.prompt_tokens for c in completions],
        "completion_tokens": [c.completion_tokens for c in completions],
        "cumulative_logprob": [c.cumulative_logprob for c in completions],
        "sampling": _sampling(taken["sampling"], completions),
        "model": pa.array([model] * len(completions), pa.string()),
        "prompt_hash": [c.prompt_hash for c in completions],
        "seconds": [c.seconds for c in completions],
        "attempt": [c.attempt for c in completions],
        "status": ["error" if e else "ok" for e in errors],
        "error_code": [e.code if e else None for e in errors],
        "error_detail": [e.detail if e else None for e in errors],
        **{name: carried[name] for name in kept.column_names},
    }
    if "token_logprobs" in schema.names:
        columns["token_logprobs"] = logprobs.column([c.token_logprobs for c in completions])
    arrays = [
        columns[f.name] if isinstance(columns[f.name], pa.Array | pa.ChunkedArray) else pa.array(columns[f.name], f.type)
        for f in schema
    ]
    footer = {"counts": asdict(count(completions)), "errors": errors_by_code(completions)}
    table = pa.table(arrays, schema=schema.with_metadata({FOOTER_KEY: orjson.dumps(footer)}))
    return to_parquet(table)


def _messages(completions: list[Completion]) -> pa.ListArray:
    """As pa.array would make it of dicts, twice as fast; null where a completion has none."""
    said = [message for c in completions for message in c.messages]
    ends = list(itertools.accumulate((len(c.messages) for c in completions), initial=0))
    columns = [pa.array([message[name] for message in said], pa.string()) for name in ("role", "content")]
    none = pa.array([not c.messages for c in completions], pa.bool_())
    talks = pa.StructArray.from_arrays(columns, fields=list(MESSAGES_TYPE.value_type))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), talks, type=MESSAGES_TYPE, mask=none)


def _sampling(of_prompts: pa.ChunkedArray, completions: list[Completion]) -> pa.ChunkedArray | list[Any]:
    """What each completion ran with: its own where an attempt changed it, the prompt's otherwise."""
    if all(c.sampling is None for c in completions):
        return of_prompts
    return [c.sampling or given for c, given in zip(completions, of_prompts.to_pylist(), strict=True)]


def count(completions: list[Completion]) -> Counts:
    """Rows and tokens; the prompt of several samples is counted once."""
    failed = sum(1 for c in completions if c.error)
    by_prompt = {c.prompt: c for c in reversed(completions)}.values()
    return Counts(
        len(completions) - failed,
        failed,
        sum(c.prompt_tokens for c in by_prompt),
        sum(c.completion_tokens for c in completions),
        sum(c.cached_tokens for c in by_prompt),
    )


def errors_by_code(completions: list[Completion]) -> dict[ErrorCode, int]:
    counted: dict[ErrorCode, int] = {}
    for completion in completions:
        if completion.error:
            counted[completion.error.code] = counted.get(completion.error.code, 0) + 1
    return counted


def first_errors(completions: list[Completion], most: int = 5) -> list[RowError]:
    return [c.error for c in completions if c.error][:most]


def commit(store: Store, span: str, part: bytes) -> bool:
    """Make the part visible. False where the span already had one. Raises StoreError."""
    return store.put_new(part_name(span), part) is Put.CREATED


def read_part(store: Store, span: str, columns: list[str] | None = None) -> pa.Table:
    """A committed part, its pages checked. Raises VerifyError for a damaged one."""
    data = in_arrow_memory(store.get(part_name(span)) or b"")
    try:
        return pq.ParquetFile(data, page_checksum_verification=True).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise VerifyError(f"{part_name(span)}: damaged: {words(error, 200)}") from None


def read_counts(store: Store, span: str) -> tuple[Counts, dict[ErrorCode, int]]:
    """What a committed part says of itself in its footer. Raises VerifyError for a damaged part."""
    data = store.get(part_name(span))
    try:
        return footer_counts(pq.read_metadata(in_arrow_memory(data or b"")).metadata)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise VerifyError(f"{part_name(span)}: damaged: {words(error)}") from None


def footer_counts(metadata: dict[bytes, bytes] | None) -> tuple[Counts, dict[ErrorCode, int]]:
    """The counts in a part's file metadata. Raises ValueError where there are none."""
    try:
        fields = orjson.loads((metadata or {})[FOOTER_KEY])
        return Counts(**fields["counts"]), fields["errors"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no counts in it ({error!r})") from None
