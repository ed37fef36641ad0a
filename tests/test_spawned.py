"""The main module of the processes that a replica's engine spawns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from batchgen.engines import spawned

SCRIPT = """
import gc, json, multiprocessing, sys
import ray
from batchgen.engines import spawned

if __name__ == "__main__":
    found = []
    for own in (False, True):
        if own:
            sys.modules["__main__"].__file__ = spawned.__file__
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append([pool.apply(eval, ("'ray' in __import__('sys').modules",)), pool.apply(gc.get_threshold)[0]])
    print(json.dumps(found))
"""


def test_a_spawned_process_imports_no_ray_and_collects_garbage_less_often(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(tmp_path / "worker.py")], capture_output=True, text=True, check=True)
    [(ray_before, young_before), after] = json.loads(done.stdout)
    assert ray_before
    assert young_before < spawned.YOUNG_OBJECTS
    assert after == [False, spawned.YOUNG_OBJECTS]
