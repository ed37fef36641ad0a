"""The openai engine against a server on loopback that does as it is told: what is asked, what comes of errors, the key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.engines.base import ENGINES
from batchgen.engines.openai import OpenAIEngine
from batchgen.errors import EngineError, JobError, ModelError
from batchgen.job.job import Job
from batchgen.records import Receipt
from tests.support.endpoint import Endpoint, Reply, said, serving
from tests.support.images import DOT, PNG, image
from tests.support.replicas import blocks, part_bytes, prepared, ran, replica

KEY = "canary-key"
OPEN: dict[str, Any] = {"type": "object"}
CLOSED: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


def form(schema: dict[str, Any], strict: bool) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": strict}}}


Rows = list[dict[str, Any]]


class Queued(Endpoint):
    """Answers each request with the next of `answers` (the last one again and again); remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.answers: list[Reply] = []
        super().__init__()

    def listed(self, headers: Message) -> Reply:
        self.keys.add(headers["Authorization"])
        is_wrong = headers["Authorization"] != f"Bearer {KEY}"
        return (401, {}, {"error": {"message": "no such key"}}) if is_wrong else (404, {}, {})

    def reply(self, path: str, body: dict[str, Any], headers: Message) -> Reply:
        self.keys.add(headers["Authorization"])
        self.asked.append(body)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queued]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(Queued()) as made:
        yield made


def answered(
    folder: Path,
    endpoint: Queued,
    rows: list[dict[str, Any]] | None = None,
    options: dict[str, Any] | None = None,
    **fields: Any,
) -> tuple[list[dict[str, Any]], Receipt]:

    given = {
        "engine": {"kind": "openai", "options": {"base_url": endpoint.url, "max_retries": 2, **(options or {})}},
        "model": {"source": "hosted-model"},
        "limits": {"errors": 1},
    }
    made = prepared(folder, rows or [{"prompt": 'Say "hi"\n</s>'}], **{**given, **fields})
    receipt = ran(replica(made), blocks(made)[0])
    return pq.read_table(pa.BufferReader(part_bytes(made, receipt))).to_pylist(), receipt


