"""asyncio, threading and concurrent.futures in a World: whoever waits, waits there, for its time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

from tests.faults.world import World

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Loop(asyncio.SelectorEventLoop):
    """An event loop of one process, whose time is the world's and whose executor is threads of the process."""

    def __init__(self, world: World) -> None:
        self.world, self.process = world, world.me.process
        super().__init__(_Selector(self))
        self.set_exception_handler(lambda *_: None)

    def time(self) -> float:
        return self.world.now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                settle = functools.partial(future.set_result, func(*args))
            except Exception as raised:
                settle = functools.partial(future.set_exception, raised)
            self.call_soon_threadsafe(lambda: None if future.cancelled() else settle())

        self.world.spawn(self.process, work)
        return future

    def live(self, work: Any) -> None:
        """Run until the work is done or the process is killed."""
        asyncio.set_event_loop(self)
        try:
            self.run_until_complete(work)
        finally:
            left = sorted(asyncio.all_tasks(self), key=lambda task: int(task.get_name().rpartition("-")[2]))  # as they began
            for task in left:
                task.cancel()
            self.process.dead = True
            with contextlib.suppress(BaseException):
                self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            asyncio.set_event_loop(None)
            self.close()

    def _write_to_self(self) -> None:
        return None


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if not self._loop.process.dead and (timeout is None or timeout > 0):
            self._loop.world.wait(lambda: bool(self._loop._ready), timeout)  # type: ignore[attr-defined]
        return []


class Event:
    """threading.Event in a world."""

    def __init__(self, world: World) -> None:
        self._world, self._set = world, False

    def set(self) -> None:
        self._set = True

    def wait(self, seconds: float) -> bool:
        self._world.wait(lambda: self._set, seconds)
        return self._set


class Thread:
    """threading.Thread in a world: of the process that makes it."""

    def __init__(self, world: World, target: Callable[[], None]) -> None:
        self._world, self._target, self._ended = world, target, False

    def start(self) -> None:
        self._world.spawn(self._world.me.process, self._run)

    def join(self) -> None:
        self._world.wait(lambda: self._ended)

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._ended = True


class SerialExecutor:
    """concurrent.futures.ThreadPoolExecutor, one call after the other."""

    def __init__(self, _: int) -> None: ...

    def __enter__(self) -> SerialExecutor:
        return self

    def __exit__(self, *_: object) -> None: ...

    map = staticmethod(map)
