"""A world in which one thread runs at a time, and a seed says which.

Processes are groups of threads; one that is killed runs no further than its next point. Time is the world's own: it passes
at points, and jumps when everybody sleeps.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


class Killed(BaseException):
    """Raised at the points of a process that is no more."""


NEVER, DOOMSDAY = 1e9, 1e6


@dataclass(eq=False)
class Process:
    """A group of threads that live, stop and die together."""

    name: str
    number: int
    dead: bool = False
    stopped_until: float = 0.0


@dataclass(eq=False)
class Thread:
    process: Process
    call: Callable[[], object]
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    until: float = 0.0
    """When it wakes, unless `ready` says so before."""
    ready: Callable[[], bool] | None = None


class World:
    """Runs threads one at a time. `dice` decides everything that is not decided by the code that runs."""

    def __init__(self, seed: int) -> None:
        self.seed, self.dice = seed, random.Random(seed)
        self.now = 1.0
        self.failures = 0.0
        """How likely whatever can fail is to fail."""
        self.fired: Counter[str] = Counter()
        """The faults that have come about."""
        self.risk = 0.0
        """How many faults were to be expected so far."""
        self._threads: list[Thread] = []
        self._of: dict[int, Thread] = {}
        self._numbers = itertools.count(1)
        self._over = threading.Semaphore(0)
        self._failed: BaseException | None = None

    def process(self, name: str) -> Process:
        return Process(name, next(self._numbers))

    def spawn(self, process: Process, call: Callable[[], object]) -> Thread:
        thread = Thread(process, call)
        self._threads.append(thread)
        threading.Thread(target=self._live, args=(thread,), name=process.name, daemon=True).start()
        return thread

    def run(self) -> None:
        """Until every thread has ended. Raises what a thread raised, apart from Killed."""
        self._pass_on()
        self._over.acquire()
        if self._failed is not None:
            raise self._failed

    def fails(self, fault: str, share: float = 1.0) -> bool:
        """Whether the fault comes about now."""
        self.risk += self.failures * share
        if self.dice.random() >= self.failures * share:
            return False
        self.fired[fault] += 1
        return True

    @property
    def me(self) -> Thread:
        return self._of[threading.get_ident()]

    def point(self) -> None:
        """Anything may happen here, before the thread goes on."""
        self.wait(None, 0.0 if self.me.process.dead else self.dice.choice((0.0, 0.0, 0.001, 0.01, 0.1)))

    def lives(self, number: int) -> bool:
        """Whether the process of this number has a thread left."""
        return any(thread.process.number == number and not thread.process.dead for thread in self._threads)

    def sleep(self, seconds: float) -> None:
        self.wait(lambda: False, seconds)

    def wait(self, ready: Callable[[], bool] | None, seconds: float | None = None) -> None:
        """Until `ready` (None: at once), at most `seconds`. Raises Killed in a process that was killed."""
        thread = self.me
        if not thread.process.dead:
            if ready is None:
                self.now += seconds or 0.0
            thread.ready, thread.until = ready, NEVER if seconds is None or ready is None else self.now + max(0.0, seconds)
            self._pass_on(thread)
        if thread.process.dead:
            raise Killed

    def _live(self, thread: Thread) -> None:
        thread.turn.acquire()
        self._of[threading.get_ident()] = thread
        try:
            if not thread.process.dead:
                thread.call()
        except Killed:
            pass
        except BaseException as error:
            self._fail(error)
        del self._of[threading.get_ident()]
        self._threads.remove(thread)
        self._pass_on()

    def _fail(self, error: BaseException) -> None:
        self._failed = self._failed or error
        for thread in self._threads:
            thread.process.dead = True

    def _pass_on(self, thread: Thread | None = None) -> None:
        """Let another thread run, which may be this one."""
        if not self._threads:
            self._over.release()
            return
        chosen = self._choose()
        if chosen is thread:
            return
        chosen.turn.release()
        if thread is not None:
            thread.turn.acquire()

    def _choose(self) -> Thread:
        while not (able := [thread for thread in self._threads if self._able(thread)]):
            self.now = min(max(t.process.stopped_until, t.until if t.ready and not t.ready() else 0.0) for t in self._threads)
            if self.now >= DOOMSDAY:
                self._fail(AssertionError(f"no end of {[thread.process.name for thread in self._threads]}"))
        return self.dice.choice(able)

    def _able(self, thread: Thread) -> bool:
        if thread.process.dead:
            return True
        if thread.process.stopped_until > self.now:
            return False
        return thread.ready is None or thread.until <= self.now or thread.ready()
