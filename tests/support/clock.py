"""Time for tests of asyncio: a loop whose clock stands still while anything works and jumps when everything sleeps."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Loop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, for code without input and output other than in threads."""

    def __init__(self) -> None:
        self.now, self.working = 0.0, 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        self.working += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        self.working -= 1


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        jumps = timeout is not None and not self._loop.working
        ready = super().select(0 if jumps or timeout == 0 else None)
        if jumps and not ready:
            self._loop.now += timeout or 0.0
        return ready


def run(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on a Loop."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(work)
