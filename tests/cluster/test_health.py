"""Failures by node, by cause and in time; what Ray says of a death."""

from __future__ import annotations

import pytest

from batchgen.cluster.policy.health import POISON, WEIGHT, Health, is_poison, kind_of, same_cause

VANISHED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed by "
    "the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly due to "
    "SIGSEGV or another unexpected error."
)
SAID = {
    "The actor died because its node has died. Node Id: 3f2a\n\tthe actor was terminated: missed heartbeats": "node",
    "The actor died because its node has died. Node Id: 3f2a\n\tthe actor's node was preempted: drained": "node",
    "Actor died by preemption.": "node",
    "Task failed because the node it was running on is dead or unavailable. Node IP: 10.0.0.1": "node",
    "The actor is dead because it was killed by `ray.kill`.": "outside",
    "The actor is dead because its owner has died. Owner Id: 01 Owner worker exit type: SYSTEM_ERROR": "outside",
    "The actor is dead because all references to the actor were removed.": "outside",
    "Task was killed due to the node running low on memory. Memory on the node was 15/16 GB": "outside",
    "Could not create the actor because its associated placement group was removed.": "outside",
    VANISHED: "outside",
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR: exit code -9": "outside",
    "The actor died because of an error raised in its creation task, ray::ReplicaActor.__init__() CUDA error": "start",
    "Could not create the actor because its associated runtime env failed to be created.": "start",
    "The actor never ran - it was cancelled before it started running.": "start",
    "The actor is not schedulable: unschedulable, no node has GPU": "start",
    "Its worker process has died. Worker exit type: USER_ERROR Worker exits with an exit code 1.": "engine",
    "the engine died 10 times without an answer: EngineDeadError": "engine",
    "torch.OutOfMemoryError: CUDA out of memory": "engine",
    "": "engine",
}


@pytest.mark.parametrize("message", SAID)
def test_kind_of(message: str) -> None:
    assert kind_of(message) == SAID[message]


def failing(*starts: tuple[str | None, str], health: Health | None = None, kind: str = "start", now: float = 0.0) -> Health:
    """Starts that failed one after the other, each by its node and cause."""
    health = health or Health()
    for number, (node, cause) in enumerate(starts, 100):
        health.began(number, node, now)
        health.died(number, kind, cause, now)  # type: ignore[arg-type]
    return health


def test_a_node_is_left_out_after_two_failed_starts_and_asked_again_after_1_5_15_and_15_minutes() -> None:
    health = failing(("a", "x"))
    assert health.left_out(0.0) == set()
    failing(("a", "y"), health=health)
    now = 0.0
    for minutes in (1, 5, 15, 15):
        assert health.left_out(now + 60 * minutes - 1) == {"a"}
        now += 60 * minutes
        assert health.may_start("a", now)
        health.began(1, "a", now)
        assert not health.may_start("a", now), "one at a time"
        health.died(1, "start", "z", now)
    health.began(1, "a", now)
    health.ready(1, "a")
    assert health.left_out(now) == set()


def test_one_bad_node_of_four_does_not_end_the_job() -> None:
    health = failing(("a", "no GPU"), ("a", "no GPU"))
    assert health.verdict("abcd") is None
    assert health.verdict("a") == "no replica can start: no GPU"


def test_every_fitting_node_failed_twice() -> None:
    health = failing(("a", "p"), ("b", "q"), ("a", "r"))
    assert health.verdict("ab") is None
    failing(("b", "s"), health=health)
    assert health.verdict("ab") == "starts failed 2 times or more on each of the 2 nodes that would hold a replica: s"
    assert health.verdict("abc") is None
    assert health.verdict("") is None


def test_one_configuration_error_from_two_nodes() -> None:
    one = "10:03:11 (pid=812, ip=10.0.0.3): max_model_len 4096 is too long\n  INFO 0x7f11ab\nValueError: at 12:44"
    two = "10:04:59 (pid=99, ip=10.0.0.14): max_model_len 4096 is too long\n  other\nValueError: at 13:01"
    assert same_cause(one) == same_cause(two)
    assert same_cause(one) != same_cause(one.replace("ValueError", "OSError"))
    assert failing(("a", one), ("b", two)).verdict("abcd") == f"no replica can start: {two}"
    assert failing(("a", one), ("b", two), kind="outside").verdict("abcd") is None
    assert failing((None, one), (None, two)).verdict("abcd") is None
    assert failing((None, one), (None, two), (None, one)).verdict("abcd") is not None


def test_a_job_that_was_ready_once_has_no_configuration_error() -> None:
    health = Health()
    health.began(1, "a", 0.0)
    health.ready(1, "a")
    health.died(1, "node", "gone", 1.0)
    failing(("b", "disk full"), ("c", "disk full"), health=health)
    assert health.verdict("bcd") is None
    failing(("b", "disk full"), ("c", "disk full"), health=health)
    assert health.verdict("bcd") is None
    assert health.verdict("bc") is not None


def test_no_verdict_while_a_replica_lives_and_deaths_of_ready_ones_are_no_failed_starts() -> None:
    health = Health()
    health.began(1, "a", 0.0)
    health.ready(1, "a")
    failing(("a", "x"), ("a", "x"), health=health)
    assert health.verdict("a") is None
    health.died(1, "engine", "x", 0.0)
    assert health.verdict("a") is not None
    health.ended(1)
    health.began(2, "b", 0.0)
    health.ready(2, "b")
    for _ in range(5):
        health.died(2, "engine", "poison", 0.0)
    assert health.left_out(0.0) == {"a"}


def test_a_start_that_ends_with_its_node_does_not_count() -> None:
    health = failing(("a", "x"), ("a", "x"), ("a", "x"), kind="node")
    assert not health.left_out(0.0)
    assert health.verdict("a") is None


def test_a_start_that_hangs_is_a_failed_start_of_its_node() -> None:
    health = Health(start_seconds=100.0)
    for now in (0.0, 200.0):
        health.began(1, "a", now)
        assert health.overdue(now + 100.0) == []
        assert health.overdue(now + 101.0) == [1]
        health.start_failed(1, "outside", "its start took longer than 100 s", now + 101.0)
    assert health.overdue(1000.0) == []
    assert health.left_out(302.0) == {"a"}
    assert health.verdict("ab") is None
    assert health.verdict("a") is not None


def test_three_deaths_by_engine_are_poison_and_three_kills_are_not() -> None:
    assert is_poison(3 * WEIGHT["engine"])
    assert not is_poison(3 * WEIGHT["outside"] + 100 * WEIGHT["node"])
    assert POISON % WEIGHT["engine"] == 0
