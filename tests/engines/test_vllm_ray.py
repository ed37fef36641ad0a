"""A replica's place over two nodes, as the installed vLLM takes it: its own code, on a cluster whose GPUs are numbers.

The CPU build names no device to Ray, so that its executor cannot run here: the device's name is the only thing that is set.
tests/gpu runs the executor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from batchgen.cluster.fit.shape import Shape
from batchgen.cluster.state.places import give_back, reserve
from batchgen.engines.vllm import engine_arguments
from batchgen.job.job import Job
from batchgen.render.model_files import load_model
from tests.support.nodes import joined_cluster
from tests.support.rendering import TINY

pytestmark = [pytest.mark.engine, pytest.mark.cluster(own=True), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with joined_cluster(num_cpus=2, num_gpus=2) as made:
        made.add_node(num_cpus=2, num_gpus=2)
        made.wait_for_nodes()
        yield made


class Replica:
    """What vLLM makes of a replica's place, from inside."""

    def look(self, arguments: dict[str, object]) -> dict[str, Any]:
        from vllm import envs
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.executor.abstract import Executor
        from vllm.v1.executor.ray_utils import get_bundles_sorted_by_node, initialize_ray_cluster

        current_platform.ray_device_key = "GPU"
        config = AsyncEngineArgs(**arguments).create_engine_config()
        parallel, group = config.parallel_config, ray.util.get_current_placement_group()
        given = parallel.placement_group
        initialize_ray_cluster(parallel, require_gpu_on_driver=False)
        executor = Executor.get_class(config)
        return {
            "backend": parallel.distributed_executor_backend,
            "executor": executor.__name__,
            "resources": executor._get_actor_resource_kwargs(),
            "world": parallel.world_size,
            "is_ours": given is not None and given.id == group.id == parallel.placement_group.id,
            "indices": envs.VLLM_RAY_BUNDLE_INDICES,
            "nodes": [node for _, node, _ in get_bundles_sorted_by_node(parallel.placement_group)],
            "here": ray.get_runtime_context().get_node_id(),
        }


def arguments(nodes: int) -> dict[str, object]:
    sizes = {"kind": "vllm", "tensor_parallel_size": 2, "pipeline_parallel_size": 2, "options": {"max_model_len": 256}}
    job = Job.parse(
        {"input": {"path": "x", "prompt": "p"}, "output": {"path": "o"}, "model": {"source": str(TINY)}, "engine": sizes}
    )
    return engine_arguments(job, load_model(job.model), nodes)


def looked(shape: Shape, nodes: int) -> dict[str, Any]:
    group, options = reserve(shape, ())
    assert group is not None
    try:
        actor = ray.remote(Replica).options(**options).remote()  # it ends with this reference
        found: dict[str, Any] = ray.get(actor.look.remote(arguments(nodes)))
        return found
    finally:
        give_back(group)


@pytest.mark.usefixtures("cluster")
def test_vllm_takes_a_replicas_bundles_and_its_tensor_parallel_ranks_are_on_one_node() -> None:
    found = looked(Shape(({"GPU": 2.0},) * 2), 2)
    assert (found["backend"], found["executor"], found["world"]) == ("ray", "RayExecutorV2", 4)
    assert found["resources"] == {"num_gpus": 1.0}
    assert found["is_ours"], "the group of the replica's actor, without an argument that names it"
    assert found["indices"] == "", "no order of bundles is named"
    first, _, other, _ = found["nodes"]
    assert found["nodes"] == [first, first, other, other]
    assert found["here"] == first != other
