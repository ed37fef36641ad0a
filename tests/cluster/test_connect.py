"""connect.py without a cluster; test_ray_contract.py joins and starts some."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from batchgen.cluster.connect import connected
from batchgen.errors import EngineError


def test_a_named_cluster_where_nobody_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, Ray 2.60 tries for minutes and then ends the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with (
            pytest.raises(EngineError, match=f"no Ray cluster at {address}: nothing listens there; check RAY_ADDRESS"),
            connected(),
        ):
            pass
    assert not ray.is_initialized()


def test_what_an_own_ray_must_have_is_asked_before_it_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))

    def refuse() -> None:
        raise EngineError("no vllm here")

    with pytest.raises(EngineError, match="no vllm here"), connected(refuse):
        pass
    assert not ray.is_initialized()


OTHER = """
import ray
ray.init(address="local", include_dashboard=False)
print(ray.get_runtime_context().gcs_address)
input()
"""
JOINED = """
import ray
from batchgen.cluster.connect import connected
with connected():
    print(ray.get_runtime_context().gcs_address)
"""


@pytest.mark.cluster(own=True)
def test_a_ray_that_another_process_has_for_itself_is_left_alone() -> None:
    other = (
        "import ray; ray.init(address='local', include_dashboard=False); print(ray.get_runtime_context().gcs_address); input()"
    )
    with subprocess.Popen([sys.executable, "-c", other], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = process.stdout.readline().strip()
        ours = subprocess.run([sys.executable, "-c", JOINED], capture_output=True, text=True, check=True)
        process.communicate("\n")
    assert theirs
    assert ours.stdout.strip() not in ("", theirs)
