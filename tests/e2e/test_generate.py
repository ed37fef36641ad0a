"""generate with the real engine: a steered answer to each text, in a running event loop as a notebook has one."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest

import batchgen
from tests.support.rendering import TINY
from tests.support.shared_engine import OPTIONS

pytestmark = [pytest.mark.engine, pytest.mark.cluster, pytest.mark.timeout(600)]


def test_texts_are_answered_by_the_model_about_what_they_ask() -> None:
    async def notebook() -> pa.Table:
        return batchgen.generate(
            ["Tell me about tea.", "Tell me about camping."],
            model=TINY,
            attributes={"schema": "karakuri", "sweep": {"verbosity": [0, 4]}},
            sampling={"temperature": 0, "max_tokens": 128},
            engine={"options": OPTIONS, "env": {"VLLM_CPU_KVCACHE_SPACE": "1"}},
            quiet=True,
        )

    table = asyncio.run(notebook())
    assert set(table["status"].to_pylist()) == {"ok"}
    short, long, *camping = table["response"].to_pylist()
    assert "tea" in short.lower()
    assert len(short) < len(long)
    assert all("camping" in answer.lower() for answer in camping)
