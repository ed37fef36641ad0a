"""The names of Ray that it does not promise to keep: all that batchgen uses. test_ray_contract.py would notice their loss.

`GcsClient.get_all_node_info`: there is no public way to see which nodes are being drained. `ray.nodes()` lists them as alive, and
`ray.util.state` knows no such state and needs the dashboard. (`GcsClient.get_draining_nodes` is new in 2.60, and
`ray._private.state.state.get_draining_nodes` waits without end for a head that is gone.)

`ray._private.state.available_resources_per_node`: `ray.nodes()` has what nodes have in all, `ray.available_resources()` what is
free on all of them together, and nothing public what is free on each.

`Dataset.iter_internal_ref_bundles` (developer API): the only stream of block references; `to_arrow_refs` and its like execute
the whole dataset first."""

import functools
from collections.abc import Iterator

import ray
from ray._private import state
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from batchgen.cluster.lookahead import Block

ANSWER_SECONDS = 5


def draining_nodes() -> set[str]:
    """Ids of the nodes that are being drained: spot instances with a notice, nodes that the autoscaler gives back. Raises
    RayError when the cluster's head does not answer within ANSWER_SECONDS."""
    nodes = _head(ray.get_runtime_context().gcs_address).get_all_node_info(timeout=ANSWER_SECONDS)
    return {node.hex() for node, info in nodes.items() if info.state_snapshot.state == info.state_snapshot.DRAINING}


def free_resources() -> dict[str, dict[str, float]]:
    """What nobody has reserved, by the id of a node."""
    found: dict[str, dict[str, float]] = state.available_resources_per_node()
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
