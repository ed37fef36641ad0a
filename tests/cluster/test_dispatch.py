"""The rules of the dispatcher, one by one; test_dispatch_histories.py meets it with random histories."""

from __future__ import annotations

from batchgen.cluster.policy.dispatch import Dispatcher


def ready(*replicas: int, patience: float = 3.0, least_seconds: float = 10.0) -> Dispatcher[str]:
    """A dispatcher whose replicas have joined and have capacity."""
    dispatcher: Dispatcher[str] = Dispatcher(patience, least_seconds)
    for replica in replicas:
        dispatcher.join(replica)
        dispatcher.has_capacity(replica)
    return dispatcher


def finished(dispatcher: Dispatcher[str], replica: int, item: str, seconds: float) -> None:
    """Let `replica` take and finish `item`, so that the usual time is known."""
    dispatcher.enqueue(item)
    assert dispatcher.take(0.0) == (replica, item)
    assert dispatcher.finish(replica, item, seconds)
    dispatcher.has_capacity(replica)


def test_nothing_is_taken_before_a_replica_reports_capacity() -> None:
    dispatcher: Dispatcher[str] = Dispatcher()
    dispatcher.join(1)
    dispatcher.enqueue("a")
    assert dispatcher.take(0.0) is None
    dispatcher.has_capacity(1)
    assert dispatcher.take(0.0) == (1, "a")


def test_capacity_is_for_one_item_however_often_it_is_reported() -> None:
    dispatcher = ready(1)
    dispatcher.has_capacity(1)
    dispatcher.enqueue("a")
    dispatcher.enqueue("b")
    assert [dispatcher.take(0.0), dispatcher.take(0.0)] == [(1, "a"), None]


def test_capacity_of_a_replica_that_never_joined_or_was_lost_is_ignored() -> None:
    dispatcher = ready(1)
    dispatcher.lost(1)
    dispatcher.has_capacity(1)
    dispatcher.has_capacity(2)
    dispatcher.enqueue("a")
    assert dispatcher.take(0.0) is None


def test_items_go_in_the_order_of_the_feed_to_the_emptiest_replica() -> None:
    dispatcher = ready(1, 2)
    for item in "abcd":
        dispatcher.enqueue(item)
    assert [dispatcher.take(0.0), dispatcher.take(0.0)] == [(1, "a"), (2, "b")]
    dispatcher.has_capacity(2, 7)
    assert dispatcher.take(0.0) == (2, "c")
    dispatcher.has_capacity(2, 9)
    dispatcher.has_capacity(1, 3)
    assert dispatcher.take(0.0) == (1, "d")


def test_a_load_that_was_told_long_ago_has_shrunk_since() -> None:
    dispatcher: Dispatcher[str] = Dispatcher()
    for replica in (1, 2):
        dispatcher.join(replica)
        for number in range(8):
            dispatcher.speeds.finished(replica, 10.0, 10.0, 10.0 * number)
    dispatcher.has_capacity(1, 100.0, 0.0)
    dispatcher.has_capacity(2, 60.0, 90.0)
    for item in "ab":
        dispatcher.enqueue(item)
    assert dispatcher.take(95.0) == (1, "a"), "at one row a second it holds 5 by now, replica 2 holds 55"
    assert dispatcher.take(95.0) == (2, "b")


def test_the_items_of_a_dead_replica_go_to_the_front_in_their_order() -> None:
    dispatcher = ready(1, 2)
    for item in "abcd":
        dispatcher.enqueue(item)
    dispatcher.take(0.0)
    dispatcher.has_capacity(1)
    dispatcher.lost(2)
    dispatcher.take(0.0)
    assert dispatcher.lost(1) == ["a", "b"]
    assert list(dispatcher.queue) == ["a", "b", "c", "d"]
    assert not dispatcher.deaths, "deaths of no weight"
    assert dispatcher.has_run_before("a")


def test_the_death_of_an_unknown_replica_changes_nothing() -> None:
    dispatcher = ready(1)
    assert dispatcher.lost(9) == []
    assert not dispatcher.deaths


def test_a_retired_replica_finishes_what_it_runs_and_takes_nothing_more() -> None:
    d = Dispatcher[str]()
    for replica in (1, 2):
        d.join(replica)
        d.has_capacity(replica)
    for item in "ab":
        d.enqueue(item)
    assert d.take(0) == (1, "a")
    d.retire(1)
    d.has_capacity(1)
    assert d.take(0) == (2, "b")
    d.enqueue("c")
    assert d.take(0) is None
    assert d.released() == []
    assert d.finish(1, "a", 1)
    assert d.released() == [1]
    assert d.released() == []


def test_a_straggler_is_copied_to_an_idle_replica_and_the_first_answer_counts() -> None:
    dispatcher = ready(1, 2)
    finished(dispatcher, 1, "quick", 4.0)
    dispatcher.enqueue("slow")
    assert dispatcher.take(10.0) == (2, "slow")
    dispatcher.end_feed()
    assert dispatcher.take(22.0) is None, "exactly patience x the usual time is not late yet"
    assert dispatcher.take(22.1) == (1, "slow")
    assert [dispatcher.finish(1, "slow", 24.0), dispatcher.finish(2, "slow", 25.0)] == [True, False]
    assert dispatcher.idle


def test_no_copy_before_the_feed_has_ended() -> None:
    dispatcher = ready(1, 2)
    finished(dispatcher, 1, "quick", 1.0)
    dispatcher.enqueue("slow")
    dispatcher.take(0.0)
    assert dispatcher.take(1e9) is None


