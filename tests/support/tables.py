"""Tables as an input: shards of Parquet in a folder, and the rows of an output over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.job import Job
from batchgen.output.output import Output
from batchgen.output.store import LocalStore
from batchgen.prepare import prepare
from tests.support.finished import run_here


def answered(folder: Path, **fields: Any) -> list[dict[str, Any]]:
    """The rows of an output over the folder `in`."""
    given = {"engine": {"kind": "echo"}, "output": {"path": str(folder / "out")}, **fields}
    given["input"] = {"path": str(folder / "in"), "prompt": "prompt", **fields.get("input", {})}
    run_here(prepare(Job.parse(given)), LocalStore(folder / "out"))
    output = Output.open(str(folder / "out"))
    assert output.verify().problems == []
    return list(output.rows())


def write(folder: Path, *shards: dict[str, Any], **options: Any) -> None:
    (folder / "in").mkdir()
    for number, columns in enumerate(shards):
        pq.write_table(pa.table(columns), folder / f"in/{number:03}.parquet", **options)
