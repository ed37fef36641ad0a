"""An engine that outlives its deaths.

When the engine dies, or gives no sign of life for `watchdog` seconds, it is started again. The prompts that were in it
are suspects: they run before any other prompt and apart from it, in groups of a SPLIT-th of those that were in the
engine together. A group that kills the engine is split again and goes last; a prompt that kills it alone ends as
`engine_crash`. One poisonous prompt among n costs about 1 + log(n) / log(SPLIT) restarts, and no other row.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from batchgen.engines.base import Engine, Request
from batchgen.errors import BadRow, EngineError
from batchgen.records import Answer

SPLIT = 8
MOST_DEATHS = 10
"""Deaths without an answer between them after which the engine is given up."""
GUILTY = "the engine died of this prompt, and again when the prompt was alone in it"


@dataclass(eq=False)
class _Visit:
    """A prompt in the engine or on its way there."""

    task: asyncio.Task[Any]
    began: float = 0.0
    turn: asyncio.Event | None = None
    """Of a suspect: set when its group may enter."""
    taken_out: BadRow | EngineError | None = None
    """Why it had to leave the engine without an answer."""
    guilty: bool = False
    gone: bool = False


class Guard:
    """The Engine protocol over the engines that `make` makes, one after the other.

    `watchdog` and `row_seconds` are seconds; the latter bounds a prompt's time in the engine, its wait there included.
    """

    def __init__(self, make: Callable[[], Engine], watchdog: float, row_seconds: float | None) -> None:
        self._make, self._watchdog, self._row_seconds = make, watchdog, row_seconds
        self._engine = make()
        self.capacity = self.workers = self.restarts = 0
        self._inside: set[_Visit] = set()
        self._groups: deque[list[_Visit]] = deque()
        self._group: set[_Visit] = set()
        self._open = asyncio.Event()
        """Set while prompts that are no suspects may enter."""
        self._up = False
        self._given_up: EngineError | None = None
        self._deaths = 0
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def start(self) -> None:
        await self._engine.start()
        self.capacity, self.workers = self._engine.capacity, self._engine.workers
        self._up = True
        self._open.set()
        self._spawn(self._watch_rows())
        self._spawn(self._watch_engine())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._engine.stop()

    async def generate(self, request: Request) -> list[Answer]:
        """As Engine.generate; raises BadRow for `engine_crash` and `timeout` too, EngineError when the engine is given up."""
        task = asyncio.current_task()
        assert task is not None
        visit = _Visit(task)
        try:
            while True:
                await self._admission(visit)
                visit.began, visit.taken_out = asyncio.get_running_loop().time(), None
                self._inside.add(visit)
                try:
                    outputs = await self._engine.generate(request)
                    self._deaths = 0
                    return outputs
                except (EngineError, asyncio.CancelledError) as error:
                    if visit.taken_out is None and isinstance(error, EngineError):
                        self._died(error)
                    elif visit.taken_out is None or (task.cancelling() and task.uncancel()):
                        raise  # somebody else cancelled it
                if isinstance(visit.taken_out, BadRow):
                    raise visit.taken_out
                request = replace(request, name=request.name + "'")  # the dead engine may still hold the name
        finally:
            self._leave(visit)

    async def probe(self) -> None:
        await self._engine.probe()

    async def _admission(self, visit: _Visit) -> None:
        """Wait for the turn of a suspect's group; for the end of all suspects otherwise."""
        turn = None
        while visit.turn is not turn:
            turn = visit.turn
            assert turn is not None
            await turn.wait()
        if visit.guilty:
            raise BadRow("engine_crash", GUILTY)
        while visit.turn is None and not self._open.is_set():
            await self._open.wait()
        if self._given_up is not None:
            raise self._given_up

    def _leave(self, visit: _Visit) -> None:
        visit.gone = True
        self._inside.discard(visit)
        if visit.turn is not None:
            self._group.discard(visit)
            self._next_group()

    def _next_group(self) -> None:
        while self._up and not self._group:
            if not self._groups:
                self._open.set()
                return
            self._group = {visit for visit in self._groups.popleft() if not visit.gone}
            for visit in self._group:
                _let_in(visit)

    def _died(self, error: EngineError) -> None:
        """Take everything out of the dead engine and begin to start another."""
        if not self._up:
            return
        self._up = False
        self._open.clear()
        suspects = sorted(self._inside | self._group, key=lambda visit: visit.began)
        alone = len(suspects) == 1 and suspects[0].turn is not None
        for visit in self._inside:
            if visit.taken_out is None:
                visit.taken_out = error
                if visit.task is not asyncio.current_task():
                    visit.task.cancel()
        self._inside.clear()
        self._group.clear()
        self._deaths += 1
        for visit in suspects:
            visit.turn = asyncio.Event()
        if alone:
            self._deaths, suspects[0].guilty = 0, True
            _let_in(suspects[0])
        else:
            size = max(1, -(-len(suspects) // SPLIT))
            self._groups.extend(suspects[low : low + size] for low in range(0, len(suspects), size))
        self._spawn(self._restart(error))

    async def _restart(self, error: EngineError) -> None:
        with contextlib.suppress(Exception):  # what is dead may not know how to stop
            await self._engine.stop()
        try:
            if self._deaths >= MOST_DEATHS:
                raise EngineError(f"the engine died {self._deaths} times without an answer: {error}")
            self._engine = self._make()
            await self._engine.start()
        except Exception as final:  # whatever it is, the prompts that wait must hear of it
            self._given_up = final if isinstance(final, EngineError) else EngineError(f"{type(final).__name__}: {final}")
            self._open.set()
            for visit in [visit for group in self._groups for visit in group]:
                _let_in(visit)
            return
        self.restarts += 1
        self._up = True
        self._next_group()

    async def _watch_rows(self) -> None:
        while self._row_seconds is not None:
            await asyncio.sleep(min(1.0, self._row_seconds / 4))
            latest = asyncio.get_running_loop().time() - self._row_seconds
            for visit in self._inside:
                if visit.began < latest and visit.taken_out is None:
                    visit.taken_out = BadRow("timeout", f"no answer within limits.row_seconds ({self._row_seconds:g})")
                    visit.task.cancel()

    async def _watch_engine(self) -> None:
        while True:
            await asyncio.sleep(min(10.0, self._watchdog / 4))
            engine = self._engine
            if not self._up or not self._inside:
                continue
            try:
                await asyncio.wait_for(engine.probe(), self._watchdog)
            except TimeoutError:
                error = EngineError(f"the engine gave no sign of life for {self._watchdog:g} s")
            except Exception as dead:  # an engine that cannot say that it works does not
                error = dead if isinstance(dead, EngineError) else EngineError(f"{type(dead).__name__}: {dead}")
            else:
                continue
            if engine is self._engine:
                self._died(error)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = None  # asyncio itself holds no reference
        task.add_done_callback(lambda done: self._tasks.pop(done, None))


def _let_in(visit: _Visit) -> None:
    assert visit.turn is not None
    visit.turn.set()
