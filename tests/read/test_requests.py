"""Requests of OpenAI's API as they are documented: each is answered, or refused by the name of its key. The answers are valid for
the types of the package openai."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from batchgen.export.openai import response
from batchgen.read import values
from tests.support.replicas import blocks, part_bytes, prepared, ran, replica
from tests.support.thinker import make_thinker

HELLO = {"role": "user", "content": "Hello there"}
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": PLACE, "strict": True}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
ANSWER = {"role": "tool", "tool_call_id": "c1", "content": "4"}
ASKED = [HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}, ANSWER]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SHAPES: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"temperature": 0, "top_p": 0.9, "max_tokens": 5}, None),
    ({"max_completion_tokens": 7, "seed": 1}, None),
    ({"n": 3, "temperature": 1}, None),
    ({"stop": ["a", "b"], "presence_penalty": 0.5, "frequency_penalty": -0.5}, None),
    ({"logprobs": True, "top_logprobs": 2}, None),
    ({"logit_bias": {"5": -100}}, None),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, None),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": PLACE}}}, None),
    ({"messages": [{"role": "system", "content": "Be short."}, HELLO]}, None),
    ({"messages": [{"role": "developer", "content": "Be short."}, HELLO]}, None),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "ann"}]}, None),
    ({"messages": ASKED, "tools": [WEATHER]}, None),
    ({"tools": [WEATHER]}, None),
    ({"tools": [WEATHER], "tool_choice": "auto", "parallel_tool_calls": False}, None),
    ({"tools": [WEATHER], "tool_choice": "none"}, None),
    ({"tools": [WEATHER], "tool_choice": "required"}, None),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}}, None),
    ({"functions": [WEATHER["function"]], "function_call": {"name": "weather"}}, None),
    ({"functions": [WEATHER["function"]], "function_call": "auto"}, None),
    ({"reasoning_effort": "low"}, None),
    ({"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "flex", "safety_identifier": "s"}, None),
    ({"stream": True, "stream_options": {"include_usage": True}}, None),
    ({"modalities": ["text"], "prediction": {"type": "content", "content": "x"}, "verbosity": "medium"}, None),
    ({"prompt_cache_key": "k", "prompt_cache_retention": "24h"}, None),
    ({"tools": [], "tool_choice": None, "logit_bias": {}}, None),
    ({"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 1}, None),
    ({"chat_template_kwargs": {"enable_thinking": False}}, None),
    ({"guided_choice": ["yes", "no"]}, None),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, None),
    ({"audio": {"voice": "alloy", "format": "wav"}, "modalities": ["text", "audio"]}, "body.audio: not understood"),
    ({"modalities": ["audio"]}, "body.modalities: not understood"),
    ({"web_search_options": {}}, "body.web_search_options: not understood"),
    ({"verbosity": "high"}, "body.verbosity: not understood"),
    ({"use_beam_search": True}, "body.use_beam_search: not understood"),
    ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "sampling: tools: tool 1 is not {type: function"),
    ({"tools": [WEATHER, WEATHER]}, "sampling: tools: two tools are named weather"),
    ({"tool_choice": "required", "tools": [WEATHER], "n": 0}, "body.n: 0 is not an integer 1..128"),
    ({"messages": []}, "messages must be a list of at least one message"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "See"}, PICTURE]}]}, "takes no images"),
    ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, "part 1 is neither"),
    ({"messages": [{"role": "alien", "content": "x"}]}, "role 'alien' is not one of"),
    ({"reasoning_effort": "immense"}, "sampling: reasoning_effort"),
]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_thinker(tmp_path_factory.mktemp("model") / "thinker")


def rows_of(folder: Path, lines: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    made = prepared(folder, lines, limits={"errors": 1}, spans={"rows": 100}, **fields)
    [block] = blocks(made)
    return list(values.rows(pq.read_table(io.BytesIO(part_bytes(made, ran(replica(made), block))))))


def test_every_shape_is_answered_or_refused_by_name(thinker: Path, tmp_path: Path) -> None:
    url = "/v1/chat/completions"
    lines = [
        {"custom_id": str(number), "method": "POST", "url": url, "body": {"model": "m", "messages": [HELLO], **body}}
        for number, (body, _) in enumerate(SHAPES)
    ]
    model = {"source": str(thinker), "reasoning_parser": "auto", "tool_call_parser": "hermes"}
    spec = {"path": str(tmp_path / "in.jsonl"), "format": "openai-batch"}
    rows = rows_of(tmp_path, lines, input=spec, model=model)
    by_line: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_line.setdefault(row["id"], []).append(row)
    assert len(SHAPES) >= 40
    assert list(by_line) == [str(number) for number in range(len(SHAPES))]
    for (number, found), (body, cause) in zip(by_line.items(), SHAPES, strict=True):
        line = response(number, number, found, 0)
        assert line["custom_id"] == number
        if cause is None:
            assert {row["status"] for row in found} == {"ok"}, (body, found[0]["error_detail"])
            answer = ChatCompletion.model_validate(line["response"]["body"])
            assert len(answer.choices) == body.get("n", 1)
        else:
            assert [row["error_code"] for row in found] == [found[0]["error_code"]], body
            assert cause in str(found[0]["error_detail"]), (body, found[0]["error_detail"])
            assert line["response"]["status_code"] == 400
    forced = [number for number, (body, cause) in enumerate(SHAPES) if body.get("tool_choice") == "required" and cause is None]
    for number in forced:
        [call] = by_line[str(number)][0]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": ""}
    assert by_line["29"][0]["response"] in ("yes", "no")


def test_a_request_in_a_column_is_the_same_as_in_a_batch_file(thinker: Path, tmp_path: Path) -> None:
    body = {"messages": [HELLO], "seed": 3, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 9, "model": "other"}
    lines = [{"request": body, "mark": 1}, {"request": json.dumps(body), "mark": 2}, {"request": [1], "mark": 3}]
    model = {"source": str(thinker), "tool_call_parser": "hermes"}
    spec = {"path": str(tmp_path / "in.jsonl"), "body": "request"}
    first, second, third = rows_of(tmp_path, lines, input=spec, model=model)
    assert first["tool_calls"] == second["tool_calls"] != []
    assert first["sampling"] == second["sampling"]
    assert first["sampling"]["max_tokens"] == 9
    assert "must be an object or its JSON text, not list" in third["error_detail"]
    assert [row["mark"] for row in (first, second, third)] == [1, 2, 3]


def test_completions_and_embeddings_are_jobs_of_their_own(tmp_path: Path) -> None:
    def line(url: str, **body: Any) -> dict[str, Any]:
        return {"custom_id": url, "method": "POST", "url": url, "body": {"model": "m", **body}}

    text = line("/v1/completions", prompt="Once upon", max_tokens=5, logprobs=1, n=2, echo=False)
    vector = line("/v1/embeddings", input="Once upon", encoding_format="float")
    wide = line("/v1/embeddings", input="Once upon", dimensions=7)
    scored = line("/v1/score", text_1="a", text_2="b")
    ranked = line("/v1/rerank", query="a", documents=["b", "c"], top_n=1)
    spec = {"path": str(tmp_path / "in.jsonl"), "format": "openai-batch", "prompt": "prompt"}
    output = {"path": str(tmp_path / "a"), "token_logprobs": True}
    *made, _ = rows_of(tmp_path, [text, vector], input=spec, output=output)
    Completion.model_validate(response("x", "x", made, 0, is_plain=True)["response"]["body"])
    assert [row["response"] is not None for row in made] == [True, True]
    embed = {"input": spec, "task": "embed", "pooling": {"dimensions": 16}}
    one, two, _ = rows_of(tmp_path, [vector, wide, text], **embed, output={"path": str(tmp_path / "b")})
    answer = CreateEmbeddingResponse.model_validate(response("x", "x", [one], 0)["response"]["body"])
    assert len(answer.data[0].embedding) == 16
    assert "body.dimensions: 7 is not the job's" in two["error_detail"]
    pairs = {**spec, "documents": "documents"}
    score, other = rows_of(tmp_path, [scored, ranked], input=pairs, task="score", output={"path": str(tmp_path / "c")})
    assert score["score"] is not None
    assert "set task: rerank" in other["error_detail"]
