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
from batchgen.read import requests as openai_batch
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
        ({"top_logprobs": 0}, {}),
        ({"best_of": 4, "n": 2}, {"best_of": 4, "n": 2}),
        ({"seed": -5, "temperature": 2, "top_p": 1, "n": 128.0}, {"seed": -5, "temperature": 2, "top_p": 1, "n": 128}),
        ({"presence_penalty": -2, "frequency_penalty": 2.0}, {"presence_penalty": -2, "frequency_penalty": 2.0}),
        ({"max_tokens": 3, "max_completion_tokens": 3.0}, {"max_tokens": 3}),
        ({"stop": "a"}, {"stop": "a"}),
        ({"stop": list("abcdef")}, {"stop": list("abcdef")}),
        ({"stop": []}, {"stop": []}),
        ({"logit_bias": {"50256": -100, "7": 1}}, {"logit_bias": '{"7":1.0,"50256":-100.0}'}),
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


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ({"temperature": 2.5}, "body.temperature: 2.5 is not a number 0..2"),
        ({"temperature": True}, "body.temperature: True is not a number 0..2"),
        ({"temperature": "1"}, "body.temperature: '1' is not a number 0..2"),
        ({"top_p": 0}, "body.top_p: 0 is not a number over 0, up to 1"),
        ({"top_p": 1.1}, "body.top_p: 1.1 is not a number over 0, up to 1"),
        ({"presence_penalty": -2.1}, "body.presence_penalty: -2.1 is not a number -2..2"),
        ({"frequency_penalty": 1e999}, "body.frequency_penalty: inf is not a number -2..2"),
        ({"n": 0}, "body.n: 0 is not an integer 1..128"),
        ({"n": 129}, "body.n: 129 is not an integer 1..128"),
        ({"n": 1.5}, "body.n: 1.5 is not an integer 1..128"),
        ({"max_tokens": 0}, "body.max_tokens: 0 is not an integer 1..2147483647"),
        ({"max_completion_tokens": True}, "body.max_completion_tokens: True is not an integer 1..2147483647"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "body.max_completion_tokens: 4 is not body.max_tokens, 3"),
        ({"seed": 2**63}, "body.seed: 9223372036854775808 is not an integer -2^63..2^63-1"),
        ({"seed": 0.5}, "body.seed: 0.5 is not an integer -2^63..2^63-1"),
        ({"stop": ""}, "body.stop: '' is not a text or a list of texts, none of them empty"),
        ({"stop": ["a", ""]}, "body.stop: ['a', ''] is not a text or a list of texts, none of them empty"),
        ({"stop": [1]}, "body.stop: [1] is not a text or a list of texts, none of them empty"),
        ({"logprobs": 1}, "body.logprobs: 1 is not true or false"),
        ({"logprobs": True, "top_logprobs": 21}, "body.top_logprobs: 21 is not an integer 0..20"),
        ({"logprobs": False, "top_logprobs": 2}, "body.top_logprobs: 2 (0..20) needs body.logprobs: true"),
        ({"logit_bias": {"x": 1}}, "body.logit_bias: 'x' is not a token id 0..2147483647"),
        ({"logit_bias": {"5": -100.5}}, "body.logit_bias: -100.5 (token 5) is not a number -100..100"),
        ({"response_format": "text"}, f"body.response_format: 'text' is not {openai_batch._FORMATS}"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            f"body.response_format: {{'json_schema': {{'schema': {{}}}}, 'type': 'json_schema'}} is not {openai_batch._FORMATS}",
        ),
        ({"zz": 1, "aa": 1}, "body.aa: not understood"),
    ],
)
def test_a_parameter_out_of_its_range_is_named_with_its_value_and_the_range(body: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadRow) as bad:
        OPENAI_BATCH.data(line(**body))
    assert (bad.value.code, str(bad.value)) == ("input", cause)


def test_a_huge_value_is_not_shown_in_full() -> None:
    with pytest.raises(BadRow, match=r"^body.stop: \[.{1,300}\] is not a text") as bad:
        OPENAI_BATCH.data(line(stop=["a" * 10_000, *[""] * 10_000]))
    assert len(str(bad.value)) < 300


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
        ({**line(), "url": "/v1/moderations"}, "url '/v1/moderations' is not one of /v1/chat/completions, /v1/completions"),
        (line(audio={}), "body.audio: not understood"),
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
        {"custom_id": "1", "body": {**body, "logit_bias": {"5": 101}}},
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
        "body.logit_bias: 101 (token 5) is not a number -100..100",
        None,
        "method 'GET' is not POST",
        "url /v1/embeddings: the job is of other requests; for these set task: embed, input.prompt: prompt",
        "sampling: tools: tool 1 is not {type: function, function: {name, description, parameters}}",
        "an OpenAI batch line has custom_id (a string) and body (an object)",
    ]
