"""What the tests of reading have in common: an input planned as `run` plans it, its rows and carried columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.plan import plan
from batchgen.plan.plan import Columns
from batchgen.read import reader
from batchgen.records import Row, Shard, Span
from tests.support.planning import make_job

NONE = pa.schema([])


def spec(**fields: Any) -> Input:
    return Input(path="unused", prompt="prompt", **fields)


def planned(path: Path, **sections: Any) -> tuple[Job, Columns, list[Shard], list[Span]]:
    """Job, columns, shards and spans of an input."""
    job = make_job(path, **sections)
    found = plan.discover(job.input)
    columns = plan.look(job, found)
    return job, columns, *plan.make_plan(job, found, columns)


def read_all(path: Path, **sections: Any) -> tuple[list[Row], pa.Table]:
    """Rows and carried columns of an input of one shard, as `run` would read them."""
    job, columns, [shard], spans = planned(path, **sections)
    parts = list(reader.read_spans(job.input, shard, spans, columns.kept, {"prompt"}))
    return [row for _, rows, _ in parts for row in rows], pa.concat_tables([table for _, _, table in parts])
