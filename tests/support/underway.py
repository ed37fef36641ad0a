"""A job that runs in a thread on a cluster of nodes with seats, and cannot end before it is let go."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

import batchgen
from batchgen.cluster.state.ray_adapter import living_nodes
from batchgen.output.output import Output
from tests.support.faulty import ENTRY, noted
from tests.support.packages import install

ROWS, PATIENCE = 96, 120
SEAT = {"num_cpus": 0, "resources": {"seat": 1}}


@contextlib.contextmanager
def seated(seats: int) -> Iterator[Cluster]:
    """A head that reads, and nodes with a seat for one replica each; here and there is the engine `faulty`."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        install(Path(folder), patch, ENTRY)
        patch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[2]}")  # of the nodes' processes
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            for _ in range(seats):
                made.add_node(**SEAT)
            yield made
        finally:
            made.shutdown()


class UnderWay:
    """The job, and the nodes with seats: `fault` and what `began` and is `ready` are as faulty.py has them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self._folder, self._said = cluster, folder, io.StringIO()
        staying = {name for name, one in living_nodes().items() if not one.is_drained}
        self.seats = [node for node in cluster.list_all_nodes() if not node.head and node.node_id in staying]
        self._running: Future[dict[str, Any]] = Future()

    @property
    def said(self) -> str:
        return self._said.getvalue()

    @contextlib.contextmanager
    def running(self, **replicas: Any) -> Iterator[None]:
        """The job runs, and at the end must be there whole, its exit code 0, and the cluster as it was before."""
        before = free()
        (self._folder / "held").touch()
        with ThreadPoolExecutor(1) as pool:
            self._running = pool.submit(self._run, replicas)
            try:
                yield
            finally:
                (self._folder / "held").unlink()
            status = self._running.result(PATIENCE)
        assert (status["rows_ok"], status["rows_error"], status["ended"]["exit_code"]) == (ROWS, 0, 0), self.said
        assert Output.open(str(self._folder / "out")).verify().problems == []
        assert {one["state"] for one in placement_group_table().values()} == {"REMOVED"}
        until(lambda: free() == {node: before.get(node, {"seat": 1.0}) for node in living_nodes()}, lambda: str(living_nodes()))

    def until(self, holds: Callable[[], Any]) -> None:
        def going() -> Any:
            assert not self._running.done(), (self._running.exception(), self.said)
            return holds()

        until(going, lambda: self.said)

    def fault(self, seat: int, fault: str) -> None:
        self._file(seat).write_text(fault)

    def mend(self, seat: int) -> None:
        self._file(seat).unlink()

    def began(self, seat: int) -> list[int]:
        return noted(self._folder, self.seats[seat].node_id, "began")

    def ready(self, seat: int) -> list[int]:
        return noted(self._folder, self.seats[seat].node_id, "ready")

    def _file(self, seat: int) -> Path:
        return self._folder / f"{self.seats[seat].node_id}.fault"

    def _run(self, replicas: dict[str, Any]) -> dict[str, Any]:
        rows = [{"prompt": f"row {number}" + (" held" if number % 4 == 3 else "")} for number in range(ROWS)]
        (self._folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        held = {"max_num_seqs": 4, "hang_on": "held", "hang_while": str(self._folder / "held")}
        job = {
            "input": {"path": str(self._folder / "in.jsonl"), "prompt": "prompt"},
            "engine": {"kind": "faulty", "options": {"nodes": str(self._folder), **held}},
            "replicas": {"resources": {"seat": 1}, **replicas},
            "spans": {"rows": 4, "journal_seconds": 0.5},
            "output": {"path": str(self._folder / "out")},
        }
        return batchgen.run(job, out=self._said)


def until(holds: Callable[[], Any], told: Callable[[], str]) -> None:
    patience = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < patience, told()
        time.sleep(0.1)


def free() -> dict[str, dict[str, float]]:
    """What is free on each living node, of what the jobs reserve."""
    found = living_nodes().items()
    return {node: {name: amount for name, amount in one.free.items() if name in ("CPU", "seat")} for node, one in found}
