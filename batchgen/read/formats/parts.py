"""An output as the input of another job: its `ok` rows, each once.

A row that failed is left out. A retry of the other job that mends it adds a part, which grows the input of this one. The other
job's fingerprint is part of what this one's rows mean.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import InputError, JobError
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.output import job_file
from batchgen.output.job_file import JobFile
from batchgen.output.parts import DATA
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import open_store
from batchgen.read import tables
from batchgen.read.location import format_of

FORMAT = "output"
"""Of a shard that is a part of another job's output."""
SETTINGS = {"sampling"}
"""Columns of an output that say how its rows were made, and would be taken for how the next ones are to be."""
ORDINAL = "\0ordinal"


def job_of(path: str) -> JobFile | None:
    """The job whose output the path is, None where it is no output. Raises OutputConflict for a damaged one."""
    if glob.has_magic(path) or path.startswith("hf://") or format_of(path) or ("://" not in path and not os.path.isdir(path)):
        return None
    return job_file.load(open_store(path))


def parts_path(path: str) -> str:
    """Where the parts of a finished output are. Raises InputError where its job is not done."""
    store = open_store(path)
    if store.get(SUCCESS) is None:
        raise InputError(f"input.path {path}: the job of this output is not done", "run it to its end first")
    return f"{path.rstrip('/')}/{DATA}"


def refuse_own(job: Job) -> None:
    """Raises JobError for a job that reads what it writes."""
    own = open_store(job.output.path).url.rstrip("/")
    for path in job.input.paths:
        place = path if "://" in path else os.path.abspath(path)
        if place.rstrip("/") in (own, os.path.abspath(own)):
            raise JobError(f"input.path {path}: it is the job's own output", "give output.path another place")


def fingerprints(spec: Input) -> list[str]:
    """Of the jobs whose outputs the input is."""
    jobs = [job_of(path) for path in spec.paths] if spec.format == "auto" else []
    return [job.fingerprint for job in jobs if job is not None]


def ok_positions(name: str) -> npt.NDArray[np.int64]:
    """Where the `ok` rows of a part stand in it. Raises InputError."""
    file, _ = tables.open_parquet(name)
    try:
        ok = pc.equal(file.read(columns=["status"]).column("status"), "ok")
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(f"shard {name}: damaged part of an output: {error}") from None
    return np.flatnonzero(ok.to_numpy())


def ok_rows(batches: Iterator[pa.Table], start: int) -> Iterator[pa.Table]:
    """The `ok` rows of adjoining tables, the first of which begins at position `start`, and their positions as column ORDINAL."""
    for batch in batches:
        ordinals = pa.array(np.arange(start, start + batch.num_rows))
        start += batch.num_rows
        yield batch.append_column(ORDINAL, ordinals).filter(pc.equal(batch.column("status"), "ok"))
