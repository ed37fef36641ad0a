"""Replies that are no answers, from a server on loopback: each refuses its own row, the engine lives, the neighbours are ok.
BATCHGEN_HOSTILE says how many replies hypothesis makes; `make chaos` takes 100,000."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.engines import openai
from batchgen.engines.openai_replies.chat import BusyError, answers_in
from batchgen.errors import BadRow
from tests.engines.test_openai import Endpoint, answered, endpoint, said

__all__ = ["endpoint"]  # a fixture
REPLIES = int(os.environ.get("BATCHGEN_HOSTILE", "300"))
CHOICE: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}


def reply(choice: Any = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [CHOICE | (choice or {})], "usage": {"prompt_tokens": 3, "completion_tokens": 1}, **fields}


def message(**fields: Any) -> dict[str, Any]:
    return reply({"message": {"role": "assistant", **fields}})


HOSTILE: list[tuple[Any, str]] = [
    (b"<html><body>502 Bad Gateway</body></html>", "its body is invalid JSON: .*502 Bad Gateway"),
    (b'{"choices": [', "its body is invalid JSON"),
    (b"", "its body is invalid JSON"),
    (b"\xff\xfe", "its body is invalid UTF-8"),
    (b"[" * 5000, "its body is JSON of more than 200 levels"),
    (b'{"choices": [{"index": 0, "message": {"content": "\\ud83d"}}]}', "half of a surrogate pair"),
    ([], r"its body is \[\]"),
    (None, "its body is None"),
    ({}, "choices is None"),
    (reply(choices=None), "choices is None"),
    (reply(choices=[]), "0 choices instead of 1"),
    (reply(choices=[CHOICE, CHOICE]), "2 choices instead of 1"),
    (reply(choices={"0": CHOICE}), "choices is "),
    (reply(choices=[None]), r"choices is \[None\]"),
    (reply({"index": 7}), r"the indexes of its choices are \[7\]"),
    (reply({"index": "0"}), "the indexes of its choices"),
    (reply({"message": None}), "a message is None"),
    (reply({"message": ["yes"]}), "a message is "),
    (message(content=None), "the content of a message is None"),
    (message(content=None, refusal="I cannot."), "it refuses: I cannot"),
    (message(content=None, tool_calls=[{"id": "c"}]), "a tool call is {'id': 'c'}"),
    (message(content=[]), r"the content of a message is \[\]"),
    (message(content=[{"type": "image_url", "image_url": {}}]), "the content of a message"),
    (message(content={"text": "yes"}), "the content of a message"),
    (reply(usage=[1]), r"usage is \[1\]"),
    (reply(usage={"prompt_tokens": -1}), "usage.prompt_tokens is -1"),
    (reply(usage={"completion_tokens": 1.5}), "usage.completion_tokens is 1.5"),
    (reply(usage={"prompt_tokens": 2**40}), "usage.prompt_tokens is 1099511627776"),
    (reply(usage={"prompt_tokens": "12"}), "usage.prompt_tokens is 12"),
    (reply(usage={"prompt_tokens": True}), "usage.prompt_tokens is True"),
    (reply(error={"message": "no such model", "code": "model_not_found"}), "error: no such model"),
    (reply(error="out of money"), "error: out of money"),
]


@pytest.mark.parametrize(("body", "cause"), HOSTILE, ids=[str(number) for number in range(len(HOSTILE))])
def test_a_reply_that_is_no_answer_is_refused_with_its_cause(body: Any, cause: str) -> None:
    with pytest.raises(BadRow, match=f"^the endpoint did not answer as asked: .*{cause}") as refused:
        answers_in(body if isinstance(body, bytes) else json.dumps(body).encode(), 1, False, False)
    assert refused.value.code == "engine_rejected"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (message(content=[{"type": "text", "text": "ye"}, {"type": "text", "text": "s"}]), "yes"),
        (message(content=[{"text": "yes"}]), "yes"),
        (message(content=""), ""),
        (message(content="yes", refusal=None, tool_calls=None), "yes"),
        (reply({"index": None}), "yes"),
        (reply({"finish_reason": None, "logprobs": {"content": "?"}}), "yes"),
        (reply(usage=None), "yes"),
        (reply(usage={"prompt_tokens": None, "completion_tokens": 2.0}), "yes"),
        (reply(error=None), "yes"),
    ],
    ids=str,
)
def test_an_answer_in_an_odd_form_is_an_answer(body: Any, text: str) -> None:
    [answer] = answers_in(json.dumps(body).encode(), 1, False, False)
    assert (answer.text, answer.finish_reason) == (text, "stop")


def test_the_choices_are_put_into_the_order_of_their_indexes() -> None:
    choices = [{**CHOICE, "index": index, "message": {"content": str(index)}} for index in (2, 0, 1)]
    assert [answer.text for answer in answers_in(json.dumps(reply(choices=choices)).encode(), 3, False, False)] == ["0", "1", "2"]


@pytest.mark.parametrize("entry", [None, {}, {"token": "a"}, {"token": "a", "logprob": None}, {"token": 1, "logprob": -1.0}])
def test_log_probabilities_that_are_none_are_refused(entry: Any) -> None:
    body = json.dumps(reply({"logprobs": {"content": [entry]}})).encode()
    with pytest.raises(BadRow, match="an entry of logprobs is"):
        answers_in(body, 1, True, True)
    with pytest.raises(BadRow, match="an entry of logprobs is"):
        answers_in(
            json.dumps(reply({"logprobs": {"content": [{"token": "a", "logprob": float("nan")}]}})).encode(), 1, True, True
        )


@pytest.mark.parametrize("code", [429, "429", "rate_limit_exceeded", 500, 503, "overloaded_error"])
def test_an_error_that_may_pass_is_told_from_others(code: Any) -> None:
    with pytest.raises(BusyError, match="wait"):
        answers_in(json.dumps({"error": {"message": "wait", "code": code}}).encode(), 1, False, False)


def test_a_row_is_asked_again_while_a_reply_says_that_the_endpoint_is_busy(
    endpoint: Endpoint, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "MOST_WAIT", 0.0)
    busy = (200, {}, {"error": {"message": "slow down", "code": 429}})
    endpoint.answers = [busy, busy, said("hi")]
    rows, _ = answered(tmp_path, endpoint)
    assert ([row["response"] for row in rows], len(endpoint.asked)) == (["hi"], 3)
    endpoint.answers = [busy]
    (tmp_path / "again").mkdir()
    [row], _ = answered(tmp_path / "again", endpoint)
    assert (row["error_code"], row["status"]) == ("engine_rejected", "error")
    assert row["error_detail"].endswith("the endpoint did not answer in 3 tries: slow down")


def test_hostile_replies_refuse_their_own_rows_and_no_others(endpoint: Endpoint, tmp_path: Any) -> None:
    bodies = [body for body, _ in HOSTILE if not isinstance(body, bytes)]
    endpoint.answers = [entry for body in bodies for entry in ((200, {}, body), said("fine"))] + [said("fine")]
    rows, receipt = answered(
        tmp_path, endpoint, [{"prompt": str(n)} for n in range(2 * len(bodies) + 1)], {"concurrency": 1}, spans={"rows": 1000}
    )
    statuses = sorted((row["status"], row["error_code"]) for row in rows)
    assert statuses == [("error", "engine_rejected")] * len(bodies) + [("ok", None)] * (len(bodies) + 1)
    assert receipt.restarts == 0


def test_a_response_of_too_many_bytes_is_refused(endpoint: Endpoint, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "MOST_BYTES", 10_000)
    endpoint.answers = [said("x" * 20_000), said("fine")]
    rows, _ = answered(tmp_path, endpoint, [{"prompt": "a"}, {"prompt": "b"}], {"concurrency": 1})
    assert sorted(row["error_code"] or "ok" for row in rows) == ["engine_rejected", "ok"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    (),
    ("choices",),
    ("choices", 0),
    ("choices", 0, "message"),
    ("choices", 0, "message", "content"),
    ("choices", 0, "index"),
]
PATHS += [("usage",), ("usage", "prompt_tokens"), ("usage", "completion_tokens"), ("error",), ("choices", 0, "logprobs")]
PATHS += [("choices", 0, "finish_reason"), ("choices", 0, "logprobs", "content"), ("choices", 0, "logprobs", "content", 0)]


def put(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    if isinstance(body, list):
        return [put(entry, path[1:], value) if number == path[0] else entry for number, entry in enumerate(body)]
    return {**body, path[0]: put(body.get(path[0], {}), path[1:], value)} if isinstance(body, dict) else value


@pytest.mark.timeout(12 * 3600)
@settings(max_examples=REPLIES, derandomize="BATCHGEN_HOSTILE" not in os.environ)
@given(st.sampled_from(PATHS), anything, st.integers(1, 3), st.booleans())
def test_any_reply_is_answers_or_the_refusal_of_its_row(path: tuple[Any, ...], value: Any, n: int, scored: bool) -> None:
    token = {"token": "yes", "logprob": -0.5, "top_logprobs": [{"token": "yes", "logprob": -0.5}]}
    body = put(reply({"logprobs": {"content": [token]}}), path, value)
    try:
        answers = answers_in(json.dumps(body).encode(), n, scored, scored)
    except (BadRow, BusyError):
        return
    assert len(answers) == n
    for answer in answers:
        assert 0 <= answer.tokens < 2**31
        assert answer.text.encode().decode() == answer.text
