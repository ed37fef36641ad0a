"""A model that thinks and calls tools, through vLLM and through vLLM's own server as an endpoint: the columns are the same."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.support.rendering import TINY
from tests.support.replicas import blocks, part_bytes, prepared, ran, replica
from tests.support.thinker import make_thinker
from tests.support.vllm_server import serving

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
PARSERS = {"reasoning_parser": "qwen3", "tool_call_parser": "hermes"}
GOOD = ['{"good": true}', '{"good": false}']
PLACE = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Kyoto", "Oslo"]}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": PLACE}}]
NAMED = {"type": "function", "function": {"name": "weather"}}
ANSWER = {"structured_outputs": {"choice": GOOD}, "max_tokens": 60}
VOCABULARY = Tokenizer.from_file(str(TINY / "tokenizer.json")).get_vocab()
WITHOUT_SPACE = {str(number): -100 for token, number in VOCABULARY.items() if set(token) <= set("ĠĊĉč")}
"""The tiny model would fill the room of a JSON text with white space."""
CALL = {"max_tokens": 60, "tools": TOOLS, "thinking_token_budget": 4, "logit_bias": WITHOUT_SPACE}
ROWS: list[dict[str, Any]] = [
    {"prompt": "Is tea good?", "sampling": {**ANSWER, "thinking_token_budget": 8}},
    {"prompt": "Is rain good?", "sampling": {**ANSWER, "chat_template_kwargs": {"enable_thinking": False}}},
    {"prompt": "Is snow good?", "sampling": {"max_tokens": 12}},
    {"prompt": "Weather?", "sampling": {**CALL, "tool_choice": NAMED}},
    {"prompt": "Weather?", "sampling": {**CALL, "tool_choice": "required"}},
]
SAME = ("reasoning", "reasoning_tokens", "response", "tool_calls", "parsed", "finish_reason", "error_code", "completion_tokens")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_thinker(tmp_path_factory.mktemp("model") / "thinker")


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = ["--dtype", "float32", "--enforce-eager", "--enable-auto-tool-choice", "--tool-strict-level", "parameter"]
    flags += ["--reasoning-parser", PARSERS["reasoning_parser"], "--tool-call-parser", PARSERS["tool_call_parser"]]
    with serving(model, tmp_path_factory.mktemp("server") / "log", *flags) as url:
        yield url


def answered(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    folder.mkdir()
    made = prepared(
        folder,
        rows,
        sampling={"temperature": 0},
        parse={"columns": {"good": "boolean"}},
        errors={"parse": "keep"},
        limits={"errors": 1},
        **fields,
    )
    [block] = blocks(made)
    found: list[dict[str, Any]] = pq.read_table(io.BytesIO(part_bytes(made, ran(replica(made), block)))).to_pylist()
    return found


def test_reasoning_constraints_budgets_and_calls(
    model: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    options = {"max_model_len": 512, "max_num_seqs": 8, "dtype": "float32", "enforce_eager": True}
    vllm = {"model": {"source": str(model), **PARSERS}, "engine": {"kind": "vllm", "options": options}}
    here = answered(tmp_path / "vllm", ROWS, **vllm)
    tea, rain, snow, named, wanted = here
    assert [row["error_code"] for row in here[:2]] == [None, None], here
    assert 0 < tea["reasoning_tokens"] <= 8
    assert tea["reasoning"]
    assert json.loads(tea["response"]) == tea["parsed"], "constraint and parse see the answer alone"
    assert (rain["reasoning"], rain["reasoning_tokens"] or 0) == (None, 0)
    assert json.loads(rain["response"]) == rain["parsed"]
    assert (snow["response"], snow["finish_reason"], snow["error_code"]) == ("", "length", "parse"), "it was cut while it thought"
    assert snow["reasoning_tokens"] == 12
    for row in (named, wanted):
        [call] = row["tool_calls"]
        assert call["type"] == "function"
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"])["city"] in ("Kyoto", "Oslo")
        assert row["reasoning"]
        assert json.loads(row["messages"][-1]["tool_calls"])[0]["function"] == call["function"]
        assert row["messages"][-1]["reasoning_content"] == row["reasoning"]
    endpoint = {"kind": "openai", "options": {"base_url": server}}
    there = answered(tmp_path / "openai", ROWS, model={"source": "tiny"}, engine=endpoint)
    for ours, theirs in zip(here, there, strict=True):
        for name in SAME:
            a, b = ours[name], theirs[name]
            if name == "tool_calls":
                a, b = ([call["function"] for call in calls or ()] for calls in (a, b))
            assert a == b, (ours["prompt"], name)


def test_a_parser_that_vllm_does_not_have_or_the_tokenizer_does_not_fit_is_named(tmp_path: Path) -> None:
    from batchgen.engines.vllm import KIND
    from batchgen.errors import EngineError
    from batchgen.render.model_files import load_model
    from tests.support.rendering import make_job

    job = make_job(model={"source": str(TINY), "reasoning_parser": "no_such"}, engine={"kind": "vllm", "options": {}})
    with pytest.raises(EngineError, match="no_such"):
        asyncio.run(KIND.make(job, load_model(job.model)).start())
