"""The openai engine against vLLM's own server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.rendering import TINY, one, tiny
from tests.support.replicas import blocks, part_bytes, prepared, ran, replica
from tests.support.vllm_server import serving

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
KEY = "a key for this test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = ["--dtype", "bfloat16", "--enforce-eager", "--no-enable-chunked-prefill", "--api-key", KEY]
    with serving(TINY, tmp_path_factory.mktemp("server") / "log", *flags) as url:
        yield url


def test_a_server_answers_as_an_engine_does(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    prompts = ["Tell me about tea.", "Tell me about rain.", "Say </s> and [/INST]."]
    rows: list[dict[str, Any]] = [{"prompt": prompt, "sampling": None} for prompt in prompts]
    rows += [
        {"prompt": "Good or bad?", "sampling": {"structured_outputs": {"choice": ["good", "bad"]}, "n": 3, "temperature": 1.0}},
        {"prompt": "Tell me about cats.", "sampling": {"best_of": 4, "n": 2, "temperature": 1.0}},
        {"prompt": "An object?", "sampling": {"structured_outputs": {"json": {"type": "object", "enum": [{"a": 1}]}}}},
        {"prompt": "Bad.", "sampling": {"structured_outputs": {"regex": "("}}},
        {"prompt": "word " * 600, "sampling": None},
    ]
    # The tiny model sees nothing: a request with an image is refused.
    look = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    rows = [{"messages": [{"role": "user", "content": row.pop("prompt")}], **row} for row in rows]
    rows.append({"messages": [{"role": "user", "content": [{"type": "text", "text": "Look."}, look]}], "sampling": None})
    made = prepared(
        tmp_path,
        rows,
        input={"path": str(tmp_path / "in.jsonl"), "messages": "messages"},
        model={"source": "tiny"},
        engine={"kind": "openai", "options": {"base_url": server, "api_key_env": "TINY_KEY", "concurrency": 4}},
        sampling={"temperature": 0, "max_tokens": 60, "logprobs": 2, "prompt_logprobs": 2},
        spans={"rows": 100},
        limits={"errors": 1},
        output={"path": str(tmp_path / "out"), "token_logprobs": True},
    )
    receipt = ran(replica(made), blocks(made)[0])
    answers = pq.read_table(pa.BufferReader(part_bytes(made, receipt))).to_pylist()
    plain, chosen, best, [formed], refused = answers[:3], answers[3:6], answers[6:8], answers[8:9], answers[9:]
    assert [row["error_code"] for row in answers] == [None] * 9 + ["engine_rejected"] * 3
    for prompt, row in zip(prompts[:2], plain, strict=False):
        assert row["prompt_tokens"] == len(one(tiny(), prompt=prompt).token_ids), "the server renders what we render"
        assert row["response"].strip()
        assert row["cumulative_logprob"] < 0
        tokens = row["token_logprobs"]
        assert sum(token["logprob"] for token in tokens) == pytest.approx(row["cumulative_logprob"])
        assert len(tokens) == row["completion_tokens"]
        assert "".join(token["token"] for token in tokens).removesuffix("</s>") == row["response"]
        assert {token["token_id"] for token in tokens} == {None}
        of_prompt = row["prompt_logprobs"]
        assert [token["token_id"] for token in of_prompt][1:] == one(tiny(), prompt=prompt).token_ids[1:]
        assert of_prompt[0]["logprob"] is None
        assert all(token["logprob"] < 0 and len(token["top"]) == 2 for token in of_prompt[1:])
        for token in tokens:
            assert [other["token"] for other in token["top"]][:1] == [token["token"]], "it is greedy"
            assert len(token["top"]) == 2
    assert [row["sample"] for row in chosen] == [0, 1, 2]
    assert {row["response"] for row in chosen} <= {"good", "bad"}
    assert best[0]["cumulative_logprob"] >= best[1]["cumulative_logprob"]
    assert [len(row["token_logprobs"]) for row in best] == [row["completion_tokens"] for row in best]
    assert formed["response"].replace(" ", "") == '{"a":1}'
    assert "regex" in refused[0]["error_detail"].lower()
    assert "512" in refused[1]["error_detail"], "its context is the server's to know"
