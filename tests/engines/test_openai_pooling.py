"""Numbers from an endpoint on loopback: what is asked for each task, what comes of replies that are none."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from batchgen.engines.openai_replies.pooling import url_of
from tests.support.endpoint import Endpoint, Reply, serving
from tests.support.replicas import answered


class Scored(Endpoint):
    """Replies with `bodies` by the path of the request, but for the first `statuses`; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.bodies: dict[str, Any] = {}
        self.statuses: list[int] = []
        super().__init__()

    def reply(self, path: str, body: dict[str, Any], headers: Message) -> Reply:
        self.asked.append((path, body))
        status = self.statuses.pop(0) if self.statuses else 200
        if status != 200:
            return status, {}, {"error": {"message": "no"}}
        return (200, {}, self.bodies[path]) if path in self.bodies else (404, {}, None)


@pytest.fixture
def endpoint() -> Iterator[Scored]:
    with serving(Scored()) as made:
        yield made


ROW = {"prompt": "a query", "docs": ["one", "two", "three"], "doc": "one", "talk": [{"role": "assistant", "content": "hi"}]}
USAGE = {"prompt_tokens": 7, "total_tokens": 7}


def read(folder: Path, endpoint: Scored, task: str, **fields: Any) -> dict[str, Any]:
    """The output's row of ROW, in an output of its own."""
    folder = folder / str(len(endpoint.asked))
    folder.mkdir()
    given = {"path": str(folder / "in.jsonl"), "prompt": "prompt", **fields.pop("input", {})}
    engine = {"kind": "openai", "options": {"base_url": endpoint.url, "max_retries": 1}}
    [row], receipt = answered(folder, [ROW], task=task, model="hosted", engine=engine, input=given, **fields)
    assert receipt.counts.rows == 1
    return row


def one(**fields: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"index": 0, **fields}], "usage": USAGE}


def test_a_text_is_embedded_with_the_dimensions_of_the_job(tmp_path: Path, endpoint: Scored) -> None:
    endpoint.bodies["/v1/embeddings"] = one(embedding=[0.5, 1, -2e-3])
    row = read(tmp_path, endpoint, "embed", pooling={"dimensions": 3, "max_tokens": 16})
    assert row["embedding"] == pytest.approx([0.5, 1, -2e-3])
    assert (row["status"], row["prompt_tokens"]) == ("ok", 7)
    body = {"model": "hosted", "input": "a query", "encoding_format": "float", "dimensions": 3, "truncate_prompt_tokens": 16}
    assert endpoint.asked == [("/v1/embeddings", body)]


def test_a_class_comes_with_the_endpoints_label(tmp_path: Path, endpoint: Scored) -> None:
    endpoint.bodies["/classify"] = one(label="spam", probs=[0.25, 0.75], num_classes=2)
    row = read(tmp_path, endpoint, "classify", pooling={"normalize": True})
    assert (row["label"], row["probabilities"]) == ("spam", [0.25, 0.75])
    assert endpoint.asked == [("/classify", {"model": "hosted", "input": "a query", "use_activation": True})]


