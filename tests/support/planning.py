"""What the tests of plans have in common: jobs over small inputs, their plans, shards that are written and rewritten."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.job import Job
from batchgen.output import job_file
from batchgen.output.plan_file import Plan
from batchgen.output.store import Store
from batchgen.plan import plan
from batchgen.read.columns import look
from batchgen.read.discover import discover
from batchgen.records import Shard, Span
from batchgen.render.model_files import load_model


def make_job(path: str | Path, **sections: Any) -> Job:
    sections["input"] = {"path": str(path), "prompt": "prompt", **sections.get("input", {})}
    return Job.parse({"engine": {"kind": "echo"}, "output": {"path": "unused"}, **sections})


def make(job: Job, known: Iterable[Shard] = ()) -> tuple[list[Shard], list[Span]]:
    found = discover(job.input)
    return plan.make_plan(job, found, look(job, found), tuple(known))


def freeze(job: Job, store: Store) -> Plan:
    found = discover(job.input)
    return plan.freeze_plan(job, store, found, look(job, found))


def freeze_output(job: Job, store: Store) -> tuple[pa.Schema, Plan]:
    """The carried columns and the plan of an output that has neither model nor parts."""
    found = discover(job.input)
    columns = look(job, found)
    job_file.freeze(store, job, load_model(None), columns.kept)
    return columns.kept, plan.freeze_plan(job, store, found, columns)


def lines(*numbers: int) -> str:
    return "".join(f'{{"prompt": {number}}}\n' for number in numbers)


def write_parquet(path: Path, count: int) -> Path:
    pq.write_table(pa.table({"prompt": list(range(count))}), path)
    return path


def touch(path: Path) -> None:
    """Give a file a later time, as a rewrite does."""
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
