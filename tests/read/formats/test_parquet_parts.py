"""A job whose input is the output of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import BatchgenError, InputError, JobError, OutputConflict
from batchgen.job.job import Job
from batchgen.output import plan_file
from batchgen.prepare import prepare
from tests.support.finished import ROWS, Finished

LABEL = {"messages": "messages", "continue_final_message": False, "keep": ["prompt", "row", "sample", "completion_tokens"]}


def folder(path: Path, name: str) -> Path:
    (path / name).mkdir(exist_ok=True)
    return path / name


@pytest.fixture
def first(tmp_path: Path) -> Finished:
    """30 rows of two samples in three spans, six rows refused, and a line that is no JSON."""
    return Finished(folder(tmp_path, "first"))


@pytest.fixture
def second(first: Finished, tmp_path: Path) -> Finished:
    return chained(first, tmp_path)


def chained(first: Finished, tmp_path: Path, **fields: Any) -> Finished:
    source = {"path": first.store.url, **LABEL}
    made = {"input": source, "sampling": {"n": 1, "temperature": 0.5}, "engine": {"kind": "echo"}, "spans": {"rows": 7}}
    return Finished(folder(tmp_path, "second"), **(made | fields))


def test_every_ok_row_is_read_once_and_no_other(first: Finished, second: Finished) -> None:
    rows = second.rows()
    assert len(rows) == len(first.rows(status="ok")) == 2 * (ROWS - ROWS // 5)
    of_first = {(row["row"], row["sample"]): row for row in first.rows()}
    for row in rows:
        source = of_first[row["input_row"], row["input_sample"]]
        assert source["status"] == "ok"
        assert (row["prompt"], row["input_completion_tokens"]) == (source["prompt"], source["completion_tokens"])
        assert row["messages"][:-1] == source["messages"]
    assert second.output.verify().problems == []


def test_how_the_rows_were_made_is_not_how_the_next_ones_are(first: Finished, second: Finished) -> None:
    assert {row["sampling"]["n"] for row in first.rows(status="ok")} == {2}
    assert {(row["sampling"]["n"], row["sampling"]["temperature"]) for row in second.rows()} == {(1, 0.5)}


def test_a_retry_of_the_first_job_grows_the_input_of_the_second(first: Finished, second: Finished) -> None:
    before = {row["prompt_hash"] for row in second.rows()}
    first.mend()
    assert first.retry("engine_rejected") == 2 * ROWS // 5
    first.run()
    assert second.run() == 2 * ROWS // 5
    assert len(second.rows()) == 2 * ROWS
    assert {row["prompt"] for row in second.rows()} == {row["prompt"] for row in first.rows(status="ok")}
    assert before < {row["prompt_hash"] for row in second.rows()}
    assert second.output.verify().problems == []
    assert second.run() == 0


def test_failed_rows_of_the_second_job_are_run_again_alone(first: Finished, tmp_path: Path) -> None:
    second = chained(first, tmp_path, engine={"kind": "echo", "options": {"reject_on": "row 7"}})
    assert len(second.rows(status="error")) == 2
    second.fields["engine"] = {"kind": "echo"}
    assert second.retry() == 2
    assert second.run() == 2
    assert second.output.verify().problems == []
    assert second.output.verify().rows_error == 0


def test_the_output_of_a_job_that_is_not_done_is_no_input(first: Finished, tmp_path: Path) -> None:
    first.store.delete(plan_file.SUCCESS)
    with pytest.raises(InputError, match=r"the job of this output is not done; run it to its end first"):
        chained(first, tmp_path)


def test_the_fingerprint_follows(first: Finished, second: Finished, tmp_path: Path) -> None:
    assert second.output.job.meaning["input.fingerprints"] == [first.output.job.fingerprint]
    other = Finished(folder(tmp_path, "other"), sampling={"n": 2, "temperature": 0.1})
    second.fields["input"]["path"] = other.store.url
    with pytest.raises(OutputConflict, match=r"input\.fingerprints: \['"):
        prepare(Job.parse(second.fields), second.store)


def test_a_job_does_not_read_what_it_writes(first: Finished) -> None:
    fields = first.fields | {"input": {"path": first.store.url + "/", "messages": "messages"}}
    with pytest.raises(JobError, match="it is the job's own output"):
        prepare(Job.parse(fields))


def test_parts_that_are_named_as_files_are_files(first: Finished, tmp_path: Path) -> None:
    second = chained(
        first, tmp_path, input={"path": f"{first.store.url}/data", "prompt": "prompt", "keep": ["status"]}, limits={"errors": 1}
    )
    assert len({(row["shard"], row["row"]) for row in second.rows()}) == len(first.rows()) == 2 * ROWS + 2


@pytest.mark.parametrize("which", ["part", "folder"])
def test_a_link_in_an_output_is_not_followed(first: Finished, tmp_path: Path, which: str) -> None:
    data = Path(first.store.url.removeprefix("file://")) / "data"
    taken = data if which == "folder" else min(data.iterdir())
    away = tmp_path / "away"
    taken.rename(away)
    taken.symlink_to(away)
    try:
        with pytest.raises(BatchgenError, match="symbolic link"):
            chained(first, tmp_path)
    finally:
        taken.unlink()
        away.rename(taken)
