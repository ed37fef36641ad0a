"""What batchgen relies on of Ray, on a cluster of two nodes. `make ray-before` runs it on the minor before the newest."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import ClusterConfig
from ray.exceptions import ActorDiedError, ObjectLostError, RayError, RayTaskError
from ray.util import placement_group_table

from batchgen.cluster.connect import connected
from batchgen.cluster.feed import Assets, Feed
from batchgen.cluster.fit.shape import NodeType, Shape
from batchgen.cluster.lookahead import END
from batchgen.cluster.policy.health import kind_of
from batchgen.cluster.state import autoscaler, ray_adapter
from batchgen.cluster.state.places import NODE_ID, give_back, is_there, node_of, reserve
from batchgen.cluster.state.ray_adapter import forget, living_nodes, note, notes
from batchgen.errors import EngineError, InputError
from tests.support.nodes import drain
from tests.support.planning import make
from tests.support.replicas import prepared

pytestmark = [pytest.mark.cluster(own=True), pytest.mark.timeout(180)]
ROWS, SPAN_ROWS = 60, 3


def until(condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.02)


# Before any cluster is started.


def test_no_cluster_or_one_that_is_gone_means_a_local_ray_with_our_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_DATA_USAGE_DISABLED", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # Ray's sockets need a short path
        monkeypatch.setenv("RAY_TMPDIR", folder)
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray/ray_current_cluster").write_text("127.0.0.1:1")
        with connected() as owns_ray:
            assert owns_ray
            assert ray.is_initialized()
            assert os.environ["RAY_DATA_USAGE_DISABLED"] == "1"
            assert {number: signal.getsignal(number) for number in before} == before
            with connected() as owns_ray:
                assert not owns_ray
            assert ray.is_initialized(), "a connection that was there before stays"
    assert not ray.is_initialized()


# On a cluster.


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head with 2 CPUs, and a node `other` with one."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        patch.setenv("RAY_TMPDIR", folder)  # the address of another cluster may be in the usual one
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        try:
            made.add_node(num_cpus=1, resources={"other": 1})
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def cluster(nodes: Cluster) -> Iterator[Cluster]:
    """The nodes, with a driver connected."""
    with connected() as is_own:
        assert not is_own
        yield nodes


def test_an_address_is_found_where_a_cluster_listens_on_this_machine(cluster: Cluster) -> None:
    assert ray.get_runtime_context().gcs_address == cluster.address
    assert [node["Alive"] for node in ray.nodes()] == [True, True]
    assert ray.cluster_resources()["CPU"] == 3


def fed(folder: Path, **fields: Any) -> list[Any]:
    """The references of a small job's blocks, as the driver gets them."""
    found = prepared(folder, [{"prompt": f"row {number}"} for number in range(ROWS)], spans={"rows": SPAN_ROWS}, **fields)
    shards, spans = make(found.job)
    feed, references = Feed(ray.put(Assets(found.renderer, found.columns.kept)), shards, spans, replicas=1), []
    try:
        while (item := feed.next()) is not END:
            if item is None:
                time.sleep(0.02)
            else:
                references.append(item)
    finally:
        feed.stop()
    return references


@pytest.mark.usefixtures("cluster")
def test_the_feed_has_a_block_of_one_row_per_span_and_the_driver_its_reference(tmp_path: Path) -> None:
    references = fed(tmp_path)
    assert all(isinstance(reference, ray.ObjectRef) for reference in references)
    blocks = ray.get(references)
    assert [block.num_rows for block in blocks] == [1] * (ROWS // SPAN_ROWS)
    assert len({block["span"][0].as_py() for block in blocks}) == ROWS // SPAN_ROWS
    names = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    assert not [name for name in names if "usage" in name.lower()], "no statistics for Ray's makers"


@pytest.mark.usefixtures("cluster")
def test_an_error_of_a_read_task_is_ours_again_in_the_driver(tmp_path: Path) -> None:
    found = prepared(tmp_path, [{"prompt": "one"}, {"prompt": "two"}])
    shards, spans = make(found.job)
    (tmp_path / "in.jsonl").unlink()
    feed = Feed(ray.put(Assets(found.renderer, found.columns.kept)), shards, spans, replicas=1)
    with pytest.raises(InputError, match=r"in\.jsonl"):
        until(lambda: feed.next() is not None)
    feed.stop()


@ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=10, num_cpus=0)
class Worker:
    """An actor of which one dies of everything that replicas die of."""

    async def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    async def fail(self) -> None:
        raise EngineError("the card is on fire")

    async def read(self, block: Any) -> int:
        return len(block)

    async def exit(self) -> None:
        os._exit(1)

    async def wait(self) -> None:
        import asyncio

        await asyncio.sleep(600)


