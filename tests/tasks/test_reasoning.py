"""Reasoning told from answers by marks, and calls of tools held to the tools of their request."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batchgen.engines.base import Request
from batchgen.errors import BadRow
from batchgen.job.job import Job
from batchgen.job.model import Model
from batchgen.job.sampling import check_sampling
from batchgen.output import job_file
from batchgen.output.store import open_store
from batchgen.prepare import prepare
from batchgen.records import Answer
from batchgen.tasks.calls import refuse_calls
from tests.support.replicas import answered, blocks, part_bytes, prepared, ran, replica

PLACE = {"type": "object", "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PLACE}}, {"name": "time"}]


class Saying:
    """An engine that gives each prompt the next of these answers."""

    capacity, workers = 8, 1

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = list(answers), list[Request]()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def probe(self) -> None: ...

    async def generate(self, request: Request) -> list[Answer]:
        self.asked.append(request)
        return [self.answers.pop(0)]


def told(folder: Path, texts: list[str], **fields: Any) -> list[dict[str, Any]]:
    given = {"limits": {"errors": 1}, "model": {"source": "m", "reasoning_parser": {"start": "<t>", "end": "</t>"}}, **fields}
    made = prepared(folder, [{"prompt": f"row {number}"} for number in range(len(texts))], **given)
    worker = replica(made, Saying(*(Answer(text, 9, "stop") for text in texts)))
    return pq.read_table(io.BytesIO(part_bytes(made, ran(worker, blocks(made)[0])))).to_pylist()


@pytest.mark.parametrize(
    ("text", "reasoning", "response"),
    [
        ("<t>so</t>42", "so", "42"),
        ("so</t>42", "so", "42"),  # the prompt had the beginning
        ("\n<t>so\n</t>\n\n42", "so\n", "\n\n42"),
        ("<t>so", "so", ""),  # cut
        ("42", None, "42"),
        ("<t></t>42", "", "42"),
        ("<t>a</t>4</t>2", "a", "4</t>2"),
    ],
)
def test_marks_tell_the_reasoning_from_the_answer(text: str, reasoning: str | None, response: str, tmp_path: Path) -> None:
    [row] = told(tmp_path, [text])
    assert (row["reasoning"], row["response"]) == (reasoning, response)
    assert row["reasoning_tokens"] == (None if reasoning is None else len(reasoning)), "a byte is a token here"
    assert row["messages"][-1]["content"] == response
    assert row["messages"][-1]["reasoning_content"] == (reasoning or None)


def test_parse_sees_the_answer_alone(tmp_path: Path) -> None:
    [row] = told(tmp_path, ['<t>{"good": false}</t>{"good": true}'], parse={"columns": {"good": "boolean"}})
    assert (row["parsed"], row["status"]) == ({"good": True}, "ok")


def test_echo_rehearses_reasoning_and_budgets(tmp_path: Path) -> None:
    rows = [{"prompt": "a b c", "sampling": None}, {"prompt": "a b c", "sampling": {"thinking_token_budget": 2}}]
    found, _ = answered(tmp_path, rows, model={"source": "m", "reasoning_parser": "qwen3"})
    assert [len(row["reasoning"].split()) for row in found] == [8, 2]
    assert all("<think>" not in row["response"] for row in found)


def test_an_answer_without_a_parser_is_kept_as_it_is(tmp_path: Path) -> None:
    rows = told(tmp_path, ["<think>a</think>b"], model={"source": "m"})
    assert rows[0]["response"] == "<think>a</think>b"
    assert not {"reasoning", "reasoning_tokens", "tool_calls"} & rows[0].keys()


def call(name: str, arguments: object) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": text}}


@pytest.mark.parametrize(
    ("calls", "sampling", "cause"),
    [
        ([call("weather", {"city": "Oslo"})], {}, None),
        ([call("time", "")], {}, None),
        ([], {}, None),
        ([], {"tool_choice": "none"}, None),
        ([], {"tool_choice": "required"}, "sampling.tool_choice wants a call of a tool, and the answer has none"),
        ([call("weather", {"city": "Oslo"})] * 2, {"tool_choice": "required"}, None),
        (
            [call("time", {})],
            {"tool_choice": {"function": {"name": "weather"}}},
            "where sampling.tool_choice wants weather",
        ),
        ([call("news", {})], {}, "no tool 'news': there are weather, time"),
        ([call("weather", {})], {}, "the arguments of weather: 'city' is a required property"),
        ([call("weather", {"city": "oslo"})], {}, "the arguments of weather: city: 'oslo' does not match"),
        ([call("weather", "[1]")], {}, "the arguments of weather are no JSON object"),
        ([call("weather", "{city}")], {}, "the arguments of weather are"),
        ([call("weather", '{"city": NaN}')], {}, "the arguments of weather are"),
    ],
)
def test_calls_are_held_to_the_tools(calls: list[dict[str, Any]], sampling: dict[str, Any], cause: str | None) -> None:
    answer, asked = Answer("", 1, "stop", tool_calls=calls), check_sampling({"tools": TOOLS, **sampling})
    if cause is None:
        refuse_calls(answer, asked)
        return
    with pytest.raises(BadRow) as bad:
        refuse_calls(answer, asked)
    assert bad.value.code == "parse"
    assert cause in str(bad.value)


def test_calls_without_tools_are_an_error_and_a_schema_that_is_none_allows_nothing() -> None:
    with pytest.raises(BadRow, match=r"the row has no sampling\.tools"):
        refuse_calls(Answer("", 1, "stop", tool_calls=[call("f", {})]), check_sampling({}))
    odd = check_sampling({"tools": [{"name": "f", "parameters": {"type": 7}}]})
    with pytest.raises(BadRow, match="the tool's parameters"):
        refuse_calls(Answer("", 1, "stop", tool_calls=[call("f", {})]), odd)


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"tools": "{"}, "a text must be JSON"),
        ({"tools": {"name": "f"}}, "is no list of tools"),
        ({"tools": [{"type": "function"}]}, "tool 1 is not {type: function"),
        ({"tools": [{"name": "a b"}]}, "tool 1 is not"),
        ({"tools": [{"name": "f", "parameters": 3}]}, "its parameters are no JSON schema"),
        ({"tools": [{"name": "f"}, {"name": "f"}]}, "two tools are named f"),
        ({"tool_choice": "sometimes"}, "a text must be JSON"),
        ({"tool_choice": {"type": "function"}}, "is none of auto, none, required"),
        ({"chat_template_kwargs": [1]}, "is no mapping of the variables"),
        ({"thinking_token_budget": -1}, "greater than or equal to 0"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ],
)
def test_a_mistake_in_what_a_row_asks_for_is_named(given: dict[str, Any], cause: str) -> None:
    with pytest.raises(ValueError, match=cause.replace("{", r"\{")):
        check_sampling(given)


def test_tools_of_a_parquet_struct_lose_the_nulls_of_other_rows() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string", "enum": None}, "b": None}}
    made = check_sampling(
        {"tools": [{"type": "function", "function": {"name": "f", "description": None, "parameters": parameters}}]}
    )
    [tool] = json.loads(str(made.tools))
    assert tool["function"] == {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}


def test_a_row_with_tools_in_a_job_that_expects_no_calls_is_refused(tmp_path: Path) -> None:
    [row], _ = answered(tmp_path, [{"prompt": "x", "sampling": {"tools": TOOLS}}], limits={"errors": 1})
    assert row["error_code"] == "input"
    assert "name model.tool_call_parser" in row["error_detail"]
    (tmp_path / "b").mkdir()
    [row], _ = answered(tmp_path / "b", [{"prompt": "x", "sampling": {"tool_choice": "required"}}], limits={"errors": 1})
    assert "give sampling.tools" in row["error_detail"]


def test_a_later_turn_sees_the_reasoning_and_the_last_turns_is_kept(tmp_path: Path) -> None:
    model = {"source": "m", "reasoning_parser": {"start": "<t>", "end": "</t>"}}
    made = prepared(
        tmp_path, [{"turns": ["one", "two"]}], input={"path": str(tmp_path / "in.jsonl"), "turns": "turns"}, model=model
    )
    engine = Saying(Answer("<t>first</t>1", 5, "stop"), Answer("<t>second</t>2", 5, "stop"))
    [row] = pq.read_table(io.BytesIO(part_bytes(made, ran(replica(made, engine), blocks(made)[0])))).to_pylist()
    assert (row["reasoning"], row["response"], row["reasoning_tokens"]) == ("second", "2", len("first") + len("second"))
    thoughts = [message["reasoning_content"] for message in row["messages"]]
    assert thoughts == [None, "first", None, "second"]
    assert b"first" not in bytes(engine.asked[1].token_ids), "the plain template shows contents alone"


def test_an_endpoints_output_tells_reasoning_and_calls_apart_and_one_that_began_without_stays_so(tmp_path: Path) -> None:
    fields = {"model": {"source": "m"}, "engine": {"kind": "openai"}}
    made = prepared(tmp_path, [{"prompt": "x"}], **fields)
    assert made.job.model is not None
    assert (made.job.model.reasoning_parser, made.job.model.tool_call_parser) == ("auto", "auto")
    store = open_store(made.job.output.path)
    before = made.job.model_copy(update={"model": Model(source="m")})
    job_file.freeze(store, before, made.renderer.model, made.columns.kept)
    given = Job.parse(
        {"input": {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"}, "output": made.job.output.path, **fields}
    )
    again = prepare(given, store).job.model
    assert again is not None
    assert (again.reasoning_parser, again.tool_call_parser) == (None, None)
