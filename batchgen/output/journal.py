"""`_batchgen/journal/<span>/<name>.parquet`: the finished rows of spans that are still open.

A replica writes what has been finished since its last file; whoever runs the span next takes those completions and
answers only the others. A file is put once, under a random name; several may hold the same prompt, and any one of them
will do. A damaged file is as good as none, and so is one of a later format. Once the span has its part its files are of
no use, and are deleted.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable
from typing import Any

import orjson
import pyarrow as pa

from batchgen import logprobs
from batchgen.errors import NewerFormat, RowError
from batchgen.job.sampling import Sampling
from batchgen.output.format import KEY, known, mark, marked
from batchgen.output.parquet import from_parquet, to_parquet
from batchgen.output.store import Store
from batchgen.records import COLUMNS, Completion

FOLDER = "_batchgen/journal"
_OF_COMPLETION = {column.name: column.type for column in COLUMNS if column.source in ("completion", "both")}
_SCHEMA = pa.schema(
    _OF_COMPLETION
    | {
        "prompt": pa.int32(),
        "cached_tokens": pa.int32(),
        "parsed": pa.string(),  # JSON: its type is the job's
        "error": pa.struct([("code", pa.string()), ("detail", pa.string())]),
    }
)
"""The fields of a completion: the output's columns that are of one, and what a part counts or has in other columns."""


def write(store: Store, span: str, completions: Iterable[Completion]) -> str:
    """Put a journal file with whole prompts (all their samples); its name. Raises StoreError."""
    completions = list(completions)
    columns = {name: [getattr(c, name) for c in completions] for name in _SCHEMA.names}
    columns["parsed"] = [orjson.dumps(parsed).decode() for parsed in columns["parsed"]]
    columns["sampling"] = [sampling and dict(sampling) for sampling in columns["sampling"]]
    columns["error"] = [error and dataclasses.asdict(error) for error in columns["error"]]
    tokens = logprobs.column(columns.pop("token_logprobs"))
    arrays = {name: pa.array(column, _SCHEMA.field(name).type) for name, column in columns.items()} | {"token_logprobs": tokens}
    schema = _SCHEMA.with_metadata({KEY: orjson.dumps(mark())})
    table = pa.table([arrays[name] for name in schema.names], schema=schema)
    name = f"{FOLDER}/{span}/{uuid.uuid4().hex}.parquet"
    store.put_new(name, to_parquet(table))
    return name


def load(store: Store, span: str) -> tuple[dict[int, list[Completion]], list[str]]:
    """The finished prompts of a span by their index, and the names of the files read. Raises StoreError."""
    found: dict[int, list[Completion]] = {}
    names = sorted(store.list(f"{FOLDER}/{span}"))
    for name in names:
        try:
            table = from_parquet(store.get(name))
            marked(table.schema.metadata, name)
            completions = _completions(table)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, NewerFormat):
            continue
        of_file: dict[int, list[Completion]] = {}
        for completion in completions:
            of_file.setdefault(completion.prompt, []).append(completion)
        found |= of_file
    return found, names


def _completions(table: pa.Table) -> list[Completion]:
    """The rows of a journal file; of another release's, the fields that this one knows."""
    tokens = table["token_logprobs"].cast(logprobs.TYPE)
    rows = table.drop_columns(["token_logprobs"]).to_pylist()
    return [_completion(row, of_row.values) for row, of_row in zip(rows, tokens, strict=True)]


def _completion(row: dict[str, Any], tokens: pa.StructArray | None) -> Completion:
    made = {
        "messages": row["messages"] and tuple((message["role"], message["content"]) for message in row["messages"]),
        "error": known(RowError, row["error"]) if row["error"] else None,
        "sampling": row["sampling"] and Sampling.model_validate(row["sampling"], extra="ignore"),
        "parsed": orjson.loads(row["parsed"]),
        "token_logprobs": tokens,
    }
    return known(Completion, row | made)


def spans(store: Store) -> set[str]:
    """The spans that have journal files: one listing."""
    return {name.removeprefix(f"{FOLDER}/").partition("/")[0] for name in store.list(FOLDER)}