@pytest.mark.usefixtures("cluster")
def test_an_exception_of_an_actor_keeps_its_class_and_the_death_of_one_fails_every_call() -> None:
    worker = Worker.remote()
    with pytest.raises(RayTaskError) as failed:
        ray.get(worker.fail.remote())
    assert isinstance(failed.value.cause, EngineError)
    assert str(failed.value.cause) == "the card is on fire"
    waiting = worker.wait.remote()
    worker.exit.remote()
    with pytest.raises(ActorDiedError, match=" because ") as died:
        ray.get(waiting)
    assert isinstance(died.value, RayError)
    assert kind_of(str(died.value)) != "node"


def test_what_is_free_on_each_node_and_a_place_beside_nodes_that_are_left_out(cluster: Cluster) -> None:
    """The adapter's numbers follow what is reserved, and a label selector keeps a place off a node."""
    [node] = [name for name, one in living_nodes().items() if "other" in one.total]
    assert living_nodes()[node].free["other"] == living_nodes()[node].total["other"] == 1
    assert living_nodes()[node].labels[NODE_ID] == node
    group, _ = reserve(Shape(({"other": 0.5},)), ())
    beside, _ = reserve(Shape(({"other": 0.25},)), (node,))
    assert group is not None
    assert beside is not None
    until(lambda: is_there(group))
    assert not is_there(beside)
    assert node_of(group) == node
    until(lambda: living_nodes()[node].free.get("other") == 0.5)
    assert placement_group_table(beside)["state"] == "PENDING", "no other node has it"
    give_back(group)
    give_back(beside)
    until(lambda: living_nodes()[node].free.get("other") == 1)


def test_the_monitor_of_the_head_is_found_and_that_it_has_told_of_its_work(cluster: Cluster) -> None:
    assert [one.is_head for one in living_nodes().values()].count(True) == 1
    assert autoscaler.read(int(cluster.address.rpartition(":")[2])) == (True, autoscaler.Limits())
    assert autoscaler.read(1) == (False, None)
    until(ray_adapter.autoscaler_was_there)


def test_node_types_that_a_platform_reports_to_the_head(cluster: Cluster) -> None:
    assert ray_adapter.reported_types() is None
    config = ClusterConfig()
    for name, gpus, most in (("big", 8, -1), ("small", 1, 4)):
        config.node_group_configs.add(name=name, max_count=most).resources["GPU"] = gpus
    head = GcsClient(address=cluster.address)
    head.report_cluster_config(config.SerializeToString())
    try:
        assert ray_adapter.reported_types() == [("big", {"GPU": 8}, None), ("small", {"GPU": 1}, 4)]
        big, small = NodeType("big", {"GPU": 8}, None, None), NodeType("small", {"GPU": 1}, 4, None)
        assert autoscaler.Autoscaler().types(living_nodes()) == (big, small)
    finally:
        head.internal_kv_del(b"__autoscaler_cluster_config", False, b"__autoscaler")
    assert autoscaler.Autoscaler().types(living_nodes()) == ()


@pytest.mark.usefixtures("cluster")
def test_drivers_read_each_others_notes() -> None:
    note("one", b"1")
    note("two", b"2")
    note("one", b"3")
    assert notes() == {"one": b"3", "two": b"2"}
    forget("one")
    assert notes() == {"two": b"2"}
    forget("two")
    assert notes() == {}


def test_a_node_that_is_drained_is_listed_and_one_that_dies_takes_actors_and_blocks(cluster: Cluster) -> None:
    """The last test: the node is gone."""

    @ray.remote(max_retries=0, num_cpus=0, resources={"other": 0.1})
    def block() -> Any:
        return np.zeros(2**20)

    worker, reference = Worker.options(resources={"other": 0.1}).remote(), block.remote()
    [node] = {ray.get(worker.node.remote())}
    [other] = [found for found in cluster.list_all_nodes() if found.node_id == node]
    ray.wait([reference], fetch_local=False)
    assert {name for name, one in living_nodes().items() if one.is_drained} == set()
    assert living_nodes()[node].seconds_left is None
    drain(cluster.address, node, seconds=600)
    until(lambda: {name for name, one in living_nodes().items() if one.is_drained} == {node})
    until(lambda: living_nodes()[node].seconds_left is not None)
    assert 0 < (living_nodes()[node].seconds_left or 0) <= 600
    assert {found["NodeID"] for found in ray.nodes() if found["Alive"]} >= {node}, "it is alive as long as it lasts"

    waiting = worker.wait.remote()
    cluster.remove_node(other, allow_graceful=False)
    with pytest.raises(ActorDiedError):
        ray.get(waiting)
    until(lambda: node not in living_nodes())
    with pytest.raises(ActorDiedError) as gone:
        ray.get(worker.node.remote())
    assert kind_of(str(gone.value)) == "node"
    with pytest.raises(RayTaskError) as lost:
        ray.get(Worker.remote().read.remote(reference))
    assert isinstance(lost.value.cause, ObjectLostError)
    with pytest.raises(ObjectLostError):
        ray.get(reference)