def test_the_conversation_and_what_differs_from_the_defaults_are_sent(endpoint: Queued, tmp_path: Path) -> None:
    endpoint.answers = [said("hi", "ho")]
    sampling = {"n": 2, "temperature": 0.5, "max_tokens": 7, "stop": ["x"], "top_k": 3, "seed": None, "logprobs": 2}
    rows, receipt = answered(
        tmp_path,
        endpoint,
        sampling=sampling,
        input={"path": str(tmp_path / "in.jsonl"), "prompt": "prompt", "system": "Be kind."},
    )
    assert endpoint.asked == [
        {
            "model": "hosted-model",
            "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": 'Say "hi"\n</s>'}],
            "temperature": 0.5,
            "n": 2,
            "stop": ["x"],
            "max_tokens": 7,
            "logprobs": True,
            "top_logprobs": 2,
            "top_k": 3,
        }
    ]
    assert [(row["response"], row["prompt_tokens"], row["completion_tokens"]) for row in rows] == [("hi", 11, 3), ("ho", 11, 2)]
    assert {row["model"] for row in rows} == {"hosted-model"}
    assert (receipt.counts.prompt_tokens, receipt.counts.cached_tokens) == (11, 4)
    assert endpoint.keys == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("constraint", "sent"),
    [
        ({"json": OPEN}, form(OPEN, strict=False)),
        ({"json": CLOSED}, form(CLOSED, strict=True)),
        ({"choice": ["a"]}, {"structured_outputs": {"choice": ["a"]}}),
    ],
)
def test_a_constraint_goes_as_the_endpoint_knows_it(endpoint: Queued, tmp_path: Path, constraint: Any, sent: Any) -> None:
    endpoint.answers = [said("a", logprobs={"content": [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": []}] * 2})]
    rows, _ = answered(tmp_path, endpoint, sampling={"structured_outputs": constraint, "logprobs": 0, "seed": None})
    [asked] = endpoint.asked
    assert {key: asked[key] for key in sent} == sent
    assert rows[0]["cumulative_logprob"] == -1.0


def test_biases_go_by_openais_name(endpoint: Queued, tmp_path: Path) -> None:
    endpoint.answers = [said("a")]
    answered(tmp_path, endpoint, sampling={"logit_bias": {5: 1, 3: -2}, "seed": None})
    [asked] = endpoint.asked
    assert asked["logit_bias"] == {"3": -2.0, "5": 1.0}


def test_the_tokens_that_an_endpoint_tells_are_in_the_output_without_ids(endpoint: Queued, tmp_path: Path) -> None:
    def token(text: str, logprob: float, **more: Any) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": None, **more}

    content = [token("h", -0.5, top_logprobs=[token("h", -0.5), token("x", -0.25)]), token("i", -1.0, top_logprobs=[])]
    endpoint.answers = [said("hi", logprobs={"content": content}), said("ho")]
    job = {"output": {"path": str(tmp_path / "out"), "token_logprobs": True}, "options": {"concurrency": 1}}
    rows, _ = answered(tmp_path, endpoint, [{"prompt": "a"}, {"prompt": "b"}], sampling={"logprobs": 2}, spans={"rows": 9}, **job)
    top = [{"token_id": None, "token": "x", "logprob": -0.25}, {"token_id": None, "token": "h", "logprob": -0.5}]
    told = {row["response"]: row["token_logprobs"] for row in rows}
    assert told == {"hi": [{**top[1], "top": top}, {"token_id": None, "token": "i", "logprob": -1.0, "top": []}], "ho": None}


def test_the_best_are_chosen_here_of_answers_that_the_endpoint_is_asked_for(endpoint: Queued, tmp_path: Path) -> None:
    def choice(index: int, *tokens: float) -> dict[str, Any]:
        content = [{"token": "x", "logprob": logprob, "bytes": None, "top_logprobs": []} for logprob in tokens]
        message = {"role": "assistant", "content": f"answer {index}"}
        return {"index": index, "message": message, "finish_reason": "stop", "logprobs": {"content": content}}

    status, headers, body = said()
    body["choices"] = [choice(0, -0.5, -0.5), choice(1, -0.25), choice(2, -0.125, -0.375)]
    endpoint.answers = [(status, headers, body)]
    rows, receipt = answered(tmp_path, endpoint, sampling={"n": 2, "best_of": 3, "seed": None})
    [asked] = endpoint.asked
    assert (asked["n"], asked["logprobs"]) == (3, True)
    assert asked.keys() == {"model", "messages", "n", "logprobs"}
    assert [(row["sample"], row["response"], row["completion_tokens"]) for row in rows] == [
        (0, "answer 1", 1),
        (1, "answer 2", 2),
    ]
    assert [row["cumulative_logprob"] for row in rows] == [-0.25, -0.5]
    assert receipt.counts.completion_tokens == 3


def test_every_turn_is_a_request_with_what_was_said_before(endpoint: Queued, tmp_path: Path) -> None:
    endpoint.answers = [said("one"), said("two")]
    source = {"path": str(tmp_path / "in.jsonl"), "turns": "ask"}
    rows, _ = answered(tmp_path, endpoint, [{"ask": ["first", "second"]}], input=source)
    assert [message["content"] for message in endpoint.asked[1]["messages"]] == ["first", "one", "second"]
    assert (rows[0]["response"], rows[0]["prompt_tokens"]) == ("two", 22)


@pytest.mark.parametrize("status", [429, 500, 503, 409])
def test_what_may_pass_is_asked_again(endpoint: Queued, tmp_path: Path, status: int) -> None:
    endpoint.answers = [(status, {"Retry-After": "0.01"}, {"error": {"message": "later"}})] * 2 + [said("hi")]
    rows, _ = answered(tmp_path, endpoint)
    assert (rows[0]["response"], len(endpoint.asked)) == ("hi", 3)


def test_what_does_not_pass_is_an_error_row(endpoint: Queued, tmp_path: Path) -> None:
    endpoint.answers = [(429, {"Retry-After": "0.01"}, {"error": {"message": "quota"}})]
    rows, _ = answered(tmp_path, endpoint)
    assert (rows[0]["error_code"], len(endpoint.asked)) == ("engine_rejected", 3)
    assert "quota" in rows[0]["error_detail"]


def test_a_request_that_is_refused_is_an_error_row_at_once(endpoint: Queued, tmp_path: Path) -> None:
    endpoint.answers = [(400, {}, {"error": {"message": "too many words"}}), said("hi")]
    rows, _ = answered(tmp_path, endpoint, [{"prompt": "a"}, {"prompt": "b"}], options={"concurrency": 1}, spans={"rows": 9})
    assert sorted(str(row["error_code"]) for row in rows) == ["None", "engine_rejected"]
    assert any("too many words" in str(row["error_detail"]) for row in rows)


def test_a_wrong_key_and_an_endpoint_that_is_not_there_end_the_start_and_tell_no_key(
    endpoint: Queued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-wrong")
    with pytest.raises(EngineError, match=r"no such key.*check engine\.options\.base_url and the key in OPENAI_API_KEY") as wrong:
        answered(tmp_path, endpoint)
    with pytest.raises(EngineError, match=r"Connection error.*check engine\.options\.base_url") as gone:
        answered(tmp_path, endpoint, options={"base_url": "http://127.0.0.1:1/v1", "max_retries": 0})
    assert "canary" not in f"{wrong.value}{gone.value}"


def test_another_key_is_found_under_its_name(endpoint: Queued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    endpoint.answers = [said("hi")]
    assert answered(tmp_path, endpoint, options={"api_key_env": "JUDGE_KEY"})[0][0]["response"] == "hi"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written


def test_an_option_that_there_is_not_is_a_mistake_in_the_job(endpoint: Queued, tmp_path: Path) -> None:
    with pytest.raises(
        JobError,
        match=r"engine\.options\.api_key: unknown field 'api_key', did you mean 'api_key_env'\?; openai has base_url, api_key",
    ):
        answered(tmp_path, endpoint, options={"api_key": KEY})
    assert OpenAIEngine.workers == 1


def test_attributes_that_the_endpoint_would_not_see_are_refused(endpoint: Queued, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the chat template of hosted-model ignores verbosity"):
        answered(tmp_path, endpoint, attributes={"schema": {"names": ["verbosity"]}})
    with pytest.raises(ModelError, match="ignores helpfulness"):
        answered(tmp_path, endpoint, attributes={"schema": "karakuri"})
    endpoint.answers = [said("hi")]
    layout = {"names": ["verbosity"], "layout": {"block": " ({pairs})"}}
    answered(tmp_path, endpoint, attributes={"schema": layout, "values": {"verbosity": 3}})
    assert endpoint.asked[0]["messages"][0]["content"].endswith("(verbosity: 3)")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("model", "chat_template", "x.jinja"),
        ("model", "chat_template_kwargs", {"label": "x"}),
        ("input", "continue_final_message", True),
    ],
)
def test_what_only_a_template_of_ours_could_honour_is_refused(section: str, field: str, value: Any) -> None:
    fields: dict[str, Any] = {
        "input": {"path": "x", "messages": "m"},
        "model": {"source": "hosted"},
        "engine": {"kind": "openai"},
        "output": {"path": "o"},
    }
    fields[section][field] = value
    with pytest.raises(JobError, match=rf"{section}\.{field}: an endpoint applies a template of its own; leave it out"):
        ENGINES.named("openai").check(Job.parse(fields))


def test_an_image_below_the_folder_is_sent_itself(endpoint: Queued, tmp_path: Path) -> None:
    endpoint.answers = [said("A cat.")]
    (tmp_path / "cat.png").write_bytes(PNG)
    source = {"path": str(tmp_path / "in.jsonl"), "messages": "messages", "image_folder": str(tmp_path)}
    parts = [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "What is it?"}]
    [row], _ = answered(tmp_path, endpoint, [{"messages": [{"role": "user", "content": parts}]}], input=source)
    assert row["response"] == "A cat."
    assert endpoint.asked[-1]["messages"] == [{"role": "user", "content": [image(DOT), parts[1]]}]
    assert json.loads(row["messages"][0]["content"]) == [image("cat.png"), parts[1]]
