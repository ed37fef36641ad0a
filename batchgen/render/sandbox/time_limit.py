"""A cap on the time of Python code that is not ours: chat templates.

A thread of this process looks at the running calls now and then and raises TimeUp inside one that is over its time. That
ends loops of Python; one long operation in C ends first.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator

LOOK_SECONDS = 0.25


class TimeUp(BaseException):
    """Not an Exception, so that the capped code does not catch it."""


class _Watch:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, float] = {}
        self._fired: set[int] = set()
        self._thread: threading.Thread | None = None
        self._something = threading.Event()

    def enter(self, seconds: float) -> None:
        with self._lock:
            self._fired.discard(threading.get_ident())
            self._running[threading.get_ident()] = time.monotonic() + seconds
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._look, name="timecap", daemon=True)
                self._thread.start()
        self._something.set()

    def leave(self) -> bool:
        """Whether TimeUp was raised in this thread, or is about to be."""
        with self._lock:
            self._running.pop(threading.get_ident(), None)
            fired = threading.get_ident() in self._fired
            self._fired.discard(threading.get_ident())
        return fired

    def _look(self) -> None:
        while True:
            self._something.wait()
            time.sleep(LOOK_SECONDS)
            with self._lock:
                now = time.monotonic()
                late = [thread for thread, deadline in self._running.items() if now > deadline]
                for thread in late:
                    del self._running[thread]
                    self._fired.add(thread)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeUp))
                if not self._running:
                    self._something.clear()


_WATCH = _Watch()


@contextlib.contextmanager
def time_cap(seconds: float) -> Iterator[None]:
    """Raises TimeoutError when the body, which must not nest another cap, takes longer than this (by LOOK_SECONDS)."""
    _WATCH.enter(seconds)
    arrived = False
    try:
        try:
            yield
        except TimeUp:
            arrived = True
            raise
        finally:
            while _WATCH.leave() and not arrived:  # it comes at one of the next instructions
                time.sleep(10 * LOOK_SECONDS)
    except TimeUp:
        raise TimeoutError from None