def test_no_copy_while_anything_is_queued_nor_by_a_busy_replica_nor_a_third_time() -> None:
    dispatcher = ready(1, 2)
    finished(dispatcher, 1, "quick", 1.0)
    dispatcher.enqueue("slow")
    assert dispatcher.take(0.0) == (2, "slow")
    dispatcher.enqueue("next")
    dispatcher.end_feed()
    assert dispatcher.take(100.0) == (1, "next")
    dispatcher.has_capacity(1)
    assert dispatcher.take(100.0) is None, "replica 1 is busy"
    dispatcher.join(3)
    dispatcher.has_capacity(3)
    assert dispatcher.take(100.0) == (3, "slow")
    dispatcher.join(4)
    dispatcher.has_capacity(4)
    assert dispatcher.take(100.0) is None, "two copies are enough, and `next` is young"


def test_no_copy_before_least_seconds_however_quick_the_others_were() -> None:
    dispatcher = ready(1, 2, least_seconds=10.0)
    finished(dispatcher, 1, "quick", 0.1)
    dispatcher.enqueue("slow")
    dispatcher.take(0.0)
    dispatcher.end_feed()
    assert dispatcher.take(10.0) is None
    assert dispatcher.take(10.1) == (1, "slow")


def test_an_item_with_a_living_copy_is_not_queued_again() -> None:
    dispatcher = ready(1, 2)
    finished(dispatcher, 1, "quick", 1.0)
    dispatcher.enqueue("slow")
    dispatcher.take(0.0)
    dispatcher.end_feed()
    assert dispatcher.take(50.0) == (1, "slow")
    assert dispatcher.lost(2, 3) == []
    assert dispatcher.lost(1, 1) == ["slow"]
    assert dispatcher.deaths == {"slow": 4}


def test_an_answer_that_comes_after_the_death_takes_the_item_out_of_the_queue() -> None:
    dispatcher = ready(1)
    dispatcher.enqueue("a")
    dispatcher.take(0.0)
    assert dispatcher.lost(1) == ["a"]
    assert dispatcher.finish(1, "a", 1.0)
    assert dispatcher.idle


def test_a_dropped_item_is_run_no_more() -> None:
    dispatcher = ready(1)
    dispatcher.enqueue("a")
    dispatcher.enqueue("b")
    dispatcher.take(0.0)
    dispatcher.drop("a")
    dispatcher.drop("b")
    assert dispatcher.idle
    assert not dispatcher.finish(1, "a", 1.0)


def test_it_wants_one_item_per_replica_with_capacity_and_none_after_the_feed() -> None:
    dispatcher = ready(1, 2)
    wants = []
    for item in "abc":
        wants.append(dispatcher.wants_item)
        dispatcher.enqueue(item)
    assert wants == [True, True, False]
    dispatcher = ready()
    assert dispatcher.wants_item, "one item ahead, so that the first replica need not wait"
    dispatcher.end_feed()
    assert not dispatcher.wants_item


def dead_of(dispatcher: Dispatcher[str], item: str, replicas: range) -> None:
    """Let each of the replicas take the item and die of it."""
    for replica in replicas:
        dispatcher.join(replica)
        dispatcher.has_capacity(replica)
        assert dispatcher.take(0.0) == (replica, item)
        assert dispatcher.lost(replica, 3) == [item]


def test_an_item_that_three_replicas_died_of_runs_alone_and_says_which_attempts_it_killed() -> None:
    dispatcher = Dispatcher[str](name="run")
    dispatcher.enqueue("poison")
    dead_of(dispatcher, "poison", range(1, 4))
    for item in "ab":
        dispatcher.enqueue(item)
    dispatcher.join(4)
    dispatcher.has_capacity(4)
    assert dispatcher.take(0.0) == (4, "poison")
    assert dispatcher.care_of(4) == ("run.1", ())
    dispatcher.has_capacity(4)
    assert dispatcher.take(0.0) is None, "nothing beside it"
    dispatcher.lost(4, 0)  # with its node
    dispatcher.join(5)
    dispatcher.has_capacity(5)
    assert dispatcher.take(0.0) == (5, "poison")
    dispatcher.lost(5, 3)
    dispatcher.join(6)
    dispatcher.has_capacity(6)
    assert dispatcher.take(0.0) == (6, "poison")
    assert dispatcher.care_of(6) == ("run.3", (("run.2", 3),))
    assert dispatcher.finish(6, "poison", 9.0)
    assert dispatcher.care_of(6) is None
    dispatcher.has_capacity(6)
    assert dispatcher.take(9.0) == (6, "a")
    assert dispatcher.care_of(6) is None


def test_a_busy_pool_keeps_one_replica_free_for_a_careful_item() -> None:
    dispatcher = Dispatcher[str]()
    dispatcher.enqueue("poison")
    dead_of(dispatcher, "poison", range(1, 4))
    for replica in (4, 5):
        dispatcher.join(replica)
    for item in "abcd":
        dispatcher.enqueue(item)
    dispatcher.running[4]["old"] = dispatcher.running[5]["older"] = 0.0
    dispatcher._holders |= {"old": {4}, "older": {5}}
    dispatcher.has_capacity(4)
    assert dispatcher.take(0.0) is None, "4 is kept"
    dispatcher.has_capacity(5)
    assert dispatcher.take(0.0) == (5, "a")
    assert dispatcher.finish(4, "old", 1.0)
    assert dispatcher.take(1.0) == (4, "poison")
