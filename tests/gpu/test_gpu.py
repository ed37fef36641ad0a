"""A job on real GPUs: KARAKURI's architecture, two layers of dummy weights, each tensor parallel size that fits."""

from __future__ import annotations

import json

import pytest

from batchgen import Output, run

pytestmark = pytest.mark.cluster(own=True)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_job_runs_tensor_parallel_and_every_row_is_there(tmp_path, script, size):
    held = script("gpu/throughput.py").gpus()
    if held < size:
        pytest.skip(f"{held} GPUs here")
    (tmp_path / "model").mkdir()
    model = script("bench/workloads.py").make_karakuri(tmp_path / "model", layers=2)
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": f"Tell me about number {n}."}) + "\n" for n in range(600))
    job = {
        "input": {"path": str(tmp_path / "rows.jsonl"), "prompt": "prompt"},
        "attributes": {"schema": "karakuri", "sweep": {"verbosity": [0, 4]}},
        "model": {"source": str(model)},
        "engine": {"tensor_parallel_size": size, "options": {"max_model_len": 1024, "load_format": "dummy"}},
        "sampling": {"max_tokens": 16, "ignore_eos": True},
        "output": {"path": str(tmp_path / "out")},
    }
    status = run(job, quiet=True)
    assert (status["rows_ok"], status["rows_error"]) == (1200, 0)
    assert status["completion_tokens"] == 1200 * 16
    progress = json.loads((tmp_path / "out/_batchgen/progress.json").read_text())
    assert progress["engine"]["workers"] == size
    assert Output.open(str(tmp_path / "out")).verify().problems == []
