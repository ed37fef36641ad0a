"""Which replica runs which span next: a state machine without Ray, clocks or I/O.

The driver tells it what happened (a span came from the feed, a replica has room, finished, died) and asks
`take` for the next assignment. Items are opaque and hashable. An item of a dead replica goes to the front of
the queue. When the feed has ended and the queue is empty, an idle replica may run a second copy of an
item that has taken `patience` times the usual; whichever copy finishes first counts.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
ReplicaId = int


class Dispatcher(Generic[Item]):
    def __init__(self, patience: float = 3.0, least_seconds: float = 10.0) -> None:
        self.patience, self.least_seconds = patience, least_seconds
        self.feed_ended = False
        self.queue: deque[Item] = deque()
        self.running: dict[ReplicaId, dict[Item, float]] = {}
        self._holders: dict[Item, set[ReplicaId]] = {}
        self._with_room: dict[ReplicaId, float] = {}
        self._retired: set[ReplicaId] = set()
        self._took: deque[float] = deque(maxlen=64)
        self.deaths: dict[Item, int] = {}
        """How many replicas died while they ran an item."""

    def offer(self, item: Item) -> None:
        """A span came from the feed."""
        self.queue.append(item)

    def end_feed(self) -> None:
        self.feed_ended = True

    def join(self, replica: ReplicaId) -> None:
        """A replica is ready; it takes nothing before it says that it has room."""
        self.running[replica] = {}

    def has_room(self, replica: ReplicaId, load: float = 0.0) -> None:
        """The replica, with this `load` of unfinished prompts, can take one more item. Ignored for a replica that left."""
        if replica in self.running and replica not in self._retired:
            self._with_room[replica] = load

    def retire(self, replica: ReplicaId) -> None:
        """The replica is about to go: it finishes what it runs and takes nothing more."""
        self._retired.add(replica)
        self._with_room.pop(replica, None)

    def leave(self, replica: ReplicaId) -> list[Item]:
        """The replica died; the items that nobody else is running are queued again, and returned."""
        lost = self.running.pop(replica, {})
        self._retired.discard(replica)
        for item in lost:
            self._release(replica, item)
            self.deaths[item] = self.deaths.get(item, 0) + 1
        self._with_room.pop(replica, None)
        orphans = [item for item in lost if item not in self._holders]
        self.queue.extendleft(reversed(orphans))
        return orphans

    def take(self, now: float) -> tuple[ReplicaId, Item] | None:
        """The next assignment, recorded as running since `now` (seconds); None if there is none."""
        if not self._with_room:
            return None
        if self.queue:
            # The emptiest replica first, so that equal replicas end together.
            replica = min(self._with_room, key=self._with_room.__getitem__)
            item = self.queue.popleft()
        else:
            copy = self._straggler(now)
            if copy is None:
                return None
            replica, item = copy
        del self._with_room[replica]
        self.running[replica][item] = now
        self._holders.setdefault(item, set()).add(replica)
        return replica, item

    def finish(self, replica: ReplicaId, item: Item, now: float) -> bool:
        """The replica answered for the item. False if another copy was first."""
        started = self.running.get(replica, {}).get(item)
        if started is not None:
            self._took.append(now - started)
        first = item in self._holders or item in self.queue
        self.drop(item)
        return first

    def drop(self, item: Item) -> None:
        """Forget the item: it is finished, or its block is lost and the driver feeds its span again."""
        for replica in self._holders.pop(item, ()):
            del self.running[replica][item]
        if item in self.queue:
            self.queue.remove(item)

    def copies(self, item: Item) -> int:
        """How many replicas are running the item."""
        return len(self._holders.get(item, ()))

    @property
    def hungry(self) -> bool:
        """Whether another item from the feed would be of use now."""
        return not self.feed_ended and len(self.queue) < max(1, len(self._with_room))

    @property
    def done_retiring(self) -> list[ReplicaId]:
        """Retired replicas that run nothing any more."""
        return [replica for replica in self._retired if not self.running.get(replica)]

    @property
    def idle(self) -> bool:
        """Nothing queued, nothing running."""
        return not self.queue and not any(self.running.values())

    def _release(self, replica: ReplicaId, item: Item) -> None:
        holders = self._holders[item]
        holders.discard(replica)
        if not holders:
            del self._holders[item]

    def _straggler(self, now: float) -> tuple[ReplicaId, Item] | None:
        idle = [replica for replica in self._with_room if not self.running[replica]]
        if not idle or not self.feed_ended or not self._took:
            return None
        limit = max(self.least_seconds, self.patience * statistics.median(self._took))
        alone = [(self.running[next(iter(held))][item], item) for item, held in self._holders.items() if len(held) == 1]
        late = [(started, item) for started, item in alone if now - started > limit]
        return (idle[0], min(late, key=lambda pair: pair[0])[1]) if late else None
