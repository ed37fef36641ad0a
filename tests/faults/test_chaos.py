"""Real processes on a real cluster of two nodes, killed by dice while one job runs: drivers, replicas, engines, a node's raylet.

BATCHGEN_KILLS and BATCHGEN_KILLS_VLLM say how many, BATCHGEN_SEED which dice; `make chaos` takes hundreds.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from batchgen.output.store import open_store
from tests.faults.invariants import Reader, Work, check

pytestmark = [pytest.mark.cluster(own=True), pytest.mark.timeout(4 * 3600)]
ROOT = Path(__file__).parents[2]
MARK = "BATCHGEN_CHAOS"
PATIENCE = 300.0
"""Seconds until a job must have moved, a process must have ended. Nothing is timed by it."""
ROWS_A_KILL = {"echo": 80, "vllm": 8}
ROWS_LEFT = {"echo": 300, "vllm": 100}
"""More rows than may get done after enough of them are."""
ECHO: dict[str, Any] = {
    "engine": {"kind": "echo", "options": {"process": True, "max_num_seqs": 16, "seconds_per_token": 0.02}},
    "spans": {"rows": 8, "journal_seconds": 0.5},
    "replicas": {"max": 3},
    # Kills that hit the same engine again and again may find the same innocent row in it, alone.
    "errors": {"engine_crash": {"retry": 3}},
}
VLLM: dict[str, Any] = {
    "engine": {
        "kind": "vllm",
        "options": {"max_model_len": 512, "max_num_seqs": 8, "dtype": "bfloat16", "enforce_eager": True},
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
    },
    "model": {"source": "jobs/models/tiny-karakuri"},
    "sampling": {"max_tokens": 64, "ignore_eos": True},
    "spans": {"rows": 4, "journal_seconds": 0.5},
    "replicas": {"max": 1},
}


@dataclass
class Chaos:
    """A cluster, a job on it, its driver, and who looks on."""

    cluster: Cluster
    second: Any
    folder: Path
    job: dict[str, Any]
    dice: random.Random
    mark: str
    reader: Reader
    driver: subprocess.Popen[bytes] | None = None
    allowed: float = 0
    """Rows that may be done before the next kill; then the replicas are stopped."""
    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[int] = field(default_factory=Counter)

    def drive(self) -> subprocess.Popen[bytes]:
        """The running driver, or the one that ended well; a new one where there is neither."""
        if self.driver is not None and self.driver.poll():
            self.ends[self.driver.returncode] += 1
            self.driver = None
        if self.driver is None:
            (self.folder / "job.yaml").write_text(yaml.safe_dump(self.job))
            command = [sys.executable, "-m", "batchgen", "run", str(self.folder / "job.yaml")]
            environment = {**os.environ, "RAY_ADDRESS": self.cluster.address}
            with (self.folder / "driver.log").open("ab") as log:
                self.driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        return self.driver

    def until(self, what: Callable[[], bool]) -> None:
        """Look on until it is so; a driver that ends meanwhile is followed by another."""
        began = time.monotonic()
        while not what():
            assert time.monotonic() - began < PATIENCE, f"nothing moves:\n{self.log()}"
            self.drive()
            self.reader.poll()
            if self.enough:
                self.signal("replica", signal.SIGSTOP)
            time.sleep(0.05)

    def until_later(self, seconds: float) -> None:
        moment = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > moment)

    def until_parts(self, more: int) -> None:
        wanted = len(self.reader.seen) + more
        self.until(lambda: len(self.reader.seen) >= wanted or self.enough)

    @property
    def enough(self) -> bool:
        """Whether what may be done before the next kill is done."""
        return len(self.reader.seen) * int(self.job["spans"]["rows"]) >= self.allowed

    def signal(self, target: str, number: int) -> None:
        for pid in self.processes(target):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, target: str) -> None:
        """Kill one of the processes of this kind, as soon as there is one."""
        found: list[int] = []
        if target == "driver":
            found = [self.drive().pid]
        elif target == "node":
            self.cluster.remove_node(self.second, allow_graceful=False)
            self.second = self.cluster.add_node(num_cpus=2)
        else:
            while not (found := self.processes(target)):
                self.until(lambda: bool(self.processes(target)))
        if found:
            os.kill(self.dice.choice(found), signal.SIGKILL)
        self.kills[target] += 1

    def allow(self, rows: float) -> None:
        """Let the job go on for so many rows."""
        self.allowed += rows
        self.signal("replica", signal.SIGCONT)

    def processes(self, target: str) -> list[int]:
        """Of the replicas or engines of this cluster that are alive."""
        names = {"replica": b"ray::ReplicaActor", "engine": b"VLLM::EngineCor" if "model" in self.job else b"cat\0"}
        return [pid for pid, command in self.marked() if command.startswith(names[target])]

    def marked(self) -> Iterator[tuple[int, bytes]]:
        """Every other process that was started from this test, with its command line."""
        wanted = f"{MARK}={self.mark}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                try:
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        yield int(entry.name), (entry / "cmdline").read_bytes()
                except OSError:  # it has ended
                    continue

    def gone(self, what: Callable[[], list[Any]]) -> None:
        began = time.monotonic()
        while left := what():
            assert time.monotonic() - began < PATIENCE, f"orphans: {left}"
            time.sleep(0.1)

    def log(self) -> str:
        return (self.folder / "driver.log").read_text(errors="replace")[-4000:]


@pytest.fixture
def chaos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chaos]:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    made = Chaos(
        cluster, cluster.add_node(num_cpus=2), tmp_path, {}, random.Random(), mark, Reader(open_store(str(tmp_path / "out")))
    )
    try:
        yield made
    finally:
        if made.driver is not None:
            made.driver.kill()
            made.driver.wait()
        cluster.shutdown()
        ray.shutdown()


@pytest.mark.parametrize(
    ("kills", "job"),
    [
        pytest.param(int(os.environ.get("BATCHGEN_KILLS", "3")), ECHO, id="echo"),
        pytest.param(
            int(os.environ.get("BATCHGEN_KILLS_VLLM", "1")), VLLM, id="vllm", marks=[pytest.mark.engine, pytest.mark.long]
        ),
    ],
)
def test_killed_again_and_again_a_job_ends_with_every_row_once(chaos: Chaos, kills: int, job: dict[str, Any]) -> None:
    seed = int(os.environ.get("BATCHGEN_SEED", random.SystemRandom().randrange(2**32)))
    chaos.dice.seed(seed)
    real, kind = "model" in job, job["engine"]["kind"]
    rows = ROWS_LEFT[kind] + kills * ROWS_A_KILL[kind]
    lines = [json.dumps({"prompt": f"Row {number}, what of it?"}) for number in range(rows)]
    (chaos.folder / "in.jsonl").write_text("\n".join(lines))
    meter = chaos.folder / "meter"
    chaos.job = {
        **job,
        "input": {"path": str(chaos.folder / "in.jsonl"), "prompt": "prompt"},
        "output": {"path": str(chaos.folder / "out")},
    }
    if not real:
        chaos.job["engine"] = {"kind": "echo", "options": {**job["engine"]["options"], "meter": str(meter)}}
    try:
        plan_of_kills = targets(chaos.dice, kills)
        for target in plan_of_kills:
            chaos.allow(ROWS_A_KILL[kind])
            if chaos.dice.random() < 0.25:
                chaos.until_later(chaos.dice.uniform(0, 4))
            else:
                chaos.until_parts(chaos.dice.randint(1, 3))
            assert not (chaos.folder / "out/_SUCCESS").exists(), "the job was done before all kills"
            chaos.kill(target)
        chaos.allow(math.inf)
        chaos.until(lambda: chaos.drive().poll() == 0)
        assert chaos.ends.keys() <= {1, -signal.SIGKILL}
        work = None if real else Work(meter.stat().st_size, in_flight(chaos.kills))
        check(chaos.reader, {(row, 0): None for row in range(rows)}, chaos.kills.total(), work)
        chaos.gone(lambda: chaos.processes("replica") + chaos.processes("engine"))
        chaos.cluster.shutdown()
        chaos.gone(lambda: list(chaos.marked()))
    except BaseException as error:
        error.add_note(f"seed {seed}; {dict(chaos.kills)}; ends {dict(chaos.ends)}\n{chaos.log()}")
        raise
    print(f"seed {seed}: {dict(chaos.kills)}, ends {dict(chaos.ends)}, {rows} rows, {work}")


def in_flight(kills: Counter[str]) -> int:
    """Rows that may have been lost to the kills: of each replica concerned the unfinished ones, those that came with the last
    span that it took, and finished ones of spans that are being committed or waited for the journal."""
    job, replicas = ECHO, {"driver": 3, "node": 3, "replica": 1, "engine": 1}
    rows, capacity = int(job["spans"]["rows"]), int(job["engine"]["options"]["max_num_seqs"])
    return sum(replicas[target] * number for target, number in kills.items()) * (2 * capacity + rows + 5 * rows)


def targets(dice: random.Random, kills: int) -> list[str]:
    """Which kind of process each kill is for: all kinds as often as one another."""
    found = [("driver", "replica", "engine", "node")[number % 4] for number in range(kills)]
    dice.shuffle(found)
    return found
