"""The column `prompt_logprobs`: when it is there, and what engines and endpoints put into it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchgen.engines.openai_replies.chat import answers_in, of_prompt_tokens
from batchgen.engines.vllm_sampling.scores import prompt_logprobs
from batchgen.errors import JobError
from batchgen.job.sampling import check_sampling
from tests.support.replicas import answered


def test_echo_tells_its_prompts_tokens(tmp_path: Path) -> None:
    rows, _ = answered(tmp_path, [{"prompt": "ab ab c"}], sampling={"prompt_logprobs": 2, "n": 2})
    tokens = rows[0]["prompt_logprobs"]
    assert len(tokens) == rows[0]["prompt_tokens"]
    text = "".join(token["token"] for token in tokens)
    assert "ab ab c" in text
    assert [token["token_id"] for token in tokens] == list(text.encode())
    assert (tokens[0]["logprob"], tokens[0]["top"]) == (None, [])
    each = [token["logprob"] for token in tokens[1:]]
    assert each == pytest.approx([-math.log(4)] * len(each))  # user, ab, ab, c
    assert {len(token["top"]) for token in tokens[1:]} == {2}
    assert all(token["top"][0]["token_id"] == token["token_id"] for token in tokens[1:])
    assert rows[1]["prompt_logprobs"] == tokens


def test_the_column_is_there_when_the_job_asks_and_null_where_a_row_does_not(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "wanted": 0}, {"prompt": "b", "wanted": None}]
    found, _ = answered(tmp_path, rows, sampling={"prompt_logprobs": {"column": "wanted"}})
    assert [token["top"] for token in found[0]["prompt_logprobs"]] == [[]] * found[0]["prompt_tokens"]
    assert found[1]["prompt_logprobs"] is None
    assert "token_logprobs" not in found[0]


def test_without_it_there_is_no_column(tmp_path: Path) -> None:
    rows, _ = answered(tmp_path, [{"prompt": "a", "sampling": {"prompt_logprobs": 3}}])
    assert "prompt_logprobs" not in rows[0]


def test_of_several_turns_it_is_of_the_last_ones_prompt(tmp_path: Path) -> None:
    source = {"path": str(tmp_path / "in.jsonl"), "turns": "turns"}
    [row], _ = answered(tmp_path, [{"turns": ["one", "two"]}], sampling={"prompt_logprobs": 0}, input=source)
    text = "".join(token["token"] for token in row["prompt_logprobs"])
    assert "one" in text
    assert "two" in text
    assert len(row["prompt_logprobs"]) < row["prompt_tokens"]  # of both turns


@pytest.mark.parametrize("value", [-1, 21, "many"])
def test_other_numbers_are_mistakes_in_the_job(tmp_path: Path, value: object) -> None:
    with pytest.raises(JobError, match=r"sampling: prompt_logprobs"):
        answered(tmp_path, [{"prompt": "a"}], sampling={"prompt_logprobs": value})


def test_of_vllms_positions_the_prompts_token_is_taken() -> None:
    def entry(logprob: float, rank: int, text: str) -> SimpleNamespace:
        return SimpleNamespace(logprob=logprob, rank=rank, decoded_token=text)

    positions = [None, {5: entry(-4.0, 9, "e"), 1: entry(-0.5, 1, "a")}, {1: entry(-0.25, 1, "a")}]
    output = SimpleNamespace(prompt_token_ids=[7, 5, 1], prompt_logprobs=positions)
    made = prompt_logprobs(output, 1)
    top = [{"token_id": 1, "token": "a", "logprob": -0.5}]
    assert made is not None
    assert made.to_pylist() == [
        {"token_id": 7, "token": None, "logprob": None, "top": []},
        {"token_id": 5, "token": "e", "logprob": -4.0, "top": top},
        {"token_id": 1, "token": "a", "logprob": -0.25, "top": [{"token_id": 1, "token": "a", "logprob": -0.25}]},
    ]
    assert prompt_logprobs(output, None) is None
    assert prompt_logprobs(SimpleNamespace(prompt_token_ids=[7], prompt_logprobs=None), 1) is None


def reply(found: object) -> bytes:
    whole: dict[str, Any] = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]}
    return json.dumps({**whole, "usage": {"prompt_tokens": 3, "completion_tokens": 1}, "prompt_logprobs": found}).encode()


def entry(logprob: object, rank: object, text: object) -> dict[str, object]:
    return {"logprob": logprob, "rank": rank, "decoded_token": text}


def test_a_vllm_servers_reply_has_them() -> None:
    found = [None, {"5": entry(-4.0, 9, "e"), "1": entry(-0.5, 1, "a")}, {"1": entry(-0.25, 1, None)}]
    [answer] = answers_in(reply(found), 1, False, False, 1)
    assert answer.prompt_logprobs is not None
    assert answer.prompt_logprobs.to_pylist() == [
        {"token_id": None, "token": None, "logprob": None, "top": []},
        {"token_id": 5, "token": "e", "logprob": -4.0, "top": [{"token_id": 1, "token": "a", "logprob": -0.5}]},
        {"token_id": 1, "token": None, "logprob": -0.25, "top": [{"token_id": 1, "token": None, "logprob": -0.25}]},
    ]
    assert answers_in(reply(found), 1, False, False)[0].prompt_logprobs is None


@pytest.mark.parametrize(
    "found",
    [
        *(None, "x", 3, {}, [3], [[]], [{}], [{"x": entry(-1.0, 1, "a")}], [{"1": None}], [{"1": {"logprob": -1.0}}]),
        *([{"1": entry(value, 1, "a")}] for value in ("x", None, True, [], {})),
        *([{"1": entry(-1.0, rank, "a")}] for rank in ("x", None, [], 1e400)),
        *([{"1": entry(-1.0, 1, text)}] for text in (3, [], {})),
        [{str(2**40): entry(-1.0, 1, "a")}],
    ],
)
def test_what_an_endpoint_sends_instead_leaves_null(found: object) -> None:
    [answer] = answers_in(reply(found), 1, False, False, 1)
    assert (answer.text, answer.prompt_logprobs) == ("x", None)
    assert of_prompt_tokens(found, 1) is None


def test_it_is_a_field_of_sampling() -> None:
    assert check_sampling({"prompt_logprobs": 20.0}).prompt_logprobs == 20
