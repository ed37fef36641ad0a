"""OpenAI's batch files: requests as rows, rows as responses; and the other formats of `export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import BadRow, InputError, StoreError
from batchgen.export import export
from batchgen.read.formats.openai_batch import request
from tests.support.finished import Finished

HELLO = [{"role": "user", "content": "Hello"}]


def line(name: str = "r1", **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": HELLO, **body}}


def test_a_request_is_a_row_with_its_own_sampling() -> None:
    given = {"temperature": 0.2, "max_completion_tokens": 9, "stop": ["x"], "n": 2, "top_k": 5, "user": "u", "seed": None}
    assert request(line(**given)) == {
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
    assert request(line(**body))["sampling"] == sampling


def test_parts_are_left_to_the_conversation() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert request(line(messages=[{"role": "user", "content": parts}]))["messages"] == [{"role": "user", "content": parts}]


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ({"body": {}}, "an OpenAI batch line has custom_id"),
        ({"custom_id": 1, "body": {}}, "an OpenAI batch line has custom_id"),
        ({**line(), "url": "/v1/embeddings"}, "url '/v1/embeddings' is not /v1/chat/completions"),
        (line(tools=[{}]), "body.tools: not understood"),
        (line(response_format={"type": "json_schema"}), "body.response_format: expected text, json_object or json_schema"),
    ],
)
def test_what_would_change_an_answer_and_is_not_understood_is_an_error(bad: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadRow, match=cause):
        request(bad)


@pytest.fixture
def output(tmp_path: Path) -> Finished:
    lines = [
        json.dumps(line("one", n=2, max_tokens=5)),
        json.dumps(line("two", messages=[{"role": "user", "content": "forbidden"}])),
        json.dumps(line("three", tools=[])),
        "no json",
        json.dumps(line("five", messages="?")),
    ]
    return Finished(
        tmp_path,
        lines,
        input={"path": str(tmp_path / "in.jsonl"), "format": "openai-batch"},
        sampling={"temperature": 0},
        limits={"errors": 1},
    )


def exported(output: Finished, folder: Path, form: Any) -> dict[str, list[dict[str, Any]]]:
    counts = export.export(output.store, form, folder)
    found = {name: [json.loads(text) for text in (folder / name).read_text().splitlines()] for name in counts}
    assert {name: len(lines) for name, lines in found.items()} == counts
    assert sorted(path.name for path in folder.iterdir()) == sorted(counts), "nothing else is left there"
    return found


def test_responses_and_errors_go_into_their_files(output: Finished, tmp_path: Path) -> None:
    found = exported(output, tmp_path / "to", "openai")
    [one] = found["output.jsonl"]
    assert (one["custom_id"], one["error"], one["response"]["status_code"]) == ("one", None, 200)
    body = one["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "echo")
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    assert body["usage"]["completion_tokens"] == sum(len(c["message"]["content"].split()) for c in body["choices"])
    errors = {error["custom_id"]: error["error"]["code"] for error in found["errors.jsonl"]}
    assert errors == {"two": "engine_rejected", "2": "input", "3": "input", "five": "input"}
    assert {error["response"]["status_code"] for error in found["errors.jsonl"]} == {400}


def test_of_a_row_that_was_tried_again_the_last_attempt_is_exported(output: Finished, tmp_path: Path) -> None:
    output.mend()
    assert output.retry("engine_rejected") == 1
    assert output.run() == 1
    found = exported(output, tmp_path / "to", "openai")
    assert [answer["custom_id"] for answer in found["output.jsonl"]] == ["one", "two"]
    rows = exported(output, tmp_path / "all", "jsonl")["rows.jsonl"]
    assert [(row["id"], row["sample"], row["attempt"]) for row in rows][:3] == [("one", 0, 1), ("one", 1, 1), ("two", 0, 2)]
    assert len(rows) == 6


def test_a_failed_export_leaves_no_file(output: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "rows", lambda _: iter([{"shard": "s"}]))
    with pytest.raises(KeyError):
        export.export(output.store, "openai", tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file: (File exists|Not a directory)"):
        export.export(output.store, "openai", tmp_path / "file")


def test_there_is_nothing_to_export_where_there_is_no_output(output: Finished, tmp_path: Path) -> None:
    output.store.delete("_batchgen/job.json")
    with pytest.raises(InputError, match="no batchgen output there"):
        export.export(output.store, "jsonl", tmp_path / "to")
