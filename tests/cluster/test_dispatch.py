"""The dispatcher against random histories, and its rules one by one."""

from __future__ import annotations

import random
import statistics
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from batchgen.cluster.dispatch import Dispatcher


def ready(*replicas: int, patience: float = 3.0, least_seconds: float = 10.0) -> Dispatcher[str]:
    """A dispatcher whose replicas have joined and have room."""
    dispatcher: Dispatcher[str] = Dispatcher(patience, least_seconds)
    for replica in replicas:
        dispatcher.join(replica)
        dispatcher.has_room(replica)
    return dispatcher


def finished(dispatcher: Dispatcher[str], replica: int, item: str, seconds: float) -> None:
    """Let `replica` take and finish `item`, so that the usual time is known."""
    dispatcher.offer(item)
    assert dispatcher.take(0.0) == (replica, item)
    assert dispatcher.finish(replica, item, seconds)
    dispatcher.has_room(replica)


# The rules


def test_nothing_is_taken_before_a_replica_says_that_it_has_room() -> None:
    dispatcher: Dispatcher[str] = Dispatcher()
    dispatcher.join(1)
    dispatcher.offer("a")
    assert dispatcher.take(0.0) is None
    dispatcher.has_room(1)
    assert dispatcher.take(0.0) == (1, "a")


def test_room_is_for_one_item_however_often_it_is_said() -> None:
    dispatcher = ready(1)
    dispatcher.has_room(1)
    dispatcher.offer("a")
    dispatcher.offer("b")
    assert [dispatcher.take(0.0), dispatcher.take(0.0)] == [(1, "a"), None]


def test_room_of_a_replica_that_never_joined_or_left_is_ignored() -> None:
    dispatcher = ready(1)
    dispatcher.leave(1)
    dispatcher.has_room(1)
    dispatcher.has_room(2)
    dispatcher.offer("a")
    assert dispatcher.take(0.0) is None


def test_items_go_in_the_order_of_the_feed_to_the_emptiest_replica() -> None:
    dispatcher = ready(1, 2)
    for item in "abcd":
        dispatcher.offer(item)
    assert [dispatcher.take(0.0), dispatcher.take(0.0)] == [(1, "a"), (2, "b")]
    dispatcher.has_room(2, 7)
    assert dispatcher.take(0.0) == (2, "c")
    dispatcher.has_room(2, 9)
    dispatcher.has_room(1, 3)
    assert dispatcher.take(0.0) == (1, "d")


def test_the_items_of_a_dead_replica_go_to_the_front_in_their_order() -> None:
    dispatcher = ready(1, 2)
    for item in "abcd":
        dispatcher.offer(item)
    dispatcher.take(0.0)
    dispatcher.has_room(1)
    dispatcher.leave(2)
    dispatcher.take(0.0)
    assert dispatcher.leave(1) == ["a", "b"]
    assert list(dispatcher.queue) == ["a", "b", "c", "d"]
    assert dispatcher.deaths == {"a": 1, "b": 1}


def test_the_death_of_an_unknown_replica_changes_nothing() -> None:
    dispatcher = ready(1)
    assert dispatcher.leave(9) == []
    assert not dispatcher.deaths


def test_a_retired_replica_finishes_what_it_runs_and_takes_nothing_more() -> None:
    d = Dispatcher[str]()
    for replica in (1, 2):
        d.join(replica)
        d.has_room(replica)
    for item in "ab":
        d.offer(item)
    assert d.take(0) == (1, "a")
    d.retire(1)
    d.has_room(1)
    assert d.take(0) == (2, "b")
    d.offer("c")
    assert d.take(0) is None
    assert (d.copies("a"), d.copies("c"), d.done_retiring) == (1, 0, [])
    assert d.finish(1, "a", 1)
    assert d.done_retiring == [1]
    assert d.leave(1) == []
    assert d.done_retiring == []


