"""`ray job submit` of the quickstart job to a cluster that was started with `ray start`, token authentication on."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.cluster(own=True), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NAMED = """
import sys
import ray
ray.init(sys.argv[1], log_to_driver=False)
print(*(actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)))
"""
RAY_DATAS_OWN = {"AutoscalingCoordinator", "datasets_stats_actor"}
"""Actors that any execution of Ray Data leaves on a cluster, one of each."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    """The environment of a client of a one-node cluster."""
    temp = Path(tempfile.mkdtemp(dir="/tmp"))  # Ray puts sockets there, whose paths must be short
    port, dashboard = free_port(), free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    start = f"ray start --head --block --port={port} --dashboard-port={dashboard} --num-cpus=2 --temp-dir={temp}"
    with open(temp / "head.log", "w") as log:
        cluster = subprocess.Popen(start.split(), env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}", "GCS": f"127.0.0.1:{port}"}
    try:
        look = ["ray", "list", "nodes", "--address", address["GCS"]]
        while subprocess.run(look, env=environment, capture_output=True, check=False).returncode:
            assert cluster.poll() is None, (temp / "head.log").read_text()
        yield {**environment, **address}
    finally:
        cluster.terminate()
        cluster.wait()
        shutil.rmtree(temp, ignore_errors=True)


def submit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Once the head's agent is there, which may come after the head."""
    command = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "-m", "batchgen", "run", *arguments]
    while True:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if "No available agent" not in done.stdout + done.stderr:
            return done


def test_the_quickstart_job_runs_when_submitted_with_a_token_and_not_without(head: dict[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    stranger = {key: value for key, value in head.items() if key not in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE")}
    refused = submit({**stranger, "HOME": str(tmp_path)}, "jobs/quickstart.yaml")
    assert refused.returncode != 0
    assert "auth" in (refused.stdout + refused.stderr).lower()

    done = submit(head, "jobs/quickstart.yaml", "--set", f"output.path={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "108 rows: 108 ok, 0 error" in done.stdout
    proof = subprocess.run([sys.executable, "-m", "batchgen", "verify", out], capture_output=True, text=True, check=False)
    assert proof.returncode == 0, proof.stdout
    assert "108 rows" in proof.stdout
    look = [sys.executable, "-c", NAMED, head["GCS"]]
    named = subprocess.run(look, env=head, capture_output=True, text=True, check=True).stdout.split()
    assert set(named) <= RAY_DATAS_OWN, "actors of ours outlive the job"