def test_a_score_is_of_a_pair_and_a_reranking_in_the_order_of_the_documents(tmp_path: Path, endpoint: Scored) -> None:
    endpoint.bodies["/v1/score"] = one(score=0.5)
    assert read(tmp_path, endpoint, "score", input={"documents": "doc"})["score"] == 0.5
    ranked = [{"index": 2, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": 0.25}]
    endpoint.bodies["/v1/rerank"] = {"results": ranked, "usage": {"total_tokens": 9}}
    row = read(tmp_path, endpoint, "rerank", input={"documents": "docs"})
    assert (row["scores"], row["prompt_tokens"]) == ([0.5, 0.25, 0.75], 9)
    asked = {"/v1/score": {"text_1": "a query", "text_2": "one"}, "/v1/rerank": {"query": "a query", "documents": ROW["docs"]}}
    assert endpoint.asked == [(path, {"model": "hosted", **body}) for path, body in asked.items()]


def test_a_conversation_has_a_reward_as_the_models_head_gives_it(tmp_path: Path, endpoint: Scored) -> None:
    endpoint.bodies["/pooling"] = one(data=[-3.5])
    row = read(tmp_path, endpoint, "reward", input={"prompt": None, "messages": "talk"})
    assert row["score"] == -3.5
    body = {"model": "hosted", "messages": ROW["talk"], "task": "classify", "use_activation": False}
    assert endpoint.asked == [("/pooling", body)]


@pytest.mark.parametrize(
    ("embedding", "cause"),
    [
        ([0.5, None, 1.0], "embedding has None in it, not a number"),
        ([0.5, True, 1.0], "embedding has True in it, not a number"),
        ([0.5, "1", 1.0], "embedding has 1 in it, not a number"),
        ([0.5, [1.0], 1.0], "embedding has [1.0] in it, not a number"),
        ([0.5, float("nan"), 1.0], "embedding has a number that is not finite"),
        ([0.5, 1e300, 1.0], "embedding has a number that is not finite"),
        ([0.5, 10**400, 1.0], "not finite"),
        ([0.5, 1.0], "2 numbers instead of 3"),
        ([], "embedding is [], not a list of numbers"),
        (None, "embedding is None, not a list of numbers"),
        ("AAAA", "embedding is AAAA, not a list of numbers"),
        (0.5, "embedding is 0.5, not a list of numbers"),
    ],
)
def test_bad_numbers_are_one_rejected_row(tmp_path: Path, endpoint: Scored, embedding: Any, cause: str) -> None:
    endpoint.bodies["/v1/embeddings"] = one(embedding=embedding)
    row = read(tmp_path, endpoint, "embed", pooling={"dimensions": 3})
    assert (row["error_code"], row["embedding"]) == ("engine_rejected", None)
    assert cause in row["error_detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        [],
        {"data": []},
        {"data": [{}, {}]},
        {"data": [{"index": 1, "score": 0.5}]},
        {"data": [{"index": 0, "score": [0.5]}]},
        {"data": [{"index": 0, "score": True}]},
        {"data": [{"index": 0, "score": 0.5}], "usage": {"prompt_tokens": -1}},
        {"error": {"message": "no such model"}},
    ],
)
def test_a_body_that_is_no_score_is_one_rejected_row(tmp_path: Path, endpoint: Scored, body: Any) -> None:
    endpoint.bodies["/v1/score"] = body
    row = read(tmp_path, endpoint, "score", input={"documents": "doc"})
    assert (row["error_code"], row["score"]) == ("engine_rejected", None)


def test_documents_are_scored_all_or_none(tmp_path: Path, endpoint: Scored) -> None:
    for numbers in ([0, 1], [0, 1, 1], [0, 1, 2, 3], [None, None, None]):
        endpoint.bodies["/v1/rerank"] = {"results": [{"index": number, "relevance_score": 0.5} for number in numbers]}
        assert read(tmp_path, endpoint, "rerank", input={"documents": "docs"})["error_code"] == "engine_rejected"


def test_a_busy_endpoint_is_asked_again_and_a_refusal_is_a_row(tmp_path: Path, endpoint: Scored) -> None:
    endpoint.bodies["/v1/embeddings"], endpoint.statuses = one(embedding=[1.0]), [503]
    assert read(tmp_path, endpoint, "embed")["status"] == "ok"
    assert len(endpoint.asked) == 2
    endpoint.statuses = [400]
    assert read(tmp_path, endpoint, "embed")["error_code"] == "engine_rejected"


def test_paths_beside_v1_are_at_the_servers_root() -> None:
    assert url_of("http://h:1/v1/", "embed") == "http://h:1/v1/embeddings"
    assert url_of("http://h:1/v1", "classify") == "http://h:1/classify"
    assert url_of("http://h:1", "reward") == "http://h:1/pooling"
