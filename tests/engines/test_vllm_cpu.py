"""vllm_cpu.py, on processes of this machine: what keeps its memory, what is bound, what is moved off, and what gets its cores
back."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from batchgen.engines import vllm_cpu


def installed(folder: Path, name: str, version: str) -> None:
    """Metadata of a package, as of an installed one."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("packages", "on_cpu"),
    [
        ({}, False),
        ({"vllm": "0.32.0"}, False),
        ({"vllm": "0.32.0+cpu"}, True),
        ({"vllm-cpu": "0.32.0"}, True),
    ],
)
def test_options_are_changed_for_a_cpu_build_only(
    packages: dict[str, str], on_cpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in packages.items():
        installed(tmp_path, name, version)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert vllm_cpu.runs_on_cpu() == on_cpu
    monkeypatch.setattr(vllm_cpu, "multiplies_bfloat16", lambda: True)
    changed = vllm_cpu.arguments({"max_loras": 2, "seed": 1}, adapters=2)
    assert changed == ({"max_loras": 3, "seed": 1, "enable_chunked_prefill": False} if on_cpu else {"max_loras": 2, "seed": 1})
    assert vllm_cpu.arguments({"enable_chunked_prefill": True}, adapters=0) == {"enable_chunked_prefill": True}
    monkeypatch.setattr(vllm_cpu, "multiplies_bfloat16", lambda: False)
    assert vllm_cpu.arguments({}, adapters=0).get("dtype") == ("float32" if on_cpu else None)
    assert vllm_cpu.arguments({"dtype": "bfloat16"}, adapters=0)["dtype"] == "bfloat16"


two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="two cores that processes can be bound to"
)
FAMILY: set[int] = set()
LAYERS = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def layer():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensor = libc.malloc(40 << 20)
    ctypes.memset(tensor, 1, 40 << 20)
    libc.free(tensor)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(*(layer() for _ in range(5)))
"""
CHILD = """
import os, sys, threading
bind, ready = [int(word) for word in sys.argv[1:]], threading.Semaphore(0)

def bound():
    if bind:
        os.sched_setaffinity(0, bind)
    ready.release()
    threading.Event().wait()

threading.Thread(target=bound, daemon=True).start()
ready.acquire()
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def child(*bind: int) -> Iterator[int]:
    """A process with a second thread, bound to these cores."""
    command = [sys.executable, "-c", CHILD, *map(str, bind)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        FAMILY.add(process.pid)
        yield process.pid
        process.stdin.close()
        FAMILY.discard(process.pid)


def of_threads(pid: int) -> set[frozenset[int]]:
    return {frozenset(os.sched_getaffinity(int(thread))) for thread in os.listdir(f"/proc/{pid}/task")}


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Iterator[frozenset[int]]:
    """This process's cores; it has a thread besides the main one, and its cores again afterwards. It has no children but those of
    the test."""
    children = psutil.Process.children
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **how: [p for p in children(*_, **how) if p.pid in FAMILY])
    had, end = frozenset(os.sched_getaffinity(0)), threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    yield had
    vllm_cpu.run_on(os.getpid(), had)
    end.set()
    other.join()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ({}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2_Usable"}, True),
    ],
)
def test_what_a_layer_frees_the_next_one_has(own: dict[str, str], kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that comes from the kernel is a fault; where the user has set the allocator up, it stays as it is."""
    for name in (*vllm_cpu.KEPT_BYTES, "GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    vllm_cpu.keep_freed_memory()
    done = subprocess.run([sys.executable, "-c", LAYERS], capture_output=True, text=True, check=True)
    first, *later = map(int, done.stdout.split())
    pages = (40 << 20) // os.sysconf("SC_PAGESIZE")
    assert first > pages * 0.99
    assert [faults < pages / 100 for faults in later] == [kept] * 4


@two_cores
def test_an_engine_keeps_off_the_cores_of_its_workers_and_gets_them_back(mine: frozenset[int]) -> None:
    first, rest = min(mine), mine - {min(mine)}
    with child() as scheduler, child(first) as worker:
        of_worker = of_threads(worker)
        assert vllm_cpu.keep_off_workers() == mine
        assert of_threads(os.getpid()) == of_threads(scheduler) == {rest}
        assert of_threads(worker) == of_worker == {mine, frozenset({first})}, "a process that has bound one thread is left alone"
    vllm_cpu.run_on(os.getpid(), mine)
    with child() as next_one:
        assert of_threads(os.getpid()) == of_threads(next_one) == {mine}


@two_cores
def test_nothing_changes_where_nothing_is_bound_or_no_core_would_be_left(mine: frozenset[int]) -> None:
    before = of_threads(os.getpid())
    with child() as scheduler:
        assert not vllm_cpu.keep_off_workers()
        with contextlib.ExitStack() as workers:
            for core in mine:
                workers.enter_context(child(core))
            assert not vllm_cpu.keep_off_workers()
        assert of_threads(os.getpid()) == before
        assert of_threads(scheduler) == {mine}


@two_cores
def test_what_an_engine_that_died_was_bound_to_is_free(mine: frozenset[int]) -> None:
    first, last = min(mine), max(mine)
    with child(last) as dead, child(first):
        os.kill(dead, signal.SIGKILL)
        while psutil.Process(dead).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert vllm_cpu.keep_off_workers() == mine
        assert of_threads(os.getpid()) == {mine - {first}}


@two_cores
def test_a_process_that_has_ended_is_no_error() -> None:
    with child() as gone:
        pass
    before = of_threads(os.getpid())
    vllm_cpu.run_on(gone, os.sched_getaffinity(0))
    assert of_threads(os.getpid()) == before


@two_cores
def test_where_a_sandbox_forbids_it_an_engine_starts_all_the_same(mine: frozenset[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    with child(min(mine)):
        monkeypatch.setattr(os, "sched_setaffinity", forbidden)
        vllm_cpu.keep_off_workers()
        assert of_threads(os.getpid()) == {mine}
        monkeypatch.undo()
