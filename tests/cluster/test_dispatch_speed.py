"""The dispatcher by measured speed: slow replicas near the end, and what they may hold."""

from __future__ import annotations

import pytest

from batchgen.cluster.policy.dispatch import Dispatcher
from tests.cluster.test_dispatch import ready


def paced(*seconds: float) -> Dispatcher[str]:
    """A dispatcher whose replicas 1, 2 ... have each finished 8 items of 10 rows in that time, and have capacity."""
    dispatcher = ready(*range(1, len(seconds) + 1))
    for replica, took in enumerate(seconds, 1):
        for _ in range(8):
            dispatcher.speeds.finished(replica, took, 10.0, 100.0 + took)
    dispatcher.rows_left = 1000.0
    return dispatcher


def test_a_slow_replica_gets_nothing_that_it_would_end_after_the_others() -> None:
    dispatcher = paced(10.0, 10.0, 40.0)
    dispatcher.enqueue("a")
    dispatcher.rows_left = 50.0
    dispatcher._free = {3: 0.0}
    assert dispatcher.take(200.0) is None
    dispatcher.rows_left = 1e6
    assert dispatcher.take(200.0) == (3, "a")


def test_what_a_slow_replica_would_end_last_is_copied_before_the_queue_is_empty() -> None:
    dispatcher = paced(10.0, 10.0, 40.0)
    dispatcher.running[3]["slow"] = 199.0
    dispatcher._holders["slow"] = {3}
    dispatcher.enqueue("a")
    dispatcher.rows_left = 1e6
    assert dispatcher.take(200.0) == (1, "a"), "the end is far"
    dispatcher.enqueue("b")
    dispatcher.rows_left = 20.0
    assert dispatcher.take(200.0) == (2, "slow")
    dispatcher.has_capacity(2)
    assert dispatcher.take(200.0) == (2, "b")


def test_the_last_living_replica_gets_everything_however_slow() -> None:
    dispatcher = paced(10.0, 40.0)
    dispatcher.lost(1)
    dispatcher.enqueue("a")
    dispatcher.rows_left = 1.0
    assert dispatcher.take(200.0) == (2, "a")


def test_a_replica_holds_by_its_rows_a_second() -> None:
    dispatcher = ready(1, 2, 3, 4)
    for number in range(24):
        dispatcher.speeds.finished(1 + number % 2, 10.0, 10.0, 5.0 * (number // 2))
    for number in range(4):
        dispatcher.speeds.finished(3, 40.0, 10.0, 20.0 * number)
    dispatcher.speeds.look(dispatcher.running, 60.0)
    dispatcher.speeds.finished(4, 40.0, 10.0, 60.0)
    assert [dispatcher.pace(replica, 60.0) for replica in (1, 2, 3, 4)] == pytest.approx([1.0, 1.0, 0.273, 0.0], abs=0.01)
