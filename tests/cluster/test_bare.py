"""bare.py: what a run's own Ray starts, what a run starts on any other, and what a caller's Ray keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray._private import node, utils
from ray.data._internal.cluster_autoscaler import DefaultAutoscalingCoordinator
from ray.data._internal.stats import _StatsManager

from batchgen import bare

RUN = """
import sys
import ray
from ray._private import worker
from batchgen import run

def look(out):
    seen = set()

    def stopping():
        seen.update(worker._global_node.all_processes)
        pid = worker._global_node.all_processes["raylet"][0].process.pid
        seen.update({"MIMALLOC_ALLOW_THP=0"} & set(open(f"/proc/{pid}/environ").read().split(chr(0))))
        seen.update(actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True))
        return False

    job = {"input": {"path": sys.argv[1], "prompt": "prompt"}, "output": {"path": out}}
    status = run({**job, "engine": {"kind": "echo", "options": {"start_seconds": 2}}}, quiet=True, stopping=stopping)
    print(status["rows_ok"], *sorted(seen))

look(sys.argv[2])
print(ray.is_initialized())
ray.init(address="local", include_dashboard=False, log_to_driver=False)
look(sys.argv[3])
"""


@pytest.mark.cluster(own=True)
def test_a_run_with_a_ray_of_its_own_starts_no_processes_that_nobody_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line is a run on a Ray that the same process has started for itself. The raylet's workers inherit its
    environment."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    command = [sys.executable, "-c", RUN, *(str(tmp_path / name) for name in ("in.jsonl", "first", "second"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    own, between, other = done.stdout.splitlines() or [done.stderr] * 3
    assert (own, between) == ("2 MIMALLOC_ALLOW_THP=0 gcs_server raylet", "False"), done.stderr
    assert {"AutoscalingCoordinator", "datasets_stats_actor", "log_monitor", "monitor"} <= set(other.split())


def methods() -> dict[str, Any]:
    owners = {"node": node.Node, "utils": utils, "stats": _StatsManager, "autoscaling": DefaultAutoscalingCoordinator}
    return {f"{name}.{method}": value for name, owner in owners.items() for method, value in vars(owner).items()}


def replaced_in(place: Any) -> list[str]:
    """The methods that are others inside `place`, which an error ends; afterwards they are as they were."""
    before, changed = methods(), []

    def fail() -> None:
        changed.extend(name for name, call in methods().items() if call is not before[name])
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"), place:
        fail()
    assert methods() == before
    return sorted(changed)


def test_while_a_node_of_ours_starts_three_processes_and_an_import_are_left_out() -> None:
    starts = ["start_api_server", "start_log_monitor", "start_monitor"]
    assert replaced_in(bare.bare_node()) == [*(f"node.{start}" for start in starts), "utils.get_dashboard_dependency_error"]
    with bare.bare_node():
        assert utils.get_dashboard_dependency_error(), "the agent of the dashboard is complete"


def test_the_actors_that_are_left_out_are_ray_datas_alone() -> None:
    assert {name.partition(".")[0] for name in replaced_in(bare.bare_data())} == {"stats", "autoscaling"}


def test_the_feed_may_use_every_node_that_lives_at_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(name: str, cpus: float, alive: bool = True) -> dict[str, Any]:
        return {"NodeID": name, "Alive": alive, "Resources": {"CPU": cpus}}

    nodes = [named("a", 2.0), named("b", 4.0, alive=False)]
    monkeypatch.setattr(bare.ray, "nodes", lambda: nodes)
    with bare.bare_data():
        coordinator = DefaultAutoscalingCoordinator("a feed")
        assert coordinator.get_reserved_resources() == {"a": {"CPU": 2.0}}
        nodes.append(named("c", 8.0))
        assert coordinator.get_reserved_resources() == {"a": {"CPU": 2.0}, "c": {"CPU": 8.0}}
