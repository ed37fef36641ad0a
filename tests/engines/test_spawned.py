"""The main module of the processes that a replica's engine spawns, and what a replica's own process does at its start."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from batchgen.cluster import pool
from batchgen.engines import spawned
from tests.support.replicas import prepared

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


def test_a_replicas_process_spawns_that_module_and_is_warm_when_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "a worker of Ray's", raising=False)
    monkeypatch.setattr(os, "setpriority", lambda *_: None)
    monkeypatch.setattr(pool.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a node"))
    warmed: list[bool] = []
    monkeypatch.setattr(pool.tables, "warm_up", lambda: warmed.append(True))
    made = prepared(tmp_path, [{"prompt": "tea"}])
    before = gc.get_threshold()
    try:
        actor = pool._Actor((made.renderer, made.job.output.path, [made.found[0].name], set()))

        async def scenario() -> str:
            _, node = await actor.start_here()
            await actor.stop()
            return node

        assert asyncio.run(scenario()) == "a node"
        assert warmed
        assert sys.modules["__main__"].__file__ == spawned.__file__
        assert gc.get_threshold()[0] == spawned.YOUNG_OBJECTS
        assert gc.get_freeze_count() > 0
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
