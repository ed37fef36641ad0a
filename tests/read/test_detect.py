"""What an input is, by its columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import JobError
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.prepare import prepare
from batchgen.read.detect import columns_of, detect, shape_of, with_prompt
from batchgen.read.discover import discover
from batchgen.read.layouts import JobLayout
from batchgen.records import Row
from tests.support.finished import Finished

ASKED = [{"role": "user", "content": "Why?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "Because."}]
SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
HELPSTEER = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 4)
BATCH = {"custom_id": "a", "method": "POST", "body": {"model": "m", "messages": ASKED}}
ANEW, ALPACA = {"drop_last_answer": True}, {"instruction": "instruction"}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "messages": ({"messages": ASKED}, {"messages": "messages"}, "Why?"),
    "messages under another name": ({"talk": ASKED, "n": 1}, {"messages": "talk"}, "Why?"),
    "messages with an answer": ({"messages": ANSWERED}, {"messages": "messages", **ANEW}, "Why?"),
    "sharegpt": ({"id": "x", "conversations": SHAREGPT}, {"conversations": "conversations", "id": "id", **ANEW}, "Why?"),
    "sharegpt with a system column": (
        {"conversations": SHAREGPT, "system": "Be brief."},
        {"conversations": "conversations", "system": {"column": "system"}, **ANEW},
        "Why?",
    ),
    "alpaca": ({"instruction": "Translate", "input": "tea", "output": "茶"}, {**ALPACA, "context": "input"}, "Translate\ntea"),
    "alpaca without an input": ({"instruction": "Sing", "input": "", "output": "la"}, {**ALPACA, "context": "input"}, "Sing"),
    "dolly": (
        {"instruction": "Sum up", "context": "A text", "response": "r", "category": "qa"},
        {**ALPACA, "context": "context"},
        "Sum up\nA text",
    ),
    "instruction alone": ({"instruction": "Sing", "output": "la"}, {"prompt": "instruction"}, "Sing"),
    "prompt before all": ({"text": "no", "prompt": "yes", "question": "no"}, {"prompt": "prompt"}, "yes"),
    "question": ({"question": "Why?", "answer": "Because."}, {"prompt": "question"}, "Why?"),
    "capitals": ({"Question": "Why?", "ID": 3}, {"prompt": "Question", "id": "ID"}, "Why?"),
    "the only text": ({"frage": "Warum?", "answer": "Darum."}, {"prompt": "frage"}, "Warum?"),
    "turns": (
        {"question_id": 81, "category": "writing", "turns": ["One", "Two"]},
        {"turns": "turns", "id": "question_id"},
        "One",
    ),
    "helpsteer": ({"prompt": "Why?", "response": "r", **HELPSTEER}, {"prompt": "prompt"}, "Why?"),
    "odd names": (
        {"my instruction": "x", "Instruction": 'a "b"', "Input": "c"},
        {"instruction": "Instruction", "context": "Input"},
        'a "b"\nc',
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_layouts_in_use_are_known_and_read(name: str) -> None:
    row, wanted, first = ROWS[name]
    found = detect({column: shape_of([value]) for column, value in row.items()})
    assert found is not None
    assert found.rivals == ()
    assert found.fields == wanted
    job = Job.parse({"input": {"path": "in.jsonl", **found.fields}, "engine": {"kind": "echo"}, "output": "out"})
    laid = JobLayout(job).lay_out(Row(0, row), "in.jsonl")
    assert laid.error is None
    assert laid.messages is not None
    assert [message["content"] for message in laid.messages if message["role"] == "user"] == [first]


def test_a_batch_file_is_known() -> None:
    found = detect({name: shape_of([value]) for name, value in BATCH.items()})
    assert found is not None
    assert found.fields == {"format": "openai-batch"}


def test_columns_of_attributes_are_told() -> None:
    found = detect(dict.fromkeys(HELPSTEER, "integer") | {"prompt": "text", "humor": "text"})
    assert found is not None
    assert set(found.steering) == set(HELPSTEER)


@pytest.mark.parametrize(
    ("columns", "rivals"),
    [
        ({"question": "text", "query": "text"}, ("query",)),
        ({"a": "text", "b": "text"}, None),
        ({"n": "integer"}, None),
        ({}, None),
    ],
)
def test_columns_that_do_not_tell(columns: Any, rivals: tuple[str, ...] | None) -> None:
    found = detect(columns)
    assert (found.rivals if found else None) == rivals


def test_a_named_column_is_read_by_its_shape() -> None:
    columns: Any = {"a": "text", "b": "messages", "c": "texts", "d": "sharegpt", "n": "integer"}
    named = {name: detect(columns, name) for name in "abcd"}
    keys = [next(iter(found.fields)) for found in named.values() if found]
    assert keys == ["prompt", "messages", "turns", "conversations"]
    with pytest.raises(JobError, match="--prompt n: a column of integer values, which makes no prompt"):
        detect(columns, "n")
    with pytest.raises(JobError, match="--prompt x: no such column in the input; its columns are a, b, c, d, n"):
        detect(columns, "x")


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        (["a", None, "b"], "text"),
        ([True], "other"),
        ([1, 2], "integer"),
        ([None], "null"),
        (["a", 1], "other"),
        (["a"] * 19 + [1], "text"),
        ([ASKED, ANSWERED, ANSWERED], "answered"),
        ([[]], "other"),
        ([[{"role": "user"}]], "other"),
    ],
)
def test_the_shape_of_a_column_is_that_of_most_values(values: list[Any], shape: str) -> None:
    assert shape_of(values) == shape


def test_the_first_rows_of_a_table_are_looked_at(tmp_path: Path) -> None:
    rows = [{"messages": ANSWERED, "id": n} for n in range(300)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    spec = Input(path=str(tmp_path / "in.parquet"))
    assert columns_of(spec, discover(spec)) == {"messages": "answered", "id": "integer"}


def write(path: Path, row: dict[str, Any]) -> None:
    path.write_text(json.dumps(row) + "\n")


def test_a_job_of_three_lines_is_completed_by_its_columns(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", {"question": "Why?", "id": 7})
    fields = {"input": str(tmp_path / "in.jsonl"), "output": str(tmp_path / "out"), "engine": {"kind": "echo"}}
    prepared = prepare(Job.parse(fields))
    assert (prepared.job.input.prompt, prepared.job.input.id) == ("question", "id")
    own = Job.parse(fields | {"input": {"path": str(tmp_path / "in.jsonl"), "id": "question"}})
    assert prepare(own).job.input.id == "question", "what the job says wins"


def test_a_batch_file_needs_no_more_than_its_path(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", BATCH)
    job = with_prompt(Job.parse({"input": str(tmp_path / "in.jsonl"), "output": "out"}))
    assert (job.input.format, job.input.messages, job.input.id, job.input.keep) == ("openai-batch", "messages", "custom_id", [])


def test_columns_that_do_not_tell_are_named_with_the_field_to_set(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", {"question": "Why?", "query": "How?"})
    job = Job.parse({"input": str(tmp_path / "in.jsonl"), "output": "out"})
    with pytest.raises(JobError, match=r"the columns do not tell: question, query; name the column with input\.prompt"):
        with_prompt(job)


def test_a_resumed_job_reads_what_it_read_at_first(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", {"question": "Why?"})
    job = Job.parse({"input": str(tmp_path / "in.jsonl"), "output": "out"})
    first = with_prompt(job)
    write(tmp_path / "in.jsonl", {"question": "Why?", "prompt": "new column"})
    assert with_prompt(job, first).input == first.input


def test_the_output_of_another_job_does_not_tell_what_to_ask(tmp_path: Path) -> None:
    Finished(tmp_path)
    job = Job.parse({"input": str(tmp_path / "out"), "output": "answers", "engine": {"kind": "echo"}})
    with pytest.raises(JobError, match=r"the columns do not tell: id, shard, row, .*name the column with input\.prompt"):
        with_prompt(job)


def test_rows_that_cannot_be_read_do_not_tell(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("no json\n")
    with pytest.raises(JobError, match="there is no row that can be read"):
        with_prompt(Job.parse({"input": str(tmp_path / "in.jsonl"), "output": "out"}))
