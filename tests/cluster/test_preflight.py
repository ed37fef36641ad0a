"""state/preflight.py: a worker's look at a job, on a cluster whose workers lack what the driver has."""

from __future__ import annotations

import contextlib
import http.server
import io
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.cluster_utils import Cluster

import batchgen
from batchgen.cluster.state.autoscaler import Autoscaler
from batchgen.cluster.state.preflight import Preflight
from batchgen.errors import EngineError
from batchgen.output.store import open_store
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer
from tests.support.nodes import joined_cluster
from tests.support.planning import freeze_output, lines, make_job
from tests.support.rendering import TINY

TOKEN = "AWS_SESSION_TOKEN"
PATIENCE = 120
ROWS = "".join(f'{{"prompt": "row {number}"}}\n' for number in range(3))


class Refusing(http.server.BaseHTTPRequestHandler):
    """A store that lets nobody in."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_PUT

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def cluster(s3: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs and a worker with one, in whose environment the store lets nobody in; the driver's lets it."""
    endpoint = s3.client.meta.endpoint_url
    with refusing() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with joined_cluster(num_cpus=0) as made:
            made.add_node(num_cpus=1)
            made.wait_for_nodes()
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            monkeypatch.setenv(TOKEN, "the driver's")
            yield made


def looked(preflight: Preflight) -> str:
    patience = time.monotonic() + PATIENCE
    while preflight._open is not None:
        assert time.monotonic() < patience
        if line := preflight.line():
            return line
        time.sleep(0.1)
    return ""


def job(folder: Path, output: str, **fields: object) -> dict[str, object]:
    (folder / "in.jsonl").write_text(ROWS)
    return {
        "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo"},
        "output": {"path": output},
        **fields,
    }


@pytest.mark.cluster(own=True)
@pytest.mark.timeout(300)
def test_a_worker_without_the_drivers_credentials_ends_the_job_before_a_replica_has_a_place(
    cluster: Cluster, s3: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No node holds a replica, and an autoscaler that shows no node types may add one: only the task can tell."""
    monkeypatch.setattr(Autoscaler, "types", lambda *_: None)
    [worker] = [node.node_id for node in cluster.list_all_nodes() if not node.head]
    waits = job(tmp_path, f"{s3.url}/{tmp_path.name}-a", engine={"kind": "echo", "gpus": 1})
    said = io.StringIO()
    with pytest.raises(EngineError) as ended:
        batchgen.run(waits, out=said)
    assert str(ended.value).startswith(f"preflight on node {worker[:12]} (")
    assert f"cannot write the output; set on the driver, but not here: {TOKEN}; name them in replicas.env_from" in str(
        ended.value
    )

    names = ["AWS_ENDPOINT_URL", TOKEN]
    s3.client.put_object(Bucket=s3.bucket, Key=f"{tmp_path.name}/in.jsonl", Body=ROWS.encode())
    given = job(tmp_path, f"{s3.url}/{tmp_path.name}-b", replicas={"env_from": names})
    given["input"] = {"path": f"{s3.url}/{tmp_path.name}/in.jsonl", "prompt": "prompt"}
    status = batchgen.run(given, out=said)
    assert (status["state"], status["rows_ok"]) == ("done", 3), said.getvalue()

    with pytest.raises(EngineError, match=TOKEN) as ended:  # a replica's own look
        batchgen.run(job(tmp_path, f"{s3.url}/{tmp_path.name}-c"), out=said)
    assert "no replica can start: on node " in str(ended.value)


@pytest.mark.cluster(own=True)
@pytest.mark.timeout(300)
def test_what_is_wrong_with_one_node_is_a_line_and_a_busy_cluster_is_not_waited_for(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "model")
    made = make_job("in.jsonl", model={"source": str(tmp_path / "model")}, output={"path": str(tmp_path / "out")})
    renderer = Renderer(made, load_model(made.model))
    (tmp_path / "in.jsonl").write_text(lines(1))
    freeze_output(make_job(tmp_path / "in.jsonl"), open_store(made.output.path))
    with joined_cluster(num_cpus=1):
        assert looked(Preflight(renderer, made.output.path)) == ""
        shutil.rmtree(tmp_path / "model")
        here = ray.get_runtime_context().get_node_id()[:12]
        line = looked(Preflight(renderer, made.output.path))
        assert line.startswith(f"preflight on node {here} (")
        assert f"no replica can start: model.source {tmp_path}/model: no such directory on this node" in line

        busy = ray.remote(num_cpus=1)(lambda: time.sleep(600)).remote()
        while ray.available_resources().get("CPU"):
            time.sleep(0.1)
        waiting = Preflight(renderer, made.output.path)
        assert waiting.line() == ""
        waiting.end()
        ray.cancel(busy, force=True)
