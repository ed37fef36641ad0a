"""kill -9 of the driver at moments chosen by a seed; then one run to the end. The seed is printed when it fails."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
ROWS, KILLS = 3_000, 4
# What there is to see of a run, from its first file to its last: a kill comes when one of them is there.
MOMENTS = ["_batchgen/job.json", "_batchgen/plan/000000.parquet", "_batchgen/progress.json", "data"]


def seed() -> int:
    return int(os.environ.get("BATCHGEN_SEED", random.SystemRandom().randrange(2**32)))


def parts(out: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in (out / "data").glob("*.parquet")}


def test_a_run_killed_at_any_moment_ends_complete(tmp_path: Path) -> None:
    chosen = seed()
    dice = random.Random(chosen)
    rows = [json.dumps({"prompt": f"Row {i}, what of it?"}) for i in range(ROWS)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    out = tmp_path / "out"
    job = {
        "input": {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo", "options": {"latency": 0.1, "max_num_seqs": 32}},
        "spans": {"rows": 50},
        "replicas": {"max": 2},
        "output": {"path": str(out)},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "batchgen", "run", str(tmp_path / "job.yaml")]
    fired, seen = 0, dict[str, bytes]()
    for kill in range(KILLS):
        driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        moment = dice.choice(MOMENTS if kill == 0 else ["data"])
        more = dice.randint(1, 12)
        while driver.poll() is None and not (out / moment).exists():
            time.sleep(0.002)
        while driver.poll() is None and moment == "data" and len(parts(out)) < len(seen) + more:
            time.sleep(0.002)
        fired += driver.poll() is None
        driver.kill()
        driver.wait()
        now = parts(out)
        assert seen.items() <= now.items(), f"seed {chosen}: a visible part changed"
        seen = now
    assert fired, f"seed {chosen}: no kill hit a living driver"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {chosen}: {done.stderr}"
    assert seen.items() <= parts(out).items(), f"seed {chosen}: a visible part changed"
    proof = subprocess.run([sys.executable, "-m", "batchgen", "verify", str(out)], capture_output=True, text=True, check=False)
    assert proof.returncode == 0, f"seed {chosen}: {proof.stdout}"
    table = ds.dataset(out / "data").to_table(columns=["row", "prompt", "status"]).sort_by("row").to_pylist()
    assert [row["row"] for row in table] == list(range(ROWS)), f"seed {chosen}"
    assert all(row["prompt"] == f"Row {row['row']}, what of it?" and row["status"] == "ok" for row in table)
