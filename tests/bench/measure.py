"""One command and all the processes it starts: seconds, CPU seconds, peak memory, and vLLM's stamps."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAMPS = Path(__file__).parent / "stamps"
TICK = os.sysconf("SC_CLK_TCK")
ENGINE = ("EngineCore", "VLLM::Worker", "VllmWorker", "multiprocessing.spawn")
PR_SET_CHILD_SUBREAPER = 36
RUN = """
import json, resource, sys, time
from batchgen import run
began = time.monotonic()
status = run(json.loads(sys.argv[1]), quiet=True)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": time.monotonic() - began, "driver_peak_mb": peak, **status}))
"""


def cpu_dtype() -> str:
    """What this processor multiplies fastest: bfloat16 where it has instructions for it, else float32 (Linux, x86 and Arm)."""
    words = set(Path("/proc/cpuinfo").read_text().split())
    return "bfloat16" if words & {"avx512_bf16", "amx_bf16", "bf16"} else "float32"


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """A job in a driver of its own: its status, `seconds`, and `driver_peak_mb` of that process."""
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(job)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@dataclass
class Measured:
    """Seconds unless said otherwise. `generating`: first row into an engine to last row out of one. `startup`: start of
    the process to first row in. `cpu_outside`: CPU of all processes but the engine cores. `cpu_startup`: CPU before the
    first row, without engine cores and without the processes that hold vLLM's front end."""

    whole: float
    generating: float
    startup: float
    peak_mb: float
    cpu_outside: float
    cpu_engine: float
    cpu_startup: float
    requests: int
    tokens: int
    cached: int
    steps: int
    ends: list[float] = field(default_factory=list)
    """When each engine finished its last row, after the first row of all."""
    starts: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """How long each worker of a CPU build executed steps; other builds' do not say it."""
    committing: float = 0.0
    """CPU seconds that batchgen's replicas spent on parts, journal files and checksums."""
    processes: dict[str, list[float]] = field(default_factory=dict)
    """CPU seconds before the first row and in all, by kind of process."""

    @property
    def idle(self) -> float:
        """Seconds of the generating phase in which a worker executed no step, the mean of the workers: what is left of it is the
        machine's and the model's."""
        return self.generating - sum(self.busy) / len(self.busy)


class _Watch(threading.Thread):
    """Samples the process tree: CPU by process every second, proportional memory every five."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root, self.stopped = root, threading.Event()
        self.samples: list[tuple[float, dict[int, float]]] = []
        self.engines: set[int] = set()
        self.seen: dict[int, float] = {}
        self.names: dict[int, str] = {}
        self.peak = 0.0
        self.earlier = {pid: _cpu(pid) for pid in tree(root)}

    def run(self) -> None:
        turn = 0
        while not self.stopped.wait(1.0):
            pids = tree(self.root)
            for pid in pids:
                self._look(pid)
            self.samples.append((time.time(), dict(self.seen)))
            if turn % 5 == 0:
                self.peak = max(self.peak, sum(_proportional_mb(pid) for pid in pids))
            turn += 1

    def _look(self, pid: int) -> None:
        try:
            cpu = _cpu(pid)
            name = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            return
        self.seen[pid] = cpu - self.earlier.get(pid, 0.0)
        self.names[pid] = name[:160] or self.names.get(pid, "")  # a zombie has no name
        if any(mark in name for mark in ENGINE):
            self.engines.add(pid)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def tree(root: int) -> list[int]:
    """The processes below this one that `root` started; this process is their subreaper."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, mine = [], os.getpid()
    for pid in parents:
        at = pid
        while at in parents and at != mine:
            at = parents[at]
        if at == mine and pid != mine:
            found.append(pid)
    return found


def _proportional_mb(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def measure(
    command: list[str],
    env: dict[str, str],
    log: Path,
    timeout: float,
    before: Callable[[dict[str, str]], dict[str, str]] = lambda env: {},
) -> Measured:
    """Run the command to its end. `before` starts, unmeasured, what the command needs in the same environment, and says what
    to add to it. Raises RuntimeError with the end of the log when the command fails."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as stamps, open(log, "wb") as out:
        path = os.pathsep.join([str(STAMPS), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, **env, "PYTHONPATH": path, "BENCH_STAMPS": stamps}
        try:
            env |= before(env)
        except BaseException:
            _reap()  # or what it started is there in the next run
            raise
        began = time.time()
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
        watch = _Watch(process.pid)
        watch.start()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = -1
        whole = time.time() - began
        watch.stopped.set()
        watch.join()
        _reap()
        found, busy = _stamps(Path(stamps)), _busy(Path(stamps))
        if code or not found:
            tail = log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"exit code {code}, {len(found)} stamps:\n{tail}")
    first, last = min(s[0] for s in found.values()), max(s[1] for s in found.values())
    before = max((s for s in watch.samples if s[0] <= first), default=(began, {}), key=lambda s: s[0])[1]
    fronts = set(found)
    return Measured(
        whole=whole,
        generating=last - first,
        startup=first - began,
        peak_mb=watch.peak,
        cpu_outside=sum(cpu for pid, cpu in watch.seen.items() if pid not in watch.engines),
        cpu_engine=sum(cpu for pid, cpu in watch.seen.items() if pid in watch.engines),
        cpu_startup=sum(cpu for pid, cpu in before.items() if pid not in watch.engines | fronts),
        requests=int(sum(s[3] for s in found.values())),
        tokens=int(sum(s[4] for s in found.values())),
        cached=int(sum(s[5] for s in found.values())),
        steps=int(sum(s[6] for s in found.values())),
        ends=sorted(s[1] - first for s in found.values()),
        starts=sorted(s[0] - first for s in found.values()),
        busy=busy,
        processes=_by_kind(watch, before),
    )


def _by_kind(watch: _Watch, before: dict[int, float]) -> dict[str, list[float]]:
    kinds: dict[str, list[float]] = {}
    for pid, cpu in watch.seen.items():
        words = watch.names[pid].split() or ["?"]
        name = next((w for w in words[1:] if w.endswith(".py") or w in ("-m",)), "") or " ".join(words[:2])
        if name == "-m":
            name = " ".join(words[words.index("-m") : words.index("-m") + 3])
        kind = kinds.setdefault(name.rpartition("/")[2], [0.0, 0.0])
        kind[0] += before.get(pid, 0.0)
        kind[1] += cpu
    return {name: [round(a, 2), round(b, 2)] for name, (a, b) in sorted(kinds.items(), key=lambda item: -item[1][1])}


def _stamps(folder: Path) -> dict[int, tuple[float, ...]]:
    found = {}
    for file in folder.iterdir():
        if file.name == "own.json":
            own = json.loads(file.read_text())
            found[0] = (own["first"], own["last"], own["requests"], own["requests"], own["tokens"], 0, 0)
        elif file.suffix != ".busy" and len(data := file.read_bytes()) == 56 and struct.unpack("7d", data)[3]:
            found[int(file.name)] = struct.unpack("7d", data)
    return found


def _busy(folder: Path) -> list[float]:
    return sorted(struct.unpack("d", file.read_bytes())[0] for file in folder.glob("*.busy"))


def _reap() -> None:
    """End what the command left behind: everything below this process."""
    for pid in tree(os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
        except ChildProcessError:
            return
