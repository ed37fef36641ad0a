"""placement.py: what a job asks of a cluster, as a table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchgen.cluster import placement
from batchgen.cluster.placement import Placement, on_cpus, on_gpus, place
from batchgen.job.job import Job
from batchgen.render.capabilities import Capabilities
from tests.support.packages import install

GPU = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}
NO_GPU, TWO_NODES, ODD = {"CPU": 2.0}, {"CPU": 64.0, "GPU": 16.0}, {"CPU": 64.0, "GPU": 23.0}


def job(engine: dict[str, Any], replicas: dict[str, Any]) -> Job:
    source = {"path": "x", "prompt": "p"}
    return Job.parse({"input": source, "engine": {"kind": "echo", **engine}, "replicas": replicas, "output": {"path": "o"}})


@pytest.mark.parametrize(
    ("engine", "replicas", "cluster", "expected"),
    [
        ({}, {}, NO_GPU, Placement(1, num_gpus=1, num_cpus=1)),
        ({}, {}, TWO_NODES, Placement(16, num_gpus=1, num_cpus=1)),
        (GPU, {}, TWO_NODES, Placement(2, num_gpus=8, num_cpus=1)),
        (GPU, {}, ODD, Placement(2, num_gpus=8, num_cpus=1)),
        (GPU, {"min": 4}, ODD, Placement(4, num_gpus=8, num_cpus=1)),
        (GPU, {"max": 3}, NO_GPU, Placement(3, num_gpus=8, num_cpus=1)),
        (GPU, {"max": 1}, TWO_NODES, Placement(1, num_gpus=8, num_cpus=1)),
    ],
)
def test_an_engine_on_gpus_has_a_gpu_per_rank_and_fills_the_cluster(
    engine: dict[str, Any], replicas: dict[str, Any], cluster: dict[str, float], expected: Placement
) -> None:
    assert on_gpus(job(engine, replicas), cluster) == expected


@pytest.mark.parametrize(("replicas", "count"), [({}, 1), ({"min": 3}, 3), ({"max": 5}, 5), ({"min": 2, "max": 5}, 5)])
def test_an_engine_on_cpus_reserves_nothing_that_the_feed_needs(replicas: dict[str, Any], count: int) -> None:
    assert on_cpus(job(GPU, replicas), TWO_NODES) == Placement(count)


@pytest.mark.parametrize(("spans", "count"), [(0, 1), (1, 1), (3, 3), (100, 8)])
def test_there_are_no_more_replicas_than_spans(spans: int, count: int) -> None:
    assert place(job({}, {"max": 8}), spans, NO_GPU) == Placement(count)


@pytest.mark.parametrize(
    ("needed", "cluster", "waits"),
    [
        (Placement(1), {}, None),
        (Placement(9, num_gpus=8, num_cpus=1), TWO_NODES, None),
        (Placement(1, num_gpus=4), {"CPU": 8.0, "GPU": 2.0}, "a replica needs 4 GPUs, the cluster has 2: waiting for more"),
        (Placement(1, num_cpus=1), {}, "a replica needs 1 CPU, the cluster has 0: waiting for more"),
        (Placement(1, resources={"tpu": 8}), NO_GPU, "a replica needs 8 tpu, the cluster has 0: waiting for more"),
    ],
)
def test_what_a_replica_waits_for_is_named(needed: Placement, cluster: dict[str, float], waits: str | None) -> None:
    assert needed.waits_for(cluster) == waits


class Seated:
    """An engine kind for a device that batchgen does not know."""

    capabilities = Capabilities(needs_model=False, device="seat")


SEATED = Seated()


def on_seats(job: Job, cluster: placement.Resources) -> Placement:
    return Placement(int(cluster["seat"]), resources={"seat": 1}, strategy="DEFAULT")


def test_a_package_adds_an_engine_and_the_placement_of_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = {"batchgen.engines": {"seated": f"{__name__}:SEATED"}, "batchgen.placements": {"seat": f"{__name__}:on_seats"}}
    install(tmp_path, monkeypatch, added)
    found = place(job({"kind": "seated"}, {}), 10, {"seat": 2})
    assert found.options() == {"num_gpus": 0, "num_cpus": 0, "resources": {"seat": 1}, "scheduling_strategy": "DEFAULT"}
    assert found.replicas == 2


@pytest.mark.parametrize("module", ["placement", "limits", "dispatch"])
def test_what_decides_imports_no_ray(module: str) -> None:
    code = f"import sys, batchgen.cluster.{module}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
