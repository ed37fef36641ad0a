"""`_batchgen/journal/<span>/<name>.parquet`: the finished rows of spans that are still open.

A replica writes what has been finished since its last file; whoever runs the span next takes those completions and
answers only the others. A file is put once, under a random name; several may hold the same prompt, and any one of them
will do. A damaged file is as good as none. Once the span has its part its files are of no use, and are deleted.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import logprobs
from batchgen.errors import RowError
from batchgen.job.sampling import SAMPLING_TYPE, Sampling
from batchgen.output.store import Store
from batchgen.read.tables import in_arrow_memory, to_parquet
from batchgen.records import MESSAGES_TYPE, Completion

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
    "token_logprobs": logprobs.TYPE,
    "prompt_hash": pa.string(),
    "seconds": pa.float64(),
    "attempt": pa.int32(),
    "sampling": SAMPLING_TYPE,
    "parsed": pa.string(),
    "error": pa.struct([("code", pa.string()), ("detail", pa.string())]),
}
_SCHEMA = pa.schema(list(_TYPES.items()))
_TOKENS = _SCHEMA.get_field_index("token_logprobs")


def write(store: Store, span: str, completions: Iterable[Completion]) -> str:
    """Put a journal file with whole prompts (all their samples); its name. Raises StoreError."""
    completions = list(completions)
    columns = {name: [getattr(c, name) for c in completions] for name in _TYPES}
    columns["parsed"] = [orjson.dumps(parsed).decode() for parsed in columns["parsed"]]
    columns["sampling"] = [sampling and dict(sampling) for sampling in columns["sampling"]]
    columns["error"] = [error and dataclasses.asdict(error) for error in columns["error"]]
    arrays = {name: pa.array(column, _TYPES[name]) for name, column in columns.items() if name != "token_logprobs"}
    arrays["token_logprobs"] = logprobs.column(columns["token_logprobs"])
    table = pa.table([arrays[name] for name in _SCHEMA.names], schema=_SCHEMA)
    name = f"{FOLDER}/{span}/{uuid.uuid4().hex}.parquet"
    store.put_new(name, to_parquet(table))
    return name


def load(store: Store, span: str) -> tuple[dict[int, list[Completion]], list[str]]:
    """The finished prompts of a span by their index, and the names of the files read. Raises StoreError."""
    found: dict[int, list[Completion]] = {}
    names = sorted(store.list(f"{FOLDER}/{span}"))
    for name in names:
        try:
            table = pq.read_table(in_arrow_memory(store.get(name) or b""), page_checksum_verification=True)
            table = table.cast(_SCHEMA)
        except (pa.ArrowException, OSError, ValueError):
            continue
        of_file: dict[int, list[Completion]] = {}
        for row, tokens in zip(table.remove_column(_TOKENS).to_pylist(), table.column(_TOKENS), strict=True):
            error = RowError(**row["error"]) if row["error"] else None
            said = row["messages"] and tuple((message["role"], message["content"]) for message in row["messages"])
            parsed, sampling = orjson.loads(row["parsed"]), row["sampling"] and Sampling.model_validate(row["sampling"])
            made = {"messages": said, "error": error, "parsed": parsed, "sampling": sampling, "token_logprobs": tokens.values}
            fields = row | made
            of_file.setdefault(row["prompt"], []).append(Completion(**fields))
        found |= of_file
    return found, names


def spans(store: Store) -> set[str]:
    """The spans that have journal files: one listing."""
    return {name.removeprefix(f"{FOLDER}/").partition("/")[0] for name in store.list(FOLDER)}
