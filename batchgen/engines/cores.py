"""The cores of a CPU build of vLLM, which binds its workers to some of them and leaves the rest of an engine to the kernel:
where that runs a scheduler on a worker's core, both wait. Linux; elsewhere nothing happens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Set


def keep_off_workers() -> Set[int]:
    """Keep this process, and those of its descendants that are bound to nothing, off the cores that the others are bound to. The
    cores that this process had before, for `run_on`; none where nothing was changed."""
    import psutil  # vLLM depends on it

    if not hasattr(os, "sched_getaffinity"):
        return frozenset()
    mine = os.sched_getaffinity(0)
    free, bound = [os.getpid()], set[int]()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() == psutil.STATUS_ZOMBIE:  # of an engine that died; it keeps its cores to the end
                continue
            cores = {core for thread in _threads(child.pid) for core in _cores(thread, mine)}
            bound |= cores
            if not cores:
                free.append(child.pid)
    if not bound or mine <= bound:
        return frozenset()
    for pid in free:
        run_on(pid, mine - bound)
    return mine


def run_on(pid: int, cores: Set[int]) -> None:
    """Let all threads of a process, and what they start from now on, run on these cores only."""
    for thread in _threads(pid):
        with contextlib.suppress(OSError):  # it has ended, or a sandbox forbids the call: an engine runs without it
            os.sched_setaffinity(thread, cores)


def _threads(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from map(int, os.listdir(f"/proc/{pid}/task"))


def _cores(thread: int, mine: Set[int]) -> Set[int]:
    """Those that a thread is bound to; none where it has all of `mine`."""
    with contextlib.suppress(ProcessLookupError):
        if (cores := os.sched_getaffinity(thread)) != mine:
            return cores
    return frozenset()
