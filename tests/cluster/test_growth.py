"""A pool on a real Ray whose nodes come while the job runs; their GPUs are numbers."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from ray.util import placement_group, placement_group_table, remove_placement_group

import batchgen
from batchgen.cluster.policy import sizing
from batchgen.output.output import Output
from tests.support.nodes import joined_cluster

pytestmark = pytest.mark.cluster(own=True)
ROWS, PATIENCE = 96, 120


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with joined_cluster(num_cpus=1, num_gpus=0) as made:
        yield made


def until(holds: Any, said: io.StringIO) -> None:
    patience = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < patience, said.getvalue()
        time.sleep(0.1)


@contextlib.contextmanager
def running(folder: Path, held: Callable[[int], bool]) -> Iterator[tuple[io.StringIO, list[dict[str, Any]]]]:
    """A job whose replicas need two GPUs each, and the text and status that its run leaves. Rows that are `held` are answered at
    the end, when every row must be there once and no place be left."""
    (folder / "hold").touch()
    rows = [{"prompt": f"row {number}" + (" held" if held(number) else "")} for number in range(ROWS)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"max_num_seqs": 4, "hang_on": "held", "hang_while": str(folder / "hold")}
    job = {
        "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo", "tensor_parallel_size": 2, "gpus": 1, "options": options},
        "spans": {"rows": 8},
        "output": {"path": str(folder / "out")},
    }
    said, ended = io.StringIO(), list[dict[str, Any]]()
    runner = threading.Thread(target=lambda: ended.append(batchgen.run(job, out=said)))
    runner.start()
    try:
        yield said, ended
        assert not ended, "rows are still held"
    finally:
        (folder / "hold").unlink()
        runner.join()
    assert (ended[0]["rows_ok"], ended[0]["rows_error"], ended[0]["state"]) == (ROWS, 0, "done"), said.getvalue()
    assert Output.open(str(folder / "out")).verify().problems == []
    assert places() == {"REMOVED"}


def places() -> set[str]:
    return {one["state"] for one in placement_group_table().values()}


def count(state: str) -> int:
    return sum(one["state"] == state for one in placement_group_table().values())


def test_a_pool_grows_with_the_cluster(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node that holds a replica is taken at first; two come, and then it is free."""
    cluster.add_node(num_cpus=1, num_gpus=3)
    cluster.wait_for_nodes()
    taken = placement_group([{"GPU": 2}])
    assert taken.wait(PATIENCE)
    monkeypatch.setattr(sizing, "TELL_SECONDS", 6.0)
    with running(tmp_path, lambda _: True) as (said, _):
        until(lambda: "1 of 1 replicas waits: need 2 GPUs on one node; free: 1" in said.getvalue(), said)
        for _ in range(2):
            cluster.add_node(num_cpus=1, num_gpus=3)
        until(lambda: count("CREATED") == 3, said)
        remove_placement_group(taken)
        until(lambda: count("CREATED") == 3 and count("REMOVED") >= 1, said)


@pytest.mark.long
def test_a_pool_lets_go_while_a_straggler_runs(cluster: Cluster, tmp_path: Path) -> None:
    """Of four replicas the straggler's stays, a spare one, and the one that runs a copy, if it came to that."""
    for _ in range(4):
        cluster.add_node(num_cpus=1, num_gpus=3)
    cluster.wait_for_nodes()
    with running(tmp_path, lambda number: number == 0) as (said, _):
        until(lambda: count("CREATED") in (2, 3) and count("REMOVED") >= 1, said)
        assert len(placement_group_table()) >= 4
