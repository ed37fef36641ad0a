"""`_batchgen/journal/<span>/<name>.parquet`: the finished rows of spans that are still open.

A replica writes what has been finished since its last file; whoever runs the span next takes those completions and answers only
the others. A file is put once, under a random name; several may hold the same prompt, and any one of them will do. A damaged file
is as good as none, and so is one of a later format. Once the span has its part its files are deleted.
Beside them are the groups that careful runs began (careful.py)."""

import dataclasses
import uuid

import orjson
import pyarrow as pa

from batchgen import logprobs
from batchgen.errors import NewerFormat, RowError, VerifyError
from batchgen.job.sampling import Sampling
from batchgen.output.format import Fields, known, read_parquet, to_parquet
from batchgen.output.parts import ERROR
from batchgen.output.store import Store
from batchgen.records import Completion, numbers
from batchgen.records.columns import COLUMNS
from batchgen.replica.careful import SUFFIX

FOLDER = "_batchgen/journal"
_SCHEMA = pa.schema(
    {column.name: column.type for column in COLUMNS if column.source in ("completion", "both")}
    | {"prompt": pa.int32(), "cached_tokens": pa.int32(), "parsed": pa.string(), "error": ERROR}
    | dict.fromkeys(("copied_tokens", "copied_prompt_tokens", "judge_tokens", "judge_prompt_tokens"), pa.int32())
)
_SCORED = [field.name for field in _SCHEMA if field.type == logprobs.TYPE]
"""The fields of a completion, most of them with the type of the output's column. `parsed` is JSON: its type is the job's."""


def write(store: Store, span: str, completions: list[Completion]) -> str:
    """Put a journal file with whole prompts (all their samples). Returns its name. Raises StoreError."""
    columns = {name: [getattr(c, name) for c in completions] for name in _SCHEMA.names}
    columns["parsed"] = [orjson.dumps(parsed).decode() for parsed in columns["parsed"]]
    columns["sampling"] = [sampling and dict(sampling) for sampling in columns["sampling"]]
    columns["error"] = [error and dataclasses.asdict(error) for error in columns["error"]]
    columns |= {name: logprobs.column(columns[name]) for name in _SCORED}
    columns |= {name: numbers.column(columns[name]) for name in numbers.NAMES}
    name = f"{FOLDER}/{span}/{uuid.uuid4().hex}.parquet"
    store.put_new(name, to_parquet(pa.table(columns, schema=_SCHEMA)))
    return name


def load(store: Store, span: str) -> tuple[dict[int, list[Completion]], list[str]]:
    """The completions of finished prompts by their index in the span, and the names of its files. Raises StoreError."""
    found: dict[int, list[Completion]] = {}
    names = sorted(store.list(f"{FOLDER}/{span}"))
    for name in names:
        if name.endswith(SUFFIX):
            continue
        of_file: dict[int, list[Completion]] = {}
        try:
            table = read_parquet(store, name)
            known_arrays = {**dict.fromkeys(_SCORED, logprobs.TYPE), **dict.fromkeys(numbers.NAMES, numbers.TYPE)}
            kinds = {name: kind for name, kind in known_arrays.items() if name in table.column_names}
            arrays = [table[name].cast(kind) for name, kind in kinds.items()]
            for row, *of_row in zip(table.drop_columns([*kinds]).to_pylist(), *arrays, strict=True):
                completion = _completion(row, dict(zip(kinds, (array.values for array in of_row), strict=True)))
                of_file.setdefault(completion.prompt, []).append(completion)
        except (pa.ArrowException, ValueError, KeyError, TypeError, VerifyError, NewerFormat):
            continue
        found |= of_file
    return found, names


def _completion(row: Fields, arrays: Fields) -> Completion:
    """A row of a journal file; of another release's, the fields that this one knows. `arrays`: its columns that stay Arrow's."""
    made = {
        "messages": row["messages"] and tuple(row["messages"]),
        "error": known(RowError, row["error"]) if row["error"] else None,
        "sampling": row["sampling"] and Sampling.model_validate(row["sampling"], extra="ignore"),
        "parsed": orjson.loads(row["parsed"]),
    }
    return known(Completion, row | arrays | made)


def spans(store: Store) -> set[str]:
    """The spans that have journal files: one listing."""
    return {name.removeprefix(f"{FOLDER}/").partition("/")[0] for name in store.list(FOLDER)}
