"""Which replica runs which span next: a state machine without Ray, clocks or I/O.

The driver tells what came from the feed and what a pool reported (an Event), and asks `take` for the next assignment. Numbers
name replicas; an item is hashable, in a run the reference to a span's block. Items of a dead replica go to the front of the
queue.

Speed (speed.py): a slow replica gets no item that it would end after the job's end, as far as `rows_left` tells, and shortly
before the end others run copies of what it surely would. When the feed has ended and the queue is empty, an idle replica may run
a copy of any item that has run for `patience` times the median. The first copy to finish counts; there are never three.

Poison: an item whose deaths are too many (health.is_poison) is run carefully (replica/careful.py) from then on: alone on its
replica, which takes nothing beside it, and never twice at a time. A replica is kept free for it once it has run out of others."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from batchgen.cluster.policy.health import Kind, is_poison
from batchgen.cluster.policy.speed import LOOK, SLOW, Speeds
from batchgen.records import Receipt
from batchgen.replica.careful import Care

Item = TypeVar("Item", bound=Hashable)
ReplicaId = int
SURE = 2.0  # times as slow as its copier must a replica be for its items to be late before their patience is over


class Ready(NamedTuple):
    """The replica's engine has started. `engine`: its capacity (sequences) and workers (processes); `version`: of the engine's
    package on its node, empty where it has none."""

    replica: ReplicaId
    engine: dict[str, int]
    version: str = ""


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
    """The replica is gone; `message` is the cause, `kind` what it tells (health.kind_of), `where` its node, if that is known."""

    replica: ReplicaId
    message: str
    where: str = ""
    kind: Kind = "engine"


class Said(NamedTuple):
    """The last lines of the log of a replica that died."""

    replica: ReplicaId
    message: str


Event: TypeAlias = Ready | Capacity | Finished | BlockLost | Died | Said


class Dispatcher(Generic[Item]):
    """`patience`: how many medians an item runs before it is copied, and at least `least_seconds`. `name` begins the names of
    attempts at careful items: another one for each dispatcher of an output. `poison`: whether deaths of this weight are."""

    def __init__(
        self, patience: float = 3.0, least_seconds: float = 10.0, name: str = "", poison: Callable[[int], bool] = is_poison
    ) -> None:
        self.patience, self.least_seconds, self.name, self._poison = patience, least_seconds, name, poison
        self.feed_ended = False
        self.rows_left: float | None = None  # unfinished rows of the job, set by the driver; None: nobody is slow
        self.queue: OrderedDict[Item, None] = OrderedDict()  # finds and forgets an item at once, wherever it stands
        self.suspects: deque[Item] = deque()  # queued items that must be run carefully
        self.running: dict[ReplicaId, dict[Item, float]] = {}
        self.deaths: dict[Item, int] = {}  # by item, the weight of deaths while it ran
        self.speeds = Speeds()
        self._holders: dict[Item, set[ReplicaId]] = {}
        self._free: dict[ReplicaId, float] = {}  # replicas with capacity, and when each will have finished what it holds
        self._retired: set[ReplicaId] = set()
        self._ran: set[Item] = set()  # items that a lost replica had
        self._careful: dict[ReplicaId, Care] = {}  # of replicas that run a careful item
        self._blamed: dict[Item, dict[str, int]] = {}  # careful attempts by name, and the weight of their deaths
        self._attempts = 0
        self._looked = float("-inf")

    def enqueue(self, item: Item) -> None:
        self.queue[item] = None

    def end_feed(self) -> None:
        self.feed_ended = True

    def join(self, replica: ReplicaId) -> None:
        """Add a replica; it takes nothing before it reports capacity."""
        self.running[replica] = {}

    def has_capacity(self, replica: ReplicaId, load: float = 0.0, now: float | None = None) -> None:
        """The replica, with this `load` of unfinished rows, can take one more item. Ignored after it was lost or retired. Since
        `now` (seconds) the load has been shrinking at the replica's rate; None: it has not."""
        if replica in self.running and replica not in self._retired:
            self._free[replica] = load if now is None else now + load / self.speeds.rows_a_second(replica, now)

    def retire(self, replica: ReplicaId) -> None:
        """Give the replica nothing more; it finishes what it runs."""
        self._retired.add(replica)
        self._free.pop(replica, None)

    def lost(self, replica: ReplicaId, weight: int = 0) -> list[Item]:
        """Forget a dead replica; queue again, and return, the items that no other replica is running. `weight`: of its death
        against the items that it ran (health.WEIGHT)."""
        lost = self.running.pop(replica, {})
        care = self._careful.pop(replica, None)
        self._retired.discard(replica)
        self._free.pop(replica, None)
        self.speeds.lost(replica)
        for item in lost:
            self._holders[item].discard(replica)
            self._ran.add(item)
            if weight:
                self.deaths[item] = self.deaths.get(item, 0) + weight
            if weight and care is not None:
                self._blamed.setdefault(item, {})[care.attempt] = weight
        orphans = [item for item in lost if not self._holders[item]]
        for item in orphans:
            del self._holders[item]
        suspects = [item for item in orphans if self._poison(self.deaths.get(item, 0))]
        self.suspects.extend(suspects)
        for item in (item for item in reversed(orphans) if item not in suspects):
            self.queue[item] = None
            self.queue.move_to_end(item, last=False)
        return orphans

    def take(self, now: float) -> tuple[ReplicaId, Item] | None:
        """The next assignment, recorded as running since `now` (seconds); None if there is none."""
        found = (self._suspect() if self.suspects else None) or self._queued(now)
        if found is None and not self.queue:
            found = self._straggler(now)
        if found is None:
            return None
        replica, item = found
        del self._free[replica]
        self.running[replica][item] = now
        self._holders.setdefault(item, set()).add(replica)
        return found

    def care_of(self, replica: ReplicaId) -> Care | None:
        """How the item that the replica was just assigned is to be run; None: as any other."""
        return self._careful.get(replica)

    def finish(self, replica: ReplicaId, item: Item, now: float, rows: float = 1.0) -> bool:
        """The replica has finished the item, one of so many rows. False if another copy was first."""
        started = self.running.get(replica, {}).get(item)
        if started is not None and replica not in self._careful:
            self.speeds.finished(replica, now - started, rows, now)
        first = item in self._holders or item in self.queue or item in self.suspects
        self.drop(item)
        return first

    def drop(self, item: Item) -> None:
        """Forget the item: it is finished, or its block is lost and the driver feeds its span again."""
        for replica in self._holders.pop(item, ()):
            del self.running[replica][item]
            self._careful.pop(replica, None)
        self.queue.pop(item, None)
        if item in self.suspects:
            self.suspects.remove(item)

    def has_run_before(self, item: Item) -> bool:
        """Whether a replica other than the one that runs the item now has started it."""
        return item in self._ran or len(self._holders.get(item, ())) > 1

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
    def open_items(self) -> int:
        """Items that run, each once."""
        return len(self._holders)

    @property
    def busy(self) -> bool:
        return bool(self._holders)

    @property
    def idle(self) -> bool:
        return not self.queue and not self.suspects and not self.busy

    def pace(self, replica: ReplicaId, now: float) -> float:
        """The part of its share (admission.share) that the replica should hold: 1 when it is fast, 0 before that is known."""
        return self.speeds.pace(replica, now)

    def _suspect(self) -> tuple[ReplicaId, Item] | None:
        """An idle replica for the first careful item. None may be idle yet: see _kept."""
        idle = next((replica for replica in self._free if not self.running[replica]), None)
        if idle is None:
            return None
        item = self.suspects.popleft()
        self._attempts += 1
        self._careful[idle] = Care(f"{self.name}.{self._attempts}", tuple(self._blamed.get(item, {}).items()))
        return idle, item

    def _kept(self) -> ReplicaId | None:
        """The replica that gets no others until it can take a careful item: of those with capacity the one that runs least."""
        able = [replica for replica in self._free if replica not in self._careful] if self.suspects else []
        return min(able, key=lambda replica: len(self.running[replica]), default=None)

    def _queued(self, now: float) -> tuple[ReplicaId, Item] | None:
        """The replica that would be empty first, so that all end together. Shortly before the end, what slow ones are late with
        comes before the queue."""
        if not self._free or not self.queue:
            return None
        kept, fast = self._kept(), self.speeds.look(self.running, now)
        able = [replica for replica in self._free if replica != kept and replica not in self._careful]
        ends = self.speeds.ends(self.rows_left, len(self._holders), now) if self.rows_left is not None else None
        late = None
        if ends is not None and fast:
            able = [replica for replica in able if self._seconds(replica, now) <= max(ends, SLOW * fast)]
            if able and ends <= SLOW * fast and now - self._looked >= LOOK and (late := self._late(able, now)) is None:
                self._looked = now
        return late or ((min(able, key=self._free.__getitem__), self.queue.popitem(last=False)[0]) if able else None)

    def _seconds(self, replica: ReplicaId, now: float) -> float:
        return self.speeds.usual(replica, self.running[replica].values(), now)

    def _straggler(self, now: float) -> tuple[ReplicaId, Item] | None:
        """An idle replica, and an item that is late without a copy."""
        idle = [replica for replica in self._free if not self.running[replica]]
        if not idle or not self.feed_ended or (median := self.speeds.median()) is None:
            return None
        self.speeds.look(self.running, now)
        if self.rows_left is not None and (late := self._late(idle, now)):
            return late
        limit = max(self.least_seconds, self.patience * median)
        found: tuple[float, Item] | None = None
        for item, held in self._holders.items():  # in the order of their first assignment: a young one ends the search
            holder = next(iter(held))
            if len(held) > 1 or holder in self._careful:
                continue
            since = self.running[holder][item]
            if now - since > limit:
                found = min(found or (since, item), (since, item), key=lambda pair: pair[0])
            elif item not in self._ran:
                break
        return (idle[0], found[1]) if found else None

    def _late(self, able: list[ReplicaId], now: float) -> tuple[ReplicaId, Item] | None:
        """The fastest of these replicas, and the item of a slow one that would end last, if a copy is sure to be sooner."""
        copier = min(able, key=lambda replica: self._seconds(replica, now))
        seconds, found = self._seconds(copier, now), []
        for holder, items in self.running.items():
            usual = self._seconds(holder, now) if items and holder not in self._careful else 0.0
            if usual > SURE * seconds:
                rests = ((usual - (now - since), item) for item, since in items.items() if len(self._holders[item]) == 1)
                found += [(rest, item) for rest, item in rests if rest > seconds]
        return (copier, max(found, key=lambda pair: pair[0])[1]) if found else None
