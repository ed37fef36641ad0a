"""An engine that outlives its deaths.

An engine that dies, or gives no sign of life for `watchdog` seconds, is replaced by a new one. The prompts that were in it become
suspects: they run before all other prompts and apart from them, in groups of a SPLIT-th. A group that kills the engine is split
again and goes last; a prompt that kills it alone ends as `engine_crash`. One poisonous prompt among n costs about
1 + log(n) / log(SPLIT) restarts, and no other row."""

import asyncio
import contextlib
import dataclasses
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from batchgen import logs
from batchgen.engines.base import Engine, PoolingEngine, PoolingRequest, Request
from batchgen.errors import BadRow, EngineError
from batchgen.records import Answer, Pooled

_LOG = logs.logger("engine")
SPLIT = 8
MOST_DEATHS = 10  # deaths without an answer between them after which the engine is given up
GUILTY = "the engine died of this prompt, and again when the prompt was alone in it"
Asked = TypeVar("Asked", Request, PoolingRequest)
Said = TypeVar("Said")


class RestartingEngine:
    """The Engine protocol over the engines that `make` makes, one after the other. `watchdog` is in seconds; `row_seconds` bounds
    the time of a prompt in the engine, queueing there included."""

    def __init__(self, make: Callable[[], Engine], watchdog: float, row_seconds: float | None) -> None:
        self._make, self._watchdog, self._row_seconds = make, watchdog, row_seconds
        self._engine = make()
        self.capacity = self.workers = self.restarts = self._deaths = 0
        self.causes: list[str] = []
        """What engines died of, with the ends of their logs, until somebody takes it."""
        self._up = False
        self._given_up: EngineError | None = None
        self._inside: dict[str, asyncio.Timeout] = {}
        """The prompts in the engine, by the names that they came with, in the order in which they entered; their time limits."""
        self._suspects: deque[list[str]] = deque()
        """Groups of suspects: the first may enter the engine, the others wait. Other prompts wait until there are none."""
        self._guilty: set[str] = set()
        self._change = asyncio.Event()  # set, and replaced by another, when prompts that wait may enter, or never will
        self._tasks: list[asyncio.Task[None]] = []  # asyncio itself holds no reference to them

    async def start(self) -> None:
        await self._engine.start()
        self.capacity, self.workers = self._engine.capacity, self._engine.workers
        self._up = True
        self._tasks = [asyncio.create_task(self._watch())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._engine.stop()

    async def probe(self) -> None:
        await self._engine.probe()

    async def generate(self, request: Request) -> list[Answer]:
        """As Engine.generate; raises BadRow for `engine_crash` and `timeout` too, EngineError when the engine is given up."""
        return await self._guarded(request, lambda engine, one: engine.generate(one))

    async def pool(self, request: PoolingRequest) -> Pooled:
        """As PoolingEngine.pool, raises as `generate`. The engines that `make` makes must have the method."""
        return await self._guarded(request, lambda engine, one: cast(PoolingEngine, engine).pool(one))

    async def _guarded(self, request: Asked, ask: Callable[[Engine, Asked], Awaitable[Said]]) -> Said:
        name = request.name
        try:
            while name not in self._guilty:
                if self._given_up is not None:
                    raise self._given_up
                if not self._up or (self._suspects and name not in self._suspects[0]):
                    await self._change.wait()
                elif (said := await self._attempt(name, request, ask)) is not None:
                    self._deaths = 0
                    return said
                else:
                    request = dataclasses.replace(request, name=f"{request.name}'")  # another than in the dead engine
            raise BadRow("engine_crash", GUILTY)
        finally:
            self._guilty.discard(name)
            for group in self._suspects:
                if name in group:
                    group.remove(name)
            if self._suspects and not self._suspects[0]:
                self._admit()

    async def _attempt(self, name: str, request: Asked, ask: Callable[[Engine, Asked], Awaitable[Said]]) -> Said | None:
        """What the engine says; None when it died first. Raises BadRow when it refuses the prompt or the time is over."""
        engine = self._engine
        try:
            async with asyncio.timeout(self._row_seconds) as time:
                self._inside[name] = time
                try:
                    return await ask(engine, request)
                except EngineError as error:
                    self._died(engine, error)
        except TimeoutError:
            if not time.expired():
                raise  # the engine's own
            if self._lives(engine):
                raise BadRow("timeout", f"no answer within limits.row_seconds ({self._row_seconds:g})") from None
        finally:
            self._inside.pop(name, None)
        return None

    def _lives(self, engine: Engine) -> bool:
        return self._up and engine is self._engine

    def _admit(self) -> None:
        """Let the next group of suspects enter, or all other prompts when there is none."""
        while self._suspects and not self._suspects[0]:
            self._suspects.popleft()
        self._change.set()
        self._change = asyncio.Event()

    def _died(self, engine: Engine, error: EngineError) -> None:
        """Make suspects of the prompts in a dead engine, and begin to start another."""
        if not self._lives(engine):
            return
        self.causes.append(f"{error}{logs.tail(logs.own_file())}")
        _LOG.warning("the engine died with %d prompts in it: %s", len(self._inside), error)
        self._up = False
        self._deaths += 1
        now = asyncio.get_running_loop().time()
        for time in self._inside.values():
            if not time.expired():
                time.reschedule(now)
        inside, self._inside = list(self._inside), {}
        group = self._suspects.popleft() if self._suspects else []
        if len(group) == 1 and inside == group:
            self._guilty.update(group)
            self._deaths = 0
        else:
            suspects = inside + [name for name in group if name not in inside]
            size = math.ceil(len(suspects) / SPLIT) or 1
            self._suspects.extend(suspects[low : low + size] for low in range(0, len(suspects), size))
        self._tasks.append(asyncio.create_task(self._restart(error)))

    async def _restart(self, error: EngineError) -> None:
        with contextlib.suppress(Exception):  # a dead engine may fail to stop
            await self._engine.stop()
        try:
            if self._deaths >= MOST_DEATHS:
                raise EngineError(f"the engine died {self._deaths} times without an answer: {error}")
            self._engine = self._make()
            await self._engine.start()
        except Exception as failure:  # whatever it is, the prompts that wait must hear of it
            self._given_up = EngineError(f"{_engine_error(failure)}{logs.tail(logs.own_file())}")
            _LOG.error("the engine is given up: %s", failure)
        else:
            self.restarts += 1
            self._up = True
            _LOG.info("the engine is up again; %d groups of prompts are suspects", len(self._suspects))
        self._admit()

    async def _watch(self) -> None:
        """Ask an engine with prompts in it for a sign of life, now and then."""
        while True:
            await asyncio.sleep(min(10.0, self._watchdog / 4))
            engine = self._engine
            try:
                if self._up and self._inside:
                    await asyncio.wait_for(engine.probe(), self._watchdog)
            except TimeoutError:
                self._died(engine, EngineError(f"the engine gave no sign of life for {self._watchdog:g} s"))
            except Exception as failure:  # an engine that cannot say that it works does not
                self._died(engine, _engine_error(failure))


def _engine_error(error: Exception) -> EngineError:
    return error if isinstance(error, EngineError) else EngineError(f"{type(error).__name__}: {error}")
