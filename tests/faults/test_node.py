"""A node that goes, with and without a notice, while two replicas run on two nodes of one machine."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

import batchgen
from batchgen import Output
from batchgen.cluster.placement import PLACEMENTS, Placement

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
ROWS = 400
PREEMPTION = 2  # autoscaler.proto, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "resources": {"seat": 1}})
    try:
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.parametrize("notice", [False, True], ids=["lost", "drained"])
def test_a_node_that_goes_costs_no_row(cluster: Cluster, tmp_path: Path, notice: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # One replica a node, whatever the scheduler likes: the head has room for one beside the feed, the other node for one.
    monkeypatch.setitem(PLACEMENTS, "cpu", lambda *_: Placement(2, num_cpus=2))
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": f"row {n}"}) + "\n" for n in range(ROWS)))
    job = {
        "input": {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo", "options": {"latency": 1.0, "max_num_seqs": 16}},
        "spans": {"rows": 8, "journal_seconds": 0.5},
        "replicas": {"min": 2, "max": 2},
        "output": {"path": str(tmp_path / "out")},
    }
    said = io.StringIO()
    fired = threading.Event()

    def take_away() -> None:
        while len(list((tmp_path / "out/data").glob("*.parquet"))) < 6:
            time.sleep(0.05)
        if notice:
            client = GcsClient(address=cluster.address)
            accepted, _ = client.drain_node(second.node_id, PREEMPTION, "spot", int((time.time() + 60) * 1000))
            assert accepted
            while "is about to go" not in said.getvalue():
                time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        fired.set()

    thread = threading.Thread(target=take_away)
    thread.start()
    status = batchgen.run(job, out=said)
    thread.join()
    assert fired.is_set(), "the node went while the job ran"
    assert ("is about to go" in said.getvalue()) == notice
    assert "died" in said.getvalue() or notice
    assert (status["rows_ok"], status["rows_error"], status["state"]) == (ROWS, 0, "done")
    assert Output.open(str(tmp_path / "out")).verify().problems == []


def test_a_replica_that_rays_memory_monitor_kills_costs_no_row(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLACEMENTS, "cpu", lambda *_: Placement(2, resources={"seat": 1}))
    with pytest.MonkeyPatch.context() as poor:  # a node on which whatever runs is too much
        poor.setenv("RAY_memory_usage_threshold", "0.001")
        poor.setenv("RAY_memory_monitor_refresh_ms", "100")
        cluster.add_node(num_cpus=0, resources={"seat": 1})
    cluster.wait_for_nodes()
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": f"row {n}"}) + "\n" for n in range(ROWS)))
    job = {
        "input": {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo", "options": {"latency": 1.0, "max_num_seqs": 16}},
        "spans": {"rows": 8},
        "replicas": {"max": 2},
        "output": {"path": str(tmp_path / "out")},
    }
    said = io.StringIO()
    status = batchgen.run(job, out=said)
    assert "died: 1 worker(s) were killed due to the node running low on memory" in said.getvalue()
    assert (status["rows_ok"], status["rows_error"], status["state"]) == (ROWS, 0, "done")
    assert Output.open(str(tmp_path / "out")).verify().problems == []
