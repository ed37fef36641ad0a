"""ShareGPT's conversations: who speaks, calls of tools, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.read.layouts import JobLayout
from batchgen.read.layouts.sharegpt import SPEAKERS
from batchgen.records import Row
from tests.support.reading import job_of, planned, read_all
from tests.support.replicas import answered

LAYOUT = JobLayout(job_of(prompt=None, conversations="c"))
CALL = '{"name": "weather", "arguments": {"city": "Ōsaka"}}'


def laid_out(*messages: Any, **fields: Any) -> Row:
    layout = JobLayout(job_of(prompt=None, conversations="c", **fields)) if fields else LAYOUT
    return layout.lay_out(Row(4, {"c": list(messages)}), "in.jsonl")


def said(name: str, text: Any) -> dict[str, Any]:
    return {"from": name, "value": text}


def error(*messages: Any, **fields: Any) -> str:
    row = laid_out(*messages, **fields)
    assert row.error is not None
    assert row.error.code == "input"
    return row.error.detail.removeprefix("in.jsonl:5: ")


@pytest.mark.parametrize(
    ("names", "role"),
    [
        (["human", "user", "Human", "USER", "prompter"], "user"),
        (["gpt", "assistant", "chatgpt", "ChatGPT", "bard", "bing", "bot", "model"], "assistant"),
        (["system", "system-prompt"], "system"),
        (["tool", "observation", "function", "function_response", "function-response"], "tool"),
    ],
)
def test_every_spelling_of_a_speaker_in_use_is_a_role(names: list[str], role: str) -> None:
    for name in names:
        row = laid_out(said(name, "a"), said("human", "b"))
        assert row.messages == [{"role": role, "content": "a"}, {"role": "user", "content": "b"}]


@given(st.lists(st.tuples(st.sampled_from(sorted(SPEAKERS)), st.text(max_size=9)), max_size=6))
def test_the_texts_stay_and_so_does_their_order(talk: list[tuple[str, str]]) -> None:
    talk = [(name, text) for name, text in talk if not name.endswith("_call")]
    row = laid_out(*(said(*one) for one in talk), said("human", "last"))
    assert row.messages is not None
    assert [message["content"] for message in row.messages] == [*(text for _, text in talk), "last"]
    assert [message["role"] for message in row.messages] == [*(SPEAKERS[name] for name, _ in talk), "user"]


def test_a_column_of_roles_and_contents_is_one_too() -> None:
    given = [{"role": "user", "content": "a", "from": None, "value": None}, {"role": "assistant", "content": "b", "weight": 0.5}]
    assert laid_out(*given, said("human", "c")).messages == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_a_call_is_read_from_its_json() -> None:
    row = laid_out(said("human", "Hot?"), said("function_call", CALL), said("observation", "31 C"))
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ōsaka"}}}
    assert row.messages == [
        {"role": "user", "content": "Hot?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "31 C"},
    ]
    [_, two, _] = laid_out(said("human", "Hot?"), said("tool_call", f"[{CALL}, {CALL}]"), said("tool", "31 C")).messages or []
    assert two["tool_calls"] == [call, call]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_calls_are_in_the_output_where_the_input_may_have_some(kind: str, tmp_path: Path) -> None:
    talk = [said("human", "Hot?"), said("function_call", CALL), said("observation", "31 C")]
    path = tmp_path / f"in.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps({"c": talk}) + "\n")
    else:
        pq.write_table(pa.table({"c": [talk]}), path)
    [row], _ = read_all(path, input={"prompt": None, "conversations": "c"})
    assert row.error is None
    assert row.messages
    assert "tool_calls" in row.messages[1]


def test_a_conversation_without_calls_keeps_the_plain_messages_in_the_output(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"c": [said("human", "Hello")]}) + "\n")
    assert (planned(path, input={"prompt": None, "conversations": "c"})[1].kept.metadata or {}) == {}


@pytest.mark.parametrize(
    ("messages", "cause"),
    [
        ([], "c must be a list of at least one message"),
        (["a"], "c: message 1 must be a struct, not str"),
        ([said("human", "a"), said("narrator", "b")], "c: message 2: from 'narrator' is not one of system, "),
        ([said("human", "a"), {"value": "b"}], "c: message 2: from None is not one of system, "),
        ([said("human", 5)], "c: message 1: value must be a string or a list of parts, not int"),
        ([said("human", None)], "c: message 1: value must be a string or a list of parts, not null"),
        ([said("gpt", "a")], "c: the last message must be the user or tool's, not the assistant's"),
        ([said("human", "a") | {"html": "<p>"}], "c: message 1: key 'html': none of from, value, name, "),
        ([said("function_call", "weather(Osaka)")], "c: message 1: function_call: invalid JSON"),
        ([said("function_call", '{"city": "Osaka"}')], "c: message 1: function_call: its value is not the JSON of {name, arg"),
        ([said("function_call", "[]")], "c: message 1: function_call: its value is not the JSON of {name, arguments}"),
        ([said("function_call", '{"name": "a", "arguments": 5}')], "c: message 1: tool_calls: call 1: the arguments are no JSON"),
    ],
)
def test_a_bad_message_is_an_error_that_names_its_number(messages: list[Any], cause: str) -> None:
    assert error(*messages).startswith(cause)


def test_the_layout_has_a_name_for_columns_that_another_field_names() -> None:
    row = JobLayout(job_of(prompt=None, messages="c", layout="sharegpt")).lay_out(Row(0, {"c": [said("human", "a")]}), "in.jsonl")
    assert row.messages == [{"role": "user", "content": "a"}]


def test_the_dropped_answer_stays_in_the_carried_column(tmp_path: Path) -> None:
    talk = [said("human", "Hello"), said("gpt", "Old")]
    source = {"path": str(tmp_path / "in.jsonl"), "conversations": "conversations", "drop_last_answer": True}
    [row], _ = answered(tmp_path, [{"conversations": talk}], input=source)
    assert row["status"] == "ok"
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert row["messages"][1]["content"] == row["response"] != "Old"
    assert json.loads(row["conversations"]) == talk
