"""What the tests of queries have in common: rows to ask, jobs with a query, what it finds, what is said of a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.prepare import prepare
from tests.support.reading import read_prepared as read

ROWS = [{"id": n, "lang": "en" if n % 2 else "ja", "prompt": f"say {n}"} for n in range(100)]


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def job_of(path: Path, query: str, output: str | None = None, **given: Any) -> Job:
    of_input = {"path": str(path), "query": query, "prompt": "prompt", **given.pop("input", {})}
    of_input = {name: value for name, value in of_input.items() if value is not None}
    out = {"path": output or str(path.parent / "out")}
    return Job.parse({"input": of_input, "engine": {"kind": "echo"}, "output": out, **given})


def asked(path: Path, query: str, **given: Any) -> list[dict[str, Any]]:
    """The carried columns of what a query finds."""
    return read(prepare(job_of(path, query, **given)))[1]


def wrong(path: Path, query: str, error: type[Exception] = JobError, **given: Any) -> str:
    with pytest.raises(error) as caught:
        prepare(job_of(path, query, **given))
    return str(caught.value)
