"""Nodes of Ray's test clusters that are about to go."""

from __future__ import annotations

import subprocess
import sys


def drain(address: str, node: str, seconds: int = 60) -> None:
    """Drain a node of the cluster at `address`, as a spot instance is that will be taken away in so many seconds."""
    command = ["drain-node", f"--address={address}", f"--node-id={node}", f"--deadline-remaining-seconds={seconds}"]
    reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *command, *reason], check=True, capture_output=True)
