"""OpenAI's batch files as an input: requests as rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import BadRow
from batchgen.plan import plan
from batchgen.prepare import prepare
from batchgen.read import reader
from batchgen.read.formats.openai_batch import OPENAI_BATCH
from tests.support.planning import make_job

HELLO = [{"role": "user", "content": "Hello"}]


def line(name: str = "r1", **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": HELLO, **body}}


def test_a_request_is_a_row_with_its_own_sampling() -> None:
    given = {"temperature": 0.2, "max_completion_tokens": 9, "stop": ["x"], "n": 2, "top_k": 5, "user": "u", "seed": None}
    assert OPENAI_BATCH.data(line(**given)) == {
        "custom_id": "r1",
        "messages": HELLO,
        "sampling": {"temperature": 0.2, "max_tokens": 9, "stop": ["x"], "n": 2, "top_k": 5},
    }


@pytest.mark.parametrize(
    ("body", "sampling"),
    [
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
        ({"logprobs": False, "top_logprobs": None}, {}),
        ({"best_of": 4, "n": 2}, {"best_of": 4, "n": 2}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"json": {"type": "object"}}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string"}}}},
            {"structured_outputs": {"json": {"type": "string"}}},
        ),
    ],
)
def test_parameters_under_other_names(body: dict[str, Any], sampling: dict[str, Any]) -> None:
    assert OPENAI_BATCH.data(line(**body))["sampling"] == sampling


def test_parts_are_left_to_the_conversation() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert OPENAI_BATCH.data(line(messages=[{"role": "user", "content": parts}]))["messages"] == [
        {"role": "user", "content": parts}
    ]


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ({"body": {}}, "an OpenAI batch line has custom_id"),
        ({"custom_id": 1, "body": {}}, "an OpenAI batch line has custom_id"),
        ({**line(), "url": "/v1/embeddings"}, "url '/v1/embeddings' is not /v1/chat/completions"),
        (line(tools=[{}]), "body.tools: not understood"),
        (
            line(response_format={"type": "json_schema"}),
            "body.response_format: {'type': 'json_schema'} is not {type: text}, {type: json_object}",
        ),
    ],
)
def test_what_would_change_an_answer_and_is_not_understood_is_an_error(bad: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadRow, match=cause):
        OPENAI_BATCH.data(bad)


def test_a_refused_line_keeps_its_custom_id_and_harmless_parameters_pass(tmp_path: Path) -> None:
    body = {"model": "m", "messages": HELLO}
    harmless = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "logit_bias": {}, "modalities": ["text"]}
    lines = [
        {"custom_id": "1", "body": {**body, "logit_bias": {"5": 1}}},
        {"custom_id": "2", "method": "POST", "body": {**body, **harmless, "stream_options": {"include_usage": True}}},
        {"custom_id": "3", "method": "GET", "body": body},
        {"custom_id": "4", "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}},
        {"custom_id": "5", "body": {**body, "tools": [{"type": "function"}]}},
        {"custom_id": 6, "body": body},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = prepare(make_job(tmp_path / "in.jsonl", input={"format": "openai-batch", "prompt": None}))
    shards, spans = plan.make_plan(made.job, made.found, made.columns)
    [(_, rows, _)] = reader.read_spans(made.job, shards[0], spans, made.columns.kept, set())
    prompts = [prompt for row in rows for prompt in made.renderer.prompts(row, "in.jsonl")]
    assert [prompt.id for prompt in prompts] == ["1", "2", "3", "4", "5", None]
    details = [prompt.error and prompt.error.detail.partition(": ")[2] for prompt in prompts]
    assert details == [
        "body.logit_bias: not understood",
        None,
        "method 'GET' is not POST",
        "url '/v1/embeddings' is not /v1/chat/completions",
        "body.tools: not understood",
        "an OpenAI batch line has custom_id (a string) and body (an object)",
    ]
