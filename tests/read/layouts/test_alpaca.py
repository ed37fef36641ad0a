"""Instructions with a text and a history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import JobError, ModelError
from batchgen.read.layouts import JobLayout
from batchgen.records import Row
from tests.support.reading import job_of
from tests.support.rendering import CHATML, bare
from tests.support.replicas import prepared

FIELDS: dict[str, Any] = {"prompt": None, "instruction": "instruction", "context": "input", "history": "history"}


def laid_out(**data: Any) -> Row:
    return JobLayout(job_of(**FIELDS, system={"column": "system"})).lay_out(Row(0, data), "in.jsonl")


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        ({"instruction": "Hello"}, [said("user", "Hello")]),
        ({"instruction": "Translate.", "input": "tea"}, [said("user", "Translate.\ntea")]),
        ({"instruction": "Hello", "input": "", "system": "", "history": []}, [said("user", "Hello")]),
        ({"instruction": "Hello", "input": " \n", "system": None, "history": None}, [said("user", "Hello")]),
        (
            {"instruction": "c", "system": "s", "history": [["a", "b"]]},
            [said("system", "s"), said("user", "a"), said("assistant", "b"), said("user", "c")],
        ),
    ],
)
def test_an_instruction_is_one_user_message(data: dict[str, Any], messages: list[dict[str, str]]) -> None:
    row = laid_out(**data)
    assert (row.error, row.messages, row.turns) == (None, messages, ())


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        ({}, "instruction is missing"),
        ({"instruction": None, "input": "a"}, "instruction is null"),
        ({"instruction": "a", "input": ["b"]}, "input must be a string, not list"),
        ({"instruction": "a", "history": "b"}, "history must be a list of pairs, not str"),
        ({"instruction": "a", "history": [["a", "b"], ["c"]]}, "history: pair 2 must be two strings, a question and its answer"),
        ({"instruction": "a", "history": [["a", None]]}, "history: pair 1 must be two strings, a question and its answer"),
    ],
)
def test_what_is_no_instruction_is_an_error_that_names_the_column(data: dict[str, Any], cause: str) -> None:
    row = laid_out(**data)
    assert row.error is not None
    assert (row.error.code, row.error.detail) == ("input", f"in.jsonl:1: {cause}")


def test_a_column_that_is_not_there_is_a_mistake_of_the_job(tmp_path: Path) -> None:
    source = {"path": str(tmp_path / "in.jsonl"), "instruction": "instruction", "context": "inputs"}
    with pytest.raises(JobError, match=r"input\.context: no column 'inputs' in the input; its columns are input, instruction"):
        prepared(tmp_path, [{"instruction": "a", "input": "b"}], input=source)


def test_a_history_needs_a_chat_template() -> None:
    source = {"path": "in.jsonl", "instruction": "instruction"}
    assert bare(None, input=source)
    assert bare(CHATML, input=source | {"history": "history"})
    with pytest.raises(ModelError, match="no chat template, which conversations need"):
        bare(None, input=source | {"history": "history"})
