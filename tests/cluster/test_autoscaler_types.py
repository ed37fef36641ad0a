"""What an autoscaler may add: from its configuration, and on clusters that have none."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

import batchgen
from batchgen.cluster.fit.shape import NodeType
from batchgen.cluster.state import autoscaler
from batchgen.cluster.state.autoscaler import Autoscaler, Limits, parse
from batchgen.cluster.state.ray_adapter import NODE_TYPE, Living, Monitor, living_nodes, monitor_of
from batchgen.errors import JobError
from tests.support.nodes import joined_cluster

BIG, SMALL = {"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0}


def config(**types: dict[str, Any]) -> dict[str, Any]:
    head = {"resources": {"CPU": 8, "GPU": 0}}
    return {"max_workers": 8, "head_node_type": "head", "available_node_types": {"head": head, **types}}


def living(*nodes: tuple[str, bool]) -> dict[str, Living]:
    """A head, and nodes of these types of which some are being drained."""
    found = {str(n): Living({}, {}, {NODE_TYPE: name}, drained) for n, (name, drained) in enumerate(nodes)}
    return {"head": Living(SMALL, SMALL, {NODE_TYPE: "gpu"}, False, is_head=True), **found}


def test_a_configuration_is_read_as_ray_fills_it_in() -> None:
    types = {
        "gpu": {"resources": {"CPU": 8, "GPU": 4}, "max_workers": 4, "labels": {"kind": "spot"}},
        "cpu": {"resources": {"CPU": 8}, "min_workers": 1},
        "off": {"resources": {"CPU": 8}, "max_workers": 0},
    }
    gpu, cpu = NodeType("gpu", BIG, 4, {"kind": "spot"}), NodeType("cpu", SMALL, 8)
    assert parse(config(**types), True) == Limits((gpu, cpu), 8)


def test_the_labels_of_nodes_are_not_known_where_the_autoscaler_does_not_go_by_them() -> None:
    assert parse(config(gpu={"resources": BIG}), False) == Limits((NodeType("gpu", BIG, 8, None),), 8)


def test_a_type_that_does_not_say_what_it_has_makes_all_unknown() -> None:
    assert parse(config(gpu={"max_workers": 4, "resources": {}}), True) is None
    assert parse(config(gpu={"max_workers": 0}), True) == Limits((), 8)


def test_the_cluster_file_that_comes_along_is_read() -> None:
    found = parse(yaml.safe_load((Path(__file__).parents[2] / "cluster.yaml").read_text()), True)
    assert found == Limits((NodeType("gpu", {"CPU": 48.0, "GPU": 4.0}, 8),), 8)


@pytest.mark.parametrize(
    ("nodes", "gpu", "cpu"),
    [
        ([], 4, 5),
        ([("gpu", False)] * 3, 1, 2),
        ([("cpu", False)] * 3, 2, 2),
        ([("gpu", False), ("gpu", True)], 3, 4),
        ([("other", False)] * 9, 0, 0),
    ],
    ids=["none yet", "of its own", "of another, and no more in all", "one that goes", "too many already"],
)
def test_nodes_that_are_there_do_not_come(nodes: list[tuple[str, bool]], gpu: int, cpu: int) -> None:
    left = Limits((NodeType("gpu", BIG, 4), NodeType("cpu", SMALL, None)), 5).left(living(*nodes))
    assert [each.most for each in left] == [gpu, cpu]


def test_a_node_without_a_label_is_of_the_type_with_its_cpus_and_gpus() -> None:
    nodes = {"one": Living({**BIG, "memory": 7.0}, {}, {}, False), "two": Living({"CPU": 8.0, "GPU": 3.0}, {}, {}, False)}
    [left] = Limits((NodeType("gpu", BIG, 4),)).left(nodes)
    assert left.most == 3


def test_no_limit_stays_none() -> None:
    [left] = Limits((NodeType("gpu", BIG, None),)).left(living(("gpu", False)))
    assert left.most is None


MONITOR = ["python", "-u", "/lib/ray/autoscaler/_private/monitor.py", "--logs-dir=/tmp", "--gcs-address=10.0.0.1:6379", ""]
AUTOSCALING = [*MONITOR, "--autoscaling-config=/root/ray_bootstrap_config.yaml"]


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (MONITOR, Monitor("", False)),
        (AUTOSCALING, Monitor("/root/ray_bootstrap_config.yaml", False)),
        ([word.replace("_private", "v2") for word in AUTOSCALING], Monitor("/root/ray_bootstrap_config.yaml", True)),
        ([word.replace(":6379", ":16379") for word in AUTOSCALING], None),
        ([word.replace("monitor.py", "log_monitor.py") for word in AUTOSCALING], None),
        ([""], None),
    ],
    ids=["adds no nodes", "adds nodes", "version 2", "of another head", "another process", "a kernel's"],
)
def test_a_monitor_is_known_by_its_command_line(command: list[str], found: Monitor | None) -> None:
    assert monitor_of(command, 6379) == found


@pytest.mark.cluster(own=True)
def test_a_job_that_never_fits_a_static_cluster_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "row"}) + "\n")
    job = {
        "input": {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo", "tensor_parallel_size": 2, "gpus": 1},
        "output": {"path": str(tmp_path / "out")},
    }
    with joined_cluster(num_cpus=1, num_gpus=1):
        assert Autoscaler().types(living_nodes()) == ()
        with pytest.raises(JobError, match="needs 2 GPUs on one node; the largest node has 1, and no autoscaler adds") as refused:
            batchgen.run(job, out=io.StringIO())
        assert refused.value.exit_code == 2


@pytest.mark.cluster(own=True)
def test_a_head_elsewhere_is_looked_at_by_a_task_on_it_and_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head has no CPU for the task; the driver is on another node as far as the autoscaler's look goes."""
    with joined_cluster(num_cpus=0) as cluster:
        cluster.add_node(num_cpus=1)
        monkeypatch.setattr(autoscaler, "ASK_SECONDS", 0.0)
        monkeypatch.setattr(ray.runtime_context.RuntimeContext, "get_node_id", lambda _: "elsewhere")
        asked = Autoscaler()
        assert asked.types(living_nodes()) == ()
        asked._limits = None
        patience = time.monotonic() + 60
        while asked.types(living_nodes()) is None:
            assert time.monotonic() < patience
            time.sleep(0.05)
        assert asked.types(living_nodes()) == ()
