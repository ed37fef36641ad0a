"""generate: rows of this process in, a table of their answers out. A job like every other, over a shard that is written for it.

The stages are imported where they are used, as in run.py."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol, TextIO, TypeVar

from batchgen.errors import InputError, JobError, OutputConflict, safe_message

if TYPE_CHECKING:
    import pyarrow as pa

    from batchgen.output.store import Store

FOLDER = "_batchgen/input"  # of an output: the rows that were given to `generate`
GROUP_ROWS = 8192  # of a row group: what is read for one row
T = TypeVar("T")


class ArrowTable(Protocol):
    """A table that Arrow can take: of pyarrow, pandas, polars, duckdb, datasets."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Rows = Iterable[str] | Iterable[Mapping[str, object]] | ArrowTable


def generate(
    rows: Rows,
    *,
    model: str | os.PathLike[str] | Mapping[str, object] | None = None,
    sampling: Mapping[str, object] | None = None,
    input: Mapping[str, object] | None = None,
    output: str | os.PathLike[str] | Mapping[str, object] | None = None,
    out: TextIO | None = None,
    quiet: bool = False,
    **fields: object,
) -> pa.Table:
    """Generate an answer for each of the `rows`: texts (user messages), mappings, or a table. Returns the columns of the output
    (`batchgen help output`), in the order of the rows; a row that cannot be answered has status 'error'. The other arguments are
    fields of a job (`batchgen help job`), but that `limits.errors` is 1 and `output` a temporary folder where they are not given;
    with an `output` the same call resumes. `out` and `quiet` are those of `run`.

    In a thread with a running event loop (a notebook), the job runs in another thread: Ctrl-C drains it, a second one leaves it.
    Raises BatchgenError."""

    def call(stopping: Callable[[], bool]) -> pa.Table:
        with contextlib.ExitStack() as held:
            to = dict(output) if isinstance(output, Mapping) else {"path": os.fspath(output)} if output is not None else {}
            is_kept = "path" in to
            if not is_kept:
                to["path"] = held.enter_context(tempfile.TemporaryDirectory(prefix="batchgen-"))
            job = {"name": "generate", **fields, "output": to, "limits": {"errors": 1, **_mapping("limits", fields)}}
            if model is not None:
                job["model"] = dict(model) if isinstance(model, Mapping) else os.fspath(model)
            if sampling is not None:
                job["sampling"] = dict(sampling)
            return _answered(job, rows, dict(input or {}), out, quiet, is_kept, stopping)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call(lambda: False)
    return in_thread(call)


def in_thread(call: Callable[[Callable[[], bool]], T]) -> T:
    """The result of a call in a thread of its own. The call is told whether to stop: after a KeyboardInterrupt here, which is
    raised when it has ended; a second one does not wait for that. SIGINT is one meanwhile: asyncio.run's own handler cancels a
    task, which would hear of it when the call has ended."""
    ended, stop, context = Future[T](), threading.Event(), contextvars.copy_context()
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.default_int_handler) if is_main else None

    def work() -> None:
        try:
            ended.set_result(context.run(call, stop.is_set))
        except BaseException as error:
            ended.set_exception(error)

    try:
        threading.Thread(target=work, name="batchgen", daemon=True).start()
        return ended.result()
    except KeyboardInterrupt:
        stop.set()
        ended.exception()
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _answered(
    fields: dict[str, object],
    rows: Rows,
    given: dict[str, object],
    out: TextIO | None,
    quiet: bool,
    is_kept: bool,
    stopping: Callable[[], bool],
) -> pa.Table:
    """The answers of a job without an input, which is made of the rows."""
    import pyarrow as pa

    from batchgen.job.job import Job
    from batchgen.output.output import Output
    from batchgen.output.store import open_store
    from batchgen.run import run

    if taken := next((name for name in ("path", "format") if name in given), None):
        raise JobError(f"input.{taken}: the rows are the input", "leave it out, or read a file by batchgen.run")
    job = Job.parse({**fields, "input": {**given, "path": FOLDER}}, "generate")  # before a shard is written for it
    store = open_store(job.output.path)
    name, data, is_text = _shard(rows)
    if is_text and job.input.is_open:
        given["prompt"] = "prompt"
    source = {**given, "path": _written(store, name, data), "format": name.rpartition(".")[2]}
    job = Job.parse({**fields, "input": source}, "generate")
    run(job, out=out, quiet=quiet, summary=is_kept, stopping=stopping)
    tables = [table.replace_schema_metadata(None) for table in Output.open(store).tables()]
    return pa.concat_tables(tables).combine_chunks()


