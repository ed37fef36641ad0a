"""The dispatcher in random histories: whatever dies, every item is finished once."""

from __future__ import annotations

import random
import statistics
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from batchgen.cluster.policy.dispatch import Dispatcher


class World:
    """What a driver would see: who really runs what, kept apart from the dispatcher's own books."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.dispatcher: Dispatcher[str] = Dispatcher(patience=2.0, least_seconds=5.0)
        self.now = 0.0
        self.alive: set[int] = set()
        self.free: dict[int, int] = {}
        self.inflight: dict[tuple[int, str], float] = {}
        self.fed: list[str] = []
        self.done: set[str] = set()
        self.took: list[float] = []
        self.firsts: Counter[str] = Counter()
        self.replicas = 0

    def runners(self, item: str) -> set[int]:
        return {replica for replica, of in self.inflight if of == item}

    def load(self, replica: int) -> int:
        return sum(1 for of, item in self.inflight if of == replica and item not in self.done)

    def careful(self, replica: int) -> bool:
        return self.dispatcher.care_of(replica) is not None

    def feed(self) -> None:
        if not self.dispatcher.feed_ended:
            self.fed.append(f"span {len(self.fed)}")
            self.dispatcher.enqueue(self.fed[-1])

    def end(self) -> None:
        self.dispatcher.end_feed()

    def join(self) -> None:
        self.replicas += 1
        self.alive.add(self.replicas)
        self.dispatcher.join(self.replicas)

    def capacity(self) -> None:
        if self.alive:
            replica = self.dice.choice(sorted(self.alive))
            self.free[replica] = self.dice.randint(0, 9)
            self.dispatcher.has_capacity(replica, self.free[replica])

    def take(self) -> None:
        queued, suspects = list(self.dispatcher.queue), list(self.dispatcher.suspects)
        assignment = self.dispatcher.take(self.now)
        if assignment is None:
            able = [replica for replica in self.free if self.dispatcher.care_of(replica) is None]
            assert not (queued and len(able) > bool(suspects)), "a queued item waits although a replica has capacity"
            assert not (suspects and any(not self.dispatcher.running[replica] for replica in able)), "a suspect waits for nothing"
            return
        replica, item = assignment
        assert replica in self.free
        assert replica in self.alive
        assert item not in self.done
        if item in suspects:
            assert item == suspects[0]
            assert not self.runners(item)
            assert list(self.dispatcher.running[replica]) == [item]
            assert self.dispatcher.care_of(replica) is not None
        elif queued:
            assert item == queued[0]
            assert not self.runners(item)
            assert self.dispatcher.care_of(replica) is None
            assert suspects or self.free[replica] == min(self.free[other] for other in self.free if not self.careful(other))
        else:
            [runner] = self.runners(item)
            assert not self.careful(runner), "a careful item is never copied"
            assert self.dispatcher.feed_ended
            assert self.load(replica) == 0
            late = max(5.0, 2.0 * statistics.median(self.took[-64:]))
            assert self.now - self.inflight[runner, item] > late
        del self.free[replica]
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
            self.free.pop(replica, None)
            orphans = {item for item in mine if item not in self.done and not self.runners(item)}
            assert set(self.dispatcher.lost(replica, 3)) == orphans
            assert orphans <= set(self.dispatcher.queue) | set(self.dispatcher.suspects)

    def wait(self) -> None:
        self.now += self.dice.choice([0.5, 3.0, 20.0])

    def drain(self) -> None:
        """Nothing dies any more: all that was fed must come to its end."""
        self.end()
        self.join()
        for _ in range(4 * len(self.fed) + 4):
            for replica in sorted(self.alive):
                self.free[replica] = 0
                self.dispatcher.has_capacity(replica)
            self.take()
            self.finish()


ACTIONS = ["feed", "feed", "join", "capacity", "capacity", "take", "take", "finish", "die", "wait"]


@given(st.integers(), st.lists(st.sampled_from(ACTIONS), max_size=120), st.integers(0, 120))
def test_every_item_is_finished_once_whatever_dies(seed: int, actions: list[str], end: int) -> None:
    world = World(random.Random(seed))
    for step, action in enumerate(actions):
        if step == end:
            world.end()
        getattr(world, action)()
    world.drain()
    assert world.firsts == Counter(world.fed)
    assert world.dispatcher.idle


def test_long_histories_with_stragglers_and_deaths_end_with_every_item() -> None:
    copies = deaths = 0
    for seed in range(60):
        world = World(random.Random(seed))
        for step in range(600):
            if step == 300:
                world.end()
            getattr(world, world.dice.choice(ACTIONS))()
            copies += sum(1 for item in world.fed if len(world.runners(item)) == 2)
        deaths += sum(world.dispatcher.deaths.values())
        world.drain()
        assert world.firsts == Counter(world.fed)
    assert copies > 100, "the histories do meet copies"
    assert deaths > 100, "and deaths"