def test_a_straggler_is_copied_to_an_idle_replica_and_the_first_answer_counts() -> None:
    dispatcher = ready(1, 2)
    finished(dispatcher, 1, "quick", 4.0)
    dispatcher.offer("slow")
    assert dispatcher.take(10.0) == (2, "slow")
    dispatcher.end_feed()
    assert dispatcher.take(22.0) is None, "exactly patience x the usual time is not late yet"
    assert dispatcher.take(22.1) == (1, "slow")
    assert [dispatcher.finish(1, "slow", 24.0), dispatcher.finish(2, "slow", 25.0)] == [True, False]
    assert dispatcher.idle


def test_no_copy_before_the_feed_has_ended() -> None:
    dispatcher = ready(1, 2)
    finished(dispatcher, 1, "quick", 1.0)
    dispatcher.offer("slow")
    dispatcher.take(0.0)
    assert dispatcher.take(1e9) is None


def test_no_copy_while_anything_is_queued_nor_by_a_busy_replica_nor_a_third_time() -> None:
    dispatcher = ready(1, 2)
    finished(dispatcher, 1, "quick", 1.0)
    dispatcher.offer("slow")
    assert dispatcher.take(0.0) == (2, "slow")
    dispatcher.offer("next")
    dispatcher.end_feed()
    assert dispatcher.take(100.0) == (1, "next")
    dispatcher.has_room(1)
    assert dispatcher.take(100.0) is None, "replica 1 is busy"
    dispatcher.join(3)
    dispatcher.has_room(3)
    assert dispatcher.take(100.0) == (3, "slow")
    dispatcher.join(4)
    dispatcher.has_room(4)
    assert dispatcher.take(100.0) is None, "two copies are enough, and `next` is young"


def test_no_copy_before_least_seconds_however_quick_the_others_were() -> None:
    dispatcher = ready(1, 2, least_seconds=10.0)
    finished(dispatcher, 1, "quick", 0.1)
    dispatcher.offer("slow")
    dispatcher.take(0.0)
    dispatcher.end_feed()
    assert dispatcher.take(10.0) is None
    assert dispatcher.take(10.1) == (1, "slow")


def test_an_item_with_a_living_copy_is_not_queued_again() -> None:
    dispatcher = ready(1, 2)
    finished(dispatcher, 1, "quick", 1.0)
    dispatcher.offer("slow")
    dispatcher.take(0.0)
    dispatcher.end_feed()
    assert dispatcher.take(50.0) == (1, "slow")
    assert dispatcher.leave(2) == []
    assert dispatcher.leave(1) == ["slow"]
    assert dispatcher.deaths == {"slow": 2}


def test_an_answer_that_comes_after_the_death_takes_the_item_out_of_the_queue() -> None:
    dispatcher = ready(1)
    dispatcher.offer("a")
    dispatcher.take(0.0)
    assert dispatcher.leave(1) == ["a"]
    assert dispatcher.finish(1, "a", 1.0)
    assert dispatcher.idle


def test_a_dropped_item_is_run_no_more() -> None:
    dispatcher = ready(1)
    dispatcher.offer("a")
    dispatcher.offer("b")
    dispatcher.take(0.0)
    dispatcher.drop("a")
    dispatcher.drop("b")
    assert dispatcher.idle
    assert not dispatcher.finish(1, "a", 1.0)


def test_it_is_hungry_for_one_item_per_replica_with_room_and_never_after_the_feed() -> None:
    dispatcher = ready(1, 2)
    wants = []
    for item in "abc":
        wants.append(dispatcher.hungry)
        dispatcher.offer(item)
    assert wants == [True, True, False]
    dispatcher = ready()
    assert dispatcher.hungry, "one item ahead, so that the first replica need not wait"
    dispatcher.end_feed()
    assert not dispatcher.hungry


# Random histories


