"""A job on Ray's real autoscaler, from a cluster without a GPU to four nodes and back. Nodes are raylets here, GPUs numbers."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.util import placement_group_table

import batchgen
from batchgen.cluster.fit.shape import NodeType
from batchgen.cluster.state.autoscaler import Autoscaler
from batchgen.cluster.state.ray_adapter import living_nodes
from batchgen.errors import JobError
from batchgen.output.output import Output
from tests.support.autoscaling import autoscaling

pytestmark = [pytest.mark.cluster(own=True), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
ROWS, PATIENCE, MOST = 96, 180, 4
GPU = {"resources": {"CPU": 1, "GPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": MOST}


def flagship(folder: Path, rows: list[dict[str, str]], **engine: Any) -> dict[str, Any]:
    """jobs/karakuri-70b.yaml as it is, but for the engine, whose shape is the same, and the rows."""
    job: dict[str, Any] = yaml.safe_load((ROOT / "jobs/karakuri-70b.yaml").read_text())
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job["input"]["path"] = str(folder / "in.jsonl")
    job["model"]["source"] = str(ROOT / "jobs/models/tiny-karakuri")
    job["engine"] = {"kind": "echo", "gpus": 1, "tensor_parallel_size": job["engine"]["tensor_parallel_size"], **engine}
    return {**job, "replicas": {}, "spans": {"rows": 8}, "output": {"path": str(folder / "out")}}


def until(holds: Callable[[], bool], said: io.StringIO) -> None:
    patience = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < patience, f"{gpu_nodes()} nodes, places {groups()}\n{said.getvalue()}"
        time.sleep(0.2)


def gpu_nodes() -> int:
    return sum(bool(one.total.get("GPU")) for one in living_nodes().values())


def groups() -> list[str]:
    return [one["state"] for one in placement_group_table().values()]


@pytest.mark.long
@pytest.mark.parametrize("v2", [True, False], ids=["v2", "v1"])
def test_nodes_come_for_the_flagship_job_and_go_while_a_straggler_runs(v2: bool, tmp_path: Path) -> None:
    """And a job that fits no node type is refused before one comes."""
    (tmp_path / "hold").touch()
    rows = [{"id": str(number), "prompt": f"row {number}" + (" held" if number == 0 else "")} for number in range(ROWS)]
    slow = {"max_num_seqs": 2, "latency": 8, "hang_on": "held", "hang_while": str(tmp_path / "hold")}
    job, said, ended = flagship(tmp_path, rows, options=slow), io.StringIO(), list[Any]()
    with autoscaling({"gpu": GPU}, MOST, idle_seconds=10, v2=v2):
        assert Autoscaler().types(living_nodes()) == (NodeType("gpu", GPU["resources"], MOST, {} if v2 else None),)
        wide = {**job, "engine": {**job["engine"], "tensor_parallel_size": 8}, "output": {"path": str(tmp_path / "wide")}}
        with pytest.raises(JobError, match="a replica needs 8 GPUs on one node; the largest node type has 4") as refused:
            batchgen.run(wide, quiet=True)
        assert refused.value.exit_code == 2
        assert (gpu_nodes(), groups()) == (0, [])

        runner = threading.Thread(target=lambda: ended.append(batchgen.run(job, out=said)))
        runner.start()
        try:
            until(lambda: groups().count("CREATED") == MOST, said)
            assert gpu_nodes() >= MOST, "each has a node of its own"
            until(lambda: gpu_nodes() < MOST, said)  # a copy of the straggler may run, and a spare one is kept
            assert not ended, "a row is still held"
        finally:
            (tmp_path / "hold").unlink()
            runner.join()
        assert set(groups()) == {"REMOVED"}
    assert (ended[0]["rows_ok"], ended[0]["rows_error"], ended[0]["state"]) == (ROWS, 0, "done"), said.getvalue()
    assert Output.open(str(tmp_path / "out")).verify().problems == []
