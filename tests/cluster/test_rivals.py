"""Jobs that share a real Ray of one-GPU nodes; their drivers are processes of their own. GPUs are numbers, answers take time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from batchgen.cluster.placement import place
from batchgen.cluster.policy.division import Part
from batchgen.cluster.state.ray_adapter import notes
from batchgen.cluster.state.rivals import Rivals
from batchgen.job.job import Job
from batchgen.output.output import Output
from tests.cluster.test_division import JOB, nodes
from tests.support.nodes import joined_cluster

pytestmark = [pytest.mark.cluster(own=True), pytest.mark.timeout(600)]
PATIENCE, NODES, SLOTS = 240, 4, 8


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with joined_cluster(num_cpus=2, num_gpus=0) as made:
        for _ in range(NODES):
            made.add_node(num_cpus=0, num_gpus=1)
        made.wait_for_nodes()
        yield made


class Driver:
    """A job in a process of its own. Its replicas are known in Ray's table by the amount of a resource, `mark`."""

    def __init__(self, folder: Path, mark: float, rows: int, address: str, **replicas: Any) -> None:
        self.folder, self.mark, self.rows, self.began = folder, mark, rows, float("nan")
        folder.mkdir()
        (folder / "in.jsonl").write_text("".join(json.dumps({"prompt": f"row {number}"}) + "\n" for number in range(rows)))
        (folder / "meter").touch()
        options = {"latency": 1.0, "max_num_seqs": SLOTS, "meter": str(folder / "meter")}
        job = {
            "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
            "engine": {"kind": "echo", "gpus": 1, "options": options},
            "spans": {"rows": 2 * SLOTS},
            "replicas": {"resources": {"memory": mark}, **replicas},
            "output": {"path": str(folder / "out")},
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        self.said = (folder / "said").open("w+")
        command = [sys.executable, "-m", "batchgen", "run", str(folder / "job.yaml"), "-v"]
        env = {**os.environ, "RAY_ADDRESS": address}
        self.process = subprocess.Popen(command, env=env, stdout=self.said, stderr=subprocess.STDOUT)

    @property
    def answers(self) -> int:
        return (self.folder / "meter").stat().st_size

    @property
    def ready(self) -> int:
        """The replicas that have been ready so far."""
        return (self.folder / "said").read_text().count("ready on ")

    def has(self, state: str = "CREATED") -> int:
        """The places of its replicas that are in this state."""
        groups = placement_group_table().values()
        return sum(one["state"] == state and one["bundles"][0].get("memory") == self.mark for one in groups)

    def until(self, holds: Callable[[], bool]) -> float:
        """The time at which it holds."""
        patience = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < patience and self.process.poll() in (None, 0), (self.folder / "said").read_text()  # noqa: PT018
            time.sleep(0.1)
        return time.monotonic()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def prove(self) -> None:
        """It has ended well, with every row once."""
        assert self.process.wait(PATIENCE) == 0, (self.folder / "said").read_text()
        output = Output.open(str(self.folder / "out"))
        assert output.verify().problems == []
        assert (output.status()["rows_ok"], output.status()["rows_error"]) == (self.rows, 0)


@contextlib.contextmanager
def drivers() -> Iterator[list[Driver]]:
    made = list[Driver]()
    try:
        yield made
        for one in made:
            one.prove()
        assert {one["state"] for one in placement_group_table().values()} == {"REMOVED"}
        assert notes() == {}
    finally:
        for one in made:
            one.process.kill()
            one.process.wait()
            one.said.close()


@pytest.mark.long
def test_two_equal_jobs_end_as_their_parts_say(cluster: Cluster, tmp_path: Path) -> None:
    """Fair is from the time at which the second job asks for its first replica. The first one has `left` rows then, the second
    `rows`. At r rows a second of a replica (measured while the first job is alone) on half the nodes each, the first one ends
    after left / (NODES / 2 * r), and the second one, which has all nodes from then on, after (left + rows) / (NODES * r)."""
    with drivers() as jobs:
        jobs.append(first := Driver(tmp_path / "first", 1e6, 1600, cluster.address))
        began = first.until(lambda: first.answers >= NODES * 2 * SLOTS and first.has() == NODES)
        before = first.answers
        jobs.append(second := Driver(tmp_path / "second", 2e6, 1600, cluster.address))
        came = second.until(lambda: second.has("PENDING") + second.has() > 0)
        speed, left = (first.answers - before) / (came - began) / NODES, first.rows - first.answers
        yielded = second.until(lambda: (first.has(), second.has()) == (2, 2))
        fair = {"first": left / (NODES / 2 * speed), "second": (left + second.rows) / (NODES * speed)}
        took = {"first": first.until(first.ended) - came}
        grew = second.until(lambda: second.has() == NODES or second.ended()) - came - took["first"]
        assert not second.ended()
        took["second"] = second.until(second.ended) - came
        print(
            f"r = {speed:.1f} rows/s, {left} rows left, halves after {yielded - came:.1f} s, all again {grew:.1f} s after the end"
        )
        for name, seconds in took.items():
            print(f"{name}: ended after {seconds:.1f} s, fair {fair[name]:.1f} s, ratio {seconds / fair[name]:.2f}")
        assert all(seconds < 1.3 * fair[name] for name, seconds in took.items()), (took, fair)


@pytest.mark.long
def test_a_job_of_higher_priority_has_all_but_one_and_a_node_that_comes_is_used(cluster: Cluster, tmp_path: Path) -> None:
    with drivers() as jobs:
        jobs.append(low := Driver(tmp_path / "low", 1e6, 2000, cluster.address))
        low.until(lambda: low.has() == NODES and low.answers > 0)
        jobs.append(high := Driver(tmp_path / "high", 2e6, 600, cluster.address, priority=1))
        high.until(lambda: (low.has(), high.has()) == (1, NODES - 1))
        high.until(high.ended)
        assert not low.ended()
        low.until(lambda: low.ready >= NODES + NODES - 1 or low.ended())
        assert not low.ended()
        before = low.ready
        cluster.add_node(num_cpus=0, num_gpus=1)
        cluster.wait_for_nodes()
        came = time.monotonic()
        reserved = low.until(lambda: low.has() == NODES + 1 or low.ended()) - came
        ready = low.until(lambda: low.ready > before or low.ended()) - came
        assert not low.ended()
        print(f"a node that came has a replica's place after {reserved:.1f} s, and the replica is ready after {ready:.1f} s")


def test_a_job_sees_another_and_forgets_one_whose_driver_was_killed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.cluster.state.rivals.LOOK_SECONDS", 0.0)
    job = Job.parse({**JOB, "engine": {"kind": "echo", "gpus": 1}, "replicas": {"share": 3}})
    ours, others, four = Rivals(place(job, 9, ())), Rivals(place(job, 9, ())), nodes(1, 1, 1, 1)
    assert ours.parts([9], four) == [None]
    assert others.parts([9], four) == [Part(2, False)]
    assert ours.parts([9], four) == [Part(2, True)]
    assert ours.parts([1], four) == [Part(1, False)]
    others.leave()
    assert ours.parts([9], four) == [None]

    code = "import ray, sys, time; from batchgen.cluster.state.ray_adapter import note; ray.init(address=sys.argv[1])\n"
    code += """note("dead", b'{"born": 0, "wishes": [{"bundles": [{"GPU": 1}], "wants": 9}]}')\n"""
    code += 'print("told", flush=True); time.sleep(99)'
    with subprocess.Popen([sys.executable, "-c", code, cluster.address], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert any("told" in line for line in driver.stdout)
        assert ours.parts([9], four) == [Part(3, False)]
        driver.kill()
    patience = time.monotonic() + PATIENCE
    while ours.parts([9], four) != [None]:
        assert time.monotonic() < patience
        time.sleep(0.1)
    ours.leave()
    assert notes() == {}
    unreserved = Rivals(place(Job.parse({**JOB, "engine": {"kind": "echo"}}), 9, ()))
    assert unreserved.parts([9], four) == [None]
    assert notes() == {}
