"""state/feed_room.py: the feed goes on where replicas reserve CPUs; pure, and on clusters with few of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from ray.util import placement_group_table

import batchgen
from batchgen.cluster.fit.shape import Node, NodeType
from batchgen.cluster.placement import Placement, place
from batchgen.cluster.state import feed_room
from batchgen.cluster.state.places import nodes_of
from batchgen.cluster.state.ray_adapter import Living, living_nodes
from batchgen.errors import JobError
from batchgen.output.output import Output
from tests.support.nodes import joined_cluster
from tests.support.planning import make_job

ROWS = 48


def placed(resources: dict[str, float], types: tuple[NodeType, ...] | None = (), spans: int = 100, **fields: Any) -> Placement:
    return place(make_job("x", replicas={"resources": resources, **fields}), spans, types)


def nodes(*cpus: float) -> list[Node]:
    return [Node(f"n{number}", {"CPU": each}, {"CPU": each}) for number, each in enumerate(cpus)]


@pytest.mark.parametrize(
    ("cpus", "replica", "fits"),
    [((1,), 0.5, True), ((1,), 1, False), ((1, 1), 1, True), ((1.4,), 1, False), ((2,), 2, False), ((2, 0), 1.5, True)],
)
def test_a_replica_that_leaves_the_feed_no_cpu_is_refused(cpus: tuple[float, ...], replica: float, fits: bool) -> None:
    placement = placed({"CPU": replica})
    if fits:
        feed_room._refuse_never(placement.groups[0], nodes(*cpus), ())
        return
    with pytest.raises(
        JobError, match=rf"^a replica needs {replica:g} CPUs? on one node, and the tasks that read .*; lower CPU in"
    ):
        feed_room._refuse_never(placement.groups[0], nodes(*cpus), ())
    feed_room._refuse_never(placement.groups[0], nodes(*cpus), None)
    feed_room._refuse_never(placement.groups[0], nodes(*cpus), (NodeType("big", {"CPU": 4.0}),))


def test_what_does_not_fit_alone_is_left_to_the_pool() -> None:
    feed_room._refuse_never(placed({"CPU": 9.0}).groups[0], nodes(2, 2), ())


@pytest.mark.parametrize(
    ("cpus", "fields", "tasks"),
    [((), {}, 1), ((1, 1), {}, 1), ((32,), {}, 8), ((32,), {"max": 3}, 3), ((32, 32), {"spans": 5}, 5)],
)
def test_the_feed_has_a_task_for_each_replica_within_its_share(cpus: tuple[float, ...], fields: Any, tasks: int) -> None:
    assert feed_room.read_tasks(placed({"CPU": 1}, **fields), nodes(*cpus)) == tasks


def test_the_cpus_of_the_feed_are_no_replicas() -> None:
    living = {"a": Living({"CPU": 2.0, "seat": 1.0}, {"CPU": 1.5, "seat": 1.0}, {}, False)}
    [node] = nodes_of(living, {"a": 0.5, "gone": 1.0})
    assert (node.total, node.free) == ({"CPU": 1.5, "seat": 1.0}, {"CPU": 1.5, "seat": 1.0})
    assert nodes_of(living)[0].total["CPU"] == 2


def ran(folder: Path, replicas: dict[str, Any]) -> str:
    """What a job says that answers all of its rows."""
    (folder / "in.jsonl").write_text("".join(json.dumps({"prompt": f"row {number}"}) + "\n" for number in range(ROWS)))
    out = folder / f"out-{len(list(folder.iterdir()))}"
    job = {
        "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo"},
        "replicas": replicas,
        "spans": {"rows": 8},
        "output": {"path": str(out)},
    }
    said = io.StringIO()
    status = batchgen.run(job, out=said)
    assert (status["rows_ok"], status["rows_error"], status["state"]) == (ROWS, 0, "done"), said.getvalue()
    assert Output.open(str(out)).verify().problems == []
    assert {one["state"] for one in placement_group_table().values()} <= {"REMOVED"}
    return said.getvalue()


@pytest.mark.long
@pytest.mark.cluster(own=True)
@pytest.mark.timeout(300)
def test_the_feed_goes_on_where_the_head_has_no_cpu_and_the_workers_have_one(tmp_path: Path) -> None:
    with joined_cluster(num_cpus=0, num_gpus=0) as made:
        made.add_node(num_cpus=1)
        with pytest.raises(JobError, match="a replica needs 1 CPU on one node, and the tasks that read"):
            feed_room._refuse_never(placed({"CPU": 1}).groups[0], nodes_of(living_nodes()), ())
        ran(tmp_path, {})
        made.add_node(num_cpus=1)
        made.wait_for_nodes()
        ran(tmp_path, {})
        ran(tmp_path, {"resources": {"CPU": 1}})
        ran(tmp_path, {"resources": {"CPU": 1}, "min": 2})


@pytest.mark.cluster(own=True)
@pytest.mark.timeout(300)
def test_the_feed_goes_on_where_replicas_take_every_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise JobError("no room")

    with joined_cluster(num_cpus=2, num_gpus=0) as made:
        made.add_node(num_cpus=2)
        made.wait_for_nodes()
        ran(tmp_path, {"resources": {"CPU": 1}, "min": 4})
        monkeypatch.setattr(feed_room.Room, "beside", refuse)
        with pytest.raises(JobError, match="no room"):
            ran(tmp_path, {"resources": {"CPU": 1}})
        assert {one["state"] for one in placement_group_table().values()} == {"REMOVED"}, "also where the run fails"
