"""A node that goes, with and without a notice, while two replicas run on two nodes of one machine."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.cluster_utils import Cluster

import batchgen
from batchgen import Output
from batchgen.cluster import placement
from batchgen.cluster.fit.shape import Shape
from batchgen.output.store import open_store
from batchgen.replica import journal
from tests.support.nodes import drain, joined_cluster

pytestmark = [pytest.mark.cluster(own=True), pytest.mark.timeout(300)]
ROWS = 400
MOST_ALONE = 16
"""Spans that one replica takes of a job whose every span has two rows that are held: it wants 2 x 16 prompts."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with joined_cluster(num_cpus=3, resources={"seat": 1}) as made:
        yield made


def held_job(folder: Path, **fields: Any) -> dict[str, Any]:
    """A job whose every fourth row is not answered while the file `hold` is there."""
    (folder / "hold").touch()
    rows = [{"prompt": f"row {n}" + (" held" if n % 4 == 3 else "")} for n in range(ROWS)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"max_num_seqs": 16, "hang_on": "held", "hang_while": str(folder / "hold")}
    return {
        "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo", "options": options},
        "sampling": {"ignore_eos": True, "max_tokens": 8},
        "spans": {"rows": 8, "journal_seconds": 0.2},
        "output": {"path": str(folder / "out")},
        **fields,
    }


def place_as(patch: pytest.MonkeyPatch, bundle: dict[str, float]) -> None:
    patch.setattr(placement, "PLACEMENTS", SimpleNamespace(named=lambda _: lambda _: (Shape((bundle,)),)))


@pytest.mark.parametrize("notice", [False, True], ids=["lost", "drained"])
def test_a_node_that_goes_costs_no_row(cluster: Cluster, tmp_path: Path, notice: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # One replica a node, whatever the scheduler likes: the head has room for one beside the feed, the other node for one.
    place_as(monkeypatch, {"CPU": 2})
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    job = held_job(tmp_path, replicas={"min": 2, "max": 2})
    said = io.StringIO()

    def take_away() -> None:
        while len(journal.spans(open_store(str(tmp_path / "out")))) <= MOST_ALONE:
            time.sleep(0.05)
        if notice:
            drain(cluster.address, second.node_id)
            until_said(said, "its node goes in")
        cluster.remove_node(second, allow_graceful=False)
        until_said(said, "died")
        (tmp_path / "hold").unlink()

    thread = threading.Thread(target=take_away)
    thread.start()
    status = batchgen.run(job, out=said)
    thread.join()
    assert ("its node goes in" in said.getvalue()) == notice
    assert (status["rows_ok"], status["rows_error"], status["state"]) == (ROWS, 0, "done")
    assert Output.open(str(tmp_path / "out")).verify().problems == []


def until_said(said: io.StringIO, words: str) -> None:
    while words not in said.getvalue():
        time.sleep(0.05)


def test_a_replica_that_rays_memory_monitor_kills_costs_no_row(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_as(monkeypatch, {"seat": 1})
    with pytest.MonkeyPatch.context() as poor:  # a node on which whatever runs is too much
        poor.setenv("RAY_memory_usage_threshold", "0.001")
        poor.setenv("RAY_memory_monitor_refresh_ms", "100")
        cluster.add_node(num_cpus=0, resources={"seat": 1})
    cluster.wait_for_nodes()
    job = held_job(tmp_path, replicas={"max": 2})
    said = io.StringIO()

    def let_go() -> None:
        until_said(said, "died: 1 worker(s) were killed due to the node running low on memory")
        (tmp_path / "hold").unlink()

    thread = threading.Thread(target=let_go)
    thread.start()
    status = batchgen.run(job, out=said)
    thread.join()
    assert (status["rows_ok"], status["rows_error"], status["state"]) == (ROWS, 0, "done")
    assert Output.open(str(tmp_path / "out")).verify().problems == []
