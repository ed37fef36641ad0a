"""Replicas of other shapes than one node's whole GPUs: on real GPUs, with two layers of KARAKURI's architecture.

Two nodes: `BATCHGEN_GPU_CLUSTER=HOST:PORT BATCHGEN_GPU_FOLDER=/shared pytest tests/gpu -k nodes`, on a machine of the cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import placement_group_table

from batchgen import Output, run
from batchgen.cluster.driver import Run
from batchgen.cluster.policy.dispatch import Event, Ready

pytestmark = [pytest.mark.cluster(own=True), pytest.mark.timeout(1800)]
ROWS, TOKENS = 400, 16


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The replicas whose engines have started."""
    found, handle = set[int](), Run._handle

    def heard(driver: Run, event: Event) -> None:
        found.update([event.replica] if isinstance(event, Ready) else [])
        handle(driver, event)

    monkeypatch.setattr(Run, "_handle", heard)
    return found


def need(held: int, gpus: int) -> None:
    if held < gpus:
        pytest.skip(f"{held} GPUs here, of {gpus} that are needed")


def ran(folder: Path, script: Callable[[str], Any], engine: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The engine of a job that answers all of its rows, as progress.json has it."""
    (folder / "model").mkdir()
    model = script("bench/workloads.py").make_karakuri(folder / "model", layers=2)
    rows = [{"prompt": f"Tell me about number {n}."} for n in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"max_model_len": 1024, "load_format": "dummy", **engine.pop("options", {})}
    job = {
        "input": {"path": str(folder / "rows.jsonl"), "prompt": "prompt"},
        "attributes": {"schema": "karakuri"},
        "model": {"source": str(model)},
        "engine": {**engine, "options": options},
        "sampling": {"max_tokens": TOKENS, "ignore_eos": True},
        "spans": {"rows": 50},
        "output": {"path": str(folder / "out")},
        **fields,
    }
    status = run(job, quiet=True)
    assert (status["rows_ok"], status["rows_error"], status["completion_tokens"]) == (ROWS, 0, ROWS * TOKENS)
    assert Output.open(str(folder / "out")).verify().problems == []
    found: dict[str, Any] = json.loads((folder / "out/_batchgen/progress.json").read_text())["engine"]
    return found


def test_two_replicas_share_a_gpu(tmp_path: Path, script: Callable[[str], Any], ready: set[int]) -> None:
    """Each with half of its memory."""
    need(script("gpu/throughput.py").gpus(), 1)
    assert ran(tmp_path, script, {"gpus": 0.5}, replicas={"min": 2, "max": 2})["workers"] == 1
    assert len(ready) >= 2


@pytest.mark.parametrize("experts", [False, True])
def test_a_replica_holds_copies_of_the_model(
    tmp_path: Path, script: Callable[[str], Any], ready: set[int], experts: bool
) -> None:
    """With expert parallelism too, which a model without experts must not mind."""
    need(script("gpu/throughput.py").gpus(), 2)
    engine = {"data_parallel_size": 2, "expert_parallel": experts}
    assert ran(tmp_path, script, engine, replicas={"max": 1})["workers"] == 2
    assert len(ready) == 1


def test_a_replica_is_spread_over_two_nodes(
    script: Callable[[str], Any], ready: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensor parallel on all GPUs of a node, a pipeline stage on each, by vLLM's Ray executor in one placement group."""
    address, shared = os.environ.get("BATCHGEN_GPU_CLUSTER"), os.environ.get("BATCHGEN_GPU_FOLDER")
    if not address or not shared:
        pytest.skip(
            "needs a Ray cluster of two nodes with GPUs: BATCHGEN_GPU_CLUSTER and BATCHGEN_GPU_FOLDER name it and a folder"
        )
    monkeypatch.setenv("RAY_ADDRESS", address)
    ray.init(address=address, log_to_driver=False)
    try:
        held = sorted(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])[-2:]
        stage = held[0]
        assert 2 * stage > held[-1], f"the replica would fit one node of GPUs {held}"
        folder = Path(shared, f"batchgen-{os.getpid()}")
        folder.mkdir()
        engine = {"tensor_parallel_size": stage, "pipeline_parallel_size": 2}
        assert ran(folder, script, engine, replicas={"max": 1})["workers"] == 2 * stage
        assert len(ready) == 1
        groups = [one for one in placement_group_table().values() if len(one["bundles"]) == 2 * stage]
        assert [one["state"] for one in groups] == ["REMOVED"]
    finally:
        ray.shutdown()
