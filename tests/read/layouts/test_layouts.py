"""The registry of row layouts: one for each field, and one that comes from outside the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import BadRow, JobError
from batchgen.read import layouts
from batchgen.read.layouts import ColumnLayout, Conversation
from batchgen.records import Row
from tests.support.packages import install
from tests.support.reading import job_of
from tests.support.replicas import answered


def laid_out(data: dict[str, Any], **fields: Any) -> Row:
    return layouts.JobLayout(job_of(**fields)).lay_out(Row(4, data), "in.jsonl")


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("fields", "data", "messages", "turns"),
    [
        ({"prompt": "p"}, {"p": "a"}, [said("user", "a")], ()),
        ({"turns": "t"}, {"t": ["a", "b", "c"]}, [said("user", "a")], ("b", "c")),
        ({"turns": "t"}, {"t": [{"content": "a"}, {"content": "b", "role": None}]}, [said("user", "a")], ("b",)),
        ({"messages": "m"}, {"m": [said("user", "a")]}, [said("user", "a")], ()),
        ({"template": "{{ x }}!"}, {"x": "a"}, [said("user", "a!")], ()),
        ({"prompt": "p", "system": "s"}, {"p": "a"}, [said("system", "s"), said("user", "a")], ()),
        ({"prompt": "p", "system": {"column": "s"}}, {"p": "a", "s": "b"}, [said("system", "b"), said("user", "a")], ()),
        ({"prompt": "p", "system": {"column": "s"}}, {"p": "a", "s": None}, [said("user", "a")], ()),
        (
            {"messages": "m", "system": "s"},
            {"m": [said("system", "x"), said("user", "a")]},
            [said("system", "x"), said("user", "a")],
            (),
        ),
    ],
)
def test_a_row_becomes_a_conversation(fields: Any, data: Any, messages: Any, turns: Any) -> None:
    row = laid_out(data, **({"prompt": None} | fields))
    assert (row.error, row.messages, row.turns, row.data) == (None, messages, turns, data)


@pytest.mark.parametrize(
    ("fields", "data", "cause"),
    [
        ({"prompt": "p"}, {}, "p is missing"),
        ({"prompt": "p"}, {"p": None}, "p is null"),
        ({"prompt": "p"}, {"p": 5}, "p must be a string, not int"),
        ({"turns": "t"}, {"t": []}, "t must be a list of at least one string"),
        ({"turns": "t"}, {"t": ["a", 1]}, "t: turn 2 must be a string or {content: a string}, not int"),
        ({"turns": "t"}, {"t": [{"content": 5}]}, "t: turn 1 must be a string or {content: a string}, not dict"),
        ({"messages": "m"}, {"m": "a"}, "m must be a list of at least one message"),
        ({"messages": "m"}, {"m": ["a"]}, "m: message 1 must be a struct, not str"),
        ({"messages": "m"}, {"m": [said("robot", "a")]}, "m: message 1: role 'robot' is not one of "),
        (
            {"messages": "m"},
            {"m": [{"from": "gpt"}]},
            "m: message 1 has `from` and no role: name the column as input.conversations",
        ),
        ({"prompt": "p", "system": {"column": "s"}}, {"p": 5, "s": 5}, "system must be a string, not int"),
    ],
)
def test_a_row_without_a_conversation_is_an_error_that_names_its_place(fields: Any, data: Any, cause: str) -> None:
    row = laid_out(data, **({"prompt": None} | fields))
    assert row.error is not None
    assert (row.error.code, row.messages, row.data) == ("input", None, data)
    assert row.error.detail.startswith(f"in.jsonl:5: {cause}")


class Question(ColumnLayout):
    """A struct with a question and a hint."""

    def read(self, data: Mapping[str, Any]) -> Conversation:
        value = self.value(data)
        if "question" not in value:
            raise BadRow("input", f"{self.column} has no question")
        return [{"role": "user", "content": value["question"]}], (value["hint"],)


def test_a_layout_from_outside_is_named_by_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, {"batchgen.layouts": {"question": f"{__name__}:Question"}})
    source = {"path": str(tmp_path / "in.jsonl"), "prompt": "task", "layout": "question", "system": "Be kind."}
    rows, _ = answered(tmp_path, [{"task": {"question": "Why?", "hint": "Look."}}, {"task": {}}], input=source)
    assert [message["content"] for message in rows[0]["messages"]][:2] == ["Be kind.", "Why?"]
    assert rows[0]["messages"][3] == said("user", "Look.")
    assert (rows[1]["status"], rows[1]["error_detail"]) == ("error", f"{tmp_path}/in.jsonl:2: task has no question")


def test_an_unknown_layout_is_refused_with_the_nearest() -> None:
    with pytest.raises(JobError) as caught:
        layouts.JobLayout(job_of(layout="message"))
    known = "prompt, messages, sharegpt, turns, alpaca, request, template"
    assert str(caught.value) == f"input.layout message: no such name, did you mean messages?; there are {known}"
