"""What the tests of reading have in common: an input planned as `run` plans it, its rows and carried columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from batchgen.job.job import Job
from batchgen.plan import plan
from batchgen.prepare import Prepared
from batchgen.read import reader
from batchgen.read.columns import InputColumns, look
from batchgen.read.discover import discover
from batchgen.records import Row, Shard, Span
from tests.support.planning import make_job

NONE = pa.schema([])


def job_of(**fields: Any) -> Job:
    """A job over an input that is not looked at."""
    return make_job("unused", input={"prompt": "prompt"} | fields)


def planned(path: Path, **sections: Any) -> tuple[Job, InputColumns, list[Shard], list[Span]]:
    """Job, columns, shards and spans of an input."""
    job = make_job(path, **sections)
    found = discover(job.input)
    columns = look(job, found)
    return job, columns, *plan.make_plan(job, found, columns)


def read_all(path: Path, **sections: Any) -> tuple[list[Row], pa.Table]:
    """Rows and carried columns of an input of one shard, as `run` would read them."""
    job, columns, [shard], spans = planned(path, **sections)
    parts = list(reader.read_spans(job, shard, spans, columns.kept, {"prompt"}))
    return [row for _, rows, _ in parts for row in rows], pa.concat_tables([table for _, _, table in parts])


def read_prepared(made: Prepared) -> tuple[list[Row], list[dict[str, Any]]]:
    """The rows of a job that was looked at, as they are laid out, and what is carried of them."""
    shards, spans = plan.make_plan(made.job, made.found, made.columns)
    rows: list[Row] = []
    carried: list[dict[str, Any]] = []
    for shard in shards:
        mine = [span for span in spans if span.shard == shard.index]
        for _, some, table in reader.read_spans(made.job, shard, mine, made.columns.kept, made.renderer.needed):
            rows += some
            carried += table.to_pylist()
    return rows, carried


def hostile_column(extension: Any, shape: str) -> pa.Array:
    """A column of an extension type, plain or inside a struct or a list."""
    inner = pa.ExtensionArray.from_storage(extension(), pa.array(["a", "b"]))
    if shape == "struct":
        return pa.StructArray.from_arrays([inner], names=["x"])
    return pa.ListArray.from_arrays([0, 1, 2], inner) if shape == "list" else inner
