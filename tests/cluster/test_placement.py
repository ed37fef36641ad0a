"""placement.py: what a job asks of a cluster, as a table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchgen.cluster.fit.shape import Node, NodeType, Shape
from batchgen.cluster.placement import Group, on_cpus, on_gpus, place, shapes
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
    return Shape(tuple({"GPU": one} for one in gpus))


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
    assert first == {"GPU": 1, "accelerator_type:H200": 0.001}
    assert second == {"GPU": 8, "accelerator_type:A100": 0.001}


def test_a_shape_has_the_options_of_its_actor_and_bundles_of_a_gpu() -> None:
    both = Shape(({"GPU": 2.0, "CPU": 1.0, "seat": 1.0, "memory": 5.0},) * 2, {"zone": "a"})
    held = {"num_gpus": 4, "num_cpus": 2, "memory": 10, "resources": {"seat": 2}, "label_selector": {"zone": "a"}}
    assert both.actor() == held
    assert both.ranks() == ({"GPU": 1, "CPU": 1, "seat": 1, "memory": 5}, {"GPU": 1}) * 2
    assert bundles(0.25).ranks() == ({"GPU": 0.25},)
    assert Shape().actor() == {"num_gpus": 0, "num_cpus": 0, "resources": {}}


@pytest.mark.parametrize(
    ("engine", "replicas", "cluster", "count"),
    [
        ({"gpus": 1}, {}, NO_GPU, 0),
        ({"gpus": 1}, {}, TWO_NODES, 16),
        ({"gpus": 1, **SIZES}, {}, TWO_NODES, 2),
        ({"gpus": 1, **SIZES}, {}, ODD, 2),
        ({"gpus": 0.25}, {}, {"CPU": 64, "GPU": 1}, 4),
        ({}, {}, TWO_NODES, 1),
        ({}, {"min": 3}, TWO_NODES, 3),
        ({}, {"min": 2, "max": 5}, TWO_NODES, 5),
    ],
)
def test_what_nodes_hold(engine: dict[str, Any], replicas: dict[str, Any], cluster: dict[str, float], count: int) -> None:
    [group] = place(job(engine, replicas), 100).groups
    assert group.holds([Node("n", cluster, {})], 100) == count


def test_what_never_fits_is_refused_before_anything_starts() -> None:
    [group] = place(job({"gpus": 1, "tensor_parallel_size": 2}, {}), 1).groups
    single = [Node(f"n{number}", {"GPU": 1.0}, {"GPU": 1.0}) for number in range(4)]
    with pytest.raises(
        JobError, match=r"^a replica needs 2 GPUs on one node; the largest node has 1, and no autoscaler adds nodes; "
    ):
        group.refuse_never(single, ())
    group.refuse_never(single, None)
    group.refuse_never(single, (NodeType("big", {"GPU": 8.0}),))


def test_a_job_has_a_group_for_each_kind_of_replica() -> None:
    kinds = [{"max": 1, "accelerator": "H200"}, {"engine": {"tensor_parallel_size": 2}}]
    first, second = place(job({"gpus": 1}, kinds), 9).groups
    assert first == Group(first.job, (Shape(({"GPU": 1.0, "accelerator_type:H200": 0.001},)),))
    assert (first.job.replicas.max, second.shapes) == (1, (Shape(({"GPU": 2.0},)),))


class Seated:
    """An engine kind for a device that batchgen does not know."""

    capabilities = Capabilities(needs_model=False, device="seat")


SEATED = Seated()


def on_seats(job: Job) -> tuple[Shape, ...]:
    return (Shape(({"seat": 1},)),)


def test_a_package_adds_an_engine_and_the_placement_of_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = {"batchgen.engines": {"seated": f"{__name__}:SEATED"}, "batchgen.placements": {"seat": f"{__name__}:on_seats"}}
    install(tmp_path, monkeypatch, added)
    [group] = place(job({"kind": "seated"}, {}), 10).groups
    assert group.shapes == (Shape(({"seat": 1},)),)
    assert group.holds([Node("n", {"seat": 2}, {})], 10) == 2


@pytest.mark.parametrize("module", ["placement", "fit.fits", "limits", "policy.dispatch", "policy.sizing", "policy.health"])
def test_what_decides_imports_no_ray(module: str) -> None:
    code = f"import sys, batchgen.cluster.{module}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
