"""A limit on the time of other people's programs, which run in this process."""

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

LOOK_SECONDS = 0.25
T = TypeVar("T")


class _TimeUp(BaseException):
    """Not an Exception, so that the template does not catch it."""


@dataclass(eq=False)
class _Call:
    thread: int
    deadline: float
    again: bool = False
    fired: bool = False


class _Watcher:
    """A thread that looks at the running calls now and then and raises _TimeUp inside one that is over its time. That ends loops
    of Python; one long operation in C ends first. The thread starts with the first call, and waits while there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()
        self._thread: threading.Thread | None = None
        self._not_empty = threading.Event()

    def add(self, call: _Call) -> None:
        with self._lock:
            self._calls.add(call)
            if self._thread is None or not self._thread.is_alive():  # a forked process has no thread of its parent
                self._thread = threading.Thread(target=self._watch, name="time-limit", daemon=True)
                self._thread.start()
        self._not_empty.set()

    def remove(self, call: _Call) -> None:
        """After this the call is not fired any more."""
        with self._lock:
            self._calls.discard(call)

    def _watch(self) -> None:
        while True:
            self._not_empty.wait()
            time.sleep(LOOK_SECONDS)
            with self._lock:
                now = time.monotonic()
                for call in [call for call in self._calls if now > call.deadline]:
                    if not call.again:
                        self._calls.remove(call)
                    call.fired = True
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(call.thread), ctypes.py_object(_TimeUp))
                if not self._calls:
                    self._not_empty.clear()


_WATCHER = _Watcher()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError when the body, which must not nest another limit, takes longer than this (by LOOK_SECONDS)."""
    call = _Call(threading.get_ident(), time.monotonic() + seconds)
    raised = False
    _WATCHER.add(call)
    try:
        try:
            yield
        except _TimeUp:
            raised = True
            raise
        finally:
            _WATCHER.remove(call)
            while call.fired and not raised:  # _TimeUp is under way: it comes at one of the next instructions
                time.sleep(LOOK_SECONDS)
    except _TimeUp:
        raise TimeoutError from None


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns. Raises TimeoutError when it takes longer than this (by LOOK_SECONDS), also where it swallows what ends
    it: a generator that is closed does, so that _TimeUp is raised until it arrives."""
    call = _Call(threading.get_ident(), time.monotonic() + seconds, again=True)
    try:
        try:
            _WATCHER.add(call)
            made = work()
        finally:
            _WATCHER.remove(call)
        time.sleep(0)  # a _TimeUp that is under way comes here
    except _TimeUp:
        raise TimeoutError from None
    return made
