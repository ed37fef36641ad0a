"""A job on a real Ray whose nodes, replicas and head fail: every row is there once, and nothing is left on the cluster."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayError

from batchgen.cluster.policy import health
from batchgen.cluster.state.ray_adapter import living_nodes
from tests.support.faulty import HANG, SILENT
from tests.support.nodes import drain
from tests.support.underway import SEAT, UnderWay, seated

pytestmark = [pytest.mark.cluster(own=True), pytest.mark.timeout(300)]
SEATS, FIRE = 3, "the card is on fire"
Step = Callable[[UnderWay], None]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with seated(SEATS) as made:
        yield made


@pytest.fixture
def cluster(nodes: Cluster) -> Iterator[Cluster]:
    """The nodes, with a driver connected."""
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        yield nodes
    finally:
        ray.shutdown()


def a_bad_node(job: UnderWay) -> None:
    job.until(lambda: len(job.began(0)) == 2 and job.ready(1) and job.ready(2))
    job.until(lambda: job.said.count(f" died: {FIRE}") == 2)


def a_hung_start(job: UnderWay) -> None:
    job.until(lambda: "not ready after 10 s: it is given up" in job.said)
    job.until(lambda: "not ready after 10 s, its process has not answered: it is given up" in job.said)
    for seat in (0, 1):
        job.mend(seat)
    job.until(lambda: job.ready(0) and job.ready(1) and job.ready(2))


def starts_that_are_mended(job: UnderWay) -> None:
    job.until(lambda: job.ready(0) and len(job.began(1)) >= 3 and len(job.began(2)) >= 3)
    for seat in (1, 2):
        job.mend(seat)
    job.until(lambda: job.ready(1) and job.ready(2))


def three_kills(job: UnderWay) -> None:
    job.until(lambda: all(job.ready(seat) for seat in range(SEATS)))
    for seat in range(SEATS):
        os.kill(job.ready(seat)[0], signal.SIGKILL)
        job.until(lambda seen=seat: job.said.count(" died: ") > seen)
    job.until(lambda: any(len(job.ready(seat)) == 2 for seat in range(SEATS)))


def the_deadline_of_a_notice(job: UnderWay) -> None:
    job.until(lambda: all(job.ready(seat) for seat in range(SEATS)))
    drain(job.cluster.address, job.seats[0].node_id, seconds=15)
    job.until(lambda: re.search(r"its node goes in \d+ s; it takes no new span", job.said))
    job.until(lambda: "ended with its journal written, since its node goes" in job.said)
    job.cluster.add_node(**SEAT)


def three_lost_nodes(job: UnderWay) -> None:
    """The last: the nodes are gone, and another comes."""
    job.until(lambda: all(job.ready(seat) for seat in range(SEATS)))
    for seat in range(SEATS):
        job.cluster.remove_node(job.seats[seat], allow_graceful=False)
        job.until(lambda seen=seat: job.said.count(" died: ") > seen)
    job.cluster.add_node(**SEAT)


FAULTS: list[tuple[Step, dict[int, str], dict[str, Any]]] = [
    (a_bad_node, {0: FIRE}, {}),
    (a_hung_start, {0: HANG, 1: SILENT}, {"start_seconds": 10}),
    (starts_that_are_mended, {1: f"{FIRE} here", 2: f"{FIRE} there"}, {}),
    (three_kills, {}, {}),
    (the_deadline_of_a_notice, {}, {}),
    (three_lost_nodes, {}, {}),
]


LONG = (a_hung_start, starts_that_are_mended, the_deadline_of_a_notice, three_lost_nodes)


@pytest.mark.parametrize(
    ("step", "faults", "replicas"),
    [pytest.param(*each, id=each[0].__name__, marks=[pytest.mark.long] * (each[0] in LONG)) for each in FAULTS],
)
def test_a_job_outlives(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: Step,
    faults: dict[int, str],
    replicas: dict[str, Any],
) -> None:
    if step is not a_bad_node:  # which stays left out until the job has ended
        monkeypatch.setattr(health, "ASKED_AGAIN", (2.0,))
    job = UnderWay(cluster, tmp_path)
    for seat, fault in faults.items():
        job.fault(seat, fault)
    with job.running(**replicas):
        step(job)


def test_a_job_outlives_the_head_that_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its state is on disk, as Ray's fault tolerance of the head wants it. Afterwards a replica is replaced as ever."""
    caplog.set_level(logging.DEBUG, "batchgen.pool")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RAY_gcs_storage", "rocksdb")
        monkeypatch.setenv("RAY_gcs_storage_path", folder)
        with seated(1) as cluster:
            ray.init(address=cluster.address, log_to_driver=False)
            try:
                job = UnderWay(cluster, tmp_path)
                with job.running():
                    job.until(lambda: job.ready(0))
                    cluster.head_node.kill_gcs_server()
                    job.until(lambda: "the head did not say how the nodes are" in caplog.text)
                    with pytest.raises(RayError):
                        living_nodes()
                    cluster.head_node.start_gcs_server()
                    os.kill(job.ready(0)[0], signal.SIGKILL)
                    job.until(lambda: len(job.ready(0)) == 2)
            finally:
                ray.shutdown()
