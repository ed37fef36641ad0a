"""A pool on a real Ray whose nodes come while the job runs; their GPUs are numbers."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

import batchgen
from batchgen.cluster.policy import sizing
from batchgen.output.output import Output

pytestmark = pytest.mark.cluster(own=True)
ROWS, PATIENCE = 96, 120


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    try:
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def until(holds: Any, said: io.StringIO) -> None:
    patience = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < patience, said.getvalue()
        time.sleep(0.1)


def test_a_pool_grows_with_the_cluster_and_lets_go_while_a_straggler_runs(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No node holds a replica at first; three come, with room for one each. A row is held until one was given back."""
    monkeypatch.setattr(sizing, "TELL_SECONDS", 6.0)
    (tmp_path / "hold").touch()
    rows = [{"prompt": f"row {number}" + (" held" if number == 0 else "")} for number in range(ROWS)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"max_num_seqs": 4, "latency": 1.0, "hang_on": "held", "hang_while": str(tmp_path / "hold")}
    job = {
        "input": {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo", "tensor_parallel_size": 2, "gpus": 1, "options": options},
        "spans": {"rows": 8},
        "output": {"path": str(tmp_path / "out")},
    }
    said, ended = io.StringIO(), list[dict[str, Any]]()
    runner = threading.Thread(target=lambda: ended.append(batchgen.run(job, out=said)))
    runner.start()
    try:
        until(lambda: "1 of 1 replicas waits: need 2 GPUs on one node; nodes may come; free: none" in said.getvalue(), said)
        for _ in range(3):
            cluster.add_node(num_cpus=1, num_gpus=3)
        until(lambda: held() == 3, said)
        until(lambda: held() == 2 or ended, said)
        assert not ended, "the straggler is still held"
    finally:
        (tmp_path / "hold").unlink(missing_ok=True)
        runner.join()
    assert (ended[0]["rows_ok"], ended[0]["rows_error"], ended[0]["state"]) == (ROWS, 0, "done"), said.getvalue()
    assert Output.open(str(tmp_path / "out")).verify().problems == []
    assert {one["state"] for one in placement_group_table().values()} == {"REMOVED"}


def held() -> int:
    """How many replicas have their place."""
    return sum(one["state"] == "CREATED" for one in placement_group_table().values())
