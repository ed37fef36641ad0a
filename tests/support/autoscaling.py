"""Ray with its real autoscaler on this machine. Its provider of nodes is Ray's own fake one: each node is a raylet here, and GPUs
are numbers."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import yaml
from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"  # the id that the provider knows the head by


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def autoscaling(types: dict[str, Any], most: int, idle_seconds: float, v2: bool) -> Iterator[Path]:
    """A cluster of a head with one CPU and an autoscaler that adds at most so many workers of these `types`, as a cluster's
    configuration has them. This process is connected to it. Yields the folder of Ray's logs."""
    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    provider = {"type": "external", "module": PROVIDER, "gcs_address": address, "head_node_id": HEAD, "launch_multiple": True}
    one_machine = {"use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True}
    head_type = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
    config = {
        **BASE_READONLY_CONFIG,
        "max_workers": most,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": idle_seconds / 60,
        "provider": {**provider, **one_machine},
        "available_node_types": {"ray.head.default": head_type, **types},
    }
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        patch.setenv("RAY_TMPDIR", folder)  # the address of another cluster may be in the usual one
        (Path(folder) / "cluster.yaml").write_text(yaml.safe_dump(config))
        environment = {**os.environ, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        environment |= {"RAY_AUTH_MODE": "disabled"}  # `ray start` would turn it on, and this process has no token
        if v2:
            environment |= {
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": HEAD,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
            }
        host, _, port = address.partition(":")
        options = [f"--node-ip-address={host}", f"--port={port}", "--num-cpus=1", "--num-gpus=0", "--include-dashboard=false"]
        options += [f"--autoscaling-config={folder}/cluster.yaml", "--block", "--disable-usage-stats"]
        with (Path(folder) / "start.log").open("wb") as log:
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *options]
            head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _until_it_listens(head, address, Path(folder) / "start.log")
            ray.init(address=address, log_to_driver=False)
            yield Path(folder) / "ray/session_latest/logs"
        finally:
            ray.shutdown()
            _end(head)


def _until_it_listens(head: subprocess.Popen[bytes], address: str, log: Path) -> None:
    patience = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < patience, log.read_text()
        time.sleep(0.1)


def _end(head: subprocess.Popen[bytes]) -> None:
    """Kill the head's processes and those of the workers, which are the monitor's."""
    family = psutil.Process(head.pid).children(recursive=True)
    for each in [*family, head]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=20)
    head.wait(timeout=20)
