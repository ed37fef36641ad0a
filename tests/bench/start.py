"""What a run spends before its first row enters the engine: seconds, and CPU seconds by kind of process.

    python tests/bench/start.py [--repeats 3]

64 rows on the tiny model, four ways in turn: batchgen with a Ray of its own; on a Ray that was running before, as under
`ray job submit`, as its first job and as one after another (CPU of Ray's processes from the run's start on); `LLM.generate`.
Medians. `ReplicaActor` is the replica, which holds vLLM's front end; `engine` are the processes that it spawns.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import Measured
from throughput import run
from workloads import TINY, make, write

SETTLE_SECONDS = 10
ALONE = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
KINDS = {
    "engine": ("spawn_main", "multiprocessing", "VLLM::"),
    "replica": ("ReplicaActor",),
    "driver": ("batchgen run", "contenders.py"),
    "feed": ("ReadSpans", "IDLE", "default_worker.py"),
    "Ray Data's actors": ("_StatsActor", "AutoscalingCoordinator"),
}
OTHER = "Ray's processes"


def kind_of(process: str) -> str:
    return next((kind for kind, marks in KINDS.items() if any(mark in process for mark in marks)), OTHER)


def start_ray(env: dict[str, str]) -> dict[str, str]:
    """A Ray of this machine alone, ended with the run; the address at which a driver finds it."""
    added = {**ALONE, "RAY_TMPDIR": f"{env['BENCH_STAMPS']}.ray"}  # or the machine's next driver looks for this one
    env = {**env, **added}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--node-ip-address=127.0.0.1", "--port=0"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    with tempfile.TemporaryFile("w+") as said:  # its daemons keep it open
        subprocess.run(command, check=True, env=env, stdout=said, stderr=said)
        said.seek(0)
        address = said.read().partition("--address='")[2].partition("'")[0]
    time.sleep(SETTLE_SECONDS)
    return {**added, "RAY_ADDRESS": address}


def start_used_ray(env: dict[str, str], folder: Path) -> dict[str, str]:
    """The same after a job: Ray Data's actors are there."""
    added = start_ray(env)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        job = {
            "input": {"path": str(folder / "rows.jsonl"), "prompt": "prompt"},
            "engine": {"kind": "echo"},
            "output": {"path": f"{out}/out"},
        }
        (path := Path(out) / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "batchgen", "run", str(path)]
        subprocess.run(command, check=True, env={**env, **added}, capture_output=True)
    time.sleep(SETTLE_SECONDS)
    return added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    workload = make("A", 64, 4)
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "batchgen": ("batchgen", {}),
        "batchgen, Ray runs already": ("batchgen", {"before": start_ray}),
        "batchgen, Ray has run a job": ("batchgen", {"before": lambda env: start_used_ray(env, folder)}),
        "LLM.generate": ("LLM.generate", {}),
    }
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        folder = Path(place)
        write(workload, folder)
        for _ in range(repeats):
            for way, (name, more) in ways.items():
                found[way].append(run(name, workload, TINY, folder, **more))
                print(way, round(found[way][-1].startup, 1), found[way][-1].processes, file=sys.stderr, flush=True)
    kinds = [*KINDS, OTHER]
    print("| | first row s | " + " | ".join(kinds) + " | CPU outside engine and replica |\n" + "|---" * (len(kinds) + 3) + "|")
    for way, runs in found.items():
        cells = [statistics.median(run.startup for run in runs)]
        cells += [
            statistics.median(sum(cpu[0] for what, cpu in run.processes.items() if kind_of(what) == kind) for run in runs)
            for kind in kinds
        ]
        cells.append(statistics.median(run.cpu_startup for run in runs))
        print(f"| {way} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
