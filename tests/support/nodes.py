"""Ray's test clusters, and nodes of them that are about to go."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import ray
from ray.cluster_utils import Cluster


@contextlib.contextmanager
def joined_cluster(**head: object) -> Iterator[Cluster]:
    """A cluster whose head has these arguments, with this process connected to it."""
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def drain(address: str, node: str, seconds: int = 60) -> None:
    """Drain a node of the cluster at `address`, as a spot instance is that will be taken away in so many seconds."""
    command = ["drain-node", f"--address={address}", f"--node-id={node}", f"--deadline-remaining-seconds={seconds}"]
    reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *command, *reason], check=True, capture_output=True)
