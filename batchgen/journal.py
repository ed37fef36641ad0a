"""`_batchgen/journal/<span>/<name>.parquet`: the finished rows of spans that are still open.

A replica writes what has been finished since its last file; whoever runs the span next takes those completions and
answers only the others. A file is put once, under a random name; several may hold the same prompt, and any one of them
will do. A damaged file is as good as none. Once the span has its part its files are of no use, and are deleted.
"""

from __future__ import annotations

import dataclasses
import io
import uuid
from collections.abc import Iterable

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import RowError
from batchgen.records import MESSAGES_TYPE, SAMPLING_TYPE, Completion
from batchgen.store import Store
from batchgen.tables import in_arrow_memory

FOLDER = "_batchgen/journal"
_TYPES: dict[str, pa.DataType] = {
    "prompt": pa.int32(),
    "sample": pa.int32(),
    "messages": MESSAGES_TYPE,
    "response": pa.string(),
    "finish_reason": pa.string(),
    "prompt_tokens": pa.int32(),
    "completion_tokens": pa.int32(),
    "cached_tokens": pa.int32(),
    "cumulative_logprob": pa.float64(),
    "prompt_hash": pa.string(),
    "seconds": pa.float64(),
    "attempt": pa.int32(),
    "sampling": SAMPLING_TYPE,
    "parsed": pa.string(),
    "error": pa.struct([("code", pa.string()), ("detail", pa.string())]),
}
_SCHEMA = pa.schema(list(_TYPES.items()))


def write(store: Store, span: str, completions: Iterable[Completion]) -> str:
    """Put a journal file with whole prompts (all their samples); its name. Raises StoreError."""
    rows = [dataclasses.asdict(c) | {"parsed": orjson.dumps(c.parsed).decode()} for c in completions]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), sink, compression="zstd", write_page_checksum=True)
    name = f"{FOLDER}/{span}/{uuid.uuid4().hex}.parquet"
    store.put_new(name, sink.getvalue())
    return name


def load(store: Store, span: str) -> tuple[dict[int, list[Completion]], list[str]]:
    """The finished prompts of a span by their index, and the names of the files read. Raises StoreError."""
    found: dict[int, list[Completion]] = {}
    names = sorted(store.list(f"{FOLDER}/{span}"))
    for name in names:
        try:
            table = pq.read_table(in_arrow_memory(store.get(name) or b""), page_checksum_verification=True)
            rows = table.cast(_SCHEMA).to_pylist()
        except (pa.ArrowException, OSError, ValueError):
            continue
        of_file: dict[int, list[Completion]] = {}
        for row in rows:
            error = RowError(**row["error"]) if row["error"] else None
            fields = {**row, "error": error, "parsed": orjson.loads(row["parsed"])}
            of_file.setdefault(row["prompt"], []).append(Completion(**fields))
        found |= of_file
    return found, names


def spans(store: Store) -> set[str]:
    """The spans that have journal files: one listing."""
    return {name.removeprefix(f"{FOLDER}/").partition("/")[0] for name in store.list(FOLDER)}
