"""The private names of Ray that batchgen uses, all of them. tests/cluster/test_ray_contract.py notices their loss.

`GcsClient.get_draining_nodes`: Ray has no public way to see which nodes are being drained. `ray.nodes()` lists them as alive,
and `ray.util.state` knows no such state and needs the dashboard.
"""

from __future__ import annotations

import functools

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]

ANSWER_SECONDS = 5


def draining_nodes() -> set[str]:
    """Ids of the nodes that are being drained: spot instances with a notice, nodes that the autoscaler gives back. Raises
    RayError when the cluster's head does not answer within ANSWER_SECONDS."""
    return set(_head(ray.get_runtime_context().gcs_address).get_draining_nodes(timeout=ANSWER_SECONDS))


@functools.lru_cache(maxsize=1)
def _head(address: str) -> GcsClient:
    """The connection to a cluster's head, one for all looks."""
    return GcsClient(address=address)
