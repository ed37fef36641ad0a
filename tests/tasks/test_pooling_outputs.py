"""Outputs of the tasks that read numbers, in the hands of all that reads outputs: verify, status, retry, exports, chains."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchgen import terminal
from batchgen.check import check, prompts
from batchgen.errors import InputError
from batchgen.export import card, jsonl, openai
from batchgen.export.files import export
from batchgen.job.job import Job
from batchgen.job.pooling import POOLED
from batchgen.output import progress
from batchgen.output.output import Output
from batchgen.output.store import open_store
from batchgen.prepare import prepare
from tests.support.finished import run_here
from tests.support.rendering import TINY

DOCUMENTS = ["one", "two"]
ROWS: list[dict[str, Any]] = [
    {"prompt": f"question {number}", "doc": "one", "docs": DOCUMENTS[: 1 + number % 2]} for number in range(6)
]
ROWS[2] = {"prompt": None, "doc": None, "docs": []}


def made(folder: Path, task: str, name: str = "out", **fields: Any) -> Output:
    """The finished output of ROWS, or of another output."""
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    documents = {"documents": "doc" if task == "score" else "docs"} if task in ("score", "rerank") else {}
    spec = {"path": str(folder / "in.jsonl"), "prompt": "prompt", **documents, **fields.pop("input", {})}
    engine = {"kind": "echo"}
    job = Job.parse({"input": spec, "task": task, "engine": engine, "model": str(TINY), "output": str(folder / name), **fields})
    store = open_store(job.output.path)
    run_here(prepare(job, store), store)
    return Output.open(store)


@pytest.mark.parametrize("task", POOLED)
def test_an_output_of_numbers_is_proven_counted_retried_and_exported(tmp_path: Path, task: str) -> None:
    output = made(tmp_path, task)
    verdict = output.verify()
    assert (verdict.problems, verdict.rows_ok, verdict.rows_error) == ([], 5, 1)
    status = output.status()
    assert (status["rows_ok"], status["rows_error"], status["completion_tokens"]) == (5, 1, 0)
    assert status["prompt_tokens"] == sum(row["prompt_tokens"] for row in output.rows()) > 0
    assert output.retry(["input"]) == 1
    again = made(tmp_path, task)
    assert again.verify().problems == []
    assert [row["attempt"] for row in again.rows()] == [1, 1, 2, 1, 1, 1]
    assert export(again, jsonl.export, tmp_path / "to") == {"rows.jsonl": 6}
    lines = [json.loads(line) for line in (tmp_path / "to/rows.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines].count("ok") == 5
    if task == "embed":
        assert export(again, openai.export, tmp_path / "to") == {"output.jsonl": 5, "errors.jsonl": 1}
        return
    with pytest.raises(InputError, match=f"it is of task {task}, .* export it with --format jsonl"):
        export(again, openai.export, tmp_path / "to")


def test_embeddings_are_the_input_of_other_jobs(tmp_path: Path) -> None:
    first = made(tmp_path, "embed", "first")
    said = made(tmp_path, "generate", "said", input={"path": first.url})
    again = made(tmp_path, "embed", "again", input={"path": first.url}, pooling={"max_tokens": 2})
    kind = pa.list_(pa.float32(), 128)
    assert said.job.schema.field("embedding").type == again.job.schema.field("input_embedding").type == kind
    vectors = [row["embedding"] for row in first.rows() if row["status"] == "ok"]
    assert [row["embedding"] for row in said.rows()] == [row["input_embedding"] for row in again.rows()] == vectors
    assert [row["prompt_tokens"] for row in again.rows()] == [2] * 5


def test_a_summary_and_a_card_speak_of_numbers(tmp_path: Path) -> None:
    output, out = made(tmp_path, "embed"), io.StringIO()
    tally = progress.load_tally(output.store, output.plan, output.parts())
    terminal.print_summary(tally, output.store, output.plan, [], out)
    assert f"6 rows: 5 ok, 1 error; {tally.counts.prompt_tokens} tokens read in 0.0 s" in out.getvalue()
    assert "generating" not in out.getvalue()
    output.store.delete(card.NAME)
    card.write(output.store, output.job.job)
    assert b"`embedding` is the vector of the text" in (output.store.get(card.NAME) or b"")


def test_check_reads_pairs_and_shows_their_tokens(tmp_path: Path) -> None:
    output = made(tmp_path, "rerank")
    prepared = prepare(output.job.job)
    found = check(prepared)
    assert (found.rows, found.bad, found.errors, found.planned_rows) == (6, 1, {"input": 1}, 6)
    shown = prompts(prepared, 2)
    assert (shown[1]["text"], shown[1]["sampling"]) == ("question 1\none\ntwo", None)
    assert len(shown[1]["token_ids"]) > len(shown[0]["token_ids"])