def _mapping(name: str, fields: Mapping[str, object]) -> dict[str, object]:
    """A field of a job as a mapping. Raises JobError."""
    value = fields.get(name, {})
    if not isinstance(value, Mapping):
        raise JobError(f"generate: {name}: expected a mapping of fields, got {type(value).__name__}")
    return dict(value)


def _shard(rows: Rows) -> tuple[str, bytes, bool]:
    """The rows as a file: its name, its bytes, and whether the rows are texts, which have the column `prompt`. Raises
    InputError."""
    if isinstance(rows, str | bytes | Mapping) or not (hasattr(rows, "__iter__") or hasattr(rows, "__arrow_c_stream__")):
        raise InputError(f"rows: a {type(rows).__name__}", "give a list of texts, a list of mappings, or a table")
    if (table := _table(rows)) is not None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(None), sink, row_group_size=GROUP_ROWS)
        found, is_text = ("rows.parquet", sink.getvalue().to_pybytes()), False
        count = table.num_rows
    else:
        lines = [_line(number, row) for number, row in enumerate(rows)]  # type: ignore[arg-type]
        is_text = all(is_text for _, is_text in lines)
        found, count = ("rows.jsonl", b"".join(line for line, _ in lines)), len(lines)
    if not count:
        raise InputError("rows: there are none")
    return *found, is_text


def _table(rows: object) -> pa.Table | None:
    """The rows of a table; None for other rows, and for a column of one. The index of a data frame is left out unless it has a
    name. Raises InputError."""
    import pyarrow as pa

    pandas, datasets = (sys.modules.get(name) for name in ("pandas", "datasets"))
    try:
        if pandas is not None and isinstance(rows, pandas.DataFrame):
            return pa.Table.from_pandas(rows, preserve_index=any(name is not None for name in rows.index.names))
        if datasets is not None and isinstance(rows, datasets.Dataset):
            return rows.with_format("arrow")[:]
        is_table = hasattr(rows, "__arrow_c_stream__") and (hasattr(rows, "columns") or hasattr(rows, "schema"))
        return pa.table(rows) if is_table else None
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"rows: a {type(rows).__name__} that Arrow cannot take: {safe_message(error)}") from None


def _line(number: int, row: object) -> tuple[bytes, bool]:
    """A row as a line of JSON, and whether it is a text. Raises InputError."""
    if not isinstance(row, str | Mapping):
        raise InputError(f"rows[{number}]: a {type(row).__name__}", "a row is a text, or a mapping of column to value")
    is_text = isinstance(row, str)
    try:
        text = json.dumps({"prompt": row} if is_text else row, ensure_ascii=False, default=_plain)
        return text.encode() + b"\n", is_text
    except (TypeError, ValueError, RecursionError) as error:  # half of a surrogate pair, too
        raise InputError(f"rows[{number}]: {safe_message(error)}", "dates, bytes and the like: give a table") from None


def _plain(value: object) -> object:
    """A value for JSON that json does not know: numbers and arrays of numpy, other mappings. Raises TypeError."""
    if isinstance(value, Mapping):
        return dict(value)
    if callable(made := getattr(value, "tolist", None)):
        return made()
    raise TypeError(f"a value of type {type(value).__name__} has no JSON")


def _written(store: Store, name: str, data: bytes) -> str:
    """Where the rows stand. Raises OutputConflict where the output of a job is of other rows."""
    from batchgen.output import job_file

    path = f"{FOLDER}/{name}"
    if store.get(job_file.NAME) is not None:
        if not _same(store.get(path), data, name):
            raise OutputConflict(f"output {store.url} has answers to other rows", "give the same rows, or choose another output")
    elif store.get(path) != data:  # no job was begun with what is there
        store.put(path, data)
    return f"{store.url}/{path}"


def _same(there: bytes | None, data: bytes, name: str) -> bool:
    """Whether two files have the same rows; another release of pyarrow writes other bytes for them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if there is None or there == data or not name.endswith(".parquet"):
        return there == data
    tables = [pq.read_table(pa.BufferReader(each)) for each in (there, data)]
    return bool(tables[0].equals(tables[1]))
