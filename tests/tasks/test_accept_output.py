"""Rejected rows in an output: what is kept, tried again, resumed, verified."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from batchgen.engines.base import Request
from batchgen.errors import InputError, JobError, OutputConflict
from batchgen.job.job import Job
from batchgen.output import parts
from batchgen.output.format import read_parquet
from batchgen.output.store import open_store
from batchgen.output.trust.doors import refuse_doors
from batchgen.records import Answer
from batchgen.records.columns import ATTEMPTS
from batchgen.replica import journal
from tests.support.finished import Finished
from tests.support.replicas import blocks, prepared, ran, replica

LINES = [f'{{"prompt": "row {number} of many words"}}' for number in range(30)]
SHORT = {"sql": "length(response) % 2 = 0"}


def test_a_run_verifies_and_a_retry_runs_the_rejected_rows_again(tmp_path: Path) -> None:
    output = Finished(tmp_path, LINES, accept=SHORT, errors={"rejected": {"retry": 1}}, limits={"errors": 1}, sampling={"n": 2})
    assert output.output.verify().problems == []
    rejected = output.rows(error_code="rejected")
    assert 0 < len(rejected) < 40
    assert {row["attempt"] for row in rejected} == {2}
    assert all(len(row["response"]) % 2 == 1 and len(row["attempts"]) == 1 for row in rejected)
    assert all(len(row["response"]) % 2 == 0 for row in output.rows(status="ok"))
    seconds = [row for row in output.rows(status="ok") if row["attempt"] == 2]
    assert {row["attempts"][0]["error_code"] for row in seconds} == {"rejected"}
    assert all(row["attempts"][0]["response"] != row["response"] for row in seconds)
    assert (output.retry(), output.run()) == (len(rejected), len(rejected))
    assert output.output.verify().problems == []
    assert output.status()["rows_ok"] > 60 - len(rejected)
    assert {row["attempt"] for row in output.rows() if row["attempt"] > 2} == {3, 4}
    assert output.status()["errors"].get("rejected", 0) == output.status()["rows_error"]


def test_the_columns_do_not_depend_on_the_policy_which_may_change(tmp_path: Path) -> None:
    output = Finished(tmp_path, LINES, accept=SHORT, limits={"errors": 1})
    assert read_parquet(output.store, parts.part_name(output.plan.spans[0].name)).schema.field("attempts").type == ATTEMPTS
    assert {tuple(row["attempts"]) for row in output.rows()} == {()}
    output.fields["errors"] = {"rejected": {"retry": 3}}
    assert output.retry("rejected") > 0
    output.run()
    assert output.output.verify().problems == []


def test_another_rule_under_an_output_is_refused_and_dedupe_is_not(tmp_path: Path) -> None:
    output = Finished(tmp_path, LINES, accept=SHORT, limits={"errors": 1})
    output.fields["dedupe"] = True
    assert output.run() == 0
    output.fields["accept"] = {"sql": "length(response) % 3 = 0"}
    with pytest.raises(OutputConflict, match=r"accept.sql: 'length\(response\) % 2 = 0' there, 'length\(response\) % 3"):
        output.run()
    del output.fields["accept"]
    with pytest.raises(OutputConflict, match=r"accept.sql"):
        output.run()


def test_a_stored_function_is_not_run_without_a_word() -> None:
    fields = {"input": {"path": "x", "prompt": "p"}, "output": {"path": "o"}, "engine": {"kind": "echo"}}
    job = Job.parse({**fields, "accept": {"function": "evil:answers"}})
    with pytest.raises(InputError, match=r"accept.function: 'evil:answers'"):
        refuse_doors(job, [], "out")
    refuse_doors(job, ["accept"], "out")


class Stops:
    """An engine whose first answers are bad; it answers no more once it has had `left` requests."""

    capacity, workers = 4, 1

    def __init__(self, left: int, dies: asyncio.Event) -> None:
        self.left, self.dies = left, dies

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def probe(self) -> None: ...

    async def generate(self, request: Request) -> list[Answer]:
        self.left -= 1
        if self.left < 0:
            self.dies.set()
            await asyncio.sleep(3600)
        text = "good" if request.sampling.temperature == 0.5 else "bad"
        return [Answer(text, 1, "stop", prompt_logprobs=None)]


def test_after_a_kill_the_rows_and_their_attempts_come_from_the_journal(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "accept": {"regex": "good"},
        "errors": {"rejected": {"retry": 1, "sampling": {"temperature": 0.5}}},
        "spans": {"rows": 100, "journal_seconds": 0.05},
        "dedupe": True,
        "sampling": {"seed": 1},
    }
    rows = [{"prompt": f"row {number}", "sampling": {"seed": 5}} for number in range(8)]
    made = prepared(tmp_path, rows, **fields)
    [block] = blocks(made)

    async def killed() -> None:
        dies = asyncio.Event()
        worker = replica(made, Stops(11, dies))
        await worker.start()
        running = asyncio.create_task(worker.run(block))
        await dies.wait()
        await asyncio.sleep(0.3)
        running.cancel()

    asyncio.run(killed())
    store = open_store(made.job.output.path)
    [span] = journal.spans(store)
    found, _ = journal.load(store, span)
    assert found
    assert {completion.attempts[0]["response"] for [completion] in found.values() if completion.attempts} == {"bad"}
    receipt = ran(replica(made, Stops(1000, asyncio.Event()), journaled=[span]), block)
    assert receipt.from_journal == len(found)
    for row in read_parquet(store, parts.part_name(span)).to_pylist():
        assert (row["status"], row["response"], row["attempt"]) == ("ok", "good", 2)
        assert [attempt["response"] for attempt in row["attempts"]] == ["bad"]


def test_a_job_file_says_it_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        """
input: {path: in.jsonl, prompt: prompt}
engine: {kind: echo}
accept:
  regex: "[a-z]"
  schema: {type: object}
  sql: length(response) > 20
  judge:
    template: "Is this good? {{ response }}"
    schema: {properties: {score: {minimum: 3}}, required: [score]}
    sampling: {max_tokens: 20}
errors:
  rejected: {retry: 3, sampling: {temperature: 1.0}}
dedupe: true
output: out
"""
    )
    job = Job.load(tmp_path / "job.yaml")
    assert job.accept is not None
    assert job.accept.judge is not None
    assert job.accept.judge.schema_ == '{"properties":{"score":{"minimum":3}},"required":["score"]}'
    assert Job.load(tmp_path / "job.yaml", ["accept.regex='[0-9]'"]).accept != job.accept
    with pytest.raises(JobError, match="accept: give at least one"):
        Job.load(tmp_path / "job.yaml", ["accept={}"])