class World:
    """What a driver would see: who really runs what, kept apart from the dispatcher's own books."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.dispatcher: Dispatcher[str] = Dispatcher(patience=2.0, least_seconds=5.0)
        self.now = 0.0
        self.alive: set[int] = set()
        self.rooms: dict[int, int] = {}
        self.inflight: dict[tuple[int, str], float] = {}
        self.offered: list[str] = []
        self.done: set[str] = set()
        self.took: list[float] = []
        self.firsts: Counter[str] = Counter()
        self.replicas = 0

    def runners(self, item: str) -> set[int]:
        return {replica for replica, of in self.inflight if of == item}

    def load(self, replica: int) -> int:
        return sum(1 for of, item in self.inflight if of == replica and item not in self.done)

    def offer(self) -> None:
        if not self.dispatcher.feed_ended:
            self.offered.append(f"span {len(self.offered)}")
            self.dispatcher.offer(self.offered[-1])

    def end(self) -> None:
        self.dispatcher.end_feed()

    def join(self) -> None:
        self.replicas += 1
        self.alive.add(self.replicas)
        self.dispatcher.join(self.replicas)

    def room(self) -> None:
        if self.alive:
            replica = self.dice.choice(sorted(self.alive))
            self.rooms[replica] = self.dice.randint(0, 9)
            self.dispatcher.has_room(replica, self.rooms[replica])

    def take(self) -> None:
        queued = list(self.dispatcher.queue)
        assignment = self.dispatcher.take(self.now)
        if assignment is None:
            assert not (queued and self.rooms), "a queued item waits although a replica has room"
            return
        replica, item = assignment
        assert replica in self.rooms
        assert replica in self.alive
        assert item not in self.done
        if queued:
            assert item == queued[0]
            assert not self.runners(item)
            assert self.rooms[replica] == min(self.rooms.values())
        else:
            [runner] = self.runners(item)
            assert self.dispatcher.feed_ended
            assert self.load(replica) == 0
            late = max(5.0, 2.0 * statistics.median(self.took[-64:]))
            assert self.now - self.inflight[runner, item] > late
        del self.rooms[replica]
        self.inflight[replica, item] = self.now

    def finish(self) -> None:
        if self.inflight:
            replica, item = self.dice.choice(sorted(self.inflight))
            started = self.inflight.pop((replica, item))
            if item not in self.done:
                self.took.append(self.now - started)
            first = self.dispatcher.finish(replica, item, self.now)
            assert first == (item not in self.done)
            self.firsts[item] += first
            self.done.add(item)

    def die(self) -> None:
        if self.alive:
            replica = self.dice.choice(sorted(self.alive))
            mine = {item for of, item in self.inflight if of == replica}
            self.inflight = {key: since for key, since in self.inflight.items() if key[0] != replica}
            self.alive.remove(replica)
            self.rooms.pop(replica, None)
            orphans = {item for item in mine if item not in self.done and not self.runners(item)}
            assert set(self.dispatcher.leave(replica)) == orphans
            assert orphans <= set(self.dispatcher.queue)

    def wait(self) -> None:
        self.now += self.dice.choice([0.5, 3.0, 20.0])

    def drain(self) -> None:
        """Nothing dies any more: all that was offered must come to its end."""
        self.end()
        self.join()
        for _ in range(4 * len(self.offered) + 4):
            for replica in sorted(self.alive):
                self.rooms[replica] = 0
                self.dispatcher.has_room(replica)
            self.take()
            self.finish()


ACTIONS = ["offer", "offer", "join", "room", "room", "take", "take", "finish", "die", "wait"]


@given(st.integers(), st.lists(st.sampled_from(ACTIONS), max_size=120), st.integers(0, 120))
def test_every_item_is_finished_once_whatever_dies(seed: int, actions: list[str], end: int) -> None:
    world = World(random.Random(seed))
    for step, action in enumerate(actions):
        if step == end:
            world.end()
        getattr(world, action)()
    world.drain()
    assert world.firsts == Counter(world.offered)
    assert world.dispatcher.idle


def test_long_histories_with_stragglers_and_deaths_end_with_every_item() -> None:
    copies = deaths = 0
    for seed in range(60):
        world = World(random.Random(seed))
        for step in range(600):
            if step == 300:
                world.end()
            getattr(world, world.dice.choice(ACTIONS))()
            copies += sum(1 for item in world.offered if len(world.runners(item)) == 2)
        deaths += sum(world.dispatcher.deaths.values())
        world.drain()
        assert world.firsts == Counter(world.offered)
    assert copies > 100, "the histories do meet copies"
    assert deaths > 100, "and deaths"
