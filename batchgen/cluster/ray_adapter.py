"""The names of Ray that it does not promise to keep: all that batchgen uses. test_ray_contract.py would notice their loss.

`GcsClient.get_all_node_info`, `.get_draining_nodes`, `.get_all_resource_usage`: there is no public way to see which nodes are
being drained and by when, nor what is free on each. `ray.nodes()` lists drained ones as alive, `ray.available_resources()` is of
all nodes together, `ray.util.state` needs the dashboard. All have a time limit; `ray.nodes()` and `ray._private.state` wait
without end for a head that is gone, and the driver with them.

`Dataset.iter_internal_ref_bundles` (developer API): the only stream of block references; `to_arrow_refs` and its like execute
the whole dataset first."""

import functools
import time
from collections.abc import Iterator
from typing import NamedTuple

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from batchgen.cluster.lookahead import Block

ANSWER_SECONDS = 5


class Living(NamedTuple):
    """A living node: what it has in all, what nobody has reserved, its labels, and whether it is being drained (a spot instance
    with a notice, a node that the autoscaler gives back). `seconds_left`: until a drained node goes, if its notice said when."""

    total: dict[str, float]
    free: dict[str, float]
    labels: dict[str, str]
    is_drained: bool
    seconds_left: float | None = None


def living_nodes() -> dict[str, Living]:
    """The living nodes by id. Raises RayError when the cluster's head does not answer within ANSWER_SECONDS."""
    head = _head(ray.get_runtime_context().gcs_address)
    usage = head.get_all_resource_usage(timeout=ANSWER_SECONDS).resource_usage_data.batch
    free = {one.node_id.hex(): dict(one.resources_available) for one in usage}
    drained: dict[str, int] = head.get_draining_nodes(timeout=ANSWER_SECONDS)  # the time in ms, 0 without a deadline
    found = {}
    for node, info in head.get_all_node_info(timeout=ANSWER_SECONDS).items():
        if info.state == info.ALIVE:
            total, name = dict(info.resources_total), node.hex()
            seconds = end / 1000 - time.time() if (end := drained.get(name)) else None
            found[name] = Living(total, free.get(name, total), dict(info.labels), name in drained, seconds)
    return found


@functools.lru_cache(maxsize=1)
def _head(address: str) -> GcsClient:
    """The connection to a cluster's head, one for all looks."""
    return GcsClient(address=address)


# Not an import of Dataset: it takes a second, and the pool does without.
def blocks(dataset: "ray.data.Dataset") -> Iterator[Block]:
    """Execute the dataset: a reference to each block, when it is ready, and its size."""
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            yield entry.ref, entry.metadata.size_bytes or 0
