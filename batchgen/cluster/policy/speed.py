"""How fast each replica is, measured by the items that it finished: pure, `now` in seconds of any one clock.

`usual` is the time that an item takes a replica from its assignment, waiting in the engine's queue included: what counts for the
end of a job. A replica that has finished nothing is as fast as the pool, until what it runs takes longer than that."""

import statistics
from collections import deque
from collections.abc import Collection, Iterable

NEWEST = 0.3  # weight of the last item in a replica's usual time
SLOW = 1.5  # times the time of a fast one, from which on a replica is slow
LEAST_ITEMS = 4  # of a replica whose rows a second are known
LOOK = 1.0  # seconds that what concerns all replicas is taken to stay the same


class Speeds:
    def __init__(self) -> None:
        self.took: deque[float] = deque(maxlen=64)
        self._usual: dict[int, float] = {}
        self._made: dict[int, tuple[float, float, int]] = {}  # since a replica's first item: when that was, rows, items
        self._finished: deque[tuple[float, float]] = deque(maxlen=16)  # when, and how many rows
        self._rows = 0.0
        self.fast, self.rate, self._looked = 0.0, 0.0, float("-inf")

    def finished(self, replica: int, seconds: float, rows: float, now: float) -> None:
        """The replica took so long for an item of so many rows."""
        self.took.append(seconds)
        known = self._usual.get(replica, seconds)
        self._usual[replica] = known + NEWEST * (seconds - known)
        first, made, items = self._made.get(replica, (now, -rows, 0))
        self._made[replica] = first, made + rows, items + 1
        if len(self._finished) == self._finished.maxlen:
            self._rows -= self._finished[0][1]
        self._finished.append((now, rows))
        self._rows += rows

    def lost(self, replica: int) -> None:
        self._usual.pop(replica, None)
        self._made.pop(replica, None)

    def watch(self, replicas: int) -> None:
        """Measure the pool over about an item of each replica."""
        if (most := max(16, replicas)) > 2 * (self._finished.maxlen or 0):
            self._finished = deque(self._finished, maxlen=most)

    def pace(self, replica: int, now: float) -> float:
        """Rows a second by those of a fast replica: 1 unless the replica is slow; 0 while either is not known."""
        rate = self._rate(replica, now)
        if not rate or not self.rate:
            return 0.0
        return rate / self.rate if SLOW * rate < self.rate else 1.0

    def rows_a_second(self, replica: int, now: float) -> float:
        """Of the replica, else of a fast one; 1 while nobody knows."""
        return self._rate(replica, now) or self.rate or 1.0

    def _rate(self, replica: int, now: float) -> float:
        first, rows, items = self._made.get(replica, (now, 0.0, 0))
        return rows / (now - first) if items >= LEAST_ITEMS and now > first else 0.0

    def median(self) -> float | None:
        return statistics.median(self.took) if self.took else None

    def usual(self, replica: int, running: Iterable[float], now: float) -> float:
        """Seconds that an item takes the replica; `running`: when those that it runs began, the oldest first. One that
        has finished nothing yet, for longer than a fast one takes, is taken to need SLOW times that."""
        if (known := self._usual.get(replica)) is not None:
            return known
        return max(self.fast, SLOW * (now - next(iter(running), now)))

    def look(self, pool: Collection[int], now: float) -> float:
        """The time of a fast replica: the lower quartile of those that are known."""
        if now - self._looked >= LOOK:
            self._looked = now
            self.watch(len(pool))
            known = sorted(self._usual[replica] for replica in pool if replica in self._usual)
            self.fast = known[(len(known) - 1) // 4] if known else 0.0
            rates = sorted(rate for replica in pool if (rate := self._rate(replica, now)))
            self.rate = rates[3 * len(rates) // 4] if rates else 0.0
        return self.fast

    def ends(self, rows: float, assigned: int, now: float) -> float | None:
        """Seconds until the pool is done with `rows`, those of the `assigned` items among them: until the last one is assigned,
        as it went lately, and a fast replica's time for it. None while nobody knows."""
        if len(self._finished) < 8 or not self._rows:
            return None
        each, seconds = self._rows / len(self._finished), max(1e-9, now - self._finished[0][0])
        return max(0.0, rows - each * assigned) * seconds / self._rows + self.fast
