"""pool.py on a cluster of two nodes, of which one goes. test_ray_contract.py has what the pool relies on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from batchgen.cluster.fit.shape import Shape
from batchgen.cluster.placement import Group, Placement
from batchgen.cluster.policy.dispatch import Event
from batchgen.cluster.pool import Pool
from batchgen.output.store import open_store
from tests.support.planning import freeze_output, make
from tests.support.replicas import blocks, prepared

pytestmark = [pytest.mark.cluster(own=True), pytest.mark.timeout(180)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with 2 CPUs, and a node `other` with one; a driver is connected."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        made.add_node(num_cpus=1, resources={"other": 1})
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@ray.remote(max_retries=0, num_cpus=0, resources={"other": 0.1})
def on_the_other_node() -> Any:
    return np.zeros(2**20)


def next_events(pool: Pool, count: int) -> list[str]:
    """The kinds of the next `count` events, sorted."""
    events: list[Event] = []
    patience = time.monotonic() + 60
    while len(events) < count:
        assert time.monotonic() < patience, f"only {events}"
        events += pool.wait(0.1)
    return sorted(type(event).__name__ for event in events)


def test_a_replica_that_was_given_a_lost_block_asks_for_another_span(cluster: Cluster, tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "a row"}])
    shards, _ = make(made.job)
    freeze_output(made.job, open_store(made.job.output.path))
    lost = on_the_other_node.remote()
    ray.wait([lost], fetch_local=False)
    pool = Pool(
        made.renderer, made.job.output.path, tuple(shards), set(), Placement((Group(made.job, (Shape(({"CPU": 2},)),)),), 1, ())
    )
    try:
        assert next_events(pool, 2) == ["Capacity", "Ready"]
        [other] = [node for node in cluster.list_all_nodes() if not node.head]
        cluster.remove_node(other, allow_graceful=False)
        pool.assign(1, lost, False)
        assert next_events(pool, 2) == ["BlockLost", "Capacity"]
        pool.assign(1, ray.put(blocks(made)[0]), False)
        assert next_events(pool, 2) == ["Capacity", "Finished"]
    finally:
        pool.stop()
