"""Every operation on the output's files goes wrong in turn (crash_points.py). `make chaos` takes them all, the suite every
BATCHGEN_STEP-th from a random one on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STEP = int(os.environ.get("BATCHGEN_STEP", "61"))
TABLE = {
    "raises before: done",
    "raises before: run error",
    "raises after: done",
    "raises after: run error",
    "killed before: killed",
    "killed after: killed",
    "disk full: done",
    "disk full: run error",
}
"""All that may come of a fault. A failure at the very end, or of the journal, ends no run."""


@pytest.mark.timeout(3600)
def test_whatever_operation_fails_the_next_run_ends_well(tmp_path: Path) -> None:
    first = random.SystemRandom().randrange(STEP)
    command = [sys.executable, str(HERE / "crash_points.py"), str(tmp_path), str(first), str(STEP)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["broken"], f"{found['broken']}\n{done.stderr}"
    print(f"every {STEP}th from {first}: {found['outcomes']}")
    assert found["outcomes"].keys() <= TABLE
    assert {name.partition(":")[0] for name in found["outcomes"]} == {name.partition(":")[0] for name in TABLE}
    assert found["operations"].keys() == {"open", "write", "fsync", "link", "replace", "mkdir", "unlink", "scandir"}
    operations, trapped = Counter(found["operations"]), Counter(found["trapped"])
    assert trapped.total() == len(range(first, 5 * operations.total(), STEP))
    if STEP == 1:
        assert trapped == Counter({name: 5 * number for name, number in operations.items()})
        assert found["outcomes"].keys() == TABLE
