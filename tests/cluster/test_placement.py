"""placement.py: what a job asks of a cluster, as a table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchgen.cluster.fit.shape import Shape
from batchgen.cluster.placement import Placement, on_cpus, on_gpus, place, shapes
from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.render.capabilities import Capabilities
from tests.support.packages import install

SIZES = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}
NO_GPU, TWO_NODES, ODD = {"CPU": 2.0}, {"CPU": 64.0, "GPU": 16.0}, {"CPU": 64.0, "GPU": 23.0}


def job(engine: dict[str, Any], replicas: dict[str, Any] | list[Any] | None = None) -> Job:
    fields = {"engine": {"kind": "echo", **engine}, "replicas": replicas or {}, "model": {"source": "m"}}
    return Job.parse({"input": {"path": "x", "prompt": "p"}, **fields, "output": {"path": "o"}})


def bundles(*gpus: float) -> Shape:
    return Shape(tuple({"GPU": one, "CPU": 1.0} for one in gpus))


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({}, (bundles(1),)),
        ({"gpus": 0.25}, (bundles(0.25),)),
        ({"gpus": 2}, (bundles(2),)),
        ({"tensor_parallel_size": 4}, (bundles(4),)),
        (SIZES, (bundles(8), bundles(4, 4))),
        ({"pipeline_parallel_size": 3, "gpus": 2}, (bundles(6), bundles(2, 2, 2))),
        ({"data_parallel_size": 4, "expert_parallel": True}, (bundles(4), bundles(2, 2), bundles(1, 1, 1, 1))),
        ({**SIZES, "data_parallel_size": 2}, (bundles(16), bundles(8, 8), bundles(4, 4, 4, 4))),
        ({**SIZES, "kind": "vllm"}, (bundles(8), bundles(4, 4))),
        ({"kind": "vllm", "data_parallel_size": 4}, (bundles(4),)),
    ],
)
def test_an_engine_on_gpus_has_gpus_for_each_rank_on_few_nodes(engine: dict[str, Any], expected: tuple[Shape, ...]) -> None:
    assert on_gpus(job(engine)) == expected
    if "gpus" in engine:
        assert on_cpus(job(engine)) == shapes(job(engine)) == expected  # a rehearsal with echo
    assert [shape.strategy for shape in expected] == ["STRICT_PACK", *["PACK"] * (len(expected) - 1)]


@pytest.mark.parametrize("engine", [{}, SIZES])
def test_an_engine_on_cpus_reserves_nothing_that_the_feed_needs(engine: dict[str, Any]) -> None:
    assert shapes(job(engine)) == (Shape(),)


def test_what_replicas_need_beside_gpus_is_in_each_bundle() -> None:
    wanted = {"accelerator": "H200", "labels": {"zone": "a"}, "resources": {"seat": 2, "CPU": 8}}
    bundle = {"GPU": 4, "CPU": 8, "seat": 2, "accelerator_type:H200": 0.001}
    assert shapes(job({**SIZES, "gpus": 1}, wanted))[1] == Shape((bundle, bundle), {"zone": "a"})
    assert shapes(job({}, {"resources": {"seat": 1}})) == (Shape(({"seat": 1},)),)
    assert shapes(job({}, {"labels": {"zone": "a"}})) == (Shape((), {"zone": "a"}),)


def test_groups_have_shapes_of_their_own() -> None:
    groups = [{"accelerator": "H200"}, {"accelerator": "A100", "engine": {"tensor_parallel_size": 8}}]
    first, second = (shapes(each)[0].bundles[0] for each in job({"gpus": 1}, groups).groups)
    assert first == {"GPU": 1, "CPU": 1, "accelerator_type:H200": 0.001}
    assert second == {"GPU": 8, "CPU": 1, "accelerator_type:A100": 0.001}
    with pytest.raises(JobError, match="groups cannot be placed yet"):
        place(job({}, groups), 9, {})


def test_a_shape_has_the_options_of_its_actor_and_bundles_of_a_gpu() -> None:
    both = Shape(({"GPU": 2.0, "CPU": 1.0, "seat": 1.0, "memory": 5.0},) * 2, {"zone": "a"})
    held = {"num_gpus": 4, "num_cpus": 2, "memory": 10, "resources": {"seat": 2}, "label_selector": {"zone": "a"}}
    assert both.actor() == held
    assert both.ranks() == ({"GPU": 1, "CPU": 1, "seat": 1, "memory": 5}, {"GPU": 1}) * 2
    assert bundles(0.25).ranks() == ({"GPU": 0.25, "CPU": 1},)
    assert Shape().actor() == {"num_gpus": 0, "num_cpus": 0, "resources": {}}


@pytest.mark.parametrize(
    ("engine", "replicas", "cluster", "count"),
    [
        ({"gpus": 1}, {}, NO_GPU, 1),
        ({"gpus": 1}, {}, TWO_NODES, 16),
        ({"gpus": 1, **SIZES}, {}, TWO_NODES, 2),
        ({"gpus": 1, **SIZES}, {}, ODD, 2),
        ({"gpus": 1, **SIZES}, {"min": 4}, ODD, 4),
        ({"gpus": 1, **SIZES}, {"max": 3}, NO_GPU, 3),
        ({"gpus": 1, **SIZES}, {"max": 1}, TWO_NODES, 1),
        ({"gpus": 0.25}, {}, {"CPU": 64, "GPU": 1}, 4),
        ({}, {}, TWO_NODES, 1),
        ({}, {"min": 3}, TWO_NODES, 3),
        ({}, {"min": 2, "max": 5}, TWO_NODES, 5),
    ],
)
def test_a_job_has_max_replicas_or_fills_the_cluster(
    engine: dict[str, Any], replicas: dict[str, Any], cluster: dict[str, float], count: int
) -> None:
    assert place(job(engine, replicas), 100, cluster).replicas == count


@pytest.mark.parametrize(("spans", "count"), [(0, 1), (1, 1), (3, 3), (100, 8)])
def test_there_are_no_more_replicas_than_spans(spans: int, count: int) -> None:
    assert place(job({}, {"max": 8}), spans, NO_GPU) == Placement(count)


@pytest.mark.parametrize(
    ("needed", "cluster", "waits"),
    [
        (Shape(), {}, None),
        (bundles(8), TWO_NODES, None),
        (bundles(4), {"CPU": 8.0, "GPU": 2.0}, "a replica needs 4 GPUs, the cluster has 2: waiting for more"),
        (Shape(({"CPU": 1},)), {}, "a replica needs 1 CPU, the cluster has 0: waiting for more"),
        (Shape(({"tpu": 8},)), NO_GPU, "a replica needs 8 tpu, the cluster has 0: waiting for more"),
    ],
)
def test_what_a_replica_waits_for_is_named(needed: Shape, cluster: dict[str, float], waits: str | None) -> None:
    assert Placement(1, (needed,)).waits_for(cluster) == waits


class Seated:
    """An engine kind for a device that batchgen does not know."""

    capabilities = Capabilities(needs_model=False, device="seat")


SEATED = Seated()


def on_seats(job: Job) -> tuple[Shape, ...]:
    return (Shape(({"seat": 1},)),)


def test_a_package_adds_an_engine_and_the_placement_of_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = {"batchgen.engines": {"seated": f"{__name__}:SEATED"}, "batchgen.placements": {"seat": f"{__name__}:on_seats"}}
    install(tmp_path, monkeypatch, added)
    found = place(job({"kind": "seated"}, {}), 10, {"seat": 2})
    assert found.options() == {"num_gpus": 0, "num_cpus": 0, "resources": {"seat": 1}, "scheduling_strategy": "SPREAD"}
    assert found.replicas == 2


@pytest.mark.parametrize("module", ["placement", "fit.fits", "limits", "dispatch"])
def test_what_decides_imports_no_ray(module: str) -> None:
    code = f"import sys, batchgen.cluster.{module}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
