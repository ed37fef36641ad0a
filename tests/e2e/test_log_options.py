"""`-v` and `-q` of the verbs that run a job."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.commands import batchgen, status, write_job

pytestmark = pytest.mark.cluster
RECORD = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} [A-Z]+ batchgen\.\w+ job=small replica=[-\d]+ span=\S+ "


def test_v_prints_the_records_of_the_driver_and_q_nothing_that_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two refused"}\n')
    picky = {"kind": "echo", "options": {"reject_on": "refused"}}
    source = {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"}
    job = write_job(tmp_path, name="small", input=source, engine=picky, limits={"errors": 1})
    first = batchgen("run", job, "-v")
    assert first.returncode == 0, first.stderr
    said = [line for line in first.stderr.splitlines() if re.match(RECORD, line)]
    for words in ("joined|uses|starts a local", "asked for", "ready on node", "block .* assigned", r"span=\d.* committed: "):
        assert [line for line in said if re.search(words, line)], f"{words}: {first.stderr}"
    assert "2 rows: 1 ok, 1 error" in first.stderr, "what a person reads stays"

    again = batchgen("retry", str(tmp_path / "out"), "-q", "--set", "engine.options={}")
    ours = [line for line in again.stderr.splitlines() if "network_util.cc" not in line]  # Ray, on a machine without a network
    assert (again.returncode, ours) == (0, [])
    assert status(tmp_path)["rows_ok"] == 2
