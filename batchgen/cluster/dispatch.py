"""Which replica runs which span next: a state machine without Ray, clocks or I/O.

The driver tells what came from the feed and what a pool reported (an Event), and asks `take` for the next assignment. Numbers
name replicas; an item is hashable, in a run the reference to a span's block. Items of a dead replica go to the front of the
queue. When the feed has ended and the queue is empty, an idle replica may run a second copy of an item that has run for
`patience` times the median; the first copy to finish counts."""

import heapq
import itertools
import statistics
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from batchgen.records import Receipt

Item = TypeVar("Item", bound=Hashable)
ReplicaId = int


class Ready(NamedTuple):
    """The replica's engine has started. `engine`: its capacity (sequences) and workers (processes)."""

    replica: ReplicaId
    engine: dict[str, int]


class Capacity(NamedTuple):
    """The replica can take one more span; `load`: its unfinished prompts, each by its expected length."""

    replica: ReplicaId
    load: float


class Finished(NamedTuple):
    """The replica has committed the span of `item`, or found it committed."""

    replica: ReplicaId
    item: Hashable
    receipt: Receipt


class BlockLost(NamedTuple):
    """The block of `item` went with its node: its span must be read again."""

    replica: ReplicaId
    item: Hashable
    message: str


class Died(NamedTuple):
    """The replica is gone; `message` is the cause, `where` its node, as far as it is known."""

    replica: ReplicaId
    message: str
    where: str = ""


class Said(NamedTuple):
    """The last lines of the log of a replica that died."""

    replica: ReplicaId
    message: str


Event: TypeAlias = Ready | Capacity | Finished | BlockLost | Died | Said


class Dispatcher(Generic[Item]):
    """`patience`: how many medians an item runs before it is copied, and at least `least_seconds`."""

    def __init__(self, patience: float = 3.0, least_seconds: float = 10.0) -> None:
        self.patience, self.least_seconds = patience, least_seconds
        self.feed_ended = False
        self.queue: OrderedDict[Item, None] = OrderedDict()  # finds and forgets an item at once, wherever it stands
        self.running: dict[ReplicaId, dict[Item, float]] = {}
        self._holders: dict[Item, set[ReplicaId]] = {}
        self._alone: dict[Item, float] = {}  # items that one replica runs, and since when, the oldest first
        self._free: dict[ReplicaId, tuple[float, int]] = {}  # load, and a number of the report
        self._heap: list[tuple[tuple[float, int], ReplicaId]] = []  # of what is or was in _free
        self._reports = itertools.count()
        self._retired: set[ReplicaId] = set()
        self._took: deque[float] = deque(maxlen=64)
        self.deaths: dict[Item, int] = {}  # of replicas that ran the item

    def enqueue(self, item: Item) -> None:
        self.queue[item] = None

    def end_feed(self) -> None:
        self.feed_ended = True

    def join(self, replica: ReplicaId) -> None:
        """Add a replica; it takes nothing before it reports capacity."""
        self.running[replica] = {}

    def has_capacity(self, replica: ReplicaId, load: float = 0.0) -> None:
        """The replica, with this `load` of unfinished prompts, can take one more item. Ignored after it was lost or retired."""
        if replica in self.running and replica not in self._retired:
            self._free[replica] = load, next(self._reports)
            heapq.heappush(self._heap, (self._free[replica], replica))

    def retire(self, replica: ReplicaId) -> None:
        """Give the replica nothing more; it finishes what it runs."""
        self._retired.add(replica)
        self._free.pop(replica, None)

    def lost(self, replica: ReplicaId) -> list[Item]:
        """Forget a dead replica; queue again, and return, the items that no other replica is running."""
        lost = self.running.pop(replica, {})
        self._retired.discard(replica)
        self._free.pop(replica, None)
        for item in lost:
            self._holders[item].discard(replica)
            self.deaths[item] = self.deaths.get(item, 0) + 1
        orphans = [item for item in lost if not self._holders[item]]
        for item in reversed(orphans):
            del self._holders[item], self._alone[item]
            self.queue[item] = None
            self.queue.move_to_end(item, last=False)
        if len(orphans) < len(lost):  # copies are alone now
            self._alone |= {item: self._since(item) for item in lost if item in self._holders}
            self._alone = dict(sorted(self._alone.items(), key=lambda pair: pair[1]))
        return orphans

    def take(self, now: float) -> tuple[ReplicaId, Item] | None:
        """The next assignment, recorded as running since `now` (seconds); None if there is none."""
        if self._free and self.queue:  # the emptiest replica first, so that equal replicas end together
            replica, (item, _) = self._emptiest(), self.queue.popitem(last=False)
        elif self.queue or (copy := self._straggler(now)) is None:
            return None
        else:
            replica, item = copy
        del self._free[replica]
        self.running[replica][item] = now
        self._holders.setdefault(item, set()).add(replica)
        if self._alone.pop(item, None) is None:
            self._alone[item] = now
        return replica, item

    def finish(self, replica: ReplicaId, item: Item, now: float) -> bool:
        """The replica has finished the item. False if another copy was first."""
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
        self._alone.pop(item, None)
        self.queue.pop(item, None)

    def has_run_before(self, item: Item) -> bool:
        """Whether a replica other than the one that runs the item now has started it."""
        return item in self.deaths or len(self._holders.get(item, ())) > 1

    @property
    def wants_item(self) -> bool:
        """Whether another item from the feed could be used now."""
        return not self.feed_ended and len(self.queue) < max(1, len(self._free))

    def released(self) -> list[ReplicaId]:
        """Forget, and return, the retired replicas that run nothing."""
        released = [replica for replica in self._retired if not self.running.get(replica)]
        for replica in released:
            self.lost(replica)
        return released

    @property
    def busy(self) -> bool:
        return bool(self._holders)

    @property
    def idle(self) -> bool:
        return not self.queue and not self.busy

    def _straggler(self, now: float) -> tuple[ReplicaId, Item] | None:
        """An idle replica, and the oldest item that runs late without a copy."""
        if not (self.feed_ended and self._took and self._free and self._alone):
            return None
        item, started = next(iter(self._alone.items()))
        if now - started <= max(self.least_seconds, self.patience * statistics.median(self._took)):
            return None
        idle = next((replica for replica in self._free if not self.running[replica]), None)
        return None if idle is None else (idle, item)

    def _since(self, item: Item) -> float:
        """Since when the only replica that holds the item runs it."""
        return self.running[next(iter(self._holders[item]))][item]

    def _emptiest(self) -> ReplicaId:
        """The free replica of the least load, of equal ones the first to report."""
        while True:
            report, replica = heapq.heappop(self._heap)
            if self._free.get(replica) == report:
                return replica
