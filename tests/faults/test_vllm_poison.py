"""Rows that kill and hang a real vLLM engine."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as ds
import pytest

import batchgen
from batchgen import Output

pytestmark = [pytest.mark.engine, pytest.mark.cluster, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
DEADLY, FROZEN = 13, 14  # vllm_poison.py, which only an engine imports


def test_rows_that_kill_and_hang_the_engine_are_the_only_ones_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    limits = [8, 9, DEADLY, 10, 11, FROZEN, 12, 8]
    rows = [{"prompt": f"Tell me about {n}.", "sampling": {"max_tokens": most}} for n, most in enumerate(limits)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {
        "input": {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"},
        "model": {"source": str(ROOT / "jobs/models/tiny-karakuri")},
        "engine": {
            "watchdog_seconds": 10,
            "options": {
                "max_model_len": 512,
                "max_num_seqs": 16,
                "dtype": "bfloat16",
                "enforce_eager": True,
                "logits_processors": ["tests.faults.vllm_poison:Poison"],
            },
            "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        },
        "limits": {"errors": 1},
        "output": {"path": str(tmp_path / "out")},
    }
    status = batchgen.run(job, quiet=True)
    assert (status["rows_ok"], status["rows_error"], status["errors"]) == (6, 2, {"engine_crash": 2})
    # One death with all rows in it, and one for each of the two when it is alone.
    assert status["engine_restarts"] == 3
    assert Output.open(str(tmp_path / "out")).verify().problems == []
    table = ds.dataset(tmp_path / "out/data").to_table().sort_by("row").to_pylist()
    assert [row["row"] for row in table if row["status"] == "error"] == [limits.index(DEADLY), limits.index(FROZEN)]
    assert [row["error_detail"] for row in table if row["status"] == "error"] == [
        f"{tmp_path}/in.jsonl:{line}: the engine died of this prompt, and again when the prompt was alone in it"
        for line in (3, 6)
    ]
    assert all(
        row["completion_tokens"] == most for row, most in zip(table, limits, strict=True) if row["finish_reason"] == "length"
    )
