"""A judge that is a second vLLM in the replica, beside the job's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rendering import TINY
from tests.support.replicas import answered


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_two_models_are_in_a_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    engine = {"kind": "vllm", "options": {"max_model_len": 512, "max_num_seqs": 8, "enforce_eager": True}}
    of_judge = {"max_tokens": 4, "structured_outputs": {"choice": ["good", "bad"]}}
    judge = {
        "model": str(TINY),
        "engine": engine,
        "template": "Say {{ response }}",
        "regex": "^(good|bad)$",
        "sampling": of_judge,
    }
    rows = [{"prompt": f"question {number}"} for number in range(6)]
    given = {"model": str(TINY), "engine": engine, "attributes": {"schema": "karakuri"}, "sampling": {"max_tokens": 9}}
    found, receipt = answered(tmp_path, rows, accept={"judge": judge}, **given)
    assert [(row["status"], row["error_detail"]) for row in found] == [("ok", None)] * 6
    assert not {row["response"] for row in found} & {"good", "bad"}
    assert receipt.counts.judge_tokens >= 6
    assert receipt.counts.judge_prompt_tokens > 6
