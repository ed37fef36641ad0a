"""The columns of the output, each declared once."""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from batchgen import logprobs
from batchgen.job.job import Job
from batchgen.job.pooling import POOLED
from batchgen.job.sampling import SAMPLING_TYPE
from batchgen.records import CALL_KEYS, REASONING, numbers


def messages_type(more: tuple[str, ...]) -> pa.DataType:
    """Of the output's `messages`, whose messages have these keys beside role and content (`tool_calls` as JSON text)."""
    return pa.list_(pa.struct([(name, pa.string()) for name in ("role", "content", *more)]))


def attributes_type(names: tuple[str, ...]) -> pa.DataType:
    return pa.struct([(name, pa.int32()) for name in names])


GENERATED = ("generate",)
"""Any task that is not one of POOLED, also a package's, has the columns of GENERATED."""
TOOL_CALLS = pa.list_(
    pa.struct(
        [("id", pa.string()), ("type", pa.string()), ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())]))]
    )
)
"""As in OpenAI's messages: the arguments are JSON text."""

ATTEMPTS = pa.list_(
    pa.struct(
        [
            *((name, pa.string()) for name in ("response", "finish_reason", "error_code", "error_detail")),
            ("completion_tokens", pa.int32()),
        ]
    )
)
"""The attempts of a run before a row's last one, in order."""


@dataclass(frozen=True)
class Column:
    """A column of the output. `type` is None where the job decides it, `source` the record that has its values. `later` columns
    are not in the first outputs, whose job files do not list their columns. `tasks` that have it; None: all. Of `optional`
    columns an output has those that its job asks for."""

    name: str
    type: pa.DataType | None
    source: Literal["prompt", "completion", "error", "span", "both"]
    tasks: tuple[str, ...] | None = None
    optional: bool = False
    later: bool = False

    def is_of(self, task: str) -> bool:
        return self.tasks is None or (task if task in POOLED else GENERATED[0]) in self.tasks


BEFORE_INPUT = (
    Column("id", pa.string(), "prompt"),
    Column("shard", pa.string(), "span"),
    Column("row", pa.int64(), "prompt"),
    Column("variant", pa.int32(), "prompt"),
    Column("sample", pa.int32(), "completion"),
)
AFTER_INPUT = (
    Column("attributes", None, "prompt", optional=True),
    Column("messages", messages_type(CALL_KEYS), "completion", GENERATED),
    Column("reasoning", pa.string(), "completion", GENERATED, optional=True),
    Column("response", pa.string(), "completion", GENERATED),
    Column("tool_calls", TOOL_CALLS, "completion", GENERATED, optional=True),
    Column("parsed", None, "completion", GENERATED, optional=True),
    Column("embedding", numbers.TYPE, "completion", ("embed",)),
    Column("label", pa.string(), "completion", ("classify",)),
    Column("probabilities", numbers.TYPE, "completion", ("classify",)),
    Column("score", pa.float32(), "completion", ("score", "reward")),
    Column("scores", numbers.TYPE, "completion", ("rerank",)),
    Column("finish_reason", pa.string(), "completion", GENERATED),
    Column("prompt_tokens", pa.int32(), "completion"),
    Column("completion_tokens", pa.int32(), "completion", GENERATED),
    Column("reasoning_tokens", pa.int32(), "completion", GENERATED, optional=True),
    Column("cumulative_logprob", pa.float64(), "completion", GENERATED),
    Column("token_logprobs", logprobs.TYPE, "completion", GENERATED, optional=True),
    Column("prompt_logprobs", logprobs.TYPE, "completion", GENERATED, optional=True),
    Column("sampling", SAMPLING_TYPE, "both", GENERATED),
    Column("model", pa.string(), "span"),
    Column("prompt_hash", pa.string(), "completion"),
    Column("seconds", pa.float64(), "completion"),
    Column("attempt", pa.int32(), "completion"),
    Column("attempts", ATTEMPTS, "completion", GENERATED, optional=True),
    Column("status", pa.string(), "error"),
    Column("error_code", pa.string(), "error"),
    Column("error_detail", pa.string(), "error"),
)
COLUMNS = (*BEFORE_INPUT, *AFTER_INPUT)
"""The columns of the output, in order; the kept input columns stand between `sample` and `attributes`."""
OUTPUT_NAMES = frozenset(column.name for column in COLUMNS if column.is_of("generate"))
"""Names that no carried column has, whatever the task. Those of a pooling task are taken in its outputs alone (`names_of`)."""


@functools.cache
def names_of(task: str) -> frozenset[str]:
    """The names that no carried column has in an output of the task."""
    return OUTPUT_NAMES | {column.name for column in COLUMNS if column.is_of(task)}


def message_keys(input_columns: pa.Schema) -> tuple[str, ...]:
    """The keys of an output's messages beside role and content, as the schema of its carried columns remembers them."""
    words = (input_columns.metadata or {}).get(b"messages", b"").decode().split()
    return (*(CALL_KEYS if "calls" in words else ()), *((REASONING,) if "reasoning" in words else ()))


def with_message_keys(input_columns: pa.Schema, calls: bool, reasoning: bool) -> pa.Schema:
    """The schema of carried columns that remembers what the messages beside them have."""
    words = [word for word, has in (("calls", calls), ("reasoning", reasoning)) if has]
    return input_columns.with_metadata({"messages": " ".join(words)} if words else None)


def output_schema(
    input_columns: pa.Schema,
    attributes: tuple[str, ...] = (),
    parsed: pa.DataType | None = None,
    optional: Collection[str] = (),
    task: str = "generate",
    first_format: bool = False,
    dimensions: int | None = None,
) -> pa.Schema:
    """The columns of a part, in order. `attributes` is there only when a schema is declared, `parsed` only when a parse is, of
    the other optional ones those that are named. `first_format` leaves out the columns that were added since. `dimensions` is
    the size of every embedding; None: unknown."""
    kinds = {
        column.name: column.type
        for column in COLUMNS
        if column.is_of(task) and (not column.optional or column.name in optional) and not (first_format and column.later)
    }
    kinds["attributes"] = attributes_type(attributes) if attributes else None
    kinds["parsed"] = parsed
    if "embedding" in kinds and dimensions is not None:
        kinds["embedding"] = pa.list_(pa.float32(), dimensions)
    if "messages" in kinds:
        kinds["messages"] = messages_type(message_keys(input_columns))
    before, after = (
        [pa.field(column.name, kinds[column.name]) for column in columns if kinds.get(column.name) is not None]
        for columns in (BEFORE_INPUT, AFTER_INPUT)
    )
    return pa.schema([*before, *input_columns, *after])


def schema_of(job: Job, input_columns: pa.Schema, first_format: bool = False, dimensions: int | None = None) -> pa.Schema:
    """The columns of a part of the job's output. `dimensions`: of the model's embeddings, where they are known."""
    size = job.pooling.dimensions or dimensions
    return output_schema(input_columns, job.schema_names, job.parsed_type, optional_columns(job), job.task, first_format, size)


def optional_columns(job: Job) -> set[str]:
    """The optional columns that the job asks for, but `attributes` and `parsed`, whose types it decides."""
    asked = {
        "token_logprobs": job.output.token_logprobs,
        "reasoning": job.keeps_reasoning,
        "reasoning_tokens": job.keeps_reasoning,
        "tool_calls": job.calls_tools,
        "prompt_logprobs": job.sampling.get("prompt_logprobs") is not None,
        "attempts": job.accept is not None,
    }
    return {name for name, is_asked in asked.items() if is_asked}
